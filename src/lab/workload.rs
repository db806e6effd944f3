//! What the load works on. Values come from [`crate::history::ValueId`].
//!
//! Does not model any particular application; named workloads come later.

use crate::types::Key;

/// The keys a load works on: `prefix-000017`.
pub fn keys(prefix: &str, count: usize) -> anyhow::Result<Vec<Key>> {
    (0..count).map(|n| Ok(Key::new(&format!("{prefix}-{n:06}"), 256)?)).collect()
}
