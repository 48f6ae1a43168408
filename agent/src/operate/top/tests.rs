//! The screen as it is drawn, and what keys do to it.

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};

use super::{
    draw::draw,
    keys::press,
    state::{Act, Focus, Mode, Told, Top, Waiting},
};
use crate::{
    operate::{Agent, Event, EventKind, Line, Live, Who},
    session::{Count, Protocols, SessionId, SessionKind, Snapshot, Standing},
};

pub(in crate::operate) fn live(session: u32, packets: u64, age_ms: u64) -> Live {
    Live {
        id: format!("5f1c2a9b7d0e1f23/s{session}"),
        agent: "5f1c2a9b7d0e1f23".to_owned(),
        pid: 7,
        server: "pcap".to_owned(),
        who: Some(Who {
            principal: format!("uid:{}", 1000 + session),
            grant: None,
            tool: "start\u{1b}[2J".to_owned(),
        }),
        started: format!("2026-11-21T14:00:0{session}.000Z"),
        version: None,
        replaced_by: None,
        now: Snapshot {
            session: SessionId(session),
            kind: SessionKind::Capture,
            standing: Standing::Live,
            reason: None,
            granted: "lo, 1000 packets".to_owned(),
            interfaces: vec!["lo".to_owned()],
            asked: Some("tcp port 80".to_owned()),
            within: None,
            cut: None,
            packets: Count {
                seen: packets,
                cap: Some(1_000),
            },
            bytes: Count {
                seen: packets * 2_048,
                cap: None,
            },
            protocols: Protocols::default(),
            passed: None,
            sockets: 1,
            refused: 0,
            running: None,
            processes: Vec::new(),
            age_ms,
            left_ms: Some(125_000),
        },
    }
}

pub(in crate::operate) fn agent() -> Agent {
    Agent {
        agent: "5f1c2a9b7d0e1f23".to_owned(),
        pid: 7,
        server: "pcap".to_owned(),
        serves: None,
        audit: "/var/log/a".to_owned(),
        started: "2026-11-21T13:00:00.000Z".to_owned(),
        version: None,
        replaced_by: None,
    }
}

fn hear(top: &mut Top, sessions: Vec<Live>) {
    top.hear(7, Line::Agent(agent()));
    for session in sessions {
        top.hear(7, Line::Session(Box::new(session)));
    }
    top.hear(7, Line::Moment("2026-11-21T14:00:00.000Z".to_owned()));
}

fn event(kind: EventKind, text: &str) -> Line {
    Line::Event(Event {
        at: "2026-11-21T14:03:07.123Z".to_owned(),
        agent: "5f1c2a9b7d0e1f23".to_owned(),
        server: "pcap".to_owned(),
        session: None,
        kind,
        text: text.to_owned(),
        reason: None,
    })
}

fn waiting(id: &str) -> Waiting {
    Waiting {
        id: id.to_owned(),
        tool: "restart".to_owned(),
        caller: "uid:1000 at pcap".to_owned(),
        arguments: r#"{"probe":"eth0"}"#.to_owned(),
        effect: None,
        left: 598,
    }
}

/// The screen as text.
fn screen(top: &Top, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(top, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width));
    rows.map(|row| {
        row.iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect::<String>()
            + "\n"
    })
    .collect()
}

fn keys(top: &mut Top, codes: &[KeyCode]) -> Option<Act> {
    let mut last = None;
    for code in codes {
        last = press(top, KeyEvent::new(*code, KeyModifiers::NONE));
    }
    last
}

fn key(top: &mut Top, c: char) -> Option<Act> {
    keys(top, &[KeyCode::Char(c)])
}

fn two() -> Top {
    let mut top = Top::default();
    hear(&mut top, vec![live(1, 100, 1_000), live(2, 7, 1_000)]);
    top
}

