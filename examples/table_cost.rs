//! What a row costs each table engine: microseconds a row for batches of several sizes, each of new
//! and old rows in random order, with the row of the applied position that a node adds to each.
//!
//! `cargo run --release --example table_cost`; what came out is in docs/adr/0013-fjall.md.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use quorate::storage::table::{FjallTable, SledTable, Table, TableBatch, WriteBehind};

/// Keys that rows are drawn from, and the length of a value in bytes.
const KEYS: u64 = 200_000;
const VALUE_BYTES: usize = 256;

/// Rows of each measurement before and while time is taken.
const WARM_UP_ROWS: usize = 20_000;
const ROWS: usize = 100_000;

const CACHE_BYTES: u64 = 64 << 20;
const OVERLAY_BYTES: u64 = 64 << 20;

type Open = fn(&Path) -> anyhow::Result<Arc<dyn Table>>;

const ENGINES: [(&str, Open); 4] = [
    ("sled", |dir| Ok(Arc::new(SledTable::open(dir, CACHE_BYTES, OVERLAY_BYTES)?))),
    ("sled behind layers", |dir| {
        Ok(Arc::new(WriteBehind::new(SledTable::open(dir, CACHE_BYTES, OVERLAY_BYTES)?)?))
    }),
    ("fjall", |dir| Ok(Arc::new(FjallTable::open(dir, CACHE_BYTES)?))),
    ("fjall behind layers", |dir| {
        Ok(Arc::new(WriteBehind::new(FjallTable::open(dir, CACHE_BYTES)?)?))
    }),
];

fn main() -> anyhow::Result<()> {
    let under = std::env::args().nth(1).context("name a directory on the disk to measure")?;
    println!("{:<20} {:>5} {:>10} {:>10} {:>10}", "engine", "rows", "apply", "CPU", "get");
    for (name, open) in ENGINES {
        for rows in [1, 16, 64, 256] {
            let dir = Path::new(&under).join("table_cost");
            let table = open(&dir)?;
            let (apply, cpu) = writes(&*table, rows)?;
            let get = reads(&*table)?;
            println!("{name:<20} {rows:>5} {apply:>7.2} µs {cpu:>7.2} µs {get:>7.2} µs");
            drop(table);
            std::fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

/// Microseconds a row of elapsed time, and of processor time of all threads.
fn writes(table: &dyn Table, rows: usize) -> anyhow::Result<(f64, f64)> {
    let mut random = 0x1234_5678_9abc_def0_u64;
    let mut position = 0_u64;
    let mut run = |count: usize| -> anyhow::Result<()> {
        for _ in 0..count / rows {
            let mut batch = TableBatch::default();
            for _ in 0..rows {
                let key = next(&mut random) % KEYS;
                batch.put(format!("partition/{key:012}"), vec![key as u8; VALUE_BYTES]);
            }
            position += 1;
            batch.put("applied", position.to_be_bytes().to_vec());
            table.apply(batch)?;
        }
        Ok(())
    };
    run(WARM_UP_ROWS)?;
    let (began, cpu_began) = (Instant::now(), cpu()?);
    run(ROWS)?;
    // What gathered in front of the engine counts too.
    table.view()?;
    let micros = |spent: Duration| spent.as_secs_f64() * 1e6 / ROWS as f64;
    Ok((micros(began.elapsed()), micros(cpu()? - cpu_began)))
}

/// Microseconds a row that is looked up.
fn reads(table: &dyn Table) -> anyhow::Result<f64> {
    let mut random = 77;
    let began = Instant::now();
    for _ in 0..ROWS {
        let key = next(&mut random) % KEYS;
        table.get(format!("partition/{key:012}").as_bytes())?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / ROWS as f64)
}

fn next(random: &mut u64) -> u64 {
    *random =
        random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *random >> 20
}

/// The processor time that this process has taken.
fn cpu() -> anyhow::Result<Duration> {
    const TICKS_A_SECOND: u32 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().context("no name in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    let ticks = ticks.sum::<Result<u32, _>>()?;
    Ok(Duration::from_secs(1) * ticks / TICKS_A_SECOND)
}
