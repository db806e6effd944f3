//! Writes: what shares an entry, what is tried again, and what a client is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::wires::WireFate;
use super::world::{Fate, World, at_level, forwards, in_a_world, ms, put, within, write, write_at};
use crate::consensus::Submission;
use crate::error::{Refusal, WriteError};
use crate::replication::leader::pump::{MAX_ENTRIES_IN_FLIGHT, PATIENCE};
use crate::replication::leader::queue::{MAX_QUEUED_WRITE_BYTES, MAX_QUEUED_WRITES};
use crate::replication::{Replicator, RequestOptions, WriteAnswer};
use crate::types::{Change, Condition, EffectiveLevel, Level, Mode, NodeId, Outcome, Write};

fn outcome(result: &Result<WriteAnswer, WriteError>) -> Outcome {
    result.as_ref().map_or_else(WriteError::outcome, |_| Outcome::Done)
}

fn is_no_leader(result: &Result<WriteAnswer, WriteError>) -> bool {
    matches!(result, Err(WriteError::Refused(Refusal::NoLeader { .. })))
}

#[test]
fn a_submission_that_was_not_taken_is_sent_to_whoever_leads_next() {
    in_a_world(5, async |world| {
        world.fates.lock().push_back(Fate::NotAppended);
        world.tell(2, Some(2));
        let (result, ()) = tokio::join!(write(&world, 1, "v"), async {
            world.runtime.sleep(ms(3)).await;
            world.elect(Some(2));
        });
        assert_eq!(outcome(&result), Outcome::Done);
        assert_eq!((world.applications("v"), forwards(&world)), (1, 1));
    });
}

#[test]
fn a_message_that_was_not_sent_or_refused_is_sent_again() {
    in_a_world(6, async |world| {
        world.wire_fates.lock().extend([WireFate::NotSent, WireFate::Refused]);
        let result = write(&world, 3, "v").await;
        assert_eq!(outcome(&result), Outcome::Done);
        assert_eq!((world.applications("v"), forwards(&world)), (1, 3));
        assert_eq!(world.machine.lock().duplicates, 0);
    });
}

#[test]
fn a_submission_without_an_answer_is_sent_again_as_the_same_and_applied_once() {
    in_a_world(7, async |world| {
        world.wire_fates.lock().push_back(WireFate::BrokenButArrives(ms(0)));
        let result = write(&world, 2, "v").await;
        assert_eq!(outcome(&result), Outcome::Done);
        let sessions: Vec<_> = world.entries().iter().flatten().map(|s| s.session).collect();
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions[0], sessions[1]);
        assert_eq!((world.applications("v"), world.machine.lock().duplicates), (1, 1));
    });
}

#[test]
fn a_lost_answer_costs_one_attempt_and_not_all_of_the_time() {
    in_a_world(8, async |world| {
        world.wire_fates.lock().push_back(WireFate::AnswerLost);
        let result = write_at(&world, 2, put("a", "v"), within(&world, ms(5_000))).await;
        assert_eq!(outcome(&result), Outcome::Done);
        assert_eq!(world.applications("v"), 1);
    });
}

#[test]
fn a_leader_that_hangs_is_left_when_another_leads() {
    in_a_world(9, async |world| {
        world.fates.lock().push_back(Fate::Hang);
        let (result, ()) = tokio::join!(write(&world, 3, "v"), async {
            world.runtime.sleep(ms(100)).await;
            world.elect(None);
            world.runtime.sleep(ms(100)).await;
            world.elect(Some(2));
        });
        assert_eq!(outcome(&result), Outcome::Done);
        assert_eq!(world.applications("v"), 1);
    });
}

#[test]
fn a_proposal_whose_fate_is_not_known_by_the_deadline_is_unknown() {
    in_a_world(10, async |world| {
        world.fates.lock().push_back(Fate::Hang);
        let started = world.runtime.now();
        let result = write(&world, 1, "v").await;
        assert_eq!(outcome(&result), Outcome::Unknown);
        assert_eq!(world.runtime.now() - started, ms(1_000));
    });
}

#[test]
fn a_write_that_may_have_been_taken_stays_unknown_when_later_attempts_are_not_taken() {
    in_a_world(11, async |world| {
        world.fates.lock().push_back(Fate::Unknown(Some(ms(5_000))));
        world.fates.lock().extend([Fate::NotAppended; 100]);
        let result = write(&world, 1, "v").await;
        assert_eq!(outcome(&result), Outcome::Unknown);
        assert_eq!(world.applications("v"), 0);
        world.runtime.sleep(ms(10_000)).await;
        assert_eq!(world.applications("v"), 1, "the first attempt was in a log after all");
    });
}

