//! The interfaces that a pcapng file names, which libpcap does not tell.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>: a file is a list of blocks,
//! each with its type and length in front and its length again behind. Only three kinds are looked
//! into: a section's header (byte order), an interface's description, and a packet's first word.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek as _},
    path::Path,
};

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;
/// The option of an interface's description that has its name.
const NAME: u16 = 2;

/// An interface's description is not longer.
const MAX_DESCRIPTION: u32 = 64 * 1024;
/// Interfaces of one file.
const MAX_INTERFACES: usize = 4096;

/// What a capture file says about interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// It is no pcapng file, so it says nothing.
    None,
    /// For each interface that packets came from, in the order of the file.
    Listed(Vec<InterfaceCount>),
    /// It is a pcapng file that cannot be read.
    Unreadable(String),
}

/// An interface of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceCount {
    /// The name; none if the file leaves it out.
    pub name: Option<String>,
    /// Packets that the file says came from it.
    pub packets: u64,
}

/// Reads which interfaces a pcapng file names, and how many packets came from each.
///
/// # Errors
///
/// The file cannot be read. What is wrong inside it is [`Names::Unreadable`].
pub fn interface_names(path: &Path) -> io::Result<Names> {
    let mut stream = BufReader::new(File::open(path)?);
    let mut first = [0; 4];
    match stream.read_exact(&mut first) {
        Ok(()) if u32::from_be_bytes(first) == SECTION => {}
        Ok(()) => return Ok(Names::None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Names::None),
        Err(error) => return Err(error),
    }
    stream.rewind()?;
    let mut reader = Reader {
        stream,
        little: true,
        interfaces: Vec::new(),
        section: 0,
        seen: BTreeMap::new(),
    };
    match reader.blocks() {
        Ok(()) => Ok(Names::Listed(reader.finish())),
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Ok(Names::Unreadable(error.to_string()))
            }
            _ => Err(error),
        },
    }
}

struct Reader {
    stream: BufReader<File>,
    little: bool,
    interfaces: Vec<Option<String>>,
    /// Where the interfaces of this section begin.
    section: usize,
    /// Packets of each interface.
    seen: BTreeMap<usize, u64>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Reader {
    fn word(&self, bytes: [u8; 4]) -> u32 {
        if self.little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        }
    }

    fn half(&self, bytes: [u8; 2]) -> u16 {
        if self.little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        }
    }

    fn next_word(&mut self) -> io::Result<[u8; 4]> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn blocks(&mut self) -> io::Result<()> {
        while !io::BufRead::fill_buf(&mut self.stream)?.is_empty() {
            let kind = self.next_word()?;
            let length = self.next_word()?;
            // The two halves of a section's type are the same in either order.
            let mut read = 8;
            if u32::from_be_bytes(kind) == SECTION {
                let magic = self.next_word()?;
                read = 12;
                self.little = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
                    (BYTE_ORDER, _) => true,
                    (_, BYTE_ORDER) => false,
                    _ => return Err(invalid("a section has no byte order")),
                };
                self.section = self.interfaces.len();
            }
            let (kind, length) = (self.word(kind), self.word(length));
            if length < read + 4 || !length.is_multiple_of(4) {
                return Err(invalid("a block has an impossible length"));
            }
            let body = length - read - 4;
            let left = match kind {
                INTERFACE => {
                    self.interface(body)?;
                    0
                }
                PACKET | OLD_PACKET if body >= 4 => {
                    let bytes = self.next_word()?;
                    let number = match kind {
                        PACKET => self.word(bytes),
                        _ => self.half([bytes[0], bytes[1]]).into(),
                    };
                    self.packet(number)?;
                    body - 4
                }
                SIMPLE_PACKET => {
                    self.packet(0)?;
                    body
                }
                _ => body,
            };
            self.stream.seek_relative(left.into())?;
            let again = self.next_word()?;
            if self.word(again) != length {
                return Err(invalid("a block's two lengths differ"));
            }
        }
        Ok(())
    }

    fn packet(&mut self, number: u32) -> io::Result<()> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let number = self.section.saturating_add(number);
        if number >= self.interfaces.len() {
            return Err(invalid(
                "a packet comes from an interface that is not described",
            ));
        }
        *self.seen.entry(number).or_default() += 1;
        Ok(())
    }

    fn interface(&mut self, body: u32) -> io::Result<()> {
        if !(8..=MAX_DESCRIPTION).contains(&body) {
            return Err(invalid(
                "an interface's description has an impossible length",
            ));
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(invalid("too many interfaces"));
        }
        let mut bytes = vec![0; usize::try_from(body).unwrap_or_default()];
        self.stream.read_exact(&mut bytes)?;
        let mut options = bytes.get(8..).unwrap_or_default();
        let mut name = None;
        while let Some(([a, b, c, d], rest)) = options.split_first_chunk::<4>() {
            let (code, length) = (self.half([*a, *b]), self.half([*c, *d]));
            if code == 0 {
                break;
            }
            let length = usize::from(length);
            let Some(value) = rest.get(..length) else {
                return Err(invalid("an option of an interface is cut short"));
            };
            if code == NAME {
                name = Some(
                    String::from_utf8_lossy(value)
                        .trim_end_matches('\0')
                        .to_owned(),
                );
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        self.interfaces.push(name);
        Ok(())
    }

    fn finish(self) -> Vec<InterfaceCount> {
        let counts = self.seen.iter().filter_map(|(number, packets)| {
            let name = self.interfaces.get(*number)?.clone();
            Some(InterfaceCount {
                name,
                packets: *packets,
            })
        });
        counts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 12).unwrap();
        [
            &kind.to_le_bytes()[..],
            &length.to_le_bytes(),
            body,
            &length.to_le_bytes(),
        ]
        .concat()
    }

    fn file() -> Vec<u8> {
        let mut section = BYTE_ORDER.to_le_bytes().to_vec();
        section.extend([1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        let interface = |name: &[u8; 4]| {
            let head = [1, 0, 0, 0, 0, 0, 4, 0, 2, 0, 4, 0];
            block(INTERFACE, &[&head[..], name, &[0; 4]].concat())
        };
        let packet = |number: u8| block(PACKET, &[&[number, 0, 0, 0][..], &[0; 16]].concat());
        [
            block(SECTION, &section),
            interface(b"veth"),
            interface(b"lo\0\0"),
            packet(1),
            block(0xbad, &[0; 8]),
            packet(1),
        ]
        .concat()
    }

    fn names(bytes: &[u8]) -> Names {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, bytes).unwrap();
        interface_names(file.path()).unwrap()
    }

    #[test]
    fn interfaces_of_packets_are_listed() {
        let lo = InterfaceCount {
            name: Some("lo".to_owned()),
            packets: 2,
        };
        assert_eq!(names(&file()), Names::Listed(vec![lo]));
        assert_eq!(names(b"\xd4\xc3\xb2\xa1 classic"), Names::None);
        assert_eq!(names(b""), Names::None);
    }

    #[test]
    fn whatever_a_file_holds_is_read_or_refused() {
        let whole = file();
        let mut refused = 0;
        for at in 0..whole.len() {
            assert_ne!(names(&whole[..at]), names(&whole), "cut at {at}");
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                refused += u32::from(matches!(names(&changed), Names::Unreadable(_)));
            }
        }
        assert!(refused > 50, "{refused}");
    }
}
