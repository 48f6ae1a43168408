//! The prover: known pairs in both directions and random ones, against Z3, a search for packets and
//! the kernel; the conjunction of two programs against their composition; budgets; words.
//!
//! ```text
//!   two_opinions  known and random pairs: whatever the prover says is compared
//!   pairs         the known ones
//!   oracle        Z3, through z3_oracle.py and well_formed.py
//!   confirm       counterexamples where the kernel runs filters
//! ```
//!
//! Started with the agent's hidden verb, this binary is the filter compiler's child.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test"
)]

#[path = "../common/mod.rs"]
mod common;
mod confirm;
mod lint;
mod oracle;
mod pairs;
mod two_opinions;

use std::{
    collections::HashMap,
    env,
    process::ExitCode,
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use capwarden::filter::{
    Budget, CompileError, Containment, Emptiness, Equivalence, Insn, Meta, Origin, Packet, Program,
    SocketForm, Unknown, VlanTag, compose, equivalent, interpret, is_conjunction, is_empty, prove,
    prove_measured, well_formed,
};
use common::{
    ETHERNET, RAW, expressions, frames,
    harness::{self, Test},
    programs,
    random::Random,
};
use pairs::Known;

const SEED: u64 = 0x0cab_1e5e_ed00_0002;

fn main() -> ExitCode {
    let test = |name, run| Test {
        name,
        needs_kernel: false,
        run,
    };
    harness::run(&[
        test("known_pairs", two_opinions::known_pairs),
        test("corpus_pairs", corpus_pairs),
        test("random_pairs", two_opinions::random_pairs),
        test("compositions", compositions),
        test("emptiness", emptiness),
        test("equivalence", equivalences),
        test("host_lists", host_lists),
        test("awkward_pairs", awkward_pairs),
        test("budgets", budgets),
        test("examples_in_words", in_words),
        test("lint_findings", lint::findings),
        test("explanations", lint::explanations),
    ])
}

/// A budget that no test should use up, even unoptimised.
fn budget() -> Budget {
    Budget {
        time: Duration::from_secs(60),
        ..Budget::default()
    }
}

fn compile_for(expression: &str, form: SocketForm) -> Result<Program, CompileError> {
    common::compile_for(expression, form, Origin::Policy)
}

/// Compiles what is known to compile, once.
fn compile_in(expression: &str, form: SocketForm) -> Program {
    type Compiled = HashMap<(SocketForm, String), Program>;
    static KNOWN: LazyLock<Mutex<Compiled>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    let entry = known.entry((form, expression.into()));
    let program = entry.or_insert_with(|| {
        let program = compile_for(expression, form);
        program.unwrap_or_else(|error| panic!("{expression} on {form:?}: {error}"))
    });
    program.clone()
}

fn compile(expression: &str) -> Program {
    compile_in(expression, ETHERNET)
}

fn accepts(program: &Program, packet: &Packet<'_>) -> bool {
    interpret(program, packet) != 0
}

/// A verdict as it stands, its counterexample checked.
fn checked(
    requested: &Program,
    policy: &Program,
    form: SocketForm,
    name: &str,
    containment: &Containment,
) -> Option<Known> {
    if let Some(example) = containment.counterexample() {
        let packet = example.packet();
        assert!(
            accepts(requested, &packet) && !accepts(policy, &packet),
            "{name}: {example:?}"
        );
        let expected = matches!(containment, Containment::NotContained { .. });
        assert_eq!(well_formed(&packet, form), expected, "{name}: {example:?}");
    }
    match containment {
        Containment::Contained => Some(Known::Contained),
        Containment::ContainedWellFormed { .. } => Some(Known::WellFormed),
        Containment::NotContained { .. } => Some(Known::Not),
        Containment::Unknown {
            why: Unknown::NotReproduced,
        } => panic!("{name}: not reproduced"),
        Containment::Unknown { .. } => None,
    }
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn print(&mut self) {
        self.0.sort_unstable();
        let at = |permille: usize| {
            let index = (self.0.len() - 1) * permille / 1000;
            self.0[index].as_secs_f64() * 1000.0
        };
        print!(
            "median {:.2} ms, 90 % {:.2} ms, 99 % {:.2} ms, worst {:.1} ms … ",
            at(500),
            at(900),
            at(990),
            at(1000)
        );
    }
}

fn with_random_metadata<'a>(bytes: &'a [u8], random: &mut Random) -> Packet<'a> {
    let ether_type = bytes
        .get(12..14)
        .map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    let mut meta = Meta {
        protocol: ether_type,
        interface_index: 1,
        hardware_type: 1,
        network_header: 14,
        link_header: Some(0),
        ..Meta::default()
    };
    if random.below(3) == 0 {
        meta.vlan = Some(VlanTag {
            protocol: 0x8100,
            control: random.pick(&[7, 100, 0x2064]),
        });
    }
    if random.below(3) == 0 {
        meta.packet_type = random.pick(&[0, 1, 2, 3, 4]);
    }
    if random.below(10) == 0 {
        meta.interface_index = random.pick(&[0, 2]);
        meta.mark = random.pick(&[0, 1]);
    }
    Packet::new(bytes, meta)
}

