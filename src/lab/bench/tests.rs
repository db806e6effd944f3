//! Loads against a stand-in for a node that stalls when it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::pace::{Offered, closed, open, stop};
use super::schedule::Schedule;
use super::worker::{Ground, Shape, Tally};
use crate::runtime::{Instant, Runtime};

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\netag: \"0193e5f2a1b30000-1\"\r\n\r\n";

/// Answers nothing from one instant to another, and everything at once before and after.
#[derive(Clone, Copy)]
struct Stall {
    from: Instant,
    to: Instant,
}

async fn serve(runtime: Runtime, mut stream: TcpStream, stall: Stall) {
    let mut request = Vec::new();
    loop {
        request.clear();
        while !request.windows(4).any(|four| four == b"\r\n\r\n") {
            // A client that went away ends it.
            if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
                return;
            }
        }
        if (stall.from..stall.to).contains(&runtime.now()) {
            runtime.sleep_until(stall.to).await;
        }
        if stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

/// A node of which all connections stall together, from 100 ms after now for `length`.
async fn stalling(runtime: &Runtime, length: Duration) -> SocketAddr {
    let from = runtime.now() + Duration::from_millis(100);
    let stall = Stall { from, to: from + length };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let inner = runtime.clone();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            inner.spawn(serve(inner.clone(), stream, stall));
        }
    });
    address
}

fn ground(runtime: &Runtime, address: SocketAddr, connections: usize) -> Arc<Ground> {
    let shape = Shape {
        nodes: &[(1, address)],
        keys: 10,
        value_bytes: 16,
        writes_percent: 100,
        level: None,
        connections,
        seed: 1,
        keeps_writes: true,
    };
    Ground::new(runtime, &shape).expect("a ground")
}

/// An open loop of 200 arrivals a second for a second over 4 connections.
async fn open_loop(stall: Duration, max_in_flight: usize) -> (Tally, Offered) {
    let runtime = Runtime::real();
    let address = stalling(&runtime, stall).await;
    let ground = ground(&runtime, address, 4);
    let (_stop, stopped) = stop();
    let schedule = Schedule::new(200, 1_000_000);
    let ran = open(ground.workers(4), schedule, max_in_flight, stopped).await;
    let (_, offered) = ran.expect("it runs");
    (ground.take_tally().expect("a tally"), offered)
}

#[tokio::test]
async fn a_stall_shows_in_the_slowest_of_an_open_loop_and_nobody_is_left_out() {
    let (tally, offered) = open_loop(Duration::from_millis(300), 1_000).await;
    let latency = tally.puts.percentiles().expect("answers");
    // Some sixty of two hundred arrive during the stall; the first waits for all of it, and one in
    // a hundred for nearly all.
    assert!(latency.p99_us > 250_000, "{latency:?}");
    // Counted from when they were sent, only one a connection would be slow: two in a hundred.
    assert!(latency.p90_us > 100_000, "{latency:?}");
    assert_eq!((offered.arrivals, offered.missed), (200, 0));
    assert_eq!(tally.counts.done, 200);
    let kept = tally.kept.expect("kept");
    assert_eq!((kept.written.len(), kept.undone.len()), (200, 0));
}

#[tokio::test]
async fn a_closed_loop_measures_the_same_stall_once_a_connection() {
    let runtime = Runtime::real();
    let address = stalling(&runtime, Duration::from_millis(300)).await;
    let ground = ground(&runtime, address, 4);
    closed(ground.workers(4), Duration::from_secs(1)).await.expect("it runs");
    let tally = ground.take_tally().expect("a tally");
    let slow = tally.kept.expect("kept").acknowledged.into_iter();
    let slow = slow.filter(|write| write.answered_us - write.invoked_us > 250_000).count() as u64;
    // An open loop of the same length has a third of its arrivals in the stall.
    assert!(slow > 0 && slow * 10 < tally.counts.done, "{slow} of {}", tally.counts.done);
}

#[tokio::test]
async fn arrivals_that_find_no_room_are_missed_and_counted() {
    let (tally, offered) = open_loop(Duration::from_millis(500), 8).await;
    assert!(offered.missed > 0, "{offered:?}");
    assert_eq!(offered.arrivals, 200, "whether the server answers or not");
    assert_eq!(tally.counts.done + offered.missed, 200);
}

#[tokio::test]
async fn nobody_listening_is_an_error_with_a_code_and_never_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let runtime = Runtime::real();
    let ground = ground(&runtime, address, 1);
    closed(ground.workers(1), Duration::from_millis(50)).await.expect("it runs");
    let tally = ground.take_tally().expect("a tally");
    assert_eq!((tally.counts.done, tally.counts.unknown), (0, 0));
    assert_eq!(tally.errors.get("not-sent"), Some(&tally.counts.failed));
}

#[tokio::test]
async fn an_endless_open_loop_ends_when_it_is_told_to() {
    let runtime = Runtime::real();
    let address = stalling(&runtime, Duration::ZERO).await;
    let ground = ground(&runtime, address, 2);
    let (stop, stopped) = stop();
    let load = open(ground.workers(2), Schedule::new(1_000, u64::MAX), 100, stopped);
    let ending = async {
        runtime.sleep(Duration::from_millis(50)).await;
        drop(stop);
    };
    let (ran, ()) = tokio::join!(load, ending);
    let (_, offered) = ran.expect("it runs");
    let tally = ground.take_tally().expect("a tally");
    assert_eq!(tally.counts.done + offered.missed, offered.arrivals);
}
