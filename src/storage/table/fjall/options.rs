//! Every setting of fjall that touches safety or speed, on purpose.
//!
//! Those of the keyspace are written into the data directory when it is made, and cannot change after.
//! What is not said here has no say in either: partitioned indexes, hash tables in blocks, and so on.

use std::path::Path;
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    PinningPolicy,
};
use fjall::{CompressionType, Database, DatabaseBuilder, KeyspaceCreateOptions};

/// One thread writes tables in memory to sorted files and merges those. Of two or more the first only
/// writes, and while another merges it takes the request to merge from the queue and puts it back, over
/// and over: a whole core. What waits for a long merge lies in memory, up to three tables of it.
const WORKERS: usize = 1;

/// Journals are let go of as the one keyspace is written out; this only bounds what may gather.
const JOURNALS_BYTES: u64 = 256 << 20;

/// Files kept open. A node has sockets to keep open too, and is often given 1,024 in all.
const OPEN_FILES: usize = 256;

const BLOCK_BYTES: u32 = 4 << 10;

pub(super) fn database(dir: &Path, cache_bytes: u64) -> DatabaseBuilder<Database> {
    Database::builder(dir)
        .cache_size(cache_bytes)
        .worker_threads(WORKERS)
        .max_journaling_size(JOURNALS_BYTES)
        .max_cached_files(Some(OPEN_FILES))
        // The journal is short-lived, and its values are often compressed already.
        .journal_compression(CompressionType::None)
        // The commit log is the truth, and a checkpoint says when to sync.
        .manual_journal_persist(true)
        .temporary(false)
}

pub(super) fn keyspace() -> KeyspaceCreateOptions {
    let bits_per_key = |bits| FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(bits));
    KeyspaceCreateOptions::default()
        // Never reached: `make_room` sets the table in memory aside, without fjall's queue.
        .max_memtable_size(u64::MAX)
        .manual_journal_persist(true)
        // Merging by levels: reads and scans look into few files, and little space holds old rows.
        .compaction_strategy(Arc::new(Leveled::default()))
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
        .index_block_compression_policy(CompressionPolicy::all(CompressionType::None))
        // One read in a hundred of a key that is not there looks into a file for nothing.
        .filter_policy(FilterPolicy::all(bits_per_key(10.0)))
        // A conditional write of a new key reads what is not there, so that every level has a filter.
        .expect_point_read_hits(false)
        .index_block_pinning_policy(PinningPolicy::new([true, true, false]))
        .filter_block_pinning_policy(PinningPolicy::new([true, false]))
        // Large values stay in the sorted files: one kind of file to trust, and values are mostly
        // small. Each is rewritten as levels are merged.
        .with_kv_separation(None)
}