#[test]
fn without_a_leader_a_write_is_not_applied_also_when_one_comes_later() {
    in_a_world(12, async |world| {
        world.elect(None);
        let result = write(&world, 2, "v").await;
        assert!(is_no_leader(&result), "{result:?}");
        world.elect(Some(1));
        assert_eq!(outcome(&write(&world, 2, "w").await), Outcome::Done);
        world.runtime.sleep(ms(10_000)).await;
        assert_eq!((world.applications("v"), world.applications("w")), (0, 1));
    });
}

#[test]
fn a_write_behind_hung_entries_is_not_applied_at_its_own_deadline() {
    in_a_world(13, async |world| {
        world.fates.lock().extend([Fate::Hang; MAX_ENTRIES_IN_FLIGHT]);
        let long = |value| write_at(&world, 1, put("a", value), within(&world, ms(3_000)));
        let late = async {
            world.runtime.sleep(PATIENCE * 3).await;
            write(&world, 1, "late").await
        };
        let hung = async {
            // One after the other, so that each is an entry of its own.
            let after = |turns| world.runtime.sleep(PATIENCE * turns);
            let second = async { (after(1).await, long("2").await).1 };
            let third = async { (after(2).await, long("3").await).1 };
            tokio::join!(long("1"), second, third)
        };
        let ((first, second, third), late) = tokio::join!(hung, late);
        assert!([first, second, third].iter().all(|one| outcome(one) == Outcome::Unknown));
        assert!(is_no_leader(&late), "{late:?}");
        world.runtime.sleep(ms(10_000)).await;
        assert_eq!(world.applications("late"), 0);
    });
}

#[test]
fn a_client_that_goes_away_takes_its_waiting_write_with_it() {
    in_a_world(14, async |world| {
        world.elect(None);
        let options = within(&world, ms(5_000));
        let gone = write_at(&world, 1, put("a", "gone"), options);
        assert!(world.runtime.deadline(world.runtime.now() + ms(10), gone).await.is_none());
        world.elect(Some(1));
        assert_eq!(outcome(&write(&world, 1, "stays").await), Outcome::Done);
        assert_eq!((world.applications("gone"), world.applications("stays")), (0, 1));
    });
}

#[test]
fn settled_follows_the_oldest_submission_that_is_not_finished() {
    in_a_world(15, async |world| {
        for value in ["1", "2"] {
            write(&world, 1, value).await.expect("is written");
        }
        world.fates.lock().push_back(Fate::Hang);
        let (hung, ()) = tokio::join!(write(&world, 1, "hung"), async {
            world.runtime.sleep(ms(1)).await;
            write(&world, 1, "beside").await.expect("is written");
        });
        assert_eq!(outcome(&hung), Outcome::Unknown);
        write(&world, 1, "after").await.expect("is written");
        let entries = world.entries();
        let sessions = entries.iter().flatten().map(|s: &Submission| s.session);
        let seen: Vec<_> = sessions.map(|s| (s.origin.0, s.boot, s.sequence, s.settled)).collect();
        assert_eq!(seen, [(1, 1, 1, 0), (1, 1, 2, 1), (1, 1, 4, 2), (1, 1, 5, 4)]);
    });
}

#[test]
fn a_submission_given_up_as_unknown_is_not_applied_after_a_later_one_settled_it() {
    in_a_world(16, async |world| {
        world.wire_fates.lock().extend([WireFate::BrokenButArrives(ms(4_000))]);
        world.wire_fates.lock().extend([WireFate::NotSent; 200]);
        let result = write(&world, 2, "v").await;
        assert_eq!(outcome(&result), Outcome::Unknown);
        world.wire_fates.lock().clear();
        assert_eq!(outcome(&write(&world, 2, "w").await), Outcome::Done);
        world.runtime.sleep(ms(10_000)).await;
        assert_eq!((world.applications("v"), world.applications("w")), (0, 1));
    });
}

#[test]
fn a_write_that_may_not_be_forwarded_names_the_leader() {
    in_a_world(17, async |world| {
        let stay = |world: &World| RequestOptions { may_forward: false, ..within(world, ms(100)) };
        let refused = write_at(&world, 2, put("a", "v"), stay(&world)).await;
        let (leader, client_address) = (NodeId(1), "client-of-1".to_owned());
        assert_eq!(refused, Err(Refusal::NotLeader { leader, client_address }.into()));
        assert_eq!(outcome(&write_at(&world, 1, put("a", "v"), stay(&world)).await), Outcome::Done);
        // The leader changes while the write waits to be proposed.
        world.fates.lock().push_back(Fate::NotAppended);
        let (refused, ()) = tokio::join!(write_at(&world, 1, put("a", "w"), stay(&world)), async {
            world.runtime.sleep(ms(1)).await;
            world.elect(Some(3));
        });
        let (leader, client_address) = (NodeId(3), "client-of-3".to_owned());
        assert_eq!(refused, Err(Refusal::NotLeader { leader, client_address }.into()));
        world.elect(None);
        assert!(is_no_leader(&write_at(&world, 2, put("a", "x"), stay(&world)).await));
        assert_eq!(forwards(&world), 0);
    });
}

