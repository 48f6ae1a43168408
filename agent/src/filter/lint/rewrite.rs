//! Rewrites: the filter, and statements of what a packet has to be. Only those that are proved are
//! offered.

use super::{
    super::{
        Containment, Example, Hiding, LinkType, Mark, Origin, Program, SocketForm, dropped, hides,
        prove::{TUNNEL_PORTS, prove},
    },
    Work,
};

/// A filter in place of another. It is proved to accept nothing that the other does not, and to
/// refuse what the other refuses in the disguises that it is to close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The expression.
    pub expression: String,
    /// What it keeps of the other.
    pub keeps: Keeps,
}

/// What a rewrite keeps of the plain packets that the filter accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All of them.
    All,
    /// Not this one, for example.
    AllBut(Box<Example>),
    /// It could not be told.
    Unknown,
}

impl Work<'_> {
    /// The filter with a statement for each field by which a disguise can be told, and compiled.
    pub(super) fn rewrite(
        &self,
        text: &str,
        program: &Program,
        marks: &[Mark],
        hidings: &[Hiding],
    ) -> Option<(Rewrite, Program)> {
        let statement = statement(marks, self.form);
        // `vlan` and its like shift what stands behind them.
        let orders = [
            format!("{statement} and ({text})"),
            format!("({text}) and {statement}"),
        ];
        orders.into_iter().find_map(|expression| {
            let closed = self
                .compiler
                .compile_for(&expression, self.form, Origin::Policy)
                .ok()??;
            let is_closed = self.is_closed(program, &closed, hidings);
            is_closed.then(|| {
                let keeps = self.keeps(program, &closed, marks);
                (Rewrite { expression, keeps }, closed)
            })
        })
    }

    fn is_closed(&self, before: &Program, after: &Program, hidings: &[Hiding]) -> bool {
        let Ok(budget) = self.budget() else {
            return false;
        };
        if prove(after, before, self.form, budget) != Containment::Contained {
            return false;
        }
        let mut wanted = self
            .all
            .iter()
            .filter(|disguise| hidings.contains(&disguise.hiding));
        wanted.all(|disguise| {
            let budget = self.budget();
            let pair = budget.and_then(|budget| hides(before, after, disguise, self.form, budget));
            matches!(pair, Ok(None))
        })
    }

    fn keeps(&self, before: &Program, after: &Program, marks: &[Mark]) -> Keeps {
        let with_arp = !marks.contains(&Mark::Arp);
        let lost = self
            .budget()
            .and_then(|budget| dropped(before, after, with_arp, self.form, budget));
        match lost {
            Ok(None) => Keeps::All,
            Ok(Some(example)) => Keeps::AllBut(Box::new(example)),
            Err(_) => Keeps::Unknown,
        }
    }
}

/// What a packet has to be, so that none of these fields gives a disguise away.
fn statement(marks: &[Mark], form: SocketForm) -> String {
    let has = |mark| marks.contains(&mark);
    let mut all = Vec::new();
    if form != SocketForm::Raw(LinkType::RAW) {
        if has(Mark::Arp) {
            all.push("(ip or ip6)".to_owned());
        } else if has(Mark::EtherType) {
            all.push("(ip or ip6 or arp)".to_owned());
        }
    }
    let mut four = Vec::new();
    if has(Mark::FragmentOffset) {
        four.push("ip[6:2] & 0x1fff = 0");
    }
    if has(Mark::Protocol) {
        four.push("(ip proto 1 or ip proto 6 or ip proto 17)"); // ICMP, TCP, UDP
    }
    if !four.is_empty() {
        // `and` binds no closer than `or`.
        all.push(format!("(not ip or ({}))", four.join(" and ")));
    }
    if has(Mark::NextHeader) {
        all.push("(not ip6 or ip6[6] = 6 or ip6[6] = 17 or ip6[6] = 58)".to_owned());
    }
    if has(Mark::UdpPort) {
        let ports = TUNNEL_PORTS.map(|port| format!("udp dst port {port}"));
        all.push(format!("not ({})", ports.join(" or ")));
    }
    if has(Mark::IcmpType) {
        all.push("(not icmp or icmp[0] = 0 or icmp[0] = 8)".to_owned());
    }
    if has(Mark::Icmp6Type) {
        all.push("(not icmp6 or icmp6[0] >= 128)".to_owned());
    }
    all.join(" and ")
}
