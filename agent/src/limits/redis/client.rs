//! The thread that speaks with the server.
//!
//! All questions that wait are sent at once, and answered in their order. A question whose answer
//! does not come in time is given up together with its connection, so that no answer is taken for
//! another's; whatever it did there stays. None is ever sent twice, but where the server says that
//! it has done nothing.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    LIMIT, MOST_WAITING, RemoteError, Server,
    ask::Question,
    greet::{Greeted, SCRIPT, greet, why},
    resp::{self, Reply},
};

/// How long the thread waits for an answer: a little less than who asked, who is to be told why.
const PATIENCE: Duration = LIMIT.saturating_sub(Duration::from_millis(10));
/// How often a connection without questions is tried, so that the next question need not.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long it is until the next attempt to connect: twice as long after each that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Questions that are sent at once.
const BATCH: usize = 64;

/// What comes back.
pub(in crate::limits) type Answer = Result<Reply, RemoteError>;

/// Asks the server. May be used from any thread; dropping it waits for what is under way.
pub(super) struct Client {
    jobs: Option<SyncSender<Job>>,
    standing: Arc<Mutex<Standing>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Whether it is worth while to ask.
#[derive(Debug)]
enum Standing {
    Up,
    Down(String),
}

struct Job {
    question: Question,
    until: Instant,
    answer: Box<dyn FnOnce(Answer) + Send>,
}

impl Client {
    /// Starts the thread, which connects by itself.
    pub(super) fn start(server: Server) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(MOST_WAITING);
        let standing = Arc::new(Mutex::new(Standing::Up));
        let mut work = Work {
            server,
            standing: Arc::clone(&standing),
            greeted: None,
            pause: FIRST_PAUSE,
            again: Instant::now(),
            warned: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("counters".to_owned())
            .spawn(move || work.run(&inbox))?;
        Ok(Self {
            jobs: Some(jobs),
            standing,
            thread: Some(thread),
        })
    }

