//! `quorate bench`: load, and what it costs.

use std::fmt::Display;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::client::{Output, parse_time};
use super::{Exit, complain};
use crate::config::Engine;
use crate::lab::bench::options::{
    MAX_CONNECTIONS, MAX_IN_FLIGHT, MAX_KEYS, MAX_KILLS, MAX_NODES, MAX_RATE, MAX_VALUE_BYTES,
    count, size,
};
use crate::lab::bench::{BenchOptions, BenchVerdict, Events, StartedNodes, Subject, bench, render};
use crate::types::Mode;

/// How many nodes a cluster has where nobody says.
const DEFAULT_NODES: u16 = 3;

const EXAMPLES: &str = "\
Examples:
  quorate bench --mix put,get --load --connections 1,16,64
      closed loops: each connection asks as soon as it was answered
  quorate bench --mode both --mix 50/50 --rate 5000 --load --keys 1m --value-size 256,16k
      open loops: 5,000 requests a second, latency from the intended start
  quorate bench --targets 10.0.0.1:7001,10.0.0.2:7001 --mix local-get --load
      nodes that run already; costs are of the nodes named, without their CPU time
  quorate bench --kill-leader 10 --rate 2000
      the gap until a write is served again, and whether an acknowledged one was lost
  quorate bench --mix 50/50 --rate 500 --duration 1h --watch 1m
      whether memory and disk use stay where they are
  quorate bench --stop-leader 10
      the gap where a leader is asked to stop, and hands over first
  quorate bench --restart --keys 1m
      how long each node takes to be ready, and to answer its first read

Exit codes: 0 done, 1 something was lost or not done, 2 something could not be read back, 64 usage.";

