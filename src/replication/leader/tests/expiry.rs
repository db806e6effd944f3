//! Whoever leads has records expire, once they are due.

use super::world::{WALL_MS, in_a_world, ms};
use crate::types::NodeId;

#[test]
fn a_record_expires_once_it_is_due_and_not_before() {
    in_a_world(41, async |world| {
        let due_ms = world.runtime.wall_ms() + 1_000;
        world.falls_due(1, due_ms);
        world.runtime.sleep(ms(999)).await;
        assert_eq!(*world.expired.lock(), []);
        world.runtime.sleep(ms(202)).await;
        let expired = world.expired.lock().clone();
        let [(node, now_ms)] = expired[..] else { panic!("{expired:?}") };
        assert_eq!(node, NodeId(1));
        assert!((due_ms..due_ms + 200).contains(&now_ms), "{now_ms}");
        world.runtime.sleep(ms(5_000)).await;
        assert_eq!(world.expired.lock().len(), 1, "nothing else is due");
    });
}

#[test]
fn only_who_leads_has_records_expire_and_whoever_leads_next_goes_on() {
    in_a_world(42, async |world| {
        (1..=3).for_each(|node| world.falls_due(node, WALL_MS));
        world.runtime.sleep(ms(300)).await;
        let nodes = || world.expired.lock().iter().map(|(node, _)| node.0).collect::<Vec<_>>();
        assert_eq!(nodes(), [1]);
        world.elect(None);
        world.falls_due(1, WALL_MS);
        world.runtime.sleep(ms(1_000)).await;
        assert_eq!(nodes(), [1], "nobody leads");
        world.elect(Some(3));
        world.runtime.sleep(ms(300)).await;
        assert_eq!(nodes(), [1, 3]);
    });
}
