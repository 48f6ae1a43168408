//! What the two sides of a row come to.

use crate::{
    errno,
    row::{Must, Row, Seen},
    sys::Way,
};

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It works without capwarden, and was stopped as it must be.
    Passed,
    /// It works, as is stated.
    Residual(String),
    /// This host cannot do it without capwarden either, for this reason.
    Skipped(String),
    /// None of these.
    Failed(String),
}

impl Mark {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Residual(_) => "residual",
            Self::Skipped(_) => "skipped",
            Self::Failed(_) => "failed",
        }
    }

    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Passed => "",
            Self::Residual(why) | Self::Skipped(why) | Self::Failed(why) => why,
        }
    }
}

/// What a host has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// The layers that capwarden finds.
    pub(crate) layers: Vec<String>,
    /// The doors that are closed, and what whoever tries one sees.
    pub(crate) closed: Vec<(Way, Seen)>,
}

impl Host {
    fn has(&self, layer: &str) -> bool {
        self.layers.iter().any(|found| found == layer)
    }

    /// Whether this was seen because a door is closed.
    fn has_closed(&self, way: Way, seen: &Seen) -> bool {
        let mut closed = self.closed.iter();
        closed.any(|(door, shown)| *door == way && shown == seen)
    }
}

/// Judges a row by what attackers saw without capwarden and under it.
pub(crate) fn judge(
    row: &Row,
    user: u32,
    way: Way,
    free: &Seen,
    governed: &Seen,
    host: &Host,
) -> Mark {
    let must = row.must(user);
    let works = |seen: &Seen| match (seen, must) {
        (Seen::Won(_), _) => true,
        (Seen::Heard(count), Must::Heard(most)) => *count > most,
        (Seen::Heard(count), _) => *count > 0,
        _ => false,
    };
    if !works(free) {
        let closed = host.has_closed(way, free);
        let absent = matches!(free, Seen::Errno(found) if row.absent.contains(found));
        return if !closed && !absent {
            Mark::Failed("it does not work without capwarden, so it proves nothing".into())
        } else if works(governed) {
            Mark::Failed("it works under capwarden, and without it this kernel cannot do it".into())
        } else if closed {
            let (door, shown) = (way.name(), shown(free));
            Mark::Skipped(format!("this kernel has no {door} calls: {shown}"))
        } else {
            Mark::Skipped(format!("without capwarden {}", shown(free)))
        };
    }
    if way != Way::Native {
        return match governed {
            Seen::Killed(libc::SIGSYS) => Mark::Passed,
            _ => Mark::Failed("a foreign system call must end in SIGSYS".into()),
        };
    }
    let stopped = match (governed, must) {
        (Seen::Errno(found), Must::Errno(wanted) | Must::ErrnoOrNothing(wanted)) => {
            *found == wanted
        }
        (Seen::Errno(found), Must::OneOf(wanted)) => wanted.contains(found),
        (Seen::Heard(count), Must::Heard(most)) => *count <= most,
        (Seen::Nothing(_), Must::Nothing | Must::ErrnoOrNothing(_)) => true,
        _ => false,
    };
    if stopped {
        return Mark::Passed;
    }
    let residual = match (must, row.needs) {
        (Must::Residual(why), _) => Some(why),
        (_, Some(needs)) if !needs.layers.iter().any(|layer| host.has(layer)) => {
            Some(needs.without)
        }
        _ => None,
    };
    match residual {
        Some(why) if works(governed) => Mark::Residual(why.to_owned()),
        Some(_) => Mark::Failed("it is stated to work, and does not".into()),
        None if works(governed) => Mark::Failed("it works under capwarden".into()),
        None => Mark::Failed(format!("the attacker must see {}", said(must))),
    }
}

/// What an attacker saw, in words.
pub(crate) fn shown(seen: &Seen) -> String {
    match seen {
        Seen::Won(what) => what.clone(),
        Seen::Heard(count) => format!("{count} packets"),
        Seen::Nothing(what) => format!("nothing: {what}"),
        Seen::Errno(value) => errno::errno(*value),
        Seen::Killed(value) => errno::signal(*value),
        Seen::Broken(why) => format!("(not tried: {why})"),
    }
}

fn said(must: Must) -> String {
    match must {
        Must::Errno(wanted) => errno::errno(wanted),
        Must::OneOf(wanted) => {
            let names: Vec<String> = wanted.iter().map(|errno| errno::errno(*errno)).collect();
            names.join(" or ")
        }
        Must::Heard(most) => format!("at most {most} packets"),
        Must::Nothing => "nothing".into(),
        Must::ErrnoOrNothing(wanted) => format!("{} or nothing", errno::errno(wanted)),
        Must::Residual(why) => why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Layer, row};

    fn check(row: &Row, way: Way, free: &Seen, governed: &Seen, layers: &[&str]) -> &'static str {
        let host = Host {
            layers: layers.iter().map(|&layer| layer.to_owned()).collect(),
            closed: vec![(Way::X32, Seen::Errno(libc::ENOSYS))],
        };
        judge(row, 65_534, way, free, governed, &host).word()
    }

    #[test]
    fn rows_pass_only_if_the_attack_works_by_itself() {
        let plain = row("T", "", Layer::Seccomp, Must::Errno(libc::EPERM), |_| {
            Err(0)
        })
        .absent(&[libc::ENOSYS]);
        let won = || Seen::Won("it".into());
        let (eperm, enosys) = (|| Seen::Errno(libc::EPERM), || Seen::Errno(libc::ENOSYS));
        let native = Way::Native;
        assert_eq!(check(&plain, native, &won(), &eperm(), &[]), "passed");
        assert_eq!(check(&plain, native, &won(), &won(), &[]), "failed");
        assert_eq!(check(&plain, native, &won(), &enosys(), &[]), "failed");
        assert_eq!(check(&plain, native, &eperm(), &eperm(), &[]), "failed");
        assert_eq!(check(&plain, native, &enosys(), &eperm(), &[]), "skipped");
        assert_eq!(check(&plain, native, &enosys(), &won(), &[]), "failed");
        let killed = || Seen::Killed(libc::SIGSYS);
        assert_eq!(check(&plain, Way::I386, &won(), &killed(), &[]), "passed");
        assert_eq!(check(&plain, Way::I386, &won(), &eperm(), &[]), "failed");
        assert_eq!(
            check(&plain, Way::X32, &enosys(), &killed(), &[]),
            "skipped"
        );
        assert_eq!(check(&plain, Way::X32, &eperm(), &killed(), &[]), "failed");
    }

    #[test]
    fn residuals_are_never_passed() {
        let needy = row("T", "", Layer::Lsm, Must::Heard(0), |_| Err(0)).needs(&["BPF LSM"], "so");
        let heard = Seen::Heard;
        let native = Way::Native;
        assert_eq!(check(&needy, native, &heard(5), &heard(5), &[]), "residual");
        assert_eq!(check(&needy, native, &heard(5), &heard(0), &[]), "passed");
        assert_eq!(
            check(&needy, native, &heard(5), &heard(5), &["BPF LSM"]),
            "failed"
        );
        let stated = row("T", "", Layer::User, Must::Residual("so"), |_| Err(0));
        let won = || Seen::Won("it".into());
        assert_eq!(check(&stated, native, &won(), &won(), &[]), "residual");
        assert_eq!(
            check(&stated, native, &won(), &Seen::Errno(1), &[]),
            "failed"
        );
    }
}
