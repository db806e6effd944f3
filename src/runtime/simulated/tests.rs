//! Nodes that are paused, die in the middle of an instant, keep bad time, and lose count of nothing.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::runtime::{Runtime, in_a_paused_world};

type Log = Arc<Mutex<Vec<&'static str>>>;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Starts a task that notes its name after each of its sleeps.
fn sleeper(runtime: &Runtime, log: &Log, name: &'static str, sleeps_ms: &'static [u64]) {
    let (inner, log) = (runtime.clone(), log.clone());
    runtime.spawn(async move {
        for sleep_ms in sleeps_ms {
            inner.sleep(millis(*sleep_ms)).await;
            log.lock().push(name);
        }
    });
}

#[test]
fn a_paused_node_does_nothing_and_goes_on_in_the_order_in_which_its_tasks_became_ready() {
    in_a_paused_world(async {
        let (runtime, other) = (Runtime::simulated(1, 0), Runtime::simulated(2, 0));
        let log = Log::default();
        sleeper(&runtime, &log, "late", &[30, 1]);
        sleeper(&runtime, &log, "early", &[10, 1]);
        sleeper(&runtime, &log, "middle", &[20]);
        sleeper(&other, &log, "other", &[25]);
        runtime.sleep(millis(5)).await;
        runtime.pause();
        assert!(runtime.is_paused() && !other.is_paused());
        let started = log.clone();
        runtime.spawn(async move { started.lock().push("spawned") });
        runtime.sleep(millis(100)).await;
        assert_eq!(*log.lock(), ["other"], "only the other node runs, though time goes on");
        runtime.resume();
        assert!(!runtime.is_paused());
        runtime.sleep(millis(1)).await;
        let expected = ["other", "spawned", "early", "middle", "late"];
        assert_eq!(log.lock()[..5], expected);
        runtime.sleep(millis(10)).await;
        assert_eq!(log.lock().len(), 7);
    });
}

#[test]
fn a_node_can_be_paused_again_before_it_went_on() {
    in_a_paused_world(async {
        let runtime = Runtime::simulated(1, 0);
        let log = Log::default();
        sleeper(&runtime, &log, "task", &[1, 1]);
        runtime.sleep(millis(0)).await;
        runtime.pause();
        runtime.sleep(millis(10)).await;
        runtime.resume();
        runtime.pause();
        runtime.sleep(millis(10)).await;
        assert!(log.lock().is_empty());
        runtime.resume();
        runtime.sleep(millis(10)).await;
        assert_eq!(*log.lock(), ["task", "task"]);
    });
}

#[test]
fn a_task_woken_many_times_in_a_pause_is_noted_once() {
    in_a_paused_world(async {
        let runtime = Runtime::simulated(1, 0);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<()>();
        let inner = runtime.clone();
        runtime.spawn(async move {
            let mut timer = std::pin::pin!(inner.sleep(millis(3)));
            // Two things to wait for, each of which wakes the task.
            std::future::poll_fn(|context| {
                let _ = timer.as_mut().poll(context);
                receiver.poll_recv(context).map(|_| ())
            })
            .await;
        });
        runtime.sleep(millis(1)).await;
        runtime.pause();
        sender.send(()).expect("the task lives");
        runtime.sleep(millis(10)).await;
        let simulated = runtime.0.simulated.as_ref().expect("it is simulated");
        assert_eq!(simulated.gate.inner.lock().ready.len(), 1);
        runtime.kill();
    });
}

/// Lets a node with three tasks, all due in the same instants, die after so many polls; gives what
/// they did, and how often each was begun.
async fn dies_after(polls: u64) -> Vec<&'static str> {
    let runtime = Runtime::simulated(1, 0);
    let log = Log::default();
    for name in ["a", "b", "c"] {
        sleeper(&runtime, &log, name, &[5, 5]);
    }
    runtime.kill_after_polls(polls);
    let before = runtime.now();
    runtime.dead().await;
    // The first polls are at once, the second at 5 ms, the third, in which tasks end, at 10 ms.
    let expected_ms = if polls == 0 { 0 } else { (polls - 1) / 3 * 5 };
    let waited = runtime.now() - before;
    assert_eq!(waited, millis(expected_ms), "after {polls} polls");
    assert!(runtime.is_dead());
    let late = log.clone();
    runtime.spawn(async move { late.lock().push("late") });
    runtime.sleep(millis(100)).await;
    let seen = log.lock().clone();
    runtime.kill();
    runtime.sleep(millis(1)).await;
    assert_eq!((log.lock().clone(), runtime.live_tasks()), (seen.clone(), 0));
    seen
}

