//! A thousand packets for each of more than a thousand filters, run in four ways: interpreted, as
//! the kernel's classic program on a socket pair, translated on a socket pair, and translated under
//! `BPF_PROG_TEST_RUN`.
//!
//! The packets of a filter: whole and damaged frames; some of them cut at every length; copies with
//! other values where the filter looks; and for the ways out of branches that none of those takes,
//! packets that the prover has found, and copies of them, unless it proves that there are none.

use std::{collections::HashSet, time::Duration};

use capwarden::filter::{
    Budget, CompileError, Emptiness, Example, Meta, Op, Operand, Origin, Packet, Program,
    SocketForm, interpret, is_empty,
};

use super::{
    SEED,
    common::{
        ETHERNET, RAW, compile_for,
        edges::{self, Edge},
        expressions, frames, grammar,
        harness::Progress,
        kernel::{Installed, Pair, TestRun, link_header},
        programs,
        random::Random,
    },
};

const PACKETS: usize = 1000;
const RANDOM_EXPRESSIONS: usize = 250;
const RANDOM_PROGRAMS: usize = 450;

struct Filter {
    name: String,
    form: SocketForm,
    program: Program,
}

/// A packet as a socket pair shows it, and as a test run does, which has metadata too.
#[derive(Clone)]
struct Sample {
    link_header: [u8; 14],
    bytes: Vec<u8>,
    mark: u32,
    run: TestRun,
}

impl Sample {
    fn new(link_header: [u8; 14], bytes: Vec<u8>, mark: u32) -> Self {
        Self {
            run: TestRun::new(&link_header, &bytes, mark),
            link_header,
            bytes,
            mark,
        }
    }

    /// A frame as a socket of this form gets it.
    fn of_frame(frame: &[u8], form: SocketForm) -> Self {
        let mut link_header = [0; 14];
        let there = frame.len().min(14);
        link_header[..there].copy_from_slice(&frame[..there]);
        let bytes = if form == ETHERNET {
            frame
        } else {
            &frame[there..]
        };
        Self::new(link_header, bytes.to_vec(), 0)
    }

    /// What comes nearest to a packet that the prover has found.
    fn of_example(example: &Example) -> Self {
        let link_header = link_header(&example.meta);
        Self::new(link_header, example.bytes.clone(), example.meta.mark)
    }

    /// The same with other bytes.
    fn with_bytes(&self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        Self::new(self.link_header, bytes, self.mark)
    }

    /// Takes the ways that the packet takes in one of the runs out of those that are left.
    fn take(&self, filter: &Filter, left: &mut HashSet<Edge>, any: &mut Program) {
        let on_pair = Packet::new(&self.bytes, Meta::default());
        for packet in [on_pair, self.run.packet()] {
            while let Some(edge) = Edge::of_verdict(interpret(any, &packet)) {
                assert!(left.remove(&edge));
                *any = edges::taking_any(&filter.program, left);
            }
        }
    }
}

/// What became of the ways out of branches.
#[derive(Debug, Default)]
struct Coverage {
    edges: usize,
    /// Taken by frames and what was made of them.
    by_chance: usize,
    /// Taken by what the prover has found.
    by_proof: usize,
    /// Proved that nothing takes them.
    unreachable: usize,
    /// The packet that the prover has found needs metadata that neither run can have, such as a
    /// tag or the sending direction.
    by_metadata: usize,
    unknown: usize,
}