#[test]
fn a_forwarded_submission_that_waited_too_long_at_the_leader_is_not_proposed() {
    in_a_world(19, async |world| {
        world.fates.lock().extend([Fate::Hang; MAX_ENTRIES_IN_FLIGHT]);
        let long = |value| write_at(&world, 1, put("a", value), within(&world, ms(1_500)));
        let after = |turns| world.runtime.sleep(PATIENCE * turns);
        let second = async { (after(1).await, long("2").await).1 };
        let third = async { (after(2).await, long("3").await).1 };
        let forwarded = async { (after(3).await, write(&world, 2, "late").await).1 };
        let (_, _, _, forwarded) = tokio::join!(long("1"), second, third, forwarded);
        assert!(!matches!(outcome(&forwarded), Outcome::Done), "{forwarded:?}");
        assert!(forwards(&world) >= 1, "it never came to the leader");
        // The entries have ended by now, and those that follow commit.
        assert_eq!(outcome(&write(&world, 1, "next").await), Outcome::Done);
        world.runtime.sleep(ms(10_000)).await;
        assert_eq!(world.applications("late"), 0);
    });
}

#[test]
fn a_forwarded_submission_is_never_passed_on() {
    in_a_world(18, async |world| {
        world.tell(3, Some(2));
        let result = write_at(&world, 3, put("a", "v"), within(&world, ms(300))).await;
        assert!(is_no_leader(&result), "{result:?}");
        let sent = world.sent.lock().clone();
        assert!(sent.iter().all(|(from, to, _)| (from.0, to.0) == (3, 2)), "{sent:?}");
        assert_eq!(world.entries().len(), 0);
    });
}

#[test]
fn a_failed_condition_is_told_with_what_stood_in_the_way() {
    in_a_world(19, async |world| {
        let version = write(&world, 1, "v").await.expect("is written").version;
        let absent = Write { condition: Some(Condition::Absent), ..put("a", "w") };
        let result = write_at(&world, 2, absent, within(&world, ms(1_000))).await;
        assert_eq!(result, Err(WriteError::PreconditionFailed { current: Some(version) }));
    });
}

#[test]
fn writes_are_offered_at_one_level() {
    in_a_world(20, async |world| {
        for level in [Level::Quorum, Level::Local, Level::Lease] {
            let result = write_at(&world, 1, put("a", "v"), at_level(&world, level)).await;
            let (mode, allowed) = (Mode::Leader, "linearizable");
            assert_eq!(result, Err(Refusal::LevelNotOffered { level, mode, allowed }.into()));
        }
        let level = at_level(&world, Level::Linearizable);
        let answer = write_at(&world, 1, put("a", "v"), level).await;
        assert_eq!(answer.expect("is written").level, EffectiveLevel::Linearizable);
        let options = RequestOptions { w: Some(2), ..within(&world, ms(100)) };
        let result = write_at(&world, 1, put("a", "w"), options).await;
        let parameter = matches!(
            result,
            Err(WriteError::Refused(Refusal::BadParameter { parameter: "w", .. }))
        );
        assert!(parameter, "{result:?}");
    });
}

#[test]
fn a_full_queue_refuses_and_has_room_again_once_clients_left() {
    in_a_world(21, async |world| {
        world.elect(None);
        let value = Bytes::from(vec![7; 4 << 20]);
        let fits = MAX_QUEUED_WRITE_BYTES / value.len();
        assert!(fits < MAX_QUEUED_WRITES);
        let heavy = || {
            let change = Change::Put { value: value.clone(), content_type: None };
            Write { change, ..put("a", "") }
        };
        let one = || write_at(&world, 1, heavy(), within(&world, ms(50)));
        let results = join_all((0..fits).map(|_| one())).await;
        let refused =
            |r: &Result<_, _>| matches!(r, Err(WriteError::Refused(Refusal::Overloaded { .. })));
        // The bytes around each value push the last one out.
        assert_eq!(results.iter().filter(|r| refused(r)).count(), 1);
        assert!(is_no_leader(&one().await), "those whose clients left still take room");
    });
}

/// Writes that arrive twice as fast as entries are applied, for some seconds; how each ended, and how
/// long it took.
async fn too_many_writes(world: &Arc<World>) -> Vec<(Result<WriteAnswer, WriteError>, Duration)> {
    let one = async |number: u64| {
        world.runtime.sleep(ms(5 * number)).await;
        let began = world.runtime.now();
        let heavy = Write {
            change: Change::Put { value: Bytes::from(vec![7; 256 << 10]), content_type: None },
            ..put("a", "")
        };
        let result = write_at(world, 1, heavy, within(world, ms(30_000))).await;
        (result, world.runtime.now() - began)
    };
    // Three entries of at most 15 such writes are under way, for 500 ms each: 90 a second.
    world.fates.lock().extend((0..2_000).map(|_| Fate::Commit(ms(500))));
    join_all((0..1_200).map(one)).await
}

