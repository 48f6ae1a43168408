//! Capture sources that are not network interfaces.
//!
//! libpcap, dumpcap and tshark take far more than interface names after `-i`: kernel log groups,
//! USB buses, message buses, remote hosts, helper programs, pipes. None of them passes the guard's
//! socket, so each is refused by name, before any pattern is looked at: a glob never admits one.

use super::interface::MAX_NAME;

/// What may follow the name of a source for the source to be meant.
#[derive(Clone, Copy)]
enum Tail {
    /// Nothing, a number, or whatever follows `:` or `-`. `dag0` is a card, `dagobah` is not.
    Number,
    /// Anything.
    Any,
}

/// Sources by the start of their names, in lower case.
const SOURCES: [(&str, Tail, &str); 29] = [
    (
        "nflog",
        Tail::Number,
        "reads packets that the firewall logs",
    ),
    (
        "nfqueue",
        Tail::Number,
        "takes packets out of a firewall queue",
    ),
    ("usbmon", Tail::Number, "reads the traffic of USB devices"),
    (
        "bluetooth",
        Tail::Number,
        "reads the traffic of Bluetooth devices",
    ),
    ("dbus-", Tail::Any, "reads the messages of a D-Bus"),
    ("dbus", Tail::Number, "reads the messages of a D-Bus"),
    (
        "rdma",
        Tail::Any,
        "reads an RDMA device, past the kernel's network stack",
    ),
    (
        "dpdk",
        Tail::Number,
        "reads a DPDK port, past the kernel's network stack",
    ),
    (
        "netmap",
        Tail::Number,
        "reads a netmap port, past the kernel's network stack",
    ),
    (
        "vale",
        Tail::Number,
        "reads a netmap switch, past the kernel's network stack",
    ),
    (
        "dag",
        Tail::Number,
        "reads an Endace card, past the kernel's network stack",
    ),
    (
        "snf",
        Tail::Number,
        "reads a Myricom card, past the kernel's network stack",
    ),
    ("tcp@", Tail::Any, "reads packets from a remote host"),
    ("rpcap:", Tail::Any, "reads packets from a remote host"),
    ("rpcaps:", Tail::Any, "reads packets from a remote host"),
    (
        "ciscodump",
        Tail::Any,
        "captures on a remote router by a helper program",
    ),
    (
        "dpauxmon",
        Tail::Any,
        "reads a display port by a helper program",
    ),
    ("randpkt", Tail::Any, "makes packets up by a helper program"),
    (
        "sdjournal",
        Tail::Any,
        "reads the system's journal by a helper program",
    ),
    (
        "sshdump",
        Tail::Any,
        "captures on a remote host by a helper program",
    ),
    (
        "sshdig",
        Tail::Any,
        "captures on a remote host by a helper program",
    ),
    (
        "udpdump",
        Tail::Any,
        "listens on a UDP port by a helper program",
    ),
    (
        "wifidump",
        Tail::Any,
        "captures on a remote host by a helper program",
    ),
    (
        "falcodump",
        Tail::Any,
        "reads audit logs by a helper program",
    ),
    ("etwdump", Tail::Any, "reads event logs by a helper program"),
    (
        "androiddump",
        Tail::Any,
        "captures on a telephone by a helper program",
    ),
    (
        "android-",
        Tail::Any,
        "captures on a telephone by a helper program",
    ),
    (
        "usbpcap",
        Tail::Any,
        "reads the traffic of USB devices by a helper program",
    ),
    (
        "nrf_sniffer",
        Tail::Any,
        "captures on a radio by a helper program",
    ),
];

/// Why this is not the name of one interface, in a sentence; none if it may be one.
pub(super) fn refuse(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("An empty string names no interface.".to_owned());
    }
    // First, so that nothing below can print it.
    if name.chars().any(char::is_control) {
        return Some(format!(
            "{} has control characters, which no interface name has.",
            quoted(name)
        ));
    }
    if name == "-" {
        return Some("`-` reads packets from standard input and is no interface.".to_owned());
    }
    if name.eq_ignore_ascii_case("any") {
        return Some(format!(
            "{} means every interface at once and must be listed as `any`.",
            quoted(name)
        ));
    }
    if let Some(does) = known_source(name) {
        return Some(format!(
            "{} {does}: it is no network interface, and no capture on it can be held to a policy.",
            quoted(name)
        ));
    }
    if name.contains('/') || name.contains('\\') {
        return Some(format!(
            "{} is a path (a pipe or a file) and no interface.",
            quoted(name)
        ));
    }
    if name.contains(',') || name.contains(char::is_whitespace) {
        return Some(format!(
            "{} is not one interface name: it has a comma or a space.",
            quoted(name)
        ));
    }
    if name.starts_with('-') {
        return Some(format!(
            "{} would be read as an option and not as an interface name.",
            quoted(name)
        ));
    }
    if is_number(name) {
        return Some(format!(
            "{} is an interface's number in a tool's own list; name the interface.",
            quoted(name)
        ));
    }
    if name.contains(['*', '?']) {
        return Some(format!("{} is a glob; name one interface.", quoted(name)));
    }
    if name.contains([':', '@']) || name == "." || name == ".." {
        return Some(format!("{} is no interface's name.", quoted(name)));
    }
    if name.len() > MAX_NAME {
        return Some(format!(
            "{} is longer than the {MAX_NAME} bytes that an interface name may have.",
            quoted(name)
        ));
    }
    None
}

