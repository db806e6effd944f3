//! Reads on a follower's word: what is saved by it, and what it does not cover.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::reads::{asked, read_at, rounds, value, write};
use super::wires::WireFate;
use super::world::{World, in_a_world, ms, within};
use crate::error::ReadError;
use crate::planted::{self, Bug};
use crate::replication::leader::forward::Stamp;
use crate::replication::leader::vouches::Vouches;
use crate::replication::{Cost, ReadAnswer};

async fn read(world: &Arc<World>, node: u16) -> Result<ReadAnswer, ReadError> {
    read_at(world, node, within(world, ms(1_000))).await
}

fn by_word(world: &World) -> u64 {
    world.node(1).context.metrics.read_indexes_by_word.get()
}

fn cost(answer: &Result<ReadAnswer, ReadError>) -> Cost {
    answer.as_ref().expect("is answered").cost
}

#[test]
fn a_follower_s_reads_cost_its_question_and_the_answer() {
    in_a_world(61, async |world| {
        write(&world, 1, "a", "v").await;
        world.words.store(true, Ordering::Relaxed);
        let all = join_all((0..50).map(|_| read(&world, 2))).await;
        assert!(all.iter().all(|answer| value(answer).as_deref() == Some("v")));
        assert_eq!((rounds(&world), asked(&world), by_word(&world)), (0, 1, 1));
        assert_eq!(cost(&all[0]), Cost { messages: 2, acks: 2 });
    });
}

#[test]
fn the_leader_s_reads_go_with_the_next_question_of_a_follower_that_keeps_asking() {
    in_a_world(62, async |world| {
        write(&world, 1, "a", "v").await;
        world.words.store(true, Ordering::Relaxed);
        *world.wire_delay.lock() = ms(0);
        let asking = async {
            for _ in 0..40 {
                world.runtime.sleep(ms(1)).await;
                assert_eq!(value(&read(&world, 2).await).as_deref(), Some("v"));
            }
        };
        let reading = async {
            // By then the follower has asked again soon after an answer.
            world.runtime.sleep(ms(10)).await;
            join_all((0..50).map(|_| read(&world, 1))).await
        };
        let ((), all) = tokio::join!(asking, reading);
        assert!(all.iter().all(|answer| value(answer).as_deref() == Some("v")));
        assert_eq!((rounds(&world), by_word(&world)), (0, 40));
        assert_eq!(cost(&all[0]), Cost { messages: 0, acks: 2 });
    });
}

#[test]
fn the_leader_asks_a_majority_where_nobody_asks_or_who_asked_stops() {
    in_a_world(63, async |world| {
        write(&world, 1, "a", "v").await;
        world.words.store(true, Ordering::Relaxed);
        let alone = read(&world, 1).await;
        assert_eq!((rounds(&world), cost(&alone)), (1, Cost { messages: 4, acks: 2 }));
        for _ in 0..5 {
            read(&world, 3).await.expect("is answered");
        }
        let began = world.runtime.now();
        let after = read(&world, 1).await;
        assert_eq!((rounds(&world), cost(&after)), (2, Cost { messages: 4, acks: 2 }));
        let took = world.runtime.now() - began;
        assert!(took < ms(10), "it waited {took:?} for a question that does not come");
    });
}

#[test]
fn a_question_that_is_answered_late_or_twice_lets_nobody_through_who_came_after_it() {
    for seed in 0..50 {
        in_a_world(100 + seed, async |world| {
            world.words.store(true, Ordering::Relaxed);
            world.set_apply_lag(2, ms(0));
            for round in 0..20 {
                let text = round.to_string();
                write(&world, 1, "a", &text).await;
                let late = WireFate::BrokenButArrives(ms(seed % 5));
                world.wire_fates.lock().push_back(late);
                let (at_2, at_1) = tokio::join!(read(&world, 2), read(&world, 1));
                assert_eq!(value(&at_2), Some(text.clone()));
                assert_eq!(value(&at_1), Some(text));
            }
        });
    }
}

#[test]
fn a_node_that_leads_no_more_answers_nothing_on_a_word() {
    in_a_world(64, async |world| {
        write(&world, 1, "a", "v").await;
        world.words.store(true, Ordering::Relaxed);
        read(&world, 2).await.expect("is answered");
        world.elect(Some(3));
        let moved = read(&world, 2).await;
        assert_eq!(value(&moved).as_deref(), Some("v"));
        assert_eq!(by_word(&world), 1, "the old leader's");
        assert_eq!(world.node(3).context.metrics.read_indexes_by_word.get(), 1);
    });
}

/// Whether a question covers a round of the leader's reads that left after the question was sent.
fn covers_later_reads() -> bool {
    let mut covers = false;
    in_a_world(65, async |world| {
        let (vouches, now) = (Vouches::new(7), world.runtime.now());
        let sent_with = vouches.stamp(now);
        let round = vouches.depart();
        covers = vouches.covered(Some(sent_with), now) >= round;
    });
    covers
}

#[test]
fn a_question_covers_the_rounds_that_had_left_by_the_answer_that_it_follows() {
    assert!(!covers_later_reads());
    assert!(planted::with(Bug::WordForLaterReads, covers_later_reads), "it was not planted");
    in_a_world(66, async |world| {
        let (vouches, now) = (Vouches::new(7), world.runtime.now());
        let first = vouches.depart();
        let stamp = vouches.stamp(now);
        let second = vouches.depart();
        assert_eq!((vouches.covered(None, now), vouches.covered(Some(stamp), now)), (0, first));
        let of_another_process = Stamp { process: 8, ..stamp };
        assert_eq!(vouches.covered(Some(of_another_process), now), 0);
        assert!(vouches.covered(Some(vouches.stamp(now)), now) >= second);
    });
}

#[test]
fn a_word_is_waited_for_only_where_the_last_one_came_soon_after_its_answer() {
    in_a_world(67, async |world| {
        let (vouches, start) = (Vouches::new(7), world.runtime.now());
        assert_eq!(vouches.patience(start), None);
        let stamp = vouches.stamp(start);
        assert_eq!(vouches.patience(start), None, "nobody has asked twice");
        vouches.covered(Some(stamp), start + ms(1));
        assert!(vouches.patience(start + ms(1)).is_some());
        assert_eq!(vouches.patience(start + ms(3)), None, "the next one is late already");
        vouches.covered(Some(stamp), start + ms(50));
        vouches.stamp(start + ms(50));
        assert_eq!(vouches.patience(start + ms(50)), None, "this one came late");
    });
}
