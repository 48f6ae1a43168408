//! What the guides show can be used: their commands, and their policies.

use std::{fs, path::Path};

use super::{
    readme::{parsed, shown},
    told,
};

/// The configuration that packages have.
const PACKAGED: &str = include_str!("../../packaging/config/agent.yaml");

/// The guides, by their files' names.
fn guides() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manual");
    let files = fs::read_dir(folder).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let guides: Vec<_> = paths
        .filter(|path| path.extension() == Some("md".as_ref()))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(guides.len() >= 9, "{guides:?}");
    guides
}

#[test]
fn every_command_of_the_guides_is_one_that_there_is() {
    for (name, text) in guides() {
        let commands = shown(&text);
        assert!(
            !commands.is_empty() || name == "born-armed.md",
            "{name} shows no command"
        );
        for command in commands {
            parsed(&command);
        }
    }
}

#[test]
fn policies_and_configurations_of_the_guides_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let (mut policies, mut configurations) = (0, 0);
    let readme = (
        "README.md".to_owned(),
        include_str!("../../../README.md").to_owned(),
    );
    for (name, text) in guides().into_iter().chain([readme]) {
        for block in text.split("```yaml\n").skip(1) {
            let (block, _) = block.split_once("```").unwrap();
            if block.contains("servers:\n") {
                // A drop-in is laid over the file that the package has.
                let path = dir.path().join("agent.yaml");
                let beside = dir.path().join("agent.d");
                fs::create_dir_all(&beside).unwrap();
                let (main, drop_in) = match block.contains("version:") {
                    true => (block, ""),
                    false => (PACKAGED, block),
                };
                fs::write(&path, main).unwrap();
                fs::write(beside.join("10-of-the-guide.yaml"), drop_in).unwrap();
                let config = capwarden::config::Config::load(&path);
                assert_eq!(config.unwrap().servers.len(), 1, "{name}");
                configurations += 1;
                continue;
            }
            let path = dir.path().join("policy.yaml");
            fs::write(&path, block).unwrap();
            let file = path.to_str().unwrap();
            let (status, _, err) = told(&["policy", "diff", file, file]);
            assert_eq!(status, 0, "{name}: {err}");
            policies += 1;
        }
    }
    assert!(policies >= 3 && configurations >= 3);
}

#[test]
fn every_key_of_the_agents_configuration_is_explained() {
    let (_, page) = guides()
        .into_iter()
        .find(|(name, _)| name == "configuration.md")
        .unwrap();
    let (of_all, of_each) = page.split_once("## Of each server").unwrap();
    for (part, keys) in [
        (of_all, capwarden::config::KEYS),
        (of_each, capwarden::config::SERVER_KEYS),
    ] {
        let explained: Vec<&str> = part
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let mut keys = keys.to_vec();
        let mut sorted = explained.clone();
        keys.sort_unstable();
        sorted.sort_unstable();
        assert_eq!(sorted, keys);
    }
}