impl Coverage {
    /// Counts the ways, and finds packets for those that none of the samples takes.
    fn of(&mut self, filter: &Filter, samples: &mut Vec<Sample>) {
        let budget = Budget {
            time: Duration::from_secs(10),
            conflicts: 20_000,
            ..Budget::default()
        };
        let mut left = edges::of(&filter.program);
        let mut any = edges::taking_any(&filter.program, &left);
        self.edges += left.len();
        self.by_chance += left.len();
        for sample in &*samples {
            sample.take(filter, &mut left, &mut any);
        }
        self.by_chance -= left.len();
        // All at once: where none can be taken, one proof shows it.
        while !left.is_empty() {
            let example = match is_empty(&any, filter.form, budget) {
                Emptiness::EmptyWellFormed { example } | Emptiness::Matches { example } => example,
                Emptiness::Empty => {
                    self.unreachable += left.len();
                    break;
                }
                Emptiness::Unknown { .. } => {
                    self.unknown += left.len();
                    break;
                }
            };
            let found = Edge::of_verdict(interpret(&any, &example.packet()));
            let found = found.expect("the example is accepted");
            let sample = Sample::of_example(&example);
            let before = left.len();
            sample.take(filter, &mut left, &mut any);
            self.by_proof += before - left.len();
            if left.remove(&found) {
                self.by_metadata += 1;
                any = edges::taking_any(&filter.program, &left);
            }
            // The longest that the packets of a test run can be.
            if sample.bytes.len() <= 3000 {
                samples.push(sample);
            }
        }
    }
}

pub fn agrees() {
    let mut random = Random(SEED);
    let filters = filters(&mut random);
    let frames = frames::frames(&mut random);
    let pairs = (Pair::new(), Pair::new());
    let mut coverage = Coverage::default();
    let (mut classic, mut translated, mut test_runs) = (0_usize, 0_usize, 0_usize);
    let (mut accepted, mut telling) = (0_usize, 0_usize);
    let mut progress = Progress::new("filters", filters.len());
    for (number, filter) in filters.iter().enumerate() {
        progress.at(number);
        let mut samples: Vec<_> = frames
            .iter()
            .map(|frame| Sample::of_frame(frame, filter.form))
            .collect();
        fill(filter, &mut samples, PACKETS * 4 / 5, &mut random);
        coverage.of(filter, &mut samples);
        fill(filter, &mut samples, PACKETS, &mut random);
        assert_eq!(samples.len(), PACKETS);
        let installed = Installed::new(&filter.name, &filter.program, &pairs);
        let before = accepted;
        for sample in &samples {
            accepted += usize::from(installed.agree_on_pair(&sample.bytes, &pairs));
            classic += 1;
            translated += usize::from(installed.is_translated());
            let run = installed.agree_on_test_run(&sample.run);
            test_runs += usize::from(run.is_some());
        }
        telling += usize::from((1..PACKETS).contains(&(accepted - before)));
    }
    let reachable = coverage.edges - coverage.unreachable;
    let taken = coverage.by_chance + coverage.by_proof;
    print!(
        "{} filters × {PACKETS} packets: {classic} classic runs, {translated} translated, \
         {test_runs} test runs, {accepted} accepted, 0 differences; {telling} filters both accept \
         and reject; {taken} of {reachable} reachable ways out of branches taken, {coverage:?} … ",
        filters.len()
    );
    assert!(filters.len() >= 1000, "{} filters", filters.len());
    assert!(translated > classic * 9 / 10, "{translated} translated");
    assert_eq!(translated, test_runs);
    // The others are random programs that always do the same.
    assert!(telling > filters.len() / 2, "{telling} filters");
    assert!(taken * 1000 >= reachable * 970, "{coverage:?}");
}