    /// Has a question answered, on the thread; at once, on this one, if it is certain that it
    /// cannot be.
    pub(super) fn ask(&self, question: Question, answer: impl FnOnce(Answer) + Send + 'static) {
        if let Standing::Down(why) = &*lock(&self.standing) {
            return answer(Err(RemoteError::Unreachable(why.clone())));
        }
        let job = Job {
            question,
            until: Instant::now() + PATIENCE,
            answer: Box::new(answer),
        };
        let sent = match &self.jobs {
            Some(jobs) => jobs.try_send(job),
            None => return (job.answer)(Err(RemoteError::Closed)),
        };
        match sent {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => (job.answer)(Err(RemoteError::TooMany)),
            Err(TrySendError::Disconnected(job)) => (job.answer)(Err(RemoteError::Closed)),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let up = matches!(*lock(&self.standing), Standing::Up);
        // Who looks a name up, or waits for a server that was stopped, is not waited for.
        if let Some(thread) = self.thread.take().filter(|_| up) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Work {
    server: Server,
    standing: Arc<Mutex<Standing>>,
    greeted: Option<Greeted>,
    /// After the next attempt that fails, and when that attempt is.
    pause: Duration,
    again: Instant,
    /// What was said already.
    warned: Vec<String>,
}

impl Work {
    fn run(&mut self, inbox: &Receiver<Job>) {
        self.connect(Instant::now() + PATIENCE);
        loop {
            let wait = match self.greeted {
                Some(_) => HEARTBEAT,
                None => self.again.saturating_duration_since(Instant::now()),
            };
            match inbox.recv_timeout(wait) {
                Ok(job) => {
                    let mut batch = vec![job];
                    batch.extend(inbox.try_iter().take(BATCH - 1));
                    self.serve(batch);
                }
                Err(RecvTimeoutError::Timeout) if self.greeted.is_some() => self.listen(),
                Err(RecvTimeoutError::Timeout) => self.connect(Instant::now() + PATIENCE),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn connect(&mut self, until: Instant) {
        self.greeted = None;
        match greet(&self.server, until) {
            Ok(greeted) => {
                let (at, version) = (&self.server.address, &greeted.version);
                tracing::info!(%at, version, "counters are shared there");
                for warning in &greeted.warnings {
                    if !self.warned.contains(warning) {
                        tracing::warn!(%at, "shared counters: {warning}");
                        self.warned.push(warning.clone());
                    }
                }
                self.greeted = Some(greeted);
                self.pause = FIRST_PAUSE;
                *lock(&self.standing) = Standing::Up;
            }
            Err(why) => self.down(why),
        }
    }

    /// Nothing is asked any more until the server has been reached again.
    fn down(&mut self, why: String) {
        self.greeted = None;
        self.again = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let mut standing = lock(&self.standing);
        if let Standing::Up = *standing {
            let at = &self.server.address;
            tracing::error!(%at, why, "the counters cannot be reached; calls with limits are denied until they can");
        }
        *standing = Standing::Down(why);
    }

    /// Whether the server still answers.
    fn listen(&mut self) {
        let Some(greeted) = &mut self.greeted else {
            return;
        };
        greeted.wire.until(Instant::now() + PATIENCE);
        if !greeted.wire.is_quiet() {
            // It was closed, or was restarted.
            return self.connect(Instant::now() + PATIENCE);
        }
        match greeted.wire.ask(&["PING"]) {
            Ok(Reply::Error(error)) => self.down(format!("it answered: {error}")),
            Ok(_) => {}
            Err(error) => self.down(why(&error)),
        }
    }

    fn serve(&mut self, batch: Vec<Job>) {
        let now = Instant::now();
        let (batch, late): (Vec<Job>, Vec<Job>) =
            batch.into_iter().partition(|job| job.until > now);
        for job in late {
            (job.answer)(Err(RemoteError::Slow));
        }
        let Some(until) = batch.iter().map(|job| job.until).min() else {
            return;
        };
        if let Some(greeted) = &self.greeted
            && !greeted.wire.is_quiet()
        {
            // Nothing of these was sent yet.
            self.connect(until);
        }
        let Some(greeted) = &mut self.greeted else {
            let error = RemoteError::Unreachable(self.why());
            return refuse(batch, &error);
        };
        greeted.wire.until(until);
        let mut jobs = batch.into_iter();
        if let Err(error) = answer(greeted, &mut jobs) {
            let error = match error {
                Broken::Wire(error) => why(&error),
                Broken::Unfit(error) => format!("it answered: {error}"),
            };
            self.down(error.clone());
            // Whether these were carried out nobody knows.
            refuse(jobs.collect(), &RemoteError::Unreachable(error));
        }
    }

    fn why(&self) -> String {
        match &*lock(&self.standing) {
            Standing::Down(why) => why.clone(),
            Standing::Up => "it was lost".to_owned(),
        }
    }
}

fn refuse(batch: Vec<Job>, error: &RemoteError) {
    for job in batch {
        (job.answer)(Err(error.clone()));
    }
}

/// Why a connection is given up.
enum Broken {
    Wire(io::Error),
    /// The server cannot be written to any more, or not by us: another may be at its address soon.
    Unfit(String),
}

/// Sends all, and answers them; those that are left could not be.
fn answer(greeted: &mut Greeted, jobs: &mut std::vec::IntoIter<Job>) -> Result<(), Broken> {
    let mut requests = Vec::new();
    for job in jobs.as_slice() {
        run(&mut requests, "EVALSHA", &greeted.script, &job.question);
    }
    greeted.wire.send(&requests).map_err(Broken::Wire)?;
    let mut lost = Vec::new();
    let mut unfit = None;
    let mut left = jobs.len();
    while left > 0 {
        let reply = match greeted.wire.read() {
            Ok(reply) => reply,
            Err(error) => {
                // These were not carried out, but there is no time to ask anew.
                refuse(lost, &RemoteError::Unreachable(why(&error)));
                return Err(Broken::Wire(error));
            }
        };
        left -= 1;
        let Some(job) = jobs.next() else {
            break;
        };
        match reply {
            Reply::Error(error) if error.starts_with("NOSCRIPT") => lost.push(job),
            Reply::Error(error) => {
                if is_unfit(&error) {
                    unfit = Some(error.clone());
                }
                (job.answer)(Err(RemoteError::Answer(format!("it answered: {error}"))));
            }
            reply => (job.answer)(Ok(reply)),
        }
    }
    // Somebody emptied the server's memory of scripts.
    let mut again = lost.into_iter();
    while let Some(job) = again.next() {
        let mut request = Vec::new();
        run(&mut request, "EVAL", SCRIPT, &job.question);
        let reply = greeted
            .wire
            .send(&request)
            .and_then(|()| greeted.wire.read());
        match reply {
            Ok(Reply::Error(error)) => {
                (job.answer)(Err(RemoteError::Answer(format!("it answered: {error}"))));
            }
            Ok(reply) => (job.answer)(Ok(reply)),
            Err(error) => {
                let refused = RemoteError::Unreachable(why(&error));
                (job.answer)(Err(refused.clone()));
                refuse(again.collect(), &refused);
                return Err(Broken::Wire(error));
            }
        }
    }
    unfit.map_or(Ok(()), |error| Err(Broken::Unfit(error)))
}

fn is_unfit(error: &str) -> bool {
    let word = error.split(' ').next().unwrap_or_default();
    matches!(
        word,
        "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH" | "MOVED" | "CLUSTERDOWN"
    )
}

fn run(out: &mut Vec<u8>, command: &str, script: &str, question: &Question) {
    let keys = question.keys.len().to_string();
    let parts = [command, script, &keys].into_iter().map(str::as_bytes);
    let names = question.keys.iter().map(String::as_bytes);
    let arguments = question.arguments.iter().map(String::as_bytes);
    let parts: Vec<&[u8]> = parts.chain(names).chain(arguments).collect();
    resp::request(out, parts.into_iter());
}
