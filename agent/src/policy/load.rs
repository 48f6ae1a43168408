//! From a file's text to a [`Policy`], or to the place of the first thing that is wrong in it.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path, sync::Arc, time::Duration};

use regex::RegexBuilder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    InterfacePattern, Outside, Payload, Policy, PolicyError, RuleRef,
    argument::{Argument, ArgumentRule, Check, Predicate},
    capture::{
        Arguments, Cap, CaptureRule, Interfaces, MAX_EXACT, MAX_SNAP, Named, Over, Within,
        check_filter,
    },
    error::Source,
    model::{Action, ToolRule},
    units,
    yaml::{self, Entry, Node, Place, Tree},
};

/// Bytes of a policy file at most.
const MAX_FILE: u64 = 1 << 20;

/// Bytes of a compiled regular expression at most; the default of 10 MiB is for trusted writers
/// of long alternations.
const MAX_REGEX: usize = 1 << 20;

/// Keys at the top of a policy.
const POLICY: &[&str] = &["version", "default", "tools", "exec"];
/// Keys of a tool's rule.
const TOOL: &[&str] = &["args", "capture", "deny", "ends"];
/// Keys of a `capture` section.
const CAPTURE: &[&str] = &[
    "from",
    "interfaces",
    "within",
    "outside",
    "packets",
    "bytes",
    "seconds",
    "snap",
    "payload",
    "over",
];
/// Keys of the `exec` section: those of a capture that no call asks for.
const EXEC: &[&str] = CAPTURE.split_at(1).1;
/// Keys of `from`.
const FROM: &[&str] = &["interface", "filter", "packets", "bytes", "seconds"];
/// Predicates on an argument.
const PREDICATES: &[&str] = &["absent", "pattern", "equals", "one_of", "at_most", "under"];

type Loaded<T> = Result<T, PolicyError>;

/// Reads a policy file.
pub(super) fn file(path: &Path) -> Loaded<Policy> {
    let name = path.display().to_string();
    let unreadable =
        |error: std::io::Error| Source::unreadable(&name, format!("cannot be read: {error}"), None);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(too_large(&name));
    }
    match std::str::from_utf8(&bytes) {
        Ok(contents) => text(&name, contents),
        Err(error) => Err(Source::unreadable(
            &name,
            format!("is not UTF-8 text: byte {} is wrong", error.valid_up_to()),
            Some("Save the policy as UTF-8.".to_owned()),
        )),
    }
}

fn too_large(name: &str) -> PolicyError {
    Source::unreadable(
        name,
        "is larger than 1 MiB".to_owned(),
        Some("Split the policy: one file for each server.".to_owned()),
    )
}

/// Reads a policy from text.
pub(super) fn text(file: &str, text: &str) -> Loaded<Policy> {
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(too_large(file));
    }
    let source = Source {
        file: Arc::from(file),
        text: Arc::from(text),
    };
    let root = yaml::read(text).map_err(|error| source.yaml(&error))?;
    let section = Section::open(&source, &root, "", "a policy", POLICY)?;
    version(&section)?;
    let default = default(&section)?;
    let tools = match section.field("tools") {
        Some(field) => tools(&field)?,
        None => BTreeMap::new(),
    };
    let exec = section
        .field("exec")
        .map(|field| capture(&field, EXEC))
        .transpose()?;
    if section.field("tools").is_none() && exec.is_none() {
        return Err(source.fault(
            root.place,
            "the policy allows nothing: it has neither `tools` nor `exec`",
            "in this policy",
            Some("Add `tools:` with a rule for each MCP tool, or `exec:` for commands.".to_owned()),
        ));
    }
    let digest = Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Policy {
        file: source.file,
        digest,
        default,
        tools,
        exec,
    })
}

