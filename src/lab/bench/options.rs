//! What to measure: the options of a bench, understood and checked.
//!
//! `cli` reads the flags; every rule about what they may say is here.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::{Engine, Origin, RawSettings};
use crate::types::{Level, Mode};

/// More nodes than this on one machine show nothing but its limits.
pub const MAX_NODES: u64 = 9;
/// As many connections as one node takes by default.
pub const MAX_CONNECTIONS: u64 = 4_096;
/// The largest value that the load's connections read back, in bytes.
pub const MAX_VALUE_BYTES: u64 = 8 << 20;
/// The names of the keys have nine digits at most.
pub const MAX_KEYS: u64 = 100_000_000;
/// One thread starts the requests of an open loop; it cannot do more than this.
pub const MAX_RATE: u64 = 1_000_000;
/// As many arrivals may be waiting or under way; 16 bytes each.
pub const MAX_IN_FLIGHT: u64 = 1_000_000;
/// Each kill takes some four seconds.
pub const MAX_KILLS: u64 = 1_000;
/// Looking at memory and disk more often than this would be a load of its own.
pub const MIN_WATCH: Duration = Duration::from_millis(100);
/// The rate of the steady load under kills, where none is given.
pub const STEADY_RATE: u64 = 1_000;

/// What is done how often: the share of writes, and the level of the reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    pub writes_percent: u8,
    /// The level that the mix itself names for its reads.
    pub level: Option<Level>,
}

impl Mix {
    /// Whether anything is read.
    pub fn reads(self) -> bool {
        self.writes_percent < 100
    }

    /// Whether anything is written.
    pub fn writes(self) -> bool {
        self.writes_percent > 0
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mix = |writes_percent| Mix { writes_percent, level: None };
        let of_level =
            |name: &str| name.parse().ok().map(|level| Mix { level: Some(level), ..mix(0) });
        let shares = |(writes, reads): (&str, &str)| {
            let (writes, reads): (u8, u8) = (writes.parse().ok()?, reads.parse().ok()?);
            (writes.checked_add(reads) == Some(100)).then(|| mix(writes))
        };
        let found = match text {
            "put" => Some(mix(100)),
            "get" => Some(mix(0)),
            _ => match text.strip_suffix("-get") {
                Some(level) => of_level(level),
                None => text.split_once('/').and_then(shares),
            },
        };
        found.ok_or_else(|| {
            format!(
                "'{text}' is not a mix: expected put, get, writes/reads in percent such as 50/50, \
                 or a level and get such as local-get"
            )
        })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.writes_percent, self.level) {
            (100, _) => f.write_str("put"),
            (0, None) => f.write_str("get"),
            (0, Some(level)) => write!(f, "{level}-get"),
            (writes, _) => write!(f, "{writes}/{}", 100 - writes),
        }
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Throw-away clusters, one for each mode and size of values.
    Started(StartedNodes),
    /// Nodes that somebody else started, at their client addresses.
    Running(Vec<SocketAddr>),
}

/// What the clusters that are started are like.
#[derive(Clone, Debug)]
pub struct StartedNodes {
    /// The `quorate` executable.
    pub binary: PathBuf,
    pub modes: Vec<Mode>,
    pub nodes: u16,
    pub engine: Engine,
    /// Settings of every node, such as `leader.heartbeat_ms=50`.
    pub settings: Vec<String>,
    /// The nodes' data lies below this directory while it is measured.
    pub data_dir: PathBuf,
}

/// The settings that follow from a bench's other options, or from where its nodes lie.
const OWN_SETTINGS: [&str; 8] =
    ["id", "mode", "peers", "listen", "peer_listen", "advertise", "data_dir", "engine"];

impl StartedNodes {
    /// Whether every node would take its settings: the same check that the nodes make.
    fn validate_settings(&self) -> Result<(), String> {
        for mode in &self.modes {
            let peers = (1..=self.nodes).map(|id| format!("{id}=127.0.0.1:{}", 8_000 + id));
            let mut raw = RawSettings::default();
            let flag = || Origin::Flag("--set".to_owned());
            let mut add = |name: &str, text: String| raw.add(name, text, flag());
            let own = [
                ("id", "1".to_owned()),
                ("mode", mode.to_string()),
                ("peers", peers.collect::<Vec<_>>().join(",")),
            ];
            for (name, text) in own {
                add(name, text).map_err(|problem| problem.to_string())?;
            }
            for setting in &self.settings {
                let Some((name, text)) = setting.split_once('=') else {
                    return Err(format!("--set {setting}: expected NAME=VALUE"));
                };
                if OWN_SETTINGS.contains(&name.trim()) {
                    return Err(format!(
                        "--set {setting}: expected none that bench itself decides"
                    ));
                }
                add(name.trim(), text.trim().to_owned())
                    .map_err(|problem| format!("--set {setting}: {problem}"))?;
            }
            raw.resolve().map_err(|problem| problem.to_string())?;
        }
        Ok(())
    }
}

