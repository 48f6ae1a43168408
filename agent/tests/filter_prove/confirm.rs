//! Counterexamples, run through both programs by the kernel.
//!
//! The kernel decides what it says about a packet, so a counterexample is confirmed wherever the
//! kernel can show the programs one that differs from it in nothing that matters to them: on a
//! socket pair, on loopback and veth devices (tags, directions, interfaces, marks), or under `BPF_PROG_TEST_RUN`, where only
//! the translated programs run. What cannot be shown is counted, with what it takes.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use capwarden::filter::{Example, Meta, Packet, Program, SocketForm, interpret, translate};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::common::{
    ETHERNET,
    harness::privileged,
    kernel::{self, Installed, LOOPBACK, Pair, TestRun, link_header},
};

/// How many were confirmed, and where.
#[derive(Debug, Default)]
pub struct Confirmed {
    pub on_pair: usize,
    pub on_devices: usize,
    /// By their translations only.
    pub by_test_run: usize,
    /// Not, because the kernel shows no such packet here: by what it would take.
    pub not_shown: BTreeMap<String, usize>,
    not_privileged: usize,
}

impl Confirmed {
    pub fn all(&self) -> usize {
        self.on_pair + self.on_devices + self.by_test_run + self.missing() + self.not_privileged
    }

    pub fn missing(&self) -> usize {
        self.not_shown.values().sum()
    }
}

impl fmt::Display for Confirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} counterexamples: {} confirmed on a socket pair, {} on devices, {} by test run",
            self.all(),
            self.on_pair,
            self.on_devices,
            self.by_test_run
        )?;
        if self.not_privileged > 0 {
            write!(
                f,
                ", {} not: no right to load programs",
                self.not_privileged
            )?;
        }
        if !self.not_shown.is_empty() {
            write!(f, ", not shown {:?}", self.not_shown)?;
        }
        f.write_str(" … ")
    }
}

/// Two programs that a packet tells apart.
#[derive(Clone, Copy)]
pub struct Programs<'a> {
    pub name: &'a str,
    pub requested: &'a Program,
    pub policy: &'a Program,
    pub form: SocketForm,
}

impl Programs<'_> {
    fn told_apart_by(&self, packet: &Packet<'_>) -> bool {
        interpret(self.requested, packet) != 0 && interpret(self.policy, packet) == 0
    }
}

impl Confirmed {
    /// Runs a counterexample in the kernel, and panics when it shows something else there.
    pub fn run(&mut self, programs: Programs<'_>, example: &Example) {
        static PLACE: LazyLock<Mutex<Place>> = LazyLock::new(|| Mutex::new(Place::new()));
        assert!(
            programs.told_apart_by(&example.packet()),
            "{}",
            programs.name
        );
        if !privileged() {
            self.not_privileged += 1;
            return;
        }
        let place = &mut *PLACE.lock().unwrap();
        let Programs { name, form, .. } = programs;
        let both = [(programs.requested, true), (programs.policy, false)];
        if programs.told_apart_by(&Packet::new(&example.bytes, Meta::default())) {
            for (program, accepts) in both {
                let installed = Installed::new(name, program, &place.pairs);
                let accepted = installed.agree_on_pair(&example.bytes, &place.pairs);
                assert_eq!(accepted, accepts, "{name}: {example:?}");
            }
            self.on_pair += 1;
            return;
        }
        let frame = frame(example, form);
        if frame.len() <= 65_000 && place.network.confirms(programs, &frame, &example.meta) {
            self.on_devices += 1;
            return;
        }
        let run = TestRun::new(
            &link_header(&example.meta),
            &example.bytes,
            example.meta.mark,
        );
        if example.bytes.len() <= 3000 && programs.told_apart_by(&run.packet()) {
            let verdicts = both.map(|(program, accepts)| {
                let installed = Installed::new(name, program, &place.pairs);
                let accepted = installed.agree_on_test_run(&run);
                accepted.inspect(|&accepted| assert_eq!(accepted, accepts, "{name}: {example:?}"))
            });
            if let [Some(true), Some(false)] = verdicts {
                self.by_test_run += 1;
                return;
            }
        }
        *self.not_shown.entry(needs(programs, example)).or_default() += 1;
    }
}

