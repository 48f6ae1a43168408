//! Text: libpcap compiles it or says why not, and what it makes can be used or is refused.

use capwarden::filter::{
    Ancillary, CompileError, LinkType, MAX_INSTRUCTIONS, Meta, Op, Origin, Packet, Program,
    SocketForm, TranslateError, answer_request, compile_with, interpret, rewrite_for_cooked,
    see_vlan_tags, translate,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const FORMS: [SocketForm; 8] = [
    SocketForm::Raw(LinkType::EN10MB),
    SocketForm::Cooked,
    SocketForm::Raw(LinkType::RAW),
    SocketForm::Raw(LinkType::NULL),
    SocketForm::Raw(LinkType::PPP),
    SocketForm::Raw(LinkType::LINUX_SLL),
    SocketForm::Raw(LinkType::IEEE802_11),
    SocketForm::Raw(LinkType::IEEE802_11_RADIO),
];

/// A form of socket, from `0` to `7`, and an expression; or `=` and what a child answers.
pub fn expression(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    if *first == b'=' {
        let child = |_: &[u8]| Ok(rest.to_vec());
        if let Ok(Some(program)) = compile_with("tcp", LinkType::EN10MB, Origin::Request, child) {
            used(SocketForm::Cooked, program);
        }
        return;
    }
    let text = String::from_utf8_lossy(rest);
    let form = FORMS[usize::from(*first) % FORMS.len()];
    let link = match form {
        SocketForm::Raw(link) => link,
        SocketForm::Cooked => LinkType::LINUX_SLL2,
    };
    let child = |request: &[u8]| Ok(closed(|| answer_request(request))?);
    match compile_with(&text, link, Origin::Request, child) {
        Ok(Some(program)) => used(form, program),
        Ok(None) => assert!(text.trim().is_empty()),
        Err(CompileError::ChildFailed(message)) => panic!("{message}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Runs something that can open nothing: no file, no socket, and so no name server.
fn closed<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(Rlimit);
    impl Drop for Restore {
        fn drop(&mut self) {
            setrlimit(Resource::Nofile, self.0).unwrap();
        }
    }
    let before = getrlimit(Resource::Nofile);
    let closed = Rlimit {
        current: Some(0),
        maximum: before.maximum,
    };
    let _restore = Restore(before);
    setrlimit(Resource::Nofile, closed).unwrap();
    work()
}

fn used(form: SocketForm, program: Program) {
    assert!(program.insns().len() <= MAX_INSTRUCTIONS);
    let program = match form {
        SocketForm::Raw(LinkType::EN10MB) => match see_vlan_tags(&program) {
            Ok(seeing) => seeing,
            Err(error) => return assert!(!error.to_string().is_empty()),
        },
        SocketForm::Raw(_) => program,
        SocketForm::Cooked => match rewrite_for_cooked(&program) {
            Ok(rewritten) => {
                assert_eq!(rewritten.insns().len(), program.insns().len());
                rewritten
            }
            Err(error) => return assert!(!error.to_string().is_empty()),
        },
    };
    for length in [0, 13, 34, 60, 200] {
        let mut bytes = vec![0; length];
        for (at, value) in [(12, 8), (14, 0x45), (23, 6)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let _ = interpret(&program, &Packet::new(&bytes, Meta::default()));
    }
    match translate(&program) {
        Ok(code) => assert!(code.len() <= 32 + 24 * program.ops().len()),
        Err(TranslateError::JumpTooFar { distance }) => assert!(distance > 32_000),
        Err(TranslateError::HardwareType { at }) => {
            let hardware_type = Op::LoadAncillary(Ancillary::HardwareType);
            assert_eq!(program.ops().get(at), Some(&hardware_type));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_opened() {
        let opened = closed(|| std::fs::File::open("/dev/null"));
        assert!(opened.is_err());
        std::fs::File::open("/dev/null").unwrap();
    }
}