/// Everything is read as text and checked here, so that each mistake gets one line.
#[derive(Args)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(super) struct BenchArgs {
    /// leader, leaderless or both [default: leader]
    #[arg(long, help_heading = "Nodes")]
    mode: Option<String>,
    /// How many nodes to start [default: 3]
    #[arg(long, help_heading = "Nodes")]
    nodes: Option<String>,
    /// The table engine of every node: sled, fjall or memory [default: sled]
    #[arg(long, help_heading = "Nodes")]
    engine: Option<String>,
    /// A setting of every node, such as leader.heartbeat_ms=50; may be given again
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Nodes")]
    set: Vec<String>,
    /// Where the nodes' data lies while it is measured: its disk is what syncs [default: the
    /// directory for temporary files]
    #[arg(long, value_name = "DIR", help_heading = "Nodes")]
    data_dir: Option<PathBuf>,
    /// Load these running nodes, at their client addresses, instead of starting any
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', help_heading = "Nodes")]
    targets: Vec<String>,

    /// put, get, writes/reads in percent such as 50/50, or a level and get such as local-get; a
    /// list gives one row each
    #[arg(long, default_value = "put", value_name = "MIX,...", help_heading = "Load")]
    mix: String,
    /// Connections, each with one request at a time; a list gives one row each
    #[arg(long, default_value = "64", value_name = "N,...", help_heading = "Load")]
    connections: String,
    /// Bytes of a value, such as 256 or 16k; a list gives one row, and one cluster, each
    #[arg(long, default_value = "256", value_name = "SIZE,...", help_heading = "Load")]
    value_size: String,
    /// How many keys, such as 10k or 1m
    #[arg(long, default_value = "10k", value_name = "COUNT", help_heading = "Load")]
    keys: String,
    /// Write every key before anything is measured
    #[arg(long, help_heading = "Load")]
    load: bool,
    /// The level of reads: linearizable, quorum or local [default: the mode's]
    #[arg(long, value_name = "LEVEL", help_heading = "Load")]
    consistency: Option<String>,
    /// Requests a second, whatever the answers (open loop) [default: closed loop; 1000 with kills and
    /// stops]
    #[arg(long, value_name = "R", help_heading = "Load")]
    rate: Option<String>,
    /// In an open loop: as many requests may wait or be under way; more are counted as missed
    #[arg(long, default_value = "1k", value_name = "COUNT", help_heading = "Load")]
    max_in_flight: String,
    /// How long each row is measured, such as 500ms or 5s
    #[arg(long, default_value = "5s", value_name = "TIME", help_heading = "Load")]
    duration: String,
    /// How long the same load runs before, unmeasured
    #[arg(long, default_value = "1s", value_name = "TIME", help_heading = "Load")]
    warmup: String,
    /// Look at the nodes' memory and disk use this often while a row is measured
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    watch: Option<String>,
    /// The seed of every choice
    #[arg(long, default_value = "42", help_heading = "Load")]
    seed: String,

    /// Kill the leader so many times under a steady load: the gap until the first write, lost writes
    #[arg(long, value_name = "TIMES", help_heading = "Events, instead of plain rows")]
    kill_leader: Option<String>,
    /// The same, but ask it to stop as SIGTERM does, so that it hands over first
    #[arg(long, value_name = "TIMES", help_heading = "Events, instead of plain rows")]
    stop_leader: Option<String>,
    /// The same with a node that does not lead; any node in leaderless mode
    #[arg(long, value_name = "TIMES", help_heading = "Events, instead of plain rows")]
    kill_follower: Option<String>,
    /// The same, but stop it for two seconds without ending it, as SIGSTOP does
    #[arg(long, value_name = "TIMES", help_heading = "Events, instead of plain rows")]
    pause_follower: Option<String>,
    /// Load the keys, then stop and kill each node: time until ready and until its first read
    #[arg(long, help_heading = "Events, instead of plain rows")]
    restart: bool,
    /// Load the keys, kill a follower until the log was cut, and have it sent a snapshot: latencies before,
    /// without it, meanwhile and after
    #[arg(long, help_heading = "Events, instead of plain rows")]
    snapshot: bool,
    /// Kill a replica, write so many keys, such as 100k, and start it again: the time until its copy of them
    /// equals the others', latencies before, without it, meanwhile and after
    #[arg(long, value_name = "COUNT", help_heading = "Events, instead of plain rows")]
    away: Option<String>,
    /// Load the keys, let two nodes join, move partitions to them, and back: how long it takes, what is sent,
    /// lost writes, latencies before, meanwhile and after
    #[arg(long, help_heading = "Events, instead of plain rows")]
    grow: bool,

    /// text, or json for programs
    #[arg(long, value_enum, default_value_t = Output::Text, help_heading = "Output")]
    output: Output,
    /// Write bench.json and bench.md here
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &BenchArgs) -> Exit {
    let options = match args.understood() {
        Ok(options) => options,
        Err(problem) => {
            complain(problem);
            return Exit::Usage;
        }
    };
    let results = match bench(&options) {
        Ok(results) => results,
        Err(error) => {
            complain(format!("{error:#}"));
            return Exit::Failed;
        }
    };
    match args.output {
        Output::Text => print!("{}", render(&results)),
        Output::Json => match serde_json::to_string_pretty(&results) {
            Ok(json) => println!("{json}"),
            Err(error) => complain(format!("the results are no JSON: {error}")),
        },
    }
    let (exit, problems) = match results.verdict() {
        BenchVerdict::Done => (Exit::Done, Vec::new()),
        BenchVerdict::Failed(problems) => (Exit::Failed, problems),
        BenchVerdict::Unknown(problems) => (Exit::Unknown, problems),
    };
    problems.iter().for_each(complain);
    exit
}

