//! `quorate explain`: what each replica holds of a key, who is behind, and what reads would return.

use clap::Args;
use serde_json::json;

use super::Exit;
use super::client::{Common, Output, print_json, run};
use crate::client::{ExplainView, Options, ReadView, ReplicaView};

#[derive(Args)]
pub(super) struct ExplainArgs {
    key: String,
    /// Replicas that the read in question waits for (leaderless mode)
    #[arg(long)]
    r: Option<u16>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn explain(args: &ExplainArgs) -> Exit {
    let options = Options { r: args.r, timeout: args.common.timeout, ..Options::default() };
    run(&args.common, |client| async move {
        let view = client.explain(&args.key, &options).await?;
        match args.common.output {
            Output::Json => print_json(&json!(view)),
            Output::Text => print(&view),
        }
        let held = view.replicas.iter().any(|replica| replica.etag.is_some());
        let answered = view.replicas.iter().any(|replica| replica.error.is_none());
        Ok(match (held, answered) {
            (true, _) => Exit::Done,
            (false, true) => Exit::NotFound,
            (false, false) => Exit::Failed,
        })
    })
}

fn print(view: &ExplainView) {
    println!("{}: partition {}, {} replicas", view.key, view.partition, view.replicas.len());
    println!("{:<6} {:<26} {:<10} {:>10}  standing", "node", "version", "holds", "bytes");
    for replica in &view.replicas {
        let version = replica.etag.as_deref().unwrap_or("-");
        let bytes = replica.size.map_or("-".to_owned(), |size| size.to_string());
        let (holds, standing) = (holds(replica), standing(replica));
        println!("{:<6} {version:<26} {holds:<10} {bytes:>10}  {standing}", replica.node);
    }
    let is_gone = |etag: &str| {
        let mut gone = view.replicas.iter().filter(|replica| replica.tombstone == Some(true));
        gone.any(|replica| replica.etag.as_deref() == Some(etag))
    };
    view.reads.iter().for_each(|read| println!("a read at {}", would(read, is_gone)));
}

fn holds(replica: &ReplicaView) -> &'static str {
    match (&replica.error, replica.tombstone) {
        (Some(_), _) => "unknown",
        (None, None) => "nothing",
        (None, Some(false)) => "a value",
        (None, Some(true)) if replica.expires_at_ms.is_some() => "expired",
        (None, Some(true)) => "tombstone",
    }
}

fn standing(replica: &ReplicaView) -> String {
    if let Some(error) = &replica.error {
        return error.clone();
    }
    let behind = match (replica.behind, replica.lag_ms) {
        (Some(true), Some(lag_ms)) => format!("behind, by {lag_ms} ms of version time"),
        (Some(true), None) => "behind, has nothing".to_owned(),
        _ => "up to date".to_owned(),
    };
    match replica.lag_entries {
        Some(lag @ 1..) => format!("{behind}; {lag} entries of the log to apply"),
        _ => behind,
    }
}

/// `is_gone` says whether a version is one that the key was deleted at, or that expired.
fn would(read: &ReadView, is_gone: impl Fn(&str) -> bool) -> String {
    if let Some(error) = &read.error {
        return format!("{} would fail: {error}", read.consistency);
    }
    let name = |version: &Option<String>| match version {
        Some(etag) if is_gone(etag) => format!("nothing (gone at {etag})"),
        Some(etag) => etag.clone(),
        None => "nothing".to_owned(),
    };
    let names: Vec<String> = read.may_return.iter().map(name).collect();
    match names.as_slice() {
        [one] => format!("{} would return {one}", read.consistency),
        several => {
            let several = several.join(" or ");
            format!("{} would return {several}: whoever answers first", read.consistency)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(may_return: &[Option<&str>]) -> ReadView {
        ReadView {
            consistency: "local".to_owned(),
            may_return: may_return.iter().map(|etag| etag.map(str::to_owned)).collect(),
            error: None,
        }
    }

    #[test]
    fn what_a_read_would_do_is_said_in_words() {
        let would = |read: &ReadView| would(read, |etag| etag == "\"9\"");
        assert_eq!(would(&read(&[Some("\"1\"")])), "local would return \"1\"");
        assert_eq!(would(&read(&[Some("\"9\"")])), "local would return nothing (gone at \"9\")");
        assert_eq!(would(&read(&[None])), "local would return nothing");
        let either = would(&read(&[Some("\"1\""), None]));
        assert_eq!(either, "local would return \"1\" or nothing: whoever answers first");
        let fails = ReadView { error: Some("no leader is known".to_owned()), ..read(&[]) };
        assert_eq!(would(&fails), "local would fail: no leader is known");
    }

    #[test]
    fn a_replica_is_up_to_date_behind_or_not_heard_from() {
        let replica = |etag: Option<&str>, behind, lag_ms, error: Option<&str>| ReplicaView {
            node: 1,
            etag: etag.map(str::to_owned),
            tombstone: etag.map(|_| false),
            size: etag.map(|_| 3),
            expires_at_ms: None,
            behind,
            lag_ms,
            lag_entries: None,
            error: error.map(str::to_owned),
        };
        assert_eq!(standing(&replica(Some("x"), Some(false), Some(0), None)), "up to date");
        let late = replica(Some("x"), Some(true), Some(20), None);
        assert_eq!(standing(&late), "behind, by 20 ms of version time");
        let lacking = replica(None, Some(true), None, None);
        assert_eq!(
            (standing(&lacking).as_str(), holds(&lacking)),
            ("behind, has nothing", "nothing")
        );
        assert_eq!(standing(&replica(None, None, None, Some("it is down"))), "it is down");
        let applying = ReplicaView { lag_entries: Some(4), ..late };
        assert!(standing(&applying).ends_with("4 entries of the log to apply"));
    }
}
