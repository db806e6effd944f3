//! What a replica serves to other nodes, and what it refuses.

use super::replicas::{record, stored};
use super::*;

/// Sends node 1 a request from node 2 as it stands.
async fn send(
    cluster: &Cluster,
    service: Service,
    epoch: Option<crate::types::Epoch>,
    body: Bytes,
) -> Result<Bytes, PeerError> {
    let deadline = cluster.options().deadline;
    let request = Request { to: NodeId(1), lane: Lane::Bulk, service, epoch, deadline, body };
    cluster.node(2).transport.call(request).await
}

#[test]
fn requests_of_another_layout_of_strange_partitions_and_of_nonsense_are_refused() {
    in_a_paused_world(async {
        let cluster = Cluster::start(5, 8).await;
        let layout = layout::Layout::new((1..=5).map(NodeId), 3);
        let held_by_1 = |text: &String| layout.holds(NodeId(1), key(text).partition());
        let names: Vec<String> = (0..50).map(|number| format!("key-{number}")).collect();
        let own = names.iter().find(|text| held_by_1(text)).expect("one that node 1 holds");
        let strange = names.iter().find(|text| !held_by_1(text)).expect("one that it does not");
        let write = |text: &str| {
            let write = stored(text, &record(1, "one"));
            messages::encode_writes(std::iter::once(&write))
        };
        let read = |text: &str| messages::encode_reads(std::iter::once(&key(text)));
        let good = Some(FOUNDING_EPOCH);
        let other = Some(crate::types::Epoch(2));
        let nonsense = Bytes::from_static(b"nonsense");
        let refused = [
            (Service::ReplicaWrite, other, write(own)),
            (Service::ReplicaWrite, None, write(own)),
            (Service::ReplicaWrite, good, write(strange)),
            (Service::ReplicaWrite, good, nonsense.clone()),
            (Service::ReplicaRead, other, read(own)),
            (Service::ReplicaRead, good, read(strange)),
            (Service::ReplicaRead, good, nonsense.clone()),
            (Service::ReplicaList, good, nonsense),
            (Service::Forward, good, Bytes::new()),
        ];
        for (service, epoch, body) in refused {
            let answer = send(&cluster, service, epoch, body).await;
            assert!(matches!(answer, Err(PeerError::Refused { .. })), "{service:?} {answer:?}");
        }
        assert_eq!((cluster.held(1, own), cluster.held(1, strange)), (None, None));
        send(&cluster, Service::ReplicaWrite, good, write(own)).await.expect("a good write");
        assert_eq!(shown(cluster.held(1, own)), Some("one".to_owned()));
    });
}

#[test]
fn concurrent_reads_of_large_values_come_in_several_messages() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 9).await;
        let large = "x".repeat(900 << 10);
        let names: Vec<String> = (0..40).map(|number| format!("key-{number}")).collect();
        for text in &names {
            cluster.put(1, text, &large).await;
        }
        cluster.sleep_ms(1_000).await;
        // Together they exceed what a message may hold.
        let reads = names.iter().map(|text| cluster.get(2, text));
        for read in futures_util::future::join_all(reads).await {
            assert_eq!(read.map(|value| value.len()), Some(900 << 10));
        }
    });
}

#[test]
fn concurrent_writes_to_a_peer_share_messages() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 10).await;
        cluster.put(1, "warm", "up").await;
        let service = crate::telemetry::ServiceLabel { service: "replica_write" };
        let sent = || {
            let metrics = &cluster.node(1).metrics;
            metrics.peer_messages_sent.get_or_create(&service).get()
        };
        let before = sent();
        let names: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
        let writes = names.iter().map(|text| cluster.put(1, text, "v"));
        assert_eq!(futures_util::future::join_all(writes).await.len(), 200);
        let messages = sent() - before;
        assert!(messages < 40, "{messages} messages for 200 writes to two peers");
    });
}

#[test]
fn every_partition_is_served() {
    in_a_paused_world(async {
        let cluster = Cluster::start(4, 11).await;
        let mut partitions: Vec<Partition> = Vec::new();
        for number in 0..1_500 {
            let text = format!("key-{number}");
            if !partitions.contains(&key(&text).partition()) {
                partitions.push(key(&text).partition());
                cluster.put((number % 4 + 1) as u16, &text, "v").await;
                assert_eq!(
                    cluster.get(((number + 1) % 4 + 1) as u16, &text).await.as_deref(),
                    Some("v")
                );
            }
        }
        assert_eq!(partitions.len(), crate::types::PARTITIONS);
    });
}