impl BenchArgs {
    fn understood(&self) -> Result<BenchOptions, String> {
        let options = BenchOptions {
            subject: self.subject()?,
            connections: numbers("--connections", &self.connections, 1..=MAX_CONNECTIONS, count)?,
            value_bytes: numbers("--value-size", &self.value_size, 1..=MAX_VALUE_BYTES, size)?,
            keys: number("--keys", &self.keys, 1..=MAX_KEYS, count)? as usize,
            mixes: each("--mix", &self.mix, |mix| mix.parse())?,
            level: self
                .consistency
                .as_deref()
                .map(|level| of_flag("--consistency", level))
                .transpose()?,
            rate_per_second: self
                .rate
                .as_deref()
                .map(|rate| number("--rate", rate, 1..=MAX_RATE, count))
                .transpose()?,
            max_in_flight: number("--max-in-flight", &self.max_in_flight, 1..=MAX_IN_FLIGHT, count)?
                as usize,
            duration: time("--duration", &self.duration)?,
            warm_up: time_or_none("--warmup", &self.warmup)?,
            load: self.load,
            seed: number("--seed", &self.seed, 0..=u64::MAX, |text| text.parse().ok())?,
            events: Events {
                kill_leader: times("--kill-leader", self.kill_leader.as_deref())?,
                stop_leader: times("--stop-leader", self.stop_leader.as_deref())?,
                kill_follower: times("--kill-follower", self.kill_follower.as_deref())?,
                pause_follower: times("--pause-follower", self.pause_follower.as_deref())?,
                restart: self.restart,
                snapshot: self.snapshot,
                away: match self.away.as_deref() {
                    Some(away) => number("--away", away, 1..=MAX_KEYS, count)? as usize,
                    None => 0,
                },
                grow: self.grow,
            },
            watch: self.watch.as_deref().map(|every| time("--watch", every)).transpose()?,
            out: self.out.clone(),
        };
        options.validate()?;
        Ok(options)
    }

    fn subject(&self) -> Result<Subject, String> {
        if !self.targets.is_empty() {
            self.only_targets()?;
            let found = self.targets.iter().map(|target| address(target));
            return Ok(Subject::Running(found.collect::<Result<_, _>>()?));
        }
        let modes = match self.mode.as_deref().unwrap_or(Mode::Leader.as_str()) {
            "both" => Mode::ALL.to_vec(),
            one => vec![one.parse().map_err(|_: String| {
                format!("--mode {one}: expected leader, leaderless or both")
            })?],
        };
        let binary = std::env::current_exe()
            .map_err(|error| format!("cannot find the program that is running: {error}"))?;
        Ok(Subject::Started(StartedNodes {
            binary,
            modes,
            nodes: self.nodes()?,
            engine: match &self.engine {
                Some(engine) => of_flag("--engine", engine)?,
                None => Engine::Sled,
            },
            settings: self.set.clone(),
            data_dir: self.data_dir.clone().unwrap_or_else(std::env::temp_dir),
        }))
    }

    fn nodes(&self) -> Result<u16, String> {
        let Some(nodes) = &self.nodes else { return Ok(DEFAULT_NODES) };
        Ok(number("--nodes", nodes, 1..=MAX_NODES, |text| text.parse().ok())? as u16)
    }

    /// Nodes that run already are what they are.
    fn only_targets(&self) -> Result<(), String> {
        let data_dir = self.data_dir.as_ref().map(|dir| dir.display().to_string());
        let given = [
            ("--mode", self.mode.as_ref()),
            ("--nodes", self.nodes.as_ref()),
            ("--engine", self.engine.as_ref()),
            ("--set", self.set.first()),
            ("--data-dir", data_dir.as_ref()),
        ];
        match given.into_iter().find_map(|(flag, text)| text.map(|text| (flag, text))) {
            Some((flag, text)) => Err(format!(
                "{flag} {text}: expected only without --targets, whose nodes are what they are"
            )),
            None => Ok(()),
        }
    }
}

/// What a flag says, by the rules of its type, whose complaint names the value and what is allowed.
fn of_flag<T: std::str::FromStr<Err: Display>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|problem| format!("{flag}: {problem}"))
}

/// The same for a list.
fn each<T>(
    flag: &str,
    text: &str,
    one: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let all = text.split(',').map(|part| one(part.trim()));
    all.collect::<Result<_, _>>().map_err(|problem| format!("{flag}: {problem}"))
}

