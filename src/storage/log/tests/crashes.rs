//! Random appends, releases, failures, crashes and reopenings: every acknowledged record is there, in
//! order, and nothing that was never appended.

use std::time::Duration;

use proptest::prelude::*;

use super::support::{Answers, Opened, Seen, open, record, segments, simulated, try_open};
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::log::{Kind, LogUser, Position};

const HEADER_BYTES: usize = 20;

#[derive(Clone, Debug)]
enum Step {
    /// Appends records with payloads of these lengths, at once.
    Append(Vec<usize>),
    /// Lets time pass, so that a part of what queued is written, or synced.
    Wait {
        millis: u64,
    },
    /// Says that nobody needs the first half of the records kept.
    Release,
    FailNextSync,
    FillDisk,
    /// A power cut.
    Crash,
    /// The process dies, and the operating system lives on.
    Kill,
    /// A stop in peace.
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(0_usize..90, 0..5).prop_map(Step::Append),
        4 => (0_u64..4).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Release),
        1 => Just(Step::FailNextSync),
        1 => Just(Step::FillDisk),
        2 => Just(Step::Crash),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the log must hold.
#[derive(Default)]
struct Model {
    /// Every record appended and not lost since, from the first that may still be there.
    records: Vec<Seen>,
    /// For each append by name: how many records there were after it.
    appends: Vec<usize>,
    /// How many of the records are acknowledged.
    acknowledged: usize,
    /// Distinguishes payloads.
    counter: u8,
    /// How many records are gone from the front of `records`.
    removed: usize,
}

impl Model {
    fn note_answers(&mut self, answers: &Answers) {
        let (done, failed) = answers.take();
        for names in [&done, &failed] {
            assert!(names.is_sorted(), "completions out of order: {names:?}");
        }
        assert!(done.last() < failed.first() || failed.is_empty() || done.is_empty());
        if let Some(last) = done.last() {
            self.acknowledged = self.acknowledged.max(self.appends[*last]);
        }
    }

    /// Compares with what an opened log replayed, which is what is there from now on.
    fn reopened(&mut self, opened: &Opened) {
        let start = opened.log.start();
        let gone = self.records.iter().take_while(|seen| seen.0 < start).count();
        self.records.drain(..gone);
        self.removed += gone;
        let replayed = &opened.replayed;
        assert!(replayed.len() <= self.records.len(), "more than was ever appended");
        assert_eq!(*replayed, self.records[..replayed.len()]);
        let kept = replayed.len() + self.removed;
        assert!(kept >= self.acknowledged, "kept {kept}, acknowledged {}", self.acknowledged);
        self.records.truncate(replayed.len());
        // What was found at opening is durable, acknowledged or not.
        self.acknowledged = kept;
        self.appends.clear();
    }
}

struct World {
    disk: SimDisk,
    runtime: Runtime,
    opened: Opened,
    answers: Answers,
    model: Model,
    incarnations: u64,
}

