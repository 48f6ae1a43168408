//! What is in the packages, for machines: a bill of materials in CycloneDX 1.5.

use anyhow::Result;
use serde_json::{Value, json};

use super::{VERSION, crates::Crate, libpcap};

/// The list, of a commit made at this time (seconds since 1970).
pub(super) fn write(crates: &[Crate], time: u64) -> Result<String> {
    let mut components: Vec<Value> = crates
        .iter()
        .filter(|known| known.name != "capwarden")
        .map(component)
        .collect();
    let pcap = format!("libpcap@{}", libpcap::VERSION);
    components.push(json!({
        "type": "library",
        "bom-ref": pcap,
        "name": "libpcap",
        "version": libpcap::VERSION,
        "description": "Linked into what is in the .rpm and the tarball; the .deb uses the host's.",
        "hashes": [{ "alg": "SHA-256", "content": libpcap::SHA256 }],
        "licenses": [{ "license": { "id": "BSD-3-Clause" } }],
        "purl": format!("pkg:generic/libpcap@{}", libpcap::VERSION),
    }));
    let uses = crates.iter().map(|known| {
        let mut uses = known.uses.clone();
        if known.name == "pcap" {
            uses.push(pcap.clone());
        }
        if known.name == "capwarden" {
            // Its build embeds them.
            let kernel = crates.iter().find(|known| known.name == "capwarden-ebpf");
            uses.extend(kernel.map(Crate::label));
        }
        json!({ "ref": known.label(), "dependsOn": uses })
    });
    let all = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(time),
            "component": {
                "type": "application",
                "bom-ref": format!("capwarden@{VERSION}"),
                "name": "capwarden",
                "version": VERSION,
                "licenses": [{ "expression": "Apache-2.0 OR MIT" }],
            },
        },
        "components": components,
        "dependencies": uses.collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn component(known: &Crate) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": known.label(),
        "name": known.name,
        "version": known.version,
        // An old way to write OR, from before there were expressions.
        "licenses": [{ "expression": known.terms.replace('/', " OR ") }],
        "purl": format!("pkg:cargo/{}", known.label()),
    });
    if let (Some(sum), Some(about)) = (&known.sha256, component.as_object_mut()) {
        let hashes = json!([{ "alg": "SHA-256", "content": sum }]);
        about.insert("hashes".to_owned(), hashes);
    }
    component
}

/// RFC 3339, of seconds since 1970.
fn timestamp(time: u64) -> String {
    let (days, of_day) = (time / 86_400, time % 86_400);
    // Years that begin in March have their odd day at the end, and 400 of them have 146,097 days.
    let since = days + 719_468;
    let (era, of_era) = (since / 146_097, since % 146_097);
    let of_400 = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_400 + of_400 / 4 - of_400 / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + of_400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_others_write_them() {
        for (time, written) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(time), written);
        }
    }

    #[test]
    fn every_reference_is_to_something_listed() {
        let known = |name: &str, uses: &[&str]| Crate {
            name: name.to_owned(),
            version: VERSION.to_owned(),
            terms: "MIT/Apache-2.0".to_owned(),
            home: "/".into(),
            sha256: Some("ab".to_owned()),
            uses: uses
                .iter()
                .map(|name| format!("{name}@{VERSION}"))
                .collect(),
        };
        let crates = [
            known("capwarden", &["pcap"]),
            known("capwarden-ebpf", &[]),
            known("pcap", &[]),
        ];
        let list: Value = serde_json::from_str(&write(&crates, 0).unwrap()).unwrap();
        let listed: Vec<&Value> = list["components"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&list["metadata"]["component"]])
            .map(|component| &component["bom-ref"])
            .collect();
        let mut references = 0;
        for uses in list["dependencies"].as_array().unwrap() {
            let others = uses["dependsOn"].as_array().unwrap();
            for reference in others.iter().chain([&uses["ref"]]) {
                assert!(listed.contains(&reference), "{reference}");
                references += 1;
            }
        }
        assert_eq!(references, 6); // three, and capwarden's two, and libpcap
        let terms = &list["components"][0]["licenses"][0]["expression"];
        assert_eq!(terms, "MIT OR Apache-2.0");
    }
}
