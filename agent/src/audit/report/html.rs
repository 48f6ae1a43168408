//! The report as a page: one file without scripts, which shows the same wherever it is opened, and asks nobody for
//! anything.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    Gauge, Part, SessionReport,
    traffic::{CaptureOf, Traffic},
};
use crate::words::counted;

const STYLE: &str = include_str!("report.css");
/// What a plot is drawn in: units of its own.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 200.0;

/// The page.
#[must_use]
pub fn html(report: &SessionReport) -> String {
    let server = report.server.as_deref();
    let server = server.map_or_else(String::new, |server| {
        format!("at {}, ", super::super::visible(server))
    });
    let title = format!(
        "Session {} {server}of agent {}",
        report.session,
        short(&report.agent)
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Nothing is fetched, whatever a record has in it.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p.outcome { (report.outcome()) }
                @for gauge in report.gauges() { (drawn(&gauge)) }
                (protocols(report))
                @if let Some(traffic) = &report.traffic { (plot(traffic, report)) }
                @for part in Part::ALL { (section(report, part)) }
                (believed(report))
                footer { p { (report.made.words()) } }
            }
        }
    };
    page.into_string()
}

fn short(agent: &str) -> String {
    super::super::visible(agent).chars().take(8).collect()
}

/// `128 of 1000 packets`, with a bar.
fn drawn(gauge: &Gauge) -> Markup {
    let share = gauge
        .cap
        .map(|cap| (gauge.used / cap.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0));
    html! {
        div.gauge {
            span.words { (gauge.words()) }
            @if let Some(share) = share {
                svg viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label=(gauge.words()) {
                    rect.cap width="100" height="4" {}
                    rect.used width=(format!("{:.2}", 100.0 * share)) height="4" {}
                }
            }
        }
    }
}

/// What was delivered, by protocol: a bar for each.
fn protocols(report: &SessionReport) -> Markup {
    let all = report.protocols();
    let ranked = all.ranked();
    let most = ranked.first().map_or(1, |(_, count)| *count);
    html! {
        @if !ranked.is_empty() {
            section.protocols {
                h2 { "By protocol" }
                @for (name, count) in &ranked {
                    @let words = format!("{} of {}", counted(*count, "packet"), super::super::visible(name));
                    div.gauge {
                        span.words { (words) }
                        svg viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label=(words) {
                            rect.used width=(format!("{:.2}", 100.0 * float(*count) / float(most.max(1)))) height="4" {}
                        }
                    }
                }
                @if all.tagged > 0 { p { (counted(all.tagged, "packet")) " with a VLAN tag" } }
            }
        }
    }
}

/// Packets over time, against the cap.
fn plot(traffic: &Traffic, report: &SessionReport) -> Markup {
    let cap = report
        .gauges()
        .into_iter()
        .find(|gauge| gauge.unit == "packets");
    let cap = cap.and_then(|gauge| gauge.cap);
    let most = traffic.moments.last().map_or(0, |last| last.packets);
    let top = cap.unwrap_or(0.0).max(float(most)).max(1.0);
    let length = traffic
        .moments
        .last()
        .map_or(0.0, |last| last.seconds)
        .max(1e-6);
    let y = |packets: f64| HEIGHT - HEIGHT * packets / top;
    let mut line = format!("M0 {HEIGHT}");
    for moment in &traffic.moments {
        let x = WIDTH * moment.seconds / length;
        line += &format!(" L{x:.1} {:.1}", y(float(moment.packets)));
    }
    let words = format!(
        "{} in {length:.1} s, {} as captured",
        counted(traffic.packets, "packet"),
        counted(traffic.bytes, "byte"),
    );
    html! {
        figure {
            svg viewBox=(format!("-2 -12 {} {}", WIDTH + 4.0, HEIGHT + 16.0)) role="img" aria-label=(words) {
                path.axis d=(format!("M0 0 V{HEIGHT} H{WIDTH}")) {}
                @if let Some(cap) = cap {
                    path.limit d=(format!("M0 {0:.1} H{WIDTH}", y(cap))) {}
                    text x="4" y=(format!("{:.1}", y(cap) - 3.0)) { "cap: " (cap) " packets" }
                }
                path.line d=(line) {}
            }
            figcaption {
                (words)
                @for CaptureOf { file, sha256 } in &traffic.files {
                    br;
                    (super::super::visible(&file.display().to_string())) " sha256 " code { (sha256) }
                }
            }
        }
    }
}

fn section(report: &SessionReport, part: Part) -> Markup {
    let lines: Vec<_> = report.part(part).collect();
    html! {
        @if !lines.is_empty() {
            section {
                h2 { (part.heading()) }
                table {
                    @for line in lines {
                        tr {
                            td.time { (line.time.replace('T', " ")) }
                            td.kind { (line.kind) }
                            td { (line.words) }
                            td.line title=(format!("sha256 {}", line.sha256)) { "line " (line.line) }
                        }
                    }
                }
            }
        }
    }
}

/// How far the log can be believed, and how this page is held against it.
fn believed(report: &SessionReport) -> Markup {
    let path = super::super::visible(&report.path.display().to_string());
    html! {
        section {
            h2 { "Record" }
            @if report.omitted > 0 {
                p.warning { (counted(report.omitted, "more line")) " of this session are in the log." }
            }
            p class=(if report.log.is_sound() { "good" } else { "bad" }) { (report.log_words()) }
            @if let Some(head) = report.log.head {
                p { "Head of the log when this was made: " code { (head) } }
                p {
                    "To check this page: " code { "capwarden audit verify --head " (head) " " (path) }
                    " proves every line up to it; the hash of a line is that of its bytes: "
                    code { "sed -n LINEp " (path) " | tr -d '\\n' | sha256sum" }
                }
            }
            table.hashes {
                @for line in &report.lines {
                    tr { td.line { (line.line) } td { code { (line.sha256) } } }
                }
            }
        }
    }
}

/// Exact up to 2^53, which is more than a plot can show.
fn float(number: u64) -> f64 {
    number.to_string().parse().unwrap_or(f64::MAX)
}