/// Where packets are shown to filters.
struct Place {
    pairs: (Pair, Pair),
    network: Network,
}

impl Place {
    fn new() -> Self {
        // A thread of its own, because that keeps the network namespace.
        let network = std::thread::spawn(|| {
            kernel::enter_empty_network().unwrap();
            Network::new()
        });
        Self {
            pairs: (Pair::new(), Pair::new()),
            network: network.join().unwrap(),
        }
    }
}

/// Packet sockets in a network of their own: a sender, one that sees everything, and one each for
/// the classic and the translated program, raw and cooked.
struct Network {
    namespace: File,
    devices: HashSet<u32>,
    sender: OwnedFd,
    reference: OwnedFd,
    raw: [OwnedFd; 2],
    cooked: [OwnedFd; 2],
}

/// More are not made; each takes a moment.
const MOST_DEVICES: usize = 40;

/// A packet as a packet socket's filter sees it.
struct Shown {
    headroom: Vec<u8>,
    bytes: Vec<u8>,
    meta: Meta,
}

impl Shown {
    /// What a raw socket has received, as a socket of this form sees it.
    fn new(mut frame: Vec<u8>, meta: Meta, mark: u32, raw: bool) -> Self {
        let bytes = frame.split_off(if raw { 0 } else { 14 });
        let (link, network) = if raw { (0, 14) } else { (-14, 0) };
        let meta = Meta {
            mark,
            link_header: Some(link),
            network_header: network,
            ..meta
        };
        Self {
            headroom: frame,
            bytes,
            meta,
        }
    }

    fn packet(&self) -> Packet<'_> {
        let mut packet = Packet::new(&self.bytes, self.meta);
        packet.headroom = &self.headroom;
        packet
    }
}

impl Network {
    fn new() -> Self {
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let socket = |kind| kernel::packet_socket(kind).unwrap();
        // The kernel shows a packet to the youngest socket first, so the reference is the last.
        Self {
            namespace,
            devices: HashSet::from([LOOPBACK]),
            sender: socket(libc::SOCK_RAW),
            reference: socket(libc::SOCK_RAW),
            raw: [(); 2].map(|()| socket(libc::SOCK_RAW)),
            cooked: [(); 2].map(|()| socket(libc::SOCK_DGRAM)),
        }
    }

    /// Makes sure that a device with this number is there, and another behind it.
    fn add_device(&mut self, index: u32) {
        if !self.devices.insert(index) {
            return;
        }
        let namespace = self.namespace.as_fd();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace, kind).unwrap();
                for line in [
                    format!("link add a{index} index {index} type veth peer name b{index}"),
                    format!("link set a{index} addrgenmode none up"),
                    format!("link set b{index} addrgenmode none up"),
                ] {
                    let done = Command::new("ip").args(line.split(' ')).output().unwrap();
                    let words = String::from_utf8_lossy(&done.stderr);
                    // Made as the other end of an earlier one, or by the kernel for tunnels, and then
                    // of no use here.
                    if ["exists", "busy"].iter().any(|why| words.contains(why)) {
                        return;
                    }
                    assert!(done.status.success(), "ip {line}: {words}");
                }
            });
        });
    }

    /// Sends a frame, and looks whether one of the two packets that it makes, going out and coming
    /// in, tells the programs apart. If so the kernel's filters must say the same of both.
    fn confirms(&mut self, programs: Programs<'_>, frame: &[u8], meta: &Meta) -> bool {
        let [requested, policy] = [programs.requested, programs.policy];
        if [requested, policy]
            .map(translate)
            .iter()
            .any(Result::is_err)
        {
            return false;
        }
        let raw = programs.form == ETHERNET;
        let mut devices = vec![LOOPBACK];
        if (2..1 << 31).contains(&meta.interface_index) && self.devices.len() < MOST_DEVICES {
            self.add_device(meta.interface_index);
        }
        if self.devices.contains(&meta.interface_index) {
            devices.push(meta.interface_index);
        }
        for device in devices {
            let seen: Vec<_> = self
                .send(frame, meta.mark, device)
                .into_iter()
                .map(|(bytes, shown)| Shown::new(bytes, shown, meta.mark, raw))
                .collect();
            if !seen.iter().any(|one| programs.told_apart_by(&one.packet())) {
                continue;
            }
            let filtered = if raw { &self.raw } else { &self.cooked };
            for program in [requested, policy] {
                kernel::attach_classic(&filtered[0], program.insns()).unwrap();
                kernel::attach_ebpf(&filtered[1], &kernel::load(&[program])).unwrap();
                self.send(frame, meta.mark, device);
                // A classic filter trims what it accepts.
                for (socket, translated) in filtered.iter().zip([false, true]) {
                    let accepted = seen.iter().filter_map(|one| {
                        let verdict = interpret(program, &one.packet());
                        let most = if translated {
                            kernel::ACCEPTED
                        } else {
                            verdict
                        };
                        let length = one.bytes.len().min(usize::try_from(most).unwrap());
                        (verdict != 0).then_some(&one.bytes[..length])
                    });
                    let accepted: Vec<_> = accepted.collect();
                    let received = drain(socket);
                    let received: Vec<_> = received.iter().map(|(bytes, _)| &bytes[..]).collect();
                    assert_eq!(received, accepted, "{}\n{program:?}", programs.name);
                    kernel::detach(socket).unwrap();
                }
            }
            return true;
        }
        false
    }

    /// Sends a frame; what the reference sees of it. Nothing, if the kernel does not send it: it has
    /// no whole link header, or is too long for the device.
    fn send(&self, frame: &[u8], mark: u32, device: u32) -> Vec<(Vec<u8>, Meta)> {
        for socket in self.raw.iter().chain(&self.cooked) {
            drain(socket);
        }
        drain(&self.reference);
        kernel::set_mark(&self.sender, mark).unwrap();
        let mut seen = Vec::new();
        if kernel::send_frame(&self.sender, frame, device).is_ok() {
            let start = Instant::now();
            while seen.len() < 2 && start.elapsed() < Duration::from_secs(5) {
                seen.extend(drain(&self.reference));
            }
            assert_eq!(seen.len(), 2, "it goes out and comes in");
        }
        seen
    }
}

