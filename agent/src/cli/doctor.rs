//! `capwarden doctor`: what this host offers, and what is lost without the rest.

use std::io::{self, Write};

use clap::Args;

use crate::{
    audit::visible,
    kernel::{Host, Layer, Status, probe},
    limits::{Looked, Server},
};

use super::{
    counters::Counters,
    exit::Exit,
    failure::Failure,
    term::{self, Paint},
};

/// Say what this host offers for enforcement
///
/// Probes each layer by using it, and names what is lost where one is missing. Run it as root: most
/// layers can only be probed by root. With --counters, the server that would keep the counters is
/// asked whether it is one to trust with them.
///
/// The exit status is 5 if a layer is missing that capwarden cannot do without.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    counters: Counters,
}

impl DoctorArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut host = probe();
        let server = self.counters.server()?;
        host.layers.extend(server.as_ref().map(shared_counters));
        if self.json {
            term::print_json(&host)?;
        } else {
            term::print(|out| write(&host, Paint::for_stdout(), out))?;
        }
        Ok(if host.lacking().is_empty() {
            Exit::Ok
        } else {
            Exit::Kernel
        })
    }
}

/// The server that keeps the counters is a layer, too, where one is wanted.
fn shared_counters(server: &Server) -> Layer {
    let name = "shared counters".to_owned();
    match server.look() {
        Ok(Looked { version, warnings }) => Layer {
            name,
            status: if warnings.is_empty() {
                Status::Present
            } else {
                Status::Degraded
            },
            required: true,
            detail: format!("{version} at {}", server.address),
            cost: (!warnings.is_empty()).then(|| warnings.join(". Also: ")),
            hint: None,
        },
        Err(error) => Layer {
            name,
            status: Status::Missing,
            required: true,
            detail: error.to_string(),
            cost: Some("calls with limits are denied".to_owned()),
            hint: Some(format!(
                "see whether a server listens at {}",
                server.address
            )),
        },
    }
}

fn write(host: &Host, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let names = host.layers.iter().map(|layer| &layer.name);
    let names = names.chain(host.tools.iter().map(|tool| &tool.name));
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0);

    writeln!(out, "{}", paint.strong("Layers"))?;
    for layer in &host.layers {
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
    if !host.tools.is_empty() {
        writeln!(out, "{}", paint.strong("Tools"))?;
    }
    for tool in &host.tools {
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
    match host.lacking().join(", ") {
        none if none.is_empty() => {
            writeln!(out, "{}", paint.good("capwarden can do its work here."))
        }
        lacking => {
            let text = format!("capwarden cannot do its work here: {lacking}.");
            writeln!(out, "{}", paint.error(&text))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::Tool;

    use super::*;

    fn host(required: bool) -> Host {
        Host {
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

    fn text(host: &Host) -> String {
        let mut out = Vec::new();
        write(host, Paint::off(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn report_is_aligned() {
        assert_eq!(
            text(&host(false)),
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
        let host = host(true);
        assert_eq!(host.lacking(), ["BPF LSM"]);
        let text = text(&host);
        assert!(
            text.ends_with("capwarden cannot do its work here: BPF LSM.\n"),
            "{text}"
        );
    }

    #[test]
    fn report_is_json() {
        let json = serde_json::to_value(host(false)).unwrap();
        assert_eq!(json["layers"][1]["status"], "missing");
        assert_eq!(json["tools"][0]["name"], "dumpcap");
    }
}
