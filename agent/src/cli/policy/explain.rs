//! `capwarden policy explain`: what a policy decides on one call.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    audit::visible,
    filter::LinkType,
    gate::written_call,
    policy::{Assumed, Call, Ceiling, LimitUse, Outcome, Unit, Verdict, Window},
    principal::{Grant, Grants, Standing},
    session::{Cut, GrantError, foresee, stays_within},
};

use super::super::{
    enforce,
    exit::Exit,
    failure::{Account, Failure},
    paths,
    state::State,
    term::{self, Paint},
};

/// Bytes of a call at most: as many as the gate takes in one message.
const MAX_CALL: u64 = crate::gate::CLIENT_LINE as u64;

/// Tell what a policy decides on a call
///
/// Which rule decides, and where it stands; what the server would get, what a session would be
/// granted, which limits count the call, and what else is asked first. Counters are taken to be at
/// zero, the host's interfaces to be Ethernet. The exit status is 0 if the call is allowed, 1 if
/// it is denied, 2 if it is no call, 3 if the policy is wrong.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  capwarden policy explain -p policy.yaml call.json\n  echo '{\"tool\": \"list_interfaces\"}' | capwarden policy explain -p policy.yaml -"
)]
pub(super) struct Explain {
    /// The call: a JSON file, or - for standard input
    ///
    /// {"tool": "start", "arguments": {"iface": "lo"}}, the same with "name" as in the params of a tools/call, or a whole
    /// tools/call.
    #[arg(value_name = "CALL.json")]
    call: PathBuf,
    /// The policy
    #[arg(short, long, value_name = "FILE", required_unless_present = "grant")]
    policy: Option<PathBuf>,
    /// As for a call that comes with this grant
    ///
    /// By the policy that it names, and no more than its ceiling; -p is asked where it names none.
    #[arg(long, value_name = "NAME")]
    grant: Option<String>,
    #[command(flatten)]
    state: State,
    /// An argument that the tool's own schema requires
    ///
    /// For policies that ask for what the schema requires; can be given several times.
    #[arg(long, value_name = "ARGUMENT")]
    requires: Vec<String>,
    /// What the server answered to tools/list
    ///
    /// A JSON file, for policies that ask for the tools' own schemas; or what `capwarden tools list SERVER
    /// --json` prints.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// What the capture filters of a call come to.
#[derive(Default)]
struct Foreseen {
    /// What is left out of the requested filter.
    cut: Option<Cut>,
    /// Why the call would be denied for a filter.
    refused: Option<String>,
}

impl Explain {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let grant = self.grant.as_deref().map(|name| self.granted(name));
        let grant = grant.transpose()?;
        let own = grant.as_ref().and_then(|grant| grant.policy.as_ref());
        let Some(file) = own.map(PathBuf::from).or_else(|| self.policy.clone()) else {
            return Err(Failure::Usage(
                Account::new("the grant names no policy").hint("give the agent's with -p FILE"),
            ));
        };
        let policy = enforce::check_policy(&file)?;
        let call = read(&self.call)?;
        let known = Assumed {
            required: (!self.requires.is_empty()).then(|| self.requires.into()),
            definitions: match &self.tools {
                Some(file) => super::recorded(file)?,
                None => Arc::default(),
            },
            // Before the decision, as the gate has it: what is beyond the ceiling may be denied.
            ceiling: grant.map_or_else(Ceiling::default, |grant| grant.ceiling),
            ..Assumed::default()
        };
        let outcome = policy.outcome(&call, &known);
        let foreseen = foreseen(&outcome)?;
        let allowed = outcome.word() != "deny" && foreseen.refused.is_none();
        if self.json {
            let mut answer = outcome.as_json();
            if let Some(answer) = answer.as_object_mut() {
                answer.insert("allowed".to_owned(), json!(allowed));
                answer.insert("tool".to_owned(), json!(call.tool));
                answer.insert("refused".to_owned(), json!(foreseen.refused));
                let cut = foreseen.cut.as_ref().map(ToString::to_string);
                answer.insert("cut".to_owned(), json!(cut));
            }
            term::print_json(&answer)?;
        } else {
            let paint = Paint::for_stdout();
            term::print(|out| words(out, &call, &outcome, &foreseen, paint))?;
        }
        Ok(if allowed { Exit::Ok } else { Exit::Unsound })
    }
}