fn number(
    flag: &str,
    text: &str,
    allowed: RangeInclusive<u64>,
    read: impl Fn(&str) -> Option<u64>,
) -> Result<u64, String> {
    let found = read(text).filter(|number| allowed.contains(number));
    found.ok_or_else(|| {
        format!("{flag} {text}: expected a number from {} to {}", allowed.start(), allowed.end())
    })
}

fn numbers(
    flag: &str,
    text: &str,
    allowed: RangeInclusive<u64>,
    read: impl Fn(&str) -> Option<u64>,
) -> Result<Vec<usize>, String> {
    let one = |part: &str| read(part).filter(|number| allowed.contains(number));
    let all = text.split(',').map(|part| one(part.trim()).map(|number| number as usize));
    all.collect::<Option<_>>().ok_or_else(|| {
        format!(
            "{flag} {text}: expected numbers from {} to {} with commas between them",
            allowed.start(),
            allowed.end()
        )
    })
}

fn times(flag: &str, text: Option<&str>) -> Result<u32, String> {
    let times = text.map(|text| number(flag, text, 1..=MAX_KILLS, |text| text.parse().ok()));
    Ok(times.transpose()?.unwrap_or(0) as u32)
}

fn time(flag: &str, text: &str) -> Result<Duration, String> {
    parse_time(text).map_err(|problem| format!("{flag} {text}: {problem}"))
}

