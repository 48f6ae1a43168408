//! JSON-RPC messages, spelled in every way in which parsers are known to differ, and in ways that
//! only look as if they did.

use crate::dice::Dice;

mod classes;

pub use classes::CLASSES;

/// What is to become of the lines of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Every one is forwarded.
    Forwarded,
    /// None is.
    Refused,
    /// Some are, and some are not.
    Both,
}

/// A kind of line.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// Its name in the table that the test prints.
    pub name: &'static str,
    /// What is to become of its lines.
    pub fate: Fate,
    /// Whether readers differ about some of them: where they do not, the class proves little.
    pub differs: bool,
    make: fn(&mut Dice, usize) -> Vec<u8>,
}

/// A line, without its line end.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which of the [`CLASSES`] it belongs to.
    pub class: usize,
    /// What is sent.
    pub bytes: Vec<u8>,
}

/// So many lines of each class, in turns. Numbers in them, ids above all, count from 1.
pub fn lines(seed: u64, rounds: usize) -> Vec<Line> {
    let mut dice = Dice::new(seed);
    let mut lines = Vec::with_capacity(rounds * CLASSES.len());
    for _ in 0..rounds {
        for (class, kind) in CLASSES.iter().enumerate() {
            let mut bytes = (kind.make)(&mut dice, lines.len() + 1);
            bytes.retain(|byte| *byte != b'\n');
            lines.push(Line { class, bytes });
        }
    }
    lines
}

/// A member as it is written: key with its quotation marks, and value.
type Member = (String, String);

/// Which of a call's three objects.
#[derive(Clone, Copy)]
enum Part {
    Envelope,
    Params,
    Arguments,
}

const PARTS: [Part; 3] = [Part::Envelope, Part::Params, Part::Arguments];

/// A message whose objects can be tampered with before it is written.
#[derive(Clone)]
struct Message {
    envelope: Vec<Member>,
    params: Vec<Member>,
    arguments: Vec<Member>,
    /// What stands between two tokens.
    gap: String,
}

/// Stands where another object's text is put.
const PARAMS: &str = "<params>";
const ARGUMENTS: &str = "<arguments>";

fn member(key: &str, value: impl Into<String>) -> Member {
    (format!("\"{key}\""), value.into())
}

impl Message {
    fn call(id: usize, tool: &str, arguments: Vec<Member>) -> Self {
        Self {
            envelope: vec![
                member("jsonrpc", "\"2.0\""),
                member("id", id.to_string()),
                member("method", "\"tools/call\""),
                member("params", PARAMS),
            ],
            params: vec![
                member("name", format!("\"{tool}\"")),
                member("arguments", ARGUMENTS),
            ],
            arguments,
            gap: String::new(),
        }
    }

    /// A call that the policy allows.
    fn allowed(dice: &mut Dice, id: usize) -> Self {
        match dice.roll(3) {
            0 => Self::call(id, "free", vec![member("text", "\"says it again\"")]),
            1 => Self::call(
                id,
                "echo",
                vec![
                    member("mode", "\"slow\""),
                    member("n", dice.roll(1_000_001).to_string()),
                    member("more", r#"{"list":[1,[true,null]],"é":"😀"}"#),
                ],
            ),
            _ => Self::call(id, "echo", vec![member("n", dice.roll(1000).to_string())]),
        }
    }

    /// A call that the policy denies.
    fn denied(dice: &mut Dice, id: usize) -> Self {
        match dice.roll(3) {
            0 => Self::call(id, "secret", Vec::new()),
            1 => Self::call(id, "echo", vec![member("mode", "\"wild\"")]),
            _ => Self::call(id, "echo", vec![member("n", "1000001")]),
        }
    }

    /// A request that is no call.
    fn other(dice: &mut Dice, id: usize) -> Self {
        let mut message = Self::call(id, "secret", Vec::new());
        let method = dice.word(&["ping", "resources/list", "prompts/get", "x"]);
        message.set(Part::Envelope, "method", &format!("\"{method}\""));
        message
    }

    fn any(dice: &mut Dice, id: usize) -> Self {
        match dice.roll(4) {
            0 => Self::denied(dice, id),
            1 => Self::other(dice, id),
            _ => Self::allowed(dice, id),
        }
    }

    fn part(&mut self, part: Part) -> &mut Vec<Member> {
        match part {
            Part::Envelope => &mut self.envelope,
            Part::Params => &mut self.params,
            Part::Arguments => &mut self.arguments,
        }
    }

    /// Gives a member another value, or adds it.
    fn set(&mut self, part: Part, key: &str, value: &str) {
        let (key, value) = member(key, value);
        let members = self.part(part);
        match members.iter_mut().find(|(name, _)| *name == key) {
            Some(old) => old.1 = value,
            None => members.push((key, value)),
        }
    }

    fn remove(&mut self, part: Part, key: &str) {
        let key = format!("\"{key}\"");
        self.part(part).retain(|(name, _)| *name != key);
    }

    /// Puts a member anywhere.
    fn insert(&mut self, dice: &mut Dice, part: Part, (key, value): Member) {
        let members = self.part(part);
        let at = dice.roll(members.len() + 1);
        members.insert(at, (key, value));
    }

    fn text(&self) -> String {
        let arguments = self.object(&self.arguments);
        let params = self.object(&self.params).replace(ARGUMENTS, &arguments);
        self.object(&self.envelope).replace(PARAMS, &params)
    }

    fn object(&self, members: &[Member]) -> String {
        let gap = &self.gap;
        let members = members
            .iter()
            .map(|(key, value)| format!("{gap}{key}{gap}:{gap}{value}{gap}"));
        format!("{gap}{{{}}}{gap}", members.collect::<Vec<_>>().join(","))
    }

    fn bytes(&self) -> Vec<u8> {
        self.text().into_bytes()
    }

    /// The text with bytes, which need not be UTF-8, in place of the mark.
    fn bytes_with(&self, mark: &str, bytes: &[u8]) -> Vec<u8> {
        let text = self.text();
        let Some((before, after)) = text.split_once(mark) else {
            return text.into_bytes();
        };
        [before.as_bytes(), bytes, after.as_bytes()].concat()
    }
}

/// The text with some of its letters written as escapes; at least the first.
fn escaped(dice: &mut Dice, text: &str) -> String {
    let mut out = String::new();
    for (at, letter) in text.chars().enumerate() {
        if at == 0 || dice.roll(3) == 0 {
            let code = u32::from(letter);
            let upper = dice.roll(2) == 0;
            out.push_str(&if upper {
                format!("\\u{code:04X}")
            } else {
                format!("\\u{code:04x}")
            });
        } else {
            out.push(letter);
        }
    }
    out
}