fn version(section: &Section<'_>) -> Loaded<()> {
    const HELP: &str = "Write `version: 1`, the only version there is.";
    match section.field("version") {
        None => Err(section.missing("version", HELP)),
        Some(field) => match field.node.tree {
            Tree::Integer(1) => Ok(()),
            Tree::Integer(_) => Err(field.fault("is not a version of this language", HELP)),
            _ => Err(field.wrong("the number 1", HELP)),
        },
    }
}

fn default(section: &Section<'_>) -> Loaded<RuleRef> {
    const HELP: &str = "Only `default: deny` is accepted: what a policy does not name is denied.";
    match section.field("default") {
        None => Ok(section.source.rule(section.place, "default")),
        Some(field) if field.text("`deny`", HELP)? == "deny" => Ok(field.rule()),
        Some(field) => Err(field.fault("is not a default that this version accepts", HELP)),
    }
}

fn tools(field: &Field<'_>) -> Loaded<BTreeMap<String, ToolRule>> {
    const HELP: &str = "Write a map from each tool's name to its rule.";
    let Tree::Map(entries) = &field.node.tree else {
        return Err(field.wrong("a map", HELP));
    };
    entries
        .iter()
        .map(|entry| {
            let field = Field::new(field.source, entry, &field.path);
            if entry.key.is_empty() || entry.key.contains(['*', '?']) {
                return Err(field.key_fault(
                    format!("`{}` is no tool's name", entry.key),
                    "Tools are named one by one, as the server spells them: there are no globs, \
                     so that a new tool is denied until someone has looked at it.",
                ));
            }
            Ok((entry.key.clone(), tool(&field)?))
        })
        .collect()
}

fn tool(field: &Field<'_>) -> Loaded<ToolRule> {
    const HELP: &str =
        "Write `allow` or `{}`, `{ deny: \"reason\" }`, or a map of `args`, `capture` and `ends`.";
    let simple = |action| ToolRule {
        rule: field.rule(),
        args: Vec::new(),
        action,
    };
    match &field.node.tree {
        Tree::Text(word) if word == "allow" => return Ok(simple(Action::Allow)),
        Tree::Text(word) if word == "deny" => {
            return Err(field.fault(
                "denies without a reason",
                "Write `{ deny: \"reason\" }`: the reason is what the model gets to read.",
            ));
        }
        Tree::Text(_) => return Err(field.fault("is no rule", HELP)),
        Tree::Map(_) => {}
        _ => return Err(field.wrong("a rule", HELP)),
    }
    let section = Section::open(field.source, field.node, &field.path, "a rule", TOOL)?;
    if let Some(deny) = section.field("deny") {
        if let Some(other) = TOOL
            .iter()
            .filter(|key| **key != "deny")
            .find_map(|key| section.field(key))
        {
            return Err(other.key_fault(
                format!("`{}` cannot stand beside `deny`", other.key),
                "A denied tool has nothing else to decide: drop one of the two.",
            ));
        }
        const REASON: &str = "Write the reason as a string: it is what the model gets to read.";
        let reason = deny.text("a reason", REASON)?.trim();
        let reason = reason.trim_end_matches('.');
        if reason.is_empty() || reason.chars().any(char::is_control) {
            return Err(deny.fault("is no reason", REASON));
        }
        return Ok(ToolRule {
            rule: deny.rule(),
            args: Vec::new(),
            action: Action::Deny(reason.to_owned()),
        });
    }
    let args = section.field("args").map(|f| args(&f)).transpose()?;
    let action = match (section.field("capture"), section.field("ends")) {
        (Some(_), Some(ends)) => {
            return Err(ends.key_fault(
                "`ends` cannot stand beside `capture`".to_owned(),
                "A tool starts a capture or ends one: drop one of the two.",
            ));
        }
        (Some(start), None) => Action::Capture(Box::new(capture(&start, CAPTURE)?)),
        (None, Some(ends)) => {
            const HELP: &str = "Write `ends: capture`, for a tool that stops captures.";
            if ends.text("`capture`", HELP)? != "capture" {
                return Err(ends.fault("is nothing that a tool can end", HELP));
            }
            Action::EndCapture
        }
        (None, None) => Action::Allow,
    };
    Ok(ToolRule {
        rule: field.rule(),
        args: args.unwrap_or_default(),
        action,
    })
}

