//! One proxy for each directed link of a cluster.
//!
//! A node opens its own connections to each peer, so what node 1 tells node 2 travels forward
//! through the proxy of 1 → 2 and, as answers, backward through the proxy of 2 → 1.
//! [`Links::toward`] reaches both.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use super::{Accept, Conditions, Flow, Proxy, Tally};
use crate::runtime::Runtime;

/// The links between all nodes.
pub struct Links {
    /// By the ids of who connects and of who is connected to.
    pub(super) proxies: BTreeMap<(u16, u16), Proxy>,
}

impl Links {
    /// A proxy between each two of `nodes`, which are ids and the addresses their peers listen at.
    pub async fn open(runtime: &Runtime, nodes: &[(u16, SocketAddr)]) -> io::Result<Links> {
        let mut proxies = BTreeMap::new();
        for (from, _) in nodes {
            for (to, target) in nodes.iter().filter(|(to, _)| to != from) {
                proxies.insert((*from, *to), Proxy::open(runtime, *target).await?);
            }
        }
        Ok(Links { proxies })
    }

    /// Where the node `from` is to find the node `to`; `None` for itself.
    pub fn address(&self, from: u16, to: u16) -> Option<SocketAddr> {
        self.proxies.get(&(from, to)).map(Proxy::address)
    }

    /// Everything as it was at the start. What was held back is delivered now.
    pub fn heal(&self) {
        self.proxies.values().for_each(|proxy| proxy.change(|to| *to = Conditions::default()));
    }

    /// Changes what becomes of everything that the node `from` tells the node `to`.
    pub fn toward(&self, from: u16, to: u16, change: impl Fn(&mut Flow)) {
        if let Some(proxy) = self.proxies.get(&(from, to)) {
            proxy.change(|conditions| change(&mut conditions.forward));
        }
        if let Some(proxy) = self.proxies.get(&(to, from)) {
            proxy.change(|conditions| change(&mut conditions.backward));
        }
    }

    /// Lets nothing through between two nodes and says nothing: connections stay open, new ones
    /// are left waiting.
    pub fn cut_silently(&self, one: u16, other: u16) {
        self.between(one, other, |proxy| {
            proxy.change(|to| {
                to.accept = Accept::Hang;
                (to.forward.held, to.backward.held) = (true, true);
            });
        });
    }

    /// Resets every connection between two nodes and refuses new ones.
    pub fn cut_loudly(&self, one: u16, other: u16) {
        self.between(one, other, |proxy| {
            proxy.change(|to| to.accept = Accept::Refuse);
            proxy.reset();
        });
    }

    /// Resets every connection between two nodes; new ones are welcome.
    pub fn reset(&self, one: u16, other: u16) {
        self.between(one, other, Proxy::reset);
    }

    fn between(&self, one: u16, other: u16, act: impl Fn(&Proxy)) {
        [(one, other), (other, one)].iter().filter_map(|link| self.proxies.get(link)).for_each(act);
    }

    /// What all proxies did so far, together.
    pub fn tally(&self) -> Tally {
        self.proxies.values().map(Proxy::tally).fold(Tally::default(), |sum, one| Tally {
            carried: sum.carried + one.carried,
            refused: sum.refused + one.refused,
            reset: sum.reset + one.reset,
            bytes: sum.bytes + one.bytes,
            held: sum.held + one.held,
            delayed: sum.delayed + one.delayed,
            dripped: sum.dripped + one.dripped,
        })
    }
}
