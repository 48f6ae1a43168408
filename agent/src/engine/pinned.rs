//! What becomes of a call whose tool's definition is pinned, in words for the model.

use crate::{
    definitions::{Held, Keeper},
    policy::{Call, Definition, Denial, Pinning},
    principal::Caller,
};

/// Whether the tool may be called as it was `listed` last; else why not, and what to do.
pub(super) async fn check(
    keeper: Option<&Keeper>,
    caller: &Caller,
    call: &Call,
    listed: Option<&Definition>,
    pinning: &Pinning,
) -> Result<(), Box<Denial>> {
    let tool = quoted(&call.tool);
    let deny = |reason: String, instead: String| {
        let mut denial = Denial::new(reason, pinning.rule.clone());
        denial.instead = Some(instead);
        Err(Box::new(denial))
    };
    let Some(definition) = listed else {
        return deny(
            format!(
                "The server has not listed the tool {tool} yet, so nobody knows whether it is still \
                 defined as it was accepted."
            ),
            "List the tools, then call again.".to_owned(),
        );
    };
    let held = match keeper {
        Some(keeper) => keeper.check(&caller.server, definition).await,
        None => Err(Held::Unknown("they are kept nowhere".to_owned())),
    };
    let accept = || {
        let words = format!("{} {}", shell(&caller.server), shell(&call.tool));
        format!(
            "Use another tool, or ask the operator for `capwarden tools diff {words}` and then \
             `capwarden tools accept {words}`."
        )
    };
    match held {
        Ok(()) => Ok(()),
        Err(Held::Changed) => deny(
            format!(
                "The server has changed the definition of the tool {tool} since that was accepted, so \
                 it is held back."
            ),
            accept(),
        ),
        Err(Held::New) => deny(
            format!("The tool {tool} is held back, since nobody has accepted its definition yet."),
            accept(),
        ),
        Err(Held::Unfit(why)) => deny(
            format!("The tool {tool} is held back, since it cannot be pinned: {why}."),
            "Use another tool.".to_owned(),
        ),
        Err(Held::Unknown(why)) => deny(
            format!(
                "The tool {tool} is held back, since the accepted definitions cannot be looked at: \
                 {}.",
                printable(&why)
            ),
            "Use another tool, or ask the operator to look into capwarden's log.".to_owned(),
        ),
    }
}

/// A name in a sentence.
fn quoted(name: &str) -> String {
    format!("`{}`", printable(name))
}

fn printable(text: &str) -> String {
    let cut: String = text.chars().take(128).collect();
    crate::audit::visible(&cut)
}

/// A name as a shell takes it; one that could do harm there is left for the operator to write.
fn shell(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    match !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("'{}'", printable(name).replace(['\'', '`'], "?")),
    }
}
