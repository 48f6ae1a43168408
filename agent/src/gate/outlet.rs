//! What lines are written to: one at a time, each of them whole, and to another writer once the first
//! has been taken away.

use std::{
    io,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    conversation::lock,
    pump::{Interrupter, Outgoing},
};

/// A line up to this length is copied for its end to be written with it.
const SHORT: usize = 64 << 10;

/// A writer that is given whole lines, by one thread at a time.
pub(super) struct Outlet<W> {
    place: Mutex<Place<W>>,
    /// The place is as [`Place::Away`] says.
    away: AtomicBool,
    /// Told when somebody else comes, or nobody will.
    back: Condvar,
    interrupter: Mutex<Interrupter>,
}

enum Place<W> {
    Open(W),
    /// Half a line may have been written: what follows would be taken for its rest.
    Broken,
    /// Another writer comes, or [`Place::Closed`]: lines wait for that.
    Away,
    Closed,
}

impl<W: Outgoing> Outlet<W> {
    pub(super) fn new(writer: W) -> Self {
        Self {
            interrupter: Mutex::new(writer.interrupter()),
            place: Mutex::new(Place::Open(writer)),
            away: AtomicBool::new(false),
            back: Condvar::new(),
        }
    }

    pub(super) fn send(&self, line: &[u8]) -> io::Result<()> {
        self.send_if(line, || true).map(drop)
    }

    /// Writes a line if it is still wanted when its turn has come.
    pub(super) fn send_if(&self, line: &[u8], wanted: impl FnOnce() -> bool) -> io::Result<bool> {
        let mut place = lock(&self.place);
        while matches!(*place, Place::Away) {
            place = self
                .back
                .wait(place)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let Place::Open(writer) = &mut *place else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if !wanted() {
            return Ok(false);
        }
        let written = write_line(writer, line);
        if written.is_err() {
            *place = Place::Broken;
        }
        written.map(|()| true)
    }

    /// Nobody waits to write any more, nor for another writer.
    pub(super) fn interrupt(&self) {
        (lock(&self.interrupter))();
        if self.away.load(Ordering::Acquire) {
            self.close();
        }
    }

    /// Closes it. Whether another writer was waited for.
    pub(super) fn close(&self) -> bool {
        let was = std::mem::replace(&mut *lock(&self.place), Place::Closed);
        self.away.store(false, Ordering::Release);
        self.back.notify_all();
        matches!(was, Place::Away)
    }

    /// Closes the writer, for whose successor lines wait from now on.
    pub(super) fn take_away(&self) {
        (lock(&self.interrupter))();
        let mut place = lock(&self.place);
        if !matches!(*place, Place::Closed) {
            *place = Place::Away;
            self.away.store(true, Ordering::Release);
        }
    }

    /// Here is the successor. False if it has been closed meanwhile.
    pub(super) fn put(&self, writer: W) -> bool {
        let mut place = lock(&self.place);
        if !matches!(*place, Place::Away) {
            return false;
        }
        *lock(&self.interrupter) = writer.interrupter();
        *place = Place::Open(writer);
        self.away.store(false, Ordering::Release);
        drop(place);
        self.back.notify_all();
        true
    }
}

/// Writes a line, with an end where it has none of its own: the last line of a stream, and an element
/// of a batch.
pub(super) fn write_line(writer: &mut impl Outgoing, line: &[u8]) -> io::Result<()> {
    if line.ends_with(b"\n") {
        writer.write_all(line)
    } else if line.len() <= SHORT {
        writer.write_all(&[line, b"\n"].concat())
    } else {
        writer
            .write_all(line)
            .and_then(|()| writer.write_all(b"\n"))
    }
    .and_then(|()| writer.flush())
}
