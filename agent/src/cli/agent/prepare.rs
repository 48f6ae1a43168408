//! From what the configuration says of a server to what the engine serves.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use crate::{
    config::{HttpConfig, Pin, ServerConfig},
    engine::{GrantPolicies, HttpPlan, Prepared, StdioPlan},
    gate::http::Prepare,
    kernel::{self, Credentials, Surroundings},
    limits::Limits,
    policy::{Pinning, RuleRef},
    principal::Grants,
};

use super::super::{
    enforce::{self, ServerKind},
    failure::{Account, Failure},
    reception::ReceptionOptions,
};

/// What every server's environment has. The daemon's own is not theirs.
const ENVIRONMENT: [(&str, &str); 2] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("LANG", "C.UTF-8"),
];
/// Whom servers run as where nothing is said: the user that the packages make for that.
const SERVERS_USER: &str = "capwarden-server";
/// The same where no package has made one.
const NOBODY: &str = "nobody";

/// Whom a server runs as that does not say so.
pub(super) fn usual_user() -> &'static str {
    match kernel::user_id(SERVERS_USER) {
        Some(_) => SERVERS_USER,
        None => NOBODY,
    }
}

/// Who may come in over HTTP.
pub(super) fn reception(http: &HttpConfig) -> Result<ReceptionOptions, Failure> {
    let reception = ReceptionOptions::of(http);
    reception.check(http.listen)?;
    Ok(reception)
}

pub(super) fn kind(server: &ServerConfig) -> ServerKind {
    match &server.http {
        Some(http) if http.upstream.is_some() => ServerKind::Http,
        _ => ServerKind::Piped,
    }
}

/// Whom a server runs as, and in which surroundings.
fn credentials(name: &str, server: &ServerConfig) -> Result<Credentials, Failure> {
    let wrong = |what: String, hint: &str| {
        let account = Account::new(format!("{}: {what}", server.at)).hint(hint);
        Err(Failure::Usage(account))
    };
    let user = server.user.as_deref().unwrap_or(usual_user());
    let credentials = match Credentials::choose(Some(user)) {
        Ok(credentials) => credentials,
        Err(error) => {
            return wrong(
                format!("the server {name} cannot run as `{user}`: {error}"),
                "make that user (useradd --system), or give another one as `user`",
            );
        }
    };
    if let Some(directory) = &server.directory
        && !directory.is_dir()
    {
        return wrong(
            format!("there is no directory {}", directory.display()),
            "make it, or name another one as `directory`",
        );
    }
    let command: Vec<OsString> = server.command.iter().map(Into::into).collect();
    let credentials = enforce::reaching(credentials, &server.reach, &command);
    Ok(credentials.within(surroundings(server)))
}

/// What a server finds around it.
pub(super) fn surroundings(server: &ServerConfig) -> Surroundings {
    let mut environment: Vec<(String, String)> = ENVIRONMENT
        .iter()
        .filter(|(name, _)| !server.environment.contains_key(*name))
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let said = server.environment.iter();
    environment.extend(said.map(|(name, value)| (name.clone(), value.clone())));
    Surroundings {
        environment: Some(environment),
        directory: Some(server.directory.clone().unwrap_or_else(|| "/".into())),
    }
}

/// The grants of a server's clients over HTTP, and the policies that these name.
type Bearers = (Arc<Grants>, Arc<GrantPolicies>);

/// What servers are got ready with.
pub(super) struct Preparing {
    pub(super) state: Option<PathBuf>,
    pub(super) limits: Arc<Limits>,
}

impl Preparing {
    /// What is served of a server, or why it cannot be.
    pub(super) fn prepare(&self, name: &str, server: &ServerConfig) -> Result<Prepared, Failure> {
        let (policy, reload) =
            enforce::policy_to_follow(&server.policy, server.replies, kind(server))?;
        let credentials = credentials(name, server)?;
        let limits = Arc::clone(&self.limits);
        let governed = (!server.command.is_empty()).then_some(&credentials);
        let mut judge = enforce::judge_by(policy, self.state.as_deref(), limits, governed)?;
        let http = match &server.http {
            None => None,
            Some(http) => {
                let (plan, grants) = self.over_http(name, server, http, governed)?;
                if let Some((grants, policies)) = grants {
                    judge = judge.with_grants(grants).with_grant_policies(policies);
                }
                Some(plan)
            }
        };
        let pinning = server.pin.map(|pin| Pinning {
            strict: pin == Pin::Strict,
            rule: RuleRef {
                path: format!("{}.pin", server.at.path),
                ..server.at.clone()
            },
        });
        let servers = StdioPlan {
            server: server.command.iter().map(Into::into).collect(),
            name: Arc::from(name),
            credentials,
            judge: judge.with_pinning(pinning),
            metrics: None,
            reload,
        };
        Ok(Prepared { servers, http })
    }

    /// How a server is served over HTTP, and whose calls are decided by grants.
    fn over_http(
        &self,
        name: &str,
        server: &ServerConfig,
        http: &HttpConfig,
        governed: Option<&Credentials>,
    ) -> Result<(HttpPlan, Option<Bearers>), Failure> {
        let reception = reception(http)?;
        let tls = reception.tls()?;
        let authorities = http.upstream.clone().map(|upstream| {
            let authorities = reception.authorities(upstream.is_tls())?;
            Ok::<_, Failure>((upstream, authorities))
        });
        let upstream = authorities.transpose()?;
        let grants = match http.anonymous {
            true => None,
            false => Some(Arc::new(enforce::grants(self.state.as_deref(), governed)?)),
        };
        let policies = grants.map(|grants| {
            let policies = enforce::grant_policies(
                Arc::clone(&grants),
                Arc::from(name),
                governed.map(|credentials| credentials.user),
                server.replies,
                kind(server),
            );
            (grants, policies)
        });
        let (grants, prepare) = policies.clone().unzip();
        let prepare = prepare.map(|policies| -> Arc<dyn Prepare> { Arc::new(policies) });
        let plan = HttpPlan {
            listen: http.listen,
            tls,
            reception: reception.plan(Arc::from(name), grants, prepare),
            upstream,
        };
        Ok((plan, policies))
    }
}
