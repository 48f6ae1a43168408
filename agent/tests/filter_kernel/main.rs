//! The filter room against the kernel: what the interpreter says, what the kernel's classic BPF
//! does and what the translated eBPF does are the same, packet for packet.
//!
//! Classic and translated programs sit on the receiving ends of two socket pairs of the same kind,
//! so both see the same packet; metadata is compared on packet sockets in an empty network
//! namespace. Needs CAP_BPF, CAP_NET_RAW and CAP_SYS_ADMIN; without, the test asserts that the
//! kernel says so.
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
mod scale;

use std::{
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use capwarden::filter::{
    Ancillary, CompileError, Compiler, CookedError, EbpfInsn, Insn, LinkType, Meta, Op, Origin,
    Packet, Program, ProgramError, SocketForm, interpret, translate,
};
use common::{
    ETHERNET, compiler, expressions, frames,
    harness::{self, Test},
    kernel::{self, Installed, Pair, load},
    programs,
    random::Random,
};

const SEED: u64 = 0x0cab_1e5e_ed00_0001;

fn main() -> ExitCode {
    let user = |name, run| Test {
        name,
        needs_kernel: false,
        run,
    };
    let root = |name, run| Test {
        name,
        needs_kernel: true,
        run,
    };
    harness::run(&[
        user("compile_names_are_not_resolved", names_are_not_resolved),
        user("compile_says_what_libpcap_says", libpcaps_own_words),
        user("compile_loops_are_refused", loops_are_refused),
        user("compile_lengths_are_bounded", lengths_are_bounded),
        user("compile_empty_accepts_everything", empty_accepts_everything),
        user("compile_takes_no_longer_than_allowed", time_is_bounded),
        user(
            "compile_cooked_refuses_link_headers",
            cooked_refuses_link_headers,
        ),
        root("kernel_same_verdict_at_scale", scale::agrees),
        root(
            "kernel_same_verdict_where_loads_repeat",
            repeated_loads_agree,
        ),
        root("kernel_same_verdict_at_every_length", every_length_agrees),
        root(
            "kernel_same_opinion_on_what_is_a_program",
            validation_agrees,
        ),
        root(
            "kernel_concatenation_is_conjunction",
            concatenation_is_conjunction,
        ),
        root("kernel_large_filters_load", large_filters_load),
        root(
            "kernel_same_verdict_on_packet_sockets",
            packet_sockets_agree,
        ),
    ])
}

fn compile(expression: &str, form: SocketForm) -> Result<Program, CompileError> {
    common::compile_for(expression, form, Origin::Request)
}

type Corpus = Vec<(&'static str, Program)>;

static ON_ETHERNET: LazyLock<Corpus> = LazyLock::new(|| {
    let compiled = expressions::EXPRESSIONS.iter().map(|&expression| {
        let program = compile(expression, ETHERNET);
        (
            expression,
            program.unwrap_or_else(|error| panic!("{expression}: {error}")),
        )
    });
    compiled.collect()
});

/// The part of the corpus that another form of socket can run.
fn part_for(form: SocketForm) -> Corpus {
    let compiled = expressions::EXPRESSIONS
        .iter()
        .chain(expressions::COOKED)
        .map(|&expression| match compile(expression, form) {
            Ok(program) => Some((expression, program)),
            Err(CompileError::Syntax { .. } | CompileError::Cooked(_)) => None,
            Err(error) => panic!("{expression}: {error}"),
        });
    compiled.flatten().collect()
}

fn names_are_not_resolved() {
    for (expression, words) in expressions::NAMES {
        match compile(expression, ETHERNET) {
            Err(CompileError::Syntax { message }) => {
                assert!(message.contains(words), "{expression}: {message}");
            }
            other => panic!("{expression}: {other:?}"),
        }
    }
    for expression in expressions::PROTOCOLS {
        let error = compile(expression, ETHERNET);
        assert!(
            matches!(error, Err(CompileError::Name)),
            "{expression}: {error:?}"
        );
    }
}

fn libpcaps_own_words() {
    for (expression, words) in expressions::SYNTAX {
        match compile(expression, ETHERNET) {
            Err(CompileError::Syntax { message }) => {
                assert!(message.contains(words), "{expression}: {message}");
            }
            other => panic!("{expression}: {other:?}"),
        }
    }
    // Its words are cut after 255 bytes, here within a character for all but one of them.
    for pad in ["", "a", "aa"] {
        let expression = format!("iso proto \\is{pad}{}", "€".repeat(100));
        let error = compile(&expression, ETHERNET);
        let expected = matches!(error, Err(CompileError::Syntax { .. }));
        assert!(expected, "{expression}: {error:?}");
    }
    let error = compile("tcp\0 or udp", ETHERNET);
    assert!(matches!(error, Err(CompileError::Syntax { .. })));
}

fn loops_are_refused() {
    for expression in expressions::LOOPS {
        let error = compile(expression, ETHERNET);
        let expected = matches!(
            error,
            Err(CompileError::Program(ProgramError::JumpOutOfRange { .. }))
        );
        assert!(expected, "{expression}: {error:?}");
    }
}

fn lengths_are_bounded() {
    let long = format!("tcp{}", " ".repeat(4096));
    assert!(matches!(
        compile(&long, ETHERNET),
        Err(CompileError::ChainTooLong {
            length: 4099,
            limit: 4096
        })
    ));
    let policy = compiler().compile(&long, LinkType::EN10MB, Origin::Policy);
    assert!(matches!(policy, Ok(Some(_))));
    let longer = " ".repeat(Origin::Request.limit() + 1);
    let refused = compile(&longer, ETHERNET);
    assert!(matches!(refused, Err(CompileError::TooLong { .. })));
    let tests: Vec<_> = (0..1000).map(|n| format!("tcp[{n}] = 7")).collect();
    let many = compiler().compile(&tests.join(" or "), LinkType::EN10MB, Origin::Policy);
    let expected = matches!(many, Err(CompileError::TooComplex { length: 4097.., .. }));
    assert!(expected, "{many:?}");
    // Every byte escaped in the request is still read whole.
    let escaped = "\u{1}".repeat(60_000);
    let error = compiler().compile(&escaped, LinkType::EN10MB, Origin::Policy);
    assert!(
        matches!(error, Err(CompileError::Syntax { .. })),
        "{error:?}"
    );
}

fn empty_accepts_everything() {
    for expression in ["", " ", "\n\t"] {
        let program = compiler().compile_for(expression, SocketForm::Cooked, Origin::Request);
        assert!(matches!(program, Ok(None)));
    }
}

fn time_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let slow = directory.path().join("slow");
    std::fs::write(&slow, "#!/bin/sh\nexec sleep 30\n").unwrap();
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).unwrap();
    let limit = Duration::from_millis(50);
    let start = Instant::now();
    let compiler = Compiler::new(slow).with_patience(limit);
    // Longer than a pipe holds, to a child that does not read.
    let expression = "tcp or ".repeat(9000);
    let error = compiler.compile(&expression, LinkType::EN10MB, Origin::Policy);
    assert!(matches!(error, Err(CompileError::Busy(_))), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(2));

    // What works too long, and not what waits too long for a processor.
    let busy = directory.path().join("busy");
    std::fs::write(&busy, "#!/bin/sh\nulimit -S -t 1\nwhile :; do :; done\n").unwrap();
    std::fs::set_permissions(&busy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Compiler::new(busy).compile("tcp", LinkType::EN10MB, Origin::Policy);
    assert!(matches!(error, Err(CompileError::TimedOut)), "{error:?}");
}

fn cooked_refuses_link_headers() {
    for expression in expressions::NOT_COOKED {
        let error = compile(expression, SocketForm::Cooked);
        let expected = matches!(
            error,
            Err(CompileError::Cooked(CookedError::LinkHeader { .. }))
        );
        assert!(expected, "{expression}: {error:?}");
    }
    for expression in expressions::COOKED {
        compile(expression, SocketForm::Cooked).unwrap();
    }
}

/// The three on some packets of a socket pair; how many are accepted.
fn agree(name: &str, program: &Program, frames: &[&[u8]], pairs: &(Pair, Pair)) -> usize {
    let installed = Installed::new(name, program, pairs);
    let accepted = frames
        .iter()
        .filter(|frame| installed.agree_on_pair(frame, pairs));
    accepted.count()
}

/// Few bytes, few values, many tests: nearly every load was done before on some way to it, and
/// nearly every test is settled on some.
fn repeated_loads_agree() {
    const PROGRAMS: usize = 4000;
    let mut random = Random(SEED);
    let pairs = (Pair::new(), Pair::new());
    let (mut accepted, mut shorter) = (0, 0);
    for index in 0..PROGRAMS {
        let program = programs::repetitive(&mut random);
        let loads = |op: &Op| matches!(op, Op::LoadAbsolute { .. });
        let before = program.ops().iter().filter(|op| loads(op)).count();
        let translated = translate(&program).unwrap();
        let left = translated.iter().filter(|insn| insn.code & 0xe7 == 0x20);
        shorter += usize::from(left.count() < before);
        let frames: Vec<Vec<u8>> = (0..24)
            .map(|_| {
                let length = 1 + random.below(6);
                (0..length).map(|_| random.pick(&[0, 1])).collect()
            })
            .collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        accepted += agree(&format!("program {index}"), &program, &frames, &pairs);
    }
    print!(
        "{} runs, {accepted} accepted, {shorter} programs with fewer loads … ",
        PROGRAMS * 24
    );
    assert!(shorter > PROGRAMS / 2, "{shorter} programs got shorter");
}

/// Many loads near the beginning, in all sizes and of all kinds, of packets of every length there:
/// what fills the window that translations copy to the stack, and what does not.
fn every_length_agrees() {
    const PROGRAMS: usize = 1500;
    let mut random = Random(SEED);
    let pairs = (Pair::new(), Pair::new());
    let (mut runs, mut accepted, mut windows) = (0, 0, 0);
    let mut all = |name: &str, program: &Program, frames: &[&[u8]]| {
        let calls = |insn: &EbpfInsn| insn.code == 0x85;
        windows += usize::from(translate(program).unwrap().iter().any(calls));
        runs += frames.len();
        accepted += agree(name, program, frames, &pairs);
    };
    for index in 0..PROGRAMS {
        let program = programs::of_loads(&mut random);
        let mut frame: Vec<u8> = (0..70)
            .map(|_| random.pick(&[0, 1, 5, 0x45, 0xff]))
            .collect();
        frame[random.below(16)] = 0x45;
        let frames: Vec<&[u8]> = (0..=frame.len()).map(|end| &frame[..end]).collect();
        all(&format!("program {index}"), &program, &frames);
    }
    let frames = frames::frames(&mut random);
    for (expression, program) in ON_ETHERNET.iter().step_by(4) {
        for frame in frames.iter().step_by(7) {
            let ends = 0..=frame.len().min(80);
            let frames: Vec<&[u8]> = ends.map(|end| &frame[..end]).collect();
            all(expression, program, &frames);
        }
    }
    print!("{runs} runs, {accepted} accepted, {windows} with a window … ");
    assert!(windows > PROGRAMS / 2, "{windows} programs with a window");
}

fn validation_agrees() {
    const PROGRAMS: usize = 20_000;
    let mut random = Random(SEED);
    let pair = Pair::new();
    let mut taken = 0;
    for _ in 0..PROGRAMS {
        let mut insns = programs::any(&mut random, 40).insns().to_vec();
        insns.truncate(20);
        let last = insns.len() - 1;
        insns[last] = Insn::new(random.pick(&[0x06, 0x16, 0x06, 0x16, 0x0e, 0x05]), 0, 0, 1);
        for _ in 0..1 + random.below(2) {
            let at = random.below(insns.len());
            let insn = &mut insns[at];
            match random.below(5) {
                0 => insn.code = u16::try_from(random.below(0x100)).unwrap(),
                1 => insn.jt = u8::try_from(random.below(12)).unwrap(),
                2 => insn.k = random.pick(&[0, 15, 16, 31, 32, 33]),
                3 => insn.k = 0xffff_f000 + u32::try_from(random.below(70)).unwrap(),
                _ => insn.k = random.word(),
            }
        }
        let ours = Program::new(insns.clone());
        let theirs = kernel::attach_classic(&pair.1, &insns);
        match ours {
            Ok(_) => {
                taken += 1;
                assert!(theirs.is_ok(), "{theirs:?}: {insns:?}");
            }
            Err(ProgramError::NotOfThePacket { .. }) => {}
            Err(error) => {
                let theirs = theirs.expect_err("the kernel takes it").raw_os_error();
                assert_eq!(theirs, Some(libc::EINVAL), "{error}: {insns:?}");
            }
        }
    }
    print!("{taken} of {PROGRAMS} taken … ");
}

fn concatenation_is_conjunction() {
    let mut random = Random(SEED);
    let frames = frames::frames(&mut random);
    let pair = Pair::new();
    for _ in 0..300 {
        let parts: Vec<_> = (0..2 + random.below(2))
            .map(|_| &ON_ETHERNET[random.below(ON_ETHERNET.len())])
            .collect();
        let programs: Vec<_> = parts.iter().map(|(_, program)| program).collect();
        kernel::attach_ebpf(&pair.1, &load(&programs)).unwrap();
        for frame in &frames {
            let packet = Packet::new(frame, Meta::default());
            let all = programs
                .iter()
                .all(|program| interpret(program, &packet) != 0);
            let names = || parts.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            assert_eq!(
                pair.deliver(frame).is_some(),
                all,
                "{:?} on {frame:02x?}",
                names()
            );
        }
    }
}

/// In a network of its own, where sockets may have larger filters: the kernel counts an eBPF
/// program against `optmem_max` too.
fn large_filters_load() {
    let test = || {
        common::syscalls::enter_empty_network().unwrap();
        let raised = std::fs::write("/proc/sys/net/core/optmem_max", "4000000");
        // So many that jumps need bridges, and so many that no kernel minds.
        large_filter(if raised.is_ok() { 12_000 } else { 250 });
    };
    std::thread::spawn(test).join().unwrap();
}

fn large_filter(count: u32) {
    let address = |n: u32| (0x0a00_0000 + 977 * n).to_be_bytes();
    let hosts: Vec<_> = (1..=count)
        .map(|n| format!("host {}", std::net::Ipv4Addr::from(address(n))))
        .collect();
    let program = compiler().compile(&hosts.join(" or "), LinkType::EN10MB, Origin::Policy);
    let program = program.unwrap().unwrap();
    let code = translate(&program).unwrap();
    let pair = Pair::new();
    let start = Instant::now();
    kernel::attach_ebpf(&pair.1, &load(&[&program])).unwrap();
    print!(
        "{} → {} instructions in {:.0} ms … ",
        program.insns().len(),
        code.len(),
        start.elapsed().as_secs_f32() * 1000.0
    );
    let mut packets = frames::frames(&mut Random(SEED));
    let ipv4 = packets
        .iter()
        .find(|frame| frame.get(12..15) == Some(&[8, 0, 0x45]));
    let ipv4 = ipv4.unwrap().clone();
    for n in (0..=count + 1).step_by(37).chain([1, 2, count]) {
        for at in [26, 30] {
            for nearby in [n, n + 1] {
                let mut frame = ipv4.clone();
                frame[at..at + 4].copy_from_slice(&address(nearby));
                frame[at + 3] ^= u8::from(nearby % 5 == 0);
                packets.push(frame);
            }
        }
    }
    let mut accepted = 0;
    for frame in &packets {
        let ours = interpret(&program, &Packet::new(frame, Meta::default())) != 0;
        assert_eq!(pair.deliver(frame).is_some(), ours, "{frame:02x?}");
        accepted += usize::from(ours);
    }
    print!("{accepted} of {} accepted … ", packets.len());
    assert!(accepted > 10 && packets.len() - accepted > 10);
}

/// Programs of metadata loads: each value as it is, and each against what is known.
fn metadata_programs() -> Corpus {
    let mut programs = Vec::new();
    for (name, what, values) in [
        (
            "protocol",
            Ancillary::Protocol,
            &[0x800_u32, 0x86dd, 4, 1][..],
        ),
        ("packet type", Ancillary::PacketType, &[0, 1, 2, 3, 4]),
        ("interface index", Ancillary::InterfaceIndex, &[0, 1, 2]),
        ("mark", Ancillary::Mark, &[0, 7]),
        ("vlan tag", Ancillary::VlanTag, &[0, 100, 7]),
        ("vlan present", Ancillary::VlanPresent, &[0, 1]),
        (
            "vlan protocol",
            Ancillary::VlanProtocol,
            &[0, 0x8100, 0x88a8],
        ),
    ] {
        for &value in values {
            let program = vec![
                Insn::new(0x20, 0, 0, what.k()),
                Insn::new(0x15, 0, 1, value),
                Insn::new(0x06, 0, 0, 0xffff),
                Insn::new(0x06, 0, 0, 0),
            ];
            programs.push((name, Program::new(program).unwrap()));
        }
    }
    programs
}

fn packet_sockets_agree() {
    const MARK: u32 = 7;
    kernel::enter_empty_network().unwrap();
    let mut frames = frames::frames(&mut Random(SEED));
    // The kernel sends nothing that has no whole link header.
    frames.retain(|frame| frame.len() > 14);
    let frames: Vec<_> = frames.into_iter().step_by(2).collect();
    let sender = kernel::packet_socket(libc::SOCK_RAW).unwrap();
    kernel::set_mark(&sender, MARK).unwrap();
    let ethernet: Corpus = ON_ETHERNET
        .iter()
        .cloned()
        .chain(metadata_programs())
        .collect();
    let cooked: Corpus = part_for(SocketForm::Cooked)
        .into_iter()
        .chain(metadata_programs())
        .collect();
    let (mut runs, mut accepted) = (0, 0);
    for (kind, corpus) in [(libc::SOCK_RAW, &ethernet), (libc::SOCK_DGRAM, &cooked)] {
        // The reference is raw for both: to the readers of cooked sockets the kernel (6.10 and
        // later) shows another protocol and VLAN tag than to their filters.
        let reference = kernel::packet_socket(libc::SOCK_RAW).unwrap();
        let [classic, translated] = [(); 2].map(|()| kernel::packet_socket(kind).unwrap());
        for (expression, program) in corpus {
            kernel::attach_classic(&classic, program.insns()).unwrap();
            kernel::attach_ebpf(&translated, &load(&[program])).unwrap();
            for frame in &frames {
                kernel::send_frame(&sender, frame, kernel::LOOPBACK).unwrap();
            }
            let drain = |socket: &OwnedFd| {
                std::iter::from_fn(|| kernel::receive_packet(socket).unwrap()).collect::<Vec<_>>()
            };
            let all = drain(&reference);
            let bytes = |(bytes, _)| bytes;
            let classic: Vec<_> = drain(&classic).into_iter().map(bytes).collect();
            let translated: Vec<_> = drain(&translated).into_iter().map(bytes).collect();
            assert!(
                all.len() >= 2 * frames.len(),
                "each is seen going out and coming in"
            );
            let ours = all.iter().filter_map(|(bytes, meta)| {
                let mut packet = Packet::new(
                    bytes,
                    Meta {
                        mark: MARK,
                        ..*meta
                    },
                );
                (packet.meta.link_header, packet.meta.network_header) = (Some(0), 14);
                if kind == libc::SOCK_DGRAM {
                    packet = Packet::new(&bytes[14..], packet.meta);
                    packet.headroom = &bytes[..14];
                    (packet.meta.link_header, packet.meta.network_header) = (Some(-14), 0);
                }
                (interpret(program, &packet) != 0).then_some((packet.bytes, packet.meta))
            });
            let ours: Vec<_> = ours.collect();
            for (who, theirs) in [("classic", &classic), ("eBPF", &translated)] {
                let difference = ours
                    .iter()
                    .zip(theirs)
                    .find(|(ours, theirs)| ours.0 != **theirs);
                assert!(
                    difference.is_none() && ours.len() == theirs.len(),
                    "{expression}: {who}: {} instead of {}, first {difference:02x?}\n{program:?}",
                    theirs.len(),
                    ours.len(),
                );
            }
            runs += all.len();
            accepted += ours.len();
        }
    }
    print!(
        "{} + {} programs, {runs} runs, {accepted} accepted … ",
        ethernet.len(),
        cooked.len()
    );
}