/// Like [`refuse`], for a glob over interface names: refused if it could match none.
pub(super) fn refuse_glob(glob: &str) -> Option<String> {
    // What is left without the wildcards must be fit for a name, and must not be aimed at a source.
    let literal: String = glob.chars().filter(|c| !matches!(c, '*' | '?')).collect();
    if literal.is_empty() || literal.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    refuse(&literal).map(|reason| match known_source(&literal) {
        Some(does) => format!(
            "{} is aimed at a source that {does}: it is no network interface.",
            quoted(glob)
        ),
        None => reason,
    })
}

fn known_source(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    SOURCES.iter().find_map(|(start, tail, does)| {
        let rest = name.strip_prefix(start)?;
        let meant = match tail {
            Tail::Any => true,
            Tail::Number => rest
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .chars()
                .next()
                .is_none_or(|c| matches!(c, ':' | '-' | '/' | '@')),
        };
        meant.then_some(*does)
    })
}

/// As `strtol` sees it, which tshark asks.
fn is_number(name: &str) -> bool {
    let digits = name.strip_prefix(['+', '-']).unwrap_or(name);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The name as a sentence may carry it: escaped, and cut where it is long.
pub(super) fn quoted(name: &str) -> String {
    const LONGEST: usize = 48;
    let mut out: String = name
        .chars()
        .take(LONGEST)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if name.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    format!("`{out}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_refused_with_a_reason() {
        for (name, reason) in [
            ("", "empty"),
            ("-", "standard input"),
            ("any", "every interface"),
            ("ANY", "every interface"),
            ("nflog", "firewall logs"),
            ("nflog:5", "firewall logs"),
            ("NFLOG:5", "firewall logs"),
            ("nfqueue", "firewall queue"),
            ("nfqueue:0,1", "firewall queue"),
            ("usbmon0", "USB"),
            ("usbmon", "USB"),
            ("bluetooth0", "Bluetooth"),
            ("bluetooth-monitor", "Bluetooth"),
            ("dbus-system", "D-Bus"),
            ("dbus-session", "D-Bus"),
            ("dbus://unix:path=/x", "D-Bus"),
            ("rdma0", "RDMA"),
            ("rdmasniff", "RDMA"),
            ("dpdk:0", "DPDK"),
            ("netmap:eth0", "netmap"),
            ("vale0:1", "netmap"),
            ("dag0", "Endace"),
            ("dag0:2", "Endace"),
            ("snf1", "Myricom"),
            ("TCP@127.0.0.1:5555", "remote host"),
            ("tcp@[::1]", "remote host"),
            ("rpcap://host/eth0", "remote host"),
            ("rpcaps://host/eth0", "remote host"),
            ("ciscodump", "helper"),
            ("dpauxmon", "helper"),
            ("randpkt", "helper"),
            ("randpktdump", "helper"),
            ("sdjournal", "helper"),
            ("sshdump", "helper"),
            ("SSHDUMP", "helper"),
            ("udpdump", "helper"),
            ("wifidump", "helper"),
            ("etwdump", "helper"),
            ("androiddump-usb", "helper"),
            ("android-logcat-main-x", "helper"),
            ("/tmp/fifo", "path"),
            ("./fifo", "path"),
            ("\\\\.\\pipe\\x", "path"),
            ("4", "number"),
            ("+4", "number"),
            ("-1", "option"),
            ("-D", "option"),
            ("lo,eth0", "comma"),
            ("lo eth0", "space"),
            ("lo\u{a0}", "space"),
            ("lo\n", "control"),
            ("lo\0", "control"),
            ("\u{1b}[2J", "control"),
            ("veth*", "glob"),
            ("eth0:1", "no interface's name"),
            ("lo@if2", "no interface's name"),
            ("..", "no interface's name"),
            ("abcdefghijklmnop", "15 bytes"),
        ] {
            let sentence = refuse(name).unwrap_or_else(|| panic!("{name:?} was not refused"));
            assert!(sentence.contains(reason), "{name:?}: {sentence}");
            assert!(sentence.ends_with('.'), "{sentence}");
            assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
        }
    }

    #[test]
    fn interfaces_are_not_refused() {
        for name in [
            "lo",
            "eth0",
            "enp0s31f6",
            "wlan0",
            "veth0a1b2c3",
            "br-0a1b2c3d4e5f",
            "eth0.100",
            "docker0",
            "tun0",
            "dagobah0",
            "valentine0",
            "4g0",
            "anything",
            "abcdefghijklmno",
            "ü0",
        ] {
            assert_eq!(refuse(name), None, "{name}");
        }
    }

    #[test]
    fn long_names_are_cut_in_sentences() {
        let sentence = refuse(&"é".repeat(10_000)).unwrap();
        assert!(sentence.len() < 300, "{}", sentence.len());
    }
}
