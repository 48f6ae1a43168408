//! Edits of JSON text that leave every other byte where it was.

use std::ops::Range;

use serde_json::Value;

use super::{
    envelope::CallParams,
    json::{self, Members},
};
use crate::policy::Change;

/// Where in `outer` the part `inner`, borrowed from it, stands.
pub(super) fn span(outer: &str, inner: &str) -> Option<Range<usize>> {
    let start = inner.as_ptr().addr().checked_sub(outer.as_ptr().addr())?;
    let end = start.checked_add(inner.len())?;
    (end <= outer.len()).then_some(start..end)
}

/// `text` with its part `old`, borrowed from it, replaced.
pub(super) fn replace(text: &str, old: &str, new: &str) -> Option<String> {
    let place = span(text, old)?;
    put(text, place, new)
}

fn put(text: &str, place: Range<usize>, new: &str) -> Option<String> {
    let (before, after) = (text.get(..place.start)?, text.get(place.end..)?);
    let mut edited = String::with_capacity(before.len() + new.len() + after.len());
    edited.push_str(before);
    edited.push_str(new);
    edited.push_str(after);
    Some(edited)
}

/// The line of a `tools/call` with the changes written into its arguments.
pub(super) fn change_arguments(
    line: &str,
    params: &CallParams<'_>,
    changes: &[Change],
) -> Option<String> {
    if changes.is_empty() {
        return Some(line.to_owned());
    }
    let mut arguments = match params.arguments_text {
        None | Some("null") => "{}",
        Some(object) => object,
    }
    .to_owned();
    for change in changes {
        arguments = set(&arguments, &change.argument, &change.forwarded)?;
    }
    match params.arguments_text {
        Some(old) => replace(line, old, &arguments),
        None => {
            let with = append_member(params.text, "arguments", &arguments)?;
            replace(line, params.text, &with)
        }
    }
}

/// An object with one member set; dots in the path reach into objects.
fn set(object: &str, path: &str, value: &Value) -> Option<String> {
    let members = Members::parse(object).ok()?;
    let (key, rest) = match path.split_once('.') {
        Some((key, rest)) => (key, Some(rest)),
        None => (path, None),
    };
    let old = members.get(key);
    let new = match rest {
        None => value.to_string(),
        Some(rest) => {
            let inner = old.filter(|old| old.starts_with('{')).unwrap_or("{}");
            set(inner, rest, value)?
        }
    };
    match old {
        Some(old) => replace(object, old, &new),
        None => append_member(object, key, &new),
    }
}

fn append_member(object: &str, key: &str, value: &str) -> Option<String> {
    let comma = if Members::parse(object).ok()?.is_empty() {
        ""
    } else {
        ","
    };
    let key = Value::from(key);
    append(object, '}', &format!("{comma}{key}:{value}"))
}

/// An object without some of its members; the values of the others stay as they were written.
pub(super) fn without(object: &str, keys: &[&str]) -> Option<String> {
    let members = Members::parse(object).ok()?;
    let mut left = String::with_capacity(object.len());
    for (key, value) in members.iter().filter(|(key, _)| !keys.contains(key)) {
        left.push(if left.is_empty() { '{' } else { ',' });
        left.push_str(&Value::from(key).to_string());
        left.push(':');
        left.push_str(value);
    }
    if left.is_empty() {
        left.push('{');
    }
    left.push('}');
    Some(left)
}

/// An array with one element more.
pub(super) fn append_element(array: &str, element: &str) -> Option<String> {
    let comma = if json::elements(array)?.is_empty() {
        ""
    } else {
        ","
    };
    append(array, ']', &format!("{comma}{element}"))
}

fn append(text: &str, close: char, new: &str) -> Option<String> {
    let end = text.rfind(close)?;
    put(text, end..end, new)
}

