//! Tests of a data directory's identity, on simulated disks.

use super::*;
use crate::config::Settings;
use crate::storage::disk::{SimDisk, replace_file};

const NODE: NodeId = NodeId(2);

fn open_as(disk: &SimDisk, node: NodeId, mode: Mode, engine: &str) -> Result<Identity, StartError> {
    Identity::open(Arc::new(disk.clone()), &Runtime::real(), node, mode, engine, None)
}

fn open_leaderless(disk: &SimDisk, nodes: &[u16], replicas: u16) -> Result<Identity, StartError> {
    let (disk, mode) = (Arc::new(disk.clone()), Mode::Leaderless);
    let mut settings = Settings::defaults(NODE, mode, BTreeMap::new());
    settings.leaderless.replicas = replicas;
    let nodes = nodes.iter().copied().map(NodeId);
    let layout = Some(PinnedLayout::new(nodes, &settings.leaderless));
    Identity::open(disk, &Runtime::real(), NODE, mode, "sled", layout)
}

fn open(disk: &SimDisk) -> Identity {
    open_as(disk, NODE, Mode::Leader, "sled").expect("opens")
}

fn refusal(result: Result<Identity, StartError>) -> String {
    let message = result.map(|_| ()).expect_err("is refused").to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

fn put(disk: &SimDisk, path: &str, contents: &str) {
    replace_file(disk, path, contents.as_bytes()).expect("writes");
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let disk = SimDisk::new(3);
    let first = open(&disk);
    first.join_cluster(ClusterId(0x0123_4567_89ab_cdef)).expect("joins");
    first.meet(NodeId(3), Incarnation(7)).expect("met");
    let (cluster, incarnation) = (first.cluster(), first.incarnation());
    for path in [IDENTITY_FILE, PEERS_FILE] {
        let bytes = disk.contents(path).expect("the file");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            replace_file(&disk, path, &flipped).expect("written");
            if let Ok(opened) = open_as(&disk, NODE, Mode::Leader, "sled") {
                assert_eq!(opened.incarnation(), incarnation, "bit {bit} of {path}");
                assert_eq!(opened.cluster(), cluster, "bit {bit} of {path}");
                let met = opened.meet(NodeId(3), Incarnation(7)).expect("known");
                assert_eq!(met, Incarnation(7), "bit {bit} of {path}");
            }
        }
        replace_file(&disk, path, &bytes).expect("written");
    }
}

#[test]
fn a_directory_keeps_its_identity_and_counts_its_boots() {
    let disk = SimDisk::new(1);
    let first = open(&disk);
    assert_eq!((first.node(), first.boot(), first.cluster()), (NODE, 1, None));
    let incarnation = first.incarnation();
    first.join_cluster(ClusterId(7)).expect("joins");
    for boot in 2..5 {
        disk.crash();
        let again = open(&disk);
        assert_eq!((again.incarnation(), again.boot()), (incarnation, boot));
        assert_eq!(again.cluster(), Some(ClusterId(7)));
    }
    assert_ne!(open(&SimDisk::new(1)).incarnation(), incarnation, "another directory");
}

#[test]
fn another_node_mode_or_engine_is_refused_with_what_to_do() {
    let disk = SimDisk::new(1);
    open(&disk);
    let other_node = refusal(open_as(&disk, NodeId(3), Mode::Leader, "sled"));
    assert!(other_node.contains("belongs to node 2") && other_node.contains("--id 2"));
    let other_mode = refusal(open_as(&disk, NODE, Mode::Leaderless, "sled"));
    assert!(other_mode.contains("leader mode") && other_mode.contains("--mode leader"));
    let other_engine = refusal(open_as(&disk, NODE, Mode::Leader, "memory"));
    assert!(other_engine.contains("engine sled") && other_engine.contains("--engine sled"));
    assert_eq!(open(&disk).boot(), 2, "refused starts are no boots");
}

#[test]
fn other_nodes_or_replicas_than_the_directory_was_made_with_are_refused() {
    let disk = SimDisk::new(1);
    open_leaderless(&disk, &[1, 2, 3, 4], 3).expect("opens");
    let replaced = refusal(open_leaderless(&disk, &[1, 2, 3, 5], 3));
    assert!(replaced.contains("nodes 1, 2, 3, 4") && replaced.contains("nodes 1, 2, 3, 5"));
    let fewer = refusal(open_leaderless(&disk, &[1, 2, 3, 4], 2));
    assert!(fewer.contains("3 replicas") && fewer.contains("2 replicas"), "{fewer}");
    let same = open_leaderless(&disk, &[4, 3, 2, 1], 3).expect("the order does not matter");
    assert_eq!(same.boot(), 2, "refused starts are no boots");
    same.join_cluster(ClusterId(7)).expect("joins");
    assert!(open_leaderless(&disk, &[1, 2], 2).is_err(), "still known");
}

#[test]
fn another_cluster_is_refused() {
    let disk = SimDisk::new(1);
    let identity = open(&disk);
    identity.join_cluster(ClusterId(7)).expect("joins");
    identity.join_cluster(ClusterId(7)).expect("the same again");
    let other = identity.join_cluster(ClusterId(8)).expect_err("another").to_string();
    assert!(other.contains("0000000000000007") && other.contains("0000000000000008"));
    assert_eq!(open(&disk).cluster(), Some(ClusterId(7)));
}

