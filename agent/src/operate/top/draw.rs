//! The screen. All text from outside goes through [`visible`].

use ratatui::{
    Frame,
    layout::{Constraint, Flex, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row as Cells, Sparkline, Table, TableState, Wrap},
};

use super::state::{Act, Focus, Mode, Row, Top};
use crate::{
    audit::{visible, visible_json},
    operate::{Event, EventKind},
    session::{Count, SessionKind, Standing},
    words::counted,
};

/// Columns of a gauge.
const GAUGE: usize = 8;
/// Of a cap, from which on a gauge warns.
const NEARLY: f64 = 0.9;

const HELP: [(&str, &str); 10] = [
    (
        "↑ ↓ j k",
        "go through the list; PgUp, PgDn, g and G go further",
    ),
    ("Tab", "between sessions and approvals"),
    ("Enter", "everything about the session"),
    ("s  Del", "stop the session; asks first"),
    ("a", "approve the call that waits; asks first"),
    ("d", "deny it; asks first"),
    (
        "/",
        "show only sessions with these words: server, tool, principal, interface, id",
    ),
    ("Esc", "show all of them again"),
    ("?", "this"),
    ("q", "leave; nothing ends by that"),
];

/// Draws everything.
pub(super) fn draw(top: &Top, frame: &mut Frame<'_>) {
    let area = frame.area();
    let parts = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(5),
        Constraint::Length((area.height / 3).clamp(3, 10)),
        Constraint::Length(1),
    ]);
    let [head, table, below, foot] = parts.areas(area);
    let [events, approvals] =
        Layout::horizontal([Constraint::Percentage(55), Constraint::Percentage(45)]).areas(below);
    draw_head(top, frame, head);
    draw_table(top, frame, table);
    draw_events(top, frame, events);
    draw_approvals(top, frame, approvals);
    draw_foot(top, frame, foot);
    match &top.mode {
        Mode::Table | Mode::Filter => {}
        Mode::Detail => draw_detail(top, frame, area),
        Mode::Help => draw_help(frame, area),
        Mode::Confirm(act) => draw_confirm(top, act, frame, area),
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn coloured(colour: Color) -> Style {
    Style::new().fg(colour)
}

fn draw_head(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let (sessions, servers, processes) = top.counts();
    let mut spans = vec![
        Span::styled("capwarden ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(
            "{}, {}, {}",
            many(sessions, "session"),
            many(servers, "server"),
            many(processes, "agent")
        )),
    ];
    if !top.waiting().is_empty() {
        spans.push(Span::styled(
            format!("  {} waiting for approval", top.waiting().len()),
            coloured(Color::Yellow),
        ));
    }
    if !top.filter.is_empty() || top.mode == Mode::Filter {
        let cursor = if top.mode == Mode::Filter { "▏" } else { "" };
        let text = format!("  /{}{cursor}", visible(&top.filter));
        spans.push(Span::styled(text, coloured(Color::Cyan)));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// `2 sessions`.
fn many(count: usize, what: &str) -> String {
    counted(u64::try_from(count).unwrap_or(u64::MAX), what)
}

fn draw_table(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let rows = top.rows();
    let block = Block::bordered().title(" Sessions ");
    if rows.is_empty() {
        let text = match (top.filter.is_empty(), top.counts()) {
            (false, _) => "no session has these words",
            (true, (_, _, 0)) => "no agent runs on this host",
            (true, _) => "no session is open",
        };
        frame.render_widget(Paragraph::new(text).style(dim()).block(block), area);
        return;
    }
    let head = [
        "session", "server", "tool", "by", "on", "packets", "/s", "bytes", "left", "",
    ];
    let widths = [
        Constraint::Length(13),
        Constraint::Fill(2),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(8),
        Constraint::Length(22),
        Constraint::Length(7),
        Constraint::Length(20),
        Constraint::Length(9),
        Constraint::Length(8),
    ];
    let cells = rows.iter().map(|row| cells(row));
    let focused = top.focus == Focus::Sessions;
    let mark = if focused {
        Style::new().add_modifier(Modifier::REVERSED)
    } else {
        Style::new().add_modifier(Modifier::UNDERLINED)
    };
    let table = Table::new(cells, widths)
        .header(Cells::new(head).style(dim()))
        .row_highlight_style(mark)
        .block(block);
    let mut state = TableState::new().with_selected(top.selected());
    frame.render_stateful_widget(table, area, &mut state);
}

fn cells(row: &Row) -> Cells<'static> {
    let (live, now) = (&row.live, &row.live.now);
    let who = live.who.as_ref();
    let text = |text: &str| Cell::from(visible(text));
    let (standing, colour) = standing(now.standing);
    let interfaces = match (now.kind, now.interfaces.is_empty()) {
        (SessionKind::Capture, true) => "any".to_owned(),
        _ => now.interfaces.join(","),
    };
    Cells::new([
        text(&live.short_id()),
        text(&live.server),
        text(who.map_or(kind(now.kind), |who| &who.tool)),
        text(who.map_or("", |who| &who.principal)),
        text(&interfaces),
        Cell::from(gauge(now.packets, short_number)),
        Cell::from(rate(row.rates.packets())),
        Cell::from(gauge(now.bytes, size)),
        Cell::from(now.left_ms.map_or_else(|| "–".to_owned(), left)),
        Cell::from(Span::styled(standing, coloured(colour))),
    ])
}

fn kind(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Capture => "capture",
        SessionKind::Proxy => "proxy",
        SessionKind::Program => "programs",
    }
}