fn drain(socket: &OwnedFd) -> Vec<(Vec<u8>, Meta)> {
    std::iter::from_fn(|| kernel::receive_packet(socket).unwrap()).collect()
}

/// The frame that has to be sent on a device: with a link header, the tag among the bytes.
fn frame(example: &Example, form: SocketForm) -> Vec<u8> {
    let mut frame = if form == ETHERNET {
        example.bytes.clone()
    } else {
        [&link_header(&example.meta), &example.bytes[..]].concat()
    };
    if let Some(tag) = example.meta.vlan
        && frame.len() >= 12
    {
        let tag = [tag.protocol.to_be_bytes(), tag.control.to_be_bytes()].concat();
        frame.splice(12..12, tag);
    }
    frame
}

/// Which metadata a counterexample does not do without.
fn needs(programs: Programs<'_>, example: &Example) -> String {
    let plain = Meta {
        interface_index: 1,
        hardware_type: 772,
        network_header: if programs.form == ETHERNET { 14 } else { 0 },
        ..Meta::default()
    };
    type Change = fn(&mut Meta, &Meta);
    let fields: [(&str, Change); 9] = [
        ("protocol", |to, from| to.protocol = from.protocol),
        ("packet type", |to, from| to.packet_type = from.packet_type),
        ("interface", |to, from| {
            to.interface_index = from.interface_index;
        }),
        ("hardware type", |to, from| {
            to.hardware_type = from.hardware_type;
        }),
        ("mark", |to, from| to.mark = from.mark),
        ("queue", |to, from| to.queue = from.queue),
        ("hash", |to, from| to.hash = from.hash),
        ("tag", |to, from| to.vlan = from.vlan),
        ("headers", |to, from| {
            (to.network_header, to.link_header) = (from.network_header, from.link_header);
        }),
    ];
    let without = |change: Change| {
        let mut packet = example.packet();
        change(&mut packet.meta, &plain);
        !programs.told_apart_by(&packet)
    };
    let mut needed: Vec<_> = fields
        .into_iter()
        .filter(|(_, change)| without(*change))
        .map(|(name, _)| name)
        .collect();
    if example.bytes.len() < 15 {
        needed.push("fewer bytes than are sent");
    }
    if needed.is_empty() {
        needed.push("several at once");
    }
    needed.join(", ")
}
