//! Text from outside, made harmless: capped in length, and escaped where it is shown.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};

use super::hash::Hash;

/// Bytes of one text that are kept.
pub(super) const MAX_TEXT: usize = 1024;
/// Texts of one list that are kept.
const MAX_LIST: usize = 64;

/// A text from outside, at most 1 KiB of it. What is cut off is stood for by its length and the
/// hash of the whole, so that the original can still be recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text(String);

impl Text {
    /// Takes a text and caps it.
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > MAX_TEXT {
            let whole = Hash::of(text.as_bytes());
            let kept = text.floor_char_boundary(MAX_TEXT);
            let cut = text.len() - kept;
            text.truncate(kept);
            // Writing to a string cannot fail.
            let _ = write!(text, "… [{cut} more bytes; sha256 {whole}]");
        }
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A list of texts from outside, at most 64 of them; a last entry says how many were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TextList(Vec<Text>);

impl TextList {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts.
    pub fn as_slice(&self) -> &[Text] {
        &self.0
    }
}

impl<T: Into<Text>> FromIterator<T> for TextList {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut texts = texts.into_iter();
        let mut list: Vec<Text> = texts.by_ref().take(MAX_LIST).map(Into::into).collect();
        let more = texts.count();
        if more > 0 {
            list.push(Text::new(format!("… [{more} more]")));
        }
        Self(list)
    }
}

/// The text with everything escaped that could move a cursor, end a line or change the direction
/// of writing: what a terminal or a log viewer shows is then what is there.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same for a line of JSON, in JSON's own notation. Such characters can only stand inside of
/// strings there, so that the value stays what it is.
pub fn visible_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Control characters, line and paragraph separators, and the invisible and direction-changing
/// format characters.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_capped_at_a_character_and_names_what_is_missing() {
        let long = "é".repeat(1000) + "a";
        let text = Text::new(long.clone());
        assert!(text.as_str().len() < MAX_TEXT + 128);
        assert!(text.as_str().starts_with(&"é".repeat(512)));
        let end = format!("… [977 more bytes; sha256 {}]", Hash::of(long.as_bytes()));
        assert!(text.as_str().ends_with(&end), "{}", text.as_str());
        assert_eq!(Text::new("a".repeat(1024)).as_str(), "a".repeat(1024));
    }

    #[test]
    fn list_is_capped() {
        let list: TextList = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(list.as_slice().len(), MAX_LIST + 1);
        assert_eq!(list.as_slice()[MAX_LIST].as_str(), "… [36 more]");
    }

    #[test]
    fn hidden_characters_are_escaped() {
        assert_eq!(
            visible("a\u{1b}[2J\r\nb\u{202e}c\u{9b}é"),
            "a\\u{1b}[2J\\r\\nb\\u{202e}c\\u{9b}é"
        );
        let spoof = "x\u{7f}\u{85}\u{2028}\u{e0041}\u{1b}y";
        let json = visible_json(&serde_json::to_string(spoof).unwrap());
        assert!(json.is_ascii(), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), spoof);
    }
}
