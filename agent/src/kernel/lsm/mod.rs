//! The backstop: what governed processes are refused a second time, by programs on Linux security hooks.
//!
//! Whatever these refuse, other layers refuse as well (seccomp, the lost capabilities, Landlock, the program on the way
//! out, private mounts); but for two things, which only they can: capture sockets taken from processes outside, and
//! daemons that listen where no mount hides them. `ebpf/src/lsm/main.rs` has the hooks.
//!
//! A kernel loads and attaches such programs also where it never runs them: where `bpf` is not among its security
//! modules. So [`Backstop::shared`] reads which are active, and then has a throw-away process, which it governs,
//! try what must be refused. Where that fails, capwarden runs without, and says so.
//!
//! | what | Linux | |
//! |---|---|---|
//! | programs on security hooks | 5.7 | <https://github.com/torvalds/linux/commit/fc611f47f2188ade2b48ff6902d5cce8baac0c58> |
//! | storage of tasks | 5.11 | <https://github.com/torvalds/linux/commit/4cf1bc1f10452065a29d576fc5693fc4fab5b919> |
//! | `bpf_sock_from_file` | 5.11 | <https://github.com/torvalds/linux/commit/4f19cab76136e800a3f04d8c9aa4d8e770e3d3d8> |
//! | `userns_create` | 6.1 | <https://github.com/torvalds/linux/commit/7cd4c5c2101cb092db00f61f69d24380cf7a0ee8> |
//!
//! One agent loads them once, for all of its servers. They go when it does, and then what was governed has the
//! other layers. A hook of the kernel has room for 38 programs, so for as many agents.

pub(super) mod attach;
mod denial;
mod offsets;
pub(super) mod proof;

use std::{
    collections::HashMap as Wards,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use aya::maps::{HashMap, LpmTrie, Map, MapData, RingBuf, lpm_trie::Key};
use capwarden_abi::lsm::{PATH, Ward};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    Caller, Cgroup, Refusal, bpf,
    deputy::{Deputy, services},
    socket::ArmedSocket,
};
use attach::Attached;

pub use attach::BackstopError;

/// The programs, attached, and proven to run.
pub struct Backstop {
    tasks: OwnedFd,
    armed: OwnedFd,
    maps: Mutex<Maps>,
    wards: Arc<Mutex<Wards<u32, Tell>>>,
    absent: Vec<&'static str>,
    reader: Option<Reader>,
    _links: Vec<OwnedFd>,
}

struct Maps {
    cgroups: HashMap<MapData, u64, WardValue>,
    deputies: LpmTrie<MapData, [u8; PATH], u32>,
}

type Tell = Arc<dyn Fn(Caller, Refusal) + Send + Sync>;

/// A governed tree. Its cgroup is not governed any more once this is dropped; its processes are.
pub struct Membership {
    backstop: Arc<Backstop>,
    number: u32,
    cgroup: Option<u64>,
}

/// The thread that hears of refusals.
struct Reader {
    stop: Option<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct WardValue(Ward);
// SAFETY: `#[repr(C)]` integers only, no padding.
unsafe impl aya::Pod for WardValue {}

/// The one of this process, and why there is none: a host does not change its mind.
static SHARED: Mutex<(Weak<Backstop>, Option<BackstopError>)> = Mutex::new((Weak::new(), None));

impl Backstop {
    /// The programs of this agent: loaded if they are not, and kept for as long as somebody holds what this returns.
    ///
    /// # Errors
    /// If the kernel refuses them, or does not run them.
    pub fn shared() -> Result<Arc<Self>, BackstopError> {
        let mut shared = lock(&SHARED);
        if let Some(backstop) = shared.0.upgrade() {
            return Ok(backstop);
        }
        if let Some(error) = &shared.1 {
            return Err(error.clone());
        }
        match Self::load() {
            Ok(backstop) => {
                let backstop = Arc::new(backstop);
                shared.0 = Arc::downgrade(&backstop);
                Ok(backstop)
            }
            Err(error) => {
                shared.1 = Some(error.clone());
                Err(error)
            }
        }
    }

    fn load() -> Result<Self, BackstopError> {
        attach::is_active()?;
        Self::attach()
    }

    fn attach() -> Result<Self, BackstopError> {
        let Attached {
            mut linked,
            links,
            absent,
        } = Attached::new()?;
        let mut take = |name| linked.take(name).map_err(BackstopError::from);
        let failed = |error: aya::maps::MapError| BackstopError::Map(error.to_string());
        let (tasks, armed) = (take("TASKS")?, take("ARMED")?);
        let map = |fd| MapData::from_fd(fd).map_err(failed);
        let cgroups = HashMap::try_from(Map::HashMap(map(take("CGROUPS")?)?)).map_err(failed)?;
        let deputies = LpmTrie::try_from(Map::LpmTrie(map(take("DEPUTIES")?)?)).map_err(failed)?;
        let events = RingBuf::try_from(Map::RingBuf(map(take("EVENTS")?)?)).map_err(failed)?;
        let namespaces = !absent.contains(&"userns_create");
        proof::refuses(tasks.as_fd(), proof::What::Governed { namespaces })?;
        let mut maps = Maps { cgroups, deputies };
        maps.add_deputies(services::of_host()).map_err(failed)?;
        let wards = Arc::default();
        let reader =
            Reader::start(events, &wards).map_err(|error| BackstopError::Map(error.to_string()))?;
        Ok(Self {
            tasks,
            armed,
            maps: Mutex::new(maps),
            wards,
            absent,
            reader: Some(reader),
            _links: links,
        })
    }