#[test]
fn a_node_dies_between_any_two_polls_also_of_one_instant() {
    in_a_paused_world(async {
        let all = ["a", "b", "c", "a", "b", "c"];
        for polls in 0..=9_u64 {
            let expected = &all[..polls.saturating_sub(3) as usize];
            assert_eq!(dies_after(polls).await, expected, "after {polls} polls");
        }
    });
}

#[test]
fn a_killed_node_is_dead_to_those_who_wait_for_it_and_another_is_not() {
    in_a_paused_world(async {
        let (runtime, other) = (Runtime::simulated(1, 0), Runtime::simulated(2, 0));
        let waiter = other.spawn(runtime.dead());
        other.sleep(millis(1)).await;
        assert!(!waiter.is_finished() && !runtime.is_dead());
        runtime.kill();
        waiter.await.expect("it is dead");
        assert!(runtime.is_dead() && !other.is_dead());
        let deadline = other.now() + millis(10);
        assert_eq!(other.deadline(deadline, other.dead()).await, None);
    });
}

#[test]
fn polls_of_a_paused_node_do_not_count() {
    in_a_paused_world(async {
        let runtime = Runtime::simulated(1, 0);
        let log = Log::default();
        sleeper(&runtime, &log, "task", &[1, 1, 1]);
        runtime.pause();
        runtime.kill_after_polls(2);
        runtime.sleep(millis(10)).await;
        assert!(!runtime.is_dead());
        runtime.resume();
        runtime.dead().await;
        assert_eq!(*log.lock(), ["task"]);
    });
}

#[test]
fn a_wall_clock_runs_fast_and_slow_without_a_jump_and_keeps_its_skew() {
    in_a_paused_world(async {
        let runtime = Runtime::simulated(1, 1_000_000);
        runtime.sleep(millis(1_000)).await;
        runtime.set_wall_rate_ppm(50_000);
        assert_eq!(runtime.wall_ms(), 1_001_000, "no jump");
        runtime.sleep(millis(1_000)).await;
        assert_eq!(runtime.wall_ms(), 1_002_050);
        runtime.set_wall_skew_ms(-500);
        assert_eq!(runtime.wall_ms(), 1_001_550);
        runtime.set_wall_rate_ppm(-100_000);
        assert_eq!(runtime.wall_ms(), 1_001_550, "no jump");
        runtime.sleep(millis(100)).await;
        assert_eq!(runtime.wall_ms(), 1_001_640);
        runtime.set_wall_rate_ppm(0);
        runtime.set_wall_skew_ms(i64::MIN);
        assert_eq!(runtime.wall_ms(), 0, "never before 1970");
    });
}

#[test]
fn the_tasks_that_live_are_counted_through_ends_aborts_and_many_short_ones() {
    in_a_paused_world(async {
        let runtime = Runtime::simulated(1, 0);
        let long = runtime.spawn(std::future::pending::<()>());
        let done = runtime.spawn(async {});
        assert_eq!(runtime.live_tasks(), 2);
        done.await.expect("ends");
        assert_eq!(runtime.live_tasks(), 1);
        for _ in 0..3_000 {
            runtime.spawn(async {}).await.expect("ends");
        }
        assert_eq!(runtime.live_tasks(), 1);
        long.abort();
        runtime.sleep(millis(1)).await;
        assert_eq!(runtime.live_tasks(), 0);
        for _ in 0..10 {
            runtime.spawn(std::future::pending::<()>());
        }
        assert_eq!(runtime.live_tasks(), 10);
        runtime.kill();
        runtime.sleep(millis(1)).await;
        assert_eq!(runtime.live_tasks(), 0);
        assert_eq!(Runtime::real().live_tasks(), 0);
    });
}
