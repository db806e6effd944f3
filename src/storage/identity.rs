//! Who a data directory belongs to, and whom its node has met.
//!
//! **Why it exists.** A node's promises (votes, acknowledged writes) are as durable as its data
//! directory. A directory opened by the wrong node, in another mode or with another engine, or a node
//! that comes back with an empty one, breaks them silently; so the directory says what it is, and
//! nodes remember each other's.
//!
//! **Guarantees.** Every change is durable before the call returns. A directory that holds data, but
//! does not say whose, is refused.
//!
//! **On disk.** `identity.json` and `peers.json`, each replaced whole, with a checksum over what they
//! say: a flipped bit in an incarnation would otherwise make another node of this one in silence.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use pinned::PinnedLayout;

use self::sealed::{read, write};
use super::disk::Disk;
use crate::error::StartError;
use crate::runtime::Runtime;
use crate::types::{ClusterId, Incarnation, Mode, NodeId};

mod pinned;
mod sealed;

/// The format of a data directory as a whole: the log, the table's rows, and these files.
const FORMAT: u32 = 1;

const IDENTITY_FILE: &str = "identity.json";
const PEERS_FILE: &str = "peers.json";

/// Where files lie in a data directory, the root included: none may be there without an identity.
const DIRECTORIES: [&str; 4] = ["", "log", "table", "snapshot"];

/// A data directory's identity; every change is durable before the call returns.
pub struct Identity {
    disk: Arc<dyn Disk>,
    node: NodeId,
    incarnation: Incarnation,
    boot: u64,
    /// Held while the file is replaced.
    identity: Mutex<IdentityFile>,
    peers: Mutex<PeersFile>,
}

/// `identity.json`. Random numbers are in hexadecimal, because JSON's numbers are not 64 bits wide.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    cluster: Option<String>,
    node: NodeId,
    incarnation: String,
    mode: Mode,
    engine: String,
    boots: u64,
    /// Where the mode places keys by it; a directory made before it was kept takes the settings'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layout: Option<PinnedLayout>,
}

/// `peers.json`: the incarnation that each node was first met with.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PeersFile {
    format: u32,
    incarnations: BTreeMap<NodeId, String>,
}

impl Identity {
    /// Reads the identity, or mints one in an empty directory; counts the boot. Refuses where
    /// node id, mode, engine, layout (where the mode places keys by one) or format differ from
    /// what the directory was made for. Blocking.
    pub fn open(
        disk: Arc<dyn Disk>,
        runtime: &Runtime,
        node: NodeId,
        mode: Mode,
        engine: &str,
        layout: Option<PinnedLayout>,
    ) -> Result<Identity, StartError> {
        let mut identity = match read::<IdentityFile>(&*disk, IDENTITY_FILE)? {
            Some(identity) => {
                identity.check(node, mode, engine)?;
                if let (Some(pinned), Some(asked)) = (&identity.layout, &layout) {
                    pinned.check(asked)?;
                }
                identity
            }
            None => {
                refuse_data_without_identity(&*disk)?;
                IdentityFile::mint(runtime, node, mode, engine)
            }
        };
        let incarnation = Incarnation(hexadecimal(IDENTITY_FILE, &identity.incarnation)?);
        identity.cluster()?;
        let none = PeersFile { format: FORMAT, incarnations: BTreeMap::new() };
        let peers = read::<PeersFile>(&*disk, PEERS_FILE)?.unwrap_or(none);
        for known in peers.incarnations.values() {
            hexadecimal(PEERS_FILE, known)?;
        }
        identity.boots += 1;
        identity.layout = layout;
        write(&*disk, IDENTITY_FILE, &identity).map_err(cannot_write)?;
        let boot = identity.boots;
        let (identity, peers) = (Mutex::new(identity), Mutex::new(peers));
        Ok(Identity { disk, node, incarnation, boot, identity, peers })
    }

    /// The node that the directory belongs to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The random number minted with the directory.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// How often the directory was opened, this time included: 1 on the first start.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// The cluster that the node has joined.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.identity.lock().cluster().ok().flatten()
    }

    /// Remembers the cluster; an error where another one is remembered. Blocking, the first time.
    pub fn join_cluster(&self, cluster: ClusterId) -> Result<(), StartError> {
        let mut identity = self.identity.lock();
        match identity.cluster()? {
            Some(known) if known == cluster => Ok(()),
            Some(known) => Err(StartError::DataDirectory(format!(
                "this data directory belongs to cluster {known}, but the node's peers are of \
                 cluster {cluster}: correct --peers, or give the node the data directory that it \
                 has in that cluster"
            ))),
            None => {
                let joined =
                    IdentityFile { cluster: Some(cluster.to_string()), ..identity.clone() };
                write(&*self.disk, IDENTITY_FILE, &joined).map_err(cannot_write)?;
                *identity = joined;
                Ok(())
            }
        }
    }

    /// The incarnation under which `node` is known: `incarnation` itself where it was met for the
    /// first time (and is now remembered), or the one it was met with before. Blocking, the first
    /// time.
    pub fn meet(&self, node: NodeId, incarnation: Incarnation) -> io::Result<Incarnation> {
        let mut peers = self.peers.lock();
        if let Some(known) = peers.incarnations.get(&node) {
            return hexadecimal(PEERS_FILE, known).map(Incarnation).map_err(io::Error::other);
        }
        let mut met = peers.clone();
        met.incarnations.insert(node, incarnation.to_string());
        write(&*self.disk, PEERS_FILE, &met)?;
        *peers = met;
        Ok(incarnation)
    }
}

