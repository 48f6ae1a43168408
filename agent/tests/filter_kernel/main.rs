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

mod corpus;
mod packets;
mod syscalls;

use std::{
    collections::HashSet,
    env,
    io::Write,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use capwarden::filter::{
    Ancillary, COMPILE_VERB, CompileError, Compiler, CookedError, EbpfInsn, Insn, LinkType, Meta,
    Op, Origin, Packet, Program, ProgramError, SocketForm, compile_child, interpret, translate,
};
use packets::Random;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const SEED: u64 = 0x0cab_1e5e_ed00_0001;

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(COMPILE_VERB) {
        return compile_child();
    }
    let tests: &[(&str, bool, fn())] = &[
        (
            "compile_names_are_not_resolved",
            false,
            names_are_not_resolved,
        ),
        ("compile_says_what_libpcap_says", false, libpcaps_own_words),
        ("compile_loops_are_refused", false, loops_are_refused),
        ("compile_lengths_are_bounded", false, lengths_are_bounded),
        (
            "compile_empty_accepts_everything",
            false,
            empty_accepts_everything,
        ),
        (
            "compile_takes_no_longer_than_allowed",
            false,
            time_is_bounded,
        ),
        (
            "compile_cooked_refuses_link_headers",
            false,
            cooked_refuses_link_headers,
        ),
        (
            "kernel_same_verdict_for_expressions",
            true,
            expressions_agree,
        ),
        (
            "kernel_same_verdict_for_random_programs",
            true,
            random_programs_agree,
        ),
        (
            "kernel_same_verdict_where_loads_repeat",
            true,
            repeated_loads_agree,
        ),
        (
            "kernel_same_verdict_at_every_length",
            true,
            every_length_agrees,
        ),
        (
            "kernel_same_opinion_on_what_is_a_program",
            true,
            validation_agrees,
        ),
        (
            "kernel_concatenation_is_conjunction",
            true,
            concatenation_is_conjunction,
        ),
        ("kernel_large_filters_load", true, large_filters_load),
        (
            "kernel_same_verdict_on_packet_sockets",
            true,
            packet_sockets_agree,
        ),
    ];
    let wanted = env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let privileged = may_load();
    for &(name, needs_kernel, test) in tests {
        if wanted
            .as_ref()
            .is_some_and(|wanted| !name.contains(wanted.as_str()))
        {
            continue;
        }
        if needs_kernel && !privileged {
            println!("test {name} ... not run: prog_load gives EPERM to this user");
            continue;
        }
        let start = Instant::now();
        print!("test {name} ... ");
        std::io::stdout().flush().unwrap();
        test();
        println!("ok ({:.2} s)", start.elapsed().as_secs_f32());
    }
    ExitCode::SUCCESS
}

/// Whether this user may load programs. Only EPERM, and never for root, is a reason not to.
fn may_load() -> bool {
    match syscalls::prog_load(&tail()) {
        Ok(_) => true,
        Err((error, log)) => {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}\n{log}");
            assert!(
                !rustix::process::geteuid().is_root(),
                "root may not load programs"
            );
            false
        }
    }
}

fn compiler() -> Compiler {
    Compiler::new(env::current_exe().unwrap())
}

fn compile(expression: &str, form: SocketForm) -> Result<Program, CompileError> {
    let program = compiler().compile_for(expression, form, Origin::Request)?;
    Ok(program.expect("the expression is not empty"))
}

const ETHERNET: SocketForm = SocketForm::Raw(LinkType::EN10MB);
const RAW: SocketForm = SocketForm::Raw(LinkType::RAW);

