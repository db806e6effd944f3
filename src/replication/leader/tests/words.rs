//! Reads on a follower's word: what is saved by it, and what it does not cover.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use super::reads::{asked, read_at, rounds, value, write};
use super::wires::WireFate;
use super::world::{World, in_a_world, ms, within};
use crate::error::{ReadError, Refusal};
use crate::planted::{self, Bug};
use crate::replication::leader::forward::Stamp;
use crate::replication::leader::vouches::Vouches;
use crate::replication::{Cost, ReadAnswer, Replicator};
use crate::types::NodeId;

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
        // Without a pause or a delay: its questions follow upon its answers.
        let ask = async |times: usize| {
            for _ in 0..times {
                assert_eq!(value(&read(&world, 2).await).as_deref(), Some("v"));
            }
        };
        ask(3).await;
        let ((), all) = tokio::join!(ask(10), join_all((0..50).map(|_| read(&world, 1))));
        assert!(all.iter().all(|answer| value(answer).as_deref() == Some("v")));
        assert_eq!((rounds(&world), by_word(&world)), (0, 13));
        assert_eq!(cost(&all[0]), Cost { messages: 0, acks: 2 });
    });
}

/// Reads at the leader, one that waits to be confirmed and one behind it at the gate, and questions of
/// a follower that asks so many times more.
async fn two_behind_one_another(
    world: &Arc<World>,
    questions: usize,
    then: impl Future<Output = ()>,
) -> [Result<ReadAnswer, ReadError>; 2] {
    write(world, 1, "a", "v").await;
    world.words.store(true, Ordering::Relaxed);
    *world.wire_delay.lock() = ms(0);
    let ask = async |times: usize| {
        for _ in 0..times {
            read(world, 2).await.expect("is answered");
        }
    };
    let let_others_run = async || {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    ask(3).await;
    let behind = async {
        let_others_run().await;
        read(world, 1).await
    };
    let asking = async {
        let_others_run().await;
        let_others_run().await;
        ask(questions).await;
        then.await;
    };
    let (first, behind, ()) = tokio::join!(read(world, 1), behind, asking);
    [first, behind]
}

#[test]
fn who_waits_behind_a_round_leaves_with_the_next_answer_s_stamp() {
    in_a_world(69, async |world| {
        // The first question sends the second read off, the second vouches for both.
        let reads = two_behind_one_another(&world, 2, std::future::ready(())).await;
        assert!(reads.iter().all(|read| value(read).as_deref() == Some("v")));
        assert_eq!((rounds(&world), by_word(&world)), (0, 5));
    });
}

#[test]
fn a_round_that_was_sent_off_is_turned_away_when_the_node_stops() {
    in_a_world(70, async |world| {
        let part = world.node(1);
        let reads = two_behind_one_another(&world, 1, part.shutdown()).await;
        for read in reads {
            let not_ready = matches!(read, Err(ReadError::Refused(Refusal::NotReady { .. })));
            assert!(not_ready, "{read:?}");
        }
    });
}

#[test]
fn the_leader_asks_a_majority_where_nobody_asks_or_who_asked_stops() {
    in_a_world(63, async |world| {
        write(&world, 1, "a", "v").await;
        world.words.store(true, Ordering::Relaxed);
        *world.wire_delay.lock() = ms(0);
        let alone = read(&world, 1).await;
        assert_eq!((rounds(&world), cost(&alone)), (1, Cost { messages: 4, acks: 2 }));
        for _ in 0..5 {
            read(&world, 3).await.expect("is answered");
        }
        let began = world.runtime.now();
        let after = read(&world, 1).await;
        assert_eq!((rounds(&world), cost(&after)), (2, Cost { messages: 4, acks: 2 }));
        let took = world.runtime.now() - began;
        assert!(took >= ms(2) && took < ms(10), "{took:?} for a question that does not come");
    });
}

#[test]
fn a_question_that_arrives_late_lets_nobody_through_who_came_after_it() {
    in_a_world(68, async |world| {
        write(&world, 1, "a", "v").await;
        world.words.store(true, Ordering::Relaxed);
        *world.wire_delay.lock() = ms(0);
        for _ in 0..5 {
            read(&world, 2).await.expect("is answered");
        }
        // It arrives after the leader's read, which came after it was sent.
        world.wire_fates.lock().push_back(WireFate::BrokenButArrives(ms(1)));
        let asking = read(&world, 2);
        let reading = async {
            tokio::task::yield_now().await;
            read(&world, 1).await
        };
        let (_, at_leader) = tokio::join!(asking, reading);
        assert_eq!(cost(&at_leader), Cost { messages: 4, acks: 2 }, "a majority was asked");
        assert_eq!(rounds(&world), 1);
    });
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
        let vouches = Vouches::new(7, ms(2));
        let sent_with = vouches.stamp(NodeId(2), world.runtime.now());
        let round = vouches.depart();
        covers = vouches.covered(Some(sent_with)) >= round;
    });
    covers
}

