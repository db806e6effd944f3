//! Request bodies: read whole, within a limit and a deadline, never buffered beyond either.

use std::error::Error;
use std::pin::pin;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

use crate::runtime::{Instant, Runtime};

use super::failure::BodyError;

/// Bodies up to this are copied out of the connection's read buffer, in bytes: a few bytes kept in
/// a cache must not hold on to a buffer of many, and the connection can use its buffer again.
const COPY_UP_TO_BYTES: usize = 8 << 10;

/// How much memory a body that names its length is given before its bytes arrive, in bytes.
const TRUSTED_BYTES: usize = 64 << 10;

/// Reads a body of at most `limit_bytes`; `what` names it in the refusal.
pub async fn read<B>(
    runtime: &Runtime,
    body: B,
    what: &'static str,
    limit_bytes: usize,
    deadline: Instant,
) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let started = runtime.now();
    if body.size_hint().lower() > limit_bytes as u64 {
        return Err(BodyError::TooLarge { what, limit_bytes });
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match runtime.deadline(deadline, collect(body, what, limit_bytes)).await {
        Some(read) => read,
        None => {
            let waited = runtime.now().saturating_duration_since(started);
            Err(BodyError::TimedOut { waited_ms: waited.as_millis() })
        }
    }
}

async fn collect<B>(body: B, what: &'static str, limit_bytes: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut gathered = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| BodyError::Broken { problem: error.into().to_string() })?;
        // Trailers say nothing that is kept.
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + gathered.len() + data.len() > limit_bytes {
            return Err(BodyError::TooLarge { what, limit_bytes });
        }
        if first.is_empty() && gathered.is_empty() {
            first = data;
        } else {
            if gathered.is_empty() {
                let named = body.size_hint().lower().min(TRUSTED_BYTES as u64) as usize;
                gathered.reserve(first.len() + data.len() + named);
                gathered.extend_from_slice(&std::mem::take(&mut first));
            }
            gathered.extend_from_slice(&data);
        }
    }
    Ok(match gathered.is_empty() {
        true if first.remaining() <= COPY_UP_TO_BYTES => Bytes::copy_from_slice(&first),
        true => first,
        false => gathered.freeze(),
    })
}

/// Refuses a body where the path says it all.
pub fn none(body: &[u8]) -> Result<(), BodyError> {
    match body.is_empty() {
        true => Ok(()),
        false => {
            let problem = "expected no body: the path says it all".to_owned();
            Err(BodyError::Malformed { problem })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use std::convert::Infallible;
    use std::time::Duration;

    const LIMIT: usize = 100;

    fn chunks(chunks: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + use<> {
        let frames: Vec<_> = chunks
            .iter()
            .enumerate()
            .map(|(n, &length)| Ok(Frame::data(Bytes::from(vec![n as u8; length]))))
            .collect();
        StreamBody::new(stream::iter(frames))
    }

    async fn read_all(
        body: impl Body<Data = Bytes, Error = Infallible>,
    ) -> Result<Bytes, BodyError> {
        let runtime = Runtime::simulated(1, 0);
        let deadline = runtime.now() + Duration::from_millis(50);
        read(&runtime, body, "a value", LIMIT, deadline).await
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_read_whole_up_to_the_limit() {
        assert_eq!(read_all(Full::new(Bytes::new())).await, Ok(Bytes::new()));
        assert_eq!(read_all(chunks(&[])).await, Ok(Bytes::new()));
        assert_eq!(read_all(chunks(&[100])).await.map(|body| body.len()), Ok(100));
        let body = read_all(chunks(&[1, 0, 2, 97])).await.expect("read");
        assert_eq!((body.len(), body[0], body[1], body[3]), (100, 0, 2, 3));
        let too_large = Err(BodyError::TooLarge { what: "a value", limit_bytes: LIMIT });
        assert_eq!(read_all(chunks(&[101])).await, too_large);
        assert_eq!(read_all(chunks(&[50, 51])).await, too_large);
        assert_eq!(read_all(Full::new(Bytes::from(vec![0; 101]))).await, too_large);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_arrives_is_given_up_at_the_deadline() {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        assert_eq!(read_all(body).await, Err(BodyError::TimedOut { waited_ms: 50 }));
    }
}
