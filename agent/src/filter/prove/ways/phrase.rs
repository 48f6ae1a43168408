//! Conditions in the words of whoever writes filters.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{
    super::{
        super::{
            LinkType, SocketForm,
            program::{AluOp, Ancillary, Size, Test},
        },
        well_formed::{ARP, IPV4, IPV6, RARP, network_offset, type_offset},
    },
    Wording,
    path::{Condition, Number, What},
};

/// Values that are told of a list.
const MAX_VALUES: usize = 6;

/// What a packet has to be in one respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phrase {
    /// In which respect; phrases of one respect can be joined.
    subject: String,
    /// What it may be, if that is a list.
    values: Vec<String>,
    /// Which condition it stands for, if for one alone.
    pub(super) condition: Option<usize>,
    /// Whether it says which version of IP, or what else, a packet is.
    pub(super) is_version: bool,
}

/// `source port 80, 443 or 8080`; a long list is shortened, but not in the alternate form.
impl fmt::Display for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)?;
        let told = if f.alternate() {
            self.values.len()
        } else {
            MAX_VALUES
        };
        let more = self.values.len().saturating_sub(told);
        for (at, value) in self.values.iter().take(told).enumerate() {
            let before = match at {
                0 if self.subject.is_empty() => "",
                0 => " ",
                _ if at + 1 == self.values.len() => " or ",
                _ => ", ",
            };
            write!(f, "{before}{value}")?;
        }
        if more > 0 {
            write!(f, " or one of {more} more")?;
        }
        Ok(())
    }
}

impl Phrase {
    pub(super) fn wording(&self) -> Wording {
        Wording {
            whole: format!("{self:#}"),
            short: self.to_string(),
        }
    }
}

/// Where two ways differ, if that is in one place only, and both have lists there.
fn difference<'a>(
    one: &'a [Phrase],
    other: &'a [Phrase],
) -> Option<(usize, &'a Phrase, &'a Phrase)> {
    if one.len() != other.len() {
        return None;
    }
    let pairs = one.iter().zip(other).enumerate();
    let mut differ = pairs.filter(|(_, (a, b))| !a.says_what(b));
    let (at, (a, b)) = differ.next()?;
    let lists = !a.values.is_empty() && !b.values.is_empty();
    (differ.next().is_none() && lists).then_some((at, a, b))
}

/// What two ways come to if they differ in the direction only.
pub(super) fn both_directions(one: &[Phrase], other: &[Phrase]) -> Option<Vec<Phrase>> {
    let (at, a, b) = difference(one, other)?;
    let rest =
        |phrase: &Phrase, direction| phrase.subject.strip_prefix(direction).map(str::to_owned);
    let what = match (rest(a, "source "), rest(b, "destination ")) {
        (Some(from), Some(to)) if from == to => from,
        _ => match (rest(a, "destination "), rest(b, "source ")) {
            (Some(to), Some(from)) if from == to => from,
            _ => return None,
        },
    };
    if !same_values(&a.values, &b.values) {
        return None;
    }
    let mut joined = one.to_vec();
    joined.get_mut(at)?.subject = format!("source or destination {what}");
    Some(joined)
}

/// What two ways come to if they differ in one list only.
pub(super) fn either_value(one: &[Phrase], other: &[Phrase]) -> Option<Vec<Phrase>> {
    let (at, a, b) = difference(one, other)?;
    if a.subject != b.subject {
        return None;
    }
    let mut joined = one.to_vec();
    let values = &mut joined.get_mut(at)?.values;
    for value in &b.values {
        if !values.contains(value) {
            values.push(value.clone());
        }
    }
    if !a.subject.is_empty() {
        values.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    }
    Some(joined)
}

fn same_values(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|value| other.contains(value))
}

impl Phrase {
    fn says_what(&self, other: &Self) -> bool {
        self.subject == other.subject && same_values(&self.values, &other.values)
    }
}

