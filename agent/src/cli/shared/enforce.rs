//! What `run` and `exec` share: the checks before anything is started, and the translation of
//! what went wrong.

use std::{
    ffi::OsString,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    engine::{EngineError, GrantPolicies, Judge, Outcome, Reload},
    filter::{CompileError, Compiler, LinkType, Origin, SocketForm},
    kernel::{Credentials, Deputy, LaunchError},
    limits::{Limits, LimitsError},
    policy::{Denial, Policy, PolicyError, PolicyFilter, Replies},
    principal::{self, Grants},
    session::{GrantError, SessionError},
    store::StateDirectory,
};

use super::{
    counters::Counters,
    exit::Exit,
    failure::{Account, Failure},
    paths, state,
    values::User,
};

/// Only root may load programs into the kernel and make packet sockets.
pub(in crate::cli) fn require_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Failure::needs_root("put a guard on capture sockets"))
    }
}

/// Loads a policy for use, and warns of capture filters that do not work on all its interfaces.
pub(in crate::cli) fn load_policy(path: &Path) -> Result<Policy, Failure> {
    let policy = check_policy(path)?;
    let compiler = compiler()?;
    for filter in policy.filters() {
        if let Some(message) = unfit_for_any(filter, &compiler)? {
            let PolicyFilter {
                expression, rule, ..
            } = filter;
            tracing::warn!("{rule}: the filter {expression:?}: {message}");
        }
    }
    Ok(policy)
}

/// How a server is spoken to, on which it depends what it can be held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum ServerKind {
    /// On pipes: capwarden starts it, for one client, and can start it again.
    Piped,
    /// Over HTTP: it may be somebody else's, and others may be its clients.
    Http,
}

impl ServerKind {
    fn can_be_held_to(self, policy: &Policy) -> Result<(), Failure> {
        match policy.restarting() {
            Some(rule) if self == Self::Http => Err(Failure::Usage(
                Account::new(format!(
                    "{rule}: a server over HTTP cannot be restarted at the end of a proxy"
                ))
                .hint("write `end: drop`, or give a server on pipes and leave --upstream out"),
            )),
            _ => Ok(()),
        }
    }
}

/// Loads a policy for use, to be loaded again in the same way when it changes. `replies` says in
/// whose words it denies, where that is not for the policy to say.
pub(in crate::cli) fn policy_to_follow(
    path: &Path,
    replies: Option<Replies>,
    server: ServerKind,
) -> Result<(Policy, Reload), Failure> {
    let file = path.to_owned();
    let load = move || {
        let policy = load_policy(&file)?;
        server.can_be_held_to(&policy)?;
        Ok(match replies {
            Some(replies) => policy.replying(replies),
            None => policy,
        })
    };
    let again = load.clone();
    let reload = Reload::new(path, move || {
        again().map_err(|failure: Failure| failure.in_a_line())
    });
    Ok((load()?, reload))
}

/// The policies that grants name for a server, loaded as the agent's own is. `governed` is the user that
/// servers run as, if any is started.
pub(in crate::cli) fn grant_policies(
    grants: Arc<Grants>,
    server: Arc<str>,
    governed: Option<u32>,
    replies: Option<Replies>,
    kind: ServerKind,
) -> Arc<GrantPolicies> {
    let load = move |path: &Path| {
        let policy = load_policy(path).map_err(|failure| failure.in_a_line())?;
        let fits = kind.can_be_held_to(&policy);
        fits.map_err(|failure| failure.in_a_line())?;
        Ok(match replies {
            Some(replies) => policy.replying(replies),
            None => policy,
        })
    };
    Arc::new(GrantPolicies::new(grants, server, governed, load))
}