fn args(field: &Field<'_>) -> Loaded<Vec<ArgumentRule>> {
    let Tree::Map(entries) = &field.node.tree else {
        return Err(field.wrong(
            "a map",
            "Write a map from each argument's name to what it must be.",
        ));
    };
    entries
        .iter()
        .map(|entry| {
            let field = Field::new(field.source, entry, &field.path);
            let argument = Argument::parse(&entry.key).map_err(|why| {
                field.key_fault(
                    why.to_owned(),
                    "Dots reach into objects: `config.interface`.",
                )
            })?;
            Ok(ArgumentRule {
                argument,
                checks: checks(&field)?,
            })
        })
        .collect()
}

fn checks(field: &Field<'_>) -> Loaded<Vec<Check>> {
    let section = Section::open(
        field.source,
        field.node,
        &field.path,
        "a map of predicates",
        PREDICATES,
    )?;
    let mut checks = Vec::new();
    for key in PREDICATES {
        if let Some(field) = section.field(key) {
            checks.push(Check {
                predicate: predicate(&field)?,
                rule: field.rule(),
            });
        }
    }
    match checks.as_slice() {
        [] => Err(field.fault(
            "asks nothing of the argument",
            "Write at least one of `absent`, `pattern`, `equals`, `one_of`, `at_most`, `under`.",
        )),
        [
            Check {
                predicate: Predicate::Absent,
                ..
            },
            other,
            ..,
        ] => Err(section
            .field(other.rule.path.rsplit('.').next().unwrap_or_default())
            .as_ref()
            .unwrap_or(field)
            .key_fault(
                "an argument that must be absent cannot be asked for anything else".to_owned(),
                "Drop `absent`, or all that stands beside it.",
            )),
        _ => Ok(checks),
    }
}

fn predicate(field: &Field<'_>) -> Loaded<Predicate> {
    match field.key {
        "absent" => match field.node.tree {
            Tree::Bool(true) => Ok(Predicate::Absent),
            Tree::Bool(false) => Ok(Predicate::Present),
            _ => Err(field.wrong(
                "true or false",
                "Write `absent: true` for an argument that must not be sent, `absent: false` for one that must.",
            )),
        },
        "pattern" => pattern(field),
        "equals" => Ok(Predicate::OneOf(vec![scalar(field, field.node)?])),
        "one_of" => {
            let items = field.list("a list of values", "Write the values that are allowed: `[ text, json ]`.")?;
            let values = items
                .iter()
                .map(|item| scalar(field, item))
                .collect::<Loaded<_>>()?;
            Ok(Predicate::OneOf(values))
        }
        "at_most" => {
            const HELP: &str = "Write the largest number that is allowed, 0 or more.";
            let (number, written) = match &field.node.tree {
                Tree::Integer(n @ 0..) if *n <= i128::from(MAX_EXACT) => {
                    // Through text, as this range has no lossless conversion.
                    (n.to_string().parse().unwrap_or(0.0), n.to_string())
                }
                Tree::Float(n) if *n >= 0.0 && n.is_finite() => (*n, n.to_string()),
                Tree::Integer(_) | Tree::Float(_) => {
                    return Err(field.fault("is not from 0 to 2^53", HELP));
                }
                _ => return Err(field.wrong("a number", HELP)),
            };
            Ok(Predicate::AtMost { number, written })
        }
        _ => {
            const HELP: &str = "Write an absolute directory without `..`, such as /var/lib/capwarden/captures.";
            let written = field.text("a directory", HELP)?;
            let path = Path::new(written);
            if !path.is_absolute()
                || written.chars().any(char::is_control)
                || path
                    .components()
                    .any(|part| part == std::path::Component::ParentDir)
            {
                return Err(field.fault("is not an absolute directory", HELP));
            }
            let directory: std::path::PathBuf = path.components().collect();
            Ok(Predicate::Under(directory.to_string_lossy().into_owned()))
        }
    }
}