#[test]
fn under_too_much_load_writes_are_refused_before_they_wait_for_long_and_taken_again_after() {
    in_a_world(23, async |world| {
        world.lease.store(true, Ordering::Relaxed);
        let ended = too_many_writes(&world).await;
        let slow = |result: &Result<WriteAnswer, WriteError>| {
            matches!(result, Err(WriteError::Refused(Refusal::Overloaded { retry_after, .. }))
                if *retry_after > ms(1_000))
        };
        let refused = ended.iter().filter(|(result, _)| slow(result)).count();
        let written = ended.iter().filter(|(result, _)| result.is_ok()).count();
        let other = ended.iter().find(|(result, _)| result.is_err() && !slow(result));
        assert!(other.is_none(), "no write waits in vain: {other:?}");
        assert!(refused > 100 && written > 200, "{refused} refused, {written} written");
        // What was taken waited for its turn and a little, not for the six seconds that the load took.
        let longest =
            ended.iter().filter(|(result, _)| result.is_ok()).map(|(_, took)| *took).max();
        assert!(longest < Some(ms(3_000)), "{longest:?}");
        let at_once = ended.iter().filter(|(result, _)| slow(result)).map(|(_, took)| *took).max();
        assert_eq!(at_once, Some(ms(0)));
        assert_eq!(world.node(1).context.metrics.writes_refused_as_slow.get(), refused as u64);
        world.fates.lock().clear();
        assert!(write(&world, 1, "after").await.is_ok());
    });
}

#[test]
fn writes_that_all_come_at_once_are_taken_within_a_bounded_time_or_refused() {
    in_a_world(25, async |world| {
        world.lease.store(true, Ordering::Relaxed);
        let (world, began) = (&world, world.runtime.now());
        let one = async || {
            let value = Bytes::from(vec![7; 256 << 10]);
            let change = Change::Put { value, content_type: None };
            let heavy = Write { change, ..put("a", "") };
            let result = write_at(world, 1, heavy, within(world, ms(30_000))).await;
            (result, world.runtime.now() - began)
        };
        // Three entries of at most 15 such writes are under way, for 800 ms each: 56 a second.
        world.fates.lock().extend((0..2_000).map(|_| Fate::Commit(ms(800))));
        let (written, refused): (Vec<_>, Vec<_>) =
            join_all((0..250).map(|_| one())).await.into_iter().partition(|(r, _)| r.is_ok());
        assert!(written.len() > 100 && refused.len() > 20, "{} {}", written.len(), refused.len());
        for (result, took) in written.iter().chain(&refused) {
            assert!(*took <= ms(5_000), "{took:?}: {result:?}");
        }
        for (result, _) in &refused {
            let overloaded = matches!(result, Err(WriteError::Refused(Refusal::Overloaded { .. })));
            assert!(overloaded, "{result:?}");
        }
        let counted = world.node(1).context.metrics.writes_refused_as_slow.get();
        assert_eq!(counted, refused.len() as u64);
    });
}

#[test]
fn writes_that_wait_for_a_leader_are_no_overload() {
    in_a_world(24, async |world| {
        world.elect(None);
        let early = write_at(&world, 1, put("a", "1"), within(&world, ms(5_000)));
        let late = async {
            world.runtime.sleep(ms(2_000)).await;
            write_at(&world, 1, put("a", "2"), within(&world, ms(500))).await
        };
        let (_, late) = tokio::join!(early, late);
        assert!(is_no_leader(&late), "{late:?}");
    });
}

#[test]
fn stopping_answers_everybody() {
    in_a_world(22, async |world| {
        world.fates.lock().push_back(Fate::Commit(ms(50)));
        world.fates.lock().push_back(Fate::Hang);
        let part = world.node(1);
        let spread = async |wait: u64, value: &str| {
            world.runtime.sleep(ms(wait)).await;
            write_at(&world, 1, put("a", value), within(&world, ms(60_000))).await
        };
        let stop = async {
            world.runtime.sleep(ms(10)).await;
            part.shutdown().await;
        };
        let (under_way, hung, ()) = tokio::join!(spread(0, "1"), spread(1, "2"), stop);
        assert_eq!(outcome(&under_way), Outcome::Done);
        assert_eq!(outcome(&hung), Outcome::Unknown);
        let late = write(&world, 1, "3").await;
        assert!(matches!(late, Err(WriteError::Refused(Refusal::NotReady { .. }))), "{late:?}");
    });
}
