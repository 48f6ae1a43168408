//! How an expression is put together, as far as lists need it.
//!
//! libpcap's grammar: `and` and `or` bind equally and from the left, `not` binds tightest, and an
//! identifier without qualifiers takes those of the one before it, or those in front of its
//! parenthesis. So in `… or X or Y or Z …` on one level, all that stands in front is joined with
//! X, then with Y, then with Z: the three are one list, whatever comes before and behind. The
//! same goes for `… and not X and not Y …`.
//!
//! In place of a list stand two [stand-ins](List::first_stand_in) of each kind of member: one for
//! the first and one for all others. Everything else stays as it is written.

use std::collections::HashSet;

use super::{
    List, MOST_LISTS,
    member::{Class, Kind, Qualifiers, Range, joined},
    tokens::{Placed, Token, tokens},
};

/// Shorter lists are left alone.
const LEAST_MEMBERS: usize = 8;
/// Parentheses in parentheses.
const MOST_LEVELS: usize = 64;

/// An expression with lists in it.
#[derive(Clone, Debug)]
pub(in super::super) struct Plan {
    /// The expression with stand-ins.
    pub(in super::super) reduced: String,
    /// What the stand-ins stand for.
    pub(in super::super) lists: Vec<List>,
    /// The expression as it is written, with a few members of each list.
    pub(in super::super) sample: String,
    /// What the stand-ins stand for in the sample.
    pub(in super::super) sample_lists: Vec<List>,
}

/// Finds the lists of an expression. None: there is none, or the expression is not understood.
pub(in super::super) fn plan(expression: &str) -> Option<Plan> {
    let placed = tokens(expression);
    let mut reader = Reader {
        edits: Vec::new(),
        lists: Vec::new(),
        sample_lists: Vec::new(),
    };
    reader.level(&placed, None, 0)?;
    if reader.edits.is_empty() || reader.lists.len() > MOST_LISTS {
        return None;
    }
    let (mut reduced, mut sample, mut at) = (String::new(), String::new(), 0);
    // An inner level is read before the one around it.
    reader.edits.sort_by_key(|edit| edit.start);
    for edit in &reader.edits {
        let before = expression.get(at..edit.start)?;
        reduced.extend([before, &edit.reduced]);
        sample.extend([before, &edit.sample]);
        at = edit.end;
    }
    let behind = expression.get(at..)?;
    reduced.push_str(behind);
    sample.push_str(behind);
    Some(Plan {
        reduced,
        lists: reader.lists,
        sample,
        sample_lists: reader.sample_lists,
    })
}

/// What stands in place of a list.
struct Edit {
    start: usize,
    end: usize,
    reduced: String,
    sample: String,
}

struct Reader {
    edits: Vec<Edit>,
    lists: Vec<List>,
    sample_lists: Vec<List>,
}

/// What stands between two operators of one level.
struct Item<'a> {
    /// The operator in front, but for the first.
    operator: Option<Token<'a>>,
    negations: usize,
    start: usize,
    end: usize,
    /// No qualifiers, no parentheses.
    bare: bool,
    member: Option<Member<'a>>,
}

struct Member<'a> {
    qualifiers: Qualifiers,
    word: &'a str,
    kind: Kind,
    range: Range,
}

