//! Whether a process that somebody else has confined is as it has to be, by what the kernel says of it.

use std::fs;

use crate::kernel::{process::status_field, sys, users::Credentials};

/// What is different from what it has to be; none if nothing is. The process waits for the agent, so that
/// it stays as it is.
pub(super) fn difference(process: u32, credentials: &Credentials) -> Option<String> {
    match fs::read_to_string(format!("/proc/{process}/status")) {
        Ok(status) => of_status(&status, credentials),
        Err(error) => Some(format!("the process cannot be looked at: {error}")),
    }
}

fn of_status(status: &str, credentials: &Credentials) -> Option<String> {
    let field = |name: &str| status_field(status, name);
    let numbers = |name: &str| -> Vec<Option<u32>> {
        let words = field(name).unwrap_or_default().split_whitespace();
        words.map(|word| word.parse().ok()).collect()
    };
    let (user, group) = (credentials.user, credentials.group);
    // Real, effective, saved, and for files.
    if numbers("Uid") != [Some(user); 4] {
        return Some(format!("it does not run as the user {user} alone"));
    }
    if numbers("Gid") != [Some(group); 4] {
        return Some(format!("it does not run in the group {group} alone"));
    }
    let lent = numbers("Groups").into_iter().find(|member| {
        member.is_none_or(|member| member != group && !credentials.groups.contains(&member))
    });
    if let Some(lent) = lent {
        let which = lent.map_or_else(String::new, |group| format!(" {group}"));
        return Some(format!(
            "its user is in the group{which}, which may lend it the hands of a daemon; give servers a user of their own, or say which daemon they may `reach`"
        ));
    }
    let nothing =
        |name: &&&str| field(name).is_none_or(|set| set.bytes().any(|digit| digit != b'0'));
    if let Some(set) = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
        .iter()
        .find(nothing)
    {
        return Some(format!("it has capabilities ({set})"));
    }
    // What a file on disk may name cannot be gained, but has to be there for it to be executed at all.
    let most = field("CapBnd").and_then(|set| u64::from_str_radix(set, 16).ok());
    if most.is_none_or(|most| most & !sys::kept_in_bounding_set() != 0) {
        return Some("its capability bounding set is not empty (CapBnd)".to_owned());
    }
    // What is told is the first thread's: another could be as it likes.
    if field("Threads") != Some("1") {
        return Some("it has more threads than one".to_owned());
    }
    if field("NoNewPrivs") != Some("1") {
        return Some("it may gain privileges by what it executes".to_owned());
    }
    if field("Seccomp") != Some("2") {
        return Some("it is under no seccomp filter".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tserver\nUid:\t998\t998\t998\t998\nGid:\t997\t997\t997\t997\nGroups:\t997 110 \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000003000\n\
        CapAmb:\t0000000000000000\nThreads:\t1\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn every_difference_is_seen() {
        let mut credentials = Credentials::choose(Some("998")).unwrap();
        (credentials.group, credentials.groups) = (997, vec![110]);
        assert_eq!(of_status(STATUS, &credentials), None);
        assert_eq!(
            of_status(
                &STATUS.replace("Groups:\t997 110 ", "Groups:\t"),
                &credentials
            ),
            None
        );
        for (as_it_is, otherwise, told) in [
            ("998\t998\t998\t998", "998\t998\t0\t998", "the user 998"),
            ("998\t998\t998\t998", "0\t0\t0\t0", "the user 998"),
            ("Uid:", "Uids:", "the user 998"),
            ("997\t997\t997\t997", "997\t0\t997\t997", "the group 997"),
            ("997 110", "997 110 999", "the group 999"),
            ("997 110", "997 x", "the group"),
            ("CapInh:\t0", "CapInh:\t1", "CapInh"),
            ("CapPrm:\t0", "CapPrm:\tf", "CapPrm"),
            ("CapEff:\t00", "CapEff:\t01", "CapEff"),
            ("CapAmb:\t0000", "CapAmb:\t0010", "CapAmb"),
            ("CapEff", "Capeff", "CapEff"),
            (
                "CapBnd:\t0000000000003000",
                "CapBnd:\t0000000000203000",
                "CapBnd",
            ),
            ("CapBnd", "Capbnd", "CapBnd"),
            ("Threads:\t1", "Threads:\t2", "threads"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "gain privileges"),
            ("Seccomp:\t2", "Seccomp:\t0", "no seccomp filter"),
        ] {
            let status = STATUS.replace(as_it_is, otherwise);
            assert_ne!(status, STATUS, "{as_it_is}");
            let different = of_status(&status, &credentials).unwrap();
            assert!(different.contains(told), "{different}");
        }
        assert!(difference(u32::MAX, &credentials).is_some());
    }
}
