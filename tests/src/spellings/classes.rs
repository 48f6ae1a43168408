//! The kinds of lines, and how one of each is made.

use std::iter;

use super::{Class, Fate, Member, Message, PARAMS, PARTS, Part, escaped, member};
use crate::dice::Dice;

const fn class(
    name: &'static str,
    fate: Fate,
    differs: bool,
    make: fn(&mut Dice, usize) -> Vec<u8>,
) -> Class {
    Class {
        name,
        fate,
        differs,
        make,
    }
}

/// All of them.
pub const CLASSES: [Class; 24] = [
    class("plain", Fate::Both, false, plain),
    class("white space", Fate::Forwarded, false, white_space),
    class("other space", Fate::Refused, false, other_space),
    class("order, unknown members", Fate::Forwarded, false, order),
    class("escaped", Fate::Forwarded, false, escapes),
    class("key twice", Fate::Refused, true, twice),
    class("key in other case", Fate::Refused, true, folded),
    class("lone surrogates", Fate::Both, true, surrogates),
    class("not UTF-8", Fate::Refused, true, not_utf8),
    class("byte order mark", Fate::Refused, false, mark),
    class("control characters", Fate::Refused, false, control),
    class("NUL as an escape", Fate::Both, true, nul),
    class("numbers", Fate::Both, false, numbers),
    class("ids", Fate::Both, false, ids),
    class("depth", Fate::Both, false, deep),
    class("loose syntax", Fate::Refused, false, loose),
    class("line breaks", Fate::Both, true, breaks),
    class("batches", Fate::Refused, true, batches),
    class("long", Fate::Both, false, long),
    class("methods", Fate::Both, true, methods),
    class("params of other types", Fate::Both, false, params),
    class("inherited names", Fate::Forwarded, false, inherited),
    class("answers and notifications", Fate::Both, false, idless),
    class("damaged", Fate::Both, true, damaged),
];

fn plain(dice: &mut Dice, id: usize) -> Vec<u8> {
    Message::any(dice, id).bytes()
}

fn white_space(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    message.gap = dice.word(&[" ", "\t", "   ", " \t \t"]).to_owned();
    let mut bytes = message.bytes();
    if dice.roll(2) == 0 {
        bytes.push(b'\r');
    }
    bytes
}

fn other_space(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    message.gap = dice
        .word(&[
            "\u{a0}", "\u{2003}", "\u{3000}", "\u{feff}", "\u{85}", "\u{b}", "\u{c}", "\u{2028}",
            "\u{200b}", "\0",
        ])
        .to_owned();
    message.bytes()
}