/// Pairs of everything there is, against packets: a part of them, and all with EVERY set.
fn corpus_pairs() {
    let mut random = Random(SEED);
    let frames = frames::frames(&mut random);
    let packets: Vec<_> = frames
        .iter()
        .map(|frame| with_random_metadata(frame, &mut random))
        .collect();
    let programs: Vec<_> = expressions::EXPRESSIONS
        .iter()
        .map(|expression| compile(expression))
        .collect();
    let accepted: Vec<Vec<bool>> = programs
        .iter()
        .map(|program| {
            packets
                .iter()
                .map(|packet| accepts(program, packet))
                .collect()
        })
        .collect();
    let every = env::var("EVERY").is_ok();
    let mut times = Times::default();
    let mut count: HashMap<_, usize> = HashMap::new();
    let mut found = 0;
    let mut slowest = (Duration::ZERO, String::new());
    for a in 0..programs.len() {
        for b in 0..programs.len() {
            let share = if cfg!(debug_assertions) { 100 } else { 20 };
            if !every && random.below(share) != 0 {
                continue;
            }
            let name = format!(
                "{}  WITHIN  {}",
                expressions::EXPRESSIONS[a],
                expressions::EXPRESSIONS[b]
            );
            let (containment, cost) =
                prove_measured(&programs[a], &programs[b], ETHERNET, budget());
            times.0.push(cost.time);
            if cost.time > slowest.0 {
                slowest = (cost.time, name.clone());
            }
            let got = checked(&programs[a], &programs[b], ETHERNET, &name, &containment);
            *count.entry(got).or_default() += 1;
            let outside =
                (0..packets.len()).find(|index| accepted[a][*index] && !accepted[b][*index]);
            if let Some(index) = outside {
                found += 1;
                assert_ne!(got, Some(Known::Contained), "{name}: {:?}", packets[index]);
                if well_formed(&packets[index], ETHERNET) {
                    assert_ne!(got, Some(Known::WellFormed), "{name}: {:?}", packets[index]);
                }
            }
        }
    }
    print!(
        "{} proofs {count:?}, {found} found by packets, slowest {slowest:?}, ",
        times.0.len()
    );
    times.print();
}

fn compositions() {
    let mut random = Random(SEED);
    let frames = frames::frames(&mut random);
    let mut proved = 0;
    for _ in 0..150 {
        let [a, b] = [(); 2].map(|()| compile(random.pick(expressions::EXPRESSIONS)));
        let both = compose(&a, &b).unwrap();
        for part in [&a, &b] {
            let within = prove(&both, part, ETHERNET, budget());
            assert_eq!(within, Containment::Contained);
        }
        for frame in &frames {
            let packet = with_random_metadata(frame, &mut random);
            let expected = interpret(&a, &packet).min(interpret(&b, &packet));
            assert_eq!(interpret(&both, &packet), expected);
        }
        assert_eq!(is_conjunction(&both, &a, &b, budget()), Ok(true));
        proved += 1;
    }
    let parts = ["tcp", "udp", "ip"].map(compile);
    assert_eq!(
        is_conjunction(&parts[2], &parts[0], &parts[1], budget()),
        Ok(false)
    );
    for number in 0..400 {
        // Lengths that depend on the path, loads without a device, accumulators returned.
        let [a, b] = [(); 2].map(|()| programs::any(&mut random, 24));
        let both = compose(&a, &b).unwrap();
        let limited = Budget {
            time: Duration::from_secs(5),
            conflicts: 20_000,
            ..Budget::default()
        };
        match is_conjunction(&both, &a, &b, limited) {
            Ok(is) => assert!(
                is,
                "{number}: {:?} AND {:?} = {:?}",
                a.insns(),
                b.insns(),
                both.insns()
            ),
            Err(why) => {
                assert_ne!(why, Unknown::NotReproduced);
                continue;
            }
        }
        proved += 1;
    }
    print!("{proved} compositions … ");
}

