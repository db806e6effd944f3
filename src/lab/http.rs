//! A lean HTTP/1.1 client for load: one connection, one request at a time, kept alive.
//!
//! The load generator shares the machine with the nodes it measures, so it must cost little: no
//! connection pool, no header map, no allocation a request. What it must get right is the
//! **meaning of failure**:
//!
//! - no connection could be opened: nothing was sent, so definitely nothing happened;
//! - anything that goes wrong from the first byte sent to the last byte read: the request may have
//!   been served, so for a write the outcome is unknown.
//!
//! A connection is closed and opened anew after every failure, so that a late answer is never taken
//! for the answer to the next request.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::runtime::Runtime;

/// An answer's head may be this long, in bytes; the server's heads are a tenth of it.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// An answer's body may be this long, in bytes: far above every value and metrics page asked for.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whether any byte of the request was handed to the network.
    pub sent: bool,
    pub detail: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = if self.sent { "sent without answer" } else { "not sent" };
        write!(f, "{stage}: {}", self.detail)
    }
}

impl std::error::Error for Failure {}

/// A connection to one node, opened when it is needed.
pub struct Connection {
    runtime: Runtime,
    address: SocketAddr,
    timeout: Duration,
    stream: Option<TcpStream>,
    outbox: Vec<u8>,
    inbox: Vec<u8>,
}

/// An answer; it lives until the connection's next call.
#[derive(Debug)]
pub struct Answer<'a> {
    pub status: u16,
    head: &'a [u8],
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// The value of the header `name` (any case).
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.head, name)
    }
}

/// Where the parts of an answer lie in the inbox.
struct Parsed {
    status: u16,
    head: Range<usize>,
    body: Range<usize>,
    close: bool,
}

impl Connection {
    /// A connection to `address`; a call that is not answered within `timeout` has failed.
    pub fn new(runtime: Runtime, address: SocketAddr, timeout: Duration) -> Connection {
        Connection {
            runtime,
            address,
            timeout,
            stream: None,
            outbox: Vec::new(),
            inbox: Vec::new(),
        }
    }

    /// Where the connection leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one request and reads its answer.
    pub async fn call(
        &mut self,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> Result<Answer<'_>, Failure> {
        self.call_with(method, target, "", body).await
    }

    /// The same with further headers, each ended by CR LF.
    pub async fn call_with(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Answer<'_>, Failure> {
        let deadline = self.runtime.now() + self.timeout;
        let runtime = self.runtime.clone();
        let mut sent = false;
        let exchange = self.exchange((method, target, headers), body, &mut sent);
        let ended = match runtime.deadline(deadline, exchange).await {
            Some(ended) => ended,
            None => Err(format!("no answer within {} ms", self.timeout.as_millis())),
        };
        match ended {
            Ok(parsed) => {
                if parsed.close {
                    self.stream = None;
                }
                let (head, body) = (&self.inbox[parsed.head], &self.inbox[parsed.body]);
                Ok(Answer { status: parsed.status, head, body })
            }
            Err(detail) => {
                self.stream = None;
                Err(Failure { sent, detail })
            }
        }
    }

