//! The file that an interpreter is told to run.

use std::path::Path;

/// Programs that run a file that is named as an argument, and Python under any of its names.
const INTERPRETERS: [&str; 11] = [
    "node", "nodejs", "bun", "deno", "npx", "uv", "uvx", "ruby", "perl", "bash", "sh",
];
/// Words before the file.
const VERBS: [&str; 1] = ["run"];
/// Options after which comes no file of this kind: code, or a module's name.
const NO_FILE: [&str; 6] = ["-c", "-e", "-m", "-p", "--eval", "--print"];

/// What a command has its interpreter run: the first argument that is no option, if that is a full path. None where it
/// is not that simple.
pub(super) fn of(command: &[String]) -> Option<&Path> {
    let (program, arguments) = command.split_first()?;
    let program = Path::new(program).file_name()?.to_str()?;
    let known = INTERPRETERS.contains(&program) || program.starts_with("python");
    let mut arguments = arguments
        .iter()
        .map(String::as_str)
        .skip_while(|word| VERBS.contains(word))
        .take_while(|word| !NO_FILE.contains(word));
    let first = arguments.find(|word| !word.starts_with('-'))?;
    let file = Path::new(first);
    (known && file.is_absolute()).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_found_where_that_is_simple() {
        for (command, script) in [
            ("node /opt/x/index.js", Some("/opt/x/index.js")),
            (
                "/usr/bin/python3.11 -u /opt/x.py --port 1",
                Some("/opt/x.py"),
            ),
            ("uv run /opt/x.py", Some("/opt/x.py")),
            ("deno run -A /opt/x.ts", Some("/opt/x.ts")),
            ("python3 -m http /opt/x.py", None),
            ("sh -c /opt/x", None),
            ("npx @scope/server /data", None),
            ("node index.js", None),
            ("/opt/server /etc/its.conf", None),
            ("node", None),
        ] {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(of(&words), script.map(Path::new), "{command}");
        }
        assert_eq!(of(&[]), None);
    }
}
