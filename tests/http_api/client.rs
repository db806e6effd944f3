//! The typed client, against the API and against worse servers.

use std::time::Duration;

use bytes::Bytes;
use quorate::client::{Client, ClientError, Found, ListRequest, Options};
use quorate::error::{Refusal, WriteError};
use quorate::types::{NodeId, Outcome, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::sockets::Server;

fn client(server: &Server) -> Client {
    Client::new([&server.address]).expect("a client")
}

/// A port of the loopback interface that nobody listens on, nor will while the socket lives: it is
/// taken, and refuses connections.
fn dead_address() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    (socket, address)
}

/// A server that takes one request, says `answer`, and closes.
async fn odd_server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    quorate::runtime::Runtime::real().spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut seen = [0; 4_096];
        let _ = stream.read(&mut seen).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    });
    address
}

#[tokio::test]
async fn keys_are_put_read_listed_and_deleted() {
    let mut server = Server::start(|_| {}).await;
    let client = client(&server);
    let options = Options { trace: true, ..Options::default() };
    let missing = client.get("a/b c", &options).await.expect("an answer");
    assert_eq!(missing.found, Found::Missing);
    let value = Bytes::from_static(&[0, 255, 7]);
    for key in ["a/b c", "a/../b", "ü?#%"] {
        let put = client.put(key, value.clone(), Some("image/png"), &options).await.expect("put");
        assert_eq!(server.world.fake.last_write().key.as_str(), key);
        assert_eq!((put.info.messages, put.info.acks), (Some(4), Some(2)));
        assert_eq!(put.info.consistency.as_deref(), Some("linearizable"));
        assert_eq!(
            (put.info.mode.as_deref(), put.info.node.as_deref()),
            (Some("leader"), Some("2"))
        );
        assert!(put.info.server_timing.is_some());
        let got = client.get(key, &options).await.expect("an answer");
        let found = Found::Value {
            bytes: value.clone(),
            content_type: "image/png".to_owned(),
            etag: put.etag.clone(),
            expires: None,
        };
        assert_eq!(got.found, found);
        let same = Options { if_none_match: Some(put.etag.clone()), ..Options::default() };
        let got = client.get(key, &same).await.expect("an answer");
        assert_eq!(got.found, Found::NotModified { etag: put.etag });
    }
    let list = ListRequest { prefix: "a/".to_owned(), limit: Some(1), ..ListRequest::default() };
    let (page, _) = client.list(&list, &options).await.expect("a page");
    assert_eq!((page.items.len(), page.items[0].key.as_str()), (1, "a/../b"));
    let list = ListRequest { cursor: page.next_cursor, with_values: true, ..list };
    let (page, _) = client.list(&list, &options).await.expect("a page");
    assert_eq!(page.items[0].bytes(), Some(value.to_vec()));
    client.delete("a/b c", &options).await.expect("deleted");
    assert_eq!(client.get("a/b c", &options).await.expect("an answer").found, Found::Missing);
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn status_health_and_metrics_are_read() {
    let mut server = Server::start(|_| {}).await;
    let client = client(&server);
    let view = client.cluster_status().await.expect("a view");
    assert_eq!((view.node, view.leader, view.members.len()), (2, Some(1), 3));
    assert!(client.metrics().await.expect("metrics").contains("quorate_requests_total"));
    client.ready().await.expect("ready");
    *server.world.fake.not_ready.lock().unwrap() = Some("starting".to_owned());
    match client.ready().await {
        Err(ClientError::Refused(problem)) => assert_eq!(problem.detail, "starting"),
        other => panic!("{other:?}"),
    }
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn the_three_outcomes_of_a_write_stay_apart() {
    let mut server = Server::start(|_| {}).await;
    let client = client(&server);
    let put = async |options: Options| client.put("a", Bytes::from("1"), None, &options).await;
    *server.world.fake.superseded_by.lock().unwrap() = Some(Version::new(9, NodeId(1)));
    let done = put(Options::default()).await.expect("done");
    assert_eq!(done.info.superseded, Some(Version::new(9, NodeId(1))));
    let failed = put(Options { if_none_match: Some("*".to_owned()), ..Options::default() }).await;
    let failed = failed.expect_err("a failed condition");
    assert_eq!((failed.status(), failed.outcome()), (Some(412), Outcome::NotApplied));
    let refusal = Refusal::NoLeader { detail: "none".to_owned() };
    *server.world.fake.fail_writes.lock().unwrap() = Some(refusal.into());
    let failed = put(Options::default()).await.expect_err("no leader");
    assert_eq!((failed.status(), failed.outcome()), (Some(503), Outcome::NotApplied));
    let unknown = WriteError::Unknown { detail: "sent".to_owned() };
    *server.world.fake.fail_writes.lock().unwrap() = Some(unknown);
    let failed = put(Options::default()).await.expect_err("unknown");
    assert_eq!((failed.status(), failed.outcome()), (Some(504), Outcome::Unknown));
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn a_node_that_is_not_there_was_sent_nothing_and_the_next_is_asked() {
    let (_taken, dead) = dead_address();
    let alone = Client::new([&dead]).expect("a client");
    let failed = alone.delete("a", &Options::default()).await.expect_err("nobody there");
    assert!(matches!(failed, ClientError::NotSent { .. }), "{failed:?}");
    assert_eq!(failed.outcome(), Outcome::NotApplied);
    let mut server = Server::start(|_| {}).await;
    let both = Client::new([dead.as_str(), &server.address]).expect("a client");
    both.delete("a", &Options::default()).await.expect("the other node");
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn an_answer_that_never_comes_or_makes_no_sense_leaves_the_outcome_unknown() {
    let closes = odd_server("").await;
    let cut = odd_server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx").await;
    let strange = odd_server("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    let mut server = Server::start(|_| {}).await;
    for address in [closes, cut, strange] {
        // The second address would answer: that nothing is sent there is the point.
        let client = Client::new([address.as_str(), &server.address]).expect("a client");
        let put = client.put("a", Bytes::from("1"), None, &Options::default()).await;
        assert_eq!(put.expect_err("no good answer").outcome(), Outcome::Unknown);
    }
    assert_eq!(server.world.fake.requests(), 0);
    server.world.fake.is_held.store(true, std::sync::atomic::Ordering::SeqCst);
    let hurried = Options { timeout: Some(Duration::from_millis(1)), ..Options::default() };
    let put = client(&server).put("a", Bytes::from("1"), None, &hurried).await;
    let failed = put.expect_err("the node holds the answer back");
    assert!(matches!(failed, ClientError::NoAnswer { .. }), "{failed:?}");
    assert_eq!(failed.outcome(), Outcome::Unknown);
    server.world.fake.gate.add_permits(8);
    server.begin_stop();
    server.stopped().await;
}