    async fn exchange(
        &mut self,
        (method, target, headers): (&str, &str, &str),
        body: &[u8],
        sent: &mut bool,
    ) -> Result<Parsed, String> {
        use std::io::Write as _;
        self.outbox.clear();
        // Writing to a vector cannot fail.
        let _ = write!(
            self.outbox,
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        self.outbox.extend_from_slice(body);
        let mut stream = match self.stream.take().filter(is_alive) {
            Some(stream) => stream,
            None => {
                let stream =
                    TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                stream
            }
        };
        *sent = true;
        stream.write_all(&self.outbox).await.map_err(|error| error.to_string())?;
        let parsed = read_answer(&mut stream, &mut self.inbox).await?;
        self.stream = Some(stream);
        Ok(parsed)
    }
}

/// Whether a connection that was idle can still be used: a server that went away in the meantime
/// has left an end of file or an error to read. Without this, a write sent into a connection known
/// to be dead would be reported as unknown.
fn is_alive(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn read_answer(stream: &mut TcpStream, inbox: &mut Vec<u8>) -> Result<Parsed, String> {
    inbox.clear();
    let head_end = loop {
        let searched = inbox.len().saturating_sub(3);
        read_more(stream, inbox).await?;
        if let Some(at) = inbox[searched..].windows(4).position(|four| four == b"\r\n\r\n") {
            break searched + at + 4;
        }
        if inbox.len() > MAX_HEAD_BYTES {
            return Err(format!("the answer's head is longer than {MAX_HEAD_BYTES} bytes"));
        }
    };
    let head = &inbox[..head_end];
    let status = status(head).ok_or("the answer does not begin with an HTTP/1.1 status line")?;
    let close = header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let length = match header(head, "content-length") {
        Some(text) => text.parse::<usize>().map_err(|_| format!("Content-Length: {text}"))?,
        None if status == 204 || status == 304 => 0,
        None => return Err("the answer names no Content-Length".to_owned()),
    };
    if length > MAX_BODY_BYTES {
        return Err(format!("a body of {length} bytes: more than {MAX_BODY_BYTES}"));
    }
    while inbox.len() < head_end + length {
        read_more(stream, inbox).await?;
    }
    if inbox.len() > head_end + length {
        return Err("bytes after the end of the answer".to_owned());
    }
    Ok(Parsed { status, head: 0..head_end, body: head_end..head_end + length, close })
}

async fn read_more(stream: &mut TcpStream, inbox: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_buf(inbox).await {
        Ok(0) => Err("the connection was closed before the whole answer came".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let digits = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (found, value) = line.split_at(colon);
        if !found.eq_ignore_ascii_case(name.as_bytes()) {
            return None;
        }
        std::str::from_utf8(&value[1..]).ok().map(str::trim)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Serves one connection after the other: reads a request's head, then sends each script's
    /// bytes and closes.
    async fn server(scripts: Vec<Vec<&'static [u8]>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        Runtime::real().spawn(async move {
            for script in scripts {
                let (mut stream, _) = listener.accept().await.expect("a client");
                for answer in script {
                    let mut request = vec![0; 4096];
                    let got = stream.read(&mut request).await.expect("a request");
                    if got == 0 {
                        break;
                    }
                    stream.write_all(answer).await.expect("sent");
                }
            }
        });
        address
    }

    fn connect(address: SocketAddr) -> Connection {
        Connection::new(Runtime::real(), address, Duration::from_secs(20))
    }

    #[tokio::test]
    async fn answers_are_read_one_after_the_other_on_one_connection() {
        let address = server(vec![vec![
            b"HTTP/1.1 200 OK\r\nETag: \"0193e5f2a1b30000-1\"\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        ]])
        .await;
        let mut connection = connect(address);
        let answer = connection.call("GET", "/v1/kv/a", b"").await.expect("answered");
        assert_eq!((answer.status, answer.body), (200, &b"hello"[..]));
        assert_eq!(answer.header("etag"), Some("\"0193e5f2a1b30000-1\""));
        assert_eq!(answer.header("quorate-node"), None);
        assert_eq!(connection.call("PUT", "/v1/kv/a", b"x").await.expect("answered").status, 204);
        assert_eq!(connection.call("GET", "/v1/kv/b", b"").await.expect("answered").status, 404);
    }

    #[tokio::test]
    async fn nobody_listening_means_that_nothing_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let failure = connect(address).call("PUT", "/v1/kv/a", b"x").await.expect_err("refused");
        assert!(!failure.sent, "{failure}");
    }

    #[tokio::test]
    async fn an_answer_cut_short_or_unreadable_means_that_it_was_sent() {
        for broken in [
            &b""[..],
            b"HTTP/1.1 20",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        ] {
            let good: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
            let address = server(vec![vec![broken], vec![good]]).await;
            let mut connection = connect(address);
            let failure = connection.call("PUT", "/v1/kv/a", b"x").await.expect_err("broken");
            assert!(failure.sent, "{broken:?}: {failure}");
            // The next call opens a new connection and is not confused by the rest.
            let answer = connection.call("PUT", "/v1/kv/a", b"y").await.expect("answered");
            assert_eq!(answer.status, 204);
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_on_and_may_have_applied_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut connection = Connection::new(Runtime::real(), address, Duration::from_millis(50));
        let failure = connection.call("PUT", "/v1/kv/a", b"x").await.expect_err("silence");
        assert!(failure.sent && failure.detail.contains("50 ms"), "{failure}");
        drop(listener);
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closed_while_idle_is_opened_anew() {
        let good: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
        let address = server(vec![vec![good], vec![good]]).await;
        let mut connection = connect(address);
        connection.call("PUT", "/v1/kv/a", b"x").await.expect("answered");
        // The server closes after its script; wait until that is to be seen here.
        let stream = connection.stream.as_ref().expect("kept alive");
        stream.readable().await.expect("closed");
        assert_eq!(connection.call("PUT", "/v1/kv/a", b"y").await.expect("answered").status, 204);
    }
}