impl Explain {
    /// The grant of this name, which must be good.
    fn granted(&self, name: &str) -> Result<Grant, Failure> {
        let grants = Grants::open(&self.state.open()?).and_then(|grants| grants.list());
        let mut grants = grants.map_err(|error| {
            Failure::Internal(Account::new("cannot read the grants").because(error))
        })?;
        match grants.remove(name) {
            Some((grant, Standing::Valid)) => Ok(grant),
            found => {
                let said = match found {
                    Some((_, standing)) => format!("the grant {name} is {standing}"),
                    None => format!("there is no grant {name}"),
                };
                Err(Failure::Usage(
                    Account::new(said).hint("capwarden grant list"),
                ))
            }
        }
    }
}

fn read(path: &Path) -> Result<Call, Failure> {
    let mut bytes = Vec::new();
    let standard = path == Path::new("-");
    if !standard {
        paths::is_there(path)?;
    }
    let done = if standard {
        io::stdin()
            .lock()
            .take(MAX_CALL + 1)
            .read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_CALL + 1).read_to_end(&mut bytes))
    };
    let name = if standard {
        "standard input".into()
    } else {
        path.display().to_string()
    };
    done.map_err(|error| {
        Failure::Usage(
            Account::new("cannot read the call")
                .on(&name)
                .because(error),
        )
    })?;
    let call = match bytes.len() as u64 > MAX_CALL {
        true => Err("it is larger than what a server is sent".to_owned()),
        false => written_call(&bytes),
    };
    call.map_err(|why| {
        Failure::Usage(
            Account::new("cannot use the call")
                .on(&name)
                .because(why)
                .hint(
                    "write {\"tool\": …, \"arguments\": {…}}, or a tools/call, whole or its params",
                ),
        )
    })
}

/// Looks at the capture filters as a session would, and at those that must be proved.
fn foreseen(outcome: &Outcome) -> Result<Foreseen, Failure> {
    let mut foreseen = Foreseen::default();
    let compiler = enforce::compiler()?;
    if let Some(capture) = outcome.capture() {
        look(
            foresee(&capture.terms, LinkType::EN10MB, &compiler),
            &mut foreseen,
        )?;
    }
    for demand in &outcome.decision.proofs {
        let (asked, within) = (demand.expression.clone(), demand.within.clone());
        let proved = stays_within(asked, within, LinkType::EN10MB, &compiler);
        look(proved.map(|()| None), &mut foreseen)?;
    }
    Ok(foreseen)
}

fn look(found: Result<Option<Cut>, GrantError>, foreseen: &mut Foreseen) -> Result<(), Failure> {
    match found {
        Ok(cut) => foreseen.cut = cut.or(foreseen.cut.take()),
        Err(GrantError::Filter {
            source, expression, ..
        }) if source.is_of_the_host() => {
            return Err(enforce::not_compiled(&expression, source));
        }
        Err(error) => {
            foreseen.refused.get_or_insert(error.to_string());
        }
    }
    Ok(())
}

