//! Fork tagging, seen from the agent: which session a process belongs to, and how many processes a
//! session for programs has.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    sync::OnceLock,
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, RingBuf},
};
use capwarden_abi::{ProgramControl, Tag, TaskOffsets};

pub use capwarden_abi::{ProgramCounts, ProgramEvent};

use super::{
    bpf::{self, ProgramKind},
    btf::Types,
    object::{self, Linked},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tree.o"));

/// Program and tracepoint.
const PROGRAMS: [(&str, &str); 2] = [
    ("tag_fork", "sched_process_fork"),
    ("forget_exit", "sched_process_exit"),
];

/// The tags of all governed processes of this agent. Tagging stops when this is dropped.
pub struct Tree {
    tags: HashMap<MapData, u32, TagValue>,
    windows: HashMap<MapData, u32, u32>,
    programs: HashMap<MapData, u32, ControlValue>,
    counts: HashMap<MapData, u32, CountsValue>,
    events: Option<ForkEvents>,
    _links: Vec<OwnedFd>,
}

/// What is told of sessions for programs; becomes readable when something has happened.
pub struct ForkEvents(RingBuf<MapData>);

impl ForkEvents {
    /// The next event that is waiting.
    pub fn next_event(&mut self) -> Option<ProgramEvent> {
        let item = self.0.next()?;
        let (session, process) = item.split_first_chunk()?;
        Some(ProgramEvent {
            session: u32::from_ne_bytes(*session),
            process: u32::from_ne_bytes(*process.first_chunk()?),
        })
    }
}

impl std::os::fd::AsRawFd for ForkEvents {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// Why processes cannot be tagged here.
#[derive(Debug, thiserror::Error)]
#[error("processes cannot be tagged when they fork: {0}")]
pub struct TreeError(String);

impl Tree {
    /// Loads and attaches the programs.
    pub fn load() -> Result<Self, TreeError> {
        Self::try_load().map_err(|error| TreeError(error.to_string()))
    }

    fn try_load() -> Result<Self, Box<dyn std::error::Error>> {
        let kernel = Kernel::get()?;
        // SAFETY: `#[repr(C)]` integers only, no padding: every byte is initialised.
        let offsets = unsafe { object::bytes(&kernel.offsets) };
        let mut linked = Linked::new(OBJECT, ("OFFSETS", offsets))?;
        let mut links = Vec::new();
        for ((name, place), target) in PROGRAMS.into_iter().zip(kernel.tracepoints) {
            let kind = ProgramKind::on_tracepoint(target);
            let program = bpf::load_named(kind, name, &linked.program(name)?, linked.licence())
                .map_err(|error| format!("the program on {place}: {error}"))?;
            let link = bpf::attach_to_function(program.as_fd());
            links.push(link.map_err(|errno| format!("the program on {place}: {errno}"))?);
        }
        let events = MapData::from_fd(linked.take("EVENTS")?)?;
        Ok(Self {
            tags: table(&mut linked, "TAGS")?,
            windows: table(&mut linked, "WINDOWS")?,
            programs: table(&mut linked, "PROGRAMS")?,
            counts: table(&mut linked, "PROGRAM_COUNTS")?,
            events: Some(ForkEvents(RingBuf::try_from(Map::RingBuf(events))?)),
            _links: links,
        })
    }

    /// Governs a process: everything that it forks from now on is tagged.
    pub fn govern(&mut self, process: u32, server: u32) -> io::Result<()> {
        let tag = Tag { server, session: 0 };
        self.tags
            .insert(process, TagValue(tag), 0)
            .map_err(io::Error::other)
    }

    /// What the server forks while a window is open belongs to the window's session.
    pub fn open_window(&mut self, server: u32, session: u32) -> io::Result<()> {
        self.windows
            .insert(server, session, 0)
            .map_err(io::Error::other)
    }

    /// What the server forks from now on belongs to no session.
    pub fn close_window(&mut self, server: u32) {
        let _ = self.windows.remove(&server); // not there: closed already
    }

    /// The same, if the open window is this session's.
    pub fn close_window_of(&mut self, server: u32, session: u32) {
        if self
            .windows
            .get(&server, 0)
            .is_ok_and(|open| open == session)
        {
            self.close_window(server);
        }
    }

    /// A session for programs begins, in the cgroup with this id: from now on the processes that are
    /// tagged for it are counted, and are at most so many.
    pub fn begin_programs(
        &mut self,
        session: u32,
        cgroup: u64,
        processes: Option<u64>,
    ) -> io::Result<()> {
        let control = ProgramControl {
            cgroup,
            processes: processes.unwrap_or(0),
            ended: 0,
        };
        let counts = CountsValue(ProgramCounts::default());
        let set = self.counts.insert(session, counts, 0);
        set.and_then(|()| self.programs.insert(session, ControlValue(control), 0))
            .map_err(io::Error::other)
    }

    /// It has ended: whoever of it forks is killed.
    pub fn end_programs(&mut self, session: u32) {
        if let Ok(ControlValue(control)) = self.programs.get(&session, 0) {
            let ended = ControlValue(ProgramControl {
                ended: 1,
                ..control
            });
            if let Err(error) = self.programs.insert(session, ended, 0) {
                tracing::error!(%error, "processes that fork on could not be stopped");
            }
        }
    }

    /// What was counted of it.
    pub fn program_counts(&self, session: u32) -> ProgramCounts {
        let counts = self.counts.get(&session, 0);
        counts.map_or_else(|_| ProgramCounts::default(), |value| value.0)
    }

    /// It is over, and no process of it is left.
    pub fn forget_programs(&mut self, session: u32) {
        let _ = self.programs.remove(&session); // not there: forgotten already
        let _ = self.counts.remove(&session);
    }

    /// What is told of sessions for programs; can be taken once.
    pub fn take_events(&mut self) -> Option<ForkEvents> {
        self.events.take()
    }

    /// The tag of a process; none if it is not governed.
    pub fn tag(&self, process: u32) -> Option<Tag> {
        self.tags.get(&process, 0).ok().map(|value| value.0)
    }
}

fn table<V: Pod>(
    linked: &mut Linked,
    name: &str,
) -> Result<HashMap<MapData, u32, V>, Box<dyn std::error::Error>> {
    let map = MapData::from_fd(linked.take(name)?)?;
    Ok(HashMap::try_from(Map::HashMap(map))?)
}

/// What the programs have to know of the running kernel.
struct Kernel {
    offsets: TaskOffsets,
    /// Of [`PROGRAMS`], by number.
    tracepoints: [u32; PROGRAMS.len()],
}

impl Kernel {
    /// It stays as it is: every server of this process needs the same.
    fn get() -> Result<&'static Self, Box<dyn std::error::Error>> {
        static KNOWN: OnceLock<Kernel> = OnceLock::new();
        match KNOWN.get() {
            Some(known) => Ok(known),
            None => {
                let read = Self::read()?;
                Ok(KNOWN.get_or_init(|| read))
            }
        }
    }

    fn read() -> Result<Self, Box<dyn std::error::Error>> {
        let types = Types::of_this_kernel()?;
        let mut tracepoints = [0; PROGRAMS.len()];
        for (number, (_, place)) in tracepoints.iter_mut().zip(PROGRAMS) {
            let found = types.function(&format!("btf_trace_{place}"));
            *number = found.ok_or_else(|| format!("the kernel has no tracepoint {place}"))?;
        }
        Ok(Self {
            offsets: offsets(&types)?,
            tracepoints,
        })
    }
}

fn offsets(types: &Types) -> Result<TaskOffsets, Box<dyn std::error::Error>> {
    let inode = fs::metadata("/proc/self/ns/pid")?.ino();
    Ok(TaskOffsets {
        pid: types.offset("task_struct", &["pid"])?,
        tgid: types.offset("task_struct", &["tgid"])?,
        group_leader: types.offset("task_struct", &["group_leader"])?,
        thread_pid: types.offset("task_struct", &["thread_pid"])?,
        signal: types.offset("task_struct", &["signal"])?,
        signal_live: types.offset("signal_struct", &["live"])?,
        pid_level: types.offset("pid", &["level"])?,
        pid_numbers: types.offset("pid", &["numbers"])?,
        upid_size: types.size("upid")?,
        upid_nr: types.offset("upid", &["nr"])?,
        upid_ns: types.offset("upid", &["ns"])?,
        namespace_inode: types.offset("pid_namespace", &["ns", "inum"])?,
        agent_namespace: u32::try_from(inode)?,
    })
}

#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct TagValue(Tag);
// SAFETY: `#[repr(C)]` integers only, no padding.
unsafe impl Pod for TagValue {}

#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct ControlValue(ProgramControl);
// SAFETY: as above.
unsafe impl Pod for ControlValue {}

#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct CountsValue(ProgramCounts);
// SAFETY: as above.
unsafe impl Pod for CountsValue {}