impl World {
    fn new(seed: u64, runtime: Runtime) -> World {
        let disk = SimDisk::new(seed);
        let opened = try_open(&disk, &runtime).expect("an empty disk");
        let (answers, model) = (Answers::default(), Model::default());
        World { disk, runtime, opened, answers, model, incarnations: 0 }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(lengths) => self.append(lengths),
            Step::Wait { millis } => self.runtime.sleep(Duration::from_millis(millis)).await,
            Step::Release => self.release(),
            Step::FailNextSync => self.disk.fail_next_sync(),
            Step::FillDisk => self.disk.set_full(true),
            Step::Crash => self.reopen(true),
            Step::Kill => self.reopen(false),
            Step::Close => {
                self.opened.log.close().await;
                self.reopen(false);
            }
        }
        self.model.note_answers(&self.answers);
    }

    fn append(&mut self, lengths: Vec<usize>) {
        let payloads: Vec<Vec<u8>> = lengths
            .into_iter()
            .map(|length| {
                self.model.counter = self.model.counter.wrapping_add(1);
                vec![self.model.counter; length]
            })
            .collect();
        let records = payloads.iter().map(|payload| record(payload)).collect();
        let name = self.model.appends.len();
        let positions = self.opened.log.append(records, self.answers.completion(name));
        let seen = positions.into_iter().zip(payloads);
        self.model.records.extend(seen.map(|(at, payload)| (at, Kind::RaftEntry, payload)));
        self.model.appends.push(self.model.records.len() + self.model.removed);
    }

    fn release(&self) {
        let durable = self.model.acknowledged - self.model.removed.min(self.model.acknowledged);
        let cut = self.model.records[..durable.min(self.model.records.len())]
            .get(durable / 2)
            .map_or(Position::default(), |seen| seen.0);
        for user in [LogUser::Raft, LogUser::Replica] {
            // A sync that was asked to fail may fail here: the log has failed then.
            let _ = self.opened.log.release(user, cut);
        }
    }

    fn reopen(&mut self, power_cut: bool) {
        self.model.note_answers(&self.answers);
        self.runtime.kill();
        self.disk.set_full(false);
        if power_cut {
            self.disk.crash();
        }
        self.incarnations += 1;
        self.runtime = Runtime::simulated(self.incarnations, 0);
        self.answers = Answers::default();
        let opened = try_open(&self.disk, &self.runtime).or_else(|error| {
            // A sync that was asked to fail fails the opening instead; the next one is as after a
            // restart of the machine, for nobody trusts a disk after that.
            let asked_for = error.to_string().contains("simulated sync failed");
            assert!(asked_for, "the log must open: {error}");
            self.disk.crash();
            try_open(&self.disk, &self.runtime)
        });
        self.opened = opened.expect("the log opens");
        self.model.reopened(&self.opened);
    }
}

/// Runs the steps, then a crash; gives what the log's files hold in the end.
fn run(seed: u64, steps: Vec<Step>) -> Vec<(String, Option<Vec<u8>>)> {
    simulated(|runtime| async move {
        let mut world = World::new(seed, runtime);
        for step in steps {
            world.step(step).await;
        }
        world.step(Step::Crash).await;
        let disk = world.disk;
        segments(&disk).into_iter().map(|path| (path.clone(), disk.contents(&path))).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn acknowledged_records_survive_whatever_happens(seed in any::<u64>(), steps in steps()) {
        run(seed, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_same_seed_and_steps_leave_the_same_bytes(seed in any::<u64>(), steps in steps()) {
        prop_assert_eq!(run(seed, steps.clone()), run(seed, steps));
    }
}

/// The log had failed already, when removing a segment, and so the failed write was not taken back.
#[test]
fn a_sync_that_fails_after_a_removal_failed_leaves_nothing_to_be_trusted() {
    let steps = vec![
        Step::Append(vec![56, 25]),
        Step::Close,
        Step::Append(vec![0, 42, 39]),
        Step::Wait { millis: 1 },
        Step::FailNextSync,
        Step::Release,
        Step::FailNextSync,
        Step::Close,
    ];
    run(0, steps);
}

/// The writer had no time to cut off what it could not sync.
#[test]
fn what_a_process_killed_in_a_failing_sync_wrote_is_durable_before_it_is_replayed() {
    simulated(|runtime| async move {
        for (seed, lengths) in [(1, vec![20]), (2, vec![0, 5, 9]), (3, vec![3_000])] {
            let disk = SimDisk::new(seed);
            let log = open(&disk, &runtime).log;
            log.append_durably(vec![record(b"acknowledged")]).await.expect("appends");
            let path = segments(&disk).pop().expect("a segment");
            let durable = disk.contents(&path).expect("is there").len();
            let last = lengths.iter().map(|length| record(&vec![7; *length])).collect();
            log.append_durably(last).await.expect("appends");
            log.close().await;
            let path = segments(&disk).pop().expect("a segment");
            let whole = disk.contents(&path).expect("is there");
            let durable = if lengths == [3_000] { HEADER_BYTES } else { durable };
            let file = disk.open(&path).expect("opens");
            file.set_len(durable as u64).expect("takes the last write away");
            file.sync().expect("syncs");
            file.write_all_at(&whole[durable..], durable as u64).expect("writes it");
            disk.fail_next_sync();
            file.sync().expect_err("the sync that was asked to fail");

            let opened = open(&disk, &runtime);
            assert_eq!(opened.replayed.len(), 1 + lengths.len(), "the page cache still shows it");
            opened.log.close().await;
            disk.crash();
            assert_eq!(open(&disk, &runtime).replayed, opened.replayed, "seed {seed}");
        }
    });
}
