//! Listening: connections in, answers out, all of it bounded.
//!
//! **Guarantees.** At most `max_connections` connections are open; more wait in the operating
//! system's queue, none is dropped. A connection that begins no request for [`IDLE`] is closed,
//! whether it is silent or sends a head byte by byte. On shutdown nothing more is accepted,
//! connections are closed with the answer to their next request, idle ones after [`FAREWELL`], and
//! requests under way have [`DRAIN`] to end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime::Runtime;
use crate::runtime::watch;

use super::Service;

/// How long a connection may be without beginning a request. Longer than clients keep idle
/// connections, so that it is they who close them, and no request meets a closing door.
const IDLE: Duration = Duration::from_secs(120);

/// How long connections are kept on shutdown for the next request, which is answered and told that
/// the connection closes: one that was closed while a request was on its way to it leaves its client
/// not knowing. Clients under load ask again within it; for the others it is a moment.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long requests under way have to end on shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// How long to wait after a failed accept: most often the process is out of file descriptors, and
/// asking again at once would burn a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A connection's read buffer grows to this at most, in bytes: the head of a request with the
/// longest key, fully percent-encoded, fits many times.
const MAX_BUFFER_BYTES: usize = 128 << 10;

/// What connections are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serve,
    /// End after the next request.
    Farewell,
    /// End after the request under way.
    Drain,
    /// End now.
    Drop,
}

/// Serves until `shutdown` is done, and then until requests under way have ended.
pub async fn serve(service: Service, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let runtime = service.shared.api.runtime.clone();
    let max_connections = service.shared.api.settings.limits.max_connections;
    let room = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    let (phase, watched) = watch::channel(Phase::Serve);
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, permit) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&runtime, &listener, &room) => accepted,
        };
        serve_one(&runtime, &service, (stream, permit), &watched);
    }
    // Connections that wait to be accepted are closed too where the listener is: their clients may
    // have sent a request already, and would not know.
    while let Some(accepted) = accept(&runtime, &listener, &room).now_or_never() {
        serve_one(&runtime, &service, accepted, &watched);
    }
    drop((listener, watched));
    phase.send_replace(Phase::Farewell);
    if runtime.deadline(runtime.now() + FAREWELL, phase.closed()).await.is_none() {
        phase.send_replace(Phase::Drain);
    }
    // Every connection's task holds a receiver: closed means that all have ended.
    if runtime.deadline(runtime.now() + DRAIN, phase.closed()).await.is_none() {
        tracing::warn!("requests were still under way after {} s; dropped", DRAIN.as_secs());
        phase.send_replace(Phase::Drop);
        phase.closed().await;
    }
}

fn serve_one(
    runtime: &Runtime,
    service: &Service,
    (stream, permit): (TcpStream, Option<OwnedSemaphorePermit>),
    phase: &watch::Receiver<Phase>,
) {
    let connection = connection(runtime.clone(), service.clone(), stream, phase.clone());
    runtime.spawn(async move {
        connection.await;
        drop(permit);
    });
}

/// Waits for room, and then for a connection.
async fn accept(
    runtime: &Runtime,
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so a permit always comes.
    let permit = room.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                runtime.sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// What a connection did so far, for the eye that is kept on it.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    ended: AtomicU64,
}

async fn connection(
    runtime: Runtime,
    service: Service,
    stream: TcpStream,
    mut phase: watch::Receiver<Phase>,
) {
    // An answer that waits for an acknowledgement costs 40 ms; failing to say so costs only that.
    let _ = stream.set_nodelay(true);
    let progress = Arc::new(Progress::default());
    let told = phase.clone();
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        let (service, progress, told) = (&service, &progress, &told);
        progress.begun.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut response = service.answer(request).await;
            if *told.borrow() != Phase::Serve {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            progress.ended.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    // Our own eye on idle connections costs one counter a request; hyper's timer, a timer each.
    builder.header_read_timeout(None).max_buf_size(MAX_BUFFER_BYTES);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let mut idle = pin!(idle(&runtime, &progress));
    loop {
        tokio::select! {
            biased;
            // An error here is the client's doing: it went away, or sent what is no HTTP.
            _ = &mut served => return,
            () = &mut idle => return,
            changed = phase.changed() => {
                let now = *phase.borrow_and_update();
                match (changed, now) {
                    (Ok(()), Phase::Serve | Phase::Farewell) => {}
                    (Ok(()), Phase::Drain) => served.as_mut().graceful_shutdown(),
                    (Ok(()), Phase::Drop) | (Err(_), _) => return,
                }
            }
        }
    }
}

/// Ends once no request began, and none was under way, for [`IDLE`].
async fn idle(runtime: &Runtime, progress: &Progress) {
    let mut seen = 0;
    loop {
        runtime.sleep(IDLE).await;
        let begun = progress.begun.load(Ordering::Relaxed);
        if begun == seen && progress.ended.load(Ordering::Relaxed) == begun {
            return;
        }
        seen = begun;
    }
}
