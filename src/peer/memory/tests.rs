//! Wires in memory: delays, crashes and replay.

use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::peer::greeter::BasicGreeter;
use crate::peer::{Hello, Inbound, Lane, Service};
use crate::runtime::in_a_paused_world;
use crate::types::{Incarnation, Mode};

type Trace = Arc<Mutex<Vec<(u64, NodeId, NodeId, Bytes)>>>;

struct Tracer {
    runtime: Runtime,
    node: NodeId,
    trace: Trace,
}

impl PeerHandler for Tracer {
    fn handle(&self, inbound: Inbound) {
        let event = (self.runtime.wall_ms(), inbound.from, self.node, inbound.body.clone());
        self.trace.lock().push(event);
        inbound.reply.send("seen");
    }
}

fn start(network: &MemoryNetwork, node: NodeId, trace: &Trace) -> (Runtime, SharedTransport) {
    let runtime = Runtime::simulated(u64::from(node.0), 1_000);
    let hello = Hello {
        cluster: None,
        node,
        incarnation: Incarnation(u64::from(node.0)),
        mode: Mode::Leaderless,
        client_address: String::new(),
        lane: Lane::Bulk,
        layout: 0,
        fixed_leader: None,
    };
    let greeter = Arc::new(BasicGreeter::new(hello));
    let transport = network.transport(node, runtime.clone(), greeter, Metrics::new());
    let tracer = Tracer { runtime: runtime.clone(), node, trace: trace.clone() };
    network.serve(node, Arc::new(tracer));
    (runtime, transport)
}

fn request(runtime: &Runtime, to: NodeId, body: String) -> Request {
    Request {
        to,
        lane: Lane::Bulk,
        service: Service::ReplicaRead,
        epoch: None,
        deadline: runtime.now() + Duration::from_secs(1),
        body: body.into(),
    }
}

/// Three nodes that ask each other, one of which crashes and comes back on the way.
async fn story(seed: u64) -> Vec<(u64, NodeId, NodeId, Bytes)> {
    let network = MemoryNetwork::new(seed);
    let trace = Trace::default();
    let ids = [1, 2, 3].map(NodeId);
    let mut nodes = ids.map(|node| start(&network, node, &trace));
    for round in 0..40 {
        if round == 20 {
            nodes[2].0.kill();
            network.detach(ids[2]);
        }
        if round == 30 {
            nodes[2] = start(&network, ids[2], &trace);
        }
        let calls = ids.iter().flat_map(|to| {
            let body = format!("round {round}");
            nodes.iter().map(move |(own, link)| link.call(request(own, *to, body.clone())))
        });
        join_all(calls).await;
    }
    trace.lock().clone()
}

#[test]
fn the_same_seed_gives_the_same_world_and_another_seed_another() {
    let tell = |seed| in_a_paused_world(story(seed));
    let first = tell(1);
    assert!(first.len() > 100);
    assert_eq!(first, tell(1));
    assert_ne!(first, tell(2));
}

#[test]
fn calls_made_right_after_the_nodes_serve_are_answered() {
    in_a_paused_world(async {
        let (network, trace) = (MemoryNetwork::new(1), Trace::default());
        let (one, link) = start(&network, NodeId(1), &trace);
        let (_, _two) = start(&network, NodeId(2), &trace);
        let answer = link.call(request(&one, NodeId(2), "early".to_owned())).await;
        assert_eq!(answer, Ok(Bytes::from("seen")));
    });
}

#[test]
fn a_killed_node_loses_its_links_also_where_nobody_detaches_it() {
    in_a_paused_world(async {
        let (network, trace) = (MemoryNetwork::new(1), Trace::default());
        let (one, link) = start(&network, NodeId(1), &trace);
        let (two, _two) = start(&network, NodeId(2), &trace);
        let answer = link.call(request(&one, NodeId(2), "early".to_owned())).await;
        assert_eq!(answer, Ok(Bytes::from("seen")));
        let under_way = link.call(request(&one, NodeId(2), "late".to_owned()));
        two.kill();
        assert!(under_way.await.is_err());
        one.sleep(Duration::from_millis(100)).await;
        assert!(!link.peer(NodeId(2)).expect("a peer").connected);
        assert_eq!(trace.lock().len(), 1);
    });
}

#[test]
fn a_reset_loses_what_is_under_way_and_both_ends_dial_anew() {
    in_a_paused_world(async {
        let (network, trace) = (MemoryNetwork::new(1), Trace::default());
        let (one, link) = start(&network, NodeId(1), &trace);
        let (two, back) = start(&network, NodeId(2), &trace);
        for (runtime, link, to) in [(&one, &link, NodeId(2)), (&two, &back, NodeId(1))] {
            assert!(link.call(request(runtime, to, "early".to_owned())).await.is_ok());
        }
        let calls = [
            link.call(request(&one, NodeId(2), "late".to_owned())),
            back.call(request(&two, NodeId(1), "late".to_owned())),
        ];
        // Lets the links write, but nothing arrive.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        network.reset(NodeId(2), NodeId(1));
        for answer in join_all(calls).await {
            assert!(matches!(answer, Err(PeerError::NoAnswer { .. })), "{answer:?}");
        }
        assert_eq!(trace.lock().len(), 2, "nothing that was under way arrived");
        one.sleep(Duration::from_secs(2)).await;
        for (runtime, link, to) in [(&one, &link, NodeId(2)), (&two, &back, NodeId(1))] {
            assert!(link.call(request(runtime, to, "again".to_owned())).await.is_ok());
        }
    });
}

/// Sends a request and crashes its sender before it can have arrived; gives how many were handled
/// there, and how many of those that were on their way to the sender.
async fn crash_behind_a_request(seed: u64) -> (usize, usize) {
    let (network, trace) = (MemoryNetwork::new(seed), Trace::default());
    let (one, link) = start(&network, NodeId(1), &trace);
    let (two, back) = start(&network, NodeId(2), &trace);
    for (runtime, link, to) in [(&one, &link, NodeId(2)), (&two, &back, NodeId(1))] {
        assert!(link.call(request(runtime, to, "early".to_owned())).await.is_ok());
    }
    let last_words = link.call(request(&one, NodeId(2), "last words".to_owned()));
    let to_the_dead = back.call(request(&two, NodeId(1), "to the dead".to_owned()));
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    network.crash(NodeId(1));
    one.kill();
    assert!(to_the_dead.await.is_err());
    drop(last_words);
    two.sleep(Duration::from_millis(100)).await;
    assert!(!back.is_connected(NodeId(1)), "the end is seen");
    let trace = trace.lock();
    let count = |body: &str| trace.iter().filter(|event| event.3 == body).count();
    (count("last words"), count("to the dead"))
}

#[test]
fn what_a_crashed_node_had_sent_may_still_arrive_and_what_was_sent_to_it_never_does() {
    let outcomes: Vec<_> =
        (0..40).map(|seed| in_a_paused_world(crash_behind_a_request(seed))).collect();
    assert!(outcomes.contains(&(1, 0)), "it never arrived: {outcomes:?}");
    assert!(outcomes.contains(&(0, 0)), "it always arrived: {outcomes:?}");
    assert!(outcomes.iter().all(|(_, to_the_dead)| *to_the_dead == 0));
    let again: Vec<_> =
        (0..40).map(|seed| in_a_paused_world(crash_behind_a_request(seed))).collect();
    assert_eq!(outcomes, again);
}