/// What is done to the nodes; where anything is, no plain rows are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// How often the leader is killed.
    pub kill_leader: u32,
    /// How often the leader is asked to stop.
    pub stop_leader: u32,
    /// How often a node that does not lead is killed.
    pub kill_follower: u32,
    /// How often a node that does not lead is stopped for a while without ending, as SIGSTOP does.
    pub pause_follower: u32,
    /// Whether every node is restarted.
    pub restart: bool,
    /// Whether a follower is sent a snapshot.
    pub snapshot: bool,
    /// How many keys are written while a replica is away; none is where it is 0.
    pub away: usize,
    /// Whether two nodes join, partitions move to them, and back.
    pub grow: bool,
}

impl Events {
    /// Whether nothing is done to the nodes.
    pub fn is_empty(self) -> bool {
        self == Events::default()
    }

    /// Whether a steady load goes on meanwhile.
    pub fn under_load(self) -> bool {
        let ends = self.kill_leader + self.stop_leader + self.kill_follower + self.pause_follower;
        ends > 0 || self.snapshot || self.away > 0 || self.grow
    }
}

/// A bench.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    pub subject: Subject,
    pub connections: Vec<usize>,
    pub value_bytes: Vec<usize>,
    pub keys: usize,
    pub mixes: Vec<Mix>,
    /// The level of reads whose mix names none; the mode's default where absent.
    pub level: Option<Level>,
    /// Requests a second, whatever the answers; absent for a closed loop.
    pub rate_per_second: Option<u64>,
    /// How many arrivals of an open loop may wait or be under way.
    pub max_in_flight: usize,
    pub duration: Duration,
    pub warm_up: Duration,
    /// Whether every key is written before anything is measured.
    pub load: bool,
    pub seed: u64,
    pub events: Events,
    /// How often memory and disk use are looked at while a row is measured; never where absent.
    pub watch: Option<Duration>,
    /// Where `bench.json` and `bench.md` are written; nowhere where absent.
    pub out: Option<PathBuf>,
}

impl BenchOptions {
    /// Says what makes no sense together, naming the flag, before anything starts.
    pub fn validate(&self) -> Result<(), String> {
        if let Subject::Started(started) = &self.subject {
            started.validate_settings()?;
        }
        self.validate_levels()?;
        self.validate_events()?;
        self.validate_watch()?;
        let most = self.connections.iter().max().copied().unwrap_or(0);
        if self.is_open() && self.max_in_flight < most {
            return Err(format!(
                "--max-in-flight {}: expected at least the number of connections, {most}",
                self.max_in_flight
            ));
        }
        Ok(())
    }

    fn validate_levels(&self) -> Result<(), String> {
        if let Some(level) = self.level
            && !self.mixes.iter().any(|mix| mix.reads() && mix.level.is_none())
        {
            return Err(format!(
                "--consistency {level}: expected a --mix with reads that name no level of their own"
            ));
        }
        let Subject::Started(nodes) = &self.subject else { return Ok(()) };
        let of_mixes = self.mixes.iter().filter_map(|mix| mix.level.map(|level| ("--mix", level)));
        let all = of_mixes.chain(self.level.map(|level| ("--consistency", level)));
        for (flag, level) in all {
            for mode in &nodes.modes {
                let offered = offered(*mode);
                if !offered.contains(&level) {
                    let offered: Vec<&str> = offered.iter().map(|level| level.as_str()).collect();
                    let offered = offered.join(" or ");
                    return Err(format!("{flag} {level}: expected {offered} in {mode} mode"));
                }
            }
        }
        Ok(())
    }

    fn validate_watch(&self) -> Result<(), String> {
        let Some(every) = self.watch else { return Ok(()) };
        let every = every.as_millis();
        if every < MIN_WATCH.as_millis() {
            let least = MIN_WATCH.as_millis();
            return Err(format!("--watch: {every} ms: expected {least} ms or more"));
        }
        if !self.events.is_empty() {
            return Err("--watch: expected plain rows, without events".to_owned());
        }
        match self.subject {
            Subject::Started(_) => Ok(()),
            Subject::Running(_) => {
                Err("--watch: expected a cluster of bench's own, so no --targets".to_owned())
            }
        }
    }

