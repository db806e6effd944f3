//! The server on real sockets of the loopback interface.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate::api::serve;
use quorate::config::Limits;
use quorate::runtime::{Runtime, Task};
use quorate::types::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::world::{World, world};

/// Longer than anything here takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

pub struct Server {
    pub world: Arc<World>,
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    served: Task<()>,
}

impl Server {
    pub async fn start(limit: impl FnOnce(&mut Limits)) -> Server {
        let runtime = Runtime::real();
        let world = Arc::new(world(runtime.clone(), Mode::Leader, limit));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = world.service.clone();
        let served = runtime.spawn(async move {
            serve(service, listener, async {
                let _ = stopped.await;
            })
            .await;
        });
        Server { world, address, stop: Some(stop), served }
    }

    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().expect("stopped once").send(());
    }

    pub async fn stopped(self) {
        within(self.served).await.expect("the server ends without a panic");
    }

    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(&self.address)).await.expect("a connection")
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("nothing here takes this long")
}

async fn say(stream: &mut TcpStream, text: &str) {
    within(stream.write_all(text.as_bytes())).await.expect("sent");
}

/// Reads one answer without a body, or the head of one.
async fn head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(within(stream.read_u8()).await.expect("an answer"));
    }
    String::from_utf8(seen).expect("text")
}

/// Reads until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    within(stream.read_to_end(&mut seen)).await.expect("a clean end");
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn several_requests_share_a_connection() {
    let mut server = Server::start(|_| {}).await;
    let mut stream = server.connect().await;
    say(&mut stream, "PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 204"));
    say(&mut stream, "HEAD /v1/kv/a HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = head(&mut stream).await.to_lowercase();
    assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    say(&mut stream, "GET /v1/kv/a HTTP/1.1\r\nhost: x\r\nif-none-match: *\r\n\r\n").await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 304"));
    say(&mut stream, "GET /v1/kv/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn garbage_is_answered_or_dropped_and_the_server_goes_on() {
    let mut server = Server::start(|_| {}).await;
    for garbage in ["\r\n\r\nnonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\u{1}\u{2}\r\n\r\n"] {
        let mut stream = server.connect().await;
        say(&mut stream, garbage).await;
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let mut stream = server.connect().await;
    say(&mut stream, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    drop(stream);
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn a_named_length_over_the_limit_is_refused_before_the_body_is_sent() {
    let mut server = Server::start(|limits| limits.max_value_bytes = 10).await;
    let mut stream = server.connect().await;
    let put =
        "PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n";
    say(&mut stream, put).await;
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    drop(stream);
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_are_not_dropped() {
    let mut server = Server::start(|limits| limits.max_connections = 1).await;
    let mut first = server.connect().await;
    say(&mut first, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(head(&mut first).await.starts_with("HTTP/1.1 200"));
    let mut second = server.connect().await;
    say(&mut second, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let early = tokio::time::timeout(Duration::from_millis(100), second.read_u8()).await;
    assert!(early.is_err(), "answered before there was room");
    drop(first);
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 200"));
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_waits_for_requests_under_way() {
    let mut server = Server::start(|_| {}).await;
    let mut idle = server.connect().await;
    say(&mut idle, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    head(&mut idle).await;
    server.world.fake.is_held.store(true, Ordering::SeqCst);
    let mut busy = server.connect().await;
    say(&mut busy, "PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1").await;
    while server.world.fake.requests() == 0 {
        tokio::task::yield_now().await;
    }
    server.begin_stop();
    rest(&mut idle).await;
    server.world.fake.gate.add_permits(1);
    assert!(rest(&mut busy).await.starts_with("HTTP/1.1 204"));
    let address = server.address.clone();
    server.stopped().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_begins_no_request_is_closed_in_time() {
    let mut server = Server::start(|_| {}).await;
    let started = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(&server.address).await.expect("a connection");
    // A byte of a head now and then, so that the connection is never quite silent.
    let mut bytes =
        std::iter::repeat_n("GET /healthz HTTP/1.1\r\nx: ", 1).chain(std::iter::repeat("x"));
    loop {
        let sent = stream.write_all(bytes.next().expect("endless").as_bytes()).await;
        let closed = tokio::time::timeout(Duration::from_secs(50), stream.read_u8()).await;
        if sent.is_err() || closed.is_ok() {
            break;
        }
    }
    // The clock is paused: this is simulated time, however busy the machine is.
    let open_s = started.elapsed().as_secs();
    assert!((120..=300).contains(&open_s), "closed after {open_s} s");
    server.begin_stop();
    server.served.await.expect("the server ends without a panic");
}
