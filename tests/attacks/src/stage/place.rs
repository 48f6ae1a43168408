//! The stage's files, in a mount namespace of its own.

use std::{
    ffi::CStr,
    fs::{self, Permissions},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{
    actors::{PLACE, PROGRAM},
    cgroups::OwnGroup,
    daemons,
};
use crate::{
    sys::{Answer, memory::Memory, native, process},
    world::KEY,
};

/// Prepared once.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) capwarden: PathBuf,
    pub(crate) helpers: PathBuf,
    /// An eBPF map's id, and where it is pinned.
    pub(crate) map: u32,
    pub(crate) pinned: PathBuf,
    _map: OwnedFd,
    _group: Option<OwnGroup>,
}

impl Place {
    /// Must be called while the program has one thread: what it does to itself, the later ones
    /// inherit.
    pub(crate) fn prepare(capwarden: &Path) -> Result<Self> {
        // SAFETY: takes nothing.
        let user = unsafe { libc::geteuid() };
        ensure!(user == 0, "the attacks need root");
        let capwarden = fs::canonicalize(capwarden)
            .with_context(|| format!("no capwarden at {}", capwarden.display()))?;
        let mut memory = Memory::new();
        done(
            "unshare",
            native(libc::SYS_unshare, [0x2_0000, 0, 0, 0, 0, 0]),
        )?;
        // MS_REC | MS_PRIVATE: what is mounted here stays here.
        mount(&mut memory, c"none", c"/", c"none", 0x4_4000)?;
        fs::create_dir_all("/run")?;
        mount(&mut memory, c"attacks", c"/run", c"tmpfs", 0)?;
        fs::set_permissions("/run", Permissions::from_mode(0o755))?;
        let place = Path::new(PLACE);
        let helpers = place.join("helpers");
        let places = ["bpf", "tracing", "mounted"].map(|name| place.join(name));
        for directory in [place, &helpers]
            .into_iter()
            .chain(places.iter().map(PathBuf::as_path))
        {
            fs::create_dir(directory)?;
            fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        }
        fs::copy(std::env::current_exe()?, PROGRAM)?;
        let (setuid, powerful) = (helpers.join("setuid"), helpers.join("powerful"));
        fs::copy(PROGRAM, &setuid)?;
        fs::set_permissions(&setuid, Permissions::from_mode(0o4755))?;
        fs::copy(PROGRAM, &powerful)?;
        give_powers(&mut memory, &powerful)?;
        leave_a_key(&mut memory);
        let (map, id) = make_map(&mut memory)?;
        let pinned = place.join("bpf/map");
        mount(&mut memory, c"bpf", c"/run/attacks/bpf", c"bpf", 0)?;
        pin(&mut memory, &map, &pinned)?;
        // Where the kernel has none, there is nothing to look into.
        let _ = mount(
            &mut memory,
            c"tracing",
            c"/run/attacks/tracing",
            c"tracefs",
            0,
        );
        daemons::play()?;
        Ok(Self {
            capwarden,
            helpers,
            map: id,
            pinned,
            _map: map,
            _group: OwnGroup::enter(),
        })
    }
}

fn done(what: &str, answer: Answer) -> Result<u64> {
    answer.map_err(|errno| anyhow!("{what}: {}", io::Error::from_raw_os_error(errno)))
}

fn mount(memory: &mut Memory, what: &CStr, place: &CStr, kind: &CStr, flags: u64) -> Result<u64> {
    let (what, at, kind) = (memory.text(what), memory.text(place), memory.text(kind));
    let mounted = native(libc::SYS_mount, [what, at, kind, flags, 0, 0]);
    done(&format!("mount {}", place.to_string_lossy()), mounted)
}

/// `cap_net_raw=ep` on a file.
fn give_powers(memory: &mut Memory, file: &Path) -> Result<()> {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;
    let words = [REVISION_2_EFFECTIVE, 1 << 13, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let path = path_of(memory, file);
    let (name, value) = (memory.text(c"security.capability"), memory.put(&value));
    done(
        "setxattr",
        native(libc::SYS_setxattr, [path, name, value, 20, 0, 0]),
    )?;
    Ok(())
}

fn path_of(memory: &mut Memory, path: &Path) -> u64 {
    memory.put(&[path.as_os_str().as_bytes(), &[0]].concat())
}

/// In a session keyring of the program's own. A kernel without keyrings has nothing to steal from.
fn leave_a_key(memory: &mut Memory) {
    const JOIN: u64 = 1;
    const SESSION: u64 = (-3_i64).cast_unsigned();
    let _ = native(libc::SYS_keyctl, [JOIN, 0, 0, 0, 0, 0]);
    let (kind, name) = (memory.text(c"user"), memory.text(c"capwarden-attacks"));
    let (key, length) = (memory.put(KEY), KEY.len() as u64);
    let _ = native(libc::SYS_add_key, [kind, name, key, length, SESSION, 0]);
}

/// A map, and its id.
fn make_map(memory: &mut Memory) -> Result<(OwnedFd, u32)> {
    const ARRAY: u32 = 2;
    let attributes = [ARRAY, 4, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes: Vec<u8> = attributes
        .iter()
        .flat_map(|word: &u32| word.to_ne_bytes())
        .collect();
    let at = memory.put(&attributes);
    let fd = done("a map", native(libc::SYS_bpf, [0, at, 48, 0, 0, 0]))?;
    let fd = process::own(i32::try_from(fd)?);
    let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let id = about.lines().find_map(|line| line.strip_prefix("map_id:"));
    Ok((fd, id.context("a map without an id")?.trim().parse()?))
}

fn pin(memory: &mut Memory, map: &OwnedFd, path: &Path) -> Result<()> {
    const OBJ_PIN: u64 = 6;
    let path = path_of(memory, path);
    let fd = u64::from(std::os::fd::AsRawFd::as_raw_fd(map).cast_unsigned());
    let attributes = memory.put(&[path.to_ne_bytes(), fd.to_ne_bytes()].concat());
    done(
        "pin",
        native(libc::SYS_bpf, [OBJ_PIN, attributes, 16, 0, 0, 0]),
    )?;
    Ok(())
}
