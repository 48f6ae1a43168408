//! What libpcap itself makes of an expression.

use capwarden::filter::{Insn, LinkType, Program, SocketForm, rewrite_for_cooked};

/// The whole expression as libpcap compiles it, unoptimised. None: it does not.
pub fn compile(expression: &str, form: SocketForm) -> Option<Program> {
    let link = match form {
        SocketForm::Raw(link) => link,
        SocketForm::Cooked => LinkType::LINUX_SLL2,
    };
    let capture = pcap::Capture::dead(pcap::Linktype(link.0)).unwrap();
    let program = capture.compile(expression, false).ok()?;
    let insns = program.get_instructions().iter().map(|insn| {
        let text = insn.to_string();
        let fields: Vec<u32> = text
            .split(' ')
            .map(|field| field.parse().unwrap())
            .collect();
        let [code, jt, jf, k] = fields[..] else {
            panic!("{text}");
        };
        Insn::new(
            code.try_into().unwrap(),
            jt.try_into().unwrap(),
            jf.try_into().unwrap(),
            k,
        )
    });
    let program = Program::new(insns.collect()).unwrap();
    Some(match form {
        SocketForm::Raw(_) => program,
        SocketForm::Cooked => rewrite_for_cooked(&program).ok()?,
    })
}