    fn validate_events(&self) -> Result<(), String> {
        let Events { kill_leader, stop_leader, kill_follower, pause_follower, .. } = self.events;
        let Events { restart, snapshot, away, grow, .. } = self.events;
        let asked = [
            ("--kill-leader", kill_leader > 0),
            ("--stop-leader", stop_leader > 0),
            ("--kill-follower", kill_follower > 0),
            ("--pause-follower", pause_follower > 0),
            ("--restart", restart),
            ("--snapshot", snapshot),
            ("--away", away > 0),
            ("--grow", grow),
        ];
        let Some((event, _)) = asked.into_iter().find(|(_, asked)| *asked) else { return Ok(()) };
        let Subject::Started(nodes) = &self.subject else {
            return Err(format!("{event}: expected a cluster of bench's own, so no --targets"));
        };
        let several = [
            ("--connections", self.connections.len()),
            ("--value-size", self.value_bytes.len()),
            ("--mix", self.mixes.len()),
        ];
        if let Some((flag, given)) = several.into_iter().find(|(_, given)| *given != 1) {
            return Err(format!("{flag}: {given} of them: expected one with {event}"));
        }
        let under_load = self.events.under_load();
        if let Some(mix) = self.mixes.iter().find(|mix| under_load && !mix.writes()) {
            return Err(format!(
                "--mix {mix}: expected one that writes, such as put, with {event}"
            ));
        }
        let of_leaders = [("--kill-leader", kill_leader), ("--stop-leader", stop_leader)];
        if let Some((flag, times)) = of_leaders.into_iter().find(|(_, times)| *times > 0)
            && nodes.modes.contains(&Mode::Leaderless)
        {
            return Err(format!(
                "{flag} {times}: expected --mode leader (leaderless mode has none: \
                 --kill-follower kills any node)"
            ));
        }
        if snapshot && (nodes.modes.contains(&Mode::Leaderless) || nodes.nodes < 3) {
            return Err("--snapshot: expected --mode leader and 3 --nodes or more".to_owned());
        }
        if away > 0 && nodes.nodes != 3 {
            return Err(format!(
                "--away {away}: expected 3 --nodes, each of which holds every key"
            ));
        }
        if grow && (nodes.modes.contains(&Mode::Leader) || nodes.nodes != 3) {
            return Err("--grow: expected --mode leaderless and 3 --nodes".to_owned());
        }
        let of_followers =
            [("--kill-follower", kill_follower), ("--pause-follower", pause_follower)];
        if let Some((flag, times)) = of_followers.into_iter().find(|(_, times)| *times > 0)
            && nodes.modes.contains(&Mode::Leader)
            && nodes.nodes < 2
        {
            return Err(format!("{flag} {times}: expected 2 --nodes or more"));
        }
        Ok(())
    }

    /// Whether requests arrive at a rate.
    pub fn is_open(&self) -> bool {
        self.rate_per_second.is_some() || self.events.under_load()
    }

    /// Whether every key is written before anything is measured.
    pub fn loads(&self) -> bool {
        self.load || self.events.restart || self.events.snapshot || self.events.grow
    }

    /// The level that reads of `mix` ask for; `None` where they name none.
    pub fn level_of(&self, mix: Mix) -> Option<Level> {
        mix.level.or(self.level).filter(|_| mix.reads())
    }
}

/// The levels that reads may ask for.
fn offered(mode: Mode) -> &'static [Level] {
    match mode {
        Mode::Leader => &[Level::Linearizable, Level::Lease, Level::Quorum, Level::Local],
        Mode::Leaderless => &[Level::Quorum, Level::Local],
    }
}

/// A size such as `256`, `16k` or `1m`: bytes, KiB and MiB.
pub fn size(text: &str) -> Option<u64> {
    scaled(text, 1 << 10)
}

/// A count such as `500`, `10k` or `1m`: ones, thousands and millions.
pub fn count(text: &str) -> Option<u64> {
    scaled(text, 1_000)
}

fn scaled(text: &str, thousand: u64) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], thousand),
        b'm' | b'M' => (&text[..text.len() - 1], thousand * thousand),
        _ => (text, 1),
    };
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| plain)?;
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_take_units_and_nothing_else() {
        assert_eq!(
            ["256", "16k", "1m", "0"].map(size),
            [Some(256), Some(16 << 10), Some(1 << 20), Some(0)]
        );
        assert_eq!(["10k", "1M"].map(count), [Some(10_000), Some(1_000_000)]);
        for bad in [
            "",
            "k",
            "-1",
            "+1",
            "1.5k",
            "16kb",
            "1 k",
            "ä",
            "99999999999999999999",
            "99999999999999999m",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_mix_reads_back_as_it_was_written_and_shares_must_be_all() {
        for text in ["put", "get", "50/50", "5/95", "local-get", "quorum-get"] {
            assert_eq!(text.parse::<Mix>().expect(text).to_string(), text);
        }
        let half: Mix = "50/50".parse().expect("a mix");
        assert!(half.reads() && half.writes() && half.level.is_none());
        assert_eq!("100/0".parse::<Mix>().expect("a mix").to_string(), "put");
        let local: Mix = "local-get".parse().expect("a mix");
        assert!(!local.writes() && local.level == Some(Level::Local));
        for bad in ["", "puts", "50", "60/50", "a/b", "200/-100", "strong-get", "50/50/0"] {
            let refused = bad.parse::<Mix>().expect_err(bad);
            assert!(refused.contains("50/50") && refused.contains("local-get"), "{refused}");
        }
    }
}
