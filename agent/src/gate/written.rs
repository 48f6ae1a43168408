//! A call that somebody wrote down, read as strictly as one that comes over the wire.

use serde_json::Value;

use super::{
    envelope::{CallParams, Envelope},
    json,
};
use crate::policy::Call;

/// Reads a whole JSON-RPC `tools/call`, its `params` alone, or `{"tool": …, "arguments": {…}}`.
///
/// # Errors
///
/// Why it is no call, in words; or why two servers could read it in two ways.
pub fn written_call(text: &[u8]) -> Result<Call, String> {
    let plain = text
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(text)
        .trim_ascii();
    let value = str::from_utf8(plain).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let value = json::strict(value).map_err(|error| format!("it is not JSON: {error}"))?;
    let Value::Object(mut members) = value else {
        return Err("it is not a JSON object".to_owned());
    };
    if !members.contains_key("jsonrpc") && !members.contains_key("method") {
        if members.contains_key("name") && !members.contains_key("tool") {
            return of_params(plain);
        }
        if let Some(other) = members
            .keys()
            .find(|key| *key != "tool" && *key != "arguments")
        {
            return Err(format!(
                "it has {other:?}: write {{\"tool\": …, \"arguments\": {{…}}}} or a whole tools/call"
            ));
        }
        let Some(Value::String(tool)) = members.remove("tool") else {
            return Err("it has no \"tool\" that is a string".to_owned());
        };
        return match members.remove("arguments") {
            None | Some(Value::Null) => Ok(Call {
                tool,
                arguments: serde_json::Map::new(),
            }),
            Some(Value::Object(arguments)) => Ok(Call { tool, arguments }),
            Some(_) => Err("its \"arguments\" are no object".to_owned()),
        };
    }
    let envelope = Envelope::parse(plain).map_err(|refused| refused.fault.to_string())?;
    if envelope.method.as_deref() != Some("tools/call") {
        return Err("its method is not tools/call".to_owned());
    }
    call(envelope.params)
}

/// What stands under `params`, as clients and inspectors show it.
fn of_params(text: &[u8]) -> Result<Call, String> {
    let text = str::from_utf8(text).map_err(|_| "it is not UTF-8 text".to_owned())?;
    call(Some(text))
}

fn call(params: Option<&str>) -> Result<Call, String> {
    let params = CallParams::parse(params).map_err(|fault| fault.to_string())?;
    Ok(Call {
        tool: params.name,
        arguments: params.arguments,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_read_in_each_form() {
        for text in [
            r#"{"name": "start", "arguments": {"n": 1}, "_meta": {"progressToken": 7}}"#,
            r#"{"tool": "start", "arguments": {"n": 1}}"#,
            "\u{feff}{\"arguments\": {\"n\": 1},\n \"tool\": \"start\"}\n",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"start","arguments":{"n":1}}}"#,
            "{\n  \"jsonrpc\": \"2.0\",\n  \"method\": \"tools/call\",\n  \"params\": {\"name\": \"start\", \"arguments\": {\"n\": 1}}\n}",
        ] {
            let call = written_call(text.as_bytes()).unwrap();
            assert_eq!(call.tool, "start");
            assert_eq!(Value::Object(call.arguments), json!({"n": 1}));
        }
        for text in [
            r#"{"tool":"start"}"#,
            r#"{"tool":"start","arguments":null}"#,
        ] {
            assert!(written_call(text.as_bytes()).unwrap().arguments.is_empty());
        }
    }

    #[test]
    fn what_is_no_call_is_refused_in_words() {
        for (text, why) in [
            ("", "not JSON"),
            ("[]", "not a JSON object"),
            ("{}", "no \"tool\""),
            (r#"{"tool": 1}"#, "no \"tool\""),
            (r#"{"tool": "a", "args": {}}"#, "\"args\""),
            (r#"{"tool": "a", "arguments": []}"#, "no object"),
            (r#"{"tool": "a", "name": "b"}"#, "\"name\""),
            (r#"{"name": "a", "Name": "b"}"#, ""),
            (r#"{"name": 1}"#, ""),
            (r#"{"tool": "a", "arguments": {"n": 1, "n": 2}}"#, "\"n\""),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
                "not tools/call",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, ""),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
                "",
            ),
        ] {
            let error = written_call(text.as_bytes()).unwrap_err();
            assert!(!error.is_empty() && error.contains(why), "{text}: {error}");
        }
        assert!(written_call(b"\xff").unwrap_err().contains("UTF-8"));
    }
}
