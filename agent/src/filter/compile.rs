//! Expressions to programs, by libpcap, in a child process.
//!
//! libpcap's compiler is a large C parser that resolves names through DNS and `/etc`, and that can
//! run for minutes. So it sees a request only in a process of its own, which the agent starts from
//! its own program file: no environment, no new descriptors (so no files, no sockets and no
//! names: addresses and ports have to be numbers), no capabilities, no new processes, little memory,
//! and little processor time; the parent holds a limit on the clock beside that. One line of JSON goes in, one comes out.
//!
//! The optimizer stays off: it changes what a program means (it accepts more, on short packets),
//! and it is by far the slowest part.

use std::{
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    process::{Resource, Rlimit, Signal, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
};
use serde::{Deserialize, Serialize};

use super::{
    cooked::{CookedError, rewrite_for_cooked},
    link::LinkType,
    lists::{self, Plan, patch},
    program::{Insn, KERNEL_INSTRUCTIONS, Program, ProgramError},
    prove::{Budget, Containment, prove},
};

/// The hidden verb under which the agent's program file runs [`compile_child`].
pub const COMPILE_VERB: &str = "__compile-filter";

/// The processor time that the child may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// How long the parent waits for it: on a busy host, more than that.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the child may read and write: two expressions as long as libpcap gets to see, each byte
/// of them escaped, and two of the longest programs that libpcap may make.
const REQUEST_LIMIT: usize = 1024 * 1024;
const ANSWER_LIMIT: usize = 512 * 1024;
/// The longest program that libpcap may make: what takes it a second or two.
const MOST_CHAINED: usize = KERNEL_INSTRUCTIONS;

/// Who wrote an expression, which bounds its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A model asked for it: at most 512 KiB, and 4 KiB without its lists.
    Request,
    /// The policy's author wrote it: at most 1 MiB, and 64 KiB without its lists.
    Policy,
}

impl Origin {
    /// The longest expression, in bytes: some ten thousand addresses.
    pub const fn limit(self) -> usize {
        match self {
            Self::Request => 512 * 1024,
            Self::Policy => 1024 * 1024,
        }
    }

    /// The longest expression without its lists, which is what libpcap gets to see.
    const fn chained_limit(self) -> usize {
        match self {
            Self::Request => 4096,
            Self::Policy => 64 * 1024,
        }
    }
}

/// What a socket hands to its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketForm {
    /// `SOCK_RAW`: packets with their link header.
    Raw(LinkType),
    /// `SOCK_DGRAM`, as on `any`: packets that begin with their network header.
    Cooked,
}

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// libpcap does not accept the expression; its own words.
    #[error("{message}")]
    Syntax {
        /// libpcap's own words.
        message: String,
    },
    /// The expression has a name that libpcap could not look up, and would have taken for 0.
    #[error("the filter names a protocol; write its number, names are not looked up here")]
    Name,
    /// libpcap took too long.
    #[error("the filter took more than {} s of processor time to compile", TIME_LIMIT.as_secs())]
    TimedOut,
    /// The host had too little processor time to give, whatever the filter is.
    #[error("this host is too busy to compile a filter: no answer within {} s", .0.as_secs_f32())]
    Busy(Duration),
    /// The expression is too long.
    #[error("the filter is {length} bytes long; {limit} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The expression is too long for libpcap, and has no lists that could be left out.
    #[error(
        "the filter is {length} bytes long without its lists of addresses and ports; {limit} are \
         allowed"
    )]
    ChainTooLong {
        /// Its length in bytes, without its lists.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The filter cannot run on a cooked socket.
    #[error(transparent)]
    Cooked(#[from] CookedError),
    /// libpcap made a program that is too long.
    #[error(
        "the filter compiles to {length} instructions; {limit} are allowed, beside long lists of \
         addresses or ports"
    )]
    TooComplex {
        /// How many instructions.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// What libpcap made is no program that the kernel would take.
    #[error("the filter compiles to a program that cannot run: {0}")]
    Program(#[from] ProgramError),
    /// The child could not be started, or ended without an answer.
    #[error("the filter compiler failed: {0}")]
    ChildFailed(String),
}

impl CompileError {
    /// Whether this is about the host, and says nothing of the filter.
    pub const fn is_of_the_host(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::ChildFailed(_))
    }

    /// What whoever wrote the filter can do; none where that is nothing.
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Busy(_) => Some("try again when the host has less to do"),
            Self::TimedOut
            | Self::TooLong { .. }
            | Self::ChainTooLong { .. }
            | Self::TooComplex { .. } => Some("use a shorter filter"),
            Self::ChildFailed(_) => None,
            Self::Syntax { .. } | Self::Name | Self::Cooked(_) | Self::Program(_) => {
                Some("see pcap-filter(7); names are not looked up: write numbers")
            }
        }
    }
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> Self {
        Self::ChildFailed(error.to_string())
    }
}

