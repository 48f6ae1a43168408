//! The decision on one call.
//!
//! The order is the same in every dialect, as theirs agree where they are written down: hidden
//! tools, tools that are not named, what is asked of the tool's calls, what is asked of all calls,
//! the capture, and last of all the limits, which are reserved together. The first denial wins.

use serde_json::{Map, Value, json};

use super::{
    Approval, Approver, Call, Decision, Denial, Knowledge, LimitUse, Policy, Replies, RuleRef,
    Unit, Verdict, Window,
    condition::Clause,
    definition::Unfit,
    json_schema::Fault,
    model::{Action, ApprovalRule, Step, ToolRule},
    operator::Truth,
    source::quoted,
    units, usage,
};

/// What Intercept puts before each of its texts.
const INTERCEPT: &str = "[INTERCEPT POLICY DENIED] ";

impl Policy {
    /// What the policy says about a call.
    ///
    /// A pure function. `known` is asked only where a rule looks at counters or at a tool's
    /// schema; `&()` knows nothing, which denies where a schema is asked for.
    #[must_use]
    pub fn decide(&self, call: &Call, known: &dyn Knowledge) -> Decision {
        match self.allow(call, known) {
            Ok(decision) => decision,
            Err(mut denial) => {
                if denial.text.is_none() && self.replies == Replies::Intercept {
                    // Of what Intercept does not know, in its manner.
                    denial.text = self.vendor_text(&denial.reason);
                }
                Verdict::Deny(*denial).into()
            }
        }
    }

    /// What is to be told in another vendor's words where a limit is reached: for
    /// [`Denial::text`]. None if it is told in ours.
    #[must_use]
    pub fn limit_text(&self, used: &LimitUse) -> Option<String> {
        let steps = self.tools.values().flat_map(|tool| &tool.rules.0);
        let limit = steps.chain(&self.all_tools.0).find_map(|step| match step {
            Step::Limit(limit) if limit.rule == used.rule => Some(limit),
            _ => None,
        });
        match (&used.on_deny, self.replies) {
            (Some(text), _) => self.vendor_text(text),
            (None, Replies::Intercept) => self.vendor_text(&match &limit?.name {
                Some(name) => format!("Rate limit exceeded for {name}"),
                None => format!(
                    "Rate limit of {} per {} reached. Try again later.",
                    used.max,
                    window_words(used.window)
                ),
            }),
            (None, Replies::Ours | Replies::PolicyLayer) => None,
        }
    }

    /// A message as the vendor puts it in whose words denials are told; none if they are ours.
    fn vendor_text(&self, message: &str) -> Option<String> {
        match self.replies {
            Replies::Ours => None,
            Replies::PolicyLayer => Some(message.to_owned()),
            Replies::Intercept => Some(format!("{INTERCEPT}{message}")),
        }
    }

    fn allow(&self, call: &Call, known: &dyn Knowledge) -> Result<Decision, Box<Denial>> {
        if let Some(rule) = self.hide.find(&call.tool) {
            return Err(self.closed(
                rule,
                format!("The tool {} is hidden by the policy.", quoted(&call.tool)),
                self.alternatives(),
                &format!("Tool {} is hidden by policy", go_quoted(&call.tool)),
            ));
        }
        let tool = self.tools.get(&call.tool);
        if tool.is_none() && !self.default.allow {
            return Err(self.closed(
                &self.default.rule,
                format!("The tool {} is not in the policy.", quoted(&call.tool)),
                self.alternatives(),
                &format!("Tool {} is not permitted by policy", go_quoted(&call.tool)),
            ));
        }
        if let Some(ToolRule {
            action: Action::Deny(why),
            rule,
            ..
        }) = tool
        {
            let reason = format!("The tool {} is denied: {why}.", quoted(&call.tool));
            return Err(Box::new(Denial::new(reason, rule.clone())));
        }
        let own = tool.map(|tool| tool.rules.0.as_slice()).unwrap_or_default();
        let steps = || own.iter().chain(&self.all_tools.0);
        // What is asked for on the way; the rest is filled in below.
        let mut decision = Decision::from(Verdict::Forward);
        for step in steps() {
            self.check(step, call, known, &mut decision)?;
        }
        decision.verdict = match tool.map(|tool| &tool.action) {
            None | Some(Action::Allow | Action::Deny(_)) => Verdict::Forward,
            Some(Action::EndCapture) => Verdict::EndCapture,
            Some(Action::Capture(capture)) => Verdict::Capture(Box::new(
                capture.under(known.ceiling()).decide(&call.arguments)?,
            )),
            Some(Action::EndProxy) => Verdict::EndProxy,
            Some(Action::Proxy(proxy)) => Verdict::Proxy(Box::new(
                proxy.under(known.ceiling()).decide(&call.arguments)?,
            )),
            Some(Action::EndProgram) => Verdict::EndProgram,
            Some(Action::Program(program)) => {
                Verdict::Program(Box::new(program.under(known.ceiling()).verdict()))
            }
        };
        for step in steps() {
            if let Step::Limit(limit) = step {
                let one = limit.uses(&call.arguments).map_err(|reason| {
                    let mut denial = Denial::new(reason, limit.rule.clone());
                    denial.text = match &limit.on_deny {
                        Some(text) => self.vendor_text(text),
                        None => self.vendor_text(&denial.reason),
                    };
                    Box::new(denial)
                })?;
                usage::merge(&mut decision.uses, one);
            }
        }
        Ok(decision)
    }