fn emptiness() {
    for expression in [
        "ip and not ip",
        "less 20 and greater 30",
        "ether[len] = 0",
        "ip[8] < 0",
        "host 10.0.0.5 and arp and ip6",
    ] {
        assert_eq!(
            is_empty(&compile(expression), ETHERNET, budget()),
            Emptiness::Empty,
            "{expression}"
        );
    }
    for expression in ["ip and less 20", "ip[0] >> 4 = 6", "tcp and ip[2:2] < 20"] {
        let emptiness = is_empty(&compile(expression), ETHERNET, budget());
        assert!(
            matches!(emptiness, Emptiness::EmptyWellFormed { .. }),
            "{expression}: {emptiness:?}"
        );
    }
    for expression in expressions::EXPRESSIONS {
        let program = compile(expression);
        match is_empty(&program, ETHERNET, budget()) {
            Emptiness::Matches { example } | Emptiness::EmptyWellFormed { example } => {
                assert!(accepts(&program, &example.packet()), "{expression}");
            }
            Emptiness::Empty => {}
            Emptiness::Unknown { why } => panic!("{expression}: {why}"),
        }
    }
}

fn equivalences() {
    for (a, b) in [
        ("udp or tcp or icmp", "tcp or icmp or udp"),
        ("inbound", "not outbound"),
    ] {
        assert_eq!(
            equivalent(&compile(a), &compile(b), ETHERNET, budget()),
            Equivalence::Equal
        );
    }
    let fragments = equivalent(&compile("tcp"), &compile("ip proto 6"), ETHERNET, budget());
    assert!(matches!(fragments, Equivalence::Different(_)));
    let header = equivalent(
        &compile("ip"),
        &compile("ip[0] & 0xf >= 5"),
        ETHERNET,
        budget(),
    );
    assert!(
        matches!(header, Equivalence::EqualWellFormed(_)),
        "{header:?}"
    );
}

fn hosts(count: usize) -> String {
    let hosts: Vec<_> = (0..count)
        .map(|n| format!("host 10.{}.{}.{}", n / 7 % 5, n / 250, n % 250))
        .collect();
    hosts.join(" or ")
}

fn host_lists() {
    let mut times = Times::default();
    for count in [10, 50, 100, 130] {
        let list = compile(&hosts(count));
        let some = compile(&format!("tcp port 80 and ({})", hosts(count / 2)));
        for (a, b, expected) in [(&some, &list, Known::Contained), (&list, &some, Known::Not)] {
            let (containment, cost) = prove_measured(a, b, ETHERNET, budget());
            print!(
                "{count} hosts: {} + {} instructions {cost:?} … ",
                a.insns().len(),
                b.insns().len()
            );
            times.0.push(cost.time);
            assert_eq!(
                checked(a, b, ETHERNET, "hosts", &containment),
                Some(expected)
            );
        }
    }
    // As many as fit by any means: two instructions for each host and direction.
    let thousand = host_program(1000);
    for (count, expected) in [
        (999, Known::Contained),
        (500, Known::Contained),
        (1000, Known::Contained),
    ] {
        let (containment, cost) =
            prove_measured(&host_program(count), &thousand, ETHERNET, budget());
        print!("{count} of 1,000 hosts {cost:?} … ");
        times.0.push(cost.time);
        assert_eq!(
            checked(
                &host_program(count),
                &thousand,
                ETHERNET,
                "hosts",
                &containment
            ),
            Some(expected)
        );
        let (containment, cost) =
            prove_measured(&thousand, &host_program(count), ETHERNET, budget());
        times.0.push(cost.time);
        let words = containment
            .counterexample()
            .map(|example| example.in_words(ETHERNET));
        print!("back {cost:?} {words:?} … ");
        let back = if count == 1000 {
            Known::Contained
        } else {
            Known::Not
        };
        assert_eq!(
            checked(
                &thousand,
                &host_program(count),
                ETHERNET,
                "hosts",
                &containment
            ),
            Some(back)
        );
    }
    sixes(&mut times);
    times.print();
}