/// A time, or 0 for none.
fn time_or_none(flag: &str, text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s" | "0ms") { Ok(Duration::ZERO) } else { time(flag, text) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| format!("--targets {text}: expected HOST:PORT of a node's client port"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn read(line: &str) -> Result<BenchOptions, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.args.understood()
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let options = read("").expect("nothing needs to be said");
        assert_eq!(options.connections, [64]);
        assert_eq!(options.value_bytes, [256]);
        assert_eq!((options.keys, options.mixes.len(), options.seed), (10_000, 1, 42));
        assert!(options.events.is_empty() && !options.is_open() && !options.load);
        let Subject::Started(started) = options.subject else { panic!("its own cluster") };
        assert_eq!((started.modes, started.nodes), (vec![Mode::Leader], 3));
    }

    #[test]
    fn everything_can_be_said() {
        let options = read(
            "--mode both --engine memory --nodes 5 --connections 1,16,64 --value-size 256,16k \
             --keys 1m --mix put,get,50/50,local-get --consistency quorum --duration 500ms \
             --warmup 0 --load --rate 5k --max-in-flight 100 --seed 7 --set leader.heartbeat_ms=50 \
             --set log=debug",
        )
        .expect("it makes sense");
        assert_eq!(options.connections, [1, 16, 64]);
        assert_eq!(options.value_bytes, [256, 16_384]);
        assert_eq!((options.keys, options.rate_per_second), (1_000_000, Some(5_000)));
        assert_eq!(options.warm_up, Duration::ZERO);
        let mixes: Vec<String> = options.mixes.iter().map(ToString::to_string).collect();
        assert_eq!(mixes, ["put", "get", "50/50", "local-get"]);
        let levels = options.mixes.iter().map(|mix| options.level_of(*mix));
        let levels: Vec<_> = levels.map(|level| level.map(|level| level.as_str())).collect();
        assert_eq!(levels, [None, Some("quorum"), Some("quorum"), Some("local")]);
        let running = read("--targets 127.0.0.1:1,127.0.0.1:2").expect("it makes sense");
        assert!(matches!(running.subject, Subject::Running(nodes) if nodes.len() == 2));
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_flag_the_value_and_what_is_allowed() {
        for (line, parts) in [
            ("--connections 1,x", &["--connections 1,x", "1 to 4096"][..]),
            ("--connections 0", &["--connections 0", "1 to 4096"]),
            ("--value-size 16kb", &["--value-size 16kb", "1 to 8388608"]),
            ("--keys 0", &["--keys 0", "1 to 100000000"]),
            ("--nodes 10", &["--nodes 10", "1 to 9"]),
            ("--mode leeder", &["--mode leeder", "leaderless or both"]),
            ("--engine rocks", &["--engine", "'rocks'", "'sled', 'fjall' or 'memory'"]),
            ("--mix puts", &["--mix", "'puts'", "50/50"]),
            ("--rate 0", &["--rate 0", "1 to 1000000"]),
            ("--duration soon", &["--duration soon", "500ms"]),
            ("--duration 0s", &["--duration 0s", "500ms"]),
            ("--watch 1ms", &["--watch", "100 ms or more"]),
            ("--watch often", &["--watch often", "500ms"]),
            ("--watch 1s --restart", &["--watch", "plain rows"]),
            ("--watch 1s --targets 127.0.0.1:1", &["--watch", "no --targets"]),
            ("--seed -1", &["--seed -1", "expected a number"]),
            ("--rate -5", &["--rate -5", "1 to 1000000"]),
            ("--set a", &["--set a", "NAME=VALUE"]),
            ("--set leader.hartbeat=1", &["--set leader.hartbeat=1", "leader.heartbeat_ms"]),
            ("--set leader.heartbeat_ms=soon", &["leader.heartbeat_ms = 'soon'", "--set"]),
            ("--set mode=leader", &["--set mode=leader", "bench itself decides"]),
            ("--targets 127.0.0.1:1 --nodes 3", &["--nodes 3", "without --targets"]),
            ("--targets nowhere", &["--targets nowhere", "HOST:PORT"]),
            ("--mix get --consistency strong", &["--consistency", "'strong'", "local"]),
            ("--consistency local", &["--consistency local", "--mix with reads"]),
            ("--mode leaderless --mix lease-get", &["--mix lease", "quorum or local"]),
            (
                "--mode leaderless --mix get --consistency linearizable",
                &["--consistency linearizable", "quorum or local in leaderless mode"],
            ),
            ("--rate 10 --max-in-flight 8", &["--max-in-flight 8", "64"]),
            ("--kill-leader 0", &["--kill-leader 0", "1 to 1000"]),
            ("--kill-leader 2 --mix get", &["--mix get", "--kill-leader"]),
            ("--stop-leader 2 --mode both", &["--stop-leader 2", "--kill-follower"]),
            ("--stop-leader 2 --mix get", &["--mix get", "--stop-leader"]),
            ("--kill-leader 2 --mode both", &["--kill-leader 2", "--kill-follower"]),
            ("--kill-follower 2 --nodes 1", &["--kill-follower 2", "2 --nodes"]),
            ("--pause-follower 2 --nodes 1", &["--pause-follower 2", "2 --nodes"]),
            ("--pause-follower 2 --mix get", &["--mix get", "--pause-follower"]),
            ("--kill-leader 2 --connections 1,2", &["--connections", "one with --kill-leader"]),
            ("--restart --targets 127.0.0.1:1", &["--restart", "no --targets"]),
            ("--snapshot --nodes 2", &["--snapshot", "3 --nodes"]),
            ("--snapshot --mode both", &["--snapshot", "--mode leader"]),
            ("--snapshot --mix get", &["--mix get", "--snapshot"]),
            ("--away 0", &["--away 0", "1 to"]),
            ("--grow", &["--grow", "--mode leaderless"]),
            ("--grow --mode leaderless --nodes 5", &["--grow", "3 --nodes"]),
            ("--away 10 --nodes 5", &["--away 10", "3 --nodes"]),
            ("--away 10 --mix get", &["--mix get", "--away"]),
        ] {
            let problem = read(line).expect_err(line);
            assert!(parts.iter().all(|part| problem.contains(part)), "{line}: {problem}");
            assert!(!problem.contains('\n'), "{line}: {problem}");
        }
    }
}
