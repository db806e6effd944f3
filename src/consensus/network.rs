//! openraft's network over the peer links.
//!
//! Entries go by the bulk lane, in order and several requests at a time; heartbeats, votes and
//! transfers go by the control lane, where no data holds them up. Every method of openraft's trait
//! is here on purpose: its defaults send one request at a time, and grant pre-votes unasked.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesOrdered, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};

use super::codec;
use super::messages::{TransferAnswer, TransferMessage, VoteMessage};
use super::raft_types::{LogId, TypeConfig, Vote};
use super::snapshot_sender::Sender;
use super::state_machine::SnapshotData;
use crate::config::LeaderSettings;
use crate::peer::{Lane, PeerError, Request, Service, SharedTransport};
use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::types::NodeId;

/// Requests to append that are on their way to one follower at once. Enough to keep a link and a
/// disk busy at the same time; more only makes each of them smaller.
const APPEND_WINDOW: usize = 8;

/// How many election timeouts a request to append may take. A follower's disk may be slow without
/// the follower being gone; a broken link is told at once and does not wait for this.
const APPEND_TIMEOUT_ELECTIONS: u32 = 4;

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// Makes links for openraft.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) runtime: Runtime,
    pub(super) transport: SharedTransport,
    pub(super) append_timeout: Duration,
}

impl Network {
    pub(super) fn new(
        runtime: Runtime,
        transport: SharedTransport,
        settings: &LeaderSettings,
    ) -> Network {
        let append_timeout = settings.election_timeout_max * APPEND_TIMEOUT_ELECTIONS;
        Network { runtime, transport, append_timeout }
    }

    fn link(&self, to: NodeId, heartbeats: bool) -> Link {
        Link { network: self.clone(), to, heartbeats }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: NodeId, _node: &BasicNode) -> Link {
        self.link(to, false)
    }

    async fn new_heartbeat_client(&mut self, to: NodeId, _node: &BasicNode) -> Link {
        self.link(to, true)
    }

    async fn new_snapshot_client(&mut self, to: NodeId, _node: &BasicNode) -> Link {
        self.link(to, false)
    }
}

/// The way to one node.
pub(super) struct Link {
    network: Network,
    to: NodeId,
    heartbeats: bool,
}

type Answer = BoxFuture<'static, Result<Bytes, PeerError>>;

impl Link {
    /// Queues a request at once; the answer may be waited for later.
    pub(super) fn call(
        &self,
        lane: Lane,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> Answer {
        let deadline = self.network.runtime.now() + timeout;
        let request = Request { to: self.to, lane, service, epoch: None, deadline, body };
        self.network.transport.call(request)
    }

    fn append(&self, request: AppendEntriesRequest<TypeConfig>, timeout: Duration) -> Pending {
        let prev = request.prev_log_id;
        let last = request.entries.last().map_or(prev, |entry| Some(entry.log_id));
        let alone = self.heartbeats && request.entries.is_empty();
        let (lane, timeout) = match alone {
            true => (Lane::Control, timeout),
            false => (Lane::Bulk, self.network.append_timeout),
        };
        let answer = codec::encode_append(&request, alone)
            .map(|body| self.call(lane, Service::RaftAppend, body, timeout));
        Pending { prev, last, answer }
    }

    async fn ask<T, A>(&self, service: Service, message: &T, timeout: Duration) -> RpcResult<A>
    where
        T: serde::Serialize,
        A: serde::de::DeserializeOwned,
    {
        let body = codec::encode(message).map_err(|error| NetworkError::new(&error))?;
        let answer = self.call(Lane::Control, service, body, timeout).await.map_err(rpc_error)?;
        Ok(codec::decode("an answer", &answer).map_err(|error| NetworkError::new(&error))?)
    }
}

/// A request to append on its way.
struct Pending {
    prev: Option<LogId>,
    last: Option<LogId>,
    answer: std::io::Result<Answer>,
}

impl Pending {
    async fn response(self) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let answer = self.answer.map_err(|error| NetworkError::new(&error))?;
        let answer = answer.await.map_err(rpc_error)?;
        Ok(codec::decode("an answer to append", &answer)
            .map_err(|error| NetworkError::new(&error))?)
    }

