//! The log that agents write who are killed over it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{agent::capwarden, dice::Dice};
use serde_json::{Value, json};

/// One of several in a directory.
pub(crate) struct AuditLog {
    directory: PathBuf,
    number: usize,
    path: PathBuf,
}

/// The end of a log as a dead agent, and the disk, have left it.
pub(crate) struct Tail {
    whole: Vec<u8>,
    fragment: Vec<u8>,
}

impl AuditLog {
    pub(crate) fn new(directory: &Path, number: usize) -> Self {
        Self {
            directory: directory.to_owned(),
            number,
            path: directory.join(format!("audit-{number}.jsonl")),
        }
    }

    /// Another one, which does not exist yet.
    pub(crate) fn next(&self) -> Self {
        Self::new(&self.directory, self.number + 1)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How often an agent has begun its record in it.
    pub(crate) fn starts(&self) -> usize {
        let log = fs::read_to_string(&self.path).unwrap_or_default();
        log.matches("\"kind\":\"agent-started\"").count()
    }

    /// Reads the log after a death, which may have cut it short at its end and nowhere else, and now and then
    /// has the disk lose a part of the last line too.
    pub(crate) fn tail(&self, dice: &mut Dice) -> Result<Tail> {
        let mut bytes = fs::read(&self.path).unwrap_or_default();
        let problems = self.verify()?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        for problem in &problems {
            let message = problem.get("message").and_then(Value::as_str);
            let cut = message.is_some_and(|message| message.contains("cut short"));
            let last = problem.get("line").and_then(Value::as_u64) == u64::try_from(lines + 1).ok();
            // An end that was torn and repaired before is a warning.
            ensure!(cut && last || is_warning(problem), "{problem}");
        }
        if dice.roll(4) == 0 && bytes.last() == Some(&b'\n') {
            let line = bytes.len() - 1;
            let begin = bytes.get(..line).unwrap_or_default();
            let begin = begin
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            bytes.truncate(begin + dice.roll(bytes.len() - begin));
            fs::write(&self.path, &bytes)?;
        }
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let fragment = bytes.split_off(whole);
        Ok(Tail {
            whole: bytes,
            fragment,
        })
    }

    /// What is wrong with it, or strange.
    pub(crate) fn verify(&self) -> Result<Vec<Value>> {
        if !&self.path.exists() {
            return Ok(Vec::new());
        }
        let mut verify = Command::new(capwarden()?);
        let done = verify
            .args(["audit", "verify", "--json"])
            .arg(&self.path)
            .output()?;
        let report: Value = serde_json::from_slice(&done.stdout)?;
        let problems = report.get("problems").and_then(Value::as_array).cloned();
        problems.with_context(|| report.to_string())
    }

    /// The next agent has come as far as it did: all whole lines are there, and what was no whole line is too.
    pub(crate) fn nothing_lost(&self, tail: &Tail) -> Result<bool> {
        let now = fs::read(&self.path).unwrap_or_default();
        let rest = now
            .strip_prefix(tail.whole.as_slice())
            .context("lines are lost")?;
        if tail.fragment.is_empty() || rest == tail.fragment {
            return Ok(false);
        }
        let completed = rest.strip_prefix(tail.fragment.as_slice());
        if completed.is_some_and(|after| after.starts_with(b"\n")) {
            return Ok(true);
        }
        let name = format!("audit-{}.jsonl.torn-", self.number);
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let is_kept = path.file_name().and_then(|n| n.to_str());
            if is_kept.is_some_and(|n| n.starts_with(&name)) && fs::read(&path)? == tail.fragment {
                return Ok(true);
            }
        }
        anyhow::bail!("lost: {}", String::from_utf8_lossy(&tail.fragment))
    }
}

/// Whether a problem is one that was repaired, say.
pub(crate) fn is_warning(problem: &Value) -> bool {
    problem.get("severity") == Some(&json!("warning"))
}
