//! Asks for approvals on a thread of its own, and watches what becomes of them.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    Approvals, Asked, Bound, Event, NotTaken, Refused, Request, Seal, Used, What, book::Book,
    entry::State,
};
use crate::{
    policy::Said,
    store::{Seen, StoreError},
};

/// How often it is looked whether an operator has said something, while a request is open.
const LOOK: Duration = Duration::from_secs(1);

/// Opens the table when it is first needed: most policies ask for no approval.
type Open = Box<dyn FnMut() -> Result<Approvals, StoreError> + Send>;

/// Asks for the calls of one gate. Work is done in the order in which it came, so that what was
/// given back before a call came can be used by that call. Dropping it waits until all is done.
pub struct Clerk {
    jobs: Option<Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    /// None where the host has no randomness: then clients have nothing to put to their users.
    seal: Option<Arc<Seal>>,
}

enum Job {
    Ask(Box<Request>, oneshot::Sender<Asked>),
    Answer(Box<Answer>, oneshot::Sender<Result<(), NotTaken>>),
    GiveBack(Used),
}

struct Answer {
    state: String,
    bound: Bound,
    said: Said,
}

impl Clerk {
    /// Starts the thread. `open` is called when the first request is made, and again for the next
    /// should it fail; `tell` is told what becomes of requests.
    pub fn start(
        open: impl FnMut() -> Result<Approvals, StoreError> + Send + 'static,
        tell: impl FnMut(Event) + Send + 'static,
    ) -> Self {
        let (jobs, inbox) = channel();
        let seal = Seal::generate().map(Arc::new);
        let seal = seal.inspect_err(|error: &io::Error| {
            tracing::error!(%error, "users cannot be asked through their clients");
        });
        let seal = seal.ok();
        let mut work = Work {
            seal: seal.clone(),
            open: Box::new(open),
            approvals: None,
            tell: Box::new(tell),
            seen: Seen::default(),
            book: Book::new(),
            watched: BTreeMap::new(),
        };
        Self {
            jobs: Some(jobs),
            thread: Some(thread::spawn(move || work.run(&inbox))),
            seal,
        }
    }

    /// Uses an approval of this call up, or asks for one: [`Approvals::ask`]. If whoever waits for the
    /// answer goes meanwhile, what was used up is given back.
    pub async fn ask(&self, request: Request) -> Asked {
        let (answer, answered) = oneshot::channel();
        let asked = match &self.jobs {
            Some(jobs) => jobs.send(Job::Ask(Box::new(request), answer)).is_ok(),
            None => false,
        };
        let mut waiting = Waiting {
            clerk: self,
            answered,
        };
        match (&mut waiting.answered).await {
            Ok(answer) if asked => answer,
            _ => Asked::Refused(Refused::Closed),
        }
    }

    /// The state of the question that a client can put to its user about a pending request.
    #[must_use]
    pub fn state(&self, id: &str, request: &Request) -> Option<String> {
        self.seal.as_ref().map(|seal| seal.state(id, request))
    }

    /// Whether a state says that it is of a question of this clerk's.
    #[must_use]
    pub fn owns(&self, state: &str) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.owns(state))
    }

    /// Takes what a client's user said: [`Approvals::answer`].
    ///
    /// # Errors
    ///
    /// It is not taken.
    pub async fn answer(&self, state: &str, bound: Bound, said: Said) -> Result<(), NotTaken> {
        let (sender, taken) = oneshot::channel();
        let answer = Answer {
            state: state.to_owned(),
            bound,
            said,
        };
        if let Some(jobs) = &self.jobs {
            // Without its thread nobody says anything below.
            let _ = jobs.send(Job::Answer(Box::new(answer), sender));
        }
        taken.await.unwrap_or(Err(Refused::Closed.into()))
    }

    /// Makes an approval usable again whose call the server never saw, before anything that is asked
    /// from now on.
    pub fn give_back(&self, used: Used) {
        if let Some(jobs) = &self.jobs {
            // Without its thread it stays used.
            let _ = jobs.send(Job::GiveBack(used));
        }
    }
}

/// Who waits for an answer, and may be gone before it has read it.
struct Waiting<'a> {
    clerk: &'a Clerk,
    answered: oneshot::Receiver<Asked>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.answered.close();
        if let Ok(Asked::Approved(used)) = self.answered.try_recv() {
            self.clerk.give_back(used);
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It has told of its panic itself.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Clerk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clerk").finish_non_exhaustive()
    }
}

/// What was told last of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Requested,
    Approved(u64),
    Denied(u64),
}

