//! The layers of enforcement that capwarden finds on this host, and those that it must find.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// All that `capwarden doctor` tells of them.
#[derive(Debug, Deserialize)]
pub(crate) struct Layers {
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    name: String,
    status: String,
    detail: String,
}

impl Layers {
    /// Asks capwarden.
    pub(crate) fn found_by(capwarden: &Path) -> Result<Self> {
        let doctor = Command::new(capwarden)
            .args(["doctor", "--json"])
            .output()
            .with_context(|| format!("cannot run {}", capwarden.display()))?;
        serde_json::from_slice(&doctor.stdout).context("capwarden doctor --json")
    }

    /// The names of those that work.
    pub(crate) fn present(&self) -> Vec<String> {
        let named = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
            let layers = self.layers.iter().filter(|layer| wanted(&layer.status));
            layers.map(|layer| layer.name.clone()).collect()
        };
        let mut present = named(&|status| status == "present");
        // A domain of an old version keeps processes from looking into others all the same.
        if named(&|status| status != "missing").contains(&"Landlock".to_owned()) {
            present.push("Landlock domain".to_owned());
        }
        present
    }

    /// Whether all of these are here: what would be stated as residual without one of them is a failure then.
    ///
    /// # Errors
    /// One is not here, or no layer has its name.
    pub(crate) fn demand(&self, required: &[String]) -> Result<()> {
        let present = self.present();
        for wanted in required {
            if present.iter().any(|name| same(name, wanted)) {
                continue;
            }
            let Some(layer) = self.layers.iter().find(|layer| same(&layer.name, wanted)) else {
                let names: Vec<&str> = self.layers.iter().map(|layer| &*layer.name).collect();
                bail!(
                    "--require {wanted}: capwarden doctor knows {}",
                    names.join(", ")
                );
            };
            let Layer {
                name,
                status,
                detail,
            } = layer;
            bail!("{name} must work on this host, and is {status}: {detail}");
        }
        Ok(())
    }
}

/// Names as people write them: `BPF LSM`, `bpf-lsm`.
fn same(name: &str, written: &str) -> bool {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], " ");
    plain(name) == plain(written)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn required_layer_that_does_not_work_is_a_failure() {
        let found = r#"{"layers": [
            {"name": "BPF LSM", "status": "missing", "detail": "not in lsm="},
            {"name": "Landlock", "status": "degraded", "detail": "ABI 4"},
            {"name": "injection drop", "status": "present", "detail": "tcx"}
        ], "tools": []}"#;
        let found: Layers = serde_json::from_str(found).unwrap();
        let demand = |name: &str| {
            let demanded = found.demand(&["injection-drop".to_owned(), name.to_owned()]);
            demanded.map_err(|error| error.to_string())
        };
        assert_eq!(demand("Injection Drop"), Ok(()));
        assert_eq!(demand("landlock-domain"), Ok(()));
        assert_eq!(
            demand("bpf-lsm").unwrap_err(),
            "BPF LSM must work on this host, and is missing: not in lsm="
        );
        assert!(demand("Landlock").unwrap_err().contains("degraded: ABI 4"));
        assert!(
            demand("Landlok")
                .unwrap_err()
                .contains("doctor knows BPF LSM, Landlock")
        );
    }
}