fn pattern(field: &Field<'_>) -> Loaded<Predicate> {
    const HELP: &str =
        "Write a regular expression in quotes; it must match the argument as a whole.";
    let written = field.text("a regular expression", HELP)?;
    let compile = |regex: &str| RegexBuilder::new(regex).size_limit(MAX_REGEX).build();
    // First as it was written, for the error's words and so that it cannot reach out of the group.
    let regex = compile(written).and_then(|_| compile(&format!(r"\A(?:{written})\z")));
    match regex {
        Ok(regex) => Ok(Predicate::Pattern {
            written: written.to_owned(),
            regex,
        }),
        Err(error) => {
            let error = error.to_string();
            let why = error
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            Err(field.fault(&format!("is not a regular expression: {why}"), HELP))
        }
    }
}

fn scalar(field: &Field<'_>, node: &Node) -> Loaded<Value> {
    match &node.tree {
        Tree::Bool(value) => Ok(Value::from(*value)),
        Tree::Text(value) => Ok(Value::from(value.as_str())),
        Tree::Float(value) => Ok(Value::from(*value)),
        Tree::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
            (Ok(value), _) => Ok(Value::from(value)),
            (_, Ok(value)) => Ok(Value::from(value)),
            _ => Err(field.wrong_at(node, "a number of 64 bits", "")),
        },
        _ => Err(field.wrong_at(
            node,
            "a string, a number or a boolean",
            "Lists and objects cannot be compared; reach into an object with a dotted name.",
        )),
    }
}

