//! The log for operators: to standard error, never to standard output.

use std::{env, io};

use tracing_subscriber::{EnvFilter, fmt};

use super::{
    failure::{Account, Failure},
    term::Paint,
};

/// The environment variable for the levels.
const VARIABLE: &str = "CAPWARDEN_LOG";

/// What to log, checked.
#[derive(Clone, Debug)]
pub(super) struct Levels(String);

/// Reads a level, or a list of levels of single parts.
pub(super) fn parse(text: &str) -> Result<Levels, String> {
    let is_list = text.contains([',', '=']);
    let is_level = ["off", "error", "warn", "info", "debug", "trace"].contains(&text);
    let directives = match text {
        "off" => text.to_owned(),
        // What the libraries tell is of interest only when something is wrong.
        _ if is_level => format!("warn,capwarden={text}"),
        _ if is_list => text.to_owned(),
        _ => return Err("it is off, error, warn, info, debug or trace".to_owned()),
    };
    match EnvFilter::try_new(&directives) {
        Ok(_) => Ok(Levels(directives)),
        Err(error) => Err(error.to_string()),
    }
}

/// Starts the log.
pub(super) fn start(levels: Option<&Levels>) -> Result<(), Failure> {
    let levels = match (levels, env::var(VARIABLE)) {
        (Some(levels), _) => levels.clone(),
        (None, Ok(text)) if !text.is_empty() => parse(&text).map_err(|why| wrong(&text, &why))?,
        (None, _) => Levels("warn,capwarden=info".to_owned()),
    };
    let filter = EnvFilter::try_new(&levels.0).map_err(|why| wrong(&levels.0, &why.to_string()))?;
    let subscriber = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(Paint::for_stderr().is_on())
        .with_target(false)
        // It would tell of a closed standard error on standard error, and panic over it.
        .log_internal_errors(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| Failure::Internal(Account::new("cannot start the log").because(error)))
}

fn wrong(text: &str, why: &str) -> Failure {
    let account = Account::new(format!("{VARIABLE} is wrong:")).on(text);
    Failure::Usage(account.because(why).hint("CAPWARDEN_LOG=info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        for good in ["off", "debug", "warn,capwarden::gate=trace"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "capwarden=loud"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
