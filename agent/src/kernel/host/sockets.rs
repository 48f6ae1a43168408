//! The packet sockets that there are, and who has them: by `/proc`, so for people, never for decisions.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::MetadataExt,
};

use crate::kernel::packet_sockets::{inode_of, table};

/// A process that has packet sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capturer {
    /// The process.
    pub process: u32,
    /// Its user.
    pub user: u32,
    /// The name that it gives itself.
    pub name: String,
    /// The indexes of the interfaces that its sockets are bound to; 0 for all.
    pub interfaces: Vec<u32>,
    /// These are of another network namespace than the agent's.
    pub elsewhere: bool,
    /// A capwarden governs it, as its cgroup is called.
    pub governed: bool,
}

/// Everybody on this host who has packet sockets, in whatever network namespace; of one process only, if it is named.
pub fn capturers(only: Option<u32>) -> Vec<Capturer> {
    let own = fs::metadata("/proc/self/ns/net")
        .map(|meta| meta.ino())
        .ok();
    let mut namespaces = HashMap::new();
    let processes = match only {
        Some(process) => vec![process],
        None => processes(),
    };
    let mut all = Vec::new();
    for process in processes {
        let Ok(namespace) = fs::metadata(format!("/proc/{process}/ns/net")) else {
            continue; // it has gone
        };
        let sockets = namespaces
            .entry(namespace.ino())
            .or_insert_with(|| table(&process.to_string()).unwrap_or_default());
        if sockets.is_empty() {
            continue;
        }
        let interfaces = held(process, sockets);
        if let Some(interfaces) = interfaces {
            let elsewhere = Some(namespace.ino()) != own;
            all.extend(describe(process, interfaces, elsewhere));
        }
    }
    all
}

/// The file that a process executes, as people know it.
pub fn program_file(process: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{process}/exe")).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// Whether a capwarden governs a process, as its cgroup is called: that may be anybody's choice. False if it has gone.
pub fn is_governed(process: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    groups.contains("/capwarden-")
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.collect()
}

/// The interfaces of those sockets that a process has; none if it has none.
fn held(process: u32, sockets: &HashMap<u64, u32>) -> Option<BTreeSet<u32>> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    let mut interfaces = BTreeSet::new();
    for descriptor in descriptors.flatten() {
        let inode = inode_of(&descriptor.path());
        interfaces.extend(inode.and_then(|inode| sockets.get(&inode)));
    }
    (!interfaces.is_empty()).then_some(interfaces)
}

fn describe(process: u32, interfaces: BTreeSet<u32>, elsewhere: bool) -> Option<Capturer> {
    let of = |file: &str| format!("/proc/{process}/{file}");
    let name = fs::read(of("comm")).ok()?;
    Some(Capturer {
        process,
        user: fs::metadata(of("status")).ok()?.uid(),
        name: String::from_utf8_lossy(&name).trim_end().to_owned(),
        interfaces: interfaces.into_iter().collect(),
        elsewhere,
        governed: is_governed(process),
    })
}
