//! What a server is called by grants, approvals, counters and pins, if `--server` does not say.
//!
//! The file name of its command, or, of a launcher that runs many servers, what it runs: the package,
//! the module, the script, the image. Where a launcher's options are not known well enough to tell
//! which word that is, the launcher's own name stays.

use std::{ffi::OsString, path::Path, sync::Arc};

/// What a server without a command is called.
const NAMELESS: &str = "server";

/// Directories and files of which most projects have one: the name of the project is further up.
const COMMON: &[&str] = &[
    "__init__",
    "__main__",
    "app",
    "bin",
    "build",
    "cli",
    "cmd",
    "dist",
    "index",
    "lib",
    "main",
    "mcp",
    "mcp_server",
    "mcp-server",
    "out",
    "run",
    "scripts",
    "server",
    "src",
    "start",
];

/// How a launcher's words are read, up to what it runs.
struct Launcher {
    /// Words before what is run: `run`, `tool run`. One of them must be there, unless there are none.
    verbs: &'static [&'static [&'static str]],
    /// Options that take the next word.
    takes: &'static [&'static str],
    /// Options that take none.
    flags: &'static [&'static str],
    /// Options whose word is what is run.
    names: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `@scope/name@1.2`.
    Npm,
    /// `name[extra]==1.2`, `git+https://…/name`.
    Python,
    /// A file of a project, or a Python module after `-m`.
    Script,
    /// `registry/name:tag@digest`.
    Image,
}

fn launcher(program: &str) -> Option<Launcher> {
    let plain = program.strip_suffix(".exe").unwrap_or(program);
    let version = |c: char| c.is_ascii_digit() || c == '.';
    let known = Launcher {
        verbs: &[],
        takes: &[],
        flags: &[],
        names: &[],
        kind: Kind::Script,
    };
    Some(match plain {
        "uvx" => Launcher {
            takes: &[
                "--with",
                "-w",
                "--python",
                "-p",
                "--index-url",
                "-i",
                "--index",
                "--directory",
            ],
            flags: &[
                "-q",
                "--quiet",
                "--no-cache",
                "-n",
                "--isolated",
                "--offline",
                "--refresh",
                "--native-tls",
            ],
            names: &["--from"],
            kind: Kind::Python,
            ..known
        },
        "uv" => Launcher {
            verbs: &[&["tool", "run"], &["run"]],
            takes: &[
                "--with",
                "-w",
                "--python",
                "-p",
                "--directory",
                "--project",
                "--extra",
                "--group",
                "--env-file",
            ],
            flags: &[
                "-q",
                "--quiet",
                "--no-cache",
                "-n",
                "--isolated",
                "--offline",
                "--no-sync",
                "--frozen",
                "--locked",
                "--no-project",
            ],
            names: &["--from", "-m", "--module"],
            ..known
        },
        "pipx" => Launcher {
            verbs: &[&["run"]],
            takes: &["--python", "--pip-args", "--index-url", "-i"],
            flags: &["-q", "--quiet", "--no-cache", "-v", "--verbose"],
            names: &["--spec"],
            kind: Kind::Python,
        },
        "npx" | "bunx" => Launcher {
            flags: &[
                "-y",
                "--yes",
                "-q",
                "--quiet",
                "--prefer-offline",
                "--offline",
                "--bun",
            ],
            names: &["-p", "--package"],
            kind: Kind::Npm,
            ..known
        },
        "npm" => Launcher {
            verbs: &[&["exec"], &["x"]],
            flags: &["-y", "--yes", "--quiet", "--"],
            names: &["-p", "--package"],
            kind: Kind::Npm,
            ..known
        },
        "pnpm" | "yarn" => Launcher {
            verbs: &[&["dlx"]],
            flags: &["-q", "--quiet", "--silent"],
            names: &["-p", "--package"],
            kind: Kind::Npm,
            ..known
        },
        "node" | "tsx" | "ts-node" => Launcher {
            takes: &["-r", "--require", "--import", "--loader", "--env-file"],
            flags: &[
                "--no-warnings",
                "--enable-source-maps",
                "--experimental-strip-types",
                "--inspect",
            ],
            ..known
        },
        "deno" => Launcher {
            verbs: &[&["run"]],
            flags: &[
                "-A",
                "--allow-all",
                "-q",
                "--quiet",
                "--no-lock",
                "--allow-net",
                "--allow-read",
                "--allow-write",
                "--allow-env",
                "--allow-run",
                "--allow-sys",
            ],
            ..known
        },
        "bun" => Launcher {
            verbs: &[&["run"], &[]],
            flags: &["--silent", "--bun"],
            ..known
        },
        "java" => Launcher {
            takes: &["-cp", "-classpath"],
            names: &["-jar"],
            ..known
        },
        "docker" | "podman" | "nerdctl" => Launcher {
            verbs: &[&["run"], &["container", "run"]],
            takes: &[
                "-e",
                "--env",
                "--env-file",
                "-v",
                "--volume",
                "--mount",
                "-p",
                "--publish",
                "--name",
                "--network",
                "--net",
                "-u",
                "--user",
                "-w",
                "--workdir",
                "--entrypoint",
                "--cap-add",
                "--cap-drop",
                "--memory",
                "-m",
                "--cpus",
                "--platform",
                "--pull",
                "--label",
                "-l",
                "--security-opt",
                "--device",
                "--add-host",
                "--dns",
                "-h",
                "--hostname",
                "--tmpfs",
                "--shm-size",
                "--ulimit",
                "--gpus",
                "--pid",
                "--ipc",
                "--restart",
            ],
            flags: &[
                "-i",
                "-t",
                "-it",
                "-ti",
                "--rm",
                "--interactive",
                "--tty",
                "--init",
                "--privileged",
                "--read-only",
                "-d",
                "--detach",
            ],
            kind: Kind::Image,
            ..known
        },
        _ if plain.trim_end_matches(version) == "python"
            || plain.trim_end_matches(version) == "pypy" =>
        {
            Launcher {
                takes: &["-W", "-X"],
                flags: &[
                    "-u", "-B", "-E", "-I", "-s", "-S", "-O", "-OO", "-P", "-q", "-v", "-b", "-d",
                ],
                names: &["-m"],
                ..known
            }
        }
        _ => return None,
    })
}

