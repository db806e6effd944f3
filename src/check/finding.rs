//! What a check found: one line of its report.

use serde::{Deserialize, Serialize};

/// How many findings are written out in words.
pub const EXAMPLES: usize = 3;

/// What one check found at one level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the check.
    pub check: String,
    /// What it looks for, in words.
    pub looks_for: String,
    /// The level it looked at, or `every level`.
    pub level: String,
    /// Whether it is promised not to happen at this level.
    pub promised: bool,
    /// How many operations it looked at; keys, where it judges whole keys.
    pub examined: u64,
    /// How many of them show what it looks for.
    pub found: u64,
    /// How many it should have looked at and could not.
    pub unverified: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
    /// How old what was found is, where that can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Age>,
}

/// How long before a stale read began the newest write that it missed had been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Age {
    pub median_us: u64,
    pub max_us: u64,
}

impl Finding {
    /// Whether a promise was broken.
    pub fn is_broken(&self) -> bool {
        self.promised && self.found > 0
    }

    /// Whether nothing can be said of a promise.
    pub fn is_unverified(&self) -> bool {
        self.promised && self.unverified > 0
    }

    /// Whether `other` is about the same.
    pub fn is_alike(&self, other: &Finding) -> bool {
        (&self.check, &self.level, self.promised) == (&other.check, &other.level, other.promised)
    }

    /// Adds what the same check found in another history. The median age becomes that of the
    /// history with the larger one, since the median of both cannot be said.
    pub fn add(&mut self, other: &Finding) {
        self.examined += other.examined;
        self.found += other.found;
        self.unverified += other.unverified;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room).cloned());
        self.age = match (self.age, other.age) {
            (Some(one), Some(two)) => Some(Age {
                median_us: one.median_us.max(two.median_us),
                max_us: one.max_us.max(two.max_us),
            }),
            (one, two) => one.or(two),
        };
    }
}

/// Counts findings of one check at one level.
pub struct Tally {
    finding: Finding,
    ages_us: Vec<u64>,
}

impl Tally {
    pub fn new(check: &str, looks_for: &str, level: &str, promised: bool) -> Tally {
        let finding = Finding {
            check: check.to_owned(),
            looks_for: looks_for.to_owned(),
            level: level.to_owned(),
            promised,
            ..Finding::default()
        };
        Tally { finding, ages_us: Vec::new() }
    }

    pub fn examined(&mut self) {
        self.finding.examined += 1;
    }

    pub fn unverified(&mut self) {
        self.finding.unverified += 1;
    }

    pub fn found(&mut self, example: impl FnOnce() -> String) {
        self.finding.found += 1;
        if self.finding.examples.len() < EXAMPLES {
            self.finding.examples.push(example());
        }
    }

    /// Notes how old something found is.
    pub fn aged(&mut self, age_us: u64) {
        self.ages_us.push(age_us);
    }

    /// The finding, once everything was looked at.
    pub fn done(mut self) -> Finding {
        self.ages_us.sort_unstable();
        let middle = self.ages_us.get(self.ages_us.len() / 2);
        if let (Some(median_us), Some(max_us)) = (middle, self.ages_us.last()) {
            self.finding.age = Some(Age { median_us: *median_us, max_us: *max_us });
        }
        self.finding
    }
}
