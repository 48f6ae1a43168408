//! Documents as they are installed: what they refer to by its place in the checkout is elsewhere on a host, or
//! is a page of the manual there, or stayed in the source.

use std::fs;

use anyhow::{Context, Result, bail};

use super::contents::{FILES, Kind, LICENCES, POLICIES, POLICIES_AT};
use crate::house;

/// Where documents are installed.
const DOCUMENTS: &str = "/usr/share/doc/capwarden";
/// Where the guides are, each of which is a page of the manual.
const GUIDES: &str = "agent/manual/";
/// What says which page each is.
const PAGES: &str = "agent/src/cli/man/written.rs";

/// The text of a document of the checkout, with references that work where it is installed.
///
/// # Errors
/// It refers to what is nowhere.
pub(super) fn installed(text: &str, kind: Kind) -> Result<String> {
    let pages = house::root().join(PAGES);
    let pages = fs::read_to_string(&pages).with_context(|| format!("cannot read {PAGES}"))?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (target, behind) = after
            .split_once(')')
            .with_context(|| format!("a link has no end: {}", start(after)))?;
        out += before;
        let open = out
            .rfind('[')
            .with_context(|| format!("a link has no beginning: ({target})"))?;
        let words = out.split_off(open).split_off(1);
        if out.ends_with('!') {
            // A picture, which is installed below README, as it lies in the checkout.
            out += &format!("[{words}]({DOCUMENTS}/{target})");
        } else {
            out += &reference(&words, target, kind, &pages)?;
        }
        rest = behind;
    }
    Ok(out + rest)
}

/// What is written in place of a link.
fn reference(words: &str, target: &str, kind: Kind, pages: &str) -> Result<String> {
    let link = |to: &str| Ok(format!("[{words}]({to})"));
    if target.starts_with("https://") || target.starts_with('#') {
        return link(target);
    }
    if !house::root().join(target).exists() {
        bail!("a document refers to {target}, and there is no such file");
    }
    if let Some((_, to)) = FILES.iter().find(|(from, _)| *from == target) {
        return link(to);
    }
    if LICENCES.contains(&target) {
        return match kind {
            Kind::Deb => link(&format!("{DOCUMENTS}/copyright")),
            Kind::Rpm | Kind::Tarball => link(&format!("{DOCUMENTS}/{target}")),
        };
    }
    if let Some(within) = target.strip_prefix(POLICIES) {
        return link(&format!("{POLICIES_AT}{within}"));
    }
    if target.starts_with(GUIDES) {
        let (page, section) = page(pages, target)
            .with_context(|| format!("{PAGES} has no page that is made of {target}"))?;
        return Ok(format!("{words} (`man {section} {page}`)"));
    }
    Ok(format!("{words} (in the source)"))
}

/// The page that is made of a guide, and its section.
fn page<'a>(pages: &'a str, guide: &str) -> Option<(&'a str, &'a str)> {
    let file = guide.rsplit('/').next()?;
    let (before, _) = pages.split_once(&format!("/manual/{file}\")"))?;
    let last = |key: &str| before.rsplit_once(key)?.1.split('"').next();
    Some((last("name: \"")?, last("section: \"")?))
}

fn start(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn references_are_to_where_things_are_installed() {
        for (written, installed_so) in [
            (
                "see [rust](https://rust-lang.org).",
                "see [rust](https://rust-lang.org).",
            ),
            (
                "[`policies/`](policies), [x](policies/netmcp.yaml)",
                "[`policies/`](/usr/share/capwarden/policies), [x](/usr/share/capwarden/policies/netmcp.yaml)",
            ),
            (
                "| [SharkMCP](agent/manual/sharkmcp.md), [many](agent/manual/daemon.md) |",
                "| SharkMCP (`man 7 capwarden-sharkmcp`), many (`man 7 capwarden-serving`) |",
            ),
            (
                "[keys](agent/manual/configuration.md)",
                "keys (`man 5 capwarden-agent.yaml`)",
            ),
            (
                "[SECURITY.md](SECURITY.md)",
                "[SECURITY.md](/usr/share/doc/capwarden/SECURITY.md)",
            ),
            (
                "![What is seen](agent/manual/pictures/demo.svg)",
                "![What is seen](/usr/share/doc/capwarden/agent/manual/pictures/demo.svg)",
            ),
            (
                "[ARCHITECTURE.md](ARCHITECTURE.md)",
                "ARCHITECTURE.md (in the source)",
            ),
            (
                "[MIT](LICENSE-MIT)",
                "[MIT](/usr/share/doc/capwarden/copyright)",
            ),
        ] {
            assert_eq!(installed(written, Kind::Deb).unwrap(), installed_so);
        }
        assert_eq!(
            installed("[MIT](LICENSE-MIT)", Kind::Rpm).unwrap(),
            "[MIT](/usr/share/doc/capwarden/LICENSE-MIT)"
        );
        for wrong in ["[a](no/such.md)", "[a](x", "a](README.md)"] {
            assert!(installed(wrong, Kind::Deb).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_installed_document_refers_to_the_checkout() {
        let documents = FILES
            .iter()
            .map(|(from, _)| *from)
            .chain(["policies/README.md"]);
        for document in documents.filter(|from| from.ends_with(".md")) {
            let text = fs::read_to_string(house::root().join(document)).unwrap();
            for kind in [Kind::Deb, Kind::Rpm, Kind::Tarball] {
                let text = installed(&text, kind).unwrap();
                for link in text.split("](").skip(1) {
                    let target = link.split(')').next().unwrap();
                    let absolute = Path::new(target).is_absolute();
                    assert!(
                        absolute || target.starts_with("https://"),
                        "{document}: {target}"
                    );
                }
            }
        }
    }
}
