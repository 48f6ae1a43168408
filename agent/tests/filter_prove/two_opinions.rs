//! The prover against everybody else: pairs with known answers and random ones, each also asked
//! of Z3, searched for packets, and each counterexample run by the kernel.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    time::Duration,
};

use capwarden::filter::{Budget, Program, SocketForm, prove_measured, well_formed};

use super::{
    ETHERNET, RAW, SEED, Times, accepts, budget, checked,
    common::{frames, harness::Progress, programs, random::Random},
    compile_in,
    confirm::{Confirmed, Programs},
    oracle::{self, Opinion, Question},
    pairs::{Known, cooked, everyday, nasty, raw},
    with_random_metadata,
};

/// Random pairs, unless `CAPWARDEN_PAIRS` says how many.
const RANDOM_PAIRS: usize = 1000;
/// Packets that are tried on each of them.
const PACKETS: usize = 60;

/// Where the two agree, and where one of them does not know.
#[derive(Debug, Default)]
struct Agreement {
    asked: usize,
    /// How often both gave this verdict.
    same: BTreeMap<String, usize>,
    prover_unknown: usize,
    z3_unknown: usize,
    solved: Vec<Duration>,
    wrong: Vec<String>,
}

impl Agreement {
    /// Compares the prover's verdict with Z3's, whose counterexample is run too.
    fn compare(&mut self, name: &str, question: &Question, ours: Option<Known>, z3: &Opinion) {
        self.asked += 1;
        self.solved.push(z3.solved);
        let Question {
            requested,
            policy,
            form,
        } = question;
        if let Some(packet) = z3.packet() {
            let shows = accepts(requested, &packet) && !accepts(policy, &packet);
            let fits = z3.verdict != Some(Known::Not) || well_formed(&packet, *form);
            if !shows || !fits {
                let why = if shows {
                    "well-formed"
                } else {
                    "a counterexample"
                };
                let wrong = format!("{name}: Z3's packet is not {why}: {packet:02x?}");
                self.wrong.push(wrong);
            }
        }
        match (ours, z3.verdict) {
            (Some(ours), Some(theirs)) if ours == theirs => {
                *self.same.entry(format!("{ours:?}")).or_default() += 1;
            }
            (Some(ours), Some(theirs)) => {
                let wrong = format!("{name}: the prover says {ours:?}, Z3 {theirs:?}");
                self.wrong.push(wrong);
            }
            (None, _) => self.prover_unknown += 1,
            (_, None) => self.z3_unknown += 1,
        }
    }

    fn print(&mut self) {
        self.solved.sort_unstable();
        let median = self.solved[self.solved.len() / 2].as_secs_f64() * 1000.0;
        print!(
            "Z3 agrees on {:?} of {}, prover unknown {}, Z3 unknown {}, Z3's median {median:.1} ms … ",
            self.same, self.asked, self.prover_unknown, self.z3_unknown
        );
    }
}

