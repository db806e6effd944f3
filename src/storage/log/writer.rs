//! The one writer: takes everything that has queued, writes it, syncs once, calls the completions.
//!
//! The steps are the same in both worlds; only the waiting differs. A thread parks on a condition
//! variable and lets the sync take its time; a simulated task awaits a notification, and sleeps
//! before each sync for as long as a sync takes there, so that a crash can fall between the write
//! and the sync.

use std::sync::Arc;
use std::time::Duration;

use super::codec;
use super::queue::{Batch, Shared};
use super::segments::{Segment, Tail};
use super::torn;
use super::{LogError, NewRecord};
use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::storage::disk::Disk;
use crate::telemetry::Metrics;

/// The encoding buffer is given back beyond this many bytes, so that one burst does not hold its
/// memory for ever.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub disk: Arc<dyn Disk>,
    pub dir: String,
    pub metrics: Metrics,
    /// The segment that takes records.
    pub active: Arc<Segment>,
    /// The end of what is written.
    pub tail: Tail,
    /// The length of the active segment's file as of its last sync.
    pub synced_bytes: u64,
    /// Records on their way into the active segment; empty between batches.
    pub buffer: Vec<u8>,
    /// Dropped with the writer: whoever closes the log waits for that.
    pub _ended: watch::Sender<()>,
}

impl Writer {
    /// Writes until the log is closed. On a thread of its own.
    pub fn run(mut self) {
        let mut batch = Batch::default();
        while self.shared.wait(&mut batch) {
            let result = match self.shared.failure() {
                None => self.commit(&batch.records).inspect_err(|error| self.fail(error)),
                Some(error) => Err(error),
            };
            self.finish(&mut batch, result);
        }
    }

    /// [`Writer::run`] as a task of a simulated world.
    pub async fn run_simulated(mut self, runtime: Runtime) {
        let mut batch = Batch::default();
        while self.shared.wait_async(&mut batch).await {
            let delay = self.disk.simulated_sync_delay();
            if planted::is(Bug::AckBeforeSync) {
                batch.completions.drain(..).for_each(|early| (early.done)(Ok(())));
            }
            let result = match self.shared.failure() {
                None => self
                    .commit_simulated(&batch.records, &runtime, delay)
                    .await
                    .inspect_err(|error| self.fail(error)),
                Some(error) => Err(error),
            };
            self.finish(&mut batch, result);
        }
    }

    fn commit(&mut self, mut records: &[NewRecord]) -> Result<(), LogError> {
        while !records.is_empty() {
            records = self.write(records)?;
            self.sync()?;
        }
        Ok(())
    }

    async fn commit_simulated(
        &mut self,
        mut records: &[NewRecord],
        runtime: &Runtime,
        delay: Duration,
    ) -> Result<(), LogError> {
        while !records.is_empty() {
            records = self.write(records)?;
            runtime.sleep(delay).await;
            self.sync()?;
        }
        Ok(())
    }

    /// Writes as many records as belong into one segment, at once, and gives the others: what was
    /// written is to be synced before they are.
    fn write<'a>(&mut self, mut records: &'a [NewRecord]) -> Result<&'a [NewRecord], LogError> {
        self.buffer.clear();
        let mut offset = self.tail.file_offset();
        while let Some((record, rest)) = records.split_first() {
            let mut tail = self.tail;
            let placed = tail.place(codec::record_bytes(record.payload.len()));
            if placed.begins_segment {
                if !self.buffer.is_empty() {
                    break;
                }
                self.begin_segment(placed.position.0)?;
                offset = self.tail.file_offset();
            }
            let begins_write = self.buffer.is_empty();
            // Zeros up to the next sector, where the head would not lie in one.
            let gap = placed.position.0 - self.tail.end;
            self.buffer.resize(self.buffer.len() + gap as usize, 0);
            let payload_offset = offset + (self.buffer.len() + codec::HEAD_BYTES) as u64;
            let flags = codec::Flags {
                begins_write,
                has_blank_sector: torn::has_blank_sector(&record.payload, payload_offset),
            };
            let (position, payload) = (placed.position, &record.payload);
            codec::encode_record(&mut self.buffer, position, record.kind, flags, payload);
            self.tail = tail;
            records = rest;
        }
        self.active.file.write_all_at(&self.buffer, offset)?;
        self.metrics.log_bytes.inc_by(self.buffer.len() as u64);
        Ok(records)
    }

    /// Leaves the active segment, which is synced, for a new one.
    fn begin_segment(&mut self, base: u64) -> Result<(), LogError> {
        let segment = Segment::create(&*self.disk, &self.dir, base, &self.metrics)?;
        self.shared.segments.push(segment.clone());
        self.active = segment;
        self.tail.base = base;
        self.tail.version = codec::FORMAT_VERSION;
        self.synced_bytes = self.tail.file_offset();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let synced = self.active.file.sync();
        if !planted::is(Bug::FailedSyncIgnored) {
            synced?;
        }
        self.metrics.log_syncs.inc();
        self.synced_bytes = self.tail.file_offset();
        Ok(())
    }

    /// Calls the completions of a batch, in order.
    fn finish(&mut self, batch: &mut Batch, result: Result<(), LogError>) {
        if result.is_ok() && !batch.records.is_empty() {
            self.metrics.log_records.inc_by(batch.records.len() as u64);
            self.metrics.log_batch_records.observe(batch.records.len() as f64);
        }
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        batch.records.clear();
        for completion in batch.completions.drain(..) {
            (completion.done)(completion.refused.map_or_else(|| result.clone(), Err));
        }
    }

    /// Fails the log, and takes back what is not synced, as far as the disk lets it: a process that
    /// opens the log while the operating system still shows those bytes would take them for durable.
    fn fail(&self, error: &LogError) {
        self.shared.fail(error);
        if let Err(error) = self.active.file.set_len(self.synced_bytes) {
            tracing::warn!(%error, "what was not synced cannot be cut off the commit log");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A completion that panics ends the writer: nobody may go on waiting for it.
        if std::thread::panicking() {
            self.shared.fail(&LogError::from(std::io::Error::other("the log's writer panicked")));
            self.shared.abandon();
        }
    }
}
