//! Connections that go silent, end, or are replaced.

use futures_util::FutureExt;
use tokio::io::DuplexStream;

use super::*;
use crate::peer::frame::encode;

fn in_a_paused_world<F: Future<Output = ()>>(test: impl FnOnce(Runtime) -> F) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(async { test(Runtime::simulated(1, 0)).await });
}

/// A connection's two ends: one for the link, one for the test.
fn wire() -> (Wire, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(ours);
    let received = BytesMut::new();
    let wire = Wire {
        reader: Box::new(reader),
        writer: Box::new(writer),
        remote: "a test".to_owned(),
        received,
    };
    (wire, theirs)
}

struct Nobody;

impl PeerHandler for Nobody {
    fn handle(&self, _: Inbound) {}
}

fn pings_in(mut bytes: BytesMut) -> usize {
    let mut decoder = Decoder::for_messages();
    let mut pings = 0;
    while let Some(message) = decoder.next(&mut bytes).expect("frames") {
        assert_eq!(message.kind, Kind::Ping);
        pings += 1;
    }
    pings
}

#[test]
fn a_caller_pings_a_silent_peer_and_gives_it_up() {
    in_a_paused_world(|runtime| async move {
        let (wire, mut peer) = wire();
        let (link, metrics) = (Link::new(NodeId(2)), LinkMetrics::new(&Metrics::new()));
        let began = runtime.now();
        let reason = run(&runtime, &Arc::new(metrics), &link, wire, Side::Calling).await;
        assert!(reason.contains("nothing was heard"), "{reason}");
        assert_eq!(runtime.now() - began, LOOK_EVERY * SILENT_LOOKS_CALLING);
        assert_eq!(link.closed(), Some(reason));
        let mut sent = BytesMut::new();
        while let Some(Ok(bytes)) = peer.read_buf(&mut sent).now_or_never()
            && bytes > 0
        {}
        assert_eq!(pings_in(sent), SILENT_LOOKS_CALLING as usize - 1);
    });
}

#[test]
fn a_peer_that_answers_pings_is_kept_however_long_it_has_nothing_to_say() {
    in_a_paused_world(|runtime| async move {
        let (wire, mut peer) = wire();
        let (link, metrics) = (Link::new(NodeId(2)), LinkMetrics::new(&Metrics::new()));
        let (run_on, run_link) = (runtime.clone(), link.clone());
        let running = runtime.spawn(async move {
            run(&run_on, &Arc::new(metrics), &run_link, wire, Side::Calling).await
        });
        let mut pong = BytesMut::new();
        encode(&mut pong, Kind::Pong, 0, &[], &[]);
        for _ in 0..100 {
            let mut ping = vec![0; pong.len()];
            peer.read_exact(&mut ping).await.expect("a ping");
            peer.write_all(&pong).await.expect("it is taken");
        }
        assert_eq!(link.closed(), None);
        drop(peer);
        let reason = running.await.expect("it ends");
        assert!(reason.contains("closed by the other side"), "{reason}");
    });
}

#[test]
fn an_answering_side_gives_up_a_peer_that_is_silent_for_longer() {
    in_a_paused_world(|runtime| async move {
        let (wire, _peer) = wire();
        let (link, metrics) = (Link::new(NodeId(2)), LinkMetrics::new(&Metrics::new()));
        let began = runtime.now();
        let side = Side::Answering { from: NodeId(2), handler: Arc::new(Nobody) };
        run(&runtime, &Arc::new(metrics), &link, wire, side).await;
        assert_eq!(runtime.now() - began, LOOK_EVERY * SILENT_LOOKS_ANSWERING);
    });
}

#[test]
fn what_queued_while_the_writer_was_busy_goes_out_in_one_write() {
    in_a_paused_world(|runtime| async move {
        let (wire, mut peer) = wire();
        let (link, metrics) = (Link::new(NodeId(2)), LinkMetrics::new(&Metrics::new()));
        for id in 0..100 {
            let answer = crate::peer::Answer::Body(bytes::Bytes::from("answer"));
            link.answer(id, Service::Forward, answer);
        }
        let (run_on, run_link) = (runtime.clone(), link.clone());
        let side = Side::Answering { from: NodeId(2), handler: Arc::new(Nobody) };
        runtime.spawn(async move {
            run(&run_on, &Arc::new(metrics), &run_link, wire, side).await;
        });
        let mut sent = BytesMut::with_capacity(1 << 20);
        peer.read_buf(&mut sent).await.expect("answers");
        assert_eq!(sent.len(), 100 * (4 + 9 + 1 + "answer".len()));
    });
}
