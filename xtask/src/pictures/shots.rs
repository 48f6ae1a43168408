//! Pictures of pages, by the headless Chromium that the tests use.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::place::Place;

/// The browser, where Debian has it.
const BROWSER: &str = "/usr/bin/chromium-headless-shell";
const SCRIPT: &str = include_str!("page.mjs");

/// Of the page's part that is shown, in pixels.
const WIDTH: u32 = 1_000;

/// What takes pictures.
pub(super) struct Camera {
    script: PathBuf,
    /// Where Node and its modules are.
    suite: PathBuf,
}

impl Camera {
    /// With Node from the tests' environment.
    pub(super) fn new(suite: &Path) -> Result<Self> {
        let script = Path::new("/run/capwarden/page.mjs").to_path_buf();
        fs::write(&script, SCRIPT)?;
        let suite = suite.to_path_buf();
        Ok(Self { script, suite })
    }

    /// Takes one of what is at this address, at most so high, of a page with these sessions: once they are
    /// shown, `then` happens, and the picture shows what came of it.
    pub(super) fn take(
        &self,
        address: &str,
        to: &Path,
        height: u32,
        sessions: &[String],
        then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut node = Command::new(self.suite.join("bin/node"));
        node.arg(&self.script)
            .arg(self.suite.join("node_modules"))
            .args([BROWSER, address])
            .arg(to)
            .args([WIDTH.to_string(), height.to_string()])
            .args(sessions)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = node.spawn().context("cannot run node")?;
        let done = (|| {
            if !sessions.is_empty() {
                let mut line = String::new();
                let out = child.stdout.as_mut().context("no output")?;
                BufReader::new(out).read_line(&mut line)?;
                if line.trim() == "open" {
                    then()?;
                }
                writeln!(child.stdin.as_mut().context("no input")?, "go on")?;
            }
            anyhow::Ok(())
        })();
        if done.is_err() {
            let _ = child.kill();
        }
        let ended = child.wait_with_output()?;
        done?;
        if !ended.status.success() {
            bail!("{}", String::from_utf8_lossy(&ended.stderr).trim());
        }
        Ok(())
    }
}

/// The page of `capwarden web`, which is served until this is dropped.
pub(super) struct Page {
    web: std::process::Child,
    pub(super) address: String,
}

impl Page {
    /// Serves it.
    pub(super) fn serve(place: &Place) -> Result<Self> {
        let mut web = place
            .capwarden(&["web"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run capwarden web")?;
        let lines = BufReader::new(web.stderr.take().context("no output")?).lines();
        let mut page = Self {
            web,
            address: String::new(),
        };
        for line in lines.map_while(Result::ok) {
            if let Some(at) = line.find("http://127.0.0.1:") {
                let address = line.get(at..).unwrap_or_default();
                page.address = address
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                return Ok(page);
            }
        }
        bail!("capwarden web told no address")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.web.kill();
        let _ = self.web.wait();
    }
}