impl IdentityFile {
    fn mint(runtime: &Runtime, node: NodeId, mode: Mode, engine: &str) -> IdentityFile {
        IdentityFile {
            format: FORMAT,
            cluster: None,
            node,
            incarnation: Incarnation(runtime.random_u64()).to_string(),
            mode,
            engine: engine.to_owned(),
            boots: 0,
            layout: None,
        }
    }

    /// Refuses settings that differ from what the directory was made with.
    fn check(&self, node: NodeId, mode: Mode, engine: &str) -> Result<(), StartError> {
        let problem = if self.node != node {
            format!(
                "this data directory belongs to node {}, but the settings say node {node}: start \
                 with --id {}, or with the data directory of node {node}",
                self.node, self.node
            )
        } else if self.mode != mode {
            format!(
                "this data directory was made in {} mode, but the settings say {mode}: start with \
                 --mode {}, or with an empty data directory",
                self.mode, self.mode
            )
        } else if self.engine != engine {
            format!(
                "this data directory was made with engine {}, but the settings say {engine}: start \
                 with --engine {}, or with an empty data directory",
                self.engine, self.engine
            )
        } else {
            return Ok(());
        };
        Err(StartError::DataDirectory(problem))
    }

    fn cluster(&self) -> Result<Option<ClusterId>, StartError> {
        let number = |text: &String| hexadecimal(IDENTITY_FILE, text);
        Ok(self.cluster.as_ref().map(number).transpose()?.map(ClusterId))
    }
}

/// A directory with data whose identity is gone was made by a node that made promises: minting
/// another identity over them would hide that.
fn refuse_data_without_identity(disk: &dyn Disk) -> Result<(), StartError> {
    let left_over = format!("{IDENTITY_FILE}.tmp");
    let mut found = Vec::new();
    for dir in DIRECTORIES {
        let names = disk.list(dir).map_err(|error| cannot_read(dir, &error))?;
        let path = |name| if dir.is_empty() { name } else { format!("{dir}/{name}") };
        // A crash during the very first start may leave this, and nothing else.
        found.extend(names.into_iter().map(path).filter(|path| *path != left_over));
    }
    match found.first() {
        None => Ok(()),
        Some(path) => Err(StartError::DataDirectory(format!(
            "this data directory holds {path} but no {IDENTITY_FILE}, so whose data it is cannot \
             be told: restore the whole directory from a copy, or start with an empty one"
        ))),
    }
}

fn hexadecimal(path: &str, text: &str) -> Result<u64, StartError> {
    u64::from_str_radix(text, 16).map_err(|_| {
        StartError::DataDirectory(format!(
            "{path} in this data directory is damaged ('{text}' is not a hexadecimal number): \
             restore the data directory from a copy, or replace the node"
        ))
    })
}

fn cannot_read(path: &str, error: &io::Error) -> StartError {
    let path = if path.is_empty() { "the data directory" } else { path };
    StartError::DataDirectory(format!(
        "cannot read {path} in this data directory ({error}): check its permissions and its disk"
    ))
}

fn cannot_write(error: io::Error) -> StartError {
    StartError::DataDirectory(format!(
        "cannot write {IDENTITY_FILE} in this data directory ({error}): check its permissions and \
         its free space"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::{SimDisk, replace_file};

    const NODE: NodeId = NodeId(2);

    fn open_as(
        disk: &SimDisk,
        node: NodeId,
        mode: Mode,
        engine: &str,
    ) -> Result<Identity, StartError> {
        Identity::open(Arc::new(disk.clone()), &Runtime::real(), node, mode, engine, None)
    }

    fn open_leaderless(
        disk: &SimDisk,
        nodes: &[u16],
        replicas: u16,
    ) -> Result<Identity, StartError> {
        let (disk, mode) = (Arc::new(disk.clone()), Mode::Leaderless);
        let layout = Some(PinnedLayout::new(nodes.iter().copied().map(NodeId), replicas));
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
            put(&disk, file, r#"{"format":2,"whatever":"follows"}"#);
            let later = refusal(open_as(&disk, NODE, Mode::Leader, "sled"));
            assert!(later.contains(file) && later.contains("format 2"), "{later}");
            for damaged in ["", "{", "[]", r#"{"format":1}"#, "\0\0\0"] {
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
}