/// Loads a policy, its capture filters checked by libpcap.
pub(in crate::cli) fn check_policy(path: &Path) -> Result<Policy, Failure> {
    paths::is_there(path)?;
    let policy = Policy::load(path).map_err(Failure::Policy)?;
    let compiler = compiler()?;
    let mut bad = Vec::new();
    for PolicyFilter {
        expression: filter,
        rule,
        ..
    } in policy.filters()
    {
        match compiler.compile(filter, LinkType::EN10MB, Origin::Policy) {
            Ok(_) => {}
            Err(error) if error.is_of_the_host() => return Err(not_compiled(filter, error)),
            Err(error) => bad.push((rule, format!("the filter {filter:?} in `within`: {error}"))),
        }
    }
    if bad.is_empty() {
        return Ok(policy);
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let errors = bad.into_iter().map(|(rule, message)| {
        let help = "See pcap-filter(7). Names are not looked up: write numbers.";
        PolicyError::of_rule(rule, &text, message, help)
    });
    PolicyError::all(errors).map_or(Ok(policy), |error| Err(Failure::Policy(error)))
}

/// There is no program for a filter.
pub(in crate::cli) fn not_compiled(expression: &str, error: CompileError) -> Failure {
    let remedy = error.remedy();
    let hinted = |account: Account| match remedy {
        Some(remedy) => account.hint(remedy),
        None => account,
    };
    if error.is_of_the_host() {
        Failure::Internal(hinted(
            Account::new("cannot compile a filter").because(error),
        ))
    } else {
        let account = Account::new("cannot use the filter").on(expression);
        Failure::Usage(hinted(account.because(error)))
    }
}

/// Why a filter does not work on `any`, if its rule lists that: captures there are refused.
pub(in crate::cli) fn unfit_for_any(
    filter: PolicyFilter<'_>,
    compiler: &Compiler,
) -> Result<Option<String>, Failure> {
    if !filter.on_any {
        return Ok(None);
    }
    match compiler.compile_for(filter.expression, SocketForm::Cooked, Origin::Policy) {
        Ok(_) => Ok(None),
        Err(error) if error.is_of_the_host() => Err(not_compiled(filter.expression, error)),
        Err(error) => Ok(Some(format!(
            "on `any`, tools open cooked sockets, for which this filter does not compile: {error}; name interfaces instead"
        ))),
    }
}

pub(in crate::cli) fn compiler() -> Result<Compiler, Failure> {
    let own = std::env::current_exe();
    own.map(|_| Compiler::own()).map_err(|error| {
        Failure::Internal(Account::new("cannot find capwarden itself").because(error))
    })
}

/// Whom processes run as, and which daemons they may have start programs for them. What this gives up
/// is said. `command` is what is started.
pub(in crate::cli) fn credentials(
    user: Option<&User>,
    reach: &[Deputy],
    command: &[OsString],
) -> Result<Credentials, Failure> {
    let user = user.map(|user| match user {
        User::Name(name) => name.clone(),
        User::Id(number) => number.to_string(),
    });
    let credentials = Credentials::choose(user.as_deref()).map_err(|error| {
        let name = super::failure::quoted(user.as_deref().unwrap_or("NAME"));
        Failure::Usage(Account::new(error.to_string()).hint(format!(
            "make that user: sudo useradd --system --shell /usr/sbin/nologin {name}; or give another one with --user, by name or number"
        )))
    })?;
    Ok(reaching(credentials, reach, command))
}

/// The same of credentials that were chosen already.
pub(in crate::cli) fn reaching(
    credentials: Credentials,
    reach: &[Deputy],
    command: &[OsString],
) -> Credentials {
    if credentials.user == 0 {
        tracing::warn!(
            "governed as root: root's files and settings, the audit log among them, are open to it, so this is no boundary against a hostile server"
        );
    }
    for deputy in reach {
        tracing::warn!(
            "--reach {}: what this daemon starts for the governed processes is not governed, and may capture",
            deputy.name()
        );
    }
    if let Some((engine, deputy)) = container_engine(command)
        && !reach.contains(&deputy)
    {
        tracing::warn!(
            "{engine} would have a daemon start what it runs, and that is hidden from it: a container is out of capwarden's reach; give the command that runs in it, or say --reach {}",
            deputy.name()
        );
    }
    credentials.reaching(reach)
}

/// The program that asks a container engine to run another, if a command is one.
fn container_engine(command: &[OsString]) -> Option<(&str, Deputy)> {
    let program = Path::new(command.first()?).file_name()?.to_str()?;
    let deputy = match program {
        "docker" | "docker-compose" | "nerdctl" | "ctr" => Deputy::Docker,
        "incus" | "lxc" => Deputy::Incus,
        "systemd-run" => Deputy::Systemd,
        _ => return None,
    };
    Some((program, deputy))
}

/// Who decides, with what is kept in this state directory, or in the usual one; and with counters
/// that are shared, where they are.
pub(in crate::cli) fn judge(
    policy: Policy,
    state: Option<&Path>,
    counters: &Counters,
    governed: Option<&Credentials>,
) -> Result<Judge, Failure> {
    let limits = limits(state, counters, governed)?;
    judge_by(policy, state, limits, governed)
}

/// The counters of this state directory, or of the usual one; or those that are shared.
pub(in crate::cli) fn limits(
    state: Option<&Path>,
    counters: &Counters,
    governed: Option<&Credentials>,
) -> Result<Arc<Limits>, Failure> {
    let server = counters.server()?;
    let place = state::place(state)?;
    let open = || -> Result<Limits, LimitsError> {
        let user = governed.map(|credentials| credentials.user);
        let directory = StateDirectory::open(&place, user)?;
        match server {
            Some(server) => Limits::shared(server),
            None => Limits::open(&directory),
        }
    };
    open().map(Arc::new).map_err(|error| uncounted(&error))
}

/// Who decides by these counters, with approvals in this state directory or in the usual one.
pub(in crate::cli) fn judge_by(
    policy: Policy,
    state: Option<&Path>,
    limits: Arc<Limits>,
    governed: Option<&Credentials>,
) -> Result<Judge, Failure> {
    let user = governed.map(|credentials| credentials.user);
    let directory = StateDirectory::open(&state::place(state)?, user);
    let directory = directory.map_err(|error| uncounted(&error.into()))?;
    let judge = Judge::new(policy, limits).with_state(directory);
    Ok(judge.with_compiler(compiler()?))
}

fn uncounted(error: &LimitsError) -> Failure {
    Failure::Internal(Account::new("cannot count calls").because(error))
}

/// The grants of this state directory, or of the usual one.
pub(in crate::cli) fn grants(
    state: Option<&Path>,
    governed: Option<&Credentials>,
) -> Result<Grants, Failure> {
    let place = state::place(state)?;
    let open = || -> Result<Grants, principal::GrantError> {
        let user = governed.map(|credentials| credentials.user);
        Grants::open(&StateDirectory::open(&place, user)?)
    };
    open().map_err(|error| Failure::Internal(Account::new("cannot read the grants").because(error)))
}

/// Runs the engine on a runtime of its own. One thread: a message is read, decided and written
/// without changing threads, which would cost it more than all of these. What blocks has threads
/// of its own.
pub(in crate::cli) fn block_on<T>(
    engine: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Internal(Account::new("cannot start").because(error)))?;
    let outcome = runtime.block_on(engine);
    // A thread that waits for standard input would be waited for.
    runtime.shutdown_background();
    outcome.map_err(failure)
}

