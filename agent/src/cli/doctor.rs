//! `capwarden doctor`: what this host offers, and what is lost without the rest.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use crate::audit::visible;

use super::{
    exit::Exit,
    failure::{Account, Failure},
    term::{self, Paint},
};

/// Say what this host offers for enforcement
///
/// Probes each layer by using it, and names what is lost where one is missing. Run it as root: most
/// layers can only be probed by root. The exit status is 5 if a layer is missing that capwarden
/// cannot do without.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What a host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Doctor {
    /// The layers of enforcement.
    pub layers: Vec<Layer>,
    /// The programs that servers use.
    pub tools: Vec<Tool>,
}

/// One layer of enforcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its name: `BPF LSM`.
    pub name: String,
    /// Whether it is there.
    pub status: Status,
    /// True if capwarden refuses to run without it.
    pub required: bool,
    /// What was found: a version, or what the kernel said.
    pub detail: String,
    /// What is lost where it is not wholly present.
    pub cost: Option<String>,
    /// What an operator can do about that.
    pub hint: Option<String>,
}

/// Whether a layer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It works.
    Present,
    /// It is not there.
    Missing,
    /// It works in part.
    Degraded,
}

/// A program that servers use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Its name: `dumpcap`.
    pub name: String,
    /// Where it is; none if it is not on PATH.
    pub path: Option<String>,
    /// Its version, where it tells.
    pub version: Option<String>,
    /// What an operator should know: a setuid bit, file capabilities, …
    pub note: Option<String>,
}

impl DoctorArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let doctor = probe()?;
        if self.json {
            term::print_json(&doctor)?;
        } else {
            term::print(|out| doctor.write(Paint::for_stdout(), out))?;
        }
        Ok(if doctor.lacking().is_empty() {
            Exit::Ok
        } else {
            Exit::Kernel
        })
    }
}

fn probe() -> Result<Doctor, Failure> {
    // To be joined to the kernel's probes.
    Err(Failure::Internal(Account::new("`doctor` is not there yet")))
}

impl Doctor {
    /// The names of the layers that are required and missing.
    pub fn lacking(&self) -> Vec<&str> {
        let layers = self.layers.iter();
        layers
            .filter(|layer| layer.required && layer.status == Status::Missing)
            .map(|layer| layer.name.as_str())
            .collect()
    }

    fn write(&self, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
        let names = self.layers.iter().map(|layer| &layer.name);
        let names = names.chain(self.tools.iter().map(|tool| &tool.name));
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);

        writeln!(out, "{}", paint.strong("Layers"))?;
        for layer in &self.layers {
            let status = match layer.status {
                Status::Present => paint.good("present "),
                Status::Degraded => paint.warning("degraded"),
                Status::Missing if layer.required => paint.error("missing "),
                Status::Missing => paint.warning("missing "),
            };
            let detail = visible(&layer.detail);
            writeln!(out, "  {:width$}  {status}  {detail}", layer.name)?;
            let indent = width + 4;
            if let Some(cost) = &layer.cost {
                let label = if layer.required { "needed" } else { "cost" };
                writeln!(out, "{:indent$}{label}: {}", "", visible(cost))?;
            }
            if let Some(hint) = &layer.hint {
                let label = paint.note("hint");
                writeln!(out, "{:indent$}{label}: {}", "", visible(hint))?;
            }
        }
        if !self.tools.is_empty() {
            writeln!(out, "{}", paint.strong("Tools"))?;
        }
        for tool in &self.tools {
            let place = tool.path.as_deref().unwrap_or("not on PATH");
            let version = tool.version.as_deref().unwrap_or("");
            let text = format!(
                "{:width$}  {}  {}",
                tool.name,
                visible(place),
                visible(version)
            );
            writeln!(out, "  {}", text.trim_end())?;
            if let Some(note) = &tool.note {
                writeln!(out, "{:1$}{2}", "", width + 4, visible(note))?;
            }
        }
        match self.lacking().join(", ") {
            none if none.is_empty() => {
                writeln!(out, "{}", paint.good("capwarden can do its work here."))
            }
            lacking => {
                let text = format!("capwarden cannot do its work here: {lacking}.");
                writeln!(out, "{}", paint.error(&text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doctor(required: bool) -> Doctor {
        Doctor {
            layers: vec![
                Layer {
                    name: "seccomp notification".to_owned(),
                    status: Status::Present,
                    required: true,
                    detail: "Linux 6.18".to_owned(),
                    cost: None,
                    hint: None,
                },
                Layer {
                    name: "BPF LSM".to_owned(),
                    status: Status::Missing,
                    required,
                    detail: "loading was refused: EPERM".to_owned(),
                    cost: Some("frames could be injected".to_owned()),
                    hint: Some("boot with lsm=…,bpf".to_owned()),
                },
            ],
            tools: vec![Tool {
                name: "dumpcap".to_owned(),
                path: Some("/usr/bin/dumpcap".to_owned()),
                version: Some("4.0.17".to_owned()),
                note: Some("has file capabilities: they have no effect under the guard".to_owned()),
            }],
        }
    }

    fn text(doctor: &Doctor) -> String {
        let mut out = Vec::new();
        doctor.write(Paint::off(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn report_is_aligned() {
        assert_eq!(
            text(&doctor(false)),
            "\
Layers
  seccomp notification  present   Linux 6.18
  BPF LSM               missing   loading was refused: EPERM
                        cost: frames could be injected
                        hint: boot with lsm=…,bpf
Tools
  dumpcap               /usr/bin/dumpcap  4.0.17
                        has file capabilities: they have no effect under the guard
capwarden can do its work here.
"
        );
    }

    #[test]
    fn missing_layer_that_is_required_is_the_verdict() {
        let doctor = doctor(true);
        assert_eq!(doctor.lacking(), ["BPF LSM"]);
        let text = text(&doctor);
        assert!(
            text.ends_with("capwarden cannot do its work here: BPF LSM.\n"),
            "{text}"
        );
    }

    #[test]
    fn report_is_json() {
        let json = serde_json::to_value(doctor(false)).unwrap();
        assert_eq!(json["layers"][1]["status"], "missing");
        assert_eq!(json["tools"][0]["name"], "dumpcap");
    }
}
