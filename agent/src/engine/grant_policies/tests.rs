//! Whose policy decides, and what becomes of it when its file changes.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::Map;
use tempfile::TempDir;

use super::*;
use crate::{
    audit::Log,
    engine::{
        Judge,
        record::{Opening, RecordKeeper},
    },
    gate::{CallEnd, Decide},
    limits::Limits,
    policy::{Call, Verdict},
    principal::{Caller, Ceiling, NewGrant, Operator},
    store::StateDirectory,
};

const AGENTS: &str = "version: 1\ntools: { start: allow, agents: allow }\n";
const OWN: &str = "version: 1\ntools: { start: { limits: [ { max: 2, window: day, kind: sliding } ] }, own: { capture: { interfaces: [lo], packets: 1000 } } }\n";

struct Court {
    judge: Judge,
    policies: Arc<GrantPolicies>,
    grants: Arc<Grants>,
    file: PathBuf,
    record: RecordKeeper,
    log: PathBuf,
    _home: TempDir,
}

impl Court {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&home.path().join("state"), None).unwrap();
        let grants = Arc::new(Grants::open(&directory).unwrap());
        let file = home.path().join("own.yaml");
        fs::write(&file, OWN).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let load = |path: &Path| Policy::load(path).map_err(|error| error.to_string());
        let policies = GrantPolicies::new(Arc::clone(&grants), "shark".into(), None, load);
        let policies = Arc::new(policies);
        let policy = Policy::parse("policy.yaml", AGENTS).unwrap();
        let judge = Judge::new(policy, Arc::new(Limits::in_memory().unwrap()))
            .with_grants(Arc::clone(&grants))
            .with_grant_policies(Arc::clone(&policies));
        let log = home.path().join("audit.jsonl");
        let (record, _events) = Opening::unattended(Log::open(&log).unwrap());
        Self {
            judge,
            policies,
            grants,
            file,
            record,
            log,
            _home: home,
        }
    }

    /// Who bears a new grant.
    fn bearer(&self, name: &str, policy: bool) -> Caller {
        let new = NewGrant {
            name: name.to_owned(),
            server: "shark".to_owned(),
            policy: policy.then(|| self.file.to_str().unwrap().to_owned()),
            ceiling: Ceiling {
                packets: Some(10),
                ..Ceiling::default()
            },
            lasts: None,
        };
        let by = Operator {
            uid: 0,
            sudo_uid: None,
        };
        let (token, _) = self.grants.create(new, by).unwrap();
        let bearer = self.grants.verify(&token.reveal(), "shark").unwrap();
        bearer.caller(1_000_000_001)
    }

    /// As before each request.
    async fn prepare(&self, caller: &Caller) {
        let grant = caller.grant.as_ref().unwrap();
        Prepare::prepare(&self.policies, grant).await;
    }

    /// The tools that a caller sees, of all that there are.
    fn sees(&self, caller: &Caller) -> String {
        let tools = ["start", "agents", "own", "more"].into_iter();
        let seen = tools.filter(|tool| self.judge.visible(caller, tool));
        seen.collect::<Vec<_>>().join(" ")
    }

    async fn goes(&self, caller: &Caller, tool: &str) -> bool {
        let call = Call {
            tool: tool.to_owned(),
            arguments: Map::new(),
        };
        let (verdict, ticket) = self.judge.decide(caller, &call).await;
        let goes = !matches!(verdict, Verdict::Deny(_));
        let end = if goes {
            CallEnd::Answered
        } else {
            CallEnd::NotForwarded
        };
        self.judge.settle(ticket, end);
        goes
    }

    async fn changed(&self, text: Option<&str>) {
        match text {
            Some(text) => fs::write(&self.file, text).unwrap(),
            None => fs::remove_file(&self.file).unwrap(),
        }
        let file: Arc<str> = self.file.to_str().unwrap().into();
        let now = Stamp::of(&self.file);
        let record = self.record.observer("server").unwrap();
        self.policies.look(&file, now, &record).await;
    }
}

#[tokio::test]
async fn grant_is_decided_by_the_policy_that_it_names_and_no_other_is() {
    let court = Court::new();
    let (own, other) = (court.bearer("own", true), court.bearer("other", false));
    // Not loaded yet: then nothing is allowed, not even what the agent's own policy would.
    assert_eq!(court.sees(&own), "");
    assert!(!court.goes(&own, "agents").await);
    court.prepare(&own).await;
    court.prepare(&other).await;
    assert_eq!(court.sees(&own), "start own");
    assert_eq!(court.sees(&other), "start agents");
    assert!(!court.goes(&own, "agents").await && !court.goes(&other, "own").await);
    let local = Caller {
        grant: None,
        ..other.clone()
    };
    assert_eq!(court.sees(&local), "start agents");

    // The ceiling is the grant's still; the record can tell who decided.
    let call = Call {
        tool: "own".to_owned(),
        arguments: Map::new(),
    };
    let (verdict, ticket) = court.judge.decide(&own, &call).await;
    let Verdict::Capture(capture) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(capture.terms.packets, Some(10));
    let by = court.judge.decided_by(&own, Some(&ticket)).unwrap();
    assert!(by.own && by.policy.file().ends_with("own.yaml"), "{by:?}");
    let by = court.judge.decided_by(&other, None).unwrap();
    assert!(!by.own && &**by.policy.file() == "policy.yaml");
}

#[tokio::test]
async fn policy_of_a_grant_is_loaded_again_and_its_counters_stay() {
    let court = Court::new();
    let own = court.bearer("own", true);
    court.prepare(&own).await;
    assert!(court.goes(&own, "start").await);
    court
        .changed(Some(&OWN.replace("tools: {", "tools: { more: allow,")))
        .await;
    assert_eq!(court.sees(&own), "start own more");
    assert!(court.goes(&own, "start").await);
    assert!(!court.goes(&own, "start").await, "two were counted");

    // One that cannot be used changes nothing.
    court.changed(Some("version: 1\ntools: [")).await;
    assert_eq!(court.sees(&own), "start own more");
    assert!(court.goes(&own, "more").await);
    // One that is gone denies everything, until it is there again.
    court.changed(None).await;
    assert_eq!(court.sees(&own), "");
    assert!(!court.goes(&own, "more").await);
    court.changed(Some(OWN)).await;
    assert_eq!(court.sees(&own), "start own");
    assert!(!court.goes(&own, "start").await, "two were counted");

    let Court {
        record, log, judge, ..
    } = court;
    drop(judge);
    record.finish("done", None).await.unwrap();
    let text = fs::read_to_string(log).unwrap();
    let kinds = ["policy-reloaded", "policy-refused"];
    let counts = kinds.map(|kind| text.matches(&format!("\"kind\":\"{kind}\"")).count());
    assert_eq!(counts, [2, 2], "{text}");
}

#[tokio::test]
async fn policy_that_others_could_change_allows_nothing() {
    let court = Court::new();
    let own = court.bearer("own", true);
    fs::set_permissions(&court.file, fs::Permissions::from_mode(0o666)).unwrap();
    court.prepare(&own).await;
    assert_eq!(court.sees(&own), "");
    assert!(!court.goes(&own, "own").await);
}
