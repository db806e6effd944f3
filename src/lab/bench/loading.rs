//! Writing every key before anything is measured, in batches, since a million keys one by one take
//! minutes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;

use super::worker::TIMEOUT;
use crate::history::ValueId;
use crate::lab::http::Connection;
use crate::lab::workload::write_key;
use crate::runtime::Runtime;

/// How many batches are under way at a time.
const LOADERS: usize = 8;
/// A batch holds as many operations as nodes take by default, and not many more bytes than this.
const MAX_BATCH_OPERATIONS: usize = 128;
const MAX_BATCH_BYTES: usize = 2 << 20;
/// How often a batch is tried, and the pause before the next try.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// What to write.
#[derive(Clone, Debug)]
pub struct Loading {
    pub nodes: Vec<(u16, std::net::SocketAddr)>,
    /// Of the keys' names; a number follows.
    pub prefix: String,
    pub keys: usize,
    pub value_bytes: usize,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<OneResult>,
}

#[derive(Deserialize)]
struct OneResult {
    status: u16,
}

/// Writes every key once; fails where one could not be.
pub async fn load(runtime: &Runtime, loading: Loading) -> anyhow::Result<()> {
    let loading = Arc::new(loading);
    let loader = |number| {
        let (runtime, loading) = (runtime.clone(), loading.clone());
        runtime.clone().spawn(async move { load_part(&runtime, &loading, number).await })
    };
    let loaders: Vec<_> = (0..LOADERS).map(loader).collect();
    for loader in loaders {
        loader.await??;
    }
    Ok(())
}

async fn load_part(runtime: &Runtime, loading: &Loading, number: usize) -> anyhow::Result<()> {
    let nodes = &loading.nodes;
    let (_, address) = nodes[number % nodes.len()];
    let mut connection = Connection::new(runtime.clone(), address, TIMEOUT);
    let at_once = (MAX_BATCH_BYTES / loading.value_bytes).clamp(1, MAX_BATCH_OPERATIONS);
    let mut body = String::new();
    for first in (number * at_once..loading.keys).step_by(LOADERS * at_once) {
        let last = (first + at_once).min(loading.keys);
        write_batch(&mut body, loading, first..last);
        let mut tries = 0;
        while let Err(problem) = send(&mut connection, &body).await {
            tries += 1;
            if tries == TRIES {
                bail!("the keys could not be loaded: {address}: {problem}");
            }
            runtime.sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// The body of a batch that puts these keys.
fn write_batch(body: &mut String, loading: &Loading, numbers: std::ops::Range<usize>) {
    let mut value = Vec::new();
    body.clear();
    body.push_str("{\"operations\":[");
    for number in numbers.clone() {
        if number > numbers.start {
            body.push(',');
        }
        body.push_str("{\"op\":\"put\",\"key\":\"");
        write_key(body, &loading.prefix, number);
        ValueId { client: 0, seq: number as u32 }.fill(loading.value_bytes, &mut value);
        value.truncate(loading.value_bytes);
        body.push_str("\",\"value\":\"");
        // Values of loads are letters, digits and a dot: JSON takes them as they are.
        body.push_str(&String::from_utf8_lossy(&value));
        body.push_str("\"}");
    }
    body.push_str("]}");
}

async fn send(connection: &mut Connection, body: &str) -> Result<(), String> {
    let answer = connection.call("POST", "/v1/batch", body.as_bytes()).await;
    let answer = answer.map_err(|failure| failure.to_string())?;
    if answer.status != 200 {
        return Err(crate::lab::answers::code_of(answer.status, answer.body));
    }
    let results: Results =
        serde_json::from_slice(answer.body).map_err(|error| format!("not a batch: {error}"))?;
    match results.results.iter().find(|result| result.status != 204) {
        Some(refused) => Err(format!("a put in a batch was answered {}", refused.status)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_json_with_a_key_and_a_value_of_the_right_size_each() {
        let loading =
            Loading { nodes: Vec::new(), prefix: "bench-20".to_owned(), keys: 10, value_bytes: 20 };
        let mut body = "old".to_owned();
        write_batch(&mut body, &loading, 7..9);
        let batch: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let operations = batch["operations"].as_array().expect("operations");
        let keys: Vec<_> = operations.iter().map(|one| one["key"].as_str()).collect();
        assert_eq!(keys, [Some("bench-20-000007"), Some("bench-20-000008")]);
        assert!(operations.iter().all(|one| one["value"].as_str().map(str::len) == Some(20)));
    }
}