/// Lists of 1,000 addresses that differ in more than one word, as a search.
fn sixes(times: &mut Times) {
    let address = |number: u32| {
        let spread = number.wrapping_mul(0x9e37_79b1);
        let (high, low) = (spread >> 16, spread & 0xffff);
        format!("ip6 host 2001:db8:{high:x}:{low:x}:{low:x}:{high:x}:{number:x}:1")
    };
    let list = |numbers: &mut dyn Iterator<Item = u32>| {
        compile(&numbers.map(address).collect::<Vec<_>>().join(" or "))
    };
    let thousand = list(&mut (0..1000));
    for (what, other, within, back) in [
        (
            "equal",
            list(&mut (0..1000)),
            Known::Contained,
            Known::Contained,
        ),
        // The first of a list is looked for by itself, in the midst of packets that are cut off.
        (
            "in another order",
            list(&mut (0..1000).rev()),
            Known::WellFormed,
            Known::WellFormed,
        ),
        (
            "one less",
            list(&mut (0..999)),
            Known::Contained,
            Known::Not,
        ),
        ("half", list(&mut (0..500)), Known::Contained, Known::Not),
        ("others", list(&mut (1000..2000)), Known::Not, Known::Not),
        (
            "every other",
            list(&mut (0..2000).step_by(2)),
            Known::Not,
            Known::Not,
        ),
    ] {
        for (a, b, expected) in [(&other, &thousand, within), (&thousand, &other, back)] {
            let (containment, cost) = prove_measured(a, b, ETHERNET, budget());
            print!("1,000 IPv6 hosts, {what}: {cost:?} … ");
            times.0.push(cost.time);
            // As for IPv4: by what is known of the lists, not by trying.
            assert!(cost.conflicts < 1_000, "{what}: {cost:?}");
            assert_eq!(checked(a, b, ETHERNET, what, &containment), Some(expected));
        }
    }
}

/// A list of hosts as a chain of comparisons.
fn host_program(count: u32) -> Program {
    let mut insns = vec![
        Insn::new(0x28, 0, 0, 12),
        Insn::new(0x15, 1, 0, 0x800),
        Insn::new(0x06, 0, 0, 0),
    ];
    for at in [26, 30] {
        insns.push(Insn::new(0x20, 0, 0, at));
        for host in 0..count {
            insns.push(Insn::new(0x15, 0, 1, 0x0a00_0000 + host * 7));
            insns.push(Insn::new(0x06, 0, 0, 65535));
        }
    }
    insns.push(Insn::new(0x06, 0, 0, 0));
    Program::new(insns).unwrap()
}

/// Pairs that the prover once had no answer to.
fn awkward_pairs() {
    let program = |insns: &[(u16, u8, u8, u32)]| {
        let insns = insns
            .iter()
            .map(|&(code, jt, jf, k)| Insn::new(code, jt, jf, k));
        Program::new(insns.collect()).unwrap()
    };
    // A half-word from the link header, and words from the packet; the policy wants more of it.
    let [requested, policy] = [55, 4151].map(|far| {
        program(&[
            (0x40, 0, 0, 30),
            (0x01, 0, 0, 109),
            (0x40, 0, 0, far),
            (0x00, 0, 0, 2),
            (0x48, 0, 0, 0xffe0_0034),
            (0x16, 0, 0, 20),
        ])
    });
    for form in [ETHERNET, RAW, SocketForm::Cooked] {
        let containment = prove(&requested, &policy, form, budget());
        let name = format!("far and near on {form:?}");
        let got = checked(&requested, &policy, form, &name, &containment);
        assert_eq!(got, Some(Known::Not), "{form:?}");
    }
}

