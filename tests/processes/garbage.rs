//! Peer ports are open to whoever reaches them: what is no peer is dropped and counted.

use std::net::SocketAddr;

use quorate::types::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::trial::{PATIENCE, Trial};

/// Sends `bytes` to a peer port and waits until the node has closed the connection. With `hang_up`
/// the end of the stranger's stream follows the bytes; without, it stays open and silent.
async fn dropped(trial: &Trial, address: SocketAddr, bytes: &[u8], hang_up: bool) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("the port is open");
        // The node may have closed already when the last bytes go out.
        let _ = stream.write_all(bytes).await;
        if hang_up {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let deadline = trial.runtime.now() + PATIENCE;
    let answer = trial.runtime.deadline(deadline, exchange).await;
    let answer = answer.expect("the node closes the connection");
    assert!(answer.is_empty(), "a stranger was answered: {answer:?}");
}

#[tokio::test]
async fn garbage_on_a_peer_port_is_dropped_and_counted_and_the_node_goes_on() {
    let trial = Trial::start(Mode::Leader, &[]).await;
    let noise: Vec<u8> =
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let garbage: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: quorate\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 4096],
        &noise,
        b"\n",
        // How links begin, and then a frame longer than any may be.
        b"QRP1\xff\xff\xff\x7f\x01",
    ];
    for (index, address) in trial.cluster.peer_addresses().into_iter().enumerate() {
        let before = trial.counter(index, "peer_protocol_errors").await;
        for bytes in garbage {
            dropped(&trial, address, bytes, true).await;
        }
        // Too little to be wrong, and then silence: given up on after a while.
        dropped(&trial, address, b"q", false).await;
        let after = trial.counter(index, "peer_protocol_errors").await;
        assert_eq!(after - before, garbage.len() as u64 + 1, "each is counted once");
    }
    for index in 0..3 {
        trial.put(index, "still", &format!("serves {index}"), "").await;
        let seen = trial.get((index + 1) % 3, "still", "").await;
        assert_eq!(seen, Some(format!("serves {index}")));
    }
}