/// Whether a condition says what kind of packet it is: the EtherType, or the protocol behind IP.
pub(super) fn gives_kind(condition: &Condition, form: SocketForm) -> bool {
    let What::Test {
        left,
        test: Test::Equal,
        holds: true,
        ..
    } = &condition.what
    else {
        return false;
    };
    // Either version has its protocol in one of these places.
    let names = Names::new(&[], form);
    let place = |at: u32| Number::Load {
        size: Size::Byte,
        index: None,
        offset: names.network.unwrap_or(0).saturating_add(at).cast_signed(),
    };
    names.is_type(left) || **left == place(6) || **left == place(9)
}

/// What the conditions of one way say, in their order.
pub(super) fn phrases(conditions: &[Condition], form: SocketForm) -> Vec<Phrase> {
    let names = Names::new(conditions, form);
    let mut phrases: Vec<Phrase> = Vec::new();
    let mut at = 0;
    while let Some(condition) = conditions.get(at) {
        let (phrase, used) = names.phrase(conditions.get(at..).unwrap_or_default(), condition);
        if let Some(mut phrase) = phrase {
            phrase.condition = (used == 1).then_some(at);
            let known = phrases.iter().any(|one| one.says_what(&phrase));
            if !known {
                phrases.push(phrase);
            }
        }
        at += used;
    }
    phrases
}

/// What fields are called in packets of a way.
struct Names {
    network: Option<u32>,
    type_at: Option<u32>,
    form: SocketForm,
    ether_type: Option<u16>,
}