fn order(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    for part in PARTS {
        for n in 0..dice.roll(4) {
            let unknown = member(&format!("unknown{n}"), r#"[{"method":"tools/call"}]"#);
            message.insert(dice, part, unknown);
        }
        let turn = dice.roll(4);
        let members = message.part(part);
        let turn = turn.min(members.len());
        members.rotate_left(turn);
    }
    message.bytes()
}

fn escapes(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    for part in PARTS {
        for (key, value) in message.part(part) {
            *key = format!("\"{}\"", escaped(dice, key.trim_matches('"')));
            let plain = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            if let Some(plain) = plain {
                *value = match dice.roll(3) {
                    0 => format!("\"{}\"", plain.replace('/', "\\/")),
                    _ => format!("\"{}\"", escaped(dice, plain)),
                };
            }
        }
    }
    message.bytes()
}

/// A member that a message has or means, with another value.
fn rival(dice: &mut Dice, part: Part) -> Member {
    let (key, values): (_, &[&str]) = match (part, dice.roll(3)) {
        (Part::Envelope, 0) => ("method", &["\"tools/call\"", "\"ping\"", "null"]),
        (Part::Envelope, 1) => ("id", &["7777777", "\"x\"", "null"]),
        (Part::Envelope, _) => (
            "params",
            &[r#"{"name":"secret","arguments":{}}"#, "{}", "[]"],
        ),
        (Part::Params, 0) => ("arguments", &[r#"{"n":2000000}"#, "{}", "null"]),
        (Part::Params, _) => ("name", &["\"secret\"", "\"free\"", "1"]),
        (Part::Arguments, _) => ("n", &["2000000", "\"2000000\"", "1"]),
    };
    member(key, dice.word(values))
}

/// A call that has whatever [`rival`] makes another one of.
fn complete(dice: &mut Dice, id: usize) -> Message {
    let mut message = Message::allowed(dice, id);
    message.set(Part::Params, "name", "\"echo\"");
    message.set(Part::Arguments, "n", "1");
    message
}

fn twice(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = complete(dice, id);
    let part = dice.pick(&PARTS).copied().unwrap_or(Part::Envelope);
    let (mut key, value) = rival(dice, part);
    if dice.roll(2) == 0 {
        key = format!("\"{}\"", escaped(dice, key.trim_matches('"')));
    }
    if dice.roll(8) == 0 {
        message.set(Part::Arguments, "deep", r#"[{"a":{"b":1,"c":2,"b":3}}]"#);
    } else {
        message.insert(dice, part, (key, value));
    }
    message.bytes()
}

fn folded(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = complete(dice, id);
    let part = dice.pick(&PARTS).copied().unwrap_or(Part::Envelope);
    let (key, value) = rival(dice, part);
    let name = key.trim_matches('"');
    let other = match dice.roll(4) {
        0 => name.to_uppercase(),
        1 => {
            let (first, rest) = name.split_at(1);
            first.to_uppercase() + rest
        }
        2 if name.contains('s') => name.replace('s', "\u{17f}"),
        _ => format!("{name}\\u0000{}", dice.word(&["", "x"])),
    };
    message.insert(dice, part, member(&other, value));
    // Alone it would be read by nobody but a parser that ignores case.
    if dice.roll(3) == 0 && !matches!(part, Part::Arguments) {
        message.remove(part, name);
    }
    message.bytes()
}

fn surrogates(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    let lone = dice.word(&["\\ud800", "\\uDFFF", "\\udc00\\ud800", "\\ud83dx\\ude00"]);
    match dice.roll(7) {
        0 => message.set(Part::Arguments, "text", &format!("\"{lone}\"")),
        1 => message.set(Part::Arguments, &format!("k{lone}"), "1"),
        2 => message.set(Part::Params, "name", &format!("\"free{lone}\"")),
        3 => message.set(Part::Envelope, "id", &format!("\"{id}{lone}\"")),
        4 => message.set(Part::Envelope, "method", &format!("\"ping{lone}\"")),
        5 => message.set(Part::Envelope, &format!("method{lone}"), "\"ping\""),
        _ => {
            message = Message::other(dice, id);
            message.set(Part::Params, "text", &format!("\"{lone}\""));
        }
    }
    message.bytes()
}

fn not_utf8(dice: &mut Dice, id: usize) -> Vec<u8> {
    const MARK: &str = "~";
    let mut message = Message::allowed(dice, id);
    if dice.roll(8) == 0 {
        let wide = message.text();
        let units = wide.encode_utf16();
        return match dice.roll(4) {
            0 => units.flat_map(u16::to_be_bytes).collect(),
            1 => units.flat_map(u16::to_le_bytes).collect(),
            2 => iter::once(0xfeff)
                .chain(units)
                .flat_map(u16::to_le_bytes)
                .collect(),
            _ => wide
                .chars()
                .flat_map(|letter| u32::from(letter).to_le_bytes())
                .collect(),
        };
    }
    let wrong: [&[u8]; 8] = [
        b"\xff",
        b"\xc0\xaf",         // overlong
        b"\xed\xa0\x80",     // a surrogate
        b"\xf4\x90\x80\x80", // beyond the last code point
        b"\xe2\x82",         // cut short
        b"\x80",
        b"\xc3\"",
        b"\xf8\x88\x80\x80\x80",
    ];
    let wrong = dice.pick(&wrong).copied().unwrap_or_default();
    match dice.roll(6) {
        0 => message.set(Part::Arguments, "text", "\"~\""),
        1 => message.set(Part::Arguments, "k~", "1"),
        2 => message.set(Part::Params, "name", "\"free~\""),
        3 => message.set(Part::Envelope, "method", "\"tools/call~\""),
        4 => message.set(Part::Envelope, "method~", "\"ping\""),
        _ => message.set(Part::Envelope, "extra", "~"),
    }
    message.bytes_with(MARK, wrong)
}

fn mark(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mark = dice.word(&["\u{feff}", "\u{feff} ", " \u{feff}", "\u{feff}\u{feff}"]);
    [mark.as_bytes(), &Message::any(dice, id).bytes()].concat()
}

fn control(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    let control = char::from(
        dice.pick(b"\0\x01\x08\x09\x0b\x0c\x1b\x1f")
            .copied()
            .unwrap_or(0),
    );
    match dice.roll(5) {
        0 => message.set(Part::Arguments, "text", &format!("\"a{control}b\"")),
        1 => message.set(Part::Arguments, &format!("n{control}"), "2000000"),
        2 => message.set(Part::Params, "name", &format!("\"free{control}\"")),
        3 => message.set(
            Part::Envelope,
            "method",
            &format!("\"tools/call{control}\""),
        ),
        _ => message.set(Part::Envelope, &format!("id{control}"), "1"),
    }
    message.bytes()
}

fn nul(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    match dice.roll(5) {
        0 => message.set(Part::Arguments, "n\\u0000", "2000000"),
        1 => message.set(Part::Params, "name", "\"secret\\u0000free\""),
        2 => message.set(Part::Envelope, "method", "\"tools/call\\u0000x\""),
        3 => message.set(Part::Params, "name\\u0000", "\"secret\""),
        _ => message.set(Part::Arguments, "text", "\"a\\u0000b\""),
    }
    message.bytes()
}

fn numbers(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    let digits: String = (0..1 + dice.roll(30))
        .map(|_| char::from(b'1' + u8::try_from(dice.roll(9)).unwrap_or(0)))
        .collect();
    let number = match dice.roll(12) {
        0 => format!("0.{digits}"),
        1 => format!("{digits}e-{}", dice.roll(400)),
        2 => format!("{digits}.{digits}E+{}", dice.roll(400)),
        3 => digits,
        4 => format!("1{}", "0".repeat(dice.roll(5000))),
        5 => format!("-{digits}"),
        _ => dice
            .word(&[
                "-0",
                "0",
                "-0.0",
                "1E2",
                "1e+2",
                "1000000.0",
                "1e6",
                "10e5",
                "1000000.0000001",
                "1e400",
                "-1e400",
                "1e-400",
                "5e-324",
                "1e999999999",
                "9007199254740993",
                "18446744073709551616",
                "-9223372036854775809",
                "01",
                "-01",
                "00",
                "1.",
                ".5",
                "+1",
                "1e",
                "0x10",
                "1_000",
                "NaN",
                "Infinity",
                "-Infinity",
                "nan",
                "1n",
                "\"1\"",
                "1 2",
                "--1",
                "\u{661}",
                "1,5",
            ])
            .to_owned(),
    };
    match dice.roll(4) {
        0 => message.set(Part::Arguments, "other", &number),
        1 => message.set(Part::Arguments, "list", &format!("[[{number}]]")),
        _ => {
            message = Message::call(id, "echo", vec![member("n", number)]);
        }
    }
    message.bytes()
}

fn ids(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::any(dice, id);
    let value = match dice.roll(12) {
        0 => format!("\"{id}\""),
        1 => format!("\"id {id} \u{e9}\\n\\u0000\""),
        2 => format!("{id}.5"),
        3 => format!("{id}.0"),
        4 => format!("{id}e0"),
        5 => format!("-{id}"),
        6 => format!("\"{}{id}\"", "x".repeat(dice.roll(9000))),
        7 => format!("{id}{}", "0".repeat(dice.roll(400))),
        _ => dice
            .word(&[
                "null",
                "true",
                "false",
                "{}",
                "[]",
                "[1]",
                "{\"a\":1}",
                "-0",
                "1e400",
                "01",
                "\"\"",
                "NaN",
                "1e-400",
                "''",
            ])
            .to_owned(),
    };
    message.set(Part::Envelope, "id", &value);
    message.bytes()
}

fn deep(dice: &mut Dice, id: usize) -> Vec<u8> {
    let depth = match dice.roll(10) {
        0 => 2000 + dice.roll(500),
        1 => 400 + dice.roll(700),
        _ => 100 + dice.roll(40),
    };
    let value = match dice.roll(3) {
        0 => format!("{}1{}", "[".repeat(depth), "]".repeat(depth)),
        1 => format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        _ => format!(
            "{}1{}",
            "[{\"a\":".repeat(depth / 2),
            "}]".repeat(depth / 2)
        ),
    };
    let mut message = Message::allowed(dice, id);
    let part = dice.pick(&PARTS).copied().unwrap_or(Part::Params);
    message.set(part, "deep", &value);
    message.bytes()
}

fn loose(dice: &mut Dice, id: usize) -> Vec<u8> {
    let message = Message::any(dice, id);
    let text = message.text();
    let end = text.strip_suffix('}').unwrap_or_default();
    let inside = text.strip_prefix('{').unwrap_or_default();
    let looser = match dice.roll(18) {
        0 => format!("{end},}}"),
        1 => format!("{{,{inside}"),
        2 => text.replace(",\"method\"", ",,\"method\""),
        3 => format!("// a comment\r{text}"),
        4 => format!("{end}/* a comment */}}"),
        5 => format!("{end} # a comment}}"),
        6 => text.replace('"', "'"),
        7 => text.replace("\"method\"", "method"),
        8 => text.replace("\"method\":", "\"method\"="),
        9 => format!("{end},\"x\":NaN}}"),
        10 => format!("{end},\"x\":-Infinity}}"),
        11 => format!("{end},\"x\":undefined}}"),
        12 => format!("{end},\"x\":'a\"b'}}"),
        13 => format!("{end},\"x\":\"\\x41\\q\"}}"),
        14 => format!("{text}{}", Message::denied(dice, id).text()),
        15 => format!("{text} garbage"),
        16 => format!("({text})"),
        _ => format!("{end},\"x\":True}}"),
    };
    looser.into_bytes()
}

fn breaks(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    let hidden = Message::denied(dice, id).text();
    let other = dice.word(&["\u{2028}", "\u{2029}", "\u{85}", "\u{2028}{}\u{2029}"]);
    match dice.roll(6) {
        0 => message.gap = "\r".to_owned(),
        1 => message.set(Part::Arguments, "text", &format!("\"{other}\"")),
        2 => {
            // A second message for those who end lines at a carriage return.
            message = Message::other(dice, id);
            message.set(Part::Params, "x", &format!("[\r{hidden}\r]"));
        }
        3 => return format!("{}\r{hidden}", message.text()).into_bytes(),
        4 => {
            message.set(Part::Arguments, &format!("k{other}"), "1");
        }
        _ => return format!("{}{other}{hidden}", message.text()).into_bytes(),
    }
    message.bytes()
}

fn batches(dice: &mut Dice, id: usize) -> Vec<u8> {
    let (one, two) = (Message::any(dice, id), Message::denied(dice, id));
    let (one, two) = (one.text(), two.text());
    let batch = match dice.roll(6) {
        0 => format!("[{one}]"),
        1 => format!("[{one},{two}]"),
        2 => format!(" [ {two} ]"),
        3 => format!("[[{one}]]"),
        4 => "[]".to_owned(),
        _ => format!("[{one},1,null]"),
    };
    batch.into_bytes()
}

fn long(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    let length = 1 << (6 + dice.roll(7));
    let key = "k".repeat(length);
    match dice.roll(4) {
        0 => message.set(Part::Arguments, &key, "1"),
        1 => message.set(Part::Envelope, &key, "\"tools/call\""),
        2 => {
            message.set(Part::Arguments, &key, "1");
            message.part(Part::Arguments).push(member(&key, "2"));
        }
        _ => message.set(Part::Params, "name", &format!("\"secret{key}\"")),
    }
    message.bytes()
}

fn methods(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = match dice.roll(2) {
        0 => Message::allowed(dice, id),
        _ => Message::denied(dice, id),
    };
    let method = dice.word(&[
        "\"Tools/Call\"",
        "\"TOOLS/CALL\"",
        "\"tool\u{17f}/call\"",
        "\"tools/call \"",
        "\" tools/call\"",
        "\"tools/call\\t\"",
        "\"tools/call\\u0000\"",
        "\"tools\\/call\"",
        "\"tools\\u002fcall\"",
        "\"tools//call\"",
        "\"tools/calls\"",
        "\"prompts/get\"",
        "\"resources/read\"",
        "\"sampling/createMessage\"",
        "\"\"",
        "null",
        "1",
        "true",
        "[\"tools/call\"]",
        "{\"tools/call\":1}",
    ]);
    message.set(Part::Envelope, "method", method);
    message.bytes()
}

fn params(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::call(id, "free", Vec::new());
    let values = [
        "null",
        "[]",
        "[\"echo\",{\"n\":1}]",
        "\"{}\"",
        "1",
        "true",
        "[{\"n\":2000000}]",
        "{}",
    ];
    let value = dice.word(&values);
    match dice.roll(6) {
        0 => message.set(Part::Envelope, "params", value),
        1 => message.remove(Part::Envelope, "params"),
        2 => message.set(Part::Params, "name", value),
        3 => message.remove(Part::Params, "name"),
        4 => message.set(Part::Params, "arguments", value),
        _ => message.remove(Part::Params, "arguments"),
    }
    message.bytes()
}

fn inherited(dice: &mut Dice, id: usize) -> Vec<u8> {
    let mut message = Message::allowed(dice, id);
    let name = dice.word(&[
        "__proto__",
        "constructor",
        "prototype",
        "toString",
        "hasOwnProperty",
        "__class__",
        "@type",
        "$ref",
        "",
        " ",
    ]);
    let part = dice.pick(&PARTS).copied().unwrap_or(Part::Envelope);
    let value = r#"{"method":"tools/call","name":"secret","arguments":{"n":2000000}}"#;
    message.insert(dice, part, member(name, value));
    message.bytes()
}

fn idless(dice: &mut Dice, id: usize) -> Vec<u8> {
    match dice.roll(5) {
        0 => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"name":"secret"}}}}"#).into_bytes(),
        1 => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"x"}}}}"#)
            .into_bytes(),
        2 => {
            let mut message = Message::call(id, "free", Vec::new());
            message.remove(Part::Envelope, "id");
            message.bytes()
        }
        3 => br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_vec(),
        _ => {
            let mut message = Message::other(dice, id);
            message.remove(Part::Envelope, "id");
            message.set(Part::Envelope, "params", PARAMS);
            message.bytes()
        }
    }
}

fn damaged(dice: &mut Dice, id: usize) -> Vec<u8> {
    let tokens: [&[u8]; 16] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b":",
        b",",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"1e999",
        b"\r",
        b"\"id\":1,",
        b"\"name\":\"secret\",",
        b"null",
        b" ",
    ];
    let mut line = match dice.roll(4) {
        0 => twice(dice, id),
        1 => breaks(dice, id),
        _ => Message::any(dice, id).bytes(),
    };
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(line.len() + 1);
        let end = (at + dice.roll(12)).min(line.len());
        match dice.roll(6) {
            0 => line.insert(at, dice.byte()),
            1 => drop(line.drain(at..end)),
            2 | 3 => {
                let token = dice.pick(&tokens).copied().unwrap_or_default();
                line.splice(at..at, token.iter().copied());
            }
            4 => {
                let part = line.get(at..end).unwrap_or_default().to_vec();
                line.splice(at..at, part);
            }
            _ => {
                if let Some(byte) = line.get_mut(at) {
                    byte.make_ascii_uppercase();
                }
            }
        }
    }
    line
}
