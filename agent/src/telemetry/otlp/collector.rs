//! Where the collector is.

use std::str::FromStr;

use hyper::Uri;

use crate::gate::http::{AddressError, UpstreamAddress};

/// Where collectors take traces, unless an address says otherwise.
const PATH: &str = "/v1/traces";

/// The address of a collector: on this host, or behind TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    pub(super) uri: Uri,
    pub(super) tls: bool,
}

/// Why an address is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectorError {
    /// It is no address.
    #[error(
        "a collector's address is written http://127.0.0.1:4318, or https://collector.example:4318"
    )]
    Malformed,
    /// It is one, but traces are not sent there.
    #[error(transparent)]
    Refused(AddressError),
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let address: UpstreamAddress = text.parse().map_err(|error| match error {
            AddressError::Malformed => CollectorError::Malformed,
            error => CollectorError::Refused(error),
        })?;
        let tls = address.is_tls();
        let address = address.to_string();
        let uri: Uri = address.parse().map_err(|_| CollectorError::Malformed)?;
        if uri.query().is_some() {
            return Err(CollectorError::Malformed);
        }
        if uri.path() != "/" {
            return Ok(Self { uri, tls });
        }
        let address = format!("{}{PATH}", address.trim_end_matches('/'));
        let uri = address.parse().map_err(|_| CollectorError::Malformed)?;
        Ok(Self { uri, tls })
    }
}

/// With the path.
impl std::fmt::Display for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.uri.fmt(f)
    }
}
