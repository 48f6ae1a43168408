//! What a policy comes to, as `policy check` prints it.

use std::collections::BTreeMap;

use crate::{audit::visible, policy::Summary};

use super::super::term::{Paint, wrapped};

/// Columns of a line, about.
const WIDTH: usize = 100;
/// Columns before what is said of a verdict.
const INDENT: usize = 11;

/// One line that names the policy, then one for each thing that may become of a call.
pub(super) fn words(summary: &Summary, wrong: bool, paint: Paint) -> String {
    let state = if wrong {
        paint.error("not usable")
    } else {
        paint.good("sound")
    };
    let (file, language) = (visible(&summary.file), summary.dialect.name());
    let mut text = format!("{file}: {state}, in {language}\n");
    let mut line = |verdict: &str, words: &str| {
        if !words.is_empty() {
            let verdict = paint.strong(&format!("{verdict:<8}"));
            text += &wrapped(&format!("  {verdict} {}", visible(words)), WIDTH, INDENT);
            text.push('\n');
        }
    };
    for verdict in ["capture", "proxy", "program"] {
        // Tools that work in one browser have the same terms.
        let mut alike: Vec<(String, Vec<&str>)> = Vec::new();
        for tool in summary.with(verdict) {
            let terms = tool.terms.iter().map(String::as_str);
            let all: Vec<&str> = terms.chain(tool.asks.iter().map(String::as_str)).collect();
            let all = all.join("; ");
            match alike.iter_mut().find(|(terms, _)| *terms == all) {
                Some((_, names)) => names.push(&tool.name),
                None => alike.push((all, vec![&tool.name])),
            }
        }
        for (terms, names) in alike {
            line(verdict, &format!("{}: {terms}", names.join(", ")));
        }
    }
    let others = "every tool that is not named here";
    for verdict in ["ends", "allow", "deny"] {
        let is_last = verdict
            == if summary.others_allowed {
                "allow"
            } else {
                "deny"
            };
        let mut groups = groups(summary, verdict);
        match groups.iter_mut().find(|(asks, _)| asks.is_empty()) {
            Some((_, names)) if is_last => names.push(others),
            None if is_last => groups.push((&[], vec![others])),
            _ => {}
        }
        for (asks, names) in groups {
            let names = names.join(", ");
            match asks {
                [] => line(verdict, &names),
                asks => line(verdict, &format!("{}: {names}", asks.join(", "))),
            }
        }
    }
    line("all", &summary.all_tools.join(", "));
    line("exec", summary.exec.as_deref().unwrap_or_default());
    if let Some(baseline) = &summary.baseline {
        line("server", &format!("without a session, {baseline}"));
    }
    text
}

/// The tools with a verdict, by what their calls are asked; first those that are asked nothing.
fn groups<'a>(summary: &'a Summary, verdict: &str) -> Vec<(&'a [String], Vec<&'a str>)> {
    let mut groups: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
    for tool in summary.with(verdict) {
        groups.entry(&tool.asks).or_default().push(&tool.name);
    }
    groups.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn a_policy_is_told_at_a_glance() {
        let policy = "version: 1
all_tools: { limits: [ { max: 99, window: day } ] }
tools:
  start: { args: { x: { absent: true } }, limits: [ { max: 10, window: minute } ], capture: { interfaces: [ lo ], within: tcp, packets: 5 } }
  stop: { ends: capture }
  list: allow
  look: { approve: operator }
  save: { deny: it saves }
";
        let summary = Policy::parse("p", policy).unwrap().summary();
        let expected = "p: sound, in capwarden's language
  capture  start: lo, within \"tcp\", 5 packets; arguments checked; at most 10 a minute
  ends     stop
  allow    list
  allow    an operator asked: look
  deny     save, every tool that is not named here
  all      at most 99 a day
";
        assert_eq!(words(&summary, false, Paint::off()), expected);
        let open = "version: 1\ndefault: { allow: it is a lab }\ntools: { a: { deny: no } }\n";
        let summary = Policy::parse("p", open).unwrap().summary();
        let text = words(&summary, true, Paint::off());
        assert!(text.starts_with("p: not usable"), "{text}");
        assert!(
            text.contains("  allow    every tool that is not named here\n"),
            "{text}"
        );
    }
}