impl From<Errno> for CompileError {
    fn from(error: Errno) -> Self {
        Self::ChildFailed(error.to_string())
    }
}

/// Compiles expressions, each in a child process. Calls block for as long as the child runs: five
/// seconds of processor time at most, and twenty seconds on the clock.
#[derive(Clone, Debug)]
pub struct Compiler {
    program: PathBuf,
    patience: Duration,
}

impl Compiler {
    /// A compiler that runs a program file with [`COMPILE_VERB`]: the agent's own.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            patience: PATIENCE,
        }
    }

    /// A compiler that runs what this process executes, even where another version is in its place by now.
    pub fn own() -> Self {
        Self::new("/proc/self/exe")
    }

    /// The same compiler with another limit on the time, on the clock, that one expression may take.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Compiles an expression for what a socket hands to its filter. None: the expression is
    /// empty and accepts every packet.
    pub fn compile_for(
        &self,
        expression: &str,
        form: SocketForm,
        origin: Origin,
    ) -> Result<Option<Program>, CompileError> {
        match form {
            SocketForm::Raw(link) => self.compile(expression, link, origin),
            SocketForm::Cooked => {
                let program = self.compile(expression, LinkType::LINUX_SLL2, origin)?;
                Ok(program.as_ref().map(rewrite_for_cooked).transpose()?)
            }
        }
    }

    /// Compiles an expression for packets of a link type. None: the expression is empty and
    /// accepts every packet.
    pub fn compile(
        &self,
        expression: &str,
        link: LinkType,
        origin: Origin,
    ) -> Result<Option<Program>, CompileError> {
        compile_with(expression, link, origin, |request| self.ask(request))
    }

    /// The child's answer, whatever it is.
    fn ask(&self, request: &[u8]) -> Result<Vec<u8>, CompileError> {
        let deadline = Instant::now() + self.patience;
        let mut child = Command::new(&self.program)
            .arg(COMPILE_VERB)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                CompileError::ChildFailed(format!("{}: {error}", self.program.display()))
            })?;
        let answer = self.exchange(&mut child, request, deadline);
        let status = reap(
            &mut child,
            if answer.is_ok() {
                deadline
            } else {
                Instant::now()
            },
        )?;
        match answer? {
            answer if answer.is_empty() && status.signal() == Some(Signal::XCPU.as_raw()) => {
                Err(CompileError::TimedOut)
            }
            answer if answer.is_empty() => Err(CompileError::ChildFailed(format!(
                "{status} without an answer"
            ))),
            answer => Ok(answer),
        }
    }

    /// Writes the request and reads the answer, both at once, so that neither side can block the
    /// other.
    fn exchange(
        &self,
        child: &mut Child,
        request: &[u8],
        deadline: Instant,
    ) -> Result<Vec<u8>, CompileError> {
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(CompileError::ChildFailed("no pipes".into()));
        };
        ioctl_fionbio(&stdin, true)?;
        ioctl_fionbio(&stdout, true)?;
        let (mut stdin, mut stdout) = (Some(stdin), stdout);
        let (mut rest, mut answer) = (request, Vec::new());
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(CompileError::Busy(self.patience));
            };
            wait(&stdout, stdin.as_ref(), left)?;
            if let Some(pipe) = &mut stdin {
                match pipe.write(rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(error) if would_block(&error) => {}
                    // The child does not listen. What it has to say is still to be read.
                    Err(_) => rest = &[],
                }
            }
            if rest.is_empty() {
                stdin = None;
            }
            let mut buffer = [0; 16 * 1024];
            match stdout.read(&mut buffer) {
                Ok(0) => return Ok(answer),
                Ok(read) => answer.extend(buffer.get(..read).unwrap_or_default()),
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if answer.len() > ANSWER_LIMIT {
                return Err(CompileError::ChildFailed("the answer is too long".into()));
            }
        }
    }
}