fn capture(field: &Field<'_>, keys: &'static [&'static str]) -> Loaded<CaptureRule> {
    let section = Section::open(
        field.source,
        field.node,
        &field.path,
        "a map of capture terms",
        keys,
    )?;
    let from = section
        .field("from")
        .map(|field| from(&field))
        .transpose()?
        .unwrap_or_default();
    let interfaces = match section.field("interfaces") {
        Some(field) => interfaces(&field)?,
        None => {
            return Err(section.missing(
                "interfaces",
                "List the interfaces that may be captured on: `interfaces: [ lo, \"veth*\" ]`.",
            ));
        }
    };
    let within = section
        .field("within")
        .map(|field| {
            Ok(Within {
                expression: within(&field)?,
                rule: field.rule(),
            })
        })
        .transpose()?;
    let packets = section
        .field("packets")
        .map(|field| {
            let most = field.whole(
                1..=MAX_EXACT,
                "a number of packets",
                "Write a whole number from 1: `packets: 10000`.",
            )?;
            Ok(Cap {
                most,
                rule: field.rule(),
            })
        })
        .transpose()?;
    let bytes = section
        .field("bytes")
        .map(|field| {
            let most = field.bytes(1..=MAX_EXACT)?;
            Ok(Cap {
                most,
                rule: field.rule(),
            })
        })
        .transpose()?;
    let seconds = section
        .field("seconds")
        .map(|field| {
            Ok(Cap {
                most: seconds(&field)?,
                rule: field.rule(),
            })
        })
        .transpose()?;
    if packets.is_none() && bytes.is_none() && seconds.is_none() {
        return Err(field.key_fault(
            format!("`{}` has no cap", field.key),
            "Add at least one of `packets`, `bytes` and `seconds`: a capture must end.",
        ));
    }
    let snap = match section.field("snap") {
        None => MAX_SNAP,
        Some(field) => u32::try_from(field.bytes(1..=u64::from(MAX_SNAP))?).unwrap_or(MAX_SNAP),
    };
    let payload = section.field("payload").map(|field| payload(&field));
    let outside = section
        .field("outside")
        .map(|field| outside(&field, within.is_some()));
    let over = section.field("over").map(|field| over(&field));
    Ok(CaptureRule {
        rule: field.rule(),
        from,
        interfaces,
        within,
        outside: outside.transpose()?.unwrap_or_default(),
        packets,
        bytes,
        seconds,
        snap,
        payload: payload.transpose()?.unwrap_or(Payload::Full),
        over: over.transpose()?.unwrap_or(Over::Clamp),
    })
}

fn from(field: &Field<'_>) -> Loaded<Arguments> {
    let section = Section::open(
        field.source,
        field.node,
        &field.path,
        "a map from what is asked to the argument that asks it",
        FROM,
    )?;
    let named = |key: &str| {
        section
            .field(key)
            .map(|field| {
                const HELP: &str =
                    "Write the argument's name as the server spells it; dots reach into objects.";
                let argument = Argument::parse(field.text("an argument's name", HELP)?)
                    .map_err(|_| field.fault("is no argument's name", HELP))?;
                Ok(Named {
                    argument,
                    rule: field.rule(),
                })
            })
            .transpose()
    };
    let arguments = Arguments {
        interface: named("interface")?,
        filter: named("filter")?,
        packets: named("packets")?,
        bytes: named("bytes")?,
        seconds: named("seconds")?,
    };
    // One argument that asks two things would be written twice.
    for (n, key) in FROM.iter().enumerate() {
        let Some(field) = section.field(key) else {
            continue;
        };
        let name = field.text("an argument's name", "")?;
        if let Some(other) = FROM.iter().take(n).find(|other| {
            section
                .field(other)
                .is_some_and(|other| matches!(&other.node.tree, Tree::Text(text) if text == name))
        }) {
            return Err(field.fault(
                &format!("asks for `{other}` already"),
                "Name another argument for one of the two, or drop it.",
            ));
        }
    }
    Ok(arguments)
}

fn interfaces(field: &Field<'_>) -> Loaded<Interfaces> {
    const HELP: &str =
        "List interface names, globs with `*` and `?`, or `any`: `[ lo, \"veth*\" ]`.";
    let mut any = false;
    let mut patterns = Vec::new();
    for node in field.list("a list of interfaces", HELP)? {
        let Tree::Text(text) = &node.tree else {
            return Err(field.wrong_at(node, "an interface's name in quotes", HELP));
        };
        if text == "any" {
            any = true;
            continue;
        }
        let pattern = InterfacePattern::parse(text).map_err(|reason| {
            field.source.fault(
                node.place,
                trim_stop(&reason),
                "here",
                Some(HELP.to_owned()),
            )
        })?;
        patterns.push(pattern);
    }
    Ok(Interfaces {
        any,
        patterns,
        rule: field.rule(),
    })
}

fn within(field: &Field<'_>) -> Loaded<String> {
    const HELP: &str = "Write a capture filter in quotes: `within: \"net 10.0.0.0/8\"`.";
    // Line ends of a block scalar mean no more to libpcap than spaces do.
    let text = field.text("a capture filter", HELP)?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return Err(field.fault("is empty", HELP));
    }
    match check_filter(&text) {
        Ok(()) => Ok(text),
        Err(reason) => Err(field.source.fault(
            field.node.place,
            trim_stop(&reason),
            "here",
            Some(HELP.to_owned()),
        )),
    }
}

fn seconds(field: &Field<'_>) -> Loaded<Duration> {
    const HELP: &str = "Write a number of seconds, such as 60 or 0.5, of at most a year.";
    let seconds: f64 = match &field.node.tree {
        // Through text, as this type has no lossless conversion.
        Tree::Integer(n) => n.to_string().parse().unwrap_or(f64::INFINITY),
        Tree::Float(n) => *n,
        _ => return Err(field.wrong("a number of seconds", HELP)),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds <= units::MAX_SECONDS && time >= Duration::from_millis(1) => Ok(time),
        _ => Err(field.fault("is not a time that a capture may take", HELP)),
    }
}

