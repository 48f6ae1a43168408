//! The list of tools: what is hidden in it, and what is learnt from it.

use std::collections::HashSet;

use super::{
    events::Decide,
    json::{self, Members},
    splice,
};
use crate::{principal::Caller, spelling::folds};

/// Tools whose schemas are remembered at most.
const KNOWN: usize = 16 * 1024;

/// What the server said of its tools.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    output: HashSet<String>,
}

impl Schemas {
    /// The tool has a schema for its structured content.
    pub(super) fn has_output(&self, tool: &str) -> bool {
        self.output.contains(tool)
    }

    fn learn(&mut self, tool: &str, has_output: bool) {
        if !has_output {
            self.output.remove(tool);
        } else if self.output.len() < KNOWN {
            self.output.insert(tool.to_owned());
        }
    }
}

/// The answer to `tools/list` without the tools that are hidden; none if it stays as it is.
pub(super) fn filter<P: Decide>(
    text: &str,
    result: &str,
    policy: &P,
    caller: &Caller,
    schemas: &mut Schemas,
) -> Option<String> {
    let (array, last) = match Members::parse(result) {
        Ok(members) => {
            let last = members
                .get("nextCursor")
                .is_none_or(|cursor| cursor == "null");
            let mut lists = members.iter().filter(|(key, _)| folds(key, "tools"));
            let (_, first) = lists.next()?;
            if lists.next().is_some() {
                // Readers differ in which one they take.
                return splice::replace(text, result, r#"{"tools":[]}"#);
            }
            (first, last)
        }
        // An object that cannot be looked into could hide a list.
        Err(_) if result.trim_ascii_start().starts_with('{') => {
            return splice::replace(text, result, r#"{"tools":[]}"#);
        }
        Err(_) => return None,
    };
    let Some(elements) = json::elements(array) else {
        return splice::replace(text, array, "[]");
    };
    let keep: Vec<bool> = elements
        .iter()
        .map(|element| keeps(element, policy, caller, schemas))
        .collect();
    if last {
        policy.list_ended(caller);
    }
    if keep.iter().all(|keep| *keep) {
        return None;
    }
    let kept = splice::keep_elements(array, &elements, &keep)?;
    splice::replace(text, array, &kept)
}

fn keeps<P: Decide>(element: &str, policy: &P, caller: &Caller, schemas: &mut Schemas) -> bool {
    // What has no name cannot be called, and is not ours to judge; an object that cannot be looked
    // into may have one.
    let Ok(tool) = Members::parse(element) else {
        return !element.starts_with('{');
    };
    let Some(name) = tool.get("name").and_then(json::string) else {
        // No name that we can read may be one that another reader can.
        return false;
    };
    // A tool of two names is hidden if one of them is; readers differ in what they take for a name.
    let names = tool.iter().filter(|(key, _)| folds(key, "name"));
    let mut names = names.map(|(key, name)| (key == "name").then(|| json::string(name)).flatten());
    if !names.all(|name| name.is_some_and(|name| policy.visible(caller, &name))) {
        return false;
    }
    schemas.learn(
        &name,
        tool.get("outputSchema")
            .is_some_and(|schema| schema != "null"),
    );
    policy.listed(caller, &name, element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gate::CallEnd,
        policy::{Call, Verdict},
        principal::{Caller, Principal},
    };

    struct NoSecret;

    impl Decide for NoSecret {
        type Ticket = ();

        fn visible(&self, _: &Caller, tool: &str) -> bool {
            tool != "secret"
        }

        async fn decide(&self, _: &Caller, _: &Call) -> (Verdict, ()) {
            (Verdict::Forward, ())
        }

        fn settle(&self, (): (), _: CallEnd) {}
    }

    fn filtered(result: &str) -> Option<String> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        let start = text.find(result)?;
        let result = text.get(start..start + result.len())?;
        let caller = Caller {
            principal: Principal::User(1000),
            grant: None,
            connection: 1,
            server: "s".into(),
        };
        filter(&text, result, &NoSecret, &caller, &mut Schemas::default())
    }

    #[test]
    fn list_that_is_too_long_to_be_looked_at_is_hidden_whole() {
        let tool = r#"{"name":"secret"}"#;
        let tools = vec![tool; 10_001].join(",");
        let shown = filtered(&format!(r#"{{"tools":[{tools}]}}"#)).unwrap();
        assert_eq!(shown, r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#);

        let members: Vec<String> = (0..10_000).map(|n| format!(r#""{n}":0"#)).collect();
        let members = members.join(",");
        let shown = filtered(&format!(r#"{{{members},"tools":[{tool}]}}"#)).unwrap();
        assert!(!shown.contains("secret"));

        let shown = filtered(&format!(r#"{{"tools":[{{{members},"name":"secret"}}]}}"#)).unwrap();
        assert!(!shown.contains("secret"));
    }

    #[test]
    fn tools_whose_names_readers_differ_about_are_not_shown() {
        let odd = [
            r#"{"name":"bad\ud800","description":"secret"}"#,
            r#"{"Name":"tool","description":"secret"}"#,
            r#"{"name":"shown","NAME":"tool","description":"secret"}"#,
            r#"{"name":7,"description":"secret"}"#,
            r#"{"description":"secret"}"#,
        ];
        for tool in odd {
            let shown = filtered(&format!(r#"{{"tools":[{tool},{{"name":"shown"}}]}}"#)).unwrap();
            let only = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"shown"}]}}"#;
            assert_eq!(shown, only, "{tool}");
        }
    }
}
