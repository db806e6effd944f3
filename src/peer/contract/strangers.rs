//! What a peer port does with those who do not keep to the protocol.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Node, ONE, PATIENCE, TWO, Wires, World, echo, hello, over_tcp};
use crate::peer::frame::{Decoder, Kind, Message, PREFACE, RequestHead, WireAnswer, encode};
use crate::peer::{Hello, Lane, Service};
use crate::types::NodeId;

const THREE: NodeId = NodeId(3);

/// A connection to node 1 that says whatever the test wants.
async fn connect(world: &World) -> TcpStream {
    let Wires::Tcp { addresses } = &world.wires else { panic!("it is TCP") };
    TcpStream::connect(&addresses[&ONE]).await.expect("node 1 listens")
}

/// The words that begin a connection of node 3.
fn first_words() -> BytesMut {
    let mut out = BytesMut::from(&PREFACE[..]);
    let hello = postcard::to_stdvec(&Hello { lane: Lane::Bulk, ..hello(THREE) });
    encode(&mut out, Kind::Hello, 0, &[], &hello.expect("encodes"));
    out
}

/// A connection of node 3 that node 1 has welcomed.
async fn welcomed(world: &World) -> TcpStream {
    let mut stream = connect(world).await;
    stream.write_all(&first_words()).await.expect("it is taken");
    let mut preface = [0; 4];
    stream.read_exact(&mut preface).await.expect("an answer");
    assert_eq!(preface, PREFACE);
    let welcome = receive(world, &mut stream).await;
    assert_eq!(welcome.kind, Kind::Welcome);
    stream
}

async fn receive(world: &World, stream: &mut TcpStream) -> Message {
    let mut decoder = Decoder::for_messages();
    let mut buffer = BytesMut::new();
    let deadline = world.runtime.now() + PATIENCE;
    loop {
        if let Some(message) = decoder.next(&mut buffer).expect("frames") {
            assert!(buffer.is_empty(), "one message at a time");
            return message;
        }
        let read = world.runtime.deadline(deadline, stream.read_buf(&mut buffer)).await;
        assert!(read.expect("in time").expect("readable") > 0, "closed early");
    }
}

/// Waits until node 1 has dropped the connection.
async fn dropped(world: &World, stream: &mut TcpStream) {
    let deadline = world.runtime.now() + PATIENCE;
    let mut rest = Vec::new();
    let read = world.runtime.deadline(deadline, stream.read_to_end(&mut rest)).await;
    assert!(read.is_some(), "the connection was not dropped");
}

async fn counted(world: &World, node: &Node, errors: u64) {
    let count = &node.metrics.peer_protocol_errors;
    world.until("the protocol error is counted", || count.get() >= errors).await;
    assert_eq!(count.get(), errors);
}

/// Starts two nodes, lets a stranger do its worst, and looks whether they noticed and go on.
fn with_a_stranger<F: Future<Output = u64>>(worst: impl FnOnce(Arc<World>) -> F) {
    over_tcp(|world| async move {
        let (one, two) = world.pair(echo()).await;
        let errors = worst(world.clone()).await;
        counted(&world, &one, errors).await;
        for (from, to) in [(&one, TWO), (&two, ONE)] {
            let answer = from.transport.call(world.request(to, Lane::Bulk, "go on")).await;
            assert_eq!(answer, Ok(Bytes::from("go on")));
        }
    });
}

async fn says(world: Arc<World>, words: &[u8]) -> u64 {
    let mut stream = connect(&world).await;
    stream.write_all(words).await.expect("it is taken");
    dropped(&world, &mut stream).await;
    1
}

#[test]
fn garbage_is_dropped_and_counted() {
    with_a_stranger(|world| async move { says(world, b"GET / HTTP/1.1\r\n\r\n").await });
    with_a_stranger(|world| async move { says(world, &[0xff; 100_000]).await });
}

#[test]
fn a_frame_that_says_it_is_too_long_or_too_short_is_dropped_and_counted() {
    with_a_stranger(|world| async move {
        says(world.clone(), b"QRP1\xff\xff\xff\xff").await
            + says(world.clone(), b"QRP1\x00\x20\x00\x00\x01").await
            + says(world, b"QRP1\x08\x00\x00\x00\x01").await
    });
}

#[test]
fn a_first_message_that_is_no_hello_is_dropped_and_counted() {
    with_a_stranger(|world| async move {
        let mut unreadable = BytesMut::from(&PREFACE[..]);
        encode(&mut unreadable, Kind::Hello, 0, &[], &[0xff; 50]);
        let mut request = BytesMut::from(&PREFACE[..]);
        encode(&mut request, Kind::Request, 1, &[], b"let me in");
        says(world.clone(), &unreadable).await + says(world, &request).await
    });
}