fn standing(standing: Standing) -> (&'static str, Color) {
    match standing {
        Standing::Waiting => ("waiting", Color::Yellow),
        Standing::Live => ("live", Color::Green),
        Standing::Ending => ("ending", Color::Red),
    }
}

/// How much of a cap is used, as a bar and in numbers.
fn gauge(count: Count, words: fn(u64) -> String) -> Line<'static> {
    let Some(cap) = count.cap else {
        return Line::raw(words(count.seen));
    };
    let part = share(count.seen, cap);
    let full = filled(part, GAUGE);
    let colour = match part {
        part if part >= 1.0 => Color::Red,
        part if part >= NEARLY => Color::Yellow,
        _ => Color::Green,
    };
    Line::from(vec![
        Span::styled("█".repeat(full), coloured(colour)),
        Span::styled("░".repeat(GAUGE.saturating_sub(full)), dim()),
        Span::raw(format!(" {}/{}", words(count.seen), words(cap))),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "it is drawn in eight steps")]
fn share(seen: u64, cap: u64) -> f64 {
    match cap {
        0 => 1.0,
        cap => (seen as f64 / cap as f64).min(1.0),
    }
}

/// Columns of a bar that are full: the last one only at the cap, the first as soon as there is something.
fn filled(part: f64, width: usize) -> usize {
    let mut full = 0;
    let mut step = 0.0;
    for column in 0..width {
        full = column;
        if step >= part {
            return full;
        }
        step += 1.0 / f64::from(u8::try_from(width).unwrap_or(u8::MAX));
    }
    if part >= 1.0 { full + 1 } else { full }
}

/// `999`, `12.3k`, `4.5M`.
fn short_number(number: u64) -> String {
    scaled(number, 1_000, &["", "k", "M", "G", "T"])
}

/// `999 B`, `12.3 KiB`.
fn size(bytes: u64) -> String {
    scaled(bytes, 1_024, &["B", "K", "M", "G", "T"])
}

fn scaled(number: u64, step: u64, units: &[&str]) -> String {
    let (mut whole, mut tenths, mut unit) = (number, 0, 0);
    while whole >= step && unit + 1 < units.len() {
        tenths = whole % step * 10 / step;
        whole /= step;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    match unit {
        0 => format!("{whole}{name}"),
        _ if whole >= 100 || tenths == 0 => format!("{whole}{name}"),
        _ => format!("{whole}.{tenths}{name}"),
    }
}

fn rate(each_second: f64) -> String {
    match each_second {
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate if rate < 10_000.0 => format!("{rate:.0}"),
        rate => format!("{:.0}k", rate / 1_000.0),
    }
}

fn left(milliseconds: u64) -> String {
    match milliseconds.div_ceil(1_000) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        seconds => format!("{} h {} m", seconds / 3_600, seconds / 60 % 60),
    }
}

/// `14:03:07` of `2026-11-21T14:03:07.123Z`.
fn clock(time: &str) -> String {
    visible(time.get(11..19).unwrap_or(time))
}

