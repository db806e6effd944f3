//! The proxy before a server on the loopback interface. Nothing here asserts on elapsed time: what
//! must not get through is shown not to have come by what comes after it.

use std::future::Future;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::*;

/// How long anything may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(20);

/// A listener, and a proxy before it.
struct Bench {
    runtime: Runtime,
    listener: TcpListener,
    proxy: Proxy,
}

impl Bench {
    async fn new() -> Bench {
        let runtime = Runtime::real();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("an address");
        let proxy = Proxy::open(&runtime, target).await.expect("a proxy");
        Bench { runtime, listener, proxy }
    }

    async fn within<T>(&self, future: impl Future<Output = T>) -> T {
        let deadline = self.runtime.now() + PATIENCE;
        self.runtime.deadline(deadline, future).await.expect("it happens")
    }

    /// Both ends of a connection through the proxy.
    async fn connected(&self) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(self.proxy.address()).await.expect("connected");
        let (far, _) = self.within(self.listener.accept()).await.expect("carried");
        (near, far)
    }

    async fn send(&self, to: &mut TcpStream, bytes: &[u8]) {
        self.within(to.write_all(bytes)).await.expect("sent");
    }

    async fn receive(&self, from: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.within(from.read_exact(&mut bytes)).await.expect("received");
        bytes
    }

    /// Waits until a counter says that something happened.
    async fn until(&self, happened: impl Fn(Tally) -> bool) {
        self.within(async {
            while !happened(self.proxy.tally()) {
                self.runtime.sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

fn nothing_came(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn numbered(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| (n as u32).to_be_bytes()).collect()
}

#[tokio::test]
async fn bytes_go_both_ways_unchanged_and_in_order_and_an_end_is_passed_on() {
    let bench = Bench::new().await;
    let (mut near, mut far) = bench.connected().await;
    let sent = numbered(100_000);
    let (there, back) = (sent.clone(), sent.clone());
    let ((), got) =
        tokio::join!(bench.send(&mut near, &there), bench.receive(&mut far, sent.len()));
    assert_eq!(got, sent);
    near.shutdown().await.expect("no more from here");
    let ((), got) = tokio::join!(bench.send(&mut far, &back), bench.receive(&mut near, sent.len()));
    assert_eq!(got, sent, "the other direction goes on after one has ended");
    assert_eq!(bench.within(far.read(&mut [0])).await.expect("an end"), 0);
    assert_eq!(bench.proxy.tally().bytes, 2 * sent.len() as u64);
}

#[tokio::test]
async fn what_is_held_one_way_arrives_when_that_ends_and_the_other_way_goes_on() {
    let bench = Bench::new().await;
    let (mut near, mut far) = bench.connected().await;
    bench.proxy.change(|to| to.forward.held = true);
    bench.send(&mut near, b"held").await;
    bench.until(|tally| tally.held > 0).await;
    bench.send(&mut far, b"back").await;
    assert_eq!(bench.receive(&mut near, 4).await, b"back");
    assert!(nothing_came(&far));
    bench.proxy.change(|to| to.forward.held = false);
    assert_eq!(bench.receive(&mut far, 4).await, b"held");
}

#[tokio::test]
async fn what_is_held_is_bounded_and_the_sender_feels_it() {
    let bench = Bench::new().await;
    let (near, mut far) = bench.connected().await;
    bench.proxy.change(|to| to.forward.held = true);
    // The kernel's own buffers come on top; far more than both is sent.
    let sent = numbered(16 << 20);
    let total = sent.len();
    let (mut reader, mut writer) = near.into_split();
    let writing = bench.runtime.spawn(async move { writer.write_all(&sent).await.map(|()| sent) });
    bench.until(|tally| tally.held > 0).await;
    bench.send(&mut far, b"alive").await;
    let mut answer = [0; 5];
    bench.within(reader.read_exact(&mut answer)).await.expect("received");
    assert!(!writing.is_finished(), "64 MiB disappeared into a proxy that holds 1 MiB");
    bench.proxy.change(|to| to.forward.held = false);
    let got = bench.receive(&mut far, total).await;
    assert_eq!(got, writing.await.expect("no panic").expect("sent"));
}

#[tokio::test]
async fn while_held_not_even_the_end_of_a_connection_gets_through() {
    let bench = Bench::new().await;
    let (near, mut far) = bench.connected().await;
    bench.proxy.change(|to| (to.forward.held, to.backward.held) = (true, true));
    near.set_zero_linger().expect("set");
    drop(near);
    // A second connection shows that the proxy has had the time to see the first one end.
    let (mut second, mut other) = bench.connected().await;
    bench.send(&mut second, b"x").await;
    bench.until(|tally| tally.held > 0).await;
    assert!(nothing_came(&far) && nothing_came(&other));
    bench.proxy.change(|to| *to = Conditions::default());
    let ended = bench.within(far.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(bench.receive(&mut other, 1).await, b"x");
}

#[tokio::test]
async fn new_connections_are_refused_or_left_waiting_and_taken_again_afterwards() {
    let bench = Bench::new().await;
    bench.proxy.change(|to| to.accept = Accept::Refuse);
    let mut refused = TcpStream::connect(bench.proxy.address()).await.expect("opened");
    let ended = bench.within(refused.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    bench.proxy.change(|to| to.accept = Accept::Hang);
    let mut waiting = TcpStream::connect(bench.proxy.address()).await.expect("in the backlog");
    bench.send(&mut waiting, b"early").await;
    assert!(nothing_came(&waiting));
    assert_eq!(bench.proxy.tally().carried, 0);
    bench.proxy.change(|to| to.accept = Accept::Open);
    let (mut far, _) = bench.within(bench.listener.accept()).await.expect("carried after all");
    assert_eq!(bench.receive(&mut far, 5).await, b"early");
    let tally = bench.proxy.tally();
    assert_eq!((tally.carried, tally.refused), (1, 1));
}

#[tokio::test]
async fn a_reset_ends_the_connections_there_are_on_both_sides_and_no_later_ones() {
    let bench = Bench::new().await;
    let (mut near, mut far) = bench.connected().await;
    bench.proxy.reset();
    for end in [&mut near, &mut far] {
        let ended = bench.within(end.read(&mut [0])).await.expect_err("a reset, not an end");
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    }
    let (mut near, mut far) = bench.connected().await;
    bench.send(&mut near, b"again").await;
    assert_eq!(bench.receive(&mut far, 5).await, b"again");
    assert_eq!(bench.proxy.tally().reset, 1);
}

#[tokio::test]
async fn late_and_slow_bytes_arrive_whole_and_in_order() {
    let bench = Bench::new().await;
    let (mut near, mut far) = bench.connected().await;
    bench.proxy.change(|to| {
        to.forward.delay = Duration::from_millis(5);
        to.forward.jitter = Duration::from_millis(5);
        to.backward.bytes_per_second = Some(5_000);
    });
    for round in 0..20u8 {
        bench.send(&mut near, &[round; 3]).await;
    }
    let expected: Vec<u8> = (0..20).flat_map(|round| [round; 3]).collect();
    assert_eq!(bench.receive(&mut far, 60).await, expected);
    let sent = numbered(125);
    bench.send(&mut far, &sent).await;
    assert_eq!(bench.receive(&mut near, sent.len()).await, sent);
    let tally = bench.proxy.tally();
    assert!(tally.delayed > 0, "nothing was late");
    // 5,000 bytes a second are 100 bytes every 20 ms.
    assert!(tally.dripped >= 5, "{} pieces", tally.dripped);
}

#[tokio::test]
async fn a_target_that_is_not_there_is_told_by_a_reset_and_a_dropped_proxy_leaves_nothing_open() {
    let bench = Bench::new().await;
    let (mut near, _far) = bench.connected().await;
    let Bench { runtime, listener, proxy } = bench;
    let address = proxy.address();
    drop(proxy);
    let deadline = runtime.now() + PATIENCE;
    let ended = runtime.deadline(deadline, near.read(&mut [0])).await.expect("it ends");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    drop(listener);
    // Bound and not listening: the port is refused, and no other test can be given it meanwhile.
    let nobody = TcpSocket::new_v4().expect("a socket");
    nobody.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let target = nobody.local_addr().expect("an address");
    let proxy = Proxy::open(&runtime, target).await.expect("a proxy");
    let mut near = TcpStream::connect(proxy.address()).await.expect("opened");
    let ended = runtime.deadline(deadline, near.read(&mut [0])).await.expect("it ends");
    assert!(ended.is_err(), "a reset");
    assert_ne!(address, proxy.address());
}

#[tokio::test]
async fn links_carry_what_one_node_tells_another_on_both_connections() {
    let runtime = Runtime::real();
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    }
    let nodes: Vec<(u16, SocketAddr)> = (1..)
        .zip(&listeners)
        .map(|(id, listener)| (id, listener.local_addr().expect("an address")))
        .collect();
    let links = Links::open(&runtime, &nodes).await.expect("proxies");
    assert_eq!(links.proxies.len(), 6);
    assert_eq!(links.address(2, 2), None);
    links.toward(1, 2, |flow| flow.held = true);
    let state = |from, to| links.proxies[&(from, to)].conditions();
    assert!(state(1, 2).forward.held && state(2, 1).backward.held);
    assert!(!state(1, 2).backward.held && !state(2, 1).forward.held);
    links.cut_loudly(1, 3);
    assert_eq!((state(1, 3).accept, state(3, 1).accept), (Accept::Refuse, Accept::Refuse));
    links.cut_silently(2, 3);
    assert!(state(2, 3).forward.held && state(3, 2).backward.held);
    links.heal();
    assert!(links.proxies.values().all(|proxy| proxy.conditions() == Conditions::default()));
}