impl Reader {
    /// Reads what stands between two parentheses. `given` are the qualifiers in front of them.
    fn level(
        &mut self,
        placed: &[Placed<'_>],
        given: Option<&Qualifiers>,
        depth: usize,
    ) -> Option<()> {
        if depth > MOST_LEVELS {
            return None;
        }
        let mut items = Vec::new();
        let mut current = given.cloned();
        for (operator, part) in split(placed)? {
            let negations = part.iter().take_while(|one| one.token == Token::Not);
            let negations = negations.count();
            let content = part.get(negations..)?;
            let (start, end) = (part.first()?.start, content.last()?.end);
            let words: Vec<_> = words(content).collect();
            let behind = content.get(words.len()..)?;
            let mut item = Item {
                operator,
                negations,
                start,
                end,
                bare: words.len() == 1 && behind.is_empty(),
                member: None,
            };
            match words.split_last() {
                Some((word, qualifiers)) if behind.is_empty() => {
                    if !item.bare {
                        // Where qualifiers are given, there can be no others.
                        let own = Qualifiers::parse(qualifiers);
                        current = own.filter(|_| given.is_none());
                    }
                    item.member = current.as_ref().and_then(|qualifiers| {
                        let (kind, range) = qualifiers.member(word)?;
                        let qualifiers = qualifiers.clone();
                        Some(Member {
                            qualifiers,
                            word,
                            kind,
                            range,
                        })
                    });
                }
                Some(_) => {
                    if let (Some(inner), Some(qualifiers)) =
                        (group(behind), Qualifiers::parse(&words))
                        && given.is_none()
                    {
                        self.level(inner, Some(&qualifiers), depth + 1)?;
                    }
                }
                None => {
                    if let Some(inner) = group(behind) {
                        self.level(inner, given, depth + 1)?;
                    }
                }
            }
            if item.member.is_none() {
                current = None;
            }
            items.push(item);
        }
        self.runs(&items);
        Some(())
    }

    /// Finds the lists among the items of one level.
    fn runs(&mut self, items: &[Item<'_>]) {
        let mut at = 0;
        while let Some(first) = items.get(at) {
            let run = items.get(at..).unwrap_or_default();
            let length = first.member.as_ref().map_or(1, |member| {
                let rest = run.iter().skip(1);
                1 + rest.take_while(|item| first.goes_on(member, item)).count()
            });
            if length >= LEAST_MEMBERS
                && let Some(run) = run.get(..length)
            {
                self.list(run, first.negations > 0, items.get(at + length));
            }
            at += length;
        }
    }

    fn list(&mut self, run: &[Item<'_>], negated: bool, behind: Option<&Item<'_>>) {
        let members = || run.iter().filter_map(|item| item.member.as_ref());
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return;
        };
        let Some(qualifiers) = members().next_back().map(|member| &member.qualifiers) else {
            return;
        };
        let bare = run.iter().all(|item| item.bare);
        // A stand-in is no range, and what comes behind may be one without a word in front.
        let mut words = qualifiers.words();
        if qualifiers.class == Class::PortRange {
            if bare || behind.is_some_and(|item| item.bare) {
                return;
            }
            words = words.replace("portrange", "port");
        }
        let mut stand_ins = Vec::new();
        let mut sampled = Vec::new();
        for kind in Kind::ALL {
            let of_kind: Vec<_> = members().filter(|member| member.kind == kind).collect();
            let Some((one, rest)) = of_kind.split_first() else {
                continue;
            };
            let list = List {
                kind,
                number: self.lists.len(),
                first: one.range,
                rest: joined(rest.iter().map(|member| member.range).collect()),
            };
            stand_ins.push(kind.text(&list.first_stand_in()));
            if !rest.is_empty() {
                stand_ins.push(kind.text(&list.stand_in()));
            }
            let some = rest.first().into_iter().chain(rest.last());
            let some: Vec<_> = some.map(|member| member.range).collect();
            sampled.extend(some.iter().chain([&one.range]).map(|range| (kind, *range)));
            self.sample_lists.push(List {
                rest: joined(some),
                ..list.clone()
            });
            self.lists.push(list);
        }
        let words = if bare { String::new() } else { words + " " };
        let stand_ins = stand_ins.iter().map(|word| format!("{words}{word}"));
        let stand_ins: Vec<_> = stand_ins.collect();
        let sampled = members().filter(|member| sampled.contains(&(member.kind, member.range)));
        let sampled = sampled.map(|member| match bare {
            true => member.word.to_owned(),
            false => format!("{} {}", member.qualifiers.words(), member.word),
        });
        let mut sampled: Vec<_> = sampled.collect();
        // Members may be in the list twice.
        let mut seen = HashSet::new();
        let last_word = sampled.pop();
        sampled.retain(|word| Some(word) != last_word.as_ref() && seen.insert(word.clone()));
        sampled.extend(last_word);
        let operator = if negated { " and not " } else { " or " };
        let not = if negated { "not " } else { "" };
        self.edits.push(Edit {
            start: first.start,
            end: last.end,
            reduced: format!("{not}{}", stand_ins.join(operator)),
            sample: format!("{not}{}", sampled.join(operator)),
        });
    }
}

impl Item<'_> {
    /// Whether another item, somewhere behind this one, belongs to the same list.
    fn goes_on(&self, member: &Member<'_>, other: &Item<'_>) -> bool {
        let operator = match self.negations {
            0 if matches!(self.operator, None | Some(Token::Or)) => Token::Or,
            1 if matches!(self.operator, None | Some(Token::And)) => Token::And,
            _ => return false,
        };
        let theirs = other.member.as_ref();
        other.negations == self.negations
            && other.operator == Some(operator)
            && theirs.is_some_and(|theirs| theirs.qualifiers.same_place(&member.qualifiers))
    }
}

/// An operator, and what stands behind it as far as the next.
type Part<'a, 'b> = (Option<Token<'a>>, &'b [Placed<'a>]);

/// What stands between the operators of a level. None: something is missing there, or parentheses
/// do not match.
fn split<'a, 'b>(placed: &'b [Placed<'a>]) -> Option<Vec<Part<'a, 'b>>> {
    let mut parts = Vec::new();
    let (mut depth, mut start, mut operator) = (0_usize, 0, None);
    for (at, one) in placed.iter().enumerate() {
        match one.token {
            Token::Open => depth += 1,
            Token::Close => depth = depth.checked_sub(1)?,
            Token::And | Token::Or if depth == 0 => {
                parts.push((operator, placed.get(start..at)?));
                (start, operator) = (at + 1, Some(one.token));
            }
            _ => {}
        }
    }
    parts.push((operator, placed.get(start..)?));
    (depth == 0).then_some(parts)
}

/// What stands in a pair of parentheses that is all there is.
fn group<'a, 'b>(placed: &'b [Placed<'a>]) -> Option<&'b [Placed<'a>]> {
    let [open, inner @ .., close] = placed else {
        return None;
    };
    let mut depth = 0_usize;
    let closed = inner.iter().try_for_each(|one| {
        match one.token {
            Token::Open => depth += 1,
            Token::Close => depth = depth.checked_sub(1)?,
            _ => {}
        }
        Some(())
    });
    (open.token == Token::Open && close.token == Token::Close && closed.is_some()).then_some(inner)
}

