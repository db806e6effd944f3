//! What each level asks before a read may look at this node's table.
//!
//! - `linearizable`: a round of the gate, confirmed by a majority.
//! - `lease`: a round of the second gate, which the leader's lease answers: on the leader itself no
//!   message is sent. Where the leader holds no lease at the moment, a majority confirms, and the
//!   answer says `linearizable`, which is more than was asked.
//! - `local`: nothing. With `max_staleness`, the table must be known to show every write acknowledged
//!   longer ago than that before the request came in; a node that does not know it asks the leader
//!   first, as `lease` does, for [`STALENESS_WAIT`] at most.

use std::time::Duration;

use super::gate::By;
use super::{Admitted, Group, Leader, refuse_replica_counts};
use crate::error::{ReadError, Refusal};
use crate::replication::{Cost, RequestOptions};
use crate::runtime::Instant;
use crate::types::{EffectiveLevel, Level, Mode};

/// How long a local read waits for word from the leader that this node is not too far behind: a
/// round trip and a heartbeat, several times over. Who asks for `local` does not want to wait for
/// an election.
const STALENESS_WAIT: Duration = Duration::from_millis(300);

/// A read that asked nobody.
const OWN_TABLE: Cost = Cost { messages: 0, acks: 1 };

impl<G: Group> Leader<G> {
    /// Does what the level asks for before the table is looked at.
    pub(super) async fn admit(&self, options: &RequestOptions) -> Result<Admitted, ReadError> {
        refuse_replica_counts(options)?;
        let level = options.level.unwrap_or(Level::default_for(Mode::Leader));
        let (level, cost) = match (level, options.max_staleness) {
            (Level::Local, Some(bound)) => self.admit_fresh(bound, options.deadline).await?,
            (Level::Local, None) => (EffectiveLevel::Local, OWN_TABLE),
            (_, Some(_)) => return Err(staleness_without_local().into()),
            (Level::Linearizable | Level::Quorum, None) => {
                let confirmed = self.gate.pass(options.deadline).await?;
                (EffectiveLevel::Linearizable, self.context.read_cost(confirmed))
            }
            (Level::Lease, None) => self.admit_by_lease(options.deadline).await?,
        };
        let installs = self.context.whole_table()?;
        Ok(Admitted { level, cost, installs })
    }

    async fn admit_by_lease(&self, deadline: Instant) -> Result<(EffectiveLevel, Cost), ReadError> {
        let confirmed = self.lease_gate.pass(deadline).await?;
        let by_lease = confirmed.by == By::Lease;
        let level = match by_lease {
            true => EffectiveLevel::Lease,
            false => EffectiveLevel::Linearizable,
        };
        if by_lease && !confirmed.asked_leader {
            self.context.metrics.lease_reads.inc();
        }
        Ok((level, self.context.read_cost(confirmed)))
    }

    async fn admit_fresh(
        &self,
        bound: Duration,
        deadline: Instant,
    ) -> Result<(EffectiveLevel, Cost), ReadError> {
        let asked_at = self.context.runtime.now();
        let within = |age: Duration| EffectiveLevel::LocalWithin {
            staleness_ms: u64::try_from(age.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX),
        };
        let age = || self.context.freshness.age_at(asked_at).filter(|age| *age <= bound);
        if let Some(age) = age() {
            return Ok((within(age), OWN_TABLE));
        }
        let passed = self.lease_gate.pass(deadline.min(asked_at + STALENESS_WAIT)).await;
        match (passed, age()) {
            (Ok(confirmed), Some(age)) => Ok((within(age), self.context.read_cost(confirmed))),
            // Another round may have come through meanwhile.
            (Err(_), Some(age)) => Ok((within(age), OWN_TABLE)),
            (passed, None) => {
                self.context.metrics.stale_reads_refused.inc();
                let why = passed.err().map(|error| error.to_string()).unwrap_or_default();
                Err(self.too_stale(bound, asked_at, &why).into())
            }
        }
    }

    fn too_stale(&self, bound: Duration, asked_at: Instant, why: &str) -> Refusal {
        let known = match self.context.freshness.age_at(asked_at) {
            Some(age) => format!("is known to be no older than {} ms", age.as_millis()),
            None => "was not compared with the leader's since this node started".to_owned(),
        };
        let detail = format!(
            "this node's copy {known}, and at most {} ms were asked for ({why}); ask another node, \
             or allow more",
            bound.as_millis()
        );
        Refusal::TooStale { detail }
    }
}

/// A bound without a level that it could bound.
pub(super) fn staleness_without_local() -> Refusal {
    let problem = "bounds reads at consistency=local alone: every other level shows all that was \
                   acknowledged before";
    Refusal::BadParameter { parameter: "max_staleness", problem: problem.to_owned() }
}