fn words(
    out: &mut dyn Write,
    call: &Call,
    outcome: &Outcome,
    foreseen: &Foreseen,
    paint: Paint,
) -> io::Result<()> {
    let decision = &outcome.decision;
    let verdict = match (&decision.verdict, &foreseen.refused) {
        (Verdict::Deny(_), _) => paint.error("denied"),
        (_, Some(_)) => paint.error("denied when its session is opened"),
        (Verdict::Forward, None) => paint.good("allowed"),
        (Verdict::EndCapture, None) => paint.good("allowed; ends captures"),
        (Verdict::Capture(_), None) => paint.good("allowed; starts a capture"),
        (Verdict::EndProxy, None) => paint.good("allowed; ends proxies"),
        (Verdict::Proxy(_), None) => paint.good("allowed; starts a proxy"),
        (Verdict::EndProgram, None) => paint.good("allowed; ends programs"),
        (Verdict::Program(_), None) => paint.good("allowed; starts programs"),
        // Said by whoever asks for approvals; a policy alone only demands them.
        (Verdict::Pending(_), None) => paint.note("waits for an approval"),
    };
    writeln!(out, "{}: {verdict}", visible(&call.tool))?;
    let mut line = |name: &str, text: &str| {
        writeln!(
            out,
            "  {} {}",
            paint.note(&format!("{name}:")),
            visible(text)
        )
    };
    line("rule", &outcome.rule.to_string())?;
    if !outcome.recorded.is_empty() {
        let text = format!("the values of {}", outcome.recorded.join(", "));
        line("recorded", &text)?;
    }
    if let Verdict::Deny(denial) = &decision.verdict {
        line("reason", &denial.reason)?;
        if let Some(instead) = &denial.instead {
            line("instead", instead)?;
        }
        if let Some(text) = &denial.text {
            line("in the dialect's words", text)?;
        }
        if !outcome.visible {
            line("shown", "no, the tool is hidden from clients")?;
        }
        return Ok(());
    }
    if let Some(why) = &foreseen.refused {
        return line("reason", why);
    }
    if let Some(proxy) = outcome.proxy() {
        line("terms", &proxy.terms.to_string())?;
    }
    if let Some(program) = outcome.program() {
        line("terms", &program.terms.to_string())?;
    }
    if let Some(capture) = outcome.capture() {
        line("terms", &capture.terms.to_string())?;
        if let Some(cut) = &foreseen.cut {
            line("left out", &cut.to_string())?;
        }
    }
    for change in outcome.changes() {
        let asked = change
            .asked
            .as_ref()
            .map_or_else(|| "nothing".to_owned(), Value::to_string);
        let text = format!(
            "{}: {asked} becomes {}, as {}",
            change.argument, change.forwarded, change.why
        );
        line("changed", &text)?;
    }
    if let Some(forwarded) = &outcome.forwarded {
        line("forwarded", &json!(forwarded).to_string())?;
    }
    for used in &decision.uses {
        line("counts", &limit(used))?;
    }
    if let Some(approval) = &decision.approval {
        let why = approval
            .why
            .as_ref()
            .map_or_else(String::new, |why| format!(" ({why})"));
        let text = format!(
            "{}, within {}{why}; rule {}",
            approval.by,
            crate::words::time(approval.timeout),
            approval.rule
        );
        line("asks first", &text)?;
    }
    if let Some(pinning) = &outcome.pinned {
        let first = match pinning.strict {
            true => "one that is seen first is held back until it is accepted",
            false => "one that is seen first is accepted by that",
        };
        let text = format!(
            "the tool's definition is the accepted one; {first}; rule {}",
            pinning.rule
        );
        line("to be compared", &text)?;
    }
    for proof in &decision.proofs {
        let text = format!(
            "{:?} in `{}` stays within {:?}; rule {}",
            proof.expression, proof.argument, proof.within, proof.rule
        );
        line("to be proved", &text)?;
    }
    for demand in &decision.paths {
        let text = format!(
            "no link leads from {:?} in `{}` out of {}; rule {}",
            demand.path, demand.argument, demand.directory, demand.rule
        );
        line("to be looked at", &text)?;
    }
    Ok(())
}

/// `1 of 10 in a minute (start/minute, for each grant); rule policy.yaml:3:5 …`.
fn limit(used: &LimitUse) -> String {
    let window = match used.window {
        Window::Calendar(Unit::Minute) => "in each minute".to_owned(),
        Window::Calendar(Unit::Hour) => "in each hour".to_owned(),
        Window::Calendar(Unit::Day) => "in each day".to_owned(),
        Window::Sliding(time) => format!("in any {}", crate::words::time(time)),
        Window::Bucket(time) => format!("which come back over {}", crate::words::time(time)),
    };
    format!(
        "{} of {} {window}, counter {:?}, scope {}; rule {}",
        used.amount,
        used.max,
        used.counter,
        used.scope.word(),
        used.rule
    )
}
