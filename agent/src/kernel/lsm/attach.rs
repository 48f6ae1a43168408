//! The programs and maps of the backstop, loaded and attached.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
};

use rustix::io::Errno;

use super::offsets;
use crate::kernel::{
    bpf::{self, LoadError, ProgramKind},
    btf::{BtfError, Types},
    object::{Linked, ObjectError},
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lsm.o"));
const ACTIVE: &str = "/sys/kernel/security/lsm";

/// For programs on security hooks: `BPF_PROG_TYPE_LSM`, `BPF_LSM_MAC`.
pub(in crate::kernel) const HOOK: ProgramKind = ProgramKind {
    program: 29,
    attach: 27,
    target: 0,
};

/// Program and hook. What makes processes governed comes first.
const PROGRAMS: [(&str, &str); 10] = [
    ("inherit", "task_alloc"),
    ("create", "socket_create"),
    ("bind", "socket_bind"),
    ("send", "socket_sendmsg"),
    ("set_option", "socket_setsockopt"),
    ("receive", "file_receive"),
    ("new_user_namespace", "userns_create"),
    ("bpf", "bpf"),
    ("trace", "ptrace_access_check"),
    ("connect", "unix_stream_connect"),
];

/// Why there is no backstop here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackstopError {
    /// `bpf` is not among the security modules: the programs would be attached and never run.
    #[error("the kernel's active security modules are {0}, without bpf")]
    Inactive(String),
    /// The kernel's type information is missing, or not what is needed.
    #[error("{0}")]
    Types(String),
    /// The embedded object is not what this build of the agent expects.
    #[error("{0}")]
    Object(String),
    /// The kernel does not make a map, or does not let it be used.
    #[error("the kernel refused a map: {0}")]
    Map(String),
    /// The kernel does not load a program.
    #[error("the kernel refused the program on {0}: {1}")]
    Program(&'static str, String),
    /// The kernel does not attach a program.
    #[error("the program on {0} cannot be attached: {1}")]
    Attach(&'static str, Errno),
    /// It does all that, and then does not ask the programs.
    #[error("its programs are attached, but not run: {0} was not refused")]
    Silent(&'static str),
    /// Whether it does could not be found out.
    #[error("whether its programs are run cannot be tried: {0}")]
    Untried(String),
}

impl From<BtfError> for BackstopError {
    fn from(error: BtfError) -> Self {
        Self::Types(error.to_string())
    }
}

impl From<ObjectError> for BackstopError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Damaged(_) => Self::Object(error.to_string()),
            ObjectError::Map(..) => Self::Map(error.to_string()),
        }
    }
}

/// What is attached, for as long as the links are kept.
pub(super) struct Attached {
    pub(super) linked: Linked,
    pub(super) links: Vec<OwnedFd>,
    /// Hooks that the kernel does not have.
    pub(super) absent: Vec<&'static str>,
}

/// Reads whether the kernel would run programs on its hooks. If that cannot be read, trying it says more.
pub(in crate::kernel) fn is_active() -> Result<(), BackstopError> {
    let Ok(active) = fs::read_to_string(ACTIVE) else {
        return Ok(());
    };
    match active.trim().split(',').any(|module| module == "bpf") {
        true => Ok(()),
        false => Err(BackstopError::Inactive(active.trim().to_owned())),
    }
}

impl Attached {
    pub(super) fn new() -> Result<Self, BackstopError> {
        let kernel = Types::of_this_kernel()?;
        let offsets =
            offsets::find(&kernel).map_err(|error| BackstopError::Types(error.to_string()))?;
        let linked = Linked::new(OBJECT, ("OFFSETS", offsets::bytes(&offsets)))?;
        let (mut links, mut absent) = (Vec::new(), Vec::new());
        for (name, hook) in PROGRAMS {
            let Some(target) = kernel.function(&format!("bpf_lsm_{hook}")) else {
                absent.push(hook);
                continue;
            };
            let code = linked.program(name)?;
            let kind = ProgramKind { target, ..HOOK };
            let program = bpf::load_kind_or_explain(kind, &code, linked.licence())
                .map_err(|error: LoadError| BackstopError::Program(hook, error.to_string()))?;
            let link = bpf::attach_to_function(program.as_fd());
            links.push(link.map_err(|errno| BackstopError::Attach(hook, errno))?);
        }
        Ok(Self {
            linked,
            links,
            absent,
        })
    }
}