fn event_line(event: &Event) -> Line<'static> {
    let colour = match event.kind {
        EventKind::Denied | EventKind::Refused => Color::Red,
        EventKind::Approval => Color::Yellow,
        _ => Color::Reset,
    };
    let session = event.session.map(|session| format!("{session} "));
    let text = format!("{}{}", session.unwrap_or_default(), event.text);
    Line::from(vec![
        Span::styled(format!("{} ", clock(&event.at)), dim()),
        Span::raw(format!("{} ", visible(&event.server))),
        Span::styled(visible(&text), coloured(colour)),
    ])
}

fn draw_events(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Line<'_>> = top
        .denials()
        .take(area.height.into())
        .map(event_line)
        .collect();
    let block = Block::bordered().title(" Denied and refused ");
    let text = match lines.is_empty() {
        true => Paragraph::new("nothing since this was opened").style(dim()),
        false => Paragraph::new(lines),
    };
    frame.render_widget(text.block(block), area);
}

fn draw_approvals(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::bordered().title(" Waiting for approval ");
    if top.waiting().is_empty() {
        // There is room for what has ended.
        let ends = top.ends().take(area.height.into()).map(event_line);
        let mut lines = vec![Line::styled("no call waits", dim())];
        lines.extend(ends);
        frame.render_widget(Paragraph::new(lines).block(block), area);
        return;
    }
    let rows = top.waiting().iter().map(|one| {
        Cells::new([
            Cell::from(visible(&one.id)),
            Cell::from(visible(&one.tool)),
            Cell::from(visible(&one.caller)),
            Cell::from(left(one.left.saturating_mul(1_000))),
        ])
    });
    let widths = [
        Constraint::Length(9),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(7),
    ];
    let mark = match top.focus {
        Focus::Approvals => Style::new().add_modifier(Modifier::REVERSED),
        Focus::Sessions => Style::new().add_modifier(Modifier::UNDERLINED),
    };
    let table = Table::new(rows, widths)
        .row_highlight_style(mark)
        .block(block);
    let mut state = TableState::new().with_selected(top.chosen());
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_foot(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let line = match &top.told {
        Some(told) => {
            let colour = if told.good { Color::Green } else { Color::Red };
            Line::styled(visible(&told.text), coloured(colour))
        }
        None => Line::styled(
            "↑↓ select  Enter detail  s stop  Tab approvals  a approve  d deny  / filter  ? help  q leave",
            dim(),
        ),
    };
    frame.render_widget(Paragraph::new(line), area);
}

/// A place in the middle, cleared.
fn popup(frame: &mut Frame<'_>, area: Rect, height: u16) -> Rect {
    let [row] = Layout::vertical([Constraint::Max(height)])
        .flex(Flex::Center)
        .areas(area);
    let [place] = Layout::horizontal([Constraint::Max(100)])
        .flex(Flex::Center)
        .areas(row);
    frame.render_widget(Clear, place);
    place
}

fn pair(name: &str, text: &str) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!("{name:<10} "), coloured(Color::Cyan)),
        Span::raw(visible(text)),
    ])
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Line<'_>> = HELP.iter().map(|(key, what)| pair(key, what)).collect();
    let height = u16::try_from(lines.len())
        .unwrap_or(u16::MAX)
        .saturating_add(2);
    let place = popup(frame, area, height);
    let block = Block::bordered().title(" Keys ");
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

fn draw_detail(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let place = popup(frame, area, area.height.saturating_sub(4));
    let Some(row) = top.selected_row() else {
        let block = Block::bordered().title(" Session ");
        let text = Paragraph::new("it has ended").block(block);
        return frame.render_widget(text, place);
    };
    let title = format!(" {} ", visible(&row.live.short_id()));
    let block = Block::bordered().title(title);
    let inner = block.inner(place);
    frame.render_widget(block, place);
    let [text, picture] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(4)]).areas(inner);
    let lines = Paragraph::new(detail(row)).wrap(Wrap { trim: false });
    frame.render_widget(lines, text);
    let points = row.rates.picture();
    let skipped = points.len().saturating_sub(picture.width.into());
    let points = points.get(skipped..).unwrap_or_default();
    let line = Sparkline::default()
        .data(points)
        .style(coloured(Color::Green))
        .block(Block::new().title("packets over time"));
    frame.render_widget(line, picture);
}

/// Protocols of one session that there is room for.
const PROTOCOLS: usize = 8;

