//! The corpus that fuzzing has kept, through the same functions, without a fuzzer.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::{
    env, fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use capwarden_fuzz::{TARGETS, may_load};

/// The corpus is to stay small.
const MOST_FILES: usize = 200;
const MOST_BYTES: u64 = 300 * 1024;

fn main() -> ExitCode {
    let wanted = env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let privileged = may_load();
    let (mut passed, mut failed, mut files, mut bytes) = (0, 0, 0, 0);
    for target in TARGETS {
        let name = format!("replay_{}", target.name);
        let mut inputs: Vec<_> = fs::read_dir(corpus.join(target.name))
            .unwrap_or_else(|error| panic!("{}: {error}", target.name))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        files += inputs.len();
        let length = |path| fs::metadata(path).unwrap().len();
        bytes += inputs.iter().map(length).sum::<u64>();
        if wanted
            .as_ref()
            .is_some_and(|wanted| !name.contains(wanted.as_str()))
        {
            continue;
        }
        if target.needs_root && !privileged {
            println!("test {name} ... ignored, prog_load gives EPERM to this user");
            continue;
        }
        print!("test {name} ... ");
        std::io::stdout().flush().unwrap();
        let start = Instant::now();
        let broken = inputs.iter().find(|path| {
            let input = fs::read(path).unwrap();
            catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err()
        });
        match broken {
            None => {
                let (count, took) = (inputs.len(), start.elapsed().as_secs_f32());
                println!("ok ({count} inputs, {took:.2} s)");
                passed += 1;
            }
            Some(path) => {
                println!("FAILED: {}", path.display());
                failed += 1;
            }
        }
    }
    assert!(files <= MOST_FILES, "{files} files in {}", corpus.display());
    assert!(bytes <= MOST_BYTES, "{bytes} bytes in {}", corpus.display());
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}
