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
pub(super) struct Turn(Option<watch::Receiver<Given>>);

impl Turn {
    /// There is nobody to wait for.
    pub(super) fn now() -> Self {
        Self(None)
    }

    /// As a predecessor gives it.
    pub(super) fn after() -> (watch::Sender<Given>, Self) {
        let (give, given) = watch::channel(Given::default());
        (give, Self(Some(given)))
    }

    /// Waits until clients may be served.
    pub(super) async fn to_serve(&self) {
        self.until(|given| given.serving).await;
    }

    /// Waits until what only one agent can have of this server is free.
    pub(super) async fn to_have(&self, server: &str) {
        self.until(|given| given.serving && (given.gone || given.freed.contains(server)))
            .await;
    }

    async fn until(&self, given: impl FnMut(&Given) -> bool) {
        let Some(mut turn) = self.0.clone() else {
            return;
        };
        if turn.wait_for(given).await.is_err() {
            // Nobody can give it any more: this agent ends.
            std::future::pending().await
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
        let (give, turn) = Turn::after();
        drop(give);
        assert!(turn.to_serve().now_or_never().is_none());
    }
}