/// What a server is called that is started by this command.
#[must_use]
pub fn server_name(command: &[OsString]) -> Arc<str> {
    let words: Vec<String> = command
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words = without_env(&words);
    let program = words.first().map_or(NAMELESS, |word| file_name(word));
    let run = launcher(program).and_then(|launcher| launcher.find(words.get(1..)?));
    let name: String = run
        .as_deref()
        .unwrap_or(program)
        .chars()
        .take(128)
        .collect();
    Arc::from(match name.trim() {
        "" => NAMELESS,
        name => name,
    })
}

/// What `env` starts, if that is plain to see.
fn without_env(words: &[String]) -> &[String] {
    let Some((program, rest)) = words.split_first() else {
        return words;
    };
    if file_name(program) != "env" {
        return words;
    }
    let set = |word: &String| word.contains('=') && !word.starts_with('-');
    let count = rest.iter().take_while(|word| set(word)).count();
    match rest.get(count..) {
        Some(inner @ [first, ..]) if !first.starts_with('-') => inner,
        _ => words,
    }
}

fn file_name(path: &str) -> &str {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    name.unwrap_or(path)
}

impl Launcher {
    /// The name of what is run.
    fn find(&self, words: &[String]) -> Option<String> {
        let verb = |verb: &&&[&str]| {
            let said = words.iter().map(String::as_str);
            said.take(verb.len()).eq(verb.iter().copied())
        };
        let mut words = words;
        if !self.verbs.is_empty() {
            let verb = self.verbs.iter().find(verb)?;
            words = words.get(verb.len()..)?;
        }
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) if word.starts_with('-') => (option, Some(value)),
                _ => (word.as_str(), None),
            };
            if self.names.contains(&option) {
                let value = match value {
                    Some(value) => value,
                    None => words.next()?,
                };
                return self.name(value, option);
            }
            if !option.starts_with('-') {
                return self.name(word, "");
            }
            match value {
                Some(_) => {}
                None if self.takes.contains(&option) => drop(words.next()?),
                None if self.flags.contains(&option) => {}
                None => return None,
            }
        }
        None
    }

    fn name(&self, word: &str, option: &str) -> Option<String> {
        let name = match (self.kind, option) {
            (Kind::Script, "-m" | "--module") => Some(module(word)),
            (Kind::Script, "--from") | (Kind::Python, _) => python_package(word),
            (Kind::Script, _) => script(word),
            (Kind::Npm, _) => npm_package(word),
            (Kind::Image, _) => image(word),
        };
        name.filter(|name| !name.is_empty())
    }
}

/// `pcap_mcp.server` is `pcap_mcp`.
fn module(word: &str) -> String {
    let mut parts: Vec<&str> = word.split('.').collect();
    while parts.len() > 1 && parts.last().is_some_and(|last| COMMON.contains(last)) {
        parts.pop();
    }
    parts.join(".")
}