type Corpus = Vec<(&'static str, Program)>;

static ON_ETHERNET: LazyLock<Corpus> = LazyLock::new(|| {
    let compiled = corpus::EXPRESSIONS.iter().map(|&expression| {
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
    let compiled =
        corpus::EXPRESSIONS
            .iter()
            .chain(corpus::COOKED)
            .map(|&expression| match compile(expression, form) {
                Ok(program) => Some((expression, program)),
                Err(CompileError::Syntax { .. } | CompileError::Cooked(_)) => None,
                Err(error) => panic!("{expression}: {error}"),
            });
    compiled.flatten().collect()
}

fn names_are_not_resolved() {
    for (expression, words) in corpus::NAMES {
        match compile(expression, ETHERNET) {
            Err(CompileError::Syntax { message }) => {
                assert!(message.contains(words), "{expression}: {message}");
            }
            other => panic!("{expression}: {other:?}"),
        }
    }
    for expression in corpus::PROTOCOLS {
        let error = compile(expression, ETHERNET);
        assert!(
            matches!(error, Err(CompileError::Name)),
            "{expression}: {error:?}"
        );
    }
}

fn libpcaps_own_words() {
    for (expression, words) in corpus::SYNTAX {
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
    for expression in corpus::LOOPS {
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
        Err(CompileError::TooLong {
            length: 4099,
            limit: 4096
        })
    ));
    let policy = compiler().compile(&long, LinkType::EN10MB, Origin::Policy);
    assert!(matches!(policy, Ok(Some(_))));
    let hosts: Vec<_> = (0..250)
        .map(|n| format!("host 10.0.{}.{}", n / 250, n % 250))
        .collect();
    let many = compiler().compile(&hosts.join(" or "), LinkType::EN10MB, Origin::Policy);
    let expected = matches!(
        many,
        Err(CompileError::Program(ProgramError::TooLong(4097..)))
    );
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
    let compiler = Compiler::new(slow).with_time_limit(limit);
    // Longer than a pipe holds, to a child that does not read.
    let expression = "tcp or ".repeat(9000);
    let error = compiler.compile(&expression, LinkType::EN10MB, Origin::Policy);
    assert!(matches!(error, Err(CompileError::TimedOut(_))), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

fn cooked_refuses_link_headers() {
    for expression in corpus::NOT_COOKED {
        let error = compile(expression, SocketForm::Cooked);
        let expected = matches!(
            error,
            Err(CompileError::Cooked(CookedError::LinkHeader { .. }))
        );
        assert!(expected, "{expression}: {error:?}");
    }
    for expression in corpus::COOKED {
        compile(expression, SocketForm::Cooked).unwrap();
    }
}

/// What stands behind the filters in the guard's place: it reads the length, which the verifier
/// allows only if r1 holds the ctx, and delivers the packet.
fn tail() -> Vec<EbpfInsn> {
    let insn = |code, dst, src, imm| EbpfInsn {
        code,
        dst,
        src,
        off: 0,
        imm,
    };
    vec![
        insn(0x61, 2, 1, 0),
        insn(0xb4, 0, 0, 0xffff),
        insn(0x95, 0, 0, 0),
    ]
}

fn load(parts: &[&Program]) -> OwnedFd {
    let mut code: Vec<_> = parts
        .iter()
        .flat_map(|part| translate(part).unwrap())
        .collect();
    code.extend(tail());
    syscalls::prog_load(&code).unwrap_or_else(|(error, log)| panic!("{error}\n{log}\n{parts:?}"))
}

/// A pair of connected sockets; a filter on the second sees what is sent on the first.
struct Pair(OwnedFd, OwnedFd);

impl Pair {
    fn new() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        Self(a, b)
    }

    /// How much of a packet gets through; None if it is dropped.
    fn deliver(&self, packet: &[u8]) -> Option<usize> {
        rustix::net::send(&self.0, packet, SendFlags::empty()).unwrap();
        let mut buffer = [0; 4096];
        match rustix::net::recv(&self.1, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) => Some(length),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                None
            }
        }
    }
}

/// The interpreter, the classic program and its translation on the same packets. A socket pair's
/// packets have no device and no link header.
fn agree(name: &str, program: &Program, frames: &[&[u8]], pairs: &(Pair, Pair)) -> usize {
    let (classic, translated) = pairs;
    syscalls::attach_classic(&classic.1, program.insns())
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    syscalls::attach_ebpf(&translated.1, &load(&[program])).unwrap();
    let mut accepted = 0;
    for frame in frames {
        let ours = interpret(program, &Packet::new(frame, Meta::default()));
        // The kernel trims to the verdict, and never to nothing.
        let length = usize::try_from(ours)
            .unwrap()
            .clamp(1, frame.len().max(1))
            .min(frame.len());
        let expected = (ours != 0).then_some(length);
        let theirs = classic.deliver(frame);
        assert_eq!(
            theirs, expected,
            "{name}: classic on {frame:02x?}\n{program:?}"
        );
        let translated = translated.deliver(frame).is_some();
        assert_eq!(
            translated,
            ours != 0,
            "{name}: eBPF on {frame:02x?}\n{program:?}"
        );
        accepted += usize::from(ours != 0);
    }
    accepted
}

fn expressions_agree() {
    let frames = packets::frames(&mut Random(SEED));
    let pairs = (Pair::new(), Pair::new());
    let ethernet: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let raw: Vec<&[u8]> = frames
        .iter()
        .map(|frame| frame.get(14..).unwrap_or_default())
        .collect();
    let raw_corpus = part_for(RAW);
    assert!(ON_ETHERNET.len() >= 120);
    let (mut runs, mut accepted, mut idle) = (0, 0, HashSet::new());
    for (corpus, frames) in [(&*ON_ETHERNET, &ethernet), (&raw_corpus, &raw)] {
        for (expression, program) in corpus {
            let hits = agree(expression, program, frames, &pairs);
            if hits == 0 || hits == frames.len() {
                idle.insert(*expression);
            }
            accepted += hits;
            runs += frames.len();
        }
    }
    print!(
        "{} + {} programs × {} packets = {runs} runs, {accepted} accepted … ",
        ON_ETHERNET.len(),
        raw_corpus.len(),
        frames.len()
    );
    assert!(
        idle.len() < 60,
        "the packets tell too little apart: {idle:?}"
    );
}

/// A program that the kernel takes, of any instructions there are.
fn random_program(random: &mut Random) -> Program {
    const LOADS: [u16; 7] = [0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1];
    const ALU: [u16; 10] = [0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xa0];
    let ancillary = [
        Ancillary::Protocol,
        Ancillary::PacketType,
        Ancillary::InterfaceIndex,
        Ancillary::Mark,
        Ancillary::Queue,
        Ancillary::VlanTag,
        Ancillary::VlanPresent,
        Ancillary::VlanProtocol,
    ];
    let interesting = [
        0,
        1,
        2,
        4,
        6,
        12,
        14,
        20,
        31,
        0x0800,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ];
    let body = 1 + random.below(40);
    let mut insns: Vec<_> = (0..4).map(|cell| Insn::new(0x02, 0, 0, cell)).collect();
    for at in 0..body {
        let left = body - at;
        let constant = match random.below(3) {
            0 => random.pick(&interesting),
            1 => random.word() & 0xff,
            _ => random.word(),
        };
        let source = random.pick(&[0_u16, 8]);
        insns.push(match random.below(12) {
            0..3 => {
                let near = u32::try_from(random.below(70)).unwrap();
                let far = [
                    0_u32,
                    0xffff_ffff,
                    0xfff0_0000,
                    0xffe0_0000,
                    0x7fff_fff0,
                    0x8000_0000,
                ];
                let base = if random.below(4) == 0 {
                    random.pick(&far)
                } else {
                    0
                };
                let code = random.pick(&LOADS);
                Insn::new(code, 0, 0, base.wrapping_add(near))
            }
            3 => Insn::new(0x20, 0, 0, random.pick(&ancillary).k()),
            4..6 => {
                let op = random.pick(&ALU);
                let k = match op {
                    0x60 | 0x70 => constant % 32,
                    0x30 | 0x90 => constant.max(1),
                    _ => constant,
                };
                Insn::new(0x04 | op | source, 0, 0, k)
            }
            6 => random.pick(&[
                Insn::new(0x84, 0, 0, 0),
                Insn::new(0x07, 0, 0, 0),
                Insn::new(0x87, 0, 0, 0),
                Insn::new(0x80, 0, 0, 0),
                Insn::new(0x81, 0, 0, 0),
                Insn::new(0x20, 0, 0, 0xffff_f000 + 40),
            ]),
            7 => Insn::new(random.pick(&[0x00, 0x01]), 0, 0, constant),
            8 => {
                let cell = u32::try_from(random.below(4)).unwrap();
                Insn::new(random.pick(&[0x02, 0x03, 0x60, 0x61]), 0, 0, cell)
            }
            9 => Insn::new(
                0x05,
                0,
                0,
                u32::try_from(random.below(left.min(3))).unwrap(),
            ),
            10 if random.below(4) == 0 => Insn::new(
                random.pick(&[0x06, 0x16]),
                0,
                0,
                random.pick(&[0, 1, 20, 65535]),
            ),
            _ => {
                let code = 0x05 | random.pick(&[0x10, 0x20, 0x30, 0x40]) | source;
                let mut skip = || u8::try_from(random.below(left.min(5))).unwrap();
                Insn::new(code, skip(), skip(), constant)
            }
        });
    }
    let last = random.pick(&[(0x06, 0), (0x06, 40), (0x06, u32::MAX), (0x16, 0)]);
    insns.push(Insn::new(last.0, 0, 0, last.1));
    match Program::new(insns) {
        Ok(program) => program,
        // A load that happened to be an ancillary one.
        Err(ProgramError::UnknownAncillary { .. } | ProgramError::NotOfThePacket { .. }) => {
            random_program(random)
        }
        Err(error) => panic!("{error}"),
    }
}

fn random_programs_agree() {
    const PROGRAMS: usize = 1500;
    let mut random = Random(SEED);
    let frames = packets::frames(&mut random);
    let pairs = (Pair::new(), Pair::new());
    let mut accepted = 0;
    for index in 0..PROGRAMS {
        let program = random_program(&mut random);
        if program
            .ops()
            .contains(&Op::LoadAncillary(Ancillary::HardwareType))
        {
            continue;
        }
        let frames: Vec<&[u8]> = (0..30)
            .map(|_| random.below(frames.len()))
            .map(|index| &*frames[index])
            .collect();
        accepted += agree(&format!("program {index}"), &program, &frames, &pairs);
    }
    print!("{} runs, {accepted} accepted … ", PROGRAMS * 30);
}

/// Few bytes, few values, many tests: nearly every load was done before on some way to it, and
/// nearly every test is settled on some.
fn repeated_loads_agree() {
    const PROGRAMS: usize = 4000;
    let mut random = Random(SEED);
    let pairs = (Pair::new(), Pair::new());
    let (mut accepted, mut shorter) = (0, 0);
    for index in 0..PROGRAMS {
        let program = repetitive_program(&mut random);
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
        let program = program_of_loads(&mut random);
        let mut frame: Vec<u8> = (0..70)
            .map(|_| random.pick(&[0, 1, 5, 0x45, 0xff]))
            .collect();
        frame[random.below(16)] = 0x45;
        let frames: Vec<&[u8]> = (0..=frame.len()).map(|end| &frame[..end]).collect();
        all(&format!("program {index}"), &program, &frames);
    }
    let frames = packets::frames(&mut random);
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

fn program_of_loads(random: &mut Random) -> Program {
    let body = 4 + random.below(24);
    let mut insns: Vec<_> = (0..2).map(|cell| Insn::new(0x02, 0, 0, cell)).collect();
    for at in 0..body {
        let left = body - at;
        let mut jump = || u8::try_from(random.below(left.min(4))).unwrap();
        let (jt, jf) = (jump(), jump());
        let offset = u32::try_from(random.below(48)).unwrap();
        let value = random.pick(&[0, 1, 5, 20, 0x45, 0xff]);
        insns.push(match random.below(16) {
            0..6 => Insn::new(random.pick(&[0x20, 0x28, 0x30]), 0, 0, offset),
            6..8 => Insn::new(random.pick(&[0x40, 0x48, 0x50]), 0, 0, offset / 2),
            8 => Insn::new(0xb1, 0, 0, offset / 2),
            9 => Insn::new(0x01, 0, 0, random.pick(&[0, 19, 20, 21, u32::MAX])),
            10 => Insn::new(random.pick(&[0x02, 0x03, 0x60, 0x61]), 0, 0, offset & 1),
            11 => Insn::new(random.pick(&[0x07, 0x87]), 0, 0, 0),
            12 => Insn::new(random.pick(&[0x0c, 0x04, 0x54]), 0, 0, value),
            _ => Insn::new(random.pick(&[0x15, 0x25, 0x45]), jt, jf, value),
        });
    }
    insns.push(Insn::new(0x45, 0, 1, random.pick(&[1, 0xff, u32::MAX])));
    insns.push(Insn::new(0x06, 0, 0, random.pick(&[0, 65535])));
    insns.push(Insn::new(random.pick(&[0x06, 0x16]), 0, 0, 65535));
    Program::new(insns).unwrap_or_else(|error| panic!("{error}"))
}

fn repetitive_program(random: &mut Random) -> Program {
    let body = 3 + random.below(40);
    let mut insns: Vec<_> = (0..2).map(|cell| Insn::new(0x02, 0, 0, cell)).collect();
    for at in 0..body {
        let left = body - at;
        let mut jump = || u8::try_from(random.below(left.min(8))).unwrap();
        let (jt, jf) = (jump(), jump());
        let offset = u32::try_from(random.below(4)).unwrap();
        let value = random.pick(&[0, 1, 1, 2]);
        insns.push(match random.below(16) {
            0..6 => Insn::new(random.pick(&[0x30, 0x30, 0x28]), 0, 0, offset),
            6..11 => Insn::new(0x15, jt, jf, value),
            11 => Insn::new(random.pick(&[0x25, 0x35, 0x45]), jt, jf, value),
            12 => Insn::new(0x05, 0, 0, jt.into()),
            13 => Insn::new(random.pick(&[0x02, 0x60]), 0, 0, offset & 1),
            14 => Insn::new(random.pick(&[0x07, 0x87, 0xb1, 0x50, 0x80]), 0, 0, offset),
            _ => Insn::new(random.pick(&[0x04, 0x0c, 0x54, 0x00]), 0, 0, value),
        });
    }
    insns.push(Insn::new(0x15, 0, 1, random.pick(&[0, 1])));
    insns.push(Insn::new(0x06, 0, 0, random.pick(&[0, 65535])));
    insns.push(Insn::new(random.pick(&[0x06, 0x16]), 0, 0, 65535));
    Program::new(insns).unwrap_or_else(|error| panic!("{error}"))
}

fn validation_agrees() {
    const PROGRAMS: usize = 20_000;
    let mut random = Random(SEED);
    let pair = Pair::new();
    let mut taken = 0;
    for _ in 0..PROGRAMS {
        let mut insns = random_program(&mut random).insns().to_vec();
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
        let theirs = syscalls::attach_classic(&pair.1, &insns);
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
    let frames = packets::frames(&mut random);
    let pair = Pair::new();
    for _ in 0..300 {
        let parts: Vec<_> = (0..2 + random.below(2))
            .map(|_| &ON_ETHERNET[random.below(ON_ETHERNET.len())])
            .collect();
        let programs: Vec<_> = parts.iter().map(|(_, program)| program).collect();
        syscalls::attach_ebpf(&pair.1, &load(&programs)).unwrap();
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

fn large_filters_load() {
    let hosts: Vec<_> = (1..=130).map(|n| format!("host 10.0.0.{n}")).collect();
    let program = compiler().compile(&hosts.join(" or "), LinkType::EN10MB, Origin::Policy);
    let program = program.unwrap().unwrap();
    let code = translate(&program).unwrap();
    let pair = Pair::new();
    let start = Instant::now();
    syscalls::attach_ebpf(&pair.1, &load(&[&program])).unwrap();
    print!(
        "{} → {} instructions in {:.0} ms … ",
        program.insns().len(),
        code.len(),
        start.elapsed().as_secs_f32() * 1000.0
    );
    for frame in packets::frames(&mut Random(SEED)) {
        let ours = interpret(&program, &Packet::new(&frame, Meta::default()));
        assert_eq!(pair.deliver(&frame).is_some(), ours != 0);
    }
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
    syscalls::enter_empty_network().unwrap();
    let mut frames = packets::frames(&mut Random(SEED));
    // The kernel sends nothing that has no whole link header.
    frames.retain(|frame| frame.len() > 14);
    let frames: Vec<_> = frames.into_iter().step_by(2).collect();
    let sender = syscalls::packet_socket(libc::SOCK_RAW).unwrap();
    syscalls::set_mark(&sender, MARK).unwrap();
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
        let reference = syscalls::packet_socket(libc::SOCK_RAW).unwrap();
        let [classic, translated] = [(); 2].map(|()| syscalls::packet_socket(kind).unwrap());
        for (expression, program) in corpus {
            syscalls::attach_classic(&classic, program.insns()).unwrap();
            syscalls::attach_ebpf(&translated, &load(&[program])).unwrap();
            for frame in &frames {
                syscalls::send_frame(&sender, frame).unwrap();
            }
            let drain = |socket: &OwnedFd| {
                std::iter::from_fn(|| syscalls::receive_packet(socket).unwrap()).collect::<Vec<_>>()
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
