//! The typed HTTP client: what the command line and the tests talk to nodes with.
//!
//! **Guarantees.** The three outcomes of a write stay apart: an answer, a failure after which the
//! write definitely did not happen, and a failure after which it may have
//! ([`ClientError::outcome`]). A request is sent to one node; only where no connection could be
//! made to it is the next address tried, so nothing is ever sent twice.
//!
//! **Does not** retry, follow redirects, cache, or use proxies: a store's client that quietly did
//! any of these would hide what it is there to show.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use serde::de::DeserializeOwned;

mod answer;
mod explain;
mod layout;
mod leadership;
mod members;
mod repair;
mod request;
mod views;

pub use answer::{AnswerInfo, ClientError, Problem};
pub use request::{ListRequest, Options};
pub use views::{
    ClusterView, ExplainView, LayoutChangeView, LayoutNodeView, LayoutPlanView, LayoutProgressView,
    LayoutView, LeaderView, ListItem, ListPage, MemberView, MembersView, PeerRepairView,
    PlannedNodeView, ReadView, RepairView, ReplicaView,
};

/// Where keys are.
const KEYS: &str = "/v1/kv/";

/// How long to try to connect to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for an answer where the request names no timeout of its own: twice what nodes
/// take at most by default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than its own timeout an answer may take on the way.
const TRAVEL_TIME: Duration = Duration::from_secs(1);

/// How long an unused connection is kept: less than nodes keep it, so that no request is sent into
/// a connection that the node is closing.
const KEEP_IDLE: Duration = Duration::from_secs(60);

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A client of one cluster, by the addresses of some of its nodes.
pub struct Client {
    http: reqwest::Client,
    /// `http://host:port`, in the order in which they are tried.
    endpoints: Vec<String>,
    /// Which endpoint was last connected to.
    current: AtomicUsize,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    pub found: Found,
    pub info: AnswerInfo,
}

/// When a value expires.
const EXPIRES: HeaderName = HeaderName::from_static("quorate-expires");

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Value {
        bytes: Bytes,
        content_type: String,
        /// As the header has it, quotes included.
        etag: String,
        /// When it expires, as an HTTP date; `None` where it never does.
        expires: Option<String>,
    },
    /// The key holds no value.
    Missing,
    /// It is still what `If-None-Match` named.
    NotModified { etag: String },
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteAnswer {
    /// The version that the write was given, as the header has it, quotes included.
    pub etag: String,
    pub info: AnswerInfo,
}

