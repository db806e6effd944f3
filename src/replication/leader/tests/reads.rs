//! Reads and lists: what shares a confirmation, what is waited for, and what is refused.

use std::sync::Arc;

use futures_util::future::join_all;

use super::wires::WireFate;
use super::world::{World, at_level, in_a_world, key, ms, put, within};
use crate::error::{ReadError, Refusal};
use crate::peer::Service;
use crate::replication::{Cost, List, ReadAnswer, Replicator, RequestOptions};
use crate::storage::rows::Bound;
use crate::types::{Content, EffectiveLevel, Level};

pub(super) async fn read_at(
    world: &Arc<World>,
    node: u16,
    options: RequestOptions,
) -> Result<ReadAnswer, ReadError> {
    let part = world.node(node);
    Replicator::read(&*part, key("a"), options).await
}

async fn read(world: &Arc<World>, node: u16) -> Result<ReadAnswer, ReadError> {
    read_at(world, node, within(world, ms(1_000))).await
}

pub(super) async fn write(world: &Arc<World>, node: u16, to: &str, value: &str) {
    let part = world.node(node);
    let options = within(world, ms(1_000));
    Replicator::write(&*part, put(to, value), options).await.expect("is written");
}

pub(super) fn value(answer: &Result<ReadAnswer, ReadError>) -> Option<String> {
    let record = answer.as_ref().expect("is answered").record.as_ref()?;
    match &record.content {
        Content::Value { bytes, .. } => Some(String::from_utf8_lossy(bytes).into_owned()),
        Content::Tombstone => None,
    }
}

pub(super) fn rounds(world: &World) -> u64 {
    (1..=3).map(|id| world.node(id).context.metrics.read_index_rounds.get()).sum()
}

pub(super) fn asked(world: &World) -> usize {
    world.sent.lock().iter().filter(|(_, _, service)| *service == Service::ReadIndex).count()
}

#[test]
fn reads_that_wait_share_one_confirmation() {
    in_a_world(1, async |world| {
        write(&world, 1, "a", "v").await;
        let first = read(&world, 1);
        let rest = async {
            // They arrive while the first one's confirmation is under way.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            join_all((0..99).map(|_| read(&world, 1))).await
        };
        let (first, rest) = tokio::join!(first, rest);
        assert!(rest.iter().chain([&first]).all(|answer| value(answer).as_deref() == Some("v")));
        assert_eq!((rounds(&world), asked(&world)), (2, 0));
        assert_eq!(first.expect("is answered").cost, Cost { messages: 4, acks: 2 });
    });
}

#[test]
fn reads_of_all_nodes_share_the_leader_s_confirmations() {
    in_a_world(2, async |world| {
        write(&world, 1, "a", "v").await;
        *world.read_index_delay.lock() = ms(10);
        let all = join_all((0..90).map(|n| read(&world, 1 + n % 3))).await;
        assert!(all.iter().all(|answer| value(answer).as_deref() == Some("v")));
        assert_eq!((rounds(&world), asked(&world)), (2, 2));
        assert_eq!(all[1].as_ref().expect("is answered").cost, Cost { messages: 6, acks: 2 });
    });
}

#[test]
fn a_read_never_uses_a_confirmation_that_was_begun_before_it_arrived() {
    for node in 1..=3 {
        in_a_world(3, async |world| {
            write(&world, 1, "a", "old").await;
            *world.read_index_delay.lock() = ms(50);
            world.set_apply_lag(2, ms(0));
            world.set_apply_lag(3, ms(0));
            let early = read(&world, node);
            let late = async {
                // The early read's round has left; its confirmation covers the old value alone.
                world.runtime.sleep(ms(10)).await;
                write(&world, 1, "a", "new").await;
                read(&world, node).await
            };
            let (_, late) = tokio::join!(early, late);
            assert_eq!(value(&late).as_deref(), Some("new"), "through node {node}");
            assert_eq!(rounds(&world), 2);
        });
    }
}

#[test]
fn a_follower_serves_a_read_once_it_has_applied_what_was_acknowledged() {
    in_a_world(4, async |world| {
        world.set_apply_lag(2, ms(200));
        write(&world, 1, "a", "v").await;
        let stale = read_at(&world, 2, at_level(&world, Level::Local)).await;
        assert_eq!(value(&stale), None);
        assert_eq!(stale.expect("is answered").level, EffectiveLevel::Local);
        let fresh = read(&world, 2).await;
        assert_eq!(value(&fresh).as_deref(), Some("v"));
        assert_eq!(fresh.expect("is answered").level, EffectiveLevel::Linearizable);
    });
}

#[test]
fn a_follower_that_does_not_catch_up_in_time_does_not_answer() {
    in_a_world(5, async |world| {
        world.set_apply_lag(2, ms(5_000));
        write(&world, 1, "a", "v").await;
        let late = read(&world, 2).await;
        assert_eq!(late, Err(ReadError::TimedOut { waited: ms(1_000) }));
    });
}

#[test]
fn a_read_waits_for_a_leader_until_its_deadline() {
    in_a_world(6, async |world| {
        write(&world, 1, "a", "v").await;
        world.elect(None);
        let refused = read(&world, 2).await;
        assert!(
            matches!(refused, Err(ReadError::Refused(Refusal::NoLeader { .. }))),
            "{refused:?}"
        );
        let (served, ()) = tokio::join!(read(&world, 2), async {
            world.runtime.sleep(ms(300)).await;
            world.elect(Some(3));
        });
        assert_eq!(value(&served).as_deref(), Some("v"));
    });
}

