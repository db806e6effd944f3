//! The model and the judgement, tried by themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::images::Kind;
use super::model::{Loss, Model};
use super::node::settings;
use super::recorder::{Recording, RecordingDisk, Step};
use super::session::record;
use super::trial::{Expectation, Verdict, try_image};
use super::*;
use crate::storage::disk::{Disk, RealDisk, replace_file};

/// What a recording of a file replaced twice may leave, over many seeds.
fn left_by(loss: Loss, steps: &[Step]) -> BTreeSet<Option<Vec<u8>>> {
    let model = Model::after(steps);
    let left = |seed| model.power_cut(loss, &mut Seeded::new(seed)).remove("file");
    (0..200).map(left).collect()
}

#[test]
fn a_file_replaced_whole_is_the_old_or_the_new_at_every_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let recording = Recording::default();
    let real = Arc::new(RealDisk::open(directory.path()).expect("opens"));
    let disk = RecordingDisk::new(real, recording.clone());
    replace_file(&disk, "file", b"old").expect("replaced");
    let first = recording.len();
    replace_file(&disk, "file", b"new and longer").expect("replaced");
    let steps = recording.steps();
    let (old, new) = (Some(b"old".to_vec()), Some(b"new and longer".to_vec()));
    for loss in [Loss::Tail, Loss::Any] {
        let mut seen = BTreeSet::new();
        for at in first..=steps.len() {
            seen.extend(left_by(loss, &steps[..at]));
        }
        assert_eq!(seen, BTreeSet::from([old.clone(), new.clone()]), "{loss:?}");
        // Before the first is durable there may be nothing, and never a piece.
        for at in 0..first {
            for left in left_by(loss, &steps[..at]) {
                assert!(left.is_none() || left == old, "{left:?}");
            }
        }
    }
}

#[test]
fn a_rename_before_the_sync_of_the_file_loses_bytes() {
    let directory = tempfile::tempdir().expect("a directory");
    let recording = Recording::default();
    let real = Arc::new(RealDisk::open(directory.path()).expect("opens"));
    let disk = RecordingDisk::new(real, recording.clone());
    let file = disk.create("file.tmp").expect("created");
    file.write_all_at(&[7; 2_000], 0).expect("written");
    disk.rename("file.tmp", "file").expect("renamed");
    disk.sync_dir("").expect("synced");
    let steps = recording.steps();
    let torn = left_by(Loss::Any, &steps);
    let holes = |left: &Option<Vec<u8>>| {
        left.as_ref().is_some_and(|bytes| bytes.contains(&0) && bytes.contains(&7))
    };
    assert!(torn.iter().any(holes), "sectors are lost on their own");
    let tails = left_by(Loss::Tail, &steps);
    assert!(tails.len() > 20 && !tails.iter().any(holes), "a tail has no holes");
    assert_eq!(Model::after(&steps).live().remove("file"), Some(vec![7; 2_000]));
}

/// An image without accident, of a recording in memory.
fn untouched(engine: Engine) -> (Session, images::Image) {
    let directory = tempfile::tempdir().expect("a directory");
    let session = record(engine, Mode::Leaderless, 5, &directory.path().join("data"));
    let session = session.expect("recorded");
    let mut image = session.image(Kind::Killed, 0, 1, &mut Seeded::new(1)).expect("an image");
    let at = session.steps.len();
    image.files = Model::after(&session.steps).live();
    image.at = at;
    (session, image)
}

fn judged(session: &Session, image: &images::Image, expected: Expectation) -> Verdict {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = settings(session.engine, session.mode, &directory.path().join("data"));
    try_image(&settings, image, expected, 5).expect("tried")
}

#[test]
fn the_judgement_sees_lost_old_wrong_and_foreign_values() {
    let (session, image) = untouched(Engine::Memory);
    let writes = &session.writes;
    let verdict =
        |writes: &[session::Written]| judged(&session, &image, Expectation::at(writes, image.at));
    assert_eq!(verdict(writes), Verdict::Held);
    let is_broken = |verdict: Verdict, by: &str| match verdict {
        Verdict::Broken(text) => assert!(text.contains(by), "{text}"),
        other => panic!("{by} was not seen: {other:?}"),
    };
    let newest = writes.iter().rposition(|write| write.value.is_some()).expect("a put");
    let mut lost = writes.clone();
    lost.push(session::Written { key: "key/lost".to_owned(), ..writes[newest].clone() });
    is_broken(verdict(&lost), "missing");
    let last = writes.iter().map(|write| write.version).max().expect("a write");
    let mut old = writes.clone();
    old.push(session::Written {
        version: last
            .map(|version| crate::types::Version::new(version.time() + 1, crate::types::NodeId(1))),
        ..writes[newest].clone()
    });
    is_broken(verdict(&old), "was acknowledged");
    let of_key = |write: &&session::Written| write.key == writes[newest].key;
    let of_key = writes.iter().filter(of_key).map(|write| write.version).max().expect("one");
    let mut wrong = writes.clone();
    for write in wrong.iter_mut().filter(|write| write.version == of_key) {
        write.value = Some(Bytes::from_static(b"something else"));
    }
    is_broken(verdict(&wrong), "bytes that were not written");
    let foreign: Vec<_> = writes.iter().filter(|write| write.version != of_key).cloned().collect();
    is_broken(verdict(&foreign), "no write was given");
}

#[test]
fn a_log_that_lost_synced_bytes_is_a_broken_promise_or_refused() {
    let (session, mut image) = untouched(Engine::Memory);
    let path = image.files.keys().rfind(|path| path.starts_with("log/")).cloned();
    let path = path.expect("a segment");
    image.files.remove(&path);
    let verdict = judged(&session, &image, Expectation::at(&session.writes, image.at));
    assert!(matches!(verdict, Verdict::Broken(_)), "{verdict:?}");
}

#[test]
fn a_write_over_bytes_that_were_there_leaves_them_where_it_is_cut() {
    let directory = tempfile::tempdir().expect("a directory");
    let session = record(Engine::Memory, Mode::Leaderless, 4, &directory.path().join("data"));
    let session = session.expect("recorded");
    let mut written_again = 0;
    for seed in 0..500 {
        let mut random = Seeded::new(seed);
        let image = session.image(Kind::Cut, 1, 1, &mut random).expect("an image");
        let before = Model::after(&session.steps[..image.at - 1]).live();
        for (path, bytes) in image.files.iter().filter(|(path, _)| path.starts_with("log/")) {
            let old = before.get(path).map_or(0, Vec::len);
            assert!(bytes.len() >= old, "{}: {path} lost synced bytes", image.story);
        }
        let Step::Write { offset, file, .. } = &session.steps[image.at - 1] else { continue };
        let model = Model::after(&session.steps[..image.at - 1]);
        let path = model.path_of(*file).expect("it has a name");
        written_again += usize::from(before.get(path).is_some_and(|old| old.len() > *offset));
    }
    assert!(written_again > 0, "no such write was cut, and this shows nothing");
}

#[test]
fn the_same_seed_records_the_same_steps() {
    let steps = || {
        let directory = tempfile::tempdir().expect("a directory");
        let session = record(Engine::Memory, Mode::Leader, 9, &directory.path().join("data"));
        let session = session.expect("recorded");
        assert!(session.steps.len() > 300 && session.writes.len() > 50, "a short recording");
        format!("{:?}", session.steps)
    };
    assert!(steps() == steps());
}
