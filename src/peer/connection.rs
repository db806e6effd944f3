//! Runs one connection after its handshake: a writer task, a reader, and a watch for silence.
//!
//! **Guarantees.** The writer hands everything that has queued to the connection in one write. The
//! reader hands requests to the handler in the order they came, one at a time. A connection whose
//! other side has fallen silent is noticed and ended, also where TCP would wait for minutes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Decoder, FrameError, Kind, Message, RequestHead, WireAnswer};
use super::handshake::Wire;
use super::link::{Link, Outgoing, WRITE_BATCH_BYTES};
use super::{Inbound, PeerHandler, Reply, Service};
use crate::runtime::{Runtime, Task};
use crate::telemetry::{Metrics, ServiceLabel};
use crate::types::NodeId;

/// How often a connection is looked at for signs of life.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After how many looks without a sign of life the caller's side ends a connection. It pings from
/// the first on, so two pings went unanswered by then.
const SILENT_LOOKS_CALLING: u32 = 3;

/// The same for the answering side, which does not ping: the other side would have, many times.
const SILENT_LOOKS_ANSWERING: u32 = 10;

/// Room for one read, in bytes: enough for what gathers while the last was handled.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// With less room than this left, in bytes, a new read buffer is begun.
const MIN_READ_BYTES: usize = 8 << 10;

/// A write buffer that grew beyond this for a long message is given back.
const KEEP_WRITE_BUFFER_BYTES: usize = 2 * WRITE_BATCH_BYTES;

/// What links count, looked up once: a family takes a lock to find its counter.
pub(super) struct LinkMetrics {
    messages_sent: [Counter; Service::ALL.len()],
    bytes_sent: Counter,
    pub protocol_errors: Counter,
}

impl LinkMetrics {
    pub fn new(metrics: &Metrics) -> LinkMetrics {
        let counter = |service: Service| {
            let label = ServiceLabel { service: service.as_str() };
            metrics.peer_messages_sent.get_or_create(&label).clone()
        };
        LinkMetrics {
            messages_sent: Service::ALL.map(counter),
            bytes_sent: metrics.peer_bytes_sent.clone(),
            protocol_errors: metrics.peer_protocol_errors.clone(),
        }
    }
}

/// What this side of a connection does.
pub(super) enum Side {
    /// It asks, and takes answers.
    Calling,
    /// It takes requests, and answers.
    Answering { from: NodeId, handler: Arc<dyn PeerHandler> },
}

/// Runs a connection until it ends, and closes its link. Gives the reason.
pub(super) async fn run(
    runtime: &Runtime,
    metrics: &Arc<LinkMetrics>,
    link: &Arc<Link>,
    wire: Wire,
    side: Side,
) -> String {
    let Wire { mut reader, writer, received, .. } = wire;
    let write = write_all_queued(runtime.clone(), metrics.clone(), link.clone(), writer);
    let _writer = EndOnDrop(runtime.spawn(write));
    let reason = tokio::select! { biased;
        _ = link.ended.notified() => link.closed().unwrap_or_default(),
        reason = watch_for_silence(runtime, link, &side) => reason,
        error = read_all(runtime, link, &side, &mut reader, received) => {
            if let ReadEnd::Frame(_) = &error {
                metrics.protocol_errors.inc();
            }
            error.to_string()
        }
    };
    link.close(&reason);
    reason
}

