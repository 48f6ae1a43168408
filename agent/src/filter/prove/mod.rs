//! Proofs about programs.
mod bits;
mod graph;
mod solve;
mod space;
mod symbolic;