pub fn known_pairs() {
    let tables = [
        (ETHERNET, everyday::PAIRS),
        (ETHERNET, nasty::PAIRS),
        (RAW, raw::PAIRS),
        (SocketForm::Cooked, cooked::PAIRS),
    ];
    let pairs: usize = tables.iter().map(|(_, pairs)| pairs.len()).sum();
    assert!(pairs >= 300, "{pairs} pairs");
    let mut questions = Vec::new();
    for (form, table) in tables {
        for &(requested, policy, there, back) in table {
            for (requested, policy, expected) in
                [(requested, policy, there), (policy, requested, back)]
            {
                let name = format!("{requested}  WITHIN  {policy}  on {form:?}");
                let question = Question {
                    requested: compile_in(requested, form),
                    policy: compile_in(policy, form),
                    form,
                };
                questions.push((name, expected, question));
            }
        }
    }
    let asked = oracle::ask(questions.iter().map(|(.., one)| one.clone()).collect());
    let mut times = Times::default();
    let mut wrong = Vec::new();
    let mut confirmed = Confirmed::default();
    let mut count: HashMap<_, usize> = HashMap::new();
    let mut verdicts = Vec::new();
    for (name, expected, question) in &questions {
        let Question {
            requested,
            policy,
            form,
        } = question;
        let (containment, cost) = prove_measured(requested, policy, *form, budget());
        times.0.push(cost.time);
        let got = checked(requested, policy, *form, name, &containment);
        *count.entry(got).or_default() += 1;
        verdicts.push(got);
        let example = containment.counterexample();
        if got != Some(*expected) {
            let words = example.map(|example| example.in_words(*form));
            wrong.push(format!("{name}: {got:?}, not {expected:?}: {words:?}"));
        }
        if let Some(example) = example {
            let programs = Programs {
                name,
                requested,
                policy,
                form: *form,
            };
            confirmed.run(programs, example);
        }
    }
    print!("{pairs} pairs, {} proofs {count:?}, ", questions.len());
    times.print();
    print!("{confirmed}");
    // What people ask about can be sent.
    assert_eq!(confirmed.missing(), 0);
    if let Some(opinions) = asked.opinions() {
        let mut agreement = Agreement::default();
        for (((name, _, question), ours), z3) in questions.iter().zip(verdicts).zip(&opinions) {
            agreement.compare(name, question, ours, z3);
        }
        agreement.print();
        wrong.extend(agreement.wrong);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

pub fn random_pairs() {
    let pairs = env::var("CAPWARDEN_PAIRS").map_or(RANDOM_PAIRS, |pairs| pairs.parse().unwrap());
    let mut random = Random(SEED);
    let questions: Vec<_> = (0..pairs)
        .map(|number| {
            let requested = programs::any(&mut random, 24);
            // A program of its own, or one that differs in little.
            let policy = if number % 2 == 0 {
                programs::any(&mut random, 24)
            } else {
                programs::mutated(&requested, &mut random)
            };
            Question {
                requested,
                policy,
                form: [ETHERNET, ETHERNET, RAW, SocketForm::Cooked][number / 2 % 4],
            }
        })
        .collect();
    let asked = oracle::ask(questions.clone());
    let frames = frames::frames(&mut random);
    let mut progress = Progress::new("pairs", pairs);
    let mut count: HashMap<_, usize> = HashMap::new();
    let mut found = 0;
    let mut times = Times::default();
    let mut confirmed = Confirmed::default();
    let mut verdicts = Vec::new();
    for (number, question) in questions.iter().enumerate() {
        progress.at(number);
        let Question {
            requested,
            policy,
            form,
        } = question;
        let name = name(number, question);
        let limited = Budget {
            time: Duration::from_secs(10),
            conflicts: 20_000,
            ..Budget::default()
        };
        let (containment, cost) = prove_measured(requested, policy, *form, limited);
        times.0.push(cost.time);
        let got = checked(requested, policy, *form, &name, &containment);
        *count.entry(got).or_default() += 1;
        verdicts.push(got);
        if let Some(example) = containment.counterexample() {
            let programs = Programs {
                name: &name,
                requested,
                policy,
                form: *form,
            };
            confirmed.run(programs, example);
        }
        for _ in 0..PACKETS {
            let frame = mutated(&frames, &mut random);
            let packet = with_random_metadata(&frame, &mut random);
            if accepts(requested, &packet) && !accepts(policy, &packet) {
                found += 1;
                assert_ne!(got, Some(Known::Contained), "{name}\n{packet:?}");
                if well_formed(&packet, *form) {
                    assert_ne!(got, Some(Known::WellFormed), "{name}\n{packet:?}");
                }
            }
        }
    }
    // The rest needs what nothing here gives to a packet: a hash, a queue, headers elsewhere.
    let missing = confirmed.missing();
    assert!(missing * 8 < confirmed.all(), "{confirmed}");
    let searched = pairs * PACKETS;
    print!("{pairs} pairs {count:?}, {found} of {searched} packets outside, ");
    times.print();
    print!("{confirmed}");
    if let Some(opinions) = asked.opinions() {
        let mut agreement = Agreement::default();
        let each = questions.iter().zip(verdicts).zip(&opinions);
        for (number, ((question, ours), z3)) in each.enumerate() {
            agreement.compare(&name(number, question), question, ours, z3);
        }
        agreement.print();
        assert!(agreement.wrong.is_empty(), "{:#?}", agreement.wrong);
    }
}

fn name(number: usize, question: &Question) -> String {
    let [requested, policy] = [&question.requested, &question.policy].map(Program::insns);
    format!("pair {number}: {requested:?} WITHIN {policy:?}")
}

fn mutated(frames: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut frame = frames[random.below(frames.len())].clone();
    if random.below(4) == 0 {
        frame.truncate(random.below(40));
    }
    for _ in 0..random.below(6) {
        if !frame.is_empty() {
            let at = random.below(frame.len());
            frame[at] = random.byte();
        }
    }
    frame
}
