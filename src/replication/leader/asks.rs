//! Where a leader answers its followers' questions for a read index on their own word.
//!
//! **Why it exists.** A question says whom the follower stood by when it sent it (see `vouches`); where
//! the follower and this node are a majority, the answer needs no other node, and no heartbeat. Where
//! that will not do, the question joins the next round of the gate, which asks a majority.
//!
//! **Bounds.** As many questions are looked at as openraft takes calls; beyond that they go unanswered,
//! and are asked again.

use std::sync::Arc;

use super::Context;
use super::forward::{ReadIndexAnswer, Word};
use super::gate::{ReadGate, answer};
use super::group::Group;
use crate::peer::Inbound;

/// In a group of more nodes one follower and the leader are no majority, so that its word is not
/// looked at: three voters, and a node that is joining them.
const MOST_NODES: usize = 4;

/// Takes a question. `gate` is that of reads that a majority confirms. Must not block.
pub fn take<G: Group>(
    context: &Arc<Context<G>>,
    gate: &Arc<ReadGate<G>>,
    word: Option<Word>,
    inbound: Inbound,
) {
    let group = &context.group;
    let leads = group.leader() == Some(context.node);
    let Some(word) = word.filter(|_| leads && group.nodes() <= MOST_NODES) else {
        return gate.take(inbound);
    };
    let (context, gate) = (context.clone(), gate.clone());
    group.vouched((inbound.from, word.allegiance), move |index| match index {
        Some(index) => answer_on_word(&context, word, index, inbound),
        None => gate.take(inbound),
    });
}

fn answer_on_word<G: Group>(context: &Context<G>, word: Word, index: u64, inbound: Inbound) {
    context.metrics.read_indexes_by_word.inc();
    let (vouches, now) = (&context.vouches, context.runtime.now());
    vouches.vouch(vouches.covered(word.heard, now), index);
    answer(inbound.reply, &ReadIndexAnswer::ByWord { index, stamp: vouches.stamp(now) });
}