#[test]
fn another_format_and_damaged_files_are_refused() {
    for file in [IDENTITY_FILE, PEERS_FILE] {
        let disk = SimDisk::new(1);
        open(&disk);
        put(&disk, file, r#"{"format":5,"whatever":"follows"}"#);
        let later = refusal(open_as(&disk, NODE, Mode::Leader, "sled"));
        assert!(later.contains(file) && later.contains("format 5"), "{later}");
        // Made before writes had idempotency keys: its log would be misread.
        put(&disk, file, r#"{"format":1,"cluster":null}"#);
        let earlier = refusal(open_as(&disk, NODE, Mode::Leader, "sled"));
        assert!(earlier.contains("format 1") && earlier.contains("format 4"), "{earlier}");
        for damaged in ["", "{", "[]", r#"{"format":4}"#, "\0\0\0"] {
            put(&disk, file, damaged);
            let damaged = refusal(open_as(&disk, NODE, Mode::Leader, "sled"));
            assert!(damaged.contains(file) && damaged.contains("damaged"), "{damaged}");
        }
    }
    let disk = SimDisk::new(1);
    open(&disk);
    let text = String::from_utf8(disk.contents(IDENTITY_FILE).expect("is there"));
    let bad = text.expect("JSON").replace("\"cluster\": null", "\"cluster\": \"xyz\"");
    put(&disk, IDENTITY_FILE, &bad);
    assert!(refusal(open_as(&disk, NODE, Mode::Leader, "sled")).contains("checksum"));
}

/// Found by a simulated world: one flipped bit in a peer's incarnation, one in the name of the
/// checksum, and the peer was taken for a wiped one.
#[test]
fn a_file_whose_checksum_lost_its_name_is_refused() {
    let disk = SimDisk::new(1);
    open(&disk);
    let text = String::from_utf8(disk.contents(IDENTITY_FILE).expect("is there"));
    let bad = text.expect("JSON").replace("\"checksum\"", "\"chec{sum\"");
    put(&disk, IDENTITY_FILE, &bad);
    assert!(refusal(open_as(&disk, NODE, Mode::Leader, "sled")).contains("no checksum"));
}

#[test]
fn data_without_an_identity_is_refused() {
    for path in ["log/00000000000000000001.log", "table/db", "snapshot/incoming", "anything"] {
        let disk = SimDisk::new(1);
        put(&disk, path, "data");
        let message = refusal(open_as(&disk, NODE, Mode::Leader, "sled"));
        assert!(message.contains(path), "{message}");
        assert!(disk.contents(IDENTITY_FILE).is_none(), "nothing was minted");
    }
}

#[test]
fn a_crash_in_the_first_start_leaves_a_directory_that_can_be_started() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let file = disk.create("identity.json.tmp").expect("creates");
        file.write_all_at(b"{\"format", 0).expect("writes");
        disk.crash();
        assert_eq!(open(&disk).boot(), 1);
    }
}

#[test]
fn a_node_is_known_by_the_incarnation_it_was_first_met_with() {
    let disk = SimDisk::new(1);
    let identity = open(&disk);
    let (first, second) = (Incarnation(0xfeed_0000_0000_0001), Incarnation(2));
    assert_eq!(identity.meet(NodeId(1), first).expect("meets"), first);
    assert_eq!(identity.meet(NodeId(1), second).expect("meets"), first);
    assert_eq!(identity.meet(NodeId(3), second).expect("meets"), second);
    disk.crash();
    let identity = open(&disk);
    assert_eq!(identity.meet(NodeId(1), second).expect("meets"), first);
    assert_eq!(identity.meet(NodeId(3), first).expect("meets"), second);
}

#[test]
fn what_could_not_be_written_is_not_remembered() {
    let disk = SimDisk::new(1);
    let identity = open(&disk);
    disk.fail_next_sync();
    assert!(identity.join_cluster(ClusterId(7)).is_err());
    assert_eq!(identity.cluster(), None);
    disk.fail_next_sync();
    assert!(identity.meet(NodeId(1), Incarnation(1)).is_err());
    assert_eq!(identity.meet(NodeId(1), Incarnation(2)).expect("meets"), Incarnation(2));
}

#[test]
fn a_removed_node_never_starts_again() {
    let disk = SimDisk::new(1);
    let identity = open(&disk);
    identity.join_cluster(ClusterId(7)).expect("joins");
    identity.mark_removed().expect("marks");
    disk.crash();
    let message = refusal(open_as(&disk, NODE, Mode::Leader, "sled"));
    assert!(message.contains("node 2 was removed") && message.contains("--join"), "{message}");
}

#[test]
fn one_that_joined_a_leaderless_cluster_founds_none_ever_after() {
    let disk = SimDisk::new(21);
    let joins = || open_as(&disk, NODE, Mode::Leaderless, "sled").expect("opens");
    assert_eq!(joins().founding_layout(), None);
    // Started again it says what its settings are, and no more that it joins.
    let again = open_leaderless(&disk, &[2], 1).expect("opens");
    assert_eq!(again.founding_layout(), None);
    let founder = SimDisk::new(22);
    let first = open_leaderless(&founder, &[1, 2, 3], 3).expect("opens");
    assert!(first.founding_layout().is_some());
    let joining = open_as(&founder, NODE, Mode::Leaderless, "sled").expect("opens");
    assert_eq!(joining.founding_layout(), first.founding_layout(), "it stays what it was");
}
