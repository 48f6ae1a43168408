//! The threads that hear, and the loop that draws.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    thread,
    time::Duration,
};

use ratatui::crossterm::event::{self, Event as Terminals, KeyEvent, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Desk, Waiting, draw,
    keys::press,
    screen::Screen,
    state::{Act, Told, Top},
};
use crate::operate::{
    AskError,
    feed::{self, Heard},
};

/// How often it is looked which calls wait.
const ASK: Duration = Duration::from_millis(500);
/// News that may wait to be drawn.
const QUEUE: usize = 1_024;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Whoever looked has left.
    Left,
    /// It was told to, by this signal.
    Signal(i32),
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// See [`AskError`].
    #[error(transparent)]
    Agents(#[from] AskError),
    /// The terminal, or the system, would not.
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[from] io::Error),
}

enum News {
    Heard(Heard),
    Waiting(Vec<Waiting>),
    Told(Told),
    Key(KeyEvent),
    Resized,
    Signal(i32),
    NoTerminal(io::Error),
}

/// Shows what goes on until whoever looks leaves. What is stopped is stopped by root, or by whoever called sudo.
///
/// # Errors
///
/// The agents cannot be found, or the terminal cannot be used.
pub fn run(desk: impl Desk + 'static, sudo_uid: Option<u32>) -> Result<Ended, TopError> {
    let (send, news) = mpsc::sync_channel(QUEUE);
    let (answer, answers) = mpsc::channel();
    let hears = send.clone();
    feed::start(move |heard| hears.send(News::Heard(heard)).is_ok())?;
    let mut screen = Screen::open()?;
    spawn(&send, |send| follow_keys(&send));
    spawn(&send, |send| follow_signals(&send));
    spawn(&send, move |send| follow_approvals(desk, &answers, &send));
    let mut top = Top::default();
    loop {
        screen.draw(|frame| draw::draw(&top, frame))?;
        // All senders go with the process only.
        let Ok(first) = news.recv() else {
            return Ok(Ended::Left);
        };
        let more = std::iter::from_fn(|| news.try_recv().ok());
        for one in std::iter::once(first).chain(more.take(QUEUE)) {
            match take(&mut top, one, &send, &answer, sudo_uid) {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(ended),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn spawn(send: &SyncSender<News>, work: impl FnOnce(SyncSender<News>) + Send + 'static) {
    let send = send.clone();
    thread::spawn(move || work(send));
}

/// Takes one thing in, and does what follows from it.
fn take(
    top: &mut Top,
    news: News,
    send: &SyncSender<News>,
    answer: &Sender<Act>,
    sudo_uid: Option<u32>,
) -> io::Result<Option<Ended>> {
    match news {
        News::Heard(Heard::Line(pid, line)) => top.hear(pid, line),
        News::Heard(Heard::Gone(pid)) => top.gone(pid),
        News::Waiting(waiting) => top.wait(waiting),
        News::Told(told) => top.told = Some(told),
        News::Resized => {}
        News::Signal(signal) => return Ok(Some(Ended::Signal(signal))),
        News::NoTerminal(error) => return Err(error),
        News::Key(key) => match press(top, key) {
            None => {}
            Some(Act::Quit) => return Ok(Some(Ended::Left)),
            Some(Act::Stop(id)) => {
                if let Some(pid) = top.row(&id).map(|row| row.live.pid) {
                    spawn(send, move |send| {
                        // If nobody hears it any more, nobody wants to know.
                        let ended = feed::stop(pid, &id, "stopped in capwarden top", sudo_uid);
                        let _ = send.send(News::Told(told(ended)));
                    });
                }
            }
            Some(act @ (Act::Approve(_) | Act::Deny(_))) => {
                let _ = answer.send(act);
            }
        },
    }
    Ok(None)
}

fn follow_keys(send: &SyncSender<News>) {
    loop {
        let news = match event::read() {
            Ok(Terminals::Key(key)) if key.kind != KeyEventKind::Release => News::Key(key),
            Ok(Terminals::Resize(..)) => News::Resized,
            Ok(_) => continue,
            Err(error) => {
                let _ = send.send(News::NoTerminal(error));
                return;
            }
        };
        if send.send(news).is_err() {
            return;
        }
    }
}

fn follow_signals(send: &SyncSender<News>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return; // they end the process as they always do
    };
    let first = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let signal = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hang_up.recv() => SignalKind::hangup(),
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = quit.recv() => SignalKind::quit(),
        };
        Ok::<_, io::Error>(signal.as_raw_value())
    });
    if let Ok(signal) = first {
        let _ = send.send(News::Signal(signal));
    }
}

/// Looks which calls wait, and answers those that are to be answered.
fn follow_approvals(mut desk: impl Desk, answers: &Receiver<Act>, send: &SyncSender<News>) {
    let mut said = None;
    loop {
        let news = match desk.waiting() {
            Ok(waiting) => {
                said = None;
                Some(News::Waiting(waiting))
            }
            // Once is enough.
            Err(why) if said.as_ref() == Some(&why) => None,
            Err(why) => {
                said = Some(why.clone());
                Some(News::Told(Told {
                    text: why,
                    good: false,
                }))
            }
        };
        if news.is_some_and(|news| send.send(news).is_err()) {
            return;
        }
        let answered = match answers.recv_timeout(ASK) {
            Ok(Act::Approve(id)) => desk.approve(&id),
            Ok(Act::Deny(id)) => desk.deny(&id),
            Ok(Act::Stop(_) | Act::Quit) | Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if send.send(News::Told(told(answered))).is_err() {
            return;
        }
    }
}

/// What came of something, in a sentence either way.
fn told(done: Result<String, String>) -> Told {
    let good = done.is_ok();
    let (Ok(text) | Err(text)) = done;
    Told { text, good }
}
