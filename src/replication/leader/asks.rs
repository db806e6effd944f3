//! Where a leader answers its followers' questions for a read index on their own word.
//!
//! **Why it exists.** A question says whom the follower stood by when it sent it (see `vouches`); where
//! the follower and this node are a majority, the answer needs no other node, and no heartbeat. Where
//! that will not do, the question joins the next round of the gate, which asks a majority.
//!
//! **Bounds.** As many questions are looked at as openraft takes calls; beyond that they are given up,
//! and asked again.

use std::sync::Arc;

use super::Context;
use super::forward::{ReadIndexAnswer, Word};
use super::gate::{ReadGate, answer};
use super::group::Group;
use crate::peer::Inbound;

/// Takes a question. `gate` is that of reads that a majority confirms. Must not block.
pub fn take<G: Group>(
    context: &Arc<Context<G>>,
    gate: &Arc<ReadGate<G>>,
    word: Option<Word>,
    inbound: Inbound,
) {
    let leads = context.group.leader() == Some(context.node);
    let Some(word) = word.filter(|_| leads) else {
        return gate.take(inbound);
    };
    let (of_answer, gate) = (context.clone(), gate.clone());
    context.group.vouched((inbound.from, word.allegiance), move |index| match index {
        Some(index) => answer_on_word(&of_answer, &gate, word, index, inbound),
        None => gate.take(inbound),
    });
}

fn answer_on_word<G: Group>(
    context: &Context<G>,
    gate: &ReadGate<G>,
    word: Word,
    index: u64,
    inbound: Inbound,
) {
    context.metrics.read_indexes_by_word.inc();
    let vouches = &context.vouches;
    vouches.vouch(vouches.covered(word.heard), index);
    // Before the stamp, so that the follower's next question vouches for them.
    gate.send_off();
    let stamp = vouches.stamp(inbound.from, context.runtime.now());
    answer(inbound.reply, &ReadIndexAnswer::ByWord { index, stamp });
}
