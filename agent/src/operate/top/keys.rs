//! What each key means.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::state::{Act, Focus, Mode, Top};

/// Characters of a filter.
const LONGEST: usize = 64;
/// Lines of a page.
const PAGE: isize = 10;

/// A key was pressed. What is to be done besides, if anything.
pub(super) fn press(top: &mut Top, key: KeyEvent) -> Option<Act> {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Some(Act::Quit);
    }
    top.told = None;
    match &top.mode {
        Mode::Table => in_table(top, key.code),
        Mode::Detail | Mode::Help => {
            let closes = matches!(
                key.code,
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?')
            );
            if closes {
                top.mode = Mode::Table;
                return None;
            }
            if let (Mode::Detail, KeyCode::Char('s') | KeyCode::Delete) = (&top.mode, key.code) {
                stop(top);
            }
            None
        }
        Mode::Filter => {
            match key.code {
                KeyCode::Enter => top.mode = Mode::Table,
                KeyCode::Esc => {
                    top.filter.clear();
                    top.mode = Mode::Table;
                }
                KeyCode::Backspace => {
                    top.filter.pop();
                }
                KeyCode::Char(c) if top.filter.chars().count() < LONGEST => top.filter.push(c),
                _ => {}
            }
            None
        }
        Mode::Confirm(act) => {
            let act = act.clone();
            let yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
            top.mode = Mode::Table;
            yes.then_some(act)
        }
    }
}

fn in_table(top: &mut Top, key: KeyCode) -> Option<Act> {
    match key {
        KeyCode::Char('q') => return Some(Act::Quit),
        KeyCode::Down | KeyCode::Char('j') => top.go(1),
        KeyCode::Up | KeyCode::Char('k') => top.go(-1),
        KeyCode::PageDown => top.go(PAGE),
        KeyCode::PageUp => top.go(-PAGE),
        KeyCode::Home | KeyCode::Char('g') => top.go(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => top.go(isize::MAX),
        KeyCode::Tab => {
            top.focus = match top.focus {
                Focus::Sessions if !top.waiting().is_empty() => Focus::Approvals,
                _ => Focus::Sessions,
            };
        }
        KeyCode::Enter => top.mode = Mode::Detail,
        KeyCode::Char('?') => top.mode = Mode::Help,
        KeyCode::Char('/') => top.mode = Mode::Filter,
        KeyCode::Esc => top.filter.clear(),
        KeyCode::Char('s') | KeyCode::Delete => stop(top),
        KeyCode::Char('a') => answer(top, Act::Approve),
        KeyCode::Char('d') => answer(top, Act::Deny),
        _ => {}
    }
    None
}

/// Asks first, whether to stop the session that is selected.
fn stop(top: &mut Top) {
    if let Some(row) = top.selected_row() {
        top.mode = Mode::Confirm(Act::Stop(row.live.id.clone()));
    }
}

/// Asks first: the list may have moved since it was looked at, what is asked for has not.
fn answer(top: &mut Top, act: fn(String) -> Act) {
    if let Some(one) = top.chosen_one() {
        top.mode = Mode::Confirm(act(one.id.clone()));
    }
}
