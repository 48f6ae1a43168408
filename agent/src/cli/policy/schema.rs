//! `capwarden policy schema`: the policy language, for editors.

use clap::Args;

use crate::policy::SCHEMA;

use super::super::{exit::Exit, failure::Failure, term};

/// Print the JSON Schema of the policy language
///
/// Of capwarden's own YAML, in the 2020-12 draft: editors complete and check policies by it. It
/// says what may stand where; `policy check` also says whether patterns and filters are sound.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  capwarden policy schema > capwarden.schema.json\n\nThen write this as the first line of a policy, for editors with a YAML language server:\n  # yaml-language-server: $schema=capwarden.schema.json"
)]
pub(super) struct Schema {}

impl Schema {
    #[expect(clippy::unused_self, reason = "as all verbs are run")]
    pub(super) fn run(self) -> Result<Exit, Failure> {
        term::print(|out| out.write_all(SCHEMA.as_bytes()))?;
        Ok(Exit::Ok)
    }
}
