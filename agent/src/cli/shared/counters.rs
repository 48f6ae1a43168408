//! Where counters are shared, on the command line.

use std::path::PathBuf;

use clap::Args;

use super::{
    failure::{Account, Failure},
    paths,
};
use crate::limits::{Address, Password, Server};

/// Counters that agents share.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct Counters {
    /// Share the counters of limits with other agents, in Redis or Valkey
    ///
    /// redis://[USER@]HOST[:PORT][/DB] or redis+unix://[USER@]/PATH[?db=DB]: redis://127.0.0.1:6379/0.
    /// Calls with limits are denied while it cannot be reached, and when it does not answer within
    /// 250 ms. Users are counted for each host; grants, servers and tools by name, and what is
    /// global, for all. Without it, they are counted in the state directory.
    #[arg(long = "counters", value_name = "URL")]
    address: Option<Address>,
    /// Read its password from the first line of this file
    ///
    /// Nobody but its owner, root or the user who runs this, may be able to read it.
    #[arg(
        long = "counters-password-file",
        value_name = "FILE",
        requires = "address"
    )]
    password_file: Option<PathBuf>,
}

impl Counters {
    /// As a configuration has them.
    pub(in crate::cli) fn of(address: Option<Address>, password_file: Option<PathBuf>) -> Self {
        Self {
            address,
            password_file,
        }
    }

    /// The server, if one is to be used.
    pub(in crate::cli) fn server(&self) -> Result<Option<Server>, Failure> {
        let password = self.password_file.as_ref().map(|path| {
            paths::is_there(path)?;
            Password::from_file(path).map_err(|error| {
                Failure::Usage(
                    Account::new("cannot use the password of the counters")
                        .on(path.display())
                        .because(error)
                        .hint(
                            "its first line is the password; only its owner may be able to read it",
                        ),
                )
            })
        });
        let password = password.transpose()?;
        let address = self.address.clone();
        Ok(address.map(|address| Server { address, password }))
    }
}
