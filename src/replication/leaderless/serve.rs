//! What a replica does for coordinators on other nodes.
//!
//! **Guarantees.** A request is refused, and not handled, where it was made under another layout,
//! concerns a partition that this node does not hold, makes no sense, or comes too late. Writes keep
//! the order of the link. Nothing here blocks the link's reader for longer than a table read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Core;
use super::horizons::Late;
use super::messages::{self, ReadReply, StoredWrite};
use super::replica::ReplicaError;
use super::tally::Taken;
use super::view::View;
use crate::peer::{Inbound, Service};
use crate::planted::{self, Bug};
use crate::storage::encoding;
use crate::types::{Epoch, Key};

/// About how many bytes of records one answer to reads holds; the rest is asked for again.
const MAX_READ_REPLY_BYTES: usize = 4 << 20;

/// Pages of rows read for peers at once, at most: each holds some MiB.
pub(super) const MAX_PAGES_SERVED: usize = 32;

impl Core {
    /// Takes a peer's request.
    pub(super) fn serve(self: &Arc<Core>, inbound: Inbound) {
        if inbound.service == Service::Layout {
            return self.serve_layout(inbound);
        }
        let Some(epoch) = inbound.epoch else {
            return inbound.reply.refuse("it says nothing of the layout that it was made under");
        };
        if self.still_under(epoch).is_err() {
            return self.refuse_epoch(inbound);
        }
        if inbound.deadline <= self.runtime.now() {
            return inbound.reply.refuse("it came after its deadline");
        }
        if let Some(failure) = self.replica.failure() {
            return inbound.reply.refuse(failure);
        }
        match inbound.service {
            Service::ReplicaWrite => self.serve_writes(inbound, epoch),
            Service::ReplicaRead => self.serve_reads(inbound, epoch),
            Service::ReplicaList => self.serve_page(inbound, epoch),
            Service::Inspect => self.serve_inspect(inbound),
            Service::Compare => self.serve_compare(inbound, epoch),
            Service::Collect => self.serve_collection(inbound, epoch),
            other => {
                let reason = format!("{} is no service of a replica", other.as_str());
                inbound.reply.refuse(reason);
            }
        }
    }

    fn serve_writes(&self, inbound: Inbound, epoch: Epoch) {
        let Inbound { body, reply, .. } = inbound;
        let writes = match messages::decode_writes(&body) {
            Ok(writes) => writes,
            Err(error) => return reply.refuse(error.to_string()),
        };
        // Held until they are in the replica's queue: see `active`.
        let view = match self.hold(epoch) {
            Ok(view) => view,
            Err(reason) => return reply.refuse(reason),
        };
        if let Some(refusal) = self.refusal(&view, writes.iter().map(|write| &write.key)) {
            return reply.refuse(refusal);
        }
        if planted::is(Bug::DriftRefusedInApply) && self.run_ahead(&writes) {
            return reply.refuse("it is ahead of the clock here");
        }
        self.observe_newest(&writes);
        let done = move |result: Result<Vec<Result<Taken, Late>>, ReplicaError>| match result {
            Ok(taken) => reply.send(messages::encode_taken(&taken)),
            Err(ReplicaError::NotTaken(reason)) => reply.refuse(reason),
            // Dropped unused, it says that the writes may have been taken.
            Err(ReplicaError::Unknown(_)) => drop(reply),
        };
        self.replica.submit(body, writes, Box::new(done));
    }

    /// As a hybrid logical clock does with every message: later versions of this node are above
    /// what its replica was told.
    fn observe_newest(&self, writes: &[StoredWrite]) {
        let version = |write: &StoredWrite| Some(encoding::peek(&write.record).ok()?.0);
        if let Some(newest) = writes.iter().filter_map(version).max() {
            self.observe(newest);
        }
    }

    /// Whether a version is further ahead than this node's clock lets it run.
    fn run_ahead(&self, writes: &[StoredWrite]) -> bool {
        let heads = writes.iter().filter_map(|write| encoding::peek(&write.record).ok());
        heads.into_iter().any(|(version, _)| !self.ceiling.observe(version))
    }

    fn serve_reads(&self, inbound: Inbound, epoch: Epoch) {
        let Inbound { body, reply, .. } = inbound;
        let keys = match messages::decode_reads(&body) {
            Ok(keys) => keys,
            Err(error) => return reply.refuse(error.to_string()),
        };
        let view = match self.hold(epoch) {
            Ok(view) => view,
            Err(reason) => return reply.refuse(reason),
        };
        if let Some(refusal) = self.refusal(&view, keys.iter()) {
            return reply.refuse(refusal);
        }
        let (mut replies, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in &keys {
            if bytes >= MAX_READ_REPLY_BYTES {
                replies.push(ReadReply::AskAgain);
                continue;
            }
            match self.replica.read(key) {
                Ok(found) => {
                    let held = ReadReply::Held(found);
                    bytes += messages::reply_weight(&held);
                    replies.push(held);
                }
                Err(error) => return reply.refuse(error.to_string()),
            }
        }
        reply.send(messages::encode_read_replies(&replies));
    }

    fn serve_page(self: &Arc<Core>, inbound: Inbound, epoch: Epoch) {
        let Inbound { body, reply, .. } = inbound;
        let request = match messages::decode_list(&body) {
            Ok(request) => request,
            Err(error) => return reply.refuse(error.to_string()),
        };
        if self.pages_served.fetch_add(1, Ordering::Relaxed) >= MAX_PAGES_SERVED {
            self.pages_served.fetch_sub(1, Ordering::Relaxed);
            return reply.refuse("it reads as many pages as it may");
        }
        let core = self.clone();
        self.runtime.spawn(async move {
            let page = core.own_page(request).await.map_err(|error| error.to_string());
            match page.and_then(|page| core.still_under(epoch).map(|()| page)) {
                Ok(page) => reply.send(messages::encode_page(&page)),
                Err(reason) => reply.refuse(reason),
            }
            core.pages_served.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Why this node does not serve these keys; `None` where it does.
    pub(super) fn refusal<'a>(
        &self,
        view: &View,
        mut keys: impl Iterator<Item = &'a Key>,
    ) -> Option<String> {
        let stray = keys.find(|key| !view.holds(self.node, key.partition()))?;
        let partition = stray.partition().0;
        Some(format!("node {} does not hold partition {partition}", self.node))
    }
}
