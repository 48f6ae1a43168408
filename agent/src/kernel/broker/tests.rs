//! A real process whose filter takes long: what the others of its server do meanwhile, and what
//! becomes of the filter when the process has gone.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Lines, Write},
    sync::{Arc, Mutex, mpsc},
};

use super::{
    super::{
        Credentials, Guard, Launch, Pipes, Slot, Way, arm, instance::tests::guard,
        launch::tests::a_launcher, launch_by,
    },
    *,
};
use crate::filter::{Insn, Program, translate_own};

/// Opens capture sockets; attaches a filter from a child of its own, which it can kill; says how that
/// ended.
const SCRIPT: &str = r#"
import ctypes, errno, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
code = ctypes.create_string_buffer(bytes([6, 0, 0, 0, 1, 0, 0, 0]), 8)
header = ctypes.create_string_buffer((1).to_bytes(8, "little") + ctypes.addressof(code).to_bytes(8, "little"), 16)
sockets, children = [], []
def attach(number):
    if libc.setsockopt(sockets[number].fileno(), 1, 26, header, 16) == 0:
        return "ok"
    return errno.errorcode[ctypes.get_errno()]
def bind(number):
    sockets[number].bind(("lo", 0))
    return "bound"
def begin(number, what=attach):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, what(number).encode())
        os._exit(0)
    os.close(write)
    children.append((child, read))
    return "begun"
def end(number):
    child, read = children[number]
    said = os.read(read, 100).decode()
    os.waitpid(child, 0)
    return said
def kill(number):
    os.kill(children[number][0], signal.SIGKILL)
    os.waitpid(children[number][0], 0)
    return "killed"
def detach(number):
    if libc.setsockopt(sockets[number].fileno(), 1, 27, header, 4) == 0:
        return "ok"
    return errno.errorcode[ctypes.get_errno()]
def open_(_):
    sockets.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    return "opened"
def begin_bind(number):
    return begin(number, bind)
verbs = {"bind": bind, "begin_bind": begin_bind, "open": open_, "attach": attach, "begin": begin, "end": end, "kill": kill, "detach": detach}
for line in sys.stdin:
    verb, number = line.split()
    print(verbs[verb](int(number)), flush=True)
"#;

/// Gives each socket a session of its own, and lets the first one's filters wait until they are
/// released.
struct Slow {
    guard: Guard,
    sockets: Mutex<HashMap<u64, (u32, Arc<Slot>)>>,
    begun: Mutex<mpsc::Sender<()>>,
    released: Mutex<mpsc::Receiver<()>>,
    /// To which interface a capture socket is to be bound.
    bound: Mutex<mpsc::Sender<u32>>,
    /// Of which session a filter was put on.
    put: Mutex<mpsc::Sender<(u32, bool)>>,
}

impl Admit for Slow {
    fn admit(&self, _: &Caller, call: SocketCall) -> Result<ArmedSocket, Refusal> {
        let (socket, slot) = arm(&self.guard, call).unwrap();
        let mut sockets = self.sockets.lock().unwrap();
        let session = u32::try_from(sockets.len()).unwrap();
        sockets.insert(socket.inode(), (session, Arc::new(slot)));
        Ok(socket)
    }

    fn may_bind(&self, _: &Caller, index: u32) -> Result<(), Refusal> {
        assert!(index > 0, "it was read of the caller");
        self.bound.lock().unwrap().send(index).unwrap();
        Ok(())
    }

    fn armed_for(&self, inode: u64) -> Option<u32> {
        let sockets = self.sockets.lock().unwrap();
        sockets.get(&inode).map(|(session, _)| *session)
    }

    fn detach(&self, inode: u64) -> Result<(), Rejection> {
        let slot = Arc::clone(&self.sockets.lock().unwrap()[&inode].1);
        slot.clear().map_err(Rejection::Kernel)
    }

    fn attach(
        &self,
        _: &Caller,
        inode: u64,
        filter: Vec<Insn>,
        waits: &dyn Fn() -> bool,
    ) -> Result<(), Rejection> {
        let (session, slot) = self.sockets.lock().unwrap()[&inode].clone();
        if session == 0 {
            self.begun.lock().unwrap().send(()).unwrap();
            self.released.lock().unwrap().recv().unwrap();
        }
        let waits = waits();
        if waits {
            let code = translate_own(&Program::new(filter).unwrap()).unwrap();
            slot.put(&slot.load(Some(&code)).unwrap()).unwrap();
        }
        self.put.lock().unwrap().send((session, waits)).unwrap();
        Ok(())
    }

