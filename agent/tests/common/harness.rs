//! Runs tests by name. Not libtest's, because the test binary starts itself again with the
//! agent's hidden verb, as the filter compiler's child.

use std::{
    env,
    io::Write,
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use capwarden::filter::{COMPILE_VERB, compile_child};

use super::kernel;

/// A test; what it finds wrong it panics about, what it counts it prints.
pub struct Test {
    pub name: &'static str,
    /// Whether it says nothing to a user who may not load programs.
    pub needs_kernel: bool,
    pub run: fn(),
}

/// Runs those tests whose name contains the first argument, or all.
pub fn run(tests: &[Test]) -> ExitCode {
    if env::args().nth(1).as_deref() == Some(COMPILE_VERB) {
        return compile_child();
    }
    let wanted = env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    for test in tests.iter().filter(|test| test.name.contains(&wanted)) {
        let name = test.name;
        if test.needs_kernel && !privileged() {
            println!("test {name} ... not run: prog_load gives EPERM to this user");
            continue;
        }
        let start = Instant::now();
        print!("test {name} ... ");
        std::io::stdout().flush().unwrap();
        (test.run)();
        println!("ok ({:.2} s)", start.elapsed().as_secs_f32());
    }
    ExitCode::SUCCESS
}

/// Whether this user may load programs.
pub fn privileged() -> bool {
    static MAY_LOAD: LazyLock<bool> = LazyLock::new(kernel::may_load);
    *MAY_LOAD
}

/// Says every few seconds how far a long test is.
pub struct Progress {
    what: &'static str,
    of: usize,
    said: Instant,
}

impl Progress {
    pub fn new(what: &'static str, of: usize) -> Self {
        let said = Instant::now();
        Self { what, of, said }
    }

    pub fn at(&mut self, done: usize) {
        if self.said.elapsed() > Duration::from_secs(5) {
            self.said = Instant::now();
            print!("{done} of {} {} … ", self.of, self.what);
            std::io::stdout().flush().unwrap();
        }
    }
}
