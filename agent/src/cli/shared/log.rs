//! The log for operators: to standard error, or to the journal that it leads to; never to standard output.

use std::{env, io};

use clap::ValueEnum;
use tracing::{
    Subscriber,
    subscriber::{SetGlobalDefaultError, set_global_default},
};
use tracing_subscriber::{
    EnvFilter, Layer, fmt, layer::SubscriberExt as _, registry, registry::LookupSpan,
};

#[cfg(feature = "otlp")]
use crate::telemetry::otlp::{self, Collector, Exporter, SpanLayer};
use crate::telemetry::{Journal, Rest, SESSION_TARGET};

use super::{
    failure::{Account, Failure},
    term::Paint,
};

/// The environment variable for the levels.
const VARIABLE: &str = "CAPWARDEN_LOG";
/// The environment variable for the format.
const FORMAT_VARIABLE: &str = "CAPWARDEN_LOG_FORMAT";

/// What to log, checked.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Levels(String);

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Reads a level, or a list of levels of single parts.
pub(in crate::cli) fn parse(text: &str) -> Result<Levels, String> {
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

/// The log, while something is done.
#[derive(Debug, Default)]
pub struct Logging {
    #[cfg(feature = "otlp")]
    _exporter: Option<Exporter>,
    /// After all that may say something.
    _rest: Option<Rest>,
}

/// What is logged, and how.
struct Chosen {
    filter: EnvFilter,
    to: To,
}

/// Where it goes.
enum To {
    /// Lines, to standard error.
    Lines(Format),
    /// Entries with fields, to the journal that standard error leads to.
    Journal(Journal),
}

impl Chosen {
    /// What is to be waited for at the end.
    fn rest(&self) -> Option<Rest> {
        match &self.to {
            To::Journal(journal) => Some(journal.rest()),
            To::Lines(_) => None,
        }
    }
}

fn chosen(levels: Option<&Levels>, format: Option<Format>) -> Result<Chosen, Failure> {
    let format = match (format, env::var(FORMAT_VARIABLE)) {
        (Some(format), _) => Some(format),
        (None, Ok(text)) if !text.is_empty() => Some(parse_format(&text)?),
        (None, _) => None,
    };
    // Whoever asks for a format wants lines.
    let journal = || Journal::of_environment().map(To::Journal);
    let lines = To::Lines(format.unwrap_or_default());
    let to = match format {
        Some(_) => lines,
        None => journal().unwrap_or(lines),
    };
    let levels = match (levels, env::var(VARIABLE)) {
        (Some(levels), _) => levels.clone(),
        (None, Ok(text)) if !text.is_empty() => parse(&text).map_err(|why| wrong(&text, &why))?,
        // Where entries can be asked for by their session, how sessions begin and end is among them.
        (None, _) => Levels(match to {
            To::Lines(_) => "warn,capwarden=info".to_owned(),
            To::Journal(_) => format!("warn,capwarden=info,{SESSION_TARGET}=debug"),
        }),
    };
    let filter = EnvFilter::try_new(&levels.0).map_err(|why| wrong(&levels.0, &why.to_string()))?;
    Ok(Chosen { filter, to })
}

/// What makes lines, or entries, of events.
fn layer<S>(chosen: Chosen) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let format = match chosen.to {
        To::Journal(journal) => return journal.with_filter(chosen.filter).boxed(),
        To::Lines(format) => format,
    };
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(format == Format::Text && Paint::for_stderr().is_on())
        // It would tell of a closed standard error on standard error, and panic over it.
        .log_internal_errors(false);
    match format {
        Format::Text => lines.with_target(false).with_filter(chosen.filter).boxed(),
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            lines.with_filter(chosen.filter).boxed()
        }
    }
}

/// Starts the log.
pub(in crate::cli) fn start(
    levels: Option<&Levels>,
    format: Option<Format>,
) -> Result<Logging, Failure> {
    let chosen = chosen(levels, format)?;
    let rest = chosen.rest();
    set_global_default(registry().with(layer(chosen))).map_err(|error| not_started(&error))?;
    Ok(Logging {
        #[cfg(feature = "otlp")]
        _exporter: None,
        _rest: rest,
    })
}

/// Starts the log, and sends spans to a collector.
#[cfg(feature = "otlp")]
pub(in crate::cli) fn start_sending(
    levels: Option<&Levels>,
    format: Option<Format>,
    collector: &Collector,
) -> Result<Logging, Failure> {
    let chosen = chosen(levels, format)?;
    let (spans, exporter) = otlp::start(collector).map_err(|error| {
        let account = Account::new("cannot send spans to").on(collector);
        Failure::Internal(account.because(error))
    })?;
    let spans = spans.with_filter(SpanLayer::wants());
    let rest = chosen.rest();
    let started = set_global_default(registry().with(layer(chosen)).with(spans));
    started.map_err(|error| not_started(&error))?;
    Ok(Logging {
        _exporter: Some(exporter),
        _rest: rest,
    })
}

fn not_started(error: &SetGlobalDefaultError) -> Failure {
    Failure::Internal(Account::new("cannot start the log").because(error))
}

fn parse_format(text: &str) -> Result<Format, Failure> {
    Format::from_str(text, false).map_err(|_| {
        let account = Account::new(format!("{FORMAT_VARIABLE} is wrong:")).on(text);
        let account = account.because("it is text or json");
        Failure::Usage(account.hint(format!("{FORMAT_VARIABLE}=json")))
    })
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
