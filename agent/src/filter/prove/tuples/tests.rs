use super::*;

/// Every pair of two words of three bits.
fn pairs() -> impl Iterator<Item = (u32, u32)> {
    (0..64).map(|pair| (pair >> 3, pair & 7))
}

fn has(set: &Tuples, (first, second): (u32, u32)) -> bool {
    let rest = |set: &Tuples, value: u32| {
        let case = set
            .cases()
            .iter()
            .find(|case| (case.low..=case.high).contains(&value));
        case.map(|case| case.rest.clone())
    };
    rest(set, first).is_some_and(|set| rest(&set, second).is_some())
}

/// Sets in as many shapes as a few numbers make: whole words, single pairs, ranges of both.
fn sets() -> Vec<Tuples> {
    let mut sets = vec![Tuples::All, Tuples::nothing()];
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 29
    };
    for size in [1, 1, 2, 2, 3, 5, 8, 12, 20] {
        let mut set = Tuples::nothing();
        for _ in 0..size {
            let mut range = || {
                let (one, other) = (random(), random());
                Ranges::from_pairs(vec![(one.min(other), one.max(other))])
            };
            let (first, second, whole) = (range(), range(), range().pairs()[0].0 == 0);
            let mut one = Tuples::All.restricted(0, &first);
            if !whole {
                one = one.restricted(1, &second);
            }
            set.join(&one);
        }
        sets.push(set);
    }
    sets
}

#[test]
fn sets_are_cut_and_joined() {
    let sets = sets();
    for one in &sets {
        for other in &sets {
            let mut joined = one.clone();
            joined.join(other);
            let mut most = [100; 2];
            let [a, b] = &mut most;
            let (without, both) = (one.without(other, a), one.and(other, b));
            let (without, both) = (without.unwrap(), both.unwrap());
            for pair in pairs() {
                let (in_one, in_other) = (has(one, pair), has(other, pair));
                assert_eq!(has(&joined, pair), in_one || in_other, "{one:?} {other:?}");
                assert_eq!(
                    has(&without, pair),
                    in_one && !in_other,
                    "{one:?} {other:?}"
                );
                assert_eq!(has(&both, pair), in_one && in_other, "{one:?} {other:?}");
            }
            let leaves = without.leaves(100).unwrap();
            if let Some(mut fewer) = leaves.checked_sub(1) {
                assert_eq!(one.without(other, &mut fewer), None);
            }
        }
        for (low, high) in [(0, 0), (2, 5), (7, 7), (0, 7)] {
            let range = Ranges::from_pairs(vec![(low, high)]);
            for pair in pairs() {
                let within = |value: u32| (low..=high).contains(&value);
                let kept = [one.restricted(0, &range), one.restricted(1, &range)];
                assert_eq!(has(&kept[0], pair), has(one, pair) && within(pair.0));
                assert_eq!(has(&kept[1], pair), has(one, pair) && within(pair.1));
            }
        }
    }
}

#[test]
fn sets_are_cut_by_their_last_word() {
    for set in sets().into_iter().filter(|set| set.depth() == 2) {
        let split = set.split(1, (0, 7));
        for pair in pairs() {
            let most = has(&split.begin, pair) && !has(&split.except, pair);
            assert_eq!(has(&split.few, pair) || most, has(&set, pair), "{set:?}");
        }
        for case in split.few.cases().iter().chain(split.except.cases()) {
            let values = case.rest.cases().iter();
            let size: u64 = values.map(|case| u64::from(case.high - case.low) + 1).sum();
            assert!(size <= 4 || case.rest == Tuples::All, "{set:?}");
        }
    }
}

#[test]
fn conditions_hold_for_the_values() {
    let mut graph = Graph::new(1 << 20);
    let words = [Word::free(&mut graph, 3), Word::free(&mut graph, 3)];
    for set in sets() {
        let normal = set.normal(&words);
        let holds = [
            set.contain(&mut graph, &words),
            normal.contain(&mut graph, &words),
        ];
        for (first, second) in pairs() {
            let mut values = vec![false; graph.len()];
            for (word, value) in words.iter().zip([first, second]) {
                for (at, bit) in word.bits().iter().enumerate().take(3) {
                    values[bit.node()] = value >> at & 1 == 1;
                }
            }
            for node in 0..graph.len() {
                if let Some((a, b)) = graph.operands(node) {
                    let of = |lit: Lit| values[lit.node()] ^ lit.negated();
                    values[node] = of(a) && of(b);
                }
            }
            for lit in holds {
                let value = values[lit.node()] ^ lit.negated();
                assert_eq!(value, has(&set, (first, second)), "{set:?}");
            }
        }
    }
}
