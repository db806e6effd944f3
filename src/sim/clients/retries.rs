//! Writes under an `Idempotency-Key`, sent again until the client knows what became of them.
//!
//! **Why it exists.** A key promises that a write takes effect once, however often and through
//! whichever nodes it is sent. So a client that holds one asks again where the answer was lost or
//! unknown, and also where the write was refused for now, which leaves its key free for it. Its
//! history has one operation, from the first question to the last answer: where a retry was applied
//! anew, the checks of the history see a write that shows twice.
//!
//! **What is looked at here** is what no history shows. A write whose fate the client knows is sent
//! again much later, and must be answered as it was the first time; a key is used for another
//! request, and that must be refused. Neither is in the history, since neither may do anything: what
//! they do all the same shows as a value from nowhere, or as one that was applied twice.
//!
//! **Why an answer may stay unknown.** Once one try may have happened, "not applied" speaks of the
//! later try alone: only what the state machine itself answers, 204 or 412, says what became of the
//! write. Keys are remembered for longer than a world lasts, however its clocks run.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::{Client, Turn, expiring};
use crate::api::headers::IDEMPOTENCY_KEY;
use crate::history::{Action, Ended, Op};
use crate::sim::request::{Answer, Page, judge_reuse, read_answer, request_of, send};
use crate::types::{Level, NodeId, Version};

/// How often a write is sent at most.
const TRIES: u32 = 4;

/// How long a client waits before it sends a write again, in milliseconds.
const PAUSE_MS: u64 = 300;

/// How many of a hundred retries go through the same node again.
const SAME_NODE: u64 = 40;

/// How many of a hundred turns of a client with keys send a write again whose fate it knows, and
/// how many use its key for another request.
const REPEATS: u64 = 5;
const REUSES: u64 = 2;

/// How many writes a client can send again. Where it knows more, a new one takes the place of any, so
/// that some are old: older than a snapshot that a node has installed since.
const MOST_KNOWN: usize = 16;

/// The keys of one client.
#[derive(Default)]
pub(super) struct Keys {
    next: u32,
    /// Writes whose fate the client was told.
    known: Vec<Known>,
}

/// A write as it was asked for, and the answer that decided it.
#[derive(Clone)]
struct Known {
    name: String,
    asked: Op,
    body: Vec<u8>,
    ttl_ms: Option<u64>,
    told: (u16, Option<Version>),
}

/// What a request under a key carries beside its operation.
#[derive(Clone, Copy)]
struct Carried<'a> {
    body: &'a [u8],
    ttl_ms: Option<u64>,
}

/// Whether the state machine itself has answered: it applied the write, or its condition failed.
fn is_decided(told: &Op) -> bool {
    told.ended == Ended::Ok || told.status == StatusCode::PRECONDITION_FAILED.as_u16()
}