/// A field of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    EtherType,
    Protocol,
    Fragment,
    Port(&'static str),
    Address(&'static str),
    /// A part of an IPv6 address, by its number.
    Address6(&'static str, u32),
}

impl Names {
    fn new(conditions: &[Condition], form: SocketForm) -> Self {
        let mut names = Self {
            network: network_offset(form).map(u32::from),
            type_at: type_offset(form).map(u32::from),
            form,
            ether_type: None,
        };
        names.ether_type = conditions
            .iter()
            .find_map(|condition| match &condition.what {
                What::Test {
                    left,
                    test: Test::Equal,
                    right,
                    holds: true,
                } if names.is_type(left) => match &**right {
                    Number::Constant(kind) => u16::try_from(*kind).ok(),
                    _ => None,
                },
                _ => None,
            });
        if form == SocketForm::Raw(LinkType::RAW) {
            names.ether_type = conditions.iter().find_map(version_of);
        }
        names
    }

    fn is_type(&self, number: &Number) -> bool {
        match number {
            Number::Ancillary(Ancillary::Protocol) => self.form == SocketForm::Cooked,
            Number::Load {
                size: Size::Half,
                index: None,
                offset,
            } => u32::try_from(*offset).is_ok_and(|at| Some(at) == self.type_at),
            _ => false,
        }
    }

    fn field(&self, number: &Number) -> Option<Field> {
        if self.is_type(number) {
            return Some(Field::EtherType);
        }
        let Number::Load {
            size,
            index,
            offset,
        } = number
        else {
            return None;
        };
        let at = u32::try_from(*offset).ok()?.checked_sub(self.network?)?;
        if let Some(index) = index {
            let behind = matches!(**index, Number::HeaderLength(from) if u32::try_from(from).ok() == self.network);
            return match (at, size) {
                (0, Size::Half) if behind => Some(Field::Port("source port")),
                (2, Size::Half) if behind => Some(Field::Port("destination port")),
                _ => None,
            };
        }
        Some(match (self.ether_type?, at, size) {
            (IPV4, 9, Size::Byte) => Field::Protocol,
            (IPV4, 6, Size::Half) => Field::Fragment,
            (IPV4, 12, Size::Word) => Field::Address("source address"),
            (IPV4, 16, Size::Word) => Field::Address("destination address"),
            (ARP | RARP, 14, Size::Word) => Field::Address("source address"),
            (ARP | RARP, 24, Size::Word) => Field::Address("destination address"),
            (IPV6, 6, Size::Byte) => Field::Protocol,
            (IPV6, 40, Size::Half) => Field::Port("source port"),
            (IPV6, 42, Size::Half) => Field::Port("destination port"),
            (IPV6, 8 | 12 | 16 | 20, Size::Word) => Field::Address6("source address", (at - 8) / 4),
            (IPV6, 24 | 28 | 32 | 36, Size::Word) => {
                Field::Address6("destination address", (at - 24) / 4)
            }
            _ => return None,
        })
    }

    /// What the first of some conditions says, and how many more it takes for that.
    fn phrase(&self, rest: &[Condition], condition: &Condition) -> (Option<Phrase>, usize) {
        let What::Test {
            left,
            test,
            right,
            holds,
        } = &condition.what
        else {
            return (None, 1); // well-formed packets are long enough
        };
        let Number::Constant(value) = **right else {
            let text = compared(
                &spell(left, self.form),
                *test,
                &spell(right, self.form),
                *holds,
            );
            return (Some(fixed(text)), 1);
        };
        if let Some(phrase) = self.hardware_address(rest) {
            return (Some(phrase), 2);
        }
        let (number, mask) = masked(left);
        if let Some(Field::Address6(subject, 0)) = self.field(number)
            && *test == Test::Equal
            && *holds
        {
            let (phrase, used) = self.address6(rest, subject);
            return (Some(phrase), used);
        }
        let phrase = self
            .field(number)
            .and_then(|field| simple(field, mask, *test, value, *holds));
        let phrase = phrase.unwrap_or_else(|| {
            let number_words = match **left {
                Number::Length | Number::HeaderLength(_) => value.to_string(),
                _ => hexadecimal(value),
            };
            fixed(compared(
                &spell(left, self.form),
                *test,
                &number_words,
                *holds,
            ))
        });
        (Some(phrase), 1)
    }

    /// An Ethernet address, whose last four bytes are tested first.
    fn hardware_address(&self, rest: &[Condition]) -> Option<Phrase> {
        if self.form != SocketForm::Raw(LinkType::EN10MB) {
            return None;
        }
        let part = |at: usize| match &rest.get(at)?.what {
            What::Test {
                left,
                test: Test::Equal,
                right,
                holds: true,
            } => match (&**left, &**right) {
                (
                    Number::Load {
                        size,
                        index: None,
                        offset,
                    },
                    Number::Constant(value),
                ) => Some((*size, *offset, *value)),
                _ => None,
            },
            _ => None,
        };
        let subject = match (part(0)?, part(1)?) {
            ((Size::Word, 2, _), (Size::Half, 0, _)) => "destination Ethernet address",
            ((Size::Word, 8, _), (Size::Half, 6, _)) => "source Ethernet address",
            _ => return None,
        };
        let [_, _, a, b] = part(1)?.2.to_be_bytes();
        let [c, d, e, f] = part(0)?.2.to_be_bytes();
        let address = [a, b, c, d, e, f].map(|byte| format!("{byte:02x}"));
        Some(list(subject, address.join(":")))
    }

    /// An IPv6 address or network, which is tested four bytes at a time.
    fn address6(&self, rest: &[Condition], subject: &'static str) -> (Phrase, usize) {
        let (mut words, mut masks) = ([0_u32; 4], [0_u32; 4]);
        let mut used = 0;
        for condition in rest {
            let mut next = |number: &Number, mask: u32, value: u32| {
                let Some(Field::Address6(which, part)) = self.field(number) else {
                    return false;
                };
                let slot = usize::try_from(part).unwrap_or(4);
                match (words.get_mut(slot), masks.get_mut(slot)) {
                    (Some(word), Some(known)) if which == subject && *known == 0 => {
                        (*word, *known) = (value, mask);
                        true
                    }
                    _ => false,
                }
            };
            let goes_on = match &condition.what {
                What::Succeeds(_) => used > 0,
                What::Test {
                    left,
                    test: Test::Equal,
                    right,
                    holds: true,
                } => match &**right {
                    Number::Constant(value) => {
                        let (number, mask) = masked(left);
                        next(number, mask, *value)
                    }
                    _ => false,
                },
                What::Test { .. } => false,
            };
            if !goes_on {
                break;
            }
            used += 1;
        }
        let whole = |words: [u32; 4]| {
            words
                .into_iter()
                .fold(0_u128, |whole, word| whole << 32 | u128::from(word))
        };
        let (address, mask) = (Ipv6Addr::from(whole(words)), whole(masks));
        let bits = mask.leading_ones();
        let value = match (bits, mask.count_ones() == bits) {
            (128, _) => address.to_string(),
            (bits, true) => format!("in {address}/{bits}"),
            _ => format!("in {address} under the mask {}", Ipv6Addr::from(mask)),
        };
        (list(subject, value), used.max(1))
    }
}

/// Which version of IP a test of a raw packet's first byte means.
fn version_of(condition: &Condition) -> Option<u16> {
    let What::Test {
        left,
        test: Test::Equal,
        right,
        holds: true,
    } = &condition.what
    else {
        return None;
    };
    let (
        Number::Constant(value),
        (
            Number::Load {
                offset: 0,
                size: Size::Byte,
                index: None,
            },
            0xf0,
        ),
    ) = (&**right, masked(left))
    else {
        return None;
    };
    match value {
        0x40 => Some(IPV4),
        0x60 => Some(IPV6),
        _ => None,
    }
}

fn list(subject: &str, value: String) -> Phrase {
    Phrase {
        subject: subject.to_owned(),
        values: vec![value],
        condition: None,
        is_version: false,
    }
}

fn fixed(subject: String) -> Phrase {
    Phrase {
        subject,
        values: Vec::new(),
        condition: None,
        is_version: false,
    }
}

/// A number without the mask that is laid over it.
fn masked(number: &Number) -> (&Number, u32) {
    match number {
        Number::Alu(AluOp::And, left, right) => match (&**left, &**right) {
            (number, Number::Constant(mask)) | (Number::Constant(mask), number) => (number, *mask),
            _ => (number, u32::MAX),
        },
        number => (number, u32::MAX),
    }
}

/// A test of a field that has a name.
fn simple(field: Field, mask: u32, test: Test, value: u32, holds: bool) -> Option<Phrase> {
    let whole = mask == u32::MAX;
    Some(match (field, test, holds) {
        (Field::EtherType, Test::Equal, true) if whole => Phrase {
            is_version: true,
            ..list("", ether_type(value))
        },
        (Field::EtherType, Test::Equal, false) if whole => {
            fixed(format!("not {}", ether_type(value)))
        }
        (Field::Protocol, Test::Equal, true) if whole => list("", protocol(value)),
        (Field::Protocol, Test::Equal, false) if whole => fixed(format!("not {}", protocol(value))),
        (Field::Fragment, Test::AnyBit, holds) if whole && value == 0x1fff => fixed(
            if holds {
                "a later fragment"
            } else {
                "not a later fragment"
            }
            .to_owned(),
        ),
        (Field::Fragment, Test::Equal, holds) if mask == 0x1fff && value == 0 => fixed(
            if holds {
                "not a later fragment"
            } else {
                "a later fragment"
            }
            .to_owned(),
        ),
        (Field::Port(name), Test::Equal, true) if whole => list(name, value.to_string()),
        (Field::Port(name), test, holds) if whole => {
            fixed(compared(name, test, &value.to_string(), holds))
        }
        (Field::Address(name), Test::Equal, true) => list(name, network(value, mask)),
        (Field::Address(name), Test::Equal, false) => {
            fixed(format!("{name} is not {}", network(value, mask)))
        }
        _ => return None,
    })
}

fn network(value: u32, mask: u32) -> String {
    let address = Ipv4Addr::from(value);
    let bits = mask.leading_ones();
    match (bits, mask.count_ones() == bits) {
        (32, _) => address.to_string(),
        (bits, true) => format!("in {address}/{bits}"),
        _ => format!("in {address} under the mask {}", Ipv4Addr::from(mask)),
    }
}

fn ether_type(value: u32) -> String {
    match value {
        0x0800 => "IPv4".to_owned(),
        0x86dd => "IPv6".to_owned(),
        0x0806 => "ARP".to_owned(),
        0x8035 => "RARP".to_owned(),
        0x8100 => "VLAN tag 0x8100".to_owned(),
        0x88a8 => "VLAN tag 0x88a8".to_owned(),
        0x9100 => "VLAN tag 0x9100".to_owned(),
        0x8847 => "MPLS".to_owned(),
        0x8863 => "PPPoE discovery".to_owned(),
        0x8864 => "PPPoE".to_owned(),
        other => format!("EtherType 0x{other:04x}"),
    }
}

fn protocol(value: u32) -> String {
    match value {
        1 => "ICMP".to_owned(),
        2 => "IGMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        44 => "IPv6 fragment header".to_owned(),
        47 => "GRE".to_owned(),
        50 => "ESP".to_owned(),
        51 => "AH".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("IP protocol {other}"),
    }
}

fn compared(left: &str, test: Test, right: &str, holds: bool) -> String {
    if test == Test::AnyBit {
        let not = if holds { "not " } else { "" };
        return format!("{left} & {right} is {not}0");
    }
    let text = equality(left, test, right, holds);
    // Several bytes are one number.
    if left.starts_with("bytes ") && !left.contains('&') {
        text.replacen(" is ", " are ", 1)
    } else {
        text
    }
}

fn equality(left: &str, test: Test, right: &str, holds: bool) -> String {
    match (test, holds) {
        (Test::Equal, true) => format!("{left} is {right}"),
        (Test::Equal, false) => format!("{left} is not {right}"),
        (Test::Greater, true) => format!("{left} is more than {right}"),
        (Test::Greater, false) => format!("{left} is at most {right}"),
        (Test::GreaterOrEqual, true) => format!("{left} is at least {right}"),
        (Test::GreaterOrEqual, false) => format!("{left} is less than {right}"),
        (Test::AnyBit, true) => format!("{left} has some of {right}"),
        (Test::AnyBit, false) => format!("{left} has none of {right}"),
    }
}

fn hexadecimal(value: u32) -> String {
    if value < 10 {
        value.to_string()
    } else {
        format!("0x{value:x}")
    }
}

/// A number that has no name.
fn spell(number: &Number, form: SocketForm) -> String {
    match number {
        Number::Constant(value) => hexadecimal(*value),
        Number::Length => "the length".to_owned(),
        Number::HeaderLength(_) => "the IP header's length".to_owned(),
        Number::Ancillary(what) => what.words().to_owned(),
        Number::Load {
            size,
            index,
            offset,
        } => {
            let bytes = i32::try_from(size.bytes()).unwrap_or(1);
            let network = network_offset(form).map(i32::from);
            let (from, base) = match index.as_deref() {
                None => (*offset, String::new()),
                Some(Number::HeaderLength(at)) if Some(*at) == network => (
                    offset.wrapping_sub(network.unwrap_or(0)),
                    " of the transport header".to_owned(),
                ),
                Some(index) => (*offset, format!(" from byte ({})", spell(index, form))),
            };
            match bytes {
                1 => format!("byte {from}{base}"),
                bytes => format!("bytes {from}–{}{base}", from.wrapping_add(bytes - 1)),
            }
        }
        Number::Alu(op, left, right) => {
            let sign = match op {
                AluOp::Add => "+",
                AluOp::Sub => "-",
                AluOp::Mul => "*",
                AluOp::Div => "/",
                AluOp::Mod => "%",
                AluOp::And => "&",
                AluOp::Or => "|",
                AluOp::Xor => "^",
                AluOp::Shl => "<<",
                AluOp::Shr => ">>",
            };
            let side = |number: &Number| match number {
                Number::Alu(..) => format!("({})", spell(number, form)),
                number => spell(number, form),
            };
            format!("{} {sign} {}", side(left), side(right))
        }
    }
}
