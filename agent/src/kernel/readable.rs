//! Waiting in async code for what the kernel signals by a readable descriptor.

use std::{io, os::fd::AsRawFd, sync::Arc};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    guard::EndEvents, host::HostWatch, launch::Connection, network::NetworkEvents,
    process::Process, successor::Line, tree::ForkEvents, watch::Inotify,
};

/// What owns its descriptor for as long as it lives, and never changes it.
pub trait Owner: AsRawFd + sealed::Sealed {}
impl Owner for Connection {}
impl Owner for EndEvents {}
impl Owner for ForkEvents {}
impl Owner for HostWatch {}
impl Owner for Inotify {}
impl Owner for Line {}
impl Owner for Arc<NetworkEvents> {}
impl Owner for Process {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Connection {}
    impl Sealed for super::EndEvents {}
    impl Sealed for super::ForkEvents {}
    impl Sealed for super::HostWatch {}
    impl Sealed for super::Inotify {}
    impl Sealed for super::Line {}
    impl Sealed for super::Arc<super::NetworkEvents> {}
    impl Sealed for super::Process {}
}

/// Something that becomes readable.
#[derive(Debug)]
pub struct Readable<T: Owner>(AsyncFd<T>);

impl<T: Owner> Readable<T> {
    /// Must be called within a runtime.
    pub fn new(owner: T) -> io::Result<Self> {
        // SAFETY: an `Owner` keeps its one descriptor open until it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// What may become readable.
    pub fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Waits until it is readable, and gives it out once for that.
    pub async fn ready(&mut self) -> io::Result<&mut T> {
        self.0.readable_mut().await?.clear_ready();
        Ok(self.0.get_mut())
    }
}
