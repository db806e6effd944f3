//! From raw settings, as people write them, to validated [`Settings`].
//!
//! Raw settings are name, text and origin; later layers win. What comes out is checked whole, and
//! an error names the setting, the text, where it came from, and what is allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::Settings;
use super::keys::{FIRST, KEYS, address};
use crate::types::{Mode, NodeId};

/// Where a setting came from; later origins win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    File(String),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => f.write_str(path),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

/// Settings as they were written, before anything is checked. Later entries win.
#[derive(Clone, Debug, Default)]
pub struct RawSettings {
    entries: BTreeMap<String, (String, Origin)>,
}

impl RawSettings {
    /// Takes the settings of a TOML text; `path` is for messages.
    pub fn add_file(&mut self, path: &str, text: &str) -> Result<(), SettingsError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| SettingsError(format!("{path}: not valid TOML: {error}")))?;
        for (name, value) in table {
            match value {
                toml::Value::Table(section) if name != "peers" => {
                    for (inner, value) in section {
                        self.add_toml(path, format!("{name}.{inner}"), &value)?;
                    }
                }
                value => self.add_toml(path, name, &value)?,
            }
        }
        Ok(())
    }

    fn add_toml(
        &mut self,
        path: &str,
        name: String,
        value: &toml::Value,
    ) -> Result<(), SettingsError> {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Table(peers) if name == "peers" => peers
                .iter()
                .map(|(id, address)| format!("{id}={}", address.as_str().unwrap_or("?")))
                .collect::<Vec<_>>()
                .join(","),
            other => {
                let kind = other.type_str();
                let problem = format!("{path}: {name} is {kind}: expected text or a whole number");
                return Err(SettingsError(problem));
            }
        };
        self.add(&name, text, Origin::File(path.to_owned()))
    }

    /// Takes the `QUORATE_*` variables among `variables`; an unknown one is an error.
    pub fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), SettingsError> {
        let known: BTreeMap<String, &str> = names()
            .map(|name| (format!("QUORATE_{}", name.replace('.', "_").to_uppercase()), name))
            .collect();
        for (variable, text) in variables {
            if !variable.starts_with("QUORATE_") || variable == "QUORATE_CONFIG" {
                continue;
            }
            let Some(name) = known.get(&variable) else {
                let all = known.keys().cloned().collect::<Vec<_>>().join(", ");
                let problem = format!("{variable}: no such setting; known are {all}");
                return Err(SettingsError(problem));
            };
            self.add(name, text, Origin::Environment(variable))?;
        }
        Ok(())
    }

    /// Takes one setting.
    pub fn add(&mut self, name: &str, text: String, origin: Origin) -> Result<(), SettingsError> {
        if !names().any(|known| known == name) {
            let all = names().collect::<Vec<_>>().join(", ");
            let problem = format!("{name} (from {origin}): no such setting; known are {all}");
            return Err(SettingsError(problem));
        }
        self.entries.insert(name.to_owned(), (text, origin));
        Ok(())
    }

    /// Checks everything, and fills in what was not said.
    pub fn resolve(self) -> Result<Resolved, SettingsError> {
        let id: NodeId = self.first("id", None)?;
        let mode: Mode = self.first("mode", Some("leader"))?;
        let own = format!("{id}=127.0.0.1:{}", 8_000 + u32::from(id.0));
        let peers = self.first_with("peers", Some(&own), parse_peers)?;
        let Some(peer_address) = peers.get(&id) else {
            let all = peers.keys().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
            return Err(SettingsError(format!("id = {id}: not among the peers, which are {all}")));
        };
        let mut settings = Settings::defaults(id, mode, peers.clone());
        settings.peer_listen = peer_address.clone();
        settings.listen = format!("127.0.0.1:{}", 7_000 + u32::from(id.0));
        settings.data_dir = PathBuf::from(format!("data/{mode}/{id}"));
        for key in KEYS {
            if let Some((text, origin)) = self.entries.get(key.name) {
                (key.set)(&mut settings, text).map_err(|problem| {
                    SettingsError(format!("{} = '{text}' (from {origin}): {problem}", key.name))
                })?;
            }
        }
        if settings.join.is_some() {
            self.check_join(&mut settings)?;
        }
        if !self.entries.contains_key("advertise") {
            settings.advertise = settings.listen.clone();
        }
        if !self.entries.contains_key("leaderless.read_quorum") {
            settings.leaderless.read_quorum = settings.leaderless.replicas / 2 + 1;
        }
        if !self.entries.contains_key("leaderless.write_quorum") {
            settings.leaderless.write_quorum = settings.leaderless.replicas / 2 + 1;
        }
        check_together(&settings)?;
        let origins = self.entries.into_iter().map(|(name, (_, origin))| (name, origin)).collect();
        Ok(Resolved { settings, origins })
    }

    /// A node that joins learns its peers from the cluster; its own address is all it has to say.
    fn check_join(&self, settings: &mut Settings) -> Result<(), SettingsError> {
        let id = settings.node_id;
        let problem = if settings.peers.len() > 1 {
            format!(
                "join and peers: a node that joins learns its peers from the cluster: leave peers \
                 out, or give where the others reach this node alone, as in {id}=host:port"
            )
        } else if self.entries.contains_key("peers") {
            return Ok(());
        } else if settings.peer_listen.starts_with("0.0.0.0:")
            || settings.peer_listen.starts_with("[::]:")
        {
            format!(
                "join: the others cannot reach this node at {}: say where they do, with \
                 --peers {id}=host:port",
                settings.peer_listen
            )
        } else {
            settings.peers = BTreeMap::from([(id, settings.peer_listen.clone())]);
            return Ok(());
        };
        Err(SettingsError(problem))
    }

    fn first<T>(&self, name: &str, default: Option<&str>) -> Result<T, SettingsError>
    where
        T: std::str::FromStr,
        T::Err: fmt::Display,
    {
        self.first_with(name, default, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    fn first_with<T>(
        &self,
        name: &str,
        default: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, SettingsError> {
        let (text, origin) = match (self.entries.get(name), default) {
            (Some((text, origin)), _) => (text.as_str(), origin.clone()),
            (None, Some(default)) => (default, Origin::Default),
            (None, None) => {
                let variable = name.to_uppercase();
                return Err(SettingsError(format!(
                    "{name} is not set: give --{name}, QUORATE_{variable}, or '{name}' in the file"
                )));
            }
        };
        parse(text).map_err(|problem| {
            SettingsError(format!("{name} = '{text}' (from {origin}): {problem}"))
        })
    }
}

/// Validated settings, and where each that is no default came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub settings: Settings,
    origins: BTreeMap<String, Origin>,
}

impl Resolved {
    /// Every setting: name, value, origin and what it means.
    pub fn rows(&self) -> Vec<(&'static str, String, Origin, &'static str)> {
        let settings = &self.settings;
        let peers = settings.peers.iter().map(|(id, at)| format!("{id}={at}")).collect::<Vec<_>>();
        let first = [
            ("id", settings.node_id.to_string(), "this node's id, never reused"),
            ("mode", settings.mode.to_string(), "the architecture: leader or leaderless"),
            ("peers", peers.join(","), "every node: id=host:port,id=host:port"),
        ];
        let rest = KEYS.iter().map(|key| (key.name, (key.get)(settings), key.help));
        first
            .into_iter()
            .chain(rest)
            .map(|(name, value, help)| {
                let origin = self.origins.get(name).cloned().unwrap_or(Origin::Default);
                (name, value, origin, help)
            })
            .collect()
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    FIRST.into_iter().chain(KEYS.iter().map(|key| key.name))
}

/// Reads `1=host:port,2=host:port`.
fn parse_peers(text: &str) -> Result<BTreeMap<NodeId, String>, String> {
    let mut peers: BTreeMap<NodeId, String> = BTreeMap::new();
    for part in text.split(',') {
        let shape = || format!("'{part}' is no peer: expected id=host:port");
        let (id, at) = part.trim().split_once('=').ok_or_else(shape)?;
        let id: NodeId = id.trim().parse().map_err(|error| format!("{error}"))?;
        let at = address(at.trim()).map_err(|_| shape())?;
        if let Some((other, _)) = peers.iter().find(|(_, known)| **known == at) {
            return Err(format!("nodes {other} and {id} have the same address {at}"));
        }
        if peers.insert(id, at).is_some() {
            return Err(format!("id {id} is given twice; each node has an id of its own"));
        }
    }
    Ok(peers)
}

/// What one setting demands of another.
fn check_together(settings: &Settings) -> Result<(), SettingsError> {
    let leader = &settings.leader;
    let leaderless = &settings.leaderless;
    let limits = &settings.limits;
    let nodes = settings.peers.len();
    // One that joins is told how many replicas there are, and how many are a quorum.
    let founds = settings.join.is_none();
    let problem = if leader.election_timeout_min >= leader.election_timeout_max {
        "leader.election_timeout_min_ms must be below leader.election_timeout_max_ms".to_owned()
    } else if leader.heartbeat * 2 > leader.election_timeout_min {
        "leader.election_timeout_min_ms must be at least twice leader.heartbeat_ms".to_owned()
    } else if leader.fixed_leader.is_some() && settings.mode != Mode::Leader {
        "leader.fixed_leader is for leader mode: leave it out in leaderless mode".to_owned()
    } else if let Some(fixed) =
        leader.fixed_leader.filter(|id| settings.join.is_none() && !settings.peers.contains_key(id))
    {
        let all = settings.peers.keys().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
        format!("leader.fixed_leader = {fixed}: not among the peers, which are {all}")
    } else if founds && usize::from(leaderless.replicas) > nodes {
        let replicas = leaderless.replicas;
        format!("leaderless.replicas = {replicas}: there are only {nodes} nodes in peers")
    } else if founds && leaderless.read_quorum > leaderless.replicas {
        let (r, n) = (leaderless.read_quorum, leaderless.replicas);
        format!("leaderless.read_quorum = {r}: at most leaderless.replicas = {n}")
    } else if founds && leaderless.write_quorum > leaderless.replicas {
        let (w, n) = (leaderless.write_quorum, leaderless.replicas);
        format!("leaderless.write_quorum = {w}: at most leaderless.replicas = {n}")
    } else if !leaderless.tombstone_grace.is_zero()
        && leaderless.tombstone_grace < 4 * leaderless.max_clock_drift.max(limits.request_timeout)
    {
        "leaderless.tombstone_grace_ms must be 0, or at least four times \
         leaderless.max_clock_drift_ms and four times limits.request_timeout_ms"
            .to_owned()
    } else if limits.max_batch_bytes < limits.max_value_bytes {
        "limits.max_batch_bytes must be at least limits.max_value_bytes".to_owned()
    } else if settings.listen == settings.peer_listen {
        format!("listen and peer_listen are both {}: two ports are needed", settings.listen)
    } else {
        return Ok(());
    };
    Err(SettingsError(problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::JoinAs;

    const PEERS: &str = "1=127.0.0.1:8001,2=127.0.0.1:8002,3=127.0.0.1:8003";

    fn raw(pairs: &[(&str, &str)]) -> RawSettings {
        let mut raw = RawSettings::default();
        for (name, text) in pairs {
            raw.add(name, (*text).to_owned(), Origin::Flag(format!("--{name}"))).expect(name);
        }
        raw
    }

    fn problem(pairs: &[(&str, &str)]) -> String {
        raw(pairs).resolve().expect_err("a settings error").0
    }

    #[test]
    fn later_layers_win_and_origins_are_kept() {
        let mut raw = RawSettings::default();
        let file = "id = 2\nmode = \"leader\"\n[leader]\nheartbeat_ms = 50\n\
                    [peers]\n1 = \"a:1\"\n2 = \"b:2\"\n3 = \"c:3\"\n";
        raw.add_file("q.toml", file).expect("a file");
        let variables = [("QUORATE_MODE", "leaderless"), ("PATH", "/bin")];
        raw.add_environment(variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())))
            .expect("variables");
        raw.add("id", "3".to_owned(), Origin::Flag("--id".to_owned())).expect("a flag");
        let resolved = raw.resolve().expect("settings");
        assert_eq!(resolved.settings.node_id, NodeId(3));
        assert_eq!(resolved.settings.mode, Mode::Leaderless);
        assert_eq!(resolved.settings.peer_listen, "c:3");
        assert_eq!(resolved.settings.listen, "127.0.0.1:7003");
        let origin = |name| resolved.rows().into_iter().find(|row| row.0 == name).map(|row| row.2);
        assert_eq!(origin("id"), Some(Origin::Flag("--id".to_owned())));
        assert_eq!(origin("mode"), Some(Origin::Environment("QUORATE_MODE".to_owned())));
        assert_eq!(origin("leader.heartbeat_ms"), Some(Origin::File("q.toml".to_owned())));
        assert_eq!(origin("listen"), Some(Origin::Default));
    }

    #[test]
    fn an_unknown_or_wrong_setting_is_named_with_its_origin_and_what_is_allowed() {
        let mut raw_file = RawSettings::default();
        let unknown = raw_file.add_file("q.toml", "id = 1\nhartbeat = 3").expect_err("unknown").0;
        assert!(unknown.contains("hartbeat (from q.toml)") && unknown.contains("heartbeat_ms"));
        let wrong = raw_file.add_file("q.toml", "id = true").expect_err("wrong type").0;
        assert!(wrong.contains("id is boolean"), "{wrong}");
        let variable = [("QUORATE_MODUS".to_owned(), "x".to_owned())].into_iter();
        let variable = raw_file.add_environment(variable).expect_err("unknown variable").0;
        assert!(variable.contains("QUORATE_MODUS") && variable.contains("QUORATE_MODE"));
        let mode = problem(&[("id", "1"), ("mode", "leeder")]);
        assert!(mode.contains("mode = 'leeder' (from --mode)") && mode.contains("'leaderless'"));
        let heartbeat = problem(&[("id", "1"), ("leader.heartbeat_ms", "soon")]);
        assert!(heartbeat.contains("from 5 to 10000"), "{heartbeat}");
    }

    #[test]
    fn peers_are_checked() {
        let with = |peers| problem(&[("id", "1"), ("peers", peers)]);
        assert!(with("1=a:1,1=b:2").contains("id 1 is given twice"));
        assert!(with("1=a:1,2=a:1").contains("same address a:1"));
        assert!(with("1:a").contains("expected id=host:port"));
        assert!(with("0=a:1").contains("not a node id"));
        assert!(with("2=a:1,3=b:2").contains("not among the peers"));
        assert!(problem(&[]).contains("--id"));
    }

    #[test]
    fn a_node_that_joins_says_where_it_is_and_no_more() {
        let pairs = [("id", "4"), ("join", "127.0.0.1:7001")];
        let with = |name, text| problem(&[pairs[0], pairs[1], (name, text)]);
        let settings = raw(&pairs).resolve().expect("settings").settings;
        let own = BTreeMap::from([(NodeId(4), "127.0.0.1:8004".to_owned())]);
        assert_eq!((settings.peers, settings.join_as), (own, JoinAs::Voter));
        assert!(with("peers", "3=a:1,4=b:2").contains("leave peers out"));
        assert!(with("peer_listen", "0.0.0.0:8004").contains("--peers 4=host:port"));
        let told = [pairs[0], pairs[1], ("mode", "leaderless"), ("leaderless.replicas", "3")];
        assert!(raw(&told).resolve().is_ok(), "it is told what the replicas are");
        assert!(with("join_as", "king").contains("'voter' or 'learner'"));
        assert!(problem(&[("id", "4"), ("join", "somewhere")]).contains("expected host:port"));
        let elsewhere = [pairs[0], pairs[1], ("peer_listen", "0.0.0.0:8004"), ("peers", "4=d:8")];
        let settings = raw(&elsewhere).resolve().expect("settings").settings;
        assert_eq!(settings.peers[&NodeId(4)], "d:8");
        let fixed = [pairs[0], pairs[1], ("leader.fixed_leader", "1")];
        assert!(raw(&fixed).resolve().is_ok(), "a leader that it will meet");
    }

    #[test]
    fn settings_are_checked_against_each_other() {
        let with = |name, text| problem(&[("id", "1"), ("peers", PEERS), (name, text)]);
        assert!(with("leaderless.replicas", "4").contains("only 3 nodes"));
        assert!(with("leaderless.write_quorum", "4").contains("at most"));
        assert!(with("leader.heartbeat_ms", "200").contains("twice"));
        assert!(with("listen", "127.0.0.1:8001").contains("two ports"));
    }
}
