//! Values on the command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    kernel::Deputy,
    policy::{Payload, Replies},
};

/// Whom a server or a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// By name.
    Name(String),
    /// By number.
    Id(u32),
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Where clients come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Listen {
    /// An address, for HTTP.
    Http(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

pub(in crate::cli) fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(Listen::Unix(path.into()))
        } else {
            Err(
                "the path of a socket is written from the root: unix:/run/capwarden.sock"
                    .to_owned(),
            )
        };
    }
    let address = text.parse().map_err(|_| {
        "it is an address and a port, or a path: 127.0.0.1:8808, unix:/run/capwarden.sock"
            .to_owned()
    })?;
    Ok(Listen::Http(address))
}

pub(in crate::cli) fn user(text: &str) -> Result<User, String> {
    if text.is_empty() {
        return Err("it is a user's name or number".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The largest number means "no change" to the system calls.
        return match text.parse() {
            Ok(id) if id != u32::MAX => Ok(User::Id(id)),
            _ => Err("no user has such a number".to_owned()),
        };
    }
    Ok(User::Name(text.to_owned()))
}

pub(in crate::cli) fn deputy(text: &str) -> Result<Deputy, String> {
    Deputy::of(text).ok_or_else(|| {
        let names = Deputy::ALL.map(Deputy::name).join(", ");
        format!("it is one of {names}")
    })
}

pub(in crate::cli) fn size(text: &str) -> Result<Size, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("it is a number with B, KiB, MiB, GiB, kB, MB or GB: 50MiB".to_owned()),
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(0) => Err("it must be more than 0".to_owned()),
        Some(bytes) => Ok(Size(bytes)),
        None => Err("it is a number of bytes: 50MiB".to_owned()),
    }
}

pub(in crate::cli) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text
        .parse()
        .map_err(|_| "it is a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(Duration::ZERO) => Err("it must be more than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

pub(in crate::cli) fn payload(text: &str) -> Result<Payload, String> {
    match text {
        "full" => Ok(Payload::Full),
        "headers" => Ok(Payload::Bytes(0)),
        bytes => bytes
            .parse()
            .map(Payload::Bytes)
            .map_err(|_| "it is headers, full, or a number of bytes".to_owned()),
    }
}

/// In whose words denials are told.
pub(in crate::cli) fn replies(text: &str) -> Result<Replies, String> {
    Replies::named(text).ok_or_else(|| "it is ours, policylayer or intercept".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("10B", 10),
            ("50MiB", 50 << 20),
            ("2 kB", 2000),
            ("3GB", 3_000_000_000),
        ] {
            assert_eq!(size(text), Ok(Size(bytes)), "{text}");
        }
        for bad in [
            "",
            "MiB",
            "0",
            "-1",
            "1.5MiB",
            "5M",
            "99999999999GiB",
            "1KiBx",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listeners() {
        let http = |text: &str| Listen::Http(text.parse().unwrap());
        for good in ["127.0.0.1:8808", "[::1]:1", "127.1.2.3:0", "10.0.0.1:443"] {
            assert_eq!(listen(good), Ok(http(good)));
        }
        assert_eq!(listen("unix:/run/x"), Ok(Listen::Unix("/run/x".into())));
        for (bad, why) in [
            ("localhost:80", "an address"),
            ("127.0.0.1", "an address"),
            ("unix:x", "from the root"),
        ] {
            assert!(listen(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn users() {
        assert_eq!(user("65534"), Ok(User::Id(65534)));
        assert_eq!(user("nobody"), Ok(User::Name("nobody".to_owned())));
        assert!(user("").is_err() && user("4294967295").is_err() && user("9999999999").is_err());
    }

    #[test]
    fn times_and_payloads() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "-1", "NaN", "inf", "1e300", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(payload("headers"), Ok(Payload::Bytes(0)));
        assert_eq!(payload("64"), Ok(Payload::Bytes(64)));
        assert_eq!(payload("full"), Ok(Payload::Full));
        assert!(payload("some").is_err());
    }
}