    /// Asks one thing of a call; limits are asked for later.
    fn check(
        &self,
        step: &Step,
        call: &Call,
        known: &dyn Knowledge,
        decision: &mut Decision,
    ) -> Result<(), Box<Denial>> {
        match step {
            Step::Argument(argument) => match argument.refuse(&call.arguments) {
                None => {
                    decision.proofs.extend(argument.proofs(&call.arguments));
                    decision.paths.extend(argument.paths(&call.arguments));
                }
                Some((rule, refusal)) => {
                    let mut denial = Denial::new(refusal.reason, rule.clone());
                    denial.instead = refusal.instead;
                    denial.allowed = refusal.allowed.map(|(key, value)| {
                        let name = argument.argument.name();
                        Box::new(json!({ "argument": name, key: value }))
                    });
                    return Err(Box::new(denial));
                }
            },
            Step::Clause(clause) => self.clause(clause, call, known)?,
            Step::RequiredBySchema(rule) => self.required(rule, call, known)?,
            Step::Schema(rule) => self.schema(rule, call, known)?,
            Step::Approve(asked) => {
                if let Some(one) = approve(asked, call, known) {
                    // An operator's, if several are asked for, and then the one that ends first.
                    let rank = |one: &Approval| (one.by == Approver::User, one.timeout);
                    match &decision.approval {
                        Some(other) if rank(other) <= rank(&one) => {}
                        _ => decision.approval = Some(one),
                    }
                }
            }
            Step::Limit(_) | Step::Pinned(_) | Step::Record(_) => {}
        }
        Ok(())
    }

    fn clause(
        &self,
        clause: &Clause,
        call: &Call,
        known: &dyn Knowledge,
    ) -> Result<(), Box<Denial>> {
        let Some(refusal) = clause.refuse(&call.arguments, known) else {
            return Ok(());
        };
        let instead = clause.instead(&refusal);
        let allowed = clause.allowed(&refusal);
        let mut denial = Denial::new(
            match &clause.on_deny {
                Some(text) => sentence(text),
                None => refusal.reason,
            },
            clause.rule.clone(),
        );
        denial.instead = instead;
        denial.allowed = allowed.map(Box::new);
        let named = |name: &String| format!("Denied by rule {}", go_quoted(name));
        let text = clause.on_deny.clone();
        let text = text.or_else(|| clause.name.as_ref().map(named));
        denial.text = text.and_then(|text| self.vendor_text(&text));
        Err(Box::new(denial))
    }

