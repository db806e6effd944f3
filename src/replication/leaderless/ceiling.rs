//! The version ceiling: what keeps a coordinator from ever giving a version twice.
//!
//! **Guarantees.** A version is given only below a ceiling that is on stable storage, and a node
//! starts above the highest ceiling it stored, whatever its wall clock says then.
//!
//! **Costs.** One small record every [`CEILING_AHEAD_MS`](crate::clock::CEILING_AHEAD_MS) / 2 while
//! writes are coordinated, stored ahead of need so that writes seldom wait; nothing when idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{HybridClock, StampError};
use crate::error::Refusal;
use crate::runtime::{Instant, Runtime};
use crate::storage::log::{CommitLog, Kind, LogError, NewRecord};
use crate::types::Version;

/// When to try again where the ceiling could not be stored in time.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Gives versions, and stores the ceiling they stay below.
pub struct Ceiling {
    runtime: Runtime,
    log: Arc<CommitLog>,
    shared: Arc<Shared>,
}

struct Shared {
    clock: HybridClock,
    /// The highest ceiling on stable storage, in milliseconds since 1970; 0 where there is none.
    stored_ms: AtomicU64,
    /// Whether a higher one is being stored.
    storing: AtomicBool,
    /// Called when a store is done, or has failed.
    stored: Notify,
    /// How storing failed last.
    failure: Mutex<Option<String>>,
}

/// The payload of a [`Kind::VersionCeiling`] record.
fn encode(ceiling_ms: u64) -> Bytes {
    Bytes::copy_from_slice(&ceiling_ms.to_be_bytes())
}

/// Reads the payload back: milliseconds since 1970.
pub(super) fn decode(payload: &[u8]) -> Result<u64, String> {
    let bytes = <[u8; 8]>::try_from(payload)
        .map_err(|_| format!("a version ceiling has 8 bytes, not {}", payload.len()))?;
    Ok(u64::from_be_bytes(bytes))
}

impl Ceiling {
    /// Versions of `clock`, which must have been made below `stored_ms`.
    pub fn new(
        runtime: Runtime,
        log: Arc<CommitLog>,
        clock: HybridClock,
        stored_ms: u64,
    ) -> Ceiling {
        let shared = Arc::new(Shared {
            clock,
            stored_ms: AtomicU64::new(stored_ms),
            storing: AtomicBool::new(false),
            stored: Notify::new(),
            failure: Mutex::new(None),
        });
        Ceiling { runtime, log, shared }
    }

    /// A version for a fresh write; waits, until `deadline` at most, where a ceiling must be stored
    /// first.
    pub async fn stamp(&self, deadline: Instant) -> Result<Version, Refusal> {
        loop {
            let stored = self.shared.stored.notified();
            tokio::pin!(stored);
            // Registered before looking, so that a ceiling stored in between is not missed.
            stored.as_mut().enable();
            match self.shared.clock.stamp() {
                Ok(version) => {
                    self.extend();
                    return Ok(version);
                }
                Err(error @ StampError::Drift { .. }) => {
                    return Err(Refusal::ClockDrift { detail: error.to_string() });
                }
                Err(StampError::Ceiling) => self.extend(),
            }
            if self.runtime.deadline(deadline, stored).await.is_none() {
                let what = "the commit log, which has to store a version ceiling first,";
                return Err(Refusal::Overloaded { what, retry_after: RETRY_AFTER });
            }
            if let Some(failure) = self.shared.failure.lock().clone() {
                let detail = format!("the version ceiling could not be stored: {failure}");
                return Err(Refusal::Storage { detail });
            }
        }
    }

    /// See [`HybridClock::now`].
    pub fn now(&self) -> Version {
        self.shared.clock.now()
    }

    /// Takes in a version seen from elsewhere; false where it runs too far ahead.
    pub fn observe(&self, version: Version) -> bool {
        self.shared.clock.observe(version)
    }

    /// Stores a higher ceiling where it is time to, without waiting for it.
    fn extend(&self) {
        let Some(next_ms) = self.shared.clock.next_ceiling_ms() else { return };
        if self.shared.storing.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.shared.clone();
        let record = NewRecord { kind: Kind::VersionCeiling, payload: encode(next_ms) };
        let done = move |result: Result<(), LogError>| {
            if result.is_ok() {
                shared.stored_ms.fetch_max(next_ms, Ordering::AcqRel);
                shared.clock.raise_ceiling_ms(next_ms);
            }
            *shared.failure.lock() = result.err().map(|error| error.to_string());
            shared.storing.store(false, Ordering::Release);
            shared.stored.notify_waiters();
        };
        self.log.append(vec![record], Box::new(done));
    }

    /// Stores the ceiling once more, so that the log can be cut before this.
    pub async fn store_again(&self) -> Result<(), LogError> {
        // What is on its way to the log may lie before the cut: wait until it counts as stored.
        self.log.append_durably(Vec::new()).await?;
        let stored_ms = self.shared.stored_ms.load(Ordering::Acquire);
        if stored_ms == 0 {
            return Ok(());
        }
        let record = NewRecord { kind: Kind::VersionCeiling, payload: encode(stored_ms) };
        self.log.append_durably(vec![record]).await.map(|_| ())
    }
}
