//! The client commands: `get`, `put`, `delete`, `list` and `health`.
//!
//! A value goes to standard output as it is. Everything said about it goes to standard error, so
//! that a pipe gets the value alone; `--output json` puts all of it into one JSON object instead.

use std::future::Future;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Exit, complain};
use crate::api::ttl;
use crate::client::{
    AnswerInfo, Client, ClientError, Found, ListItem, ListRequest, Options, ReadAnswer,
};
use crate::types::Outcome;

/// Where a node is looked for that was not named: where the first node of a cluster on this machine
/// listens by default.
const DEFAULT_NODE: &str = "127.0.0.1:7001";

/// What every client command takes.
#[derive(Args, Default)]
pub(super) struct Common {
    /// Nodes to ask: the next where one cannot be reached [env: QUORATE_NODES] [default: 127.0.0.1:7001]
    #[arg(long = "node", value_name = "HOST:PORT", value_delimiter = ',')]
    nodes: Vec<String>,
    /// How long the node may take, such as 500ms or 2s
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) timeout: Option<Duration>,
    /// text, or json for programs
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    #[default]
    Text,
    Json,
}

/// How consistent a request is to be.
#[derive(Args)]
struct LevelArgs {
    /// linearizable, lease, quorum or local; the mode's default where not given
    #[arg(long, value_parser = |text: &str| text.parse::<crate::types::Level>())]
    consistency: Option<crate::types::Level>,
    /// Replicas a read waits for (leaderless mode)
    #[arg(long)]
    r: Option<u16>,
    /// Replicas a write waits for (leaderless mode)
    #[arg(long)]
    w: Option<u16>,
}

/// How fresh a local read is to be.
#[derive(Args)]
struct FreshArgs {
    /// With --consistency local: show at least what was acknowledged longer ago than this, such as
    /// 500ms or 2s (leader mode)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    max_staleness: Option<Duration>,
}

/// What a write may demand of what is there, and its name.
#[derive(Args)]
struct ConditionArgs {
    /// Only where the key is at this version, or '*': holds anything
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    /// Only where the key is not at this version, or '*': holds nothing
    #[arg(long, value_name = "ETAG")]
    if_none_match: Option<String>,
    /// A name for this write: sent again under it, it is applied once (leader mode)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Args)]
pub(super) struct GetArgs {
    key: String,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct PutArgs {
    key: String,
    /// The value; standard input where neither it nor --file is given
    value: Option<String>,
    /// A file that holds the value
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
    /// What kind of value it is, such as text/plain
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// How long it is to hold, such as 30s, 10m or 7d; for good where not given
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct DeleteArgs {
    key: String,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: String,
    /// Fold keys that go on past this after the prefix, as folders
    #[arg(long)]
    delimiter: Option<String>,
    /// Stop after this many; all where not given
    #[arg(long)]
    limit: Option<usize>,
    /// Show values too
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct HealthArgs {
    /// The node to ask; where its clients are listened for (QUORATE_LISTEN), unless said
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
}

pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("", 1_000)];
    let of_unit = |(unit, millis)| text.strip_suffix(unit).map(|number| (number, millis));
    // The last unit, which is none, is every text's.
    let (number, millis) = units.into_iter().find_map(of_unit).unwrap_or_default();
    match number.parse::<u64>() {
        Ok(number) if number > 0 => Ok(Duration::from_millis(number.saturating_mul(millis))),
        _ => Err("expected a time such as 500ms, 2s, 5m or 1h".to_owned()),
    }
}

/// How long a put is to hold: what nodes take, too.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    ttl::parse(text).map(Duration::from_millis)
}

impl Common {
    fn client(&self) -> Result<Client, ClientError> {
        let named = std::env::var("QUORATE_NODES").ok().filter(|nodes| !nodes.is_empty());
        match (self.nodes.is_empty(), named) {
            (false, _) => Client::new(&self.nodes),
            (true, Some(named)) => Client::new(named.split(',').map(str::trim)),
            (true, None) => Client::new([DEFAULT_NODE]),
        }
    }

