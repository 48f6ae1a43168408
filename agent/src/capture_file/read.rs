//! Capture files by libpcap: pcap and pcapng, whatever the byte order and the resolution of time.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::{
    filter::{LinkType, Packet},
    words::counted,
};

/// A capture file that cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureFileError {
    /// It could not be opened, or is no capture file.
    #[error("cannot read the capture file {}: {message}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// libpcap's words.
        message: String,
    },
    /// It is broken somewhere.
    #[error("the capture file {} is broken after {}: {message}", .path.display(), counted(*.read, "packet"))]
    Broken {
        /// The file.
        path: PathBuf,
        /// Packets that were read before.
        read: u64,
        /// libpcap's words.
        message: String,
    },
}

/// One packet of a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// When it was captured; none if the file says no time that there is.
    pub time: Option<Timestamp>,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// Its length on the wire, in bytes; never less than was captured.
    pub wire_len: u32,
}

impl Captured<'_> {
    /// The packet as the interpreter takes it.
    pub fn packet(&self) -> Packet<'_> {
        Packet::captured(self.bytes, self.wire_len)
    }
}

/// A capture file that is being read.
pub struct CaptureFile {
    capture: pcap::Capture<pcap::Offline>,
    path: PathBuf,
    read: u64,
}

impl CaptureFile {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    ///
    /// There is no such file, or it is no capture file.
    pub fn open(path: &Path) -> Result<Self, CaptureFileError> {
        let failed = |message: String| CaptureFileError::Open {
            path: path.to_owned(),
            message,
        };
        // libpcap's binding takes no other names.
        if path.to_str().is_none() {
            return Err(failed("its name is not valid UTF-8; rename it".to_owned()));
        }
        let capture = pcap::Capture::from_file_with_precision(path, pcap::Precision::Nano)
            .map_err(|error| {
                let message = words(&error);
                // libpcap names the file in front; it is named already.
                let prefix = format!("{}: ", path.display());
                failed(message.strip_prefix(&prefix).unwrap_or(&message).to_owned())
            })?;
        Ok(Self {
            capture,
            path: path.to_owned(),
            read: 0,
        })
    }

    /// What its packets begin with.
    pub fn link(&self) -> LinkType {
        LinkType(self.capture.get_datalink().0)
    }

    /// Packets that were read so far.
    pub fn packets_read(&self) -> u64 {
        self.read
    }

    /// The next packet; none at the end.
    ///
    /// # Errors
    ///
    /// The file is broken or cut short here.
    pub fn next_packet(&mut self) -> Result<Option<Captured<'_>>, CaptureFileError> {
        match self.capture.next_packet() {
            Ok(packet) => {
                self.read += 1;
                // With this precision the field counts nanoseconds.
                let nanoseconds = i32::try_from(packet.header.ts.tv_usec).ok();
                let length = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
                Ok(Some(Captured {
                    number: self.read,
                    time: nanoseconds
                        .and_then(|part| Timestamp::new(packet.header.ts.tv_sec, part).ok()),
                    bytes: packet.data,
                    wire_len: packet.header.len.max(length),
                }))
            }
            Err(pcap::Error::NoMorePackets) => Ok(None),
            Err(error) => Err(CaptureFileError::Broken {
                path: self.path.clone(),
                read: self.read,
                message: words(&error),
            }),
        }
    }
}

fn words(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(message) => message.clone(),
        error => error.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A classic capture file, in this host's byte order: seconds, bytes, length on the wire.
    pub(crate) fn pcap_file(link: u32, packets: &[(u32, &[u8], u32)]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link] {
            file.extend(u32::to_ne_bytes(word));
        }
        for (seconds, bytes, wire_len) in packets {
            let captured = u32::try_from(bytes.len()).unwrap();
            for word in [*seconds, 5, captured, *wire_len] {
                file.extend(word.to_ne_bytes());
            }
            file.extend(*bytes);
        }
        file
    }

    fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.pcap");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn packets_come_with_their_number_time_and_length() {
        let bytes = pcap_file(1, &[(10, &[1, 2, 3], 60), (11, &[4], 1)]);
        let (_dir, path) = written(&bytes);
        let mut file = CaptureFile::open(&path).unwrap();
        assert_eq!(file.link(), LinkType::EN10MB);
        let packet = file.next_packet().unwrap().unwrap();
        assert_eq!((packet.number, packet.wire_len), (1, 60));
        assert_eq!(packet.bytes, [1, 2, 3]);
        assert_eq!(
            packet.time.unwrap().to_string(),
            "1970-01-01T00:00:10.000005Z"
        );
        assert_eq!(file.next_packet().unwrap().unwrap().number, 2);
        assert_eq!(file.next_packet().unwrap(), None);
        assert_eq!(file.packets_read(), 2);
    }

    #[test]
    fn raw_ip_has_the_number_that_linux_gives_it() {
        let (_dir, path) = written(&pcap_file(101, &[]));
        assert_eq!(CaptureFile::open(&path).unwrap().link(), LinkType::RAW);
    }

    #[test]
    fn broken_files_say_where_and_in_libpcaps_words() {
        let bytes = pcap_file(1, &[(10, &[1, 2, 3], 60), (11, &[4, 5, 6], 3)]);
        for cut in 1..bytes.len() {
            let (_dir, path) = written(&bytes[..cut]);
            let mut file = match CaptureFile::open(&path) {
                Ok(file) => file,
                Err(error) => {
                    assert!(cut < 24, "{cut}: {error}");
                    continue;
                }
            };
            let mut read = 0;
            let error = loop {
                match file.next_packet() {
                    Ok(Some(_)) => read += 1,
                    Ok(None) => break None,
                    Err(error) => break Some(error.to_string()),
                }
            };
            // Between two packets a file that was cut short looks whole.
            let whole = matches!(cut, 24 | 43);
            assert_eq!(error.is_none(), whole, "{cut}: {error:?}");
            if let Some(error) = error {
                assert!(
                    error.contains(&format!("broken after {}: ", counted(read, "packet"))),
                    "{error}"
                );
                assert!(error.contains("truncated"), "{error}");
            }
        }
    }

    #[test]
    fn no_capture_file_is_an_error() {
        for (bytes, words) in [
            (
                &b"hello, this is no capture file"[..],
                "unknown file format",
            ),
            (b"", "truncated"),
        ] {
            let (_dir, path) = written(bytes);
            let error = CaptureFile::open(&path).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(error.matches("file.pcap").count(), 1, "{error}");
        }
        let error = CaptureFile::open(Path::new("/nonexistent/a.pcap"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