/// Ends a task together with its owner, however that ends.
struct EndOnDrop(Task<()>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn write_all_queued(
    runtime: Runtime,
    metrics: Arc<LinkMetrics>,
    link: Arc<Link>,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
) {
    let mut batch = Vec::new();
    let mut buffer = BytesMut::new();
    loop {
        let now = link.take(&runtime, &mut batch);
        if batch.is_empty() {
            link.wake.notified().await;
            continue;
        }
        for message in batch.drain(..) {
            message.encode(&mut buffer, now);
            if let Some(service) = message.service() {
                metrics.messages_sent[service as usize - 1].inc();
            }
        }
        metrics.bytes_sent.inc_by(buffer.len() as u64);
        if let Err(error) = writer.write_all(&buffer).await {
            return link.close(&format!("the connection broke: {error}"));
        }
        buffer.clear();
        if buffer.capacity() > KEEP_WRITE_BUFFER_BYTES {
            buffer = BytesMut::new();
        }
    }
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum ReadEnd {
    #[error("the connection was closed by the other side")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the other side broke the protocol: {0}")]
    Frame(#[from] FrameError),
}

async fn read_all(
    runtime: &Runtime,
    link: &Arc<Link>,
    side: &Side,
    reader: &mut (dyn AsyncRead + Send + Unpin),
    received: BytesMut,
) -> ReadEnd {
    match read_until_error(runtime, link, side, reader, received).await {
        Ok(()) => ReadEnd::Closed,
        Err(end) => end,
    }
}

async fn read_until_error(
    runtime: &Runtime,
    link: &Arc<Link>,
    side: &Side,
    reader: &mut (dyn AsyncRead + Send + Unpin),
    mut buffer: BytesMut,
) -> Result<(), ReadEnd> {
    let mut decoder = Decoder::for_messages();
    let mut answers = Vec::new();
    let mut heard = false;
    if let Side::Calling = side {
        link.connected(runtime.now());
    }
    loop {
        while let Some(message) = decoder.next(&mut buffer)? {
            match side {
                Side::Calling => take_answer(message, &mut answers)?,
                Side::Answering { from, handler } => {
                    take_request(runtime, link, *from, handler.as_ref(), message)?;
                }
            }
        }
        match side {
            Side::Calling if !answers.is_empty() => link.settle(runtime.now(), &mut answers),
            Side::Calling if heard => link.lives(),
            Side::Calling | Side::Answering { .. } => {}
        }
        let room = decoder.missing(&buffer).max(MIN_READ_BYTES);
        if buffer.capacity() - buffer.len() < room {
            buffer.reserve(room.max(READ_BUFFER_BYTES));
        }
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        link.mark_heard();
        heard = true;
    }
}

fn take_answer(message: Message, answers: &mut Vec<(u64, WireAnswer)>) -> Result<(), FrameError> {
    match message.kind {
        Kind::Answer => answers.push((message.id, WireAnswer::decode(message.payload)?)),
        Kind::Pong => {}
        kind => return Err(FrameError::Unexpected(kind)),
    }
    Ok(())
}

fn take_request(
    runtime: &Runtime,
    link: &Arc<Link>,
    from: NodeId,
    handler: &dyn PeerHandler,
    message: Message,
) -> Result<(), FrameError> {
    match message.kind {
        Kind::Request => {}
        Kind::Ping => {
            link.sign_of_life(Outgoing::Pong);
            return Ok(());
        }
        kind => return Err(FrameError::Unexpected(kind)),
    }
    let id = message.id;
    let (head, body) = RequestHead::decode(&message.payload)?;
    let Some(service) = Service::from_number(head.service) else {
        let reason = format!("no service has number {}: is this node older?", head.service);
        link.refuse(id, reason);
        return Ok(());
    };
    let back = link.clone();
    let reply = Reply::new(move |answer| back.answer(id, service, answer));
    if head.time_left_ms == 0 {
        reply.refuse("the deadline passed before it was handled");
        return Ok(());
    }
    let deadline = runtime.now() + Duration::from_millis(u64::from(head.time_left_ms));
    handler.handle(Inbound { from, service, epoch: head.epoch, deadline, body, reply });
    Ok(())
}

/// Returns, with a reason, once the other side was not heard for too long.
async fn watch_for_silence(runtime: &Runtime, link: &Link, side: &Side) -> String {
    let most = match side {
        Side::Calling => SILENT_LOOKS_CALLING,
        Side::Answering { .. } => SILENT_LOOKS_ANSWERING,
    };
    let mut heard = link.heard();
    let mut silent_looks = 0;
    while silent_looks < most {
        runtime.sleep(LOOK_EVERY).await;
        let heard_now = link.heard();
        if heard_now != heard {
            heard = heard_now;
            silent_looks = 0;
            continue;
        }
        silent_looks += 1;
        if let Side::Calling = side {
            link.sign_of_life(Outgoing::Ping);
        }
    }
    format!("nothing was heard for {} s", silent_looks * LOOK_EVERY.as_secs() as u32)
}

#[cfg(test)]
mod tests;
