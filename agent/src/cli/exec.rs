//! `capwarden exec`: the guard alone, around one command.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    audit::{Log, visible},
    engine::{self, ExecPlan, PolicySource},
    kernel::Deputy,
    policy::{Payload, Request, Terms, unpoliced},
    telemetry::Endpoint,
    words,
};

use super::{
    enforce,
    exit::Exit as Status,
    failure::Failure,
    paths,
    values::{self, Size, User},
};

/// Run a command under the guard
///
/// For tools that are no MCP servers: tcpdump, tshark, a script. The command runs without any
/// capability; all its capture sockets together get one session, with the limits given here. Where
/// a policy is given as well, the session stays within both.
///
/// Needs root to start; the command does not get it. Standard input and output are the command's.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    sudo capwarden exec --interface lo --filter 'tcp port 80' --packets 100 --seconds 60 -- \\\n    \
    tcpdump -i lo -w http.pcap")]
pub(super) struct Exec {
    /// The policy that bounds the session
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// An interface that may be captured on; may be repeated
    ///
    /// A name; `any` is every interface. Required without a policy.
    #[arg(
        short,
        long = "interface",
        value_name = "INTERFACE",
        required_unless_present = "policy"
    )]
    pub(super) interfaces: Vec<String>,
    /// What may be captured, in libpcap's language
    ///
    /// Enforced in the kernel, whatever filter the command itself asks for. See pcap-filter(7).
    #[arg(short, long, value_name = "EXPRESSION")]
    pub(super) filter: Option<String>,
    /// Packets that may be captured, in all
    ///
    /// Without it: what the policy says, otherwise no limit.
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) packets: Option<u64>,
    /// Bytes that may be captured, in all
    ///
    /// A number with B, KiB, MiB, GiB, kB, MB or GB: 50MiB. Without it: what the policy says,
    /// otherwise no limit.
    #[arg(short, long, value_name = "SIZE", value_parser = values::size)]
    pub(super) bytes: Option<Size>,
    /// How many seconds captures may last
    ///
    /// Without it: what the policy says, otherwise no limit.
    #[arg(short, long, value_name = "S", value_parser = values::seconds)]
    pub(super) seconds: Option<Duration>,
    /// What is kept of a packet after its transport header
    ///
    /// `headers` for nothing, `full` for everything, or a number of bytes. Without it: what the
    /// policy says, otherwise `full`.
    #[arg(long, value_name = "headers|full|N", value_parser = values::payload)]
    pub(super) payload: Option<Payload>,
    /// Append the audit log to this file
    ///
    /// Created with mode 0600. Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl.
    #[arg(long, value_name = "FILE")]
    pub(super) audit: Option<PathBuf>,
    /// Serve metrics here: 127.0.0.1:9464 or unix:/PATH
    ///
    /// For Prometheus, at /metrics, in the OpenMetrics text format. On a loopback address, every
    /// user of this host can read them; a Unix socket can be read by root. With port 0, the log
    /// says which port it is.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    pub(super) metrics: Option<Endpoint>,
    /// Run the command as this user
    ///
    /// A name or a number. Without it: the user who called sudo, otherwise nobody. It must be able
    /// to write where the command writes.
    #[arg(long, value_name = "NAME|UID", value_parser = values::user)]
    pub(super) user: Option<User>,
    /// Daemons that the command may have start programs
    ///
    /// docker, podman, dbus, systemd, user, cron, incus, libvirt, snapd or terminals, with commas
    /// between them. Without it, none of them is to be found by it: what they start is not governed.
    #[arg(long, value_name = "DAEMON", value_delimiter = ',', value_parser = values::deputy)]
    pub(super) reach: Vec<Deputy>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self) -> Result<Status, Failure> {
        let policy = self
            .policy
            .as_deref()
            .map(enforce::load_policy)
            .transpose()?;
        enforce::require_root()?;
        let request = Request {
            interfaces: self.interfaces,
            filter: self.filter,
            packets: self.packets,
            bytes: self.bytes.map(|size| size.0),
            duration: self.seconds,
            payload: self.payload,
        };
        let verdict = match &policy {
            Some(policy) => policy.exec_verdict(&request),
            None => unpoliced(&request),
        };
        let terms = verdict.map_err(|denial| enforce::denied(&denial))?.terms;
        let clamped = clamped(&request, &terms);
        let credentials = enforce::credentials(self.user.as_ref(), &self.reach, &self.command)?;
        let plan = ExecPlan {
            command: self.command,
            credentials,
            terms,
            policy: policy.as_ref().map(PolicySource::of),
            metrics: self.metrics,
        };
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        let done = enforce::block_on(engine::exec(plan, log))?;
        for what in clamped {
            tracing::warn!("the policy allowed less than was asked: {what}");
        }
        for refused in &done.refused {
            tracing::warn!("refused a capture socket: {}", visible(refused));
        }
        if done.more_refused > 0 {
            tracing::warn!(
                "refused {} more; see capwarden audit show --kind socket-refused",
                done.more_refused
            );
        }
        if let Some(end) = done.end {
            tracing::info!("{end}");
        }
        Ok(enforce::exit(done.outcome))
    }
}

/// What is less than was asked, each in a phrase: `10 packets, not 50`.
fn clamped(asked: &Request, terms: &Terms) -> Vec<String> {
    let mut all = Vec::new();
    let mut less = |asked: Option<String>, granted: Option<String>, what: &str| {
        if let (Some(asked), Some(granted)) = (asked, granted)
            && asked != granted
        {
            all.push(format!("{granted}{what}, not {asked}"));
        }
    };
    let number = |n: Option<u64>| n.map(|n| n.to_string());
    let time = |time: Option<Duration>| time.map(words::time);
    less(number(asked.packets), number(terms.packets), " packets");
    less(number(asked.bytes), number(terms.bytes), " bytes");
    less(time(asked.duration), time(terms.duration), "");
    let payload = |payload: Payload| match payload {
        Payload::Full => "full".to_owned(),
        Payload::Bytes(0) => "headers".to_owned(),
        Payload::Bytes(n) => format!("{n} bytes"),
    };
    let kept = Some(payload(terms.payload));
    less(asked.payload.map(payload), kept, " of payload");
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn what_is_less_than_was_asked_is_told() {
        let policy = "version: 1\nexec: { interfaces: [ lo ], packets: 10, seconds: 2.5, payload: headers }\n";
        let policy = Policy::parse("p", policy).unwrap();
        let request = Request {
            packets: Some(50),
            bytes: Some(7),
            duration: Some(Duration::from_secs(60)),
            payload: Some(Payload::Full),
            ..Request::default()
        };
        let terms = policy.exec_verdict(&request).unwrap().terms;
        let told = [
            "10 packets, not 50",
            "2.5 s, not 1 min",
            "headers of payload, not full",
        ];
        assert_eq!(clamped(&request, &terms), told);
        let request = Request {
            packets: Some(10),
            ..Request::default()
        };
        let terms = policy.exec_verdict(&request).unwrap().terms;
        assert!(clamped(&request, &terms).is_empty());
    }
}
