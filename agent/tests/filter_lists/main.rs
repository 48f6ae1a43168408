//! Long lists of addresses and ports: the same as libpcap's chain, and quick.
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

mod chain;
mod lists;
mod traffic;

use std::{
    env, fs,
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use capwarden::{
    filter::{
        Budget, COMPILE_VERB, CompileError, Compiler, Containment, Equivalence, LinkType, Meta,
        Origin, Packet, Program, SocketForm, compile_child, equivalent, interpret, prove_measured,
        translate,
    },
    kernel::{Guard, GuardError, GuardPlan},
};
use capwarden_abi::{LINK_ETHERNET, PAYLOAD_FULL, Terms};
use lists::Random;

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(COMPILE_VERB) {
        return compile_child();
    }
    let tests: &[(&str, fn())] = &[
        ("same_as_the_chain", same_as_the_chain),
        ("thousands_of_members", thousands_of_members),
        ("errors_are_libpcaps", errors_are_libpcaps),
        ("what_libpcap_sees_is_bounded", what_libpcap_sees_is_bounded),
        ("compiled_in_time", compiled_in_time),
        ("the_kernel_takes_them", the_kernel_takes_them),
        ("proved_in_time", proved_in_time),
    ];
    let wanted = env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    for &(name, test) in tests {
        if wanted
            .as_ref()
            .is_some_and(|wanted| !name.contains(wanted.as_str()))
        {
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

const ETHERNET: SocketForm = SocketForm::Raw(LinkType::EN10MB);

fn compile(expression: &str, form: SocketForm) -> Result<Program, CompileError> {
    let compiler = Compiler::new(env::current_exe().unwrap());
    let program = compiler.compile_for(expression, form, Origin::Policy)?;
    Ok(program.expect("the expression is not empty"))
}

fn compiled(expression: &str, form: SocketForm) -> Program {
    let short: String = expression.chars().take(200).collect();
    compile(expression, form).unwrap_or_else(|error| panic!("{short}: {error}"))
}

fn budget() -> Budget {
    Budget {
        time: Duration::from_secs(60),
        ..Budget::default()
    }
}

/// Lists of all kinds, in all surroundings, for all link types, by the prover: what is compiled
/// accepts what libpcap's chain accepts. The one exception is as documented.
fn same_as_the_chain() {
    let forms = [
        ETHERNET,
        SocketForm::Cooked,
        SocketForm::Raw(LinkType::RAW),
        SocketForm::Raw(LinkType::LINUX_SLL),
        SocketForm::Raw(LinkType::NULL),
        SocketForm::Raw(LinkType::PPP),
    ];
    let mut random = Random(5);
    let (mut shorter, mut proved, mut well_formed) = (0, 0, 0);
    for (number, case) in lists::cases(&mut random).into_iter().enumerate() {
        for (turn, form) in forms.into_iter().enumerate() {
            // Every case for Ethernet, and each in turn for one of the others.
            if turn > 0 && number % (forms.len() - 1) != turn - 1 {
                continue;
            }
            let Some(chain) = chain::compile(&case.expression, form) else {
                assert!(
                    compile(&case.expression, form).is_err(),
                    "{}",
                    case.expression
                );
                continue;
            };
            let ours = compiled(&case.expression, form);
            let name = format!("{} on {form:?}", case.expression);
            let is_chain = ours.insns() == chain.insns();
            shorter += usize::from(!is_chain);
            if is_chain && env::var_os("SHOW").is_some() {
                println!("a chain: {name}");
            }
            match equivalent(&ours, &chain, form, budget()) {
                Equivalence::Equal => proved += 1,
                Equivalence::EqualWellFormed(difference) if case.six => {
                    assert_eq!(difference.first_only, Containment::Contained, "{name}");
                    well_formed += 1;
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    let all = proved + well_formed;
    print!("{proved} equal, {well_formed} equal for well-formed, {shorter} not chains … ");
    assert!(shorter > all * 9 / 10, "{shorter} of {all} are lists");
}

/// Lists of thousands, on packets to and from members, neighbours of members and others.
fn thousands_of_members() {
    let mut random = Random(6);
    let (mut packets, mut accepted) = (0, 0);
    for count in [1000, 3000] {
        for list in lists::long(&mut random, count) {
            let program = compiled(&list.expression, ETHERNET);
            for _ in 0..1500 {
                let packet = traffic::packet(&mut random, &list);
                let expected = list.accepts(&packet);
                let bytes = packet.bytes();
                let ours = interpret(&program, &Packet::new(&bytes, Meta::default())) != 0;
                let short: String = list.expression.chars().take(200).collect();
                assert_eq!(ours, expected, "{packet:?} and {short}");
                packets += 1;
                accepted += usize::from(expected);
            }
        }
    }
    print!("{packets} packets, {accepted} accepted … ");
    assert!(accepted > packets / 5 && accepted < packets * 4 / 5);
}

fn errors_are_libpcaps() {
    let hosts = lists::hosts(40, "host ").join(" or ");
    for (expression, part) in [
        (
            format!("{hosts} or host 10.0.0.256 or {hosts}"),
            "10.0.0.256",
        ),
        (
            format!("{hosts} or net 10.0.0.1/8 or {hosts}"),
            "10.0.0.1/8",
        ),
        (format!("{hosts} or host nowhere or {hosts}"), "nowhere"),
        (format!("{hosts} or"), "syntax error"),
        (format!("({hosts}"), "syntax error"),
        (
            format!("{hosts} and tcp host 10.0.0.1"),
            "'tcp' modifier applied to host",
        ),
        (
            lists::hosts(40, "ip6 host ").join(" or "),
            "'ip6' modifier applied to ip host",
        ),
    ] {
        match compile(&expression, ETHERNET) {
            Err(CompileError::Syntax { message }) => {
                assert!(message.contains(part), "{message}: {part}");
            }
            other => panic!("{expression}: {other:?}"),
        }
    }
}

fn what_libpcap_sees_is_bounded() {
    let compiler = Compiler::new(env::current_exe().unwrap());
    let compile = |text: &str, origin| compiler.compile(text, LinkType::EN10MB, origin);
    let tests = vec!["tcp[0] = 1"; 500].join(" or ");
    let refused = compile(&tests, Origin::Request);
    assert!(
        matches!(refused, Err(CompileError::ChainTooLong { limit: 4096, .. })),
        "{refused:?}"
    );
    let many = vec!["tcp[0] = 1"; 1000].join(" or ");
    let refused = compile(&many, Origin::Policy);
    assert!(
        matches!(refused, Err(CompileError::TooComplex { .. })),
        "{refused:?}"
    );
    let hosts = lists::hosts(2000, "host ").join(" or ");
    assert!(compile(&hosts, Origin::Request).is_ok());
    let long = lists::hosts(40_000, "host ").join(" or ");
    let refused = compile(&long, Origin::Request);
    assert!(
        matches!(refused, Err(CompileError::TooLong { .. })),
        "{refused:?}"
    );
}

fn compiled_in_time() {
    for (count, limit) in [(1000, 1.0), (10_000, 3.0)] {
        let mixed = lists::mixed(&mut Random(1), count).join(" or ");
        for expression in [lists::hosts(count, "host ").join(" or "), mixed] {
            let start = Instant::now();
            let program = compiled(&expression, ETHERNET);
            let took = start.elapsed().as_secs_f64();
            print!(
                "{count}: {} bytes, {:.0} ms, {} instructions, {} … ",
                expression.len(),
                took * 1e3,
                program.insns().len(),
                translate(&program).unwrap().len()
            );
            let limit = if cfg!(debug_assertions) {
                10.0 * limit
            } else {
                limit
            };
            assert!(took < limit, "{took} s");
        }
    }
}

fn the_kernel_takes_them() {
    for count in [100, 1000, 10_000] {
        for expression in [
            lists::hosts(count, "host ").join(" or "),
            lists::mixed(&mut Random(1), count).join(" or "),
        ] {
            let filter = translate(&compiled(&expression, ETHERNET)).unwrap();
            let insns = filter.len();
            let plan = GuardPlan {
                terms: Terms {
                    packets: 1,
                    bytes: 1,
                    deadline: 0,
                    snap: 262_144,
                    payload: PAYLOAD_FULL,
                    link: LINK_ETHERNET,
                    any_interface: 0,
                },
                raw: Some(filter),
                cooked: None,
                interfaces: vec![1],
            };
            let start = Instant::now();
            match Guard::load(&plan) {
                Ok(_) => print!(
                    "{count}: {insns} in {:.0} ms … ",
                    start.elapsed().as_secs_f64() * 1e3
                ),
                Err(GuardError::DoesNotFit { instructions, .. }) => {
                    // The verifier takes it; a socket is charged eight bytes for an instruction.
                    let room = fs::read_to_string("/proc/sys/net/core/optmem_max").unwrap();
                    let room: usize = room.trim().parse().unwrap();
                    assert!(count > 100 && 8 * instructions > room, "{instructions}");
                    print!("{count}: {insns} are too many for a socket here … ");
                }
                Err(error) => {
                    assert!(!rustix::process::geteuid().is_root(), "{count}: {error}");
                    print!("not root … ");
                }
            }
        }
    }
}

/// The questions that a policy with a long list is asked.
fn proved_in_time() {
    let all = lists::hosts(1000, "host ");
    let list = all.join(" or ");
    let fewer = all[..900].join(" or ");
    let mut other = all.clone();
    other[500] = "host 192.0.2.77".into();
    let mut turned = all.clone();
    turned.reverse();
    let sixes = lists::sixes(1000).join(" or ");
    let fewer_sixes = lists::sixes(950).join(" or ");
    let mixed = lists::mixed(&mut Random(1), 1000).join(" or ");
    let fives: Vec<_> = all.iter().step_by(5).cloned().collect();
    let (mut times, mut slow, mut memory) = (Vec::new(), 0.0, 0);
    for (requested, policy, expected) in [
        (&*list, &*list, "contained"),
        (&fewer, &list, "contained"),
        (&list, &fewer, "not"),
        (&other.join(" or "), &list, "not"),
        (&list, &other.join(" or "), "not"),
        (&turned.join(" or "), &list, "contained"),
        (&fives.join(" or "), &list, "contained"),
        (&all[700], &list, "contained"),
        ("host 192.0.2.77", &list, "not"),
        (&list, "net 10.0.0.0/8", "contained"),
        (&list, "net 10.0.0.0/24", "not"),
        ("net 10.1.0.0/16", &list, "not"),
        (&format!("tcp port 443 and ({fewer})"), &list, "contained"),
        (
            &format!("tcp port 443 and ({list})"),
            &format!("tcp and ({list})"),
            "contained",
        ),
        (
            &format!("({list}) and not port 22"),
            &format!("({list}) and not port 22"),
            "contained",
        ),
        ("tcp port 443", &format!("not ({list})"), "not"),
        (
            &format!("udp and not ({list})"),
            &format!("not ({fewer})"),
            "contained",
        ),
        (
            &format!("tcp port 443 and ({list})"),
            &format!("not ({fewer})"),
            "not",
        ),
        (&fewer_sixes, &sixes, "contained"),
        (&sixes, &fewer_sixes, "not"),
        (&sixes, "net 2001:db8::/32", "contained"),
        (&mixed, &mixed, "contained"),
        (&list, &mixed, "not"),
    ] {
        let (a, b) = (compiled(requested, ETHERNET), compiled(policy, ETHERNET));
        let (containment, cost) = prove_measured(&a, &b, ETHERNET, budget());
        let short = |text: &str| text.chars().take(40).collect::<String>();
        let name = format!("{} WITHIN {}", short(requested), short(policy));
        if env::var_os("SHOW").is_some() {
            let words = containment
                .counterexample()
                .map(|one| one.in_words(ETHERNET));
            println!("{name}: {cost:?} {words:?}");
        }
        let got = match containment {
            Containment::Contained => "contained",
            Containment::ContainedWellFormed { .. } => "well-formed",
            Containment::NotContained { .. } => "not",
            Containment::Unknown { .. } => "unknown",
        };
        // In packets that end within an address, the order of the members decides.
        let well = matches!((got, expected), ("well-formed", "contained"));
        assert!(got == expected || well, "{name}: {containment:?}");
        let milliseconds = cost.time.as_secs_f64() * 1e3;
        memory = memory.max(cost.bytes);
        if std::ptr::eq(policy, &*sixes) {
            slow = milliseconds;
        } else {
            times.push(milliseconds);
        }
    }
    times.sort_by(f64::total_cmp);
    let worst = times[times.len() - 1];
    print!(
        "median {:.1} ms, worst {worst:.1} ms, IPv6 in IPv6 {slow:.0} ms, {} kB at most … ",
        times[times.len() / 2],
        memory / 1000
    );
    assert!(memory < 100_000_000);
    assert!(cfg!(debug_assertions) || worst < 1000.0);
}
