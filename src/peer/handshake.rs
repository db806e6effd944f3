//! The first words on a connection: who is there, and whether the two may talk.
//!
//! **Guarantees.** Before the first request each side has told the other its cluster, node id,
//! incarnation and mode, and each side's [`Greeter`] has accepted the other.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Decoder, FrameError, Kind, Message, PREFACE, encode};
use super::{Greeter, Hello, Lane, Rejection};
use crate::runtime::Runtime;
use crate::types::NodeId;

/// Both directions of a connection that carries bytes.
pub(super) struct Wire {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Where the other side is, for people.
    pub remote: String,
    /// What was received and not yet used.
    pub received: BytesMut,
}

/// Why two nodes do not talk.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side left without a word, as a port scanner does.
    #[error("it closed the connection without a word")]
    Silent,
    /// The other side does not keep to the protocol.
    #[error("it broke the handshake: {0}")]
    Protocol(#[from] FrameError),
    /// The other side left in the middle.
    #[error("it closed the connection in the middle of the handshake")]
    CutShort,
    /// The other side refuses this node.
    #[error("it refuses this node: {0}")]
    Rejected(Rejection),
    /// This node refuses the other side.
    #[error("refused: {0}")]
    Refused(Rejection),
}

/// The dialler's side: says hello, and gives who accepted it.
pub(super) async fn greet(
    wire: &mut Wire,
    runtime: &Runtime,
    greeter: &Arc<dyn Greeter>,
    expected: NodeId,
    lane: Lane,
) -> Result<Hello, HandshakeError> {
    send(wire, Kind::Hello, &greeter.hello(lane)).await?;
    let message = receive(wire).await?;
    let welcome: Hello = match message.kind {
        Kind::Welcome => read(&message)?,
        Kind::Rejected => return Err(HandshakeError::Rejected(read(&message)?)),
        kind => return Err(FrameError::Unexpected(kind).into()),
    };
    if welcome.node != expected {
        let rejection = Rejection::OtherNode { said: welcome.node, expected };
        return Err(HandshakeError::Refused(rejection));
    }
    accept(runtime, greeter, &welcome).await.map_err(HandshakeError::Refused)?;
    Ok(welcome)
}

/// The acceptor's first half: hears who dials, and tells it where it is refused.
pub(super) async fn hear(
    wire: &mut Wire,
    runtime: &Runtime,
    greeter: &Arc<dyn Greeter>,
) -> Result<Hello, HandshakeError> {
    let message = receive(wire).await?;
    if message.kind != Kind::Hello {
        return Err(FrameError::Unexpected(message.kind).into());
    }
    let hello: Hello = read(&message)?;
    match accept(runtime, greeter, &hello).await {
        Ok(()) => Ok(hello),
        Err(rejection) => {
            send(wire, Kind::Rejected, &rejection).await?;
            wire.writer.shutdown().await?;
            Err(HandshakeError::Refused(rejection))
        }
    }
}

/// The acceptor's second half: from here on requests may come.
pub(super) async fn welcome(
    wire: &mut Wire,
    greeter: &Arc<dyn Greeter>,
    lane: Lane,
) -> Result<(), HandshakeError> {
    send(wire, Kind::Welcome, &greeter.hello(lane)).await
}

/// Asks the greeter where it may block: it writes what it must remember to disk.
async fn accept(
    runtime: &Runtime,
    greeter: &Arc<dyn Greeter>,
    hello: &Hello,
) -> Result<(), Rejection> {
    let (greeter, hello) = (greeter.clone(), hello.clone());
    runtime.blocking(move || greeter.accept(&hello)).await
}

async fn send<T: Serialize>(wire: &mut Wire, kind: Kind, what: &T) -> Result<(), HandshakeError> {
    let body = postcard::to_stdvec(what).map_err(io::Error::other)?;
    let mut out = BytesMut::from(&PREFACE[..]);
    encode(&mut out, kind, 0, &[], &body);
    wire.writer.write_all(&out).await?;
    wire.writer.flush().await?;
    Ok(())
}

/// Receives the preface and one message.
async fn receive(wire: &mut Wire) -> Result<Message, HandshakeError> {
    let mut decoder = Decoder::for_handshake();
    let mut preface_seen = false;
    loop {
        if !preface_seen && let Some(preface) = wire.received.first_chunk::<4>() {
            if *preface != PREFACE {
                return Err(FrameError::Preface(*preface).into());
            }
            wire.received.advance(PREFACE.len());
            preface_seen = true;
        }
        if preface_seen && let Some(message) = decoder.next(&mut wire.received)? {
            return Ok(message);
        }
        if wire.reader.read_buf(&mut wire.received).await? == 0 {
            return Err(match preface_seen || !wire.received.is_empty() {
                true => HandshakeError::CutShort,
                false => HandshakeError::Silent,
            });
        }
    }
}

fn read<T: DeserializeOwned>(message: &Message) -> Result<T, FrameError> {
    postcard::from_bytes(&message.payload).map_err(|_| FrameError::Unreadable(message.kind))
}