pub(in crate::cli) fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Exited(status) => Exit::of_child(status),
        Outcome::NeverServed(_) => Exit::NeverServed,
        Outcome::Replaced => Exit::Ok,
        Outcome::Killed => Exit::Child(137),
        Outcome::Stopped(signal) => Exit::Child(u8::try_from(128 + signal).unwrap_or(255)),
    }
}

pub(in crate::cli) fn denied(denial: &Denial) -> Failure {
    let reason = denial.reason.trim_end_matches('.');
    let account = Account::new(reason).because(&denial.rule);
    Failure::Usage(match &denial.instead {
        Some(instead) => account.hint(instead),
        None => account,
    })
}

/// Where a program is on PATH.
pub(in crate::cli) fn found(program: &str, path: &str) -> Option<PathBuf> {
    let mut files = std::env::split_paths(path).map(|directory| directory.join(program));
    files.find(|file| file.is_file())
}

/// What is told of a program that is not there: what was looked for, and where.
fn not_there(program: &str, path: &str) -> Account {
    let account = Account::new("cannot execute").on(program);
    if !program.contains('/') {
        let sudo = match std::env::var_os("SUDO_UID") {
            Some(_) => " (sudo does not search yours)",
            None => "",
        };
        return account
            .because(format!(
                "it is in no directory of PATH, which is {path}{sudo}"
            ))
            .hint("give its full path after --, or install it");
    }
    if Path::new(program).exists() {
        let account = account.because("it is there, but what its first line (#!) names is not");
        return account.hint("see: head -1 FILE");
    }
    let account = account.because("there is no such file");
    match program.starts_with('/') {
        true => account.hint("see whether its path is spelled right"),
        false => account.hint("give its full path: it is looked for from the current directory"),
    }
}