struct Work {
    open: Open,
    approvals: Option<Approvals>,
    seal: Option<Arc<Seal>>,
    tell: Box<dyn FnMut(Event) + Send>,
    seen: Seen,
    /// The table as it was seen last, while something is watched.
    book: Book,
    /// The requests of this gate that are not over, as far as was told.
    watched: BTreeMap<String, (Told, Request)>,
}

impl Work {
    fn run(&mut self, inbox: &Receiver<Job>) {
        loop {
            let job = if self.watched.is_empty() {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(LOOK)
            };
            match job {
                Ok(Job::Ask(request, answer)) => self.ask(*request, answer),
                Ok(Job::Answer(answer, taken)) => {
                    // Whoever asked may have gone: what was said was said.
                    let _ = taken.send(self.answer(&answer));
                }
                Ok(Job::GiveBack(used)) => self.give_back(&used),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.look();
        }
    }

    fn ask(&mut self, request: Request, answer: oneshot::Sender<Asked>) {
        let mut brief = request.clone();
        brief.arguments = String::new();
        let asked = match self.open() {
            Ok(approvals) => approvals.ask(request),
            Err(error) => Asked::Refused(error.into()),
        };
        match &asked {
            Asked::Approved(used) => self.used(used),
            Asked::Pending { id, .. } => {
                if !self.watched.contains_key(id) {
                    self.watched
                        .insert(id.clone(), (Told::Requested, brief.clone()));
                    (self.tell)(Event::new(id, &brief, What::Requested));
                }
            }
            Asked::Denied { .. } | Asked::Refused(_) => {}
        }
        // Its caller has gone, so the call is not made.
        if let Err(Asked::Approved(used)) = answer.send(asked) {
            self.give_back(&used);
        }
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), NotTaken> {
        let seal = self.seal.clone().ok_or(NotTaken::Forged)?;
        let Answer { state, bound, said } = answer;
        self.open()?.answer(&seal, state, bound, *said)
    }

    fn open(&mut self) -> Result<&Approvals, StoreError> {
        let approvals = match self.approvals.take() {
            Some(approvals) => approvals,
            None => (self.open)()?,
        };
        Ok(self.approvals.insert(approvals))
    }

    fn used(&mut self, used: &Used) {
        let told = self.watched.remove(&used.id).map(|(told, _)| told);
        if told != Some(Told::Approved(used.approved)) {
            let approved = What::Approved(used.by, used.approved);
            (self.tell)(Event::new(&used.id, &used.request, approved));
        }
        let what = What::Used(used.by, used.approved);
        (self.tell)(Event::new(&used.id, &used.request, what));
    }

    fn give_back(&mut self, used: &Used) {
        let Some(approvals) = &self.approvals else {
            return;
        };
        match approvals.give_back(used) {
            Ok(false) => {}
            Ok(true) => {
                (self.tell)(Event::new(&used.id, &used.request, What::GivenBack));
                let told = Told::Approved(used.approved);
                self.watched
                    .insert(used.id.clone(), (told, Request::clone(&used.request)));
            }
            Err(error) => {
                tracing::warn!(%error, id = used.id, "an approval could not be given back, and stays used");
            }
        }
    }

    /// Tells what operators have said, and what has expired.
    fn look(&mut self) {
        let Some(approvals) = &self.approvals else {
            return;
        };
        if self.watched.is_empty() {
            return;
        }
        let now = approvals.now();
        match approvals.news(&mut self.seen) {
            Ok(Some(book)) => self.book = book,
            Ok(None) => {}
            // Who asks next is told.
            Err(error) => return tracing::warn!(%error, "the approvals cannot be looked at"),
        }
        let (tell, book) = (&mut self.tell, &self.book);
        self.watched.retain(|id, (told, request)| {
            let entry = book.get(id);
            let mut say = |what| tell(Event::new(id, request, what));
            match entry.map(|entry| &entry.state) {
                Some(State::Approved { by, at }) if *told != Told::Approved(*at) => {
                    *told = Told::Approved(*at);
                    say(What::Approved(*by, *at));
                }
                Some(State::Denied { by, at, why }) if *told != Told::Denied(*at) => {
                    *told = Told::Denied(*at);
                    say(What::Denied(*by, *at, why.clone()));
                }
                // Who used it tells of that.
                Some(State::Used { .. }) => return false,
                _ => {}
            }
            let live = entry.is_some_and(|entry| entry.is_live(now));
            if !live && !matches!(told, Told::Denied(_)) {
                say(What::Expired);
            }
            live
        });
        if self.watched.is_empty() {
            self.book = Book::new();
            self.seen = Seen::default();
        }
    }
}