    async fn result(self) -> RpcResult<StreamAppendResult<TypeConfig>> {
        let (prev, last) = (self.prev, self.last);
        let response = match self.response().await {
            Err(_) if planted::is(Bug::CommitWithoutQuorum) => AppendEntriesResponse::Success,
            response => response?,
        };
        match response {
            // Nothing conflicts with the beginning of the log: not an answer of ours.
            AppendEntriesResponse::Conflict if prev.is_none() => {
                Err(NetworkError::from_string("a conflict without a log id").into())
            }
            response => Ok(response.into_stream_result(prev, last)),
        }
    }
}

/// A failed call, as openraft tells them apart: `Unreachable` backs off, the other tries again.
pub(super) fn rpc_error(error: PeerError) -> RPCError<TypeConfig> {
    match error {
        PeerError::NotSent { .. } | PeerError::Refused { .. } => Unreachable::new(&error).into(),
        PeerError::NoAnswer { .. } => NetworkError::new(&error).into(),
    }
}

/// The requests of a stream, several on their way, the answers in order.
struct Pipeline<'a, S> {
    link: &'a Link,
    timeout: Duration,
    /// `None` once it ended, or once an answer ended the stream.
    requests: Option<S>,
    answers: FuturesOrdered<BoxFuture<'static, RpcResult<StreamAppendResult<TypeConfig>>>>,
}

impl<'a, S> Pipeline<'a, S>
where
    S: futures_util::Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    async fn next(mut self) -> Option<(RpcResult<StreamAppendResult<TypeConfig>>, Self)> {
        loop {
            let answer = match &mut self.requests {
                None => self.answers.next().await?,
                Some(_) if self.answers.len() >= APPEND_WINDOW => self.answers.next().await?,
                Some(requests) => tokio::select! {
                    biased;
                    Some(answer) = self.answers.next() => answer,
                    request = requests.next() => {
                        match request {
                            None => self.requests = None,
                            Some(request) => {
                                let pending = self.link.append(request, self.timeout);
                                // Else answers that nobody gave would come without end in no time.
                                let pause = planted::is(Bug::CommitWithoutQuorum)
                                    .then(|| self.link.network.runtime.clone());
                                self.answers.push_back(Box::pin(async move {
                                    let result = pending.result().await;
                                    if let Some(runtime) = pause {
                                        runtime.sleep(Duration::from_millis(1)).await;
                                    }
                                    result
                                }));
                            }
                        }
                        continue;
                    }
                },
            };
            if !matches!(answer, Ok(Ok(_))) {
                // An error ends the stream; what is still on its way answers nobody.
                self.requests = None;
                self.answers = FuturesOrdered::new();
            }
            return Some((answer, self));
        }
    }
}

type AppendStream<'s> = BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>;

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        self.append(request, option.hard_ttl()).response().await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<AppendStream<'s>>>
    where
        S: futures_util::Stream<Item = AppendEntriesRequest<TypeConfig>>
            + OptionalSend
            + Unpin
            + 'static,
    {
        let pipeline = Pipeline {
            link: self,
            timeout: option.hard_ttl(),
            requests: Some(input),
            answers: FuturesOrdered::new(),
        };
        let answers = futures_util::stream::unfold(pipeline, Pipeline::next).fuse().boxed();
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask(Service::RaftVote, &VoteMessage::Vote(request), option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask(Service::RaftVote, &VoteMessage::PreVote(request), option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Live(machine) = snapshot.snapshot else {
            return Err(NetworkError::from_string("a received snapshot is not sent on").into());
        };
        let named = snapshot.meta.last_log_id.map_or(0, |last| last.index);
        let sender = Sender::new(self, machine, vote, named);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sender.send() => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferAnswer> {
        let request = TransferMessage::Raft(request);
        self.ask(Service::RaftTransfer, &request, option.hard_ttl()).await
    }

    fn backoff(&self) -> Option<Backoff> {
        // The one in the settings.
        None
    }
}