fn payload(field: &Field<'_>) -> Loaded<Payload> {
    const HELP: &str =
        "Write `headers`, `full`, or a number of bytes to keep after the transport header.";
    match &field.node.tree {
        Tree::Text(word) if word == "full" => Ok(Payload::Full),
        Tree::Text(word) if word == "headers" => Ok(Payload::Bytes(0)),
        Tree::Text(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(field.fault("is no amount of payload", HELP))
        }
        Tree::Integer(_) | Tree::Text(_) => {
            let n = field.bytes(0..=u64::from(MAX_SNAP))?;
            Ok(Payload::Bytes(u32::try_from(n).unwrap_or(MAX_SNAP)))
        }
        _ => Err(field.wrong("an amount of payload", HELP)),
    }
}

fn outside(field: &Field<'_>, has_within: bool) -> Loaded<Outside> {
    const HELP: &str = "Write `narrow` to leave out what a requested filter matches beyond `within`, or `deny` to deny the call.";
    if !has_within {
        return Err(field.key_fault(
            "`outside` has no `within` to be outside of".to_owned(),
            "Add `within`, or leave out `outside`.",
        ));
    }
    match field.text("`narrow` or `deny`", HELP)? {
        "narrow" => Ok(Outside::Narrow),
        "deny" => Ok(Outside::Deny),
        _ => Err(field.fault("is neither `narrow` nor `deny`", HELP)),
    }
}

fn over(field: &Field<'_>) -> Loaded<Over> {
    const HELP: &str = "Write `clamp` to write the cap into a call that asks for more, or `deny` to deny the call.";
    match field.text("`clamp` or `deny`", HELP)? {
        "clamp" => Ok(Over::Clamp),
        "deny" => Ok(Over::Deny),
        _ => Err(field.fault("is neither `clamp` nor `deny`", HELP)),
    }
}

/// A map whose keys are known.
struct Section<'a> {
    source: &'a Source,
    path: String,
    place: Place,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    fn open(
        source: &'a Source,
        node: &'a Node,
        path: &str,
        expected: &str,
        keys: &[&str],
    ) -> Loaded<Self> {
        let subject = || match path {
            "" => "the file".to_owned(),
            path => format!("`{path}`"),
        };
        let known = || {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            units::either(&keys, "and")
        };
        let Tree::Map(entries) = &node.tree else {
            return Err(source.fault(
                node.place,
                format!(
                    "{} must be {expected}, but is {}",
                    subject(),
                    node.tree.kind()
                ),
                format!("this is {}", node.tree.kind()),
                Some(format!("The keys here are {}.", known())),
            ));
        };
        for entry in entries {
            if !keys.contains(&entry.key.as_str()) {
                let alike = closest(&entry.key, keys)
                    .map_or_else(String::new, |key| format!("Did you mean `{key}`? "));
                return Err(source.fault(
                    entry.place,
                    format!(
                        "unknown key `{}` in {}",
                        entry.key.escape_debug(),
                        subject()
                    ),
                    "not known here",
                    Some(format!("{alike}The keys here are {}.", known())),
                ));
            }
        }
        Ok(Self {
            source,
            path: path.to_owned(),
            place: node.place,
            entries,
        })
    }

    fn field(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Field::new(self.source, entry, &self.path))
    }

    fn missing(&self, key: &str, help: &str) -> PolicyError {
        let subject = match self.path.as_str() {
            "" => "the policy".to_owned(),
            path => format!("`{path}`"),
        };
        self.source.fault(
            self.place,
            format!("{subject} has no `{key}`"),
            "in this map",
            Some(help.to_owned()),
        )
    }
}

/// A key, its value and the path to it.
struct Field<'a> {
    source: &'a Source,
    key: &'a str,
    place: Place,
    node: &'a Node,
    path: String,
}

