//! What the load works on. Values come from [`crate::history::ValueId`].
//!
//! Does not model any particular application; named workloads come later.

use std::fmt::Write as _;

use crate::types::Key;

/// The keys a load works on: `prefix-000017`.
pub fn keys(prefix: &str, count: usize) -> anyhow::Result<Vec<Key>> {
    (0..count).map(|number| key(prefix, number)).collect()
}

/// One of them.
pub fn key(prefix: &str, number: usize) -> anyhow::Result<Key> {
    let mut name = String::new();
    write_key(&mut name, prefix, number);
    Ok(Key::new(&name, 256)?)
}

/// Appends the name of one of them; it needs no escaping in a path or in JSON.
pub fn write_key(into: &mut String, prefix: &str, number: usize) {
    // Writing to a string cannot fail.
    let _ = write!(into, "{prefix}-{number:06}");
}