/// The parent's side of [`Compiler::compile`], with a child of the caller's: it is handed a request
/// and returns an answer, which may be anything. Together with [`answer_request`] it compiles in
/// one process, as the fuzz targets do.
pub fn compile_with(
    expression: &str,
    link: LinkType,
    origin: Origin,
    child: impl Fn(&[u8]) -> Result<Vec<u8>, CompileError>,
) -> Result<Option<Program>, CompileError> {
    let (length, limit) = (expression.len(), origin.limit());
    if length > limit {
        return Err(CompileError::TooLong { length, limit });
    }
    if expression.trim_ascii().is_empty() {
        return Ok(None);
    }
    if expression.contains('\0') {
        // libpcap would read as far as that and no further.
        let message = "the filter contains a NUL character".into();
        return Err(CompileError::Syntax { message });
    }
    let front = Front {
        link,
        origin,
        child,
    };
    if let Some(plan) = lists::plan(expression)
        && let Some(program) = front.with_lists(&plan)?
    {
        return Ok(Some(program));
    }
    let [answer] = front.chains([expression])?;
    Ok(Some(answer.program()?))
}

/// Whom one expression is compiled for, and by whom.
struct Front<F> {
    link: LinkType,
    origin: Origin,
    child: F,
}

impl<F: Fn(&[u8]) -> Result<Vec<u8>, CompileError>> Front<F> {
    /// Compiles an expression without its lists and puts them in. None: that is not what the
    /// expression means, as far as can be told.
    fn with_lists(&self, plan: &Plan) -> Result<Option<Program>, CompileError> {
        let [reduced, sample] = self.chains([&plan.reduced, &plan.sample])?;
        // In the sample stands what was written, so its errors are told.
        let sample = sample.program()?;
        let Ok(reduced) = reduced.program() else {
            return Ok(None);
        };
        // What is written beside the lists must not be taken for what stands for a list.
        if plan.lists.iter().any(|list| list.stands_in(&sample)) {
            return Ok(None);
        }
        let proved = patch(&reduced, &plan.sample_lists)
            .is_some_and(|patched| means_the_same(&patched, &sample, self.link));
        Ok(patch(&reduced, &plan.lists).filter(|_| proved))
    }