#[test]
fn a_lost_or_unsent_request_for_an_index_is_made_again() {
    in_a_world(7, async |world| {
        write(&world, 1, "a", "v").await;
        world.wire_fates.lock().extend([WireFate::Lost, WireFate::NotSent, WireFate::Refused]);
        let served = read_at(&world, 2, within(&world, ms(3_000))).await;
        assert_eq!((value(&served).as_deref(), asked(&world)), (Some("v"), 4));
    });
}

#[test]
fn a_leader_that_hangs_is_left_when_another_leads() {
    in_a_world(8, async |world| {
        write(&world, 1, "a", "v").await;
        world.wire_fates.lock().push_back(WireFate::Lost);
        let started = world.runtime.now();
        let (served, ()) = tokio::join!(read(&world, 3), async {
            world.runtime.sleep(ms(100)).await;
            world.elect(Some(2));
        });
        assert_eq!(value(&served).as_deref(), Some("v"));
        assert!(world.runtime.now() - started < ms(200));
    });
}

#[test]
fn a_request_for_an_index_is_never_passed_on() {
    in_a_world(9, async |world| {
        world.tell(3, Some(2));
        let refused = read_at(&world, 3, within(&world, ms(200))).await;
        assert!(
            matches!(refused, Err(ReadError::Refused(Refusal::NoLeader { .. }))),
            "{refused:?}"
        );
        assert!(world.sent.lock().iter().all(|(from, to, _)| (from.0, to.0) == (3, 2)));
    });
}

#[test]
fn nothing_is_served_while_a_snapshot_is_installed() {
    in_a_world(10, async |world| {
        world.set_installing(2, true);
        assert!(world.node(2).ready().is_err());
        for level in [Level::Linearizable, Level::Local] {
            let refused = read_at(&world, 2, at_level(&world, level)).await;
            let not_ready = matches!(refused, Err(ReadError::Refused(Refusal::NotReady { .. })));
            assert!(not_ready, "{refused:?}");
        }
        world.set_installing(2, false);
        assert_eq!(world.node(2).ready(), Ok(()));
        assert_eq!(value(&read(&world, 2).await), None);
    });
}

#[test]
fn what_was_read_while_the_table_was_replaced_is_not_served() {
    in_a_world(15, async |world| {
        write(&world, 1, "a", "v").await;
        world.install_while_read(2);
        for level in [Level::Linearizable, Level::Local] {
            let refused = read_at(&world, 2, at_level(&world, level)).await;
            let not_ready = matches!(refused, Err(ReadError::Refused(Refusal::NotReady { .. })));
            assert!(not_ready, "{refused:?}");
        }
        assert_eq!(value(&read(&world, 1).await).as_deref(), Some("v"));
    });
}

#[test]
fn reads_are_served_at_the_levels_that_exist() {
    in_a_world(11, async |world| {
        let quorum = read_at(&world, 2, at_level(&world, Level::Quorum)).await;
        assert_eq!(quorum.expect("is answered").level, EffectiveLevel::Linearizable);
        let options = RequestOptions { r: Some(1), ..within(&world, ms(100)) };
        let counted = read_at(&world, 1, options).await;
        let bad = matches!(
            counted,
            Err(ReadError::Refused(Refusal::BadParameter { parameter: "r", .. }))
        );
        assert!(bad, "{counted:?}");
    });
}

#[test]
fn a_node_is_ready_once_it_knows_a_leader() {
    in_a_world(12, async |world| {
        assert_eq!(world.node(3).ready(), Ok(()));
        world.elect(None);
        assert_eq!(world.node(3).ready(), Err("no leader is known".to_owned()));
        let status = world.node(2).status();
        assert_eq!((status.members.len(), status.leader), (3, None));
        assert!(status.members.iter().all(|member| member.role == "voter"));
        assert_eq!(status.members[1].client_address.as_deref(), Some("client-of-2"));
    });
}

#[test]
fn a_list_shows_what_was_acknowledged_folded_and_in_pages() {
    in_a_world(13, async |world| {
        for name in ["b", "img/cat", "img/dog", "a"] {
            write(&world, 1, name, "v").await;
        }
        let mut list = List {
            prefix: String::new(),
            from: Bound::Start,
            delimiter: Some("/".to_owned()),
            limit: 2,
            with_values: false,
        };
        let part = world.node(2);
        let first = part.list(list.clone(), within(&world, ms(1_000))).await.expect("is answered");
        let keys: Vec<_> = first.items.iter().map(|(key, _)| key.as_str().to_owned()).collect();
        assert_eq!((keys.join(" "), first.prefixes.len()), ("a b".to_owned(), 0));
        assert_eq!(first.level, EffectiveLevel::Linearizable);
        list.from = first.next.expect("more follows");
        let second = part.list(list, within(&world, ms(1_000))).await.expect("is answered");
        assert_eq!((second.items.len(), second.prefixes.join(" ")), (0, "img/".to_owned()));
        assert_eq!(second.next, None);
    });
}

#[test]
fn stopping_turns_readers_away() {
    in_a_world(14, async |world| {
        *world.read_index_delay.lock() = ms(5_000);
        let part = world.node(1);
        let (under_way, waiting, ()) = tokio::join!(
            read_at(&world, 1, within(&world, ms(60_000))),
            async {
                world.runtime.sleep(ms(1)).await;
                read_at(&world, 1, within(&world, ms(60_000))).await
            },
            async {
                world.runtime.sleep(ms(10)).await;
                part.shutdown().await;
            }
        );
        for answer in [under_way, waiting, read(&world, 1).await] {
            let not_ready = matches!(answer, Err(ReadError::Refused(Refusal::NotReady { .. })));
            assert!(not_ready, "{answer:?}");
        }
    });
}