impl<'a> Field<'a> {
    fn new(source: &'a Source, entry: &'a Entry, parent: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let step = if !entry.key.is_empty() && entry.key.chars().all(plain) {
            entry.key.clone()
        } else {
            format!("{:?}", entry.key)
        };
        Self {
            source,
            key: &entry.key,
            place: entry.place,
            node: &entry.value,
            path: match parent {
                "" => step,
                parent => format!("{parent}.{step}"),
            },
        }
    }

    fn rule(&self) -> RuleRef {
        self.source.rule(self.place, self.path.as_str())
    }

    /// Something is wrong with the key.
    fn key_fault(&self, message: String, help: &str) -> PolicyError {
        self.source
            .fault(self.place, message, "here", Some(help.to_owned()))
    }

    /// The value is of the right type, but wrong.
    fn fault(&self, what: &str, help: &str) -> PolicyError {
        let written = match &self.node.tree {
            Tree::Text(text) => super::source::quoted(text),
            Tree::Integer(n) => format!("`{n}`"),
            Tree::Float(n) => format!("`{n}`"),
            _ => format!("`{}`", self.key.escape_debug()),
        };
        self.source.fault(
            self.node.place,
            format!("{written} {what}"),
            format!("at `{}`", self.path),
            Some(help.to_owned()),
        )
    }

    /// The value is of the wrong type.
    fn wrong(&self, expected: &str, help: &str) -> PolicyError {
        self.wrong_at(self.node, expected, help)
    }

    fn wrong_at(&self, node: &Node, expected: &str, help: &str) -> PolicyError {
        let kind = node.tree.kind();
        self.source.fault(
            node.place,
            format!("`{}` must be {expected}, but is {kind}", self.path),
            format!("this is {kind}"),
            (!help.is_empty()).then(|| help.to_owned()),
        )
    }

    fn text(&self, expected: &str, help: &str) -> Loaded<&'a str> {
        match &self.node.tree {
            Tree::Text(text) => Ok(text),
            _ => Err(self.wrong(expected, help)),
        }
    }

    fn list(&self, expected: &str, help: &str) -> Loaded<&'a [Node]> {
        match &self.node.tree {
            Tree::List(items) if items.is_empty() => Err(self.fault("is an empty list", help)),
            Tree::List(items) => Ok(items),
            _ => Err(self.wrong(expected, help)),
        }
    }

    fn whole(
        &self,
        range: std::ops::RangeInclusive<u64>,
        expected: &str,
        help: &str,
    ) -> Loaded<u64> {
        match &self.node.tree {
            Tree::Integer(n) => match u64::try_from(*n) {
                Ok(n) if range.contains(&n) => Ok(n),
                _ => Err(self.fault(
                    &format!("is not from {} to {}", range.start(), range.end()),
                    help,
                )),
            },
            _ => Err(self.wrong(expected, help)),
        }
    }

    fn bytes(&self, range: std::ops::RangeInclusive<u64>) -> Loaded<u64> {
        const HELP: &str = "Write a number of bytes such as 4096, 64KiB, 10MB or 50MiB.";
        match &self.node.tree {
            Tree::Text(text) => match units::parse_bytes(text) {
                Ok(n) if range.contains(&n) => Ok(n),
                Ok(_) => Err(self.fault(
                    &format!("is not from {} to {} bytes", range.start(), range.end()),
                    HELP,
                )),
                Err(why) => Err(self.fault("is no number of bytes", &why)),
            },
            _ => self.whole(range, "a number of bytes", HELP),
        }
    }
}

/// The known key that a slip of the fingers would turn into this one.
fn closest<'k>(key: &str, keys: &[&'k str]) -> Option<&'k str> {
    keys.iter()
        .map(|known| {
            (
                strsim::damerau_levenshtein(&key.to_lowercase(), known),
                *known,
            )
        })
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

fn trim_stop(sentence: &str) -> &str {
    sentence.trim_end_matches('.')
}