/// `/opt/sharkmcp/dist/index.js` is `sharkmcp`.
fn script(word: &str) -> Option<String> {
    let path = Path::new(word);
    let stem = path.file_stem()?.to_str()?;
    if !COMMON.contains(&stem) {
        return Some(file_name(word).to_owned());
    }
    let above = path.parent()?.components().rev();
    let mut above = above.filter_map(|part| match part {
        std::path::Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let project = above.find(|name| !COMMON.contains(name));
    Some(project.unwrap_or(file_name(word)).to_owned())
}

fn npm_package(word: &str) -> Option<String> {
    if word.contains("://") || word.starts_with('.') || word.starts_with('/') {
        return repository(word);
    }
    // The first character may be the `@` of a scope.
    let version = word.char_indices().skip(1).find(|(_, c)| *c == '@');
    Some(
        version
            .map_or(word, |(at, _)| word.split_at(at).0)
            .to_owned(),
    )
}

fn python_package(word: &str) -> Option<String> {
    if let Some((name, _)) = word.split_once(" @ ") {
        return Some(name.trim().to_owned());
    }
    if word.contains("://") || word.starts_with('.') || word.starts_with('/') {
        return repository(word);
    }
    let end = word.find(['@', '=', '<', '>', '~', '!', '[', ';', ' ']);
    Some(end.map_or(word, |end| word.split_at(end).0).to_owned())
}

/// The last part of an address or a path.
fn repository(word: &str) -> Option<String> {
    let word = word.split(['#', '?']).next()?.trim_end_matches('/');
    let last = word.rsplit('/').next()?;
    let last = last.split('@').next()?;
    let last = last.strip_suffix(".git").unwrap_or(last);
    (!last.trim_matches('.').is_empty()).then(|| last.to_owned())
}

fn image(word: &str) -> Option<String> {
    let word = word.split('@').next()?;
    // A colon before the last `/` is a port's.
    let (path, last) = word
        .rsplit_once('/')
        .map_or(("", word), |(path, last)| (path, last));
    let last = last.split(':').next()?;
    Some(match path {
        "" => last.to_owned(),
        path => format!("{path}/{last}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_seen_through() {
        for (command, name) in [
            (
                "/opt/pcap/bin/awslabs.pcap-analyzer-mcp-server",
                "awslabs.pcap-analyzer-mcp-server",
            ),
            ("server --port 8000", "server"),
            ("", "server"),
            (
                "uvx awslabs.pcap-analyzer-mcp-server@latest",
                "awslabs.pcap-analyzer-mcp-server",
            ),
            (
                "uvx --from git+https://host.example/a/netmcp.git@v1 serve",
                "netmcp",
            ),
            (
                "uvx --from=wireshark-mcp[all]==1.2 wireshark",
                "wireshark-mcp",
            ),
            ("uvx --with x -p 3.12 netmcp>=2", "netmcp"),
            ("uvx --unheard-of x netmcp", "uvx"),
            ("uv tool run netmcp", "netmcp"),
            ("uv run --directory /opt/shark server.py", "server.py"),
            ("uv run /opt/shark/src/server.py", "shark"),
            ("uv run -m pcap_mcp.server", "pcap_mcp"),
            ("uv sync", "uv"),
            ("pipx run --spec netmcp==1 serve", "netmcp"),
            (
                "/usr/bin/npx -y @scope/wireshark-mcp@1.2.3 --stdio",
                "@scope/wireshark-mcp",
            ),
            ("npx -p @scope/a@2 b", "@scope/a"),
            ("npx --package=@scope/a b", "@scope/a"),
            ("npm exec -y -- sharkmcp", "sharkmcp"),
            ("pnpm dlx sharkmcp@latest", "sharkmcp"),
            ("bunx sharkmcp", "sharkmcp"),
            ("node /opt/SharkMCP/dist/index.js", "SharkMCP"),
            (
                "node --no-warnings --env-file .env dist/index.js",
                "index.js",
            ),
            ("node --env-file=.env tools/echo.mjs", "echo.mjs"),
            ("node --unknown x.js", "node"),
            ("deno run -A --allow-net=localhost jsr.ts", "jsr.ts"),
            ("bun ./a/b.ts", "b.ts"),
            ("bun run ./a/b.ts", "b.ts"),
            ("python3 -m pcap_analyzer", "pcap_analyzer"),
            (
                "/venv/bin/python3.12 -u -X dev -m pcap.server.__main__",
                "pcap",
            ),
            ("python hostile.py", "hostile.py"),
            ("python3 /srv/kali/mcp_server.py", "kali"),
            ("python3 -c print", "python3"),
            ("python3 -", "python3"),
            ("pythonista x.py", "pythonista"),
            ("java -jar /opt/net/netmcp.jar", "netmcp.jar"),
            (
                "docker run -i --rm -e A=b --net=host ghcr.io/org/pcap-mcp:1.2@sha256:00",
                "ghcr.io/org/pcap-mcp",
            ),
            (
                "podman run --rm -v /a:/b localhost:5000/pcap",
                "localhost:5000/pcap",
            ),
            ("docker container run mcp/pcap", "mcp/pcap"),
            ("docker compose up", "docker"),
            ("docker run --unheard-of x mcp/pcap", "docker"),
            ("env A=b C=d uvx netmcp", "netmcp"),
            ("env -i uvx netmcp", "env"),
            ("uvx", "uvx"),
            ("npx -y", "npx"),
        ] {
            let words: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
            assert_eq!(&*server_name(&words), name, "{command}");
        }
    }

    #[test]
    fn names_of_packages_are_taken_by_other_verbs() {
        for package in ["@playwright/mcp@latest", "@scope/wireshark-mcp", "sharkmcp"] {
            let name = server_name(&["npx".into(), package.into()]);
            assert!(crate::principal::is_server(&name), "{name}");
        }
    }
}