/// An array with only those of its elements (all of them, borrowed from it) that are kept.
pub(super) fn keep_elements(array: &str, elements: &[&str], keep: &[bool]) -> Option<String> {
    let mut edited = String::with_capacity(array.len());
    let mut end = 1;
    edited.push_str(array.get(..end)?);
    let mut first = true;
    for (element, keep) in elements.iter().zip(keep) {
        let place = span(array, element)?;
        // What stands between the brackets and the elements comes along, but a leading comma.
        let before = array.get(end..place.start)?;
        end = place.end;
        if *keep {
            edited.push_str(if first {
                before.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace())
            } else {
                before
            });
            edited.push_str(element);
            first = false;
        }
    }
    edited.push_str(array.get(end..)?);
    Some(edited)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(argument: &str, forwarded: Value) -> Change {
        Change {
            argument: argument.into(),
            asked: None,
            forwarded,
            why: String::new(),
        }
    }

    fn changed(params: &str, changes: &[Change]) -> String {
        let line = format!("{{ \"x\":[1 ], \"params\": {params} ,\"id\":1}}\r\n");
        let start = line.find(params).unwrap();
        let borrowed = &line[start..start + params.len()];
        let params = CallParams::parse(Some(borrowed)).unwrap();
        let edited = change_arguments(&line, &params, changes).unwrap();
        let edited = edited
            .strip_prefix("{ \"x\":[1 ], \"params\": ")
            .expect("the bytes before stay");
        edited
            .strip_suffix(" ,\"id\":1}\r\n")
            .expect("the bytes after stay")
            .to_owned()
    }

    #[test]
    fn splice_present_argument_is_replaced_in_place() {
        assert_eq!(
            changed(
                r#"{"name":"t", "arguments" : { "n" : 99 , "s":"é\u0041"}, "_meta":{}}"#,
                &[change("n", json!(5))]
            ),
            r#"{"name":"t", "arguments" : { "n" : 5 , "s":"é\u0041"}, "_meta":{}}"#
        );
    }

    #[test]
    fn splice_absent_argument_is_appended() {
        let one = [change("n", json!("a\"b"))];
        assert_eq!(
            changed(r#"{"name":"t","arguments":{"s": 1 }}"#, &one),
            r#"{"name":"t","arguments":{"s": 1 ,"n":"a\"b"}}"#
        );
        assert_eq!(
            changed(r#"{"name":"t","arguments":{ }}"#, &one),
            r#"{"name":"t","arguments":{ "n":"a\"b"}}"#
        );
    }

    #[test]
    fn splice_absent_arguments_are_made() {
        let one = [change("n", json!(1))];
        assert_eq!(
            changed(r#"{"name":"t"}"#, &one),
            r#"{"name":"t","arguments":{"n":1}}"#
        );
        assert_eq!(
            changed(r#"{"arguments":null,"name":"t"}"#, &one),
            r#"{"arguments":{"n":1},"name":"t"}"#
        );
    }

    #[test]
    fn splice_dotted_argument_reaches_into_objects() {
        assert_eq!(
            changed(
                r#"{"name":"t","arguments":{"p":{"n":9,"m":1}}}"#,
                &[
                    change("p.n", json!(5)),
                    change("q.r.s", json!(true)),
                    change("q.r.t", json!(null)),
                ]
            ),
            r#"{"name":"t","arguments":{"p":{"n":5,"m":1},"q":{"r":{"s":true,"t":null}}}}"#
        );
    }

    #[test]
    fn splice_kept_elements_keep_their_bytes() {
        let array = "[ {\"a\":1} ,\t2, \"]\" ]";
        let elements = json::elements(array).unwrap();
        let keep = |keep: &[bool]| keep_elements(array, &elements, keep).unwrap();
        assert_eq!(
            keep(&[true, true, true]).replace(' ', ""),
            array.replace(' ', "")
        );
        assert_eq!(keep(&[true, false, true]), "[{\"a\":1}, \"]\" ]");
        assert_eq!(keep(&[false, true, true]), "[2, \"]\" ]");
        assert_eq!(keep(&[true, true, false]), "[{\"a\":1} ,\t2 ]");
        assert_eq!(keep(&[false, false, false]), "[ ]");
    }

    #[test]
    fn splice_appended_element_is_last() {
        assert_eq!(append_element("[ ]", "1").unwrap(), "[ 1]");
        assert_eq!(append_element("[{} ]", "1").unwrap(), "[{} ,1]");
    }

    #[test]
    fn splice_span_of_foreign_text_is_none() {
        let (one, other) = (String::from("abc"), String::from("b"));
        assert_eq!(span(&one, &one[1..2]), Some(1..2));
        assert_eq!(span(&one[..1], &one[1..3]), None);
        let _ = span(&one, &other);
    }
}