    fn options(&self, level: &LevelArgs) -> Options {
        Options {
            level: level.consistency,
            r: level.r,
            w: level.w,
            timeout: self.timeout,
            ..Options::default()
        }
    }
}

pub(super) fn get(args: &GetArgs) -> Exit {
    let options = fresh(args.common.options(&args.level), &args.fresh);
    run(&args.common, |client| async move {
        let ReadAnswer { found, info } = client.get(&args.key, &options).await?;
        let Found::Value { bytes, content_type, etag, expires } = found else {
            complain(format!("{}: no such key ({})", args.key, served(&info)));
            return Ok(Exit::NotFound);
        };
        if args.common.output == Output::Json {
            let (name, value) = match std::str::from_utf8(&bytes) {
                Ok(text) => ("value", text.to_owned()),
                Err(_) => ("value_base64", STANDARD.encode(&bytes)),
            };
            print_json(&json!({
                "key": args.key, name: value, "etag": etag, "content_type": content_type,
                "expires": expires, "consistency": info.consistency, "node": info.node,
            }));
            return Ok(Exit::Done);
        }
        let mut out = std::io::stdout();
        let written = out.write_all(&bytes);
        // A person's prompt should not stick to the value; a pipe gets exactly the value.
        let newline = out.is_terminal() && !bytes.ends_with(b"\n");
        let ended = if newline { out.write_all(b"\n") } else { Ok(()) };
        if let Err(error) = written.and(ended).and_then(|()| out.flush()) {
            complain(format!("cannot write the value: {error}"));
            return Ok(Exit::Failed);
        }
        if out.is_terminal() {
            let until = expires.map_or(String::new(), |at| format!(", expires {at}"));
            eprintln!("{etag} {content_type}{until}, {}", served(&info));
        }
        Ok(Exit::Done)
    })
}

pub(super) fn put(args: &PutArgs) -> Exit {
    let value = match (&args.value, &args.file) {
        (Some(value), _) => Ok(value.clone().into_bytes()),
        (None, Some(file)) => std::fs::read(file)
            .map_err(|error| format!("{}: cannot be read: {error}", file.display())),
        (None, None) => {
            let mut value = Vec::new();
            let read = std::io::stdin().read_to_end(&mut value);
            read.map(|_| value).map_err(|error| format!("cannot read standard input: {error}"))
        }
    };
    let value = match value {
        Ok(value) => value,
        Err(problem) => {
            complain(problem);
            return Exit::Failed;
        }
    };
    let options = conditional(args.common.options(&args.level), &args.condition);
    let options = Options { ttl: args.ttl, ..options };
    run_write(&args.common, |client| async move {
        let content_type = args.content_type.as_deref();
        let answer = client.put(&args.key, value.into(), content_type, &options).await?;
        written(&args.common, &args.key, "put", &answer.etag, &answer.info);
        Ok(Exit::Done)
    })
}

pub(super) fn delete(args: &DeleteArgs) -> Exit {
    let options = conditional(args.common.options(&args.level), &args.condition);
    run_write(&args.common, |client| async move {
        let answer = client.delete(&args.key, &options).await?;
        written(&args.common, &args.key, "deleted", &answer.etag, &answer.info);
        Ok(Exit::Done)
    })
}

fn fresh(options: Options, fresh: &FreshArgs) -> Options {
    Options { max_staleness: fresh.max_staleness, ..options }
}

fn conditional(options: Options, condition: &ConditionArgs) -> Options {
    let quoted = |tag: &Option<String>| {
        // Shells eat quotes: a bare version is taken as one too.
        tag.as_ref().map(|tag| match tag.as_str() {
            "*" => "*".to_owned(),
            tag if tag.starts_with('"') => tag.to_owned(),
            tag => format!("\"{tag}\""),
        })
    };
    Options {
        if_match: quoted(&condition.if_match),
        if_none_match: quoted(&condition.if_none_match),
        idempotency_key: condition.idempotency_key.clone(),
        ..options
    }
}

fn written(common: &Common, key: &str, what: &str, etag: &str, info: &AnswerInfo) {
    let superseded = info.superseded.map(|version| version.etag());
    if common.output == Output::Json {
        print_json(&json!({
            "key": key, "outcome": Outcome::Done.as_str(), "etag": etag,
            "superseded_by": superseded, "consistency": info.consistency, "node": info.node,
        }));
        return;
    }
    println!("{what} {key} {etag}");
    if let Some(version) = superseded {
        eprintln!("superseded: a newer version, {version}, was already there and stays");
    }
}

pub(super) fn list(args: &ListArgs) -> Exit {
    let options = fresh(args.common.options(&args.level), &args.fresh);
    run(&args.common, |client| async move {
        let mut left = args.limit.unwrap_or(usize::MAX);
        let mut cursor = None;
        while left > 0 {
            let page = ListRequest {
                prefix: args.prefix.clone(),
                delimiter: args.delimiter.clone(),
                // Pages of the node's own size, but never more than is still wanted.
                limit: (left < 100).then_some(left),
                cursor,
                with_values: args.values,
            };
            let (page, _) = client.list(&page, &options).await?;
            left = left.saturating_sub(page.items.len() + page.prefixes.len());
            page.prefixes.iter().for_each(|prefix| show_prefix(&args.common, prefix));
            page.items.iter().for_each(|item| show_item(args, item));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(Exit::Done)
    })
}

fn show_prefix(common: &Common, prefix: &str) {
    match common.output {
        Output::Json => print_json(&json!({ "prefix": prefix })),
        Output::Text => println!("{prefix}"),
    }
}

/// One line an item: the key alone where a program reads it, with what is known for a person.
fn show_item(args: &ListArgs, item: &ListItem) {
    let value = item.value.clone().or_else(|| item.value_base64.clone());
    if args.common.output == Output::Json {
        print_json(&json!({
            "key": item.key, "etag": item.etag, "size": item.size,
            "content_type": item.content_type, "value": item.value,
            "value_base64": item.value_base64,
        }));
    } else if let Some(value) = value {
        println!("{}\t{value}", item.key);
    } else if std::io::stdout().is_terminal() {
        println!("{}  {} bytes  {}", item.key, item.size, item.etag);
    } else {
        println!("{}", item.key);
    }
}

pub(super) fn health(args: &HealthArgs) -> Exit {
    // The port that this machine's own node listens on, whatever address it listens at.
    let own = || {
        let listen = std::env::var("QUORATE_LISTEN").ok()?;
        Some(format!("127.0.0.1:{}", listen.rsplit_once(':')?.1))
    };
    let node = args.node.clone().or_else(own).unwrap_or_else(|| DEFAULT_NODE.to_owned());
    let common = Common { nodes: vec![node], timeout: None, output: Output::Text };
    run(&common, |client| async move {
        client.ready().await?;
        println!("ready");
        Ok(Exit::Done)
    })
}

/// Runs a command that changes nothing, and says what went wrong.
pub(super) fn run<F>(common: &Common, command: impl FnOnce(Client) -> F) -> Exit
where
    F: Future<Output = Result<Exit, ClientError>>,
{
    match run_write(common, command) {
        // A read leaves nothing behind that could be unknown.
        Exit::Unknown => Exit::Failed,
        exit => exit,
    }
}

/// Runs a command that may change something, and says what went wrong.
pub(super) fn run_write<F>(common: &Common, command: impl FnOnce(Client) -> F) -> Exit
where
    F: Future<Output = Result<Exit, ClientError>>,
{
    let tokio = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(tokio) => tokio,
        Err(error) => {
            complain(format!("cannot start the runtime: {error}"));
            return Exit::Failed;
        }
    };
    let ended = tokio.block_on(async { command(common.client()?).await });
    ended.unwrap_or_else(|error| failed(common, &error))
}

fn failed(common: &Common, error: &ClientError) -> Exit {
    if common.output == Output::Json {
        let (code, detail) = match error {
            ClientError::Refused(problem) => (Some(&problem.code), problem.detail.clone()),
            other => (None, other.to_string()),
        };
        print_json(&json!({
            "status": error.status(), "code": code, "detail": detail,
            "outcome": error.outcome().as_str(),
        }));
    } else {
        complain(error);
    }
    match error {
        ClientError::BadRequest { .. } => Exit::Usage,
        _ if error.status() == Some(412) => Exit::PreconditionFailed,
        _ if error.status() == Some(400) => Exit::Usage,
        _ if error.outcome() == Outcome::Unknown => Exit::Unknown,
        _ => Exit::Failed,
    }
}

fn served(info: &AnswerInfo) -> String {
    let node = info.node.as_deref().unwrap_or("?");
    format!("{}, from node {node}", info.consistency.as_deref().unwrap_or("?"))
}

pub(super) fn print_json(value: &Value) {
    println!("{value}");
}

/// Says on a terminal what is waited for; nothing elsewhere.
pub(super) fn spinner() -> ProgressBar {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}