impl Client<'_> {
    /// Makes a write under a key of its own, and gives it as one operation.
    pub(super) async fn ask_under_a_key(&mut self, turn: Turn) -> Op {
        let Turn { op: asked, body, ttl_ms, .. } = turn;
        let carried = Carried { body: &body, ttl_ms };
        let name = self.next_name();
        let mut told = asked.clone();
        let mut node = NodeId(asked.node);
        let mut may_have_happened = false;
        for attempt in 0..TRIES {
            if attempt > 0 {
                self.shared.runtime.sleep(Duration::from_millis(self.below(PAUSE_MS))).await;
                node = if self.chance(SAME_NODE) { node } else { self.any_node() };
                self.shared.happened("client: retry under its idempotency key");
            }
            let answered = self.try_under(&name, &asked, carried, node).await;
            let decided = is_decided(&answered);
            if decided && attempt > 0 {
                self.shared.happened(match may_have_happened {
                    true => "client: retry told what became of the write",
                    false => "client: refused write done by its retry",
                });
            }
            // "Not applied" speaks of this try alone.
            if decided || answered.ended == Ended::Unknown || !may_have_happened {
                told = answered;
            }
            may_have_happened |= told.ended == Ended::Unknown;
            if decided {
                break;
            }
        }
        told.answered_us = self.shared.stamp_us();
        self.note_expiry(&told, ttl_ms);
        if is_decided(&told) {
            self.keep(Known { name, asked, body, ttl_ms, told: (told.status, told.version) });
        }
        told
    }

    /// Now and then, in place of another turn: a write whose fate the client knows is sent again, or
    /// its key is used for another request. False where it is another turn's time.
    pub(super) async fn return_to_a_key(&mut self, node: NodeId) -> bool {
        let known = self.retries.as_ref().map_or(0, |keys| keys.known.len());
        if known == 0 {
            return false;
        }
        let choice = self.below(100);
        if choice >= REPEATS + REUSES {
            return false;
        }
        let picked = self.below(known as u64) as usize;
        let known = self.retries.as_ref().and_then(|keys| keys.known.get(picked).cloned());
        let Some(known) = known else { return false };
        if choice < REPEATS {
            self.repeat(known, node).await;
        } else {
            self.reuse(known, node).await;
        }
        true
    }

    /// Sends a write again whose fate is known: it must be told the same.
    async fn repeat(&mut self, known: Known, node: NodeId) {
        let carried = Carried { body: &known.body, ttl_ms: known.ttl_ms };
        let told = self.try_under(&known.name, &known.asked, carried, node).await;
        if !is_decided(&told) {
            return;
        }
        if (told.status, told.version) == known.told {
            self.shared.happened("client: remembered answer given again");
            return;
        }
        let in_words = |(status, version): (u16, Option<Version>)| {
            format!(
                "{status} {}",
                version.map_or("without a version".to_owned(), |v| v.to_string())
            )
        };
        let sentence = format!(
            "{} {} under the key {} was answered {}, and sent again through {node}: {}",
            known.asked.action,
            known.asked.key,
            known.name,
            in_words(known.told),
            in_words((told.status, told.version))
        );
        self.shared.broken("retry-answered-anew", sentence);
    }

    /// Uses a key for another request, which must be refused.
    async fn reuse(&mut self, known: Known, node: NodeId) {
        let key = self.keys[self.below(self.keys.len() as u64) as usize].clone();
        let level = Level::default_for(self.shared.plan.mode);
        let now_us = self.shared.stamp_us();
        let mut op = Op::begun(self.id, Action::Put, key, node.0, level, now_us);
        let mut body = Vec::new();
        // No other write has this value, so it is another request, and would show as from nowhere.
        self.fill(&mut op, &mut body);
        let carried = Carried { body: &body, ttl_ms: None };
        let Some(answer) = self.send_under(&known.name, &op, carried, node).await else { return };
        match judge_reuse(op, &answer) {
            Ok(true) => self.shared.happened("client: reused idempotency key refused"),
            Ok(false) => {}
            Err(problem) => {
                let problem = format!("the key {} used again: {problem}", known.name);
                self.shared.broken("reused-key-accepted", problem);
            }
        }
    }

    /// One try of a write under a key, and what it was told.
    async fn try_under(
        &mut self,
        name: &str,
        asked: &Op,
        carried: Carried<'_>,
        node: NodeId,
    ) -> Op {
        let mut told = Op { node: node.0, ..asked.clone() };
        if let Some(answer) = self.send_under(name, asked, carried, node).await
            && let Err(problem) = read_answer(&mut told, &answer)
        {
            self.shared.broken("contradictory-answer", problem);
        }
        let ended = format!("{:?}", told.ended).to_lowercase();
        self.shared.say(format_args!(
            "client {} {} {} under the key {name} at {node}: {ended} {}",
            self.id, told.action, told.key, told.status
        ));
        told
    }

    async fn send_under(
        &mut self,
        name: &str,
        op: &Op,
        carried: Carried<'_>,
        node: NodeId,
    ) -> Option<Answer> {
        let (timeout, patience) = self.patience(false);
        let request = request_of(op, carried.body.to_vec(), None, timeout, &Page::default());
        let header = HeaderValue::from_str(name).map_err(|error| error.to_string());
        match request.and_then(|request| Ok((request, header?))) {
            Ok((mut request, header)) => {
                request.headers_mut().insert(IDEMPOTENCY_KEY, header);
                expiring(&mut request, carried.ttl_ms);
                Some(send(self.shared, node, request, patience).await)
            }
            Err(problem) => {
                self.shared.broken("no-request", problem);
                None
            }
        }
    }

    /// A name that no other write has.
    fn next_name(&mut self) -> String {
        let number = self.retries.as_mut().map_or(0, |keys| {
            keys.next += 1;
            keys.next
        });
        format!("{}-{number}", self.id)
    }

    fn keep(&mut self, known: Known) {
        let place = self.below(MOST_KNOWN as u64) as usize;
        let Some(keys) = &mut self.retries else { return };
        if keys.known.len() < MOST_KNOWN {
            keys.known.push(known);
        } else if let Some(older) = keys.known.get_mut(place) {
            *older = known;
        }
    }
}
