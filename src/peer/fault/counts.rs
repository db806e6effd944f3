//! How often each fault really happened: a fault that never did proves nothing.

/// What a plan did to messages so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Requests that failed at once, and answers that were lost, because the link was cut.
    pub cut: u64,
    /// Requests and answers that vanished on a mute link.
    pub muted: u64,
    pub requests_dropped: u64,
    pub answers_dropped: u64,
    pub requests_duplicated: u64,
    /// Requests that left their place in the lane's order.
    pub requests_reordered: u64,
    /// Requests and answers that waited for a release.
    pub held: u64,
    /// Requests and answers that took longer.
    pub delayed: u64,
    /// Requests and answers that crossed a slow link.
    pub slowed: u64,
}

impl FaultCounts {
    /// Every count with its name, in a fixed order.
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("cut", self.cut),
            ("muted", self.muted),
            ("requests_dropped", self.requests_dropped),
            ("answers_dropped", self.answers_dropped),
            ("requests_duplicated", self.requests_duplicated),
            ("requests_reordered", self.requests_reordered),
            ("held", self.held),
            ("delayed", self.delayed),
            ("slowed", self.slowed),
        ]
    }
}