    fn required(
        &self,
        rule: &RuleRef,
        call: &Call,
        known: &dyn Knowledge,
    ) -> Result<(), Box<Denial>> {
        let Some(definition) = known.definition(&call.tool) else {
            return Err(self.not_listed(rule, "its required arguments are not known"));
        };
        if let Some(why) = definition.fault() {
            return Err(self.unusable(rule, why));
        }
        let names = definition.required();
        let missing = |name: &&&str| {
            // Not by a dotted path: these are the schema's own names.
            call.arguments.get(**name).is_none_or(Value::is_null)
        };
        let missing: Vec<String> = names.iter().filter(missing).map(|it| quoted(it)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let list = units::either(&missing, "and");
        let mut denial = Denial::new(
            format!("The tool's schema requires {list}, which the call does not have."),
            rule.clone(),
        );
        denial.instead = Some(format!("Call again with {list}."));
        denial.allowed = Some(Box::new(json!({ "required": names })));
        denial.text = self.vendor_text(&denial.reason);
        Err(Box::new(denial))
    }

    fn schema(
        &self,
        rule: &RuleRef,
        call: &Call,
        known: &dyn Knowledge,
    ) -> Result<(), Box<Denial>> {
        let Some(definition) = known.definition(&call.tool) else {
            return Err(self.not_listed(rule, "its schema is not known"));
        };
        let fault = match definition.check(&call.arguments) {
            Ok(()) => return Ok(()),
            Err(Unfit::Unusable(why)) => return Err(self.unusable(rule, &why)),
            Err(Unfit::Arguments(fault)) => fault,
        };
        let (at, why) = match fault {
            Fault::Wrong { at, why, .. } => (at, why),
            Fault::TooMuch => {
                let why = "it takes too long to hold these arguments against it";
                return Err(self.unusable(rule, why));
            }
            Fault::Unsure => {
                let why = "numbers of more than 64 bits cannot be told apart here";
                return Err(self.unusable(rule, why));
            }
        };
        let place = match at.as_str() {
            "" => "the arguments as a whole",
            at => at,
        };
        let mut denial = Denial::new(
            format!("The arguments do not fit the tool's own schema: {place}: {why}."),
            rule.clone(),
        );
        denial.instead = Some("Call again with arguments that fit its inputSchema.".to_owned());
        denial.allowed = Some(Box::new(json!({ "at": at })));
        Err(Box::new(denial))
    }

    /// The server has not said what the tool is.
    fn not_listed(&self, rule: &RuleRef, so: &str) -> Box<Denial> {
        let reason = format!("The server has not listed the tool yet, so {so}.");
        let mut denial = Denial::new(reason, rule.clone());
        denial.instead = Some("List the tools, then call again.".to_owned());
        denial.text = self.vendor_text(&denial.reason);
        Box::new(denial)
    }

    /// What the server said of the tool is of no use.
    fn unusable(&self, rule: &RuleRef, why: &str) -> Box<Denial> {
        let reason = format!("The tool's own schema cannot be used: {why}.");
        let mut denial = Denial::new(reason, rule.clone());
        denial.instead = Some(
            "Use another tool: only the server's maker, or another rule, can change this."
                .to_owned(),
        );
        denial.text = self.vendor_text(&denial.reason);
        Box::new(denial)
    }

    /// A denial of the tool as such.
    fn closed(
        &self,
        rule: &RuleRef,
        reason: String,
        instead: Option<String>,
        text: &str,
    ) -> Box<Denial> {
        let mut denial = Denial::new(reason, rule.clone());
        denial.instead = instead;
        denial.text = match self.replies {
            // Its words for these are not known.
            Replies::PolicyLayer => None,
            Replies::Ours | Replies::Intercept => self.vendor_text(text),
        };
        Box::new(denial)
    }

    fn alternatives(&self) -> Option<String> {
        const SHOWN: usize = 8;
        let mut names: Vec<String> = self
            .tools
            .keys()
            .filter(|name| self.visible(name))
            .map(|name| quoted(name))
            .collect();
        let all = names.len();
        names.truncate(SHOWN);
        match (all, all - names.len()) {
            (0, _) => None,
            (_, 0) => Some(format!("Use {}.", units::either(&names, "or"))),
            (_, more) => Some(format!("Use {} or one of {more} others.", names.join(", "))),
        }
    }
}

fn approve(asked: &ApprovalRule, call: &Call, known: &dyn Knowledge) -> Option<Approval> {
    let arguments: &Map<String, Value> = &call.arguments;
    let spared = asked
        .conditions
        .iter()
        .any(|condition| condition.holds(arguments, known) == Truth::No);
    (!spared).then(|| Approval {
        by: asked.by,
        rule: asked.rule.clone(),
        timeout: asked.timeout,
        why: asked.why.clone(),
    })
}

/// A window as Intercept names it after `per`.
fn window_words(window: Window) -> String {
    let seconds = match window {
        Window::Calendar(Unit::Minute) => 60,
        Window::Calendar(Unit::Hour) => 3_600,
        Window::Calendar(Unit::Day) => 86_400,
        Window::Sliding(time) | Window::Bucket(time) => time.as_secs(),
    };
    match seconds {
        60 => "minute".to_owned(),
        3_600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        n => format!("{n} seconds"),
    }
}

/// A policy writer's words as one sentence on one line.
fn sentence(text: &str) -> String {
    let mut sentence = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

/// A string in quotes, as Go's `%q` writes it.
fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