fn budgets() {
    let (a, b) = (
        compile("tcp[0:2] * tcp[2:2] = 0x3fffffd7"),
        compile("tcp[0:4] = 1"),
    );
    let why = |budget| match prove(&a, &b, ETHERNET, budget) {
        Containment::Unknown { why } => Some(why),
        _ => None,
    };
    assert_eq!(
        why(Budget {
            nodes: 1000,
            ..budget()
        }),
        Some(Unknown::TooLarge)
    );
    assert_eq!(
        why(Budget {
            time: Duration::ZERO,
            ..budget()
        }),
        Some(Unknown::TimedOut)
    );
    assert_eq!(
        why(Budget {
            conflicts: 1,
            ..budget()
        }),
        Some(Unknown::TimedOut)
    );
    // Whatever a program does, the time holds.
    let operations = [(0x2c, 0), (0x3c, 0), (0x9c, 3), (0x48, 0), (0x50, 14)];
    let sizes = [3, 12, 30, 60, 1300];
    let mut longest = Duration::ZERO;
    for ((operation, k), size) in operations
        .into_iter()
        .flat_map(|one| sizes.map(|size| (one, size)))
    {
        let mut insns = vec![Insn::new(0x20, 0, 0, 26), Insn::new(0x81, 0, 0, 0)];
        for _ in 0..size {
            insns.extend([
                Insn::new(operation, 0, 0, k),
                Insn::new(0x0c, 0, 0, 0),
                Insn::new(0x07, 0, 0, 0),
            ]);
        }
        insns.extend([
            Insn::new(0x15, 0, 1, 77),
            Insn::new(0x06, 0, 0, 1),
            Insn::new(0x06, 0, 0, 0),
        ]);
        let program = Program::new(insns).unwrap();
        let limited = Budget {
            time: Duration::from_millis(500),
            ..Budget::default()
        };
        let start = Instant::now();
        let (containment, cost) = prove_measured(&program, &b, ETHERNET, limited);
        let took = start.elapsed();
        let verdict = checked(&program, &b, ETHERNET, "large", &containment);
        longest = longest.max(took);
        if env::var_os("SHOW").is_some() {
            println!("0x{operation:x} × {size}: {verdict:?} in {took:?}, {cost:?}");
        }
        assert!(took < Duration::from_secs(5));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default();
    print!(
        "500 ms allowed, {:.0} ms taken at most; {} of memory … ",
        longest.as_secs_f32() * 1000.0,
        peak.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    );
}

fn in_words() {
    for (requested, policy, words) in [
        (
            "tcp port 22",
            "not port 22",
            "TCP 10.0.0.5:51000 → 10.0.0.9:22 SYN",
        ),
        (
            "tcp port 80 and host 10.0.0.5",
            "net 10.0.0.0/8 and not port 22",
            "TCP 10.0.0.5:22 → 10.0.0.9:80 SYN",
        ),
        ("net 10.0.0.0/8", "ip", "ARP request 10.0.0.5 → 10.0.0.9"),
        (
            "host 10.0.0.5",
            "src host 10.0.0.5",
            "TCP 10.0.0.8:51000 → 10.0.0.5:443 SYN",
        ),
        (
            "net 10.0.0.0/8",
            "net 10.0.0.0/24",
            "TCP 10.1.2.3:51000 → 10.1.2.4:443 SYN",
        ),
        (
            "vlan and tcp port 80",
            "tcp port 80",
            "TCP 10.0.0.5:51000 → 10.0.0.9:80 SYN, VLAN 100",
        ),
        (
            "ip proto 6",
            "tcp port 22",
            "TCP 10.0.0.5:51000 → 10.0.0.9:443 SYN",
        ),
        ("port 53", "tcp or udp", "SCTP 10.0.0.5:51000 → 10.0.0.9:53"),
        (
            "not port 22",
            "tcp or udp or icmp or not ip",
            "SCTP 10.0.0.5:51000 → 10.0.0.9:443",
        ),
        (
            "ip proto 6 and not (tcp src port 1 or tcp[0:2] != 1)",
            "arp",
            "TCP 10.0.0.5 → 10.0.0.9, later fragment (from byte 1480)",
        ),
        ("ip6 and not tcp", "udp", "ICMPv6 echo request"),
        ("outbound and tcp", "udp", "TCP"),
    ] {
        let containment = prove(&compile(requested), &compile(policy), ETHERNET, budget());
        let example = containment.counterexample().unwrap();
        let got = example.in_words(ETHERNET);
        assert!(
            got.starts_with(words),
            "{requested} WITHIN {policy}: {got}, {example:?}"
        );
    }
}
