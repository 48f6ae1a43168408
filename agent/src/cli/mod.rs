//! The command line: one module per verb; what they share is in `shared`. A verb calls the rooms and prints what they say; it
//! decides nothing itself.
//!
//! Standard output belongs to what was asked for (in `run`, to MCP). Everything else, the log and
//! the failures, goes to standard error.

#![forbid(unsafe_code)]

mod agent;
mod approvals;
mod approve;
mod audit;
mod client_config;
mod completions;
mod connect;
mod deny;
mod doctor;
mod exec;
mod filter;
mod grant;
mod host;
mod logs;
mod man;
mod names;
mod policy;
mod report;
mod revoke;
mod run;
mod sessions;
mod shared;
mod stop;
mod tools;
mod top;
mod web;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use names::{NAMES_VERB, names};
use shared::{
    agents, counters, enforce, exit, failure, log, paths, reception, session, state, term, values,
};
pub use shared::{
    exit::Exit,
    failure::{Account, Failure},
    log::Logging,
    values::{Size, User},
};

/// Makes packet captures that a language model starts safe to allow.
///
/// capwarden stands between an MCP client and a server that captures packets, listens as a proxy or drives a browser. It decides each tool call by a
/// policy, and holds the processes that the call starts to what was granted: interfaces, capture
/// filter, packets, bytes and time are enforced in the kernel, on every packet.
#[derive(Debug, Parser)]
#[command(name = "capwarden", version)]
#[command(after_help = exit::help(), max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Args)]
struct Global {
    /// What to log to standard error: off, error, warn, info, debug or trace
    ///
    /// A level, or a comma-separated list such as `warn,capwarden::gate=debug` for single parts.
    /// Without it, the environment variable CAPWARDEN_LOG is used, and then `info`.
    #[arg(long, value_name = "LEVEL", global = true, display_order = 100, value_parser = log::parse)]
    log: Option<log::Levels>,
    /// How the log looks: a line of text, or a JSON object
    ///
    /// Without it, the environment variable CAPWARDEN_LOG_FORMAT is used, and then `text`.
    #[arg(
        long,
        value_name = "FORMAT",
        global = true,
        display_order = 101,
        value_enum
    )]
    log_format: Option<log::Format>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Run>),
    Exec(exec::Exec),
    Agent(agent::Agent),
    Connect(connect::Connect),
    ClientConfig(client_config::ClientConfig),
    Policy(policy::Policy),
    Filter(filter::Filter),
    Sessions(sessions::Sessions),
    Top(top::Top),
    Web(web::Web),
    Stop(stop::Stop),
    Revoke(revoke::Revoke),
    Logs(logs::Logs),
    Approvals(approvals::Approvals),
    Approve(approve::Approve),
    Deny(deny::Deny),
    Grant(grant::Grant),
    Tools(tools::Tools),
    Audit(audit::Audit),
    Report(report::Report),
    Host(host::Host),
    Doctor(doctor::DoctorArgs),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Cli {
    /// Sends the log to standard error, and spans where they are wanted, for as long as what comes back
    /// is kept.
    pub fn start_log(&self) -> Result<Logging, Failure> {
        let (levels, format) = (self.global.log.as_ref(), self.global.log_format);
        #[cfg(feature = "otlp")]
        if let Some(collector) = self.collector() {
            return log::start_sending(levels, format, collector);
        }
        log::start(levels, format)
    }

    /// Where spans are to be sent.
    #[cfg(feature = "otlp")]
    fn collector(&self) -> Option<&crate::telemetry::otlp::Collector> {
        match &self.verb {
            Verb::Run(run) => run.otlp.as_ref(),
            Verb::Agent(agent) => agent.otlp.as_ref(),
            _ => None,
        }
    }

    /// Does what was asked for.
    pub fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Run(run) => run.run(),
            Verb::Exec(exec) => exec.run(),
            Verb::Agent(agent) => agent.run(),
            Verb::Connect(connect) => connect.run(),
            Verb::ClientConfig(config) => config.run(),
            Verb::Policy(policy) => policy.run(),
            Verb::Filter(filter) => filter.run(),
            Verb::Sessions(sessions) => sessions.run(),
            Verb::Top(top) => top.run(),
            Verb::Web(web) => web.run(),
            Verb::Stop(stop) => stop.run(),
            Verb::Revoke(revoke) => revoke.run(),
            Verb::Logs(logs) => logs.run(),
            Verb::Approvals(approvals) => approvals.run(),
            Verb::Approve(approve) => approve.run(),
            Verb::Deny(deny) => deny.run(),
            Verb::Grant(grant) => grant.run(),
            Verb::Tools(tools) => tools.run(),
            Verb::Audit(audit) => audit.run(),
            Verb::Report(report) => report.run(),
            Verb::Host(host) => host.run(),
            Verb::Doctor(doctor) => doctor.run(),
            Verb::Completions(completions) => completions.run(),
            Verb::Man(man) => man.run(),
        }
    }
}

/// Tells of a failure, if there is one, and turns the outcome into the process's exit status.
pub fn finish(outcome: Result<Exit, Failure>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|failure| {
        failure.tell();
        failure.exit()
    });
    ExitCode::from(exit.code())
}
