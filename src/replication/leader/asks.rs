//! Where a leader answers its followers' questions for a read index on their own word.
//!
//! **Why it exists.** A question says whom the follower stood by when it sent it (see `vouches`); where
//! the follower and this node are a majority, the answer needs no other node, and no heartbeat. Where
//! that will not do, the question joins the next round of the gate, which asks a majority.
//!
//! **Bounds.** [`MAX_ASKS`] questions wait at once; they are looked at together.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Context;
use super::forward::{ReadIndexAnswer, Word};
use super::gate::{ReadGate, answer};
use super::group::Group;
use crate::peer::Inbound;

/// Questions that wait to be looked at; each node has one under way, and perhaps some given up.
const MAX_ASKS: usize = 1_024;

/// In a group of more nodes one follower and the leader are no majority, so that its word is not
/// looked at: three voters, and a node that is joining them.
const MOST_NODES: usize = 4;

/// See the module.
pub struct Asks<G> {
    context: Arc<Context<G>>,
    /// The gate of reads that a majority confirms.
    gate: Arc<ReadGate<G>>,
    waiting: Mutex<Vec<Ask>>,
    wake: Notify,
}

struct Ask {
    word: Word,
    inbound: Inbound,
}

impl<G: Group> Asks<G> {
    pub fn new(context: Arc<Context<G>>, gate: Arc<ReadGate<G>>) -> Asks<G> {
        Asks { context, gate, waiting: Mutex::default(), wake: Notify::new() }
    }

    /// Takes a question. Must not block.
    pub fn take(&self, word: Option<Word>, inbound: Inbound) {
        let leads = self.context.group.leader() == Some(self.context.node);
        let Some(word) = word.filter(|_| leads && self.context.group.nodes() <= MOST_NODES) else {
            return self.gate.take(inbound);
        };
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_ASKS {
            drop(waiting);
            return inbound.reply.refuse("too many read indexes are being asked for");
        }
        waiting.push(Ask { word, inbound });
        drop(waiting);
        self.wake.notify_one();
    }

    /// Answers questions, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let asks = std::mem::take(&mut *self.waiting.lock());
            match asks.is_empty() {
                true => self.wake.notified().await,
                false => self.answer(asks).await,
            }
        }
    }

    async fn answer(&self, asks: Vec<Ask>) {
        let words = asks.iter().map(|ask| (ask.inbound.from, ask.word.allegiance)).collect();
        let vouched = self.context.group.vouched(words).await;
        let vouches = &self.context.vouches;
        for Ask { word, inbound } in asks {
            let vouched = vouched.as_ref().filter(|it| it.by.contains(&inbound.from));
            let Some(index) = vouched.map(|it| it.index) else {
                self.gate.take(inbound);
                continue;
            };
            self.context.metrics.read_indexes_by_word.inc();
            let now = self.context.runtime.now();
            vouches.vouch(vouches.covered(word.heard, now), index);
            answer(inbound.reply, &ReadIndexAnswer::ByWord { index, stamp: vouches.stamp(now) });
        }
    }
}