    fn ring(&self, _: u64, _: u64, set: &dyn Fn() -> Result<(), Errno>) -> Result<(), Rejection> {
        set().map_err(Rejection::Kernel)
    }

    fn add_membership(
        &self,
        _: u64,
        _: &PacketMembership,
        add: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection> {
        add().map_err(Rejection::Kernel)
    }

    fn armed(&self, _: Caller, _: SocketCall, _: u64) {}

    fn withdrawn(&self, _: u64) {}

    fn refused(&self, _: Option<Caller>, refusal: Refusal) {
        panic!("{refusal:?}");
    }
}

struct Process {
    to: File,
    from: Lines<BufReader<File>>,
}

impl Process {
    fn ask(&mut self, what: &str) -> String {
        writeln!(self.to, "{what}").unwrap();
        self.from.next().unwrap().unwrap()
    }
}

#[tokio::test]
async fn filter_that_takes_long_holds_up_nobody_else() {
    takes_long(&Way::Fork).await;
}

#[tokio::test]
async fn filter_that_takes_long_holds_up_nobody_else_of_a_launcher() {
    if let Some((_launcher, way)) = a_launcher() {
        takes_long(&way).await;
    }
}

async fn takes_long(way: &Way) {
    let Some(guard) = guard([1, 2], 0) else {
        return; // not root
    };
    let (begun, begins) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (put, puts) = mpsc::channel();
    let (bound, binds) = mpsc::channel();
    let slow = Slow {
        guard,
        sockets: Mutex::default(),
        begun: Mutex::new(begun),
        released: Mutex::new(released),
        bound: Mutex::new(bound),
        put: Mutex::new(put),
    };
    let plan = Launch {
        command: &["/usr/bin/python3", "-c", SCRIPT].map(Into::into),
        credentials: &Credentials::choose(None).unwrap(),
        cgroup: None,
        piped: true,
    };
    let (mut governed, _broker) =
        launch_by(way, &plan, |_, listener| Broker::start(listener, slow)).unwrap();
    let Pipes { input, output } = governed.take_pipes().unwrap();
    let mut process = Process {
        to: input.into(),
        from: BufReader::new(File::from(output)).lines(),
    };
    for _ in 0..2 {
        assert_eq!(process.ask("open 0"), "opened");
    }

    // The first socket's filter takes as long as we like.
    assert_eq!(process.ask("begin 0"), "begun");
    begins.recv().unwrap();
    assert_eq!(process.ask("open 0"), "opened");
    assert_eq!(process.ask("attach 1"), "ok");
    assert_eq!(puts.recv().unwrap(), (1, true));
    assert_eq!(process.ask("detach 1"), "ok");
    // What takes a look into the caller's memory is done aside, too: of another session at once, of the same one when
    // that has its turn. Meanwhile all others are answered.
    assert_eq!(process.ask("bind 1"), "bound");
    assert_eq!(binds.recv().unwrap(), 1, "the loopback interface");
    assert_eq!(process.ask("begin_bind 0"), "begun");
    assert_eq!(process.ask("open 0"), "opened");
    assert!(binds.try_recv().is_err());
    release.send(()).unwrap();
    assert_eq!(process.ask("end 0"), "ok");
    assert_eq!(puts.recv().unwrap(), (0, true));
    assert_eq!(process.ask("end 1"), "bound");
    assert_eq!(binds.recv().unwrap(), 1);
    assert_eq!(process.ask("detach 0"), "ok");

    // One of the same session waits for its turn; taking one off does not.
    assert_eq!(process.ask("begin 0"), "begun");
    begins.recv().unwrap();
    assert_eq!(process.ask("begin 0"), "begun");
    assert_eq!(process.ask("detach 0"), "ENOENT");
    assert!(puts.try_recv().is_err());
    release.send(()).unwrap();
    assert_eq!(process.ask("end 2"), "ok");
    assert_eq!(puts.recv().unwrap(), (0, true));
    assert_eq!(process.ask("detach 0"), "ok");

    // Its process dies while the second one is under way.
    begins.recv().unwrap();
    assert_eq!(process.ask("kill 3"), "killed");
    release.send(()).unwrap();
    assert_eq!(puts.recv().unwrap(), (0, false));
    assert_eq!(process.ask("detach 0"), "ENOENT");
    assert_eq!(process.ask("attach 2"), "ok");

    drop(process);
    assert!(governed.wait().await.unwrap().success());
}