#[test]
fn a_question_covers_the_rounds_that_had_left_by_the_answer_that_it_follows() {
    assert!(!covers_later_reads());
    assert!(planted::with(Bug::WordForLaterReads, covers_later_reads), "it was not planted");
    in_a_world(66, async |world| {
        let (vouches, now) = (Vouches::new(7, ms(2)), world.runtime.now());
        let first = vouches.depart();
        let stamp = vouches.stamp(NodeId(2), now);
        let second = vouches.depart();
        assert_eq!((vouches.covered(None), vouches.covered(Some(stamp))), (0, first));
        let of_another_process = Stamp { process: 8, ..stamp };
        assert_eq!(vouches.covered(Some(of_another_process)), 0);
        assert!(vouches.covered(Some(vouches.stamp(NodeId(2), now))) >= second);
    });
}

#[test]
fn a_word_is_waited_for_only_where_one_follower_asked_soon_after_its_own_last_answer() {
    in_a_world(67, async |world| {
        let (vouches, start) = (Vouches::new(7, ms(2)), world.runtime.now());
        let after = |us: u64| start + Duration::from_micros(us);
        let answer = |node: u16, us: u64| vouches.stamp(NodeId(node), after(us));
        assert_eq!(vouches.patience(start), None);
        answer(2, 0);
        answer(3, 500);
        assert_eq!(vouches.patience(after(600)), None, "each has asked once");
        answer(2, 900);
        assert!(vouches.patience(after(1_000)).is_some());
        assert_eq!(vouches.patience(after(2_000)), None, "the next one is late already");
        answer(2, 50_000);
        assert_eq!(vouches.patience(after(50_000)), None, "this one came late");
        let impatient = Vouches::new(7, ms(0));
        impatient.stamp(NodeId(2), start);
        impatient.stamp(NodeId(2), start);
        assert_eq!(impatient.patience(start), None);
    });
}

#[test]
fn a_client_that_asks_one_node_after_the_other_waits_for_a_word_once_in_a_while() {
    in_a_world(71, async |world| {
        write(&world, 1, "a", "v").await;
        world.words.store(true, Ordering::Relaxed);
        *world.wire_delay.lock() = ms(0);
        *world.read_index_delay.lock() = ms(0);
        let began = world.runtime.now();
        for _ in 0..100 {
            for node in [2, 3, 1] {
                read(&world, node).await.expect("is answered");
            }
        }
        let took = world.runtime.now() - began;
        assert!(took >= ms(2), "a word was never waited for");
        assert!(took <= ms(6), "{took:?} of waiting for words that could not come");
    });
}

#[test]
fn words_that_do_not_come_are_waited_for_less_and_less() {
    in_a_world(72, async |world| {
        let (vouches, start) = (Vouches::new(7, ms(2)), world.runtime.now());
        let patient = |at: u64| {
            vouches.stamp(NodeId(2), start + ms(at));
            vouches.stamp(NodeId(2), start + ms(at));
            vouches.patience(start + ms(at)).is_some()
        };
        assert!(patient(0));
        vouches.waited(false, start);
        assert!(!patient(99) && patient(100));
        vouches.waited(false, start + ms(100));
        assert!(!patient(299) && patient(300));
        vouches.waited(true, start + ms(300));
        vouches.waited(false, start + ms(300));
        assert!(!patient(399) && patient(400), "one that came ends the doubling");
    });
}