    /// Hooks that this kernel does not have.
    pub fn absent(&self) -> &[&'static str] {
        &self.absent
    }

    /// Governs a process, and everything that it forks from now on; and whoever is in the cgroup. `tell` is told of what
    /// they are refused, on a thread where it must not wait.
    ///
    /// # Errors
    /// If the process has gone, or there is no memory. Then it must not execute anything.
    pub fn govern(
        self: &Arc<Self>,
        process: u32,
        cgroup: Option<&Cgroup>,
        reached: &[Deputy],
        tell: impl Fn(Caller, Refusal) + Send + Sync + 'static,
    ) -> io::Result<Membership> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = Pid::from_raw(process.cast_signed()).ok_or(Errno::SRCH)?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let user = fs::metadata(format!("/proc/{process}"))?.uid();
        let cgroup = cgroup
            .map(|cgroup| fs::metadata(cgroup.path()).map(|meta| meta.ino()))
            .transpose()?;
        lock(&self.wards).insert(number, Arc::new(tell));
        // From here on, whatever fails takes back what was done.
        let governed = Membership {
            backstop: Arc::clone(self),
            number,
            cgroup,
        };
        let ward = Ward {
            number,
            reach: services::bits(reached),
        };
        let mut maps = lock(&self.maps);
        maps.add_deputies(services::of_user(user))
            .map_err(io::Error::other)?;
        if let Some(cgroup) = cgroup {
            maps.cgroups
                .insert(cgroup, WardValue(ward), 0)
                .map_err(io::Error::other)?;
        }
        drop(maps);
        bpf::store(self.tasks.as_fd(), handle.as_fd(), &value(ward))?;
        Ok(governed)
    }

    /// Lets governed processes have an armed socket: before it is handed over.
    pub fn admit(&self, socket: &ArmedSocket) -> Result<(), Errno> {
        bpf::store(self.armed.as_fd(), socket.as_fd(), &[1])
    }
}

impl Maps {
    fn add_deputies(
        &mut self,
        services: impl Iterator<Item = (Vec<u8>, u32)>,
    ) -> Result<(), aya::maps::MapError> {
        for (beginning, number) in services {
            let mut path = [0; PATH];
            let length = beginning.len().min(PATH);
            for (to, from) in path.iter_mut().zip(&beginning) {
                *to = *from;
            }
            let bits = u32::try_from(length * 8).unwrap_or(0);
            self.deputies.insert(&Key::new(bits, path), number, 0)?;
        }
        Ok(())
    }
}

/// A [`Ward`], as the tasks' storage has it.
fn value(ward: Ward) -> [u64; 1] {
    let [a, b, c, d] = ward.number.to_ne_bytes();
    let [e, f, g, h] = ward.reach.to_ne_bytes();
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h])]
}

impl Drop for Membership {
    fn drop(&mut self) {
        lock(&self.backstop.wards).remove(&self.number);
        if let Some(cgroup) = self.cgroup {
            let _ = lock(&self.backstop.maps).cgroups.remove(&cgroup); // not there: it never was
        }
    }
}

impl Drop for Backstop {
    fn drop(&mut self) {
        drop(self.reader.take());
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Reader {
    fn start(
        mut events: RingBuf<MapData>,
        wards: &Arc<Mutex<Wards<u32, Tell>>>,
    ) -> io::Result<Self> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let wards = Arc::clone(wards);
        let thread = thread::Builder::new()
            .name("backstop".into())
            .spawn(move || {
                while wait(&events, &stopped) {
                    while let Some(item) = events.next() {
                        let Some(denial) = denial::read(&item) else {
                            continue;
                        };
                        drop(item);
                        let tell = lock(&wards).get(&denial.ward).map(Arc::clone);
                        if let Some(tell) = tell {
                            let (caller, refusal) = denial::describe(&denial);
                            tell(caller, refusal);
                        }
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.stop.take()); // the loop sees the pipe hang up
        // Whoever is told may have been the last to hold it: then this is that thread.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// True when something was refused, false when nobody wants to know any more.
fn wait(events: &RingBuf<MapData>, stopped: &OwnedFd) -> bool {
    loop {
        let mut fds = [
            PollFd::new(events, PollFlags::IN),
            PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "what the backstop refuses can no longer be heard of");
                return false;
            }
            Ok(_) => {
                let [told, stop] = fds.map(|fd| fd.revents());
                if !stop.is_empty() {
                    return false;
                }
                if !told.is_empty() {
                    return true;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
