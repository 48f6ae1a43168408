//! Packets over time, of the files of a capture.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use super::super::hash::{Hash, Hasher};
use crate::capture_file::{CaptureFile, CaptureFileError};

/// Points of a plot.
const MOMENTS: usize = 240;

/// A file of the capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaptureOf {
    /// Where it is, as it was named.
    pub file: PathBuf,
    /// The hash of all of it.
    pub sha256: Hash,
}

/// What the files have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// The files.
    pub files: Vec<CaptureOf>,
    /// When the first packet was captured, UTC; none if no packet has a time.
    pub first: Option<String>,
    /// Packets in all.
    pub packets: u64,
    /// Bytes in all, as captured.
    pub bytes: u64,
    /// How many there were by then, at most 240 of them, in the order of time.
    pub moments: Vec<Moment>,
}

/// What had been captured at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds after the first packet.
    pub seconds: f64,
    /// Packets until then.
    pub packets: u64,
    /// Bytes until then, as captured.
    pub bytes: u64,
}

/// Reads the files.
///
/// # Errors
///
/// One of them is no capture file, or broken.
pub fn traffic(paths: &[PathBuf]) -> Result<Traffic, CaptureFileError> {
    let files = paths.iter().map(|path| hashed(path));
    let hashed: Vec<CaptureOf> = files.collect::<Result<_, _>>()?;
    let files = paths;
    let (mut packets, mut bytes) = (0_u64, 0_u64);
    let mut span: Option<(Timestamp, Timestamp)> = None;
    each(files, |time, length| {
        (packets, bytes) = (packets + 1, bytes + length);
        if let Some(time) = time {
            let (first, last) = span.unwrap_or((time, time));
            span = Some((first.min(time), last.max(time)));
        }
    })?;
    let mut counted = vec![(0_u64, 0_u64); MOMENTS];
    let first = span.map(|(first, _)| first);
    let length = span.map_or(0, |(first, last)| microseconds(first, last));
    each(files, |time, bytes_of_it| {
        let at = time.zip(first);
        let at = at.map_or(0, |(time, first)| microseconds(first, time));
        let moment = at * counted.len() as u128 / (length + 1);
        let moment = usize::try_from(moment).unwrap_or(usize::MAX);
        if let Some((packets, bytes)) = counted.get_mut(moment) {
            (*packets, *bytes) = (*packets + 1, *bytes + bytes_of_it);
        }
    })?;
    let length = span.map_or(0.0, |(first, last)| {
        last.duration_since(first).as_secs_f64()
    });
    Ok(Traffic {
        files: hashed,
        first: first.map(|first| first.to_string()),
        packets,
        bytes,
        moments: summed(&counted, length),
    })
}

/// A file and its hash.
fn hashed(path: &Path) -> Result<CaptureOf, CaptureFileError> {
    let failed = |error: io::Error| CaptureFileError::Open {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut part) = (Hasher::default(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut part) {
            Ok(0) => break,
            Ok(length) => hasher.update(part.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(CaptureOf {
        file: path.to_owned(),
        sha256: hasher.finish(),
    })
}

fn each(
    files: &[PathBuf],
    mut tell: impl FnMut(Option<Timestamp>, u64),
) -> Result<(), CaptureFileError> {
    for file in files {
        let mut file = CaptureFile::open(file)?;
        while let Some(packet) = file.next_packet()? {
            tell(
                packet.time,
                u64::try_from(packet.bytes.len()).unwrap_or(u64::MAX),
            );
        }
    }
    Ok(())
}

fn microseconds(from: Timestamp, to: Timestamp) -> u128 {
    let micros = to.duration_since(from).as_micros();
    u128::try_from(micros).unwrap_or(0)
}

/// What there was by the end of each moment, of those in which something came, and of the last.
fn summed(counted: &[(u64, u64)], length: f64) -> Vec<Moment> {
    let mut so_far = (0_u64, 0_u64);
    let moments = counted.iter().enumerate().map(|(index, (packets, bytes))| {
        so_far = (so_far.0 + packets, so_far.1 + bytes);
        let moment = Moment {
            seconds: length * count(index + 1) / count(MOMENTS),
            packets: so_far.0,
            bytes: so_far.1,
        };
        (*packets > 0 || index + 1 == MOMENTS, moment)
    });
    let some = moments.filter_map(|(counts, moment)| counts.then_some(moment));
    let some: Vec<Moment> = some.collect();
    if so_far.0 == 0 { Vec::new() } else { some }
}

fn count(number: usize) -> f64 {
    // There are at most 240.
    u16::try_from(number).map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture_file::pcap_file;

    #[test]
    fn packets_of_all_files_are_summed_over_their_time() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            pcap_file(1, &[(100, &[0; 60], 60), (100, &[0; 40], 40)]),
            pcap_file(1, &[(150, &[0; 10], 10), (200, &[0; 90], 90)]),
        ];
        let mut paths = Vec::new();
        for (number, bytes) in files.iter().enumerate() {
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, bytes).unwrap();
            paths.push(path);
        }
        let found = traffic(&paths).unwrap();
        assert_eq!((found.packets, found.bytes), (4, 200));
        let sums: Vec<_> = found.moments.iter().map(|m| (m.packets, m.bytes)).collect();
        assert_eq!(sums, [(2, 100), (3, 110), (4, 200)]);
        let times: Vec<_> = found.moments.iter().map(|m| m.seconds).collect();
        assert!(times[0] > 0.0 && times[0] < 1.0, "{times:?}");
        assert!((times[1] - 50.0).abs() < 1.0, "{times:?}");
        assert!((times[2] - 100.0).abs() < 1e-6, "{times:?}");

        let second = std::fs::read(&paths[1]).unwrap();
        assert_eq!(found.files[1].file, paths[1]);
        assert_eq!(found.files[1].sha256, Hash::of(&second));

        let none = traffic(&[]).unwrap();
        assert!(none.moments.is_empty() && none.first.is_none());
    }
}
