//! What each picture shows, and how it comes to that.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::json;

use super::{
    cast::Cast,
    place::{ALICE, BOB, CAPTURES, CHECKOUT, Place},
    shots::{Camera, Page},
    story::{POLICY, Packets, Story, ask, ask_for_lookup},
    terminal::{Size, Terminal},
};
use crate::term;

/// A picture.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Picture {
    Demo,
    Explain,
    Top,
    Approve,
    Report,
    Web,
    ReportPage,
}

impl Picture {
    /// Its file's name, without the ending; `--only` calls it so.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Explain => "explain",
            Self::Top => "top",
            Self::Approve => "approve",
            Self::Report => "report",
            Self::Web => "web",
            Self::ReportPage => "report-page",
        }
    }
}

/// Two kinds of traffic, by their ports: audio, and the lines of logs.
const AUDIO: (u16, usize, &[u64]) = (5_004, 172, &[120, 180, 270, 220, 130, 80, 190]);
const LOGS: (u16, usize, &[u64]) = (514, 320, &[12, 30, 18]);

/// Makes those that are wanted; `keep` is handed each recording.
pub(super) fn play(
    place: &Place,
    suite: &Path,
    folder: &Path,
    wanted: impl Fn(&Picture) -> bool,
    keep: impl Fn(&str, &Cast) -> Result<()>,
) -> Result<()> {
    let step = |picture: Picture, act: &dyn Fn() -> Result<Cast>| -> Result<()> {
        if !wanted(&picture) {
            return Ok(());
        }
        let name = picture.name();
        term::step(name, |_| {
            let cast = act().with_context(|| format!("the picture {name}"))?;
            keep(name, &cast)
        })
    };
    let photo = |picture: Picture, act: &dyn Fn(&Path) -> Result<()>| -> Result<()> {
        if !wanted(&picture) {
            return Ok(());
        }
        let name = picture.name();
        let to = folder.join(name).with_extension("png");
        term::step(name, |_| {
            act(&to).with_context(|| format!("the picture {name}"))
        })
    };
    step(Picture::Explain, &|| explain(place))?;
    let captures = [
        Picture::Top,
        Picture::Approve,
        Picture::Report,
        Picture::Web,
        Picture::ReportPage,
    ];
    if captures.iter().any(&wanted) {
        let story = Story::begin(place)?;
        // What the others are of happens there, whether it is wanted itself or not.
        let cast = term::step(Picture::Top.name(), |_| top(place, &story))?;
        if wanted(&Picture::Top) {
            keep(Picture::Top.name(), &cast)?;
        }
        step(Picture::Approve, &|| approve(place, &story))?;
        step(Picture::Report, &|| report(place))?;
        let camera = Camera::new(suite)?;
        photo(Picture::Web, &|to| web(place, &story, &camera, to))?;
        photo(Picture::ReportPage, &|to| report_page(place, &camera, to))?;
    }
    step(Picture::Demo, &|| demo(place))
}

fn terminal(place: &Place, columns: u16, rows: u16) -> Result<Terminal> {
    let size = Size { columns, rows };
    Terminal::open(size, CHECKOUT.as_ref(), &place.path, "")
}

/// `cargo xtask run`: its demo. What is left out is what is built before it.
fn demo(place: &Place) -> Result<Cast> {
    let size = Size {
        columns: 100,
        rows: 30,
    };
    // The same program, without what it does before the demo.
    let built = format!(
        "cargo() {{ shift; '{}' \"$@\" --built; }}\n",
        place.xtask.display()
    );
    let mut terminal = Terminal::open(size, CHECKOUT.as_ref(), &place.path, &built)?;
    terminal.types("cargo xtask run")?;
    terminal.prompts()?;
    let failed: Vec<String> = terminal
        .said()
        .lines()
        .filter(|line| line.contains('✗'))
        .map(str::to_owned)
        .collect();
    ensure!(
        failed.is_empty(),
        "not each promise held: {}",
        failed.join("; ")
    );
    terminal.marks();
    terminal.recorded("cargo xtask run")
}

/// `policy explain`: a call that gets less than it asks for, and one that is denied.
fn explain(place: &Place) -> Result<Cast> {
    let (file, text) = POLICY;
    fs::write(file, text)?;
    let directory = Path::new(CHECKOUT);
    for (name, interface) in [("call.json", "lo"), ("other.json", "eth0")] {
        let call = json!({
            "tool": "start_packet_capture",
            "arguments": { "interface": interface, "capture_filter": "port 53", "duration": 600 },
        });
        fs::write(directory.join(name), format!("{call}\n"))?;
    }
    let mut terminal = terminal(place, 120, 20)?;
    for name in ["call.json", "other.json"] {
        terminal.types(&format!("cat {name}"))?;
        terminal.prompts()?;
        terminal.pause(500);
        terminal.types(&format!("capwarden policy explain {name} -p {file}"))?;
        terminal.prompts()?;
        terminal.pause(1_600);
    }
    terminal.marks();
    for name in ["call.json", "other.json"] {
        fs::remove_file(directory.join(name))?;
    }
    terminal.recorded("capwarden policy explain")
}

