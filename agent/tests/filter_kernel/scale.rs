//! A thousand packets for each of more than a thousand filters, run in four ways: interpreted, as
//! the kernel's classic program on a socket pair, translated on a socket pair, and translated under
//! `BPF_PROG_TEST_RUN`.
//!
//! The packets of a filter: whole and damaged frames; for each way out of a branch that none of
//! those takes, one that the prover has found, unless it proves that there is none; some of these
//! cut at every length; and copies with other values where the filter looks.

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
        kernel::{Installed, Pair, TestRun},
        programs,
        random::Random,
    },
};

const PACKETS: usize = 1000;
const RANDOM_EXPRESSIONS: usize = 450;
const RANDOM_PROGRAMS: usize = 400;

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
}

impl Sample {
    /// A frame as a socket of this form gets it.
    fn of_frame(frame: &[u8], form: SocketForm) -> Self {
        let mut link_header = [0; 14];
        let there = frame.len().min(14);
        link_header[..there].copy_from_slice(&frame[..there]);
        let bytes = if form == ETHERNET { frame } else { &frame[there..] };
        Self {
            link_header,
            bytes: bytes.to_vec(),
            mark: 0,
        }
    }

    /// What comes nearest to a packet that the prover has found.
    fn of_example(example: &Example) -> Self {
        let mut link_header = [2; 14];
        match example.meta.packet_type {
            0 => link_header[..6].fill(0),
            1 | 2 => link_header[..6].fill(0xff),
            _ => {}
        }
        link_header[12..].copy_from_slice(&example.meta.protocol.to_be_bytes());
        Self {
            link_header,
            bytes: example.bytes.clone(),
            mark: example.meta.mark,
        }
    }

    fn test_run(&self) -> TestRun {
        TestRun::new(&self.link_header, &self.bytes, self.mark)
    }

    /// Whether the packet takes this way in one of the runs.
    fn takes(&self, edge: &Edge) -> bool {
        let on_pair = Packet::new(&self.bytes, Meta::default());
        interpret(&edge.program, &on_pair) != 0
            || interpret(&edge.program, &self.test_run().packet()) != 0
    }
}

/// What became of the ways out of branches.
#[derive(Debug, Default)]
struct Coverage {
    edges: usize,
    /// Taken by whole and damaged frames.
    by_frames: usize,
    /// Taken by what the prover has found.
    by_proof: usize,
    /// Proved that nothing takes them.
    unreachable: usize,
    /// Taken only with metadata that neither run can have: tags, the sending direction.
    by_metadata: usize,
    unknown: usize,
}

impl Coverage {
    fn of(&mut self, filter: &Filter, samples: &mut Vec<Sample>) {
        let budget = Budget {
            time: Duration::from_secs(5),
            conflicts: 20_000,
            ..Budget::default()
        };
        let frames = samples.len();
        for edge in edges::of(&filter.program) {
            self.edges += 1;
            if let Some(by) = samples.iter().position(|sample| sample.takes(&edge)) {
                if by < frames {
                    self.by_frames += 1;
                } else {
                    self.by_proof += 1;
                }
                continue;
            }
            match is_empty(&edge.program, filter.form, budget) {
                Emptiness::Empty => self.unreachable += 1,
                Emptiness::EmptyWellFormed { example } | Emptiness::Matches { example } => {
                    let sample = Sample::of_example(&example);
                    if sample.takes(&edge) {
                        self.by_proof += 1;
                    } else {
                        self.by_metadata += 1;
                    }
                    // The longest that the packets of a test run can be.
                    if sample.bytes.len() <= 3000 {
                        samples.push(sample);
                    }
                }
                Emptiness::Unknown { .. } => self.unknown += 1,
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
        coverage.of(filter, &mut samples);
        fill(filter, &mut samples, &mut random);
        assert_eq!(samples.len(), PACKETS);
        let installed = Installed::new(&filter.name, &filter.program, &pairs);
        let before = accepted;
        for sample in &samples {
            accepted += usize::from(installed.agree_on_pair(&sample.bytes, &pairs));
            classic += 1;
            translated += usize::from(installed.is_translated());
            let run = installed.agree_on_test_run(&sample.test_run());
            test_runs += usize::from(run.is_some());
        }
        telling += usize::from((1..PACKETS).contains(&(accepted - before)));
    }
    let reachable = coverage.edges - coverage.unreachable;
    let taken = coverage.by_frames + coverage.by_proof;
    print!(
        "{} filters × {PACKETS} packets: {classic} classic runs, {translated} translated, \
         {test_runs} test runs, {accepted} accepted, 0 differences; {telling} filters both accept \
         and reject; {taken} of {reachable} reachable ways out of branches taken, {coverage:?} … ",
        filters.len()
    );
    assert!(filters.len() >= 1000, "{} filters", filters.len());
    assert!(translated > classic * 9 / 10, "{translated} translated");
    assert_eq!(translated, test_runs);
    assert!(telling > filters.len() * 3 / 4, "{telling} filters");
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
        let expression = grammar::expression(random, 3);
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

/// As many packets as there are to be.
fn fill(filter: &Filter, samples: &mut Vec<Sample>, random: &mut Random) {
    samples.truncate(PACKETS / 2);
    let accepts = |sample: &Sample| {
        interpret(&filter.program, &Packet::new(&sample.bytes, Meta::default())) != 0
    };
    // At every length: what is accepted, what the prover has found, what there is.
    let cut = samples.iter().filter(|sample| accepts(sample));
    let cut = cut.chain(samples.iter().rev());
    let cut: Vec<_> = cut
        .filter(|sample| (1..=120).contains(&sample.bytes.len()))
        .take(4)
        .cloned()
        .collect();
    for whole in &cut {
        for length in 0..whole.bytes.len() {
            if samples.len() < PACKETS * 4 / 5 {
                let mut short = whole.clone();
                short.bytes.truncate(length);
                samples.push(short);
            }
        }
    }
    let (places, values) = looked_at(&filter.program);
    let sources = samples.len();
    while samples.len() < PACKETS {
        let mut sample = samples[random.below(sources)].clone();
        if random.below(4) == 0 {
            let long = sample.bytes.len() + random.below(40);
            sample.bytes.resize(long, 0);
        }
        for _ in 0..1 + random.below(4) {
            let length = sample.bytes.len();
            let (mut at, mut bytes) = (random.below(length.max(1)), vec![random.byte()]);
            if random.below(4) > 0 && !places.is_empty() && !values.is_empty() {
                let (place, size) = random.pick(&places);
                let value = random.pick(&values).wrapping_add(random.pick(&[0, 0, 1, u32::MAX]));
                (at, bytes) = (place, value.to_be_bytes()[4 - size..].to_vec());
            }
            if let Some(target) = sample.bytes.get_mut(at..at + bytes.len()) {
                target.copy_from_slice(&bytes);
            }
        }
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