fn words<'a>(placed: &[Placed<'a>]) -> impl Iterator<Item = &'a str> {
    placed.iter().map_while(|one| match one.token {
        Token::Word(word) => Some(word),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(numbers: std::ops::Range<u32>, before: &str, between: &str) -> String {
        let hosts: Vec<_> = numbers.map(|n| format!("{before}10.0.0.{n}")).collect();
        hosts.join(between)
    }

    fn reduced(expression: &str) -> String {
        plan(expression).expect(expression).reduced
    }

    const ONE: &str = "91.209.224.0";
    const REST: &str = "91.209.224.1";

    #[test]
    fn lists_are_found_wherever_they_stand() {
        let plain = hosts(1..20, "host ", " or ");
        let bare = hosts(1..20, "", " or ");
        let not = hosts(1..20, "not net ", " and ");
        for (expression, expected) in [
            (plain.clone(), format!("host {ONE} or host {REST}")),
            (
                format!("tcp and ({plain})"),
                format!("tcp and (host {ONE} or host {REST})"),
            ),
            (
                format!("host ({bare}) and tcp"),
                format!("host ({ONE} or {REST}) and tcp"),
            ),
            (
                format!("src host {bare} and tcp"),
                format!("src host {ONE} or src host {REST} and tcp"),
            ),
            (not.clone(), format!("not net {ONE} and not net {REST}")),
            (
                format!("udp || {plain}"),
                format!("udp || host {ONE} or host {REST}"),
            ),
            (
                // Joined with `tcp` is the first alone.
                format!("tcp and host 10.9.9.9 or {plain}"),
                format!("tcp and host 10.9.9.9 or host {ONE} or host {REST}"),
            ),
            (
                format!("not (src or dst host {bare}) and tcp[0] & 1 != 0"),
                format!(
                    "not (src or dst host {ONE} or src or dst host {REST}) and tcp[0] & 1 != 0"
                ),
            ),
        ] {
            assert_eq!(reduced(&expression), expected, "{expression}");
        }
        let plan = plan(&plain).unwrap();
        assert_eq!(
            plan.sample,
            "host 10.0.0.1 or host 10.0.0.2 or host 10.0.0.19"
        );
        let ten = 0x0a00_0000;
        let [list] = &plan.lists[..] else { panic!() };
        assert_eq!(
            (list.first, &list.rest[..]),
            ((ten + 1, ten + 1), &[(ten + 2, ten + 19)][..])
        );
        assert_eq!(
            plan.sample_lists[0].rest,
            [(ten + 2, ten + 2), (ten + 19, ten + 19)]
        );
    }

    #[test]
    fn kinds_and_places_are_kept_apart() {
        let mixed: Vec<_> = (1..9)
            .flat_map(|n| [format!("host 10.0.0.{n}"), format!("host ::{n}")])
            .collect();
        let plan = plan(&mixed.join(" or ")).unwrap();
        let kinds: Vec<_> = plan.lists.iter().map(|list| list.kind).collect();
        assert_eq!(kinds, [Kind::V4, Kind::V6]);
        assert!(
            plan.reduced
                .starts_with(&format!("host {ONE} or host {REST} or host 3bd1:"))
        );
        let sources = hosts(1..9, "src host ", " or ");
        let targets = hosts(1..9, "dst host ", " or ");
        assert_eq!(
            reduced(&format!("{sources} or {targets}")),
            format!(
                "src host {ONE} or src host {REST} or dst host 91.209.224.4 or dst host 91.209.224.5"
            )
        );
        let ports: Vec<_> = (1..9)
            .map(|n| format!("tcp portrange {n}00-{n}50"))
            .collect();
        assert_eq!(
            reduced(&ports.join(" or ")),
            "tcp port 57760 or tcp port 57761"
        );
        // A wrong member stays where it is, for libpcap to say so.
        let wrong = format!(
            "{} or host 10.0.0.256 or {}",
            hosts(1..9, "host ", " or "),
            hosts(1..9, "host ", " or ")
        );
        assert!(reduced(&wrong).contains("or host 10.0.0.256 or"));
    }

    #[test]
    fn what_is_no_list_is_left_alone() {
        let bare = hosts(1..20, "", " or ");
        for expression in [
            String::new(),
            "tcp".into(),
            hosts(1..8, "host ", " or "),
            hosts(1..20, "host ", " and "),
            hosts(1..20, "not host ", " or "),
            bare.clone(),
            format!("host (({bare})"),
            format!("host ({bare}))"),
            format!("{} or", hosts(1..20, "host ", " or ")),
            hosts(1..20, "host ", " or or "),
            format!("tcp or {bare}"),
            hosts(1..20, "tcp host ", " or "),
            hosts(1..20, "src and dst host ", " or "),
            format!("{}tcp{}", "(".repeat(100), ")".repeat(100)),
        ] {
            assert!(plan(&expression).is_none(), "{expression}");
        }
    }
}