fn detail(row: &Row) -> Vec<Line<'static>> {
    let (live, now) = (&row.live, &row.live.now);
    let mut lines = vec![
        pair("session", &format!("{} ({})", live.id, kind(now.kind))),
        pair(
            "server",
            &format!("{}, {}", live.server, live.agent_words()),
        ),
    ];
    if let Some(who) = &live.who {
        lines.push(pair("by", &format!("{}, {}", who.principal, who.tool)));
    }
    lines.push(pair("granted", &now.granted));
    if let Some(asked) = &now.asked {
        lines.push(pair("asked for", asked));
    }
    if let Some(within) = &now.within {
        lines.push(pair("within", within));
    }
    if let Some(cut) = &now.cut {
        lines.push(pair("less", cut));
    }
    let of = |count: Count| {
        let cap = count.cap.map(|cap| format!(" of {cap}"));
        format!("{}{}", count.seen, cap.unwrap_or_default())
    };
    lines.push(pair(
        "packets",
        &format!(
            "{}, {} a second",
            of(now.packets),
            rate(row.rates.packets())
        ),
    ));
    lines.push(pair(
        "bytes",
        &format!("{}, {} a second", of(now.bytes), rate(row.rates.bytes())),
    ));
    let protocols = &now.protocols;
    let most = protocols.ranked().first().map_or(1, |(_, count)| *count);
    for (n, (name, count)) in protocols.ranked().into_iter().take(PROTOCOLS).enumerate() {
        let full = filled(share(count, most), GAUGE);
        let head = if n == 0 { "protocols" } else { "" };
        lines.push(Line::from(vec![
            Span::styled(format!("{head:<10} "), coloured(Color::Cyan)),
            Span::styled("█".repeat(full), coloured(Color::Green)),
            Span::styled("░".repeat(GAUGE.saturating_sub(full)), dim()),
            Span::raw(format!(" {count:>8} {}", visible(name))),
        ]));
    }
    let more = protocols.packets.len().saturating_sub(PROTOCOLS);
    if more > 0 {
        lines.push(pair("", &format!("and {more} more")));
    }
    if let Some(passed) = &now.passed {
        let text = format!(
            "{} bytes in, {} out; {} connections accepted, {} made; {} packets dropped",
            passed.bytes_in, passed.bytes_out, passed.accepted, passed.made, passed.dropped
        );
        lines.push(pair("passed", &text));
    }
    let sockets = format!("{} sockets, {} refused", now.sockets, now.refused);
    lines.push(pair("sockets", &sockets));
    let names = now.processes.iter();
    let names: Vec<String> = names
        .map(|process| format!("{} ({})", process.name, process.pid))
        .collect();
    lines.push(pair("processes", &names.join(", ")));
    lines.push(pair("opened", &live.started));
    let ending = now.reason.map(|reason| format!(": {reason}"));
    let stands = format!("{}{}", standing(now.standing).0, ending.unwrap_or_default());
    lines.push(pair("stands", &stands));
    lines
}

fn draw_confirm(top: &Top, act: &Act, frame: &mut Frame<'_>, area: Rect) {
    let mut lines = Vec::new();
    match act {
        Act::Quit => {}
        Act::Stop(id) => match top.row(id) {
            Some(row) => {
                lines.push(Line::raw(format!(
                    "Stop {}? Its file is completed, and its client told.",
                    visible(&row.live.short_id())
                )));
                lines.push(pair("granted", &row.live.now.granted));
            }
            None => lines.push(Line::raw("It has ended already.")),
        },
        Act::Approve(id) | Act::Deny(id) => {
            let verb = match act {
                Act::Approve(_) => "Approve",
                _ => "Deny",
            };
            match top.waiting_one(id) {
                Some(one) => {
                    lines.push(Line::raw(format!("{verb} {}?", visible(id))));
                    lines.push(pair("tool", &one.tool));
                    lines.push(pair("caller", &one.caller));
                    // These were escaped where they came from.
                    lines.push(pair("arguments", &visible_json(&one.arguments)));
                    if let Some(effect) = &one.effect {
                        lines.push(pair("comes to", effect));
                    }
                }
                None => lines.push(Line::raw("It waits no longer.")),
            }
        }
    }
    lines.push(Line::styled(
        "y does it, any other key does not",
        coloured(Color::Yellow),
    ));
    let place = popup(frame, area, area.height.clamp(5, 12));
    let block = Block::bordered().title(" Sure? ");
    let text = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block);
    frame.render_widget(text, place);
}
