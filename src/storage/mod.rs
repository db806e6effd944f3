//! What a node keeps: the commit log, the table, and who it is.
//!
//! **The division of labour.** The [`log`] is the truth: a write is on stable storage once its
//! record is synced there. The [`table`] is an ordered map that log records are applied to without a
//! sync of their own; after a crash it is some whole prefix of what was applied, and the log replays
//! over it from strictly after the position that the table itself says was applied. A *checkpoint*
//! makes the table durable for real, and only then may the log be cut.
//!
//! Everything below [`disk`] runs on real files or on a simulated disk, byte for byte the same.

pub mod disk;
pub mod encoding;
pub mod identity;
pub mod log;
pub mod rows;
pub mod table;
