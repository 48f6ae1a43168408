//! What is fuzzed, as functions of bytes that panic when something does not hold.
//!
//! ```text
//!   bytes ──┬─ expression ──▶ libpcap ──▶ program ──▶ cooked, translated, interpreted
//!           ├─ cbpf ────────▶ instructions: a program for us and for the kernel, or for neither
//!           ├─ translation ─▶ programs and packets: interpreter = classic BPF = eBPF
//!           └─ prover ──────▶ programs and packets: every answer agrees with the interpreter
//! ```
//!
//! libFuzzer drives them (`cargo xtask fuzz`), and a test replays what it kept in `corpus/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod cbpf;
mod expression;
mod generate;
mod kernel;
mod prover;
mod source;
mod translation;

pub use cbpf::cbpf;
pub use expression::expression;
pub use kernel::may_load;
pub use prover::prover;
pub use translation::translation;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is its corpus's too.
    pub name: &'static str,
    /// Panics when something does not hold for an input.
    pub run: fn(&[u8]),
    /// It loads eBPF programs.
    pub needs_root: bool,
}

/// All of them.
pub const TARGETS: [Target; 4] = [
    Target {
        name: "expression",
        run: expression,
        needs_root: false,
    },
    Target {
        name: "cbpf",
        run: cbpf,
        needs_root: false,
    },
    Target {
        name: "translation",
        run: translation,
        needs_root: true,
    },
    Target {
        name: "prover",
        run: prover,
        needs_root: false,
    },
];