impl Client {
    /// A client for nodes at these addresses (`host:port` or `http://host:port`), the first first.
    pub fn new<I>(endpoints: I) -> Result<Client, ClientError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let endpoints: Result<Vec<_>, _> =
            endpoints.into_iter().map(|endpoint| request::endpoint(endpoint.as_ref())).collect();
        let endpoints = endpoints?;
        if endpoints.is_empty() {
            let problem = "no address of a node was given".to_owned();
            return Err(ClientError::BadRequest { problem });
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(KEEP_IDLE)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| ClientError::BadRequest { problem: error.to_string() })?;
        Ok(Client { http, endpoints, current: AtomicUsize::new(0) })
    }

    /// Reads a key.
    pub async fn get(&self, key: &str, options: &Options) -> Result<ReadAnswer, ClientError> {
        let path = request::key_path(KEYS, key)?;
        let request = Sent::new(Method::GET, path, options)?;
        let (endpoint, response) = self.send(request).await?;
        let info = AnswerInfo::of(response.headers());
        let etag = answer::etag(response.headers());
        let content_type = answer::text(response.headers(), &header::CONTENT_TYPE);
        let expires = answer::text(response.headers(), &EXPIRES);
        let status = response.status();
        let body = read_body(&endpoint, response).await?;
        let found = match status {
            StatusCode::OK => {
                let content_type = content_type.unwrap_or_default();
                Found::Value { bytes: body, content_type, etag, expires }
            }
            StatusCode::NOT_MODIFIED => Found::NotModified { etag },
            _ => match ClientError::of_answer(status, &body) {
                ClientError::Refused(problem) if problem.code == "no-such-key" => Found::Missing,
                error => return Err(error),
            },
        };
        Ok(ReadAnswer { found, info })
    }

    /// Puts a value.
    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        content_type: Option<&str>,
        options: &Options,
    ) -> Result<WriteAnswer, ClientError> {
        let mut request = Sent::new(Method::PUT, request::key_path(KEYS, key)?, options)?;
        if let Some(content_type) = content_type {
            let value = request::header_value("Content-Type", content_type)?;
            request.headers.insert(header::CONTENT_TYPE, value);
        }
        request.body = value;
        self.write(request).await
    }

    /// Deletes a key, whether or not it holds a value.
    pub async fn delete(&self, key: &str, options: &Options) -> Result<WriteAnswer, ClientError> {
        self.write(Sent::new(Method::DELETE, request::key_path(KEYS, key)?, options)?).await
    }

    /// Lists a page of keys.
    pub async fn list(
        &self,
        list: &ListRequest,
        options: &Options,
    ) -> Result<(ListPage, AnswerInfo), ClientError> {
        let mut request = Sent::new(Method::GET, "/v1/kv".to_owned(), options)?;
        request.query.extend(list.query());
        self.json(request).await
    }

    /// The cluster as the node that is asked sees it.
    pub async fn cluster_status(&self) -> Result<ClusterView, ClientError> {
        let request = Sent::new(Method::GET, "/v1/cluster".to_owned(), &Options::default())?;
        Ok(self.json(request).await?.0)
    }

    /// The same, given up after `within`.
    pub async fn cluster_status_within(
        &self,
        within: Duration,
    ) -> Result<ClusterView, ClientError> {
        let mut request = Sent::new(Method::GET, "/v1/cluster".to_owned(), &Options::default())?;
        request.timeout = within;
        Ok(self.json(request).await?.0)
    }

    /// Whether the node that is asked can serve; [`ClientError::Refused`] says why not.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.text("/readyz").await.map(drop)
    }

    /// The node's counters, in the Prometheus text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        self.text("/metrics").await
    }

    async fn write(&self, request: Sent) -> Result<WriteAnswer, ClientError> {
        let (endpoint, response) = self.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            let (etag, info) =
                (answer::etag(response.headers()), AnswerInfo::of(response.headers()));
            return Ok(WriteAnswer { etag, info });
        }
        Err(failed(&endpoint, response).await)
    }

    async fn text(&self, path: &str) -> Result<String, ClientError> {
        let request = Sent::new(Method::GET, path.to_owned(), &Options::default())?;
        let (endpoint, response) = self.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(failed(&endpoint, response).await);
        }
        let body = read_body(&endpoint, response).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: Sent,
    ) -> Result<(T, AnswerInfo), ClientError> {
        let (endpoint, response) = self.send(request).await?;
        let status = response.status();
        if status != StatusCode::OK && status != StatusCode::ACCEPTED {
            return Err(failed(&endpoint, response).await);
        }
        let info = AnswerInfo::of(response.headers());
        let body = read_body(&endpoint, response).await?;
        let view = serde_json::from_slice(&body).map_err(|error| ClientError::Strange {
            status: status.as_u16(),
            problem: format!("the answer is not what was expected: {error}"),
        })?;
        Ok((view, info))
    }

    /// Sends a request to the node last connected to, or to the next where there is no connection.
    async fn send(&self, request: Sent) -> Result<(String, Response), ClientError> {
        let target = request.target();
        let first = self.current.load(Ordering::Relaxed);
        let mut unreachable = Vec::new();
        for step in 0..self.endpoints.len() {
            let index = (first + step) % self.endpoints.len();
            let endpoint = &self.endpoints[index];
            let sent = self
                .http
                .request(request.method.clone(), format!("{endpoint}{target}"))
                .headers(request.headers.clone())
                .timeout(request.timeout)
                .body(request.body.clone())
                .send();
            match sent.await {
                Ok(response) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((endpoint.clone(), response));
                }
                // No connection, so not one byte of the request went out.
                Err(error) if error.is_connect() || error.is_builder() => {
                    unreachable.push(format!("{endpoint}: {}", answer::innermost(&error)));
                }
                Err(error) => return Err(ClientError::no_answer(endpoint, &error)),
            }
        }
        Err(ClientError::NotSent { reason: unreachable.join("; ") })
    }
}

/// A request, ready to go to any endpoint.
struct Sent {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap<HeaderValue>,
    body: Bytes,
    timeout: Duration,
}

impl Sent {
    fn new(method: Method, path: String, options: &Options) -> Result<Sent, ClientError> {
        Ok(Sent {
            method,
            path,
            query: options.query(),
            headers: options.headers()?,
            body: Bytes::new(),
            timeout: options.timeout.map_or(ANSWER_TIMEOUT, |timeout| timeout + TRAVEL_TIME),
        })
    }

    fn target(&self) -> String {
        request::with_query(&self.path, &self.query)
    }
}

/// The failure that an answer other than success spells.
async fn failed(endpoint: &str, response: Response) -> ClientError {
    let status = response.status();
    match read_body(endpoint, response).await {
        Ok(body) => ClientError::of_answer(status, &body),
        // The status came, and says enough.
        Err(_) => ClientError::of_answer(status, &[]),
    }
}

async fn read_body(endpoint: &str, mut response: Response) -> Result<Bytes, ClientError> {
    let status = response.status().as_u16();
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                let problem = format!("the answer has more than {MAX_ANSWER_BYTES} bytes");
                return Err(ClientError::Strange { status, problem });
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err(ClientError::no_answer(endpoint, &error)),
        }
    }
}