#[test]
fn table_has_counts_caps_rates_and_what_is_left() {
    let mut top = Top::default();
    let empty = screen(&top, 140, 24);
    assert!(empty.contains("no agent runs on this host"), "{empty}");
    hear(&mut top, Vec::new());
    let idle = screen(&top, 140, 24);
    assert!(idle.contains("no session is open"), "{idle}");
    hear(&mut top, vec![live(2, 7, 1_000), live(1, 100, 1_000)]);
    hear(&mut top, vec![live(2, 7, 1_500), live(1, 250, 1_500)]);
    let shown = screen(&top, 140, 24);
    for words in [
        "2 sessions, 1 server, 1 agent",
        "5f1c2a9b/s1",
        "uid:1001",
        "250/1k",
        "300", // packets a second
        "500K",
        "2:05",
        "██░░░░░░",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let at = |words: &str| shown.find(words).unwrap();
    assert!(
        at("5f1c2a9b/s1") < at("5f1c2a9b/s2"),
        "oldest first: {shown}"
    );
    // What an agent does not list any more has ended, and one that has gone has none.
    hear(&mut top, vec![live(2, 8, 2_000)]);
    assert!(!screen(&top, 140, 24).contains("5f1c2a9b/s1"));
    top.gone(7);
    assert!(screen(&top, 140, 24).contains("no agent runs"));
}

#[test]
fn agents_are_counted_by_their_processes_and_servers_by_who_serves_them() {
    let mut top = Top::default();
    let head = |top: &Top| screen(top, 140, 24).lines().next().unwrap().to_owned();
    for (pid, serves, replaced_by, counts) in [
        (7, None, None, "0 sessions, 1 server, 1 agent "),
        (8, Some(3), None, "0 sessions, 4 servers, 2 agents "),
        // Its successor has the same servers, and one more.
        (8, Some(3), Some(9), "0 sessions, 1 server, 2 agents "),
        (9, Some(4), None, "0 sessions, 5 servers, 3 agents "),
        (9, Some(0), None, "0 sessions, 1 server, 3 agents "),
    ] {
        let agent = Agent {
            pid,
            serves,
            replaced_by,
            ..agent()
        };
        top.hear(pid, Line::Agent(agent));
        top.hear(pid, Line::Moment(String::new()));
        assert!(head(&top).contains(counts), "{}", head(&top));
    }
    top.gone(8);
    assert!(head(&top).contains("1 server, 2 agents "), "{}", head(&top));
}

#[test]
fn denials_and_approvals_are_shown_as_they_come() {
    let mut top = two();
    top.hear(
        7,
        event(EventKind::Denied, "capture of uid:1000: not \u{202e}eth0"),
    );
    top.hear(7, event(EventKind::Ended, "the packet cap was reached"));
    let shown = screen(&top, 160, 30);
    assert!(
        shown.contains("14:03:07 pcap capture of uid:1000: not"),
        "{shown}"
    );
    assert!(!shown.contains('\u{202e}'), "{shown}");
    assert!(shown.contains("the packet cap was reached"), "{shown}");
    top.wait(vec![waiting("K7QM-2F9X"), waiting("AAAA-BBBB")]);
    let shown = screen(&top, 160, 30);
    for words in ["2 waiting for approval", "K7QM-2F9X", "restart", "9:58"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    for number in 0..1_000 {
        top.hear(7, event(EventKind::Refused, &format!("refusal {number}")));
    }
    assert_eq!(top.denials().count(), 200);
    assert!(screen(&top, 160, 30).contains("refusal 999"));
}

#[test]
fn sessions_are_stopped_by_a_key_and_a_yes() {
    let mut top = two();
    assert_eq!(key(&mut top, 's'), None);
    let shown = screen(&top, 120, 24);
    assert!(shown.contains("Stop 5f1c2a9b/s1?"), "{shown}");
    assert_eq!(key(&mut top, 'n'), None);
    assert_eq!(top.mode, Mode::Table);
    keys(&mut top, &[KeyCode::Down, KeyCode::Down, KeyCode::Delete]);
    // Another comes before it meanwhile: what was asked for is what is done.
    hear(
        &mut top,
        vec![live(0, 0, 10), live(1, 100, 2_000), live(2, 7, 2_000)],
    );
    let stop = Some(Act::Stop("5f1c2a9b7d0e1f23/s2".to_owned()));
    assert_eq!(key(&mut top, 'y'), stop);
    top.told = Some(Told {
        text: "5f1c2a9b/s2 ended: an operator stopped it".to_owned(),
        good: true,
    });
    assert!(screen(&top, 120, 24).contains("s2 ended: an operator"));
    // From the detail, too.
    keys(&mut top, &[KeyCode::Home, KeyCode::Enter]);
    let shown = screen(&top, 120, 30);
    assert!(
        shown.contains("tcp port 80") && shown.contains("5f1c2a9b7d0e1f23/s0"),
        "{shown}"
    );
    assert_eq!(key(&mut top, 's'), None);
    assert!(matches!(key(&mut top, 'y'), Some(Act::Stop(id)) if id.ends_with("/s0")));
    // Nothing is stopped where there is nothing.
    let mut empty = Top::default();
    assert_eq!(
        keys(&mut empty, &[KeyCode::Char('s'), KeyCode::Char('y')]),
        None
    );
}

#[test]
fn approvals_are_answered_for_the_call_that_was_looked_at() {
    let mut top = two();
    assert_eq!(key(&mut top, 'a'), None);
    assert_eq!(top.mode, Mode::Table, "nothing waits");
    top.wait(vec![waiting("K7QM-2F9X"), waiting("AAAA-BBBB")]);
    key(&mut top, 'a');
    let shown = screen(&top, 120, 24);
    assert!(
        shown.contains("Approve K7QM-2F9X?") && shown.contains("eth0"),
        "{shown}"
    );
    // The list moves before the yes.
    top.wait(vec![waiting("AAAA-BBBB")]);
    assert!(screen(&top, 120, 24).contains("It waits no longer"));
    assert_eq!(
        key(&mut top, 'y'),
        Some(Act::Approve("K7QM-2F9X".to_owned()))
    );
    top.wait(vec![waiting("K7QM-2F9X"), waiting("AAAA-BBBB")]);
    keys(
        &mut top,
        &[KeyCode::Tab, KeyCode::Char('j'), KeyCode::Char('d')],
    );
    assert_eq!(top.focus, Focus::Approvals);
    assert_eq!(key(&mut top, 'Y'), Some(Act::Deny("AAAA-BBBB".to_owned())));
    top.wait(Vec::new());
    assert_eq!(top.focus, Focus::Sessions);
}

#[test]
fn filter_help_and_leaving() {
    let mut top = two();
    keys(&mut top, &[KeyCode::Char('/')]);
    for c in "UID:1002".chars() {
        key(&mut top, c);
    }
    let shown = screen(&top, 120, 24);
    assert!(
        shown.contains("/UID:1002▏") && !shown.contains("5f1c2a9b/s1"),
        "{shown}"
    );
    keys(&mut top, &[KeyCode::Enter]);
    assert_eq!(top.selected(), Some(0));
    assert_eq!(top.selected_row().unwrap().live.now.session, SessionId(2));
    keys(&mut top, &[KeyCode::Esc, KeyCode::Char('?')]);
    let shown = screen(&top, 120, 24);
    assert!(shown.contains("stop the session; asks first"), "{shown}");
    assert_eq!(key(&mut top, 'q'), None, "it closes the help");
    assert_eq!(key(&mut top, 'q'), Some(Act::Quit));
    let mut busy = two();
    keys(&mut busy, &[KeyCode::Char('/')]);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(press(&mut busy, interrupt), Some(Act::Quit));
}

#[test]
fn every_size_of_terminal_is_drawn_in_every_mode() {
    let mut top = two();
    top.wait(vec![waiting("K7QM-2F9X")]);
    for mode in [
        Mode::Table,
        Mode::Detail,
        Mode::Help,
        Mode::Filter,
        Mode::Confirm(Act::Stop("5f1c2a9b7d0e1f23/s1".to_owned())),
    ] {
        top.mode = mode;
        for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 24), (300, 100)] {
            screen(&top, width, height);
        }
    }
}