    /// What libpcap makes of expressions.
    fn chains<const N: usize>(&self, expressions: [&str; N]) -> Result<[Answer; N], CompileError> {
        let limit = self.origin.chained_limit();
        let lengths = expressions.iter().map(|expression| expression.len());
        if let Some(length) = lengths.max().filter(|length| *length > limit) {
            return Err(CompileError::ChainTooLong { length, limit });
        }
        let request = Request {
            expressions: expressions.map(Into::into).to_vec(),
            link: self.link.0,
        };
        let mut request = serde_json::to_vec(&request).map_err(io::Error::from)?;
        request.push(b'\n');
        let answers: Vec<Answer> = serde_json::from_slice(&(self.child)(&request)?)
            .map_err(|error| CompileError::ChildFailed(format!("bad answer: {error}")))?;
        let answers = <[Answer; N]>::try_from(answers);
        answers.map_err(|answers| {
            let why = answers.into_iter().find_map(|answer| match answer {
                Answer::Failed(message) => Some(message),
                _ => None,
            });
            CompileError::ChildFailed(why.unwrap_or_else(|| "answers are missing".into()))
        })
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn wait(stdout: &ChildStdout, stdin: Option<&ChildStdin>, left: Duration) -> Result<(), Errno> {
    let mut fds = vec![PollFd::new(stdout, PollFlags::IN)];
    fds.extend(stdin.map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
    let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
    match poll(&mut fds, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits for the child's end, and brings it about at the deadline.
fn reap(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return child.wait();
        }
        // It has closed its output, so it is on its way out.
        thread::sleep(Duration::from_micros(200));
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    expressions: Vec<String>,
    link: i32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Program(Vec<(u16, u8, u8, u32)>),
    TooLong(usize),
    Syntax(String),
    Name,
    Failed(String),
}

impl Answer {
    fn program(self) -> Result<Program, CompileError> {
        match self {
            Self::Program(insns) => {
                let insns = insns
                    .into_iter()
                    .map(|(code, jt, jf, k)| Insn::new(code, jt, jf, k));
                Ok(Program::new(insns.collect())?)
            }
            Self::TooLong(length) => Err(CompileError::TooComplex {
                length,
                limit: MOST_CHAINED,
            }),
            Self::Syntax(message) => Err(CompileError::Syntax { message }),
            Self::Name => Err(CompileError::Name),
            Self::Failed(message) => Err(CompileError::ChildFailed(message)),
        }
    }
}

/// Whether lists that were put into a program are what libpcap makes of them. It may take what
/// ends within an address, and the lists not (see [`lists`]).
fn means_the_same(patched: &Program, chain: &Program, link: LinkType) -> bool {
    let within = prove(patched, chain, link, Budget::default()) == Containment::Contained;
    within
        && matches!(
            prove(chain, patched, link, Budget::default()),
            Containment::Contained | Containment::ContainedWellFormed { .. }
        )
}

/// The child's side: reads one request from standard input, answers on standard output. To be
/// called first thing in a process that was started with [`COMPILE_VERB`], before it has threads
/// or open files of its own.
pub fn compile_child() -> ExitCode {
    let answers = match confine().and_then(|()| read_request()) {
        Ok(request) => answer_request(&request),
        Err(error) => {
            serde_json::to_vec(&[Answer::Failed(error.to_string())]).map_err(io::Error::from)
        }
    };
    match answers.and_then(|answers| io::stdout().write_all(&answers)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the child answers to a request, made in this process and without any confinement: the
/// caller sees to it that libpcap can open nothing, or names are looked up, and that its memory
/// and time are bounded.
pub fn answer_request(request: &[u8]) -> io::Result<Vec<u8>> {
    let answers = match serde_json::from_slice::<Request>(request) {
        Ok(Request { expressions, link }) => {
            let answers = expressions.iter().map(|one| answer(one, link));
            answers.collect()
        }
        Err(error) => vec![Answer::Failed(error.to_string())],
    };
    Ok(serde_json::to_vec(&answers)?)
}

/// Gives up what a compiler does not need, for good.
fn confine() -> io::Result<()> {
    for (resource, limit) in [
        // Descriptors that are open stay open; none can be added.
        (Resource::Nofile, 0),
        (Resource::Nproc, 0),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::As, 512 << 20),
    ] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(resource, limit)?;
    }
    // At the first it is ended by SIGXCPU, which tells the parent why; at the second by SIGKILL.
    let time = Rlimit {
        current: Some(TIME_LIMIT.as_secs()),
        maximum: Some(TIME_LIMIT.as_secs() + 1),
    };
    setrlimit(Resource::Cpu, time)?;
    // A process that may not raise them again: CAP_SYS_RESOURCE would.
    let none = CapabilitySet::empty();
    let capabilities = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, capabilities)?;
    set_no_new_privs(true)?;
    Ok(())
}

fn read_request() -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let limit = u64::try_from(REQUEST_LIMIT).unwrap_or(u64::MAX);
    io::stdin().take(limit).read_to_end(&mut request)?;
    Ok(request)
}

fn answer(expression: &str, link: i32) -> Answer {
    let failed = |error: pcap::Error| {
        match error {
        pcap::Error::PcapError(message) => Answer::Syntax(message),
        // Its words repeat a part of the filter, and end after 255 bytes, within a character or not.
        pcap::Error::MalformedError(_) => Answer::Syntax(
            "libpcap refuses the filter, and repeats what is wrong with it only in part; write the \
             filter in ASCII"
                .into(),
        ),
        error => Answer::Failed(error.to_string()),
    }
    };
    let capture = match pcap::Capture::dead(pcap::Linktype(link)) {
        Ok(capture) => capture,
        Err(error) => return failed(error),
    };
    let optimize = false;
    let (compiled, looked_up) = watch_lookups(|| capture.compile(expression, optimize));
    let program = match compiled {
        Ok(_) if looked_up => return Answer::Name,
        Ok(program) => program,
        Err(error) => return failed(error),
    };
    let insns = program.get_instructions();
    if insns.len() > MOST_CHAINED {
        return Answer::TooLong(insns.len());
    }
    // The fields are private; this is the only way to them.
    let parsed = insns.iter().map(|insn| parse(&insn.to_string()));
    match parsed.collect() {
        Some(insns) => Answer::Program(insns),
        None => Answer::Failed("libpcap's program could not be read".into()),
    }
}

/// Whether libpcap tried to look something up meanwhile, and failed, and went on.
///
/// It reports names that it cannot resolve, with one exception: where `getprotobyname_r` fails for
/// want of a descriptor, it takes the protocol to be number 0, so that `ip proto ospf` (and even
/// `ip proto \tcp`) becomes `ip proto 0` without a word. What remains of the attempt is `errno`,
/// which nothing else in a compilation touches: calls that succeed leave it alone.
fn watch_lookups<T>(compile: impl FnOnce() -> T) -> (T, bool) {
    // Any call that fails in its own way will do to give it a value.
    let _ = std::fs::metadata("x".repeat(8192));
    let before = io::Error::last_os_error().raw_os_error();
    let result = compile();
    let after = io::Error::last_os_error().raw_os_error();
    (result, before != after)
}

/// `code jt jf k`.
fn parse(insn: &str) -> Option<(u16, u8, u8, u32)> {
    let mut fields = insn.split(' ');
    let parsed = (
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
    );
    fields.next().is_none().then_some(parsed)
}

#[cfg(test)]
mod tests;
