//! What was refused, in words.

use capwarden_abi::lsm::{Denial, hook};
use rustix::io::Errno;

use crate::kernel::{
    broker::{Caller, Refusal},
    deputy::services,
};

/// None if it is too short to be one.
pub(super) fn read(bytes: &[u8]) -> Option<Denial> {
    if bytes.len() < size_of::<Denial>() {
        return None;
    }
    // SAFETY: there are enough bytes, and any are valid for plain integers.
    Some(unsafe { bytes.as_ptr().cast::<Denial>().read_unaligned() })
}

/// Who was refused what.
pub(super) fn describe(denial: &Denial) -> (Caller, Refusal) {
    let name = denial.name.split(|byte| *byte == 0).next();
    let caller = Caller {
        thread: denial.thread,
        process: denial.process,
        name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
    };
    let refusal = Refusal {
        errno: Errno::PERM,
        reason: format!("backstop: {}", reason(denial)),
    };
    (caller, refusal)
}

fn reason(denial: &Denial) -> String {
    let [first, second, third] = denial.details;
    match denial.hook {
        hook::CREATE => format!(
            "a socket of family {first}, type {second} and protocol {third} sees other traffic than its own"
        ),
        hook::BIND => "a packet socket was bound that no capture session has armed".to_owned(),
        hook::SEND => "a capture socket is for receiving; a frame was to be sent by it".to_owned(),
        hook::OPTION => format!(
            "option {second} of level {first} would let packets past the guard of a capture socket, or frames out of it"
        ),
        hook::RECEIVE_SOCKET => format!(
            "a socket of family {first}, type {second} and protocol {third} came from another process, and no capture session has armed it"
        ),
        hook::RECEIVE_OBJECT => {
            "a program, map or event of the kernel came from another process".to_owned()
        }
        hook::NAMESPACE => "a user namespace gives capabilities".to_owned(),
        hook::BPF => format!("bpf, command {first}, is for the privileged"),
        hook::PTRACE => {
            format!("process {first} does not belong to the governed tree, and was to be traced")
        }
        hook::CONNECT => format!(
            "{} would start programs that are not governed",
            services::name(first)
        ),
        other => format!("hook {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_tells_who_and_what_whatever_the_bytes() {
        let mut denial = Denial {
            hook: hook::SEND,
            process: 7,
            thread: 8,
            ..Denial::default()
        };
        denial.name = *b"ncat\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
        let (caller, refusal) = describe(&denial);
        assert_eq!((caller.process, caller.thread), (7, 8));
        assert_eq!(caller.name, "ncat");
        assert!(refusal.reason.contains("frame"), "{}", refusal.reason);
        let mut reasons = Vec::new();
        for hook in 1..=10 {
            denial.hook = hook;
            reasons.push(reason(&denial));
        }
        reasons.sort();
        reasons.dedup();
        assert_eq!(reasons.len(), 10, "each hook has words of its own");
        assert_eq!(read(&[0; 8]), None);
    }
}
