//! When an agent's servers may be served: at once, or as its predecessor lets them.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// What a predecessor has given so far.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Clients may be served.
    pub(super) serving: bool,
    /// The servers of which it has ended what only one agent can have.
    pub(super) freed: BTreeSet<String>,
    /// It has gone, and with it all that it had.
    pub(super) gone: bool,
}

/// What a server waits for. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// What a predecessor of the agent gives.
    given: Option<watch::Receiver<Given>>,
    /// Whether another server, in whose place it comes, has ended.
    ended: Option<watch::Receiver<bool>>,
}

impl Turn {
    /// There is nobody to wait for.
    pub(super) fn now() -> Self {
        Self {
            given: None,
            ended: None,
        }
    }

    /// As a predecessor gives it.
    pub(super) fn after() -> (watch::Sender<Given>, Self) {
        let (give, given) = watch::channel(Given::default());
        let turn = Self {
            given: Some(given),
            ended: None,
        };
        (give, turn)
    }

    /// The same, and in place of another server, of whose end this tells.
    pub(super) fn behind(self, ended: Option<watch::Receiver<bool>>) -> Self {
        Self { ended, ..self }
    }

    /// Waits until clients may be served.
    pub(super) async fn to_serve(&self) {
        self.until(|given| given.serving).await;
    }

    /// Waits until what only one agent can have of this server is free.
    pub(super) async fn to_have(&self, server: &str) {
        self.until(|given| given.serving && (given.gone || given.freed.contains(server)))
            .await;
        if let Some(mut ended) = self.ended.clone() {
            // Whoever could say so has gone as well.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    async fn until(&self, given: impl FnMut(&Given) -> bool) {
        let Some(mut turn) = self.given.clone() else {
            return;
        };
        if turn.wait_for(given).await.is_err() {
            // Nobody can give it any more: this agent ends.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn servers_wait_for_what_their_predecessor_gives() {
        let now = Turn::now();
        assert!(now.to_serve().now_or_never().is_some());
        assert!(now.to_have("web").now_or_never().is_some());

        let (give, turn) = Turn::after();
        assert!(turn.to_serve().now_or_never().is_none());
        give.send_modify(|given| given.gone = true);
        assert!(
            turn.to_have("web").now_or_never().is_none(),
            "it must say so"
        );
        give.send_modify(|given| (given.serving, given.gone) = (true, false));
        assert!(turn.to_serve().now_or_never().is_some());
        give.send_modify(|given| given.freed.extend(["other".to_owned()]));
        assert!(turn.to_have("web").now_or_never().is_none());
        give.send_modify(|given| given.freed.extend(["web".to_owned()]));
        assert!(turn.to_have("web").now_or_never().is_some());
        let (end, ended) = watch::channel(false);
        let behind = turn.behind(Some(ended));
        assert!(behind.to_serve().now_or_never().is_some());
        assert!(behind.to_have("web").now_or_never().is_none());
        end.send_replace(true);
        assert!(behind.to_have("web").now_or_never().is_some());
        let (give, turn) = Turn::after();
        drop(give);
        assert!(turn.to_serve().now_or_never().is_none());
    }
}