/// `top`: two captures whose gauges fill, a denial, a call that waits and is approved.
fn top(place: &Place, story: &Story<'_>) -> Result<Cast> {
    let (mut alice, mut bob) = (story.client(ALICE)?, story.client(BOB)?);
    let _audio = Packets::to(AUDIO.0, AUDIO.1, AUDIO.2)?;
    let _logs = Packets::to(LOGS.0, LOGS.1, LOGS.2)?;
    story.capture(&mut bob, "logs.pcap", "udp port 514")?;
    let mut terminal = terminal(place, 128, 21)?;
    story.capture(&mut alice, "audio.pcap", "port 5004")?;
    terminal.types("capwarden top")?;
    terminal.shows("Sessions")?;
    terminal.pause(3_000);
    ask(&mut bob, "eth0", "other.pcap", "udp port 514")?;
    terminal.shows("eth0")?;
    terminal.pause(2_000);
    ask_for_lookup(&mut bob, "logs.pcap")?;
    let id = story.waiting()?;
    terminal.shows(&id)?;
    terminal.pause(1_500);
    terminal.press("\t")?;
    terminal.pause(900);
    terminal.press("a")?;
    terminal.shows("Approve")?;
    terminal.pause(1_600);
    terminal.press("y")?;
    terminal.pause(1_200);
    ask_for_lookup(&mut bob, "logs.pcap")?;
    terminal.pause(1_200);
    // A gauge that warns.
    terminal.shows_one(&["2.3k/2.5k", "2.4k/2.5k"])?;
    terminal.marks();
    // Until the cap is reached, which the session's report tells of.
    terminal.shows("2500")?;
    terminal.press("q")?;
    terminal.prompts()?;
    let cast = terminal.recorded("capwarden top")?;
    alice.close()?;
    bob.close()?;
    Ok(cast)
}

/// `approvals` and `approve`: who asks for what, and a yes to it.
fn approve(place: &Place, story: &Story<'_>) -> Result<Cast> {
    let mut alice = story.client(ALICE)?;
    ask_for_lookup(&mut alice, "audio.pcap")?;
    let id = story.waiting()?;
    let mut terminal = terminal(place, 100, 20)?;
    terminal.types("capwarden approvals")?;
    terminal.prompts()?;
    terminal.pause(1_600);
    terminal.types(&format!("capwarden approve {id}"))?;
    terminal.prompts()?;
    terminal.marks();
    alice.close()?;
    terminal.recorded("capwarden approve")
}

/// `report`: what became of the capture that `top` showed.
fn report(place: &Place) -> Result<Cast> {
    let mut terminal = terminal(place, 120, 32)?;
    terminal.types("capwarden report s2")?;
    terminal.prompts()?;
    terminal.marks();
    terminal.recorded("capwarden report")
}

/// The page of `capwarden web`: packets over time against the cap, a call that waits, a denial.
fn web(place: &Place, story: &Story<'_>, camera: &Camera, to: &Path) -> Result<()> {
    let (mut alice, mut bob) = (story.client(ALICE)?, story.client(BOB)?);
    let page = Page::serve(place)?;
    let _audio = Packets::to(AUDIO.0, AUDIO.1, AUDIO.2)?;
    let _logs = Packets::to(LOGS.0, LOGS.1, LOGS.2)?;
    let logs = story.capture(&mut bob, "more-logs.pcap", "udp port 514")?;
    let audio = story.capture(&mut alice, "more-audio.pcap", "port 5004")?;
    camera.take(&page.address, to, 1_400, &[audio, logs], || {
        ask_for_lookup(&mut bob, "logs.pcap")?;
        ask(&mut alice, "eth0", "other.pcap", "port 5004").map(drop)
    })?;
    alice.close()?;
    bob.close()
}

/// The page that `report --html` writes.
fn report_page(place: &Place, camera: &Camera, to: &Path) -> Result<()> {
    let page = "/var/lib/capwarden/report.html";
    let capture = format!("{CAPTURES}/audio.pcap");
    let words = ["report", "s2", "--pcap", &capture, "--html", "--out", page];
    term::Progress::quiet().run(&mut place.capwarden(&words))?;
    camera.take(&format!("file://{page}"), to, 1_150, &[], || Ok(()))
}