/// Different programs: the corpus on each form of socket, random expressions, random programs.
fn filters(random: &mut Random) -> Vec<Filter> {
    const FORMS: [SocketForm; 3] = [ETHERNET, RAW, SocketForm::Cooked];
    let mut known = HashSet::new();
    let mut filters = Vec::new();
    let mut add = |name: String, form, program: Program| {
        if known.insert(program.clone()) {
            filters.push(Filter {
                name,
                form,
                program,
            });
            return true;
        }
        false
    };
    let compiled = |expression: &str, form| match compile_for(expression, form, Origin::Request) {
        Ok(program) => Some(program),
        Err(CompileError::Syntax { .. } | CompileError::Cooked(_) | CompileError::Program(_)) => {
            None
        }
        Err(error) => panic!("{expression}: {error}"),
    };
    for form in FORMS {
        for expression in expressions::EXPRESSIONS.iter().chain(expressions::COOKED) {
            if let Some(program) = compiled(expression, form) {
                add(format!("{expression} on {form:?}"), form, program);
            }
        }
    }
    let mut made = 0;
    while made < RANDOM_EXPRESSIONS {
        let expression = grammar::expression(random, 2);
        let form = FORMS[made % FORMS.len()];
        if let Some(program) = compiled(&expression, form) {
            made += usize::from(add(format!("{expression} on {form:?}"), form, program));
        }
    }
    let mut made = 0;
    while made < RANDOM_PROGRAMS {
        let program = match made % 4 {
            0 => programs::of_loads(random),
            1 => programs::repetitive(random),
            _ => programs::any(random, 40),
        };
        let form = FORMS[made % FORMS.len()];
        made += usize::from(add(format!("program {made}"), form, program));
    }
    filters
}

/// Cuts and changes samples until there are so many; from the last ones if there are many.
fn fill(filter: &Filter, samples: &mut Vec<Sample>, count: usize, random: &mut Random) {
    samples.truncate(count);
    let accepts = |sample: &Sample| {
        interpret(
            &filter.program,
            &Packet::new(&sample.bytes, Meta::default()),
        ) != 0
    };
    // At every length: what is accepted, and the latest.
    let cut = samples.iter().filter(|sample| accepts(sample));
    let cut = cut.take(3).chain(samples.iter().rev());
    let cut: Vec<_> = cut
        .filter(|sample| (1..=120).contains(&sample.bytes.len()))
        .take(4)
        .cloned()
        .collect();
    let most = samples.len() + (count - samples.len()) / 2;
    for whole in &cut {
        for length in 0..whole.bytes.len() {
            if samples.len() < most {
                samples.push(whole.with_bytes(|bytes| bytes.truncate(length)));
            }
        }
    }
    let (places, values) = looked_at(&filter.program);
    let sources = samples.len();
    while samples.len() < count {
        let recent = sources.min(200);
        let source = &samples[sources - 1 - random.below(recent)];
        let sample = source.with_bytes(|bytes| {
            if random.below(4) == 0 {
                bytes.resize(bytes.len() + random.below(40), 0);
            }
            for _ in 0..1 + random.below(4) {
                let (mut at, mut new) = (random.below(bytes.len().max(1)), vec![random.byte()]);
                if random.below(4) > 0 && !places.is_empty() && !values.is_empty() {
                    let (place, size) = random.pick(&places);
                    let value = random.pick(&values);
                    let value = value.wrapping_add(random.pick(&[0, 0, 1, u32::MAX]));
                    (at, new) = (place, value.to_be_bytes()[4 - size..].to_vec());
                }
                if let Some(target) = bytes.get_mut(at..at + new.len()) {
                    target.copy_from_slice(&new);
                }
            }
        });
        samples.push(sample);
    }
}

/// Where a filter looks, and for what.
fn looked_at(program: &Program) -> (Vec<(usize, usize)>, Vec<u32>) {
    let (mut places, mut values) = (Vec::new(), Vec::new());
    for op in program.ops() {
        match *op {
            Op::LoadAbsolute { size, offset } if offset >= 0 => {
                places.push((usize::try_from(offset).unwrap(), size.bytes()));
            }
            // Behind an IPv4 header without options.
            Op::LoadIndirect { size, offset } if (0..1000).contains(&offset) => {
                places.push((20 + usize::try_from(offset).unwrap(), size.bytes()));
            }
            Op::Branch {
                operand: Operand::Constant(value),
                ..
            } => values.push(value),
            _ => {}
        }
    }
    (places, values)
}
