//! The words of the project: keys, records, versions, modes, levels and outcomes.
//!
//! Nothing here does I/O, and nothing here reads a clock. Every other floor may use it.

mod consistency;
mod id;
mod key;
mod layout;
mod member;
mod mode;
mod outcome;
mod record;
mod version;
mod write;

pub use consistency::{EffectiveLevel, Level};
pub use id::{ClusterId, Epoch, Incarnation, NodeId, NodeIdError};
pub use key::{Key, KeyError, PARTITIONS, Partition};
pub use layout::{
    FOUNDING_EPOCH, LayoutCommand, LayoutRefusal, LayoutState, LayoutStep, MAX_LAYOUT_NODES,
    MAX_ZONE_BYTES, Share, Spread, Step, differ,
};
pub use member::{MemberChange, MemberFacts, Members};
pub use mode::Mode;
pub use outcome::Outcome;
pub use record::{Content, Record};
pub use version::{Version, VersionError};
pub use write::{Change, Condition, MAX_TTL_MS, RetryKey, Write};