#[test]
fn half_a_handshake_and_silence_is_dropped_and_counted() {
    with_a_stranger(|world| async move { says(world, &first_words()[..20]).await });
}

#[test]
fn half_a_handshake_and_the_end_is_counted_and_a_look_at_the_port_is_not() {
    with_a_stranger(|world| async move {
        drop(connect(&world).await);
        let mut stream = connect(&world).await;
        stream.write_all(&first_words()[..20]).await.expect("it is taken");
        stream.shutdown().await.expect("shuts down");
        dropped(&world, &mut stream).await;
        1
    });
}

#[test]
fn a_known_peer_that_breaks_the_protocol_is_dropped_and_counted() {
    with_a_stranger(|world| async move {
        let mut too_long = welcomed(&world).await;
        too_long.write_all(&[0xff; 16]).await.expect("it is taken");
        dropped(&world, &mut too_long).await;
        let mut out_of_place = welcomed(&world).await;
        let mut answer = BytesMut::new();
        WireAnswer::Body(Bytes::new()).encode(&mut answer, 1);
        out_of_place.write_all(&answer).await.expect("it is taken");
        dropped(&world, &mut out_of_place).await;
        2
    });
}

#[test]
fn an_unknown_service_and_an_expired_request_are_refused_and_the_link_goes_on() {
    with_a_stranger(|world| async move {
        let mut stream = welcomed(&world).await;
        let good =
            RequestHead { service: Service::Forward as u8, epoch: None, time_left_ms: 60_000 };
        let expired = RequestHead { time_left_ms: 0, ..good };
        let unknown = RequestHead { service: 200, ..good };
        for (id, head, what) in [(1, expired, "deadline"), (2, unknown, "200"), (3, good, "")] {
            let mut out = BytesMut::new();
            head.encode(&mut out, id, b"body");
            stream.write_all(&out).await.expect("it is taken");
            let answer = receive(&world, &mut stream).await;
            assert_eq!((answer.kind, answer.id), (Kind::Answer, id));
            match WireAnswer::decode(answer.payload).expect("an answer") {
                WireAnswer::Refused(reason) => {
                    assert!(!what.is_empty() && reason.contains(what), "{reason}");
                }
                WireAnswer::Body(body) => assert_eq!((what, &body[..]), ("", &b"body"[..])),
                WireAnswer::GivenUp(reason) => panic!("given up: {reason}"),
            }
        }
        0
    });
}

#[test]
fn a_ping_is_answered() {
    with_a_stranger(|world| async move {
        let mut stream = welcomed(&world).await;
        let mut ping = BytesMut::new();
        encode(&mut ping, Kind::Ping, 0, &[], &[]);
        stream.write_all(&ping).await.expect("it is taken");
        assert_eq!(receive(&world, &mut stream).await.kind, Kind::Pong);
        0
    });
}

#[test]
fn a_peer_that_dials_a_lane_anew_ends_its_older_connection() {
    with_a_stranger(|world| async move {
        let mut older = welcomed(&world).await;
        let _newer = welcomed(&world).await;
        dropped(&world, &mut older).await;
        0
    });
}

#[test]
fn strangers_that_stay_silent_do_not_keep_peers_out() {
    over_tcp(|world| async move {
        let one = world.start(hello(ONE), echo()).await;
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(connect(&world).await);
        }
        let two = world.start(hello(TWO), echo()).await;
        world.until("peers are linked", || one.is_linked(TWO) && two.is_linked(ONE)).await;
    });
}

#[test]
fn a_node_of_another_id_at_a_peers_address_is_not_talked_to() {
    over_tcp(|world| async move {
        let Wires::Tcp { addresses } = &world.wires else { panic!("it is TCP") };
        let listener = TcpListener::bind(&addresses[&TWO]).await.expect("the port is free");
        let one = world.start(hello(ONE), echo()).await;
        let (mut stream, _) = listener.accept().await.expect("node 1 dials");
        let mut words = vec![0; 1_000];
        assert!(stream.read(&mut words).await.expect("a hello") > 0);
        let mut out = BytesMut::from(&PREFACE[..]);
        let welcome = postcard::to_stdvec(&hello(THREE)).expect("encodes");
        encode(&mut out, Kind::Welcome, 0, &[], &welcome);
        stream.write_all(&out).await.expect("it is taken");
        dropped(&world, &mut stream).await;
        assert!(!one.is_linked(TWO));
        let refused = one.transport.call(world.request(TWO, Lane::Bulk, "?")).await;
        assert!(refused.is_err_and(|error| !error.may_have_been_handled()));
    });
}