fn failure(error: EngineError) -> Failure {
    match error {
        EngineError::Launch(LaunchError::Execute { program, source }) => {
            let path = std::env::var("PATH").unwrap_or_default();
            // Where the governed user may not look into a directory of PATH, the system says that
            // something is not permitted, whether the program is there or not.
            let nowhere = !program.contains('/') && found(&program, &path).is_none();
            if nowhere || source.kind() == ErrorKind::NotFound {
                return Failure::NotStarted(not_there(&program, &path));
            }
            let hint = match source.kind() {
                ErrorKind::PermissionDenied => {
                    "give its full path; the governed user must be able to read PATH's directories and to execute it (see --user)"
                }
                _ => "try it without capwarden",
            };
            let account = Account::new("cannot execute").on(program).because(source);
            Failure::NotStarted(account.hint(hint))
        }
        EngineError::Launch(error @ LaunchError::Directory { .. }) => {
            Failure::NotStarted(Account::new(error.to_string()))
        }
        EngineError::Launch(LaunchError::Confine {
            program,
            step,
            source,
        }) => Failure::Kernel(
            Account::new("cannot confine")
                .on(program)
                .because(format!("{step}: {source}"))
                .hint("capwarden doctor"),
        ),
        EngineError::Session(SessionError::Guard(error)) => {
            Failure::Kernel(Account::new(error.to_string()).hint("capwarden doctor"))
        }
        EngineError::Session(SessionError::Grant(error)) => {
            let other = || "capwarden exec --help".to_owned();
            let hint = match &error {
                GrantError::NoInterface { .. } => "ip link show".to_owned(),
                GrantError::Filter { source, .. } => {
                    source.remedy().map_or_else(other, str::to_owned)
                }
                error => error.instead().unwrap_or_else(other),
            };
            Failure::Usage(Account::new(error.to_string()).hint(hint))
        }
        EngineError::Host { what, why } => {
            Failure::Kernel(Account::new(what).because(why).hint("capwarden doctor"))
        }
        EngineError::Audit(error) => error.into(),
        EngineError::Metrics(ref error) => {
            let (at, kind) = (error.endpoint().to_string(), error.kind());
            let account = Account::new(error.to_string());
            let at = at.trim_start_matches("unix:").trim_start_matches("http://");
            let hint = not_listening(at.trim_end_matches("/metrics"), kind);
            Failure::Usage(account.hint(hint))
        }
        EngineError::Listen { ref at, ref source } => {
            let hint = not_listening(at, source.kind());
            Failure::Usage(Account::new(error.to_string()).hint(hint))
        }
        error => Failure::Internal(Account::new(error.to_string())),
    }
}

/// What to do where an address, or a socket's path, cannot be listened at.
pub(in crate::cli) fn not_listening(at: &str, kind: ErrorKind) -> String {
    let port = at.parse::<SocketAddr>().ok().map(|address| address.port());
    match (kind, port) {
        (ErrorKind::AddrInUse, Some(port)) => format!(
            "another process listens there, maybe another capwarden: `ss -ltnp 'sport = :{port}'` says which; end it or choose another port (with port 0, the kernel does, and the log says which)"
        ),
        (ErrorKind::AddrInUse, None) => format!(
            "another process listens there, maybe another capwarden, or it is no socket: `ss -lxp src {at}` and `ls -l {at}` say which; end it or choose another path"
        ),
        (ErrorKind::AddrNotAvailable, _) => {
            "this host has no such address: `ip address` lists those that it has".to_owned()
        }
        (ErrorKind::PermissionDenied, Some(_)) => {
            "ports below 1024 take root: choose another port, or use sudo".to_owned()
        }
        (ErrorKind::PermissionDenied, None) => {
            "its directory can be written to by others only: choose another path, or use sudo"
                .to_owned()
        }
        (ErrorKind::NotFound, _) => "there is no such directory: make it first".to_owned(),
        _ => "choose another address".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_with_where_it_was_looked_for() {
        let here = std::env::current_exe().unwrap();
        let (directory, name) = (here.parent().unwrap(), here.file_name().unwrap());
        let (path, name) = (
            format!("/a:{}", directory.display()),
            name.to_str().unwrap(),
        );
        assert_eq!(found(name, &path), Some(here.clone()));
        assert_eq!(found("tshrak", &path), None);
        for (program, why) in [
            ("tshrak", "it is in no directory of PATH, which is /a:/b"),
            ("/opt/no/such", "there is no such file"),
            ("bin/no", "there is no such file"),
            (
                here.to_str().unwrap(),
                "what its first line (#!) names is not",
            ),
        ] {
            let text = Failure::NotStarted(not_there(program, "/a:/b"))
                .render(super::super::term::Paint::off());
            assert!(text.contains(why) && text.contains("hint: "), "{text}");
        }
    }
}
