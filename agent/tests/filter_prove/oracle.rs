//! Z3's opinion, asked of `z3_oracle.py` over pipes.
//!
//! Python is the one of the environment in `CAPWARDEN_VENV`, where it has to have Z3; without the
//! variable it is the one of `target/venv`, and without Z3 there nobody is asked.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    thread::JoinHandle,
    time::Duration,
};

use capwarden::filter::{Meta, Packet, Program, SocketForm, VlanTag};
use serde_json::{Value, json};

use super::pairs::Known;

/// As many as Z3 gets for one question; then it does not know.
const MILLISECONDS: u32 = 30_000;

/// Two programs and the form of socket they are for.
#[derive(Clone)]
pub struct Question {
    pub requested: Program,
    pub policy: Program,
    pub form: SocketForm,
}

/// What Z3 says.
pub struct Opinion {
    /// None: it does not know.
    pub verdict: Option<Known>,
    bytes: Vec<u8>,
    headroom: Vec<u8>,
    meta: Option<Meta>,
    /// What the deciding question took to solve, without making it.
    pub solved: Duration,
}

impl Opinion {
    /// The packet that shows the difference.
    pub fn packet(&self) -> Option<Packet<'_>> {
        let mut packet = Packet::new(&self.bytes, self.meta?);
        packet.headroom = &self.headroom;
        Some(packet)
    }
}

/// Questions on their way.
pub struct Asked(Option<JoinHandle<Vec<Opinion>>>);

impl Asked {
    /// The answers, in the order of the questions; none if nobody could be asked.
    pub fn opinions(self) -> Option<Vec<Opinion>> {
        self.0.map(|thread| thread.join().unwrap())
    }
}

/// Asks in another process, which works while this one does.
pub fn ask(questions: Vec<Question>) -> Asked {
    static PYTHON: LazyLock<Option<PathBuf>> = LazyLock::new(python);
    let python = PYTHON.as_ref();
    if python.is_none() {
        print!("Z3 not asked: no z3-solver in target/venv, which `cargo xtask setup` makes … ");
    }
    Asked(python.map(|python| std::thread::spawn(move || answers(python, &questions))))
}

fn python() -> Option<PathBuf> {
    let set = env::var_os("CAPWARDEN_VENV");
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv");
    let venv = set.clone().map_or_else(default, PathBuf::from);
    let python = venv.join("bin/python3");
    let probe = Command::new(&python).args(["-c", "import z3"]).output();
    let there = probe.is_ok_and(|probe| probe.status.success());
    assert!(
        there || set.is_none(),
        "{} has no Z3; `cargo xtask setup` installs it",
        venv.display()
    );
    there.then_some(python)
}

fn answers(python: &Path, questions: &[Question]) -> Vec<Opinion> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filter_prove/z3_oracle.py");
    let mut child = Command::new(python)
        // No bytecode beside the sources.
        .args(["-B".as_ref(), script.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let opinions: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(move || {
            for question in questions {
                writeln!(to, "{}", encode(question)).unwrap();
            }
        });
        let lines = BufReader::new(from).lines();
        lines.map(|line| decode(&line.unwrap())).collect()
    });
    let status = child.wait().unwrap();
    assert!(
        status.success(),
        "z3_oracle.py: {status}; its words are above"
    );
    assert_eq!(opinions.len(), questions.len());
    opinions
}

fn encode(question: &Question) -> Value {
    let insns = |program: &Program| -> Vec<_> {
        let insns = program.insns().iter();
        insns
            .map(|insn| json!([insn.code, insn.jt, insn.jf, insn.k]))
            .collect()
    };
    json!({
        "requested": insns(&question.requested),
        "policy": insns(&question.policy),
        "form": match question.form {
            super::ETHERNET => "ethernet",
            super::RAW => "raw",
            SocketForm::Cooked => "cooked",
            other => panic!("{other:?}: the oracle does not know what is well-formed there"),
        },
        "milliseconds": MILLISECONDS,
    })
}

fn decode(line: &str) -> Opinion {
    let line: Value = serde_json::from_str(line).unwrap();
    let packet = &line["packet"];
    Opinion {
        verdict: match line["verdict"].as_str().unwrap() {
            "contained" => Some(Known::Contained),
            "well-formed" => Some(Known::WellFormed),
            "not" => Some(Known::Not),
            _ => None,
        },
        bytes: from_hex(packet["bytes"].as_str().unwrap_or_default()),
        headroom: from_hex(packet["headroom"].as_str().unwrap_or_default()),
        meta: packet.is_object().then(|| meta(packet)),
        solved: Duration::from_secs_f64(line["seconds"][1].as_f64().unwrap()),
    }
}

fn meta(packet: &Value) -> Meta {
    fn number<T: TryFrom<i64>>(value: &Value) -> T {
        let number = value.as_i64().and_then(|number| number.try_into().ok());
        number.unwrap_or_else(|| panic!("{value} does not fit"))
    }
    Meta {
        protocol: number(&packet["protocol"]),
        packet_type: number(&packet["packet_type"]),
        interface_index: number(&packet["interface_index"]),
        hardware_type: number(&packet["hardware_type"]),
        mark: number(&packet["mark"]),
        queue: number(&packet["queue"]),
        hash: number(&packet["hash"]),
        vlan: packet["vlan"].as_array().map(|tag| VlanTag {
            protocol: number(&tag[0]),
            control: number(&tag[1]),
        }),
        network_header: number(&packet["network_header"]),
        link_header: Some(&packet["link_header"])
            .filter(|link| !link.is_null())
            .map(number),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}
