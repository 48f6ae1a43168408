//! Interface names and globs.

use std::fmt;

use super::{InterfacePattern, source};

/// Bytes that the name of a Linux interface may have (`IFNAMSIZ` less the terminator).
pub(super) const MAX_NAME: usize = 15;

/// Bytes that a glob may have: more than a name, as `*` may stand for nothing.
const MAX_GLOB: usize = 64;

impl InterfacePattern {
    /// Reads an interface name (`lo`) or a glob over names (`veth*`, `eth?`), as a policy lists
    /// them. `any` is no pattern.
    ///
    /// # Errors
    ///
    /// A sentence that says why no interface can have such a name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(bad) = text
            .chars()
            .find(|c| matches!(c, '[' | ']' | '{' | '}' | '!' | '\\'))
        {
            return Err(format!(
                "`{bad}` has no meaning in an interface glob: only `*` and `?` do."
            ));
        }
        let glob = text.contains(['*', '?']);
        if glob && text.len() > MAX_GLOB {
            return Err(format!(
                "A glob over interface names has at most {MAX_GLOB} bytes."
            ));
        }
        let shape = if glob {
            source::refuse_glob(text)
        } else {
            source::refuse(text)
        };
        match shape {
            Some(reason) => Err(reason),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The name or glob as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this names one interface rather than a family of them.
    #[must_use]
    pub fn is_name(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether an interface of this name is meant: `*` stands for any run of characters, `?` for
    /// any one; case matters, as it does to the kernel.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        glob(&self.0, name)
    }

    /// Whether only the case of the letters keeps the name from matching.
    pub(super) fn matches_but_for_case(&self, name: &str) -> bool {
        glob(&self.0.to_lowercase(), &name.to_lowercase())
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Greedy matching that goes back to the last `*` only: time is at most the product of the
/// lengths, whatever the pattern.
fn glob(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let here = name.clone();
        match (pattern.next(), name.next()) {
            (Some('*'), _) => {
                name = here;
                retry = Some((pattern.clone(), name.clone()));
            }
            (None, None) => return true,
            (Some('?'), Some(_)) => {}
            (Some(p), Some(n)) if p == n => {}
            _ => {
                let Some((after_star, mut rest)) = retry.take() else {
                    return false;
                };
                if rest.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                name = rest.clone();
                retry = Some((after_star, rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, expected) in [
            ("lo", "lo", true),
            ("lo", "lo0", false),
            ("lo", "LO", false),
            ("lo", "l", false),
            ("*", "", true),
            ("*", "eth0", true),
            ("veth*", "veth", true),
            ("veth*", "veth12", true),
            ("veth*", "myveth1", false),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("*a*b", "xaxxbxb", true),
            ("*a*b", "xaxxbxc", false),
            ("br-*-?", "br-a-b-c", true),
            ("**", "x", true),
            ("?*", "", false),
            ("é?", "éa", true),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn matching_is_not_exponential() {
        assert!(!glob(&"*a".repeat(32), &"a".repeat(31)));
    }

    #[test]
    fn patterns_that_no_interface_can_match_are_refused() {
        for bad in [
            "",
            "eth[01]",
            "averyveryverylongname",
            "eth 0",
            "a/b",
            "eth0:1",
            ".",
            "..",
            "any",
            "nflog",
            "usbmon*",
            "dbus-*",
            "nfqueue*",
            "bluetooth?",
            "4",
            "-i",
            "lo,eth0",
            "lo\n",
        ] {
            assert!(InterfacePattern::parse(bad).is_err(), "{bad}");
        }
        for good in [
            "lo",
            "veth*",
            "*",
            "?",
            "en*",
            "wlp3s0",
            "br-0a1b2c3d4e5f",
            "4g0",
            "eth0.100",
            "dagobah0",
        ] {
            assert!(InterfacePattern::parse(good).is_ok(), "{good}");
        }
    }
}
