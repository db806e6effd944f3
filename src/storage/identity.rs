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
#[cfg(test)]
mod tests;

/// The format of a data directory as a whole: the log, the table's rows, and these files. Format 2
/// has writes with idempotency keys in the log, and the members' roster in the group's state; format 3
/// has the layout there, and in the log; format 4 has the collection horizons in the log and the table, and there
/// also which rows are deletions.
const FORMAT: u32 = 4;

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
    /// What the cluster was founded with, where the mode places keys by it; `None` where the node joined one,
    /// and is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layout: Option<PinnedLayout>,
    /// Whether the cluster has removed the node: it must never serve again.
    #[serde(default, skip_serializing_if = "is_false")]
    removed: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// `peers.json`: the incarnation that each node was first met with.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PeersFile {
    format: u32,
    incarnations: BTreeMap<NodeId, String>,
}

impl Identity {
    /// Reads the identity, or mints one in an empty directory; counts the boot. Refuses where the
    /// cluster has removed the node, and where node id, mode, engine, layout (where the mode places keys by one) or format differ from
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
                if identity.removed {
                    return Err(StartError::RemovedNode { node });
                }
                if let (Some(pinned), Some(asked)) = (&identity.layout, &layout) {
                    pinned.check(asked)?;
                }
                identity
            }
            None => {
                refuse_data_without_identity(&*disk)?;
                IdentityFile { layout, ..IdentityFile::mint(runtime, node, mode, engine) }
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
        write(&*disk, IDENTITY_FILE, &identity).map_err(cannot_write)?;
        let boot = identity.boots;
        let (identity, peers) = (Mutex::new(identity), Mutex::new(peers));
        Ok(Identity { disk, node, incarnation, boot, identity, peers })
    }

    /// The cluster that a directory's node has joined; `None` also where there is no identity yet.
    /// Blocking.
    pub fn cluster_of(disk: &dyn Disk) -> Result<Option<ClusterId>, StartError> {
        let identity = read::<IdentityFile>(disk, IDENTITY_FILE)?;
        identity.map_or(Ok(None), |identity| identity.cluster())
    }

    /// The node that the directory belongs to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The random number minted with the directory.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What the cluster was founded with; `None` where the mode does not place keys by it, and for a node
    /// that joined, also after it was started again.
    pub fn founding_layout(&self) -> Option<PinnedLayout> {
        self.identity.lock().layout.clone()
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

    /// Remembers that the cluster has removed this node: the directory is never opened again.
    /// Blocking.
    pub fn mark_removed(&self) -> Result<(), StartError> {
        let mut identity = self.identity.lock();
        let removed = IdentityFile { removed: true, ..identity.clone() };
        write(&*self.disk, IDENTITY_FILE, &removed).map_err(cannot_write)?;
        *identity = removed;
        Ok(())
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
            removed: false,
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
