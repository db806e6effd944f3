//! Flags of a node, and `quorate config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, complain};
use crate::config::{Origin, RawSettings, Resolved, SettingsError};

/// The settings that have flags of their own; every other is reached with `--set`.
#[derive(Args)]
pub(super) struct SettingsArgs {
    /// This node's id: a small positive number, never reused
    #[arg(long)]
    id: Option<String>,
    /// The architecture: leader or leaderless
    #[arg(long)]
    mode: Option<String>,
    /// Where to listen for clients
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where to listen for peers
    #[arg(long, value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// The address that clients are told, where it is not the one listened on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Every node of a new cluster, this one included
    #[arg(long, value_name = "ID=HOST:PORT,...")]
    peers: Option<String>,
    /// Join the running cluster that the node with this client address is of
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// What a node that joins becomes: voter (once it has caught up) or learner
    #[arg(long, value_name = "ROLE")]
    join_as: Option<String>,
    /// The data directory of this node
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The table engine: sled, fjall or memory
    #[arg(long)]
    engine: Option<String>,
    /// The node that leads for ever, the same on every node (leader mode)
    #[arg(long, value_name = "ID")]
    fixed_leader: Option<String>,
    /// What to log: error, warn, info, debug, trace or a filter
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Any setting that `quorate config print` shows
    #[arg(long = "set", value_name = "SETTING=VALUE")]
    set: Vec<String>,
    /// A TOML file with settings; QUORATE_CONFIG names one too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl SettingsArgs {
    /// The settings from defaults, the file, the environment and these flags.
    pub(super) fn resolve(&self) -> Result<Resolved, SettingsError> {
        let mut raw = RawSettings::default();
        let from_environment = || std::env::var_os("QUORATE_CONFIG").map(PathBuf::from);
        if let Some(path) = self.config.clone().or_else(from_environment) {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(&path)
                .map_err(|error| SettingsError(format!("{shown}: cannot be read: {error}")))?;
            raw.add_file(&shown, &text)?;
        }
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        raw.add_environment(std::env::vars_os().filter_map(readable))?;
        for (name, value) in self.flags() {
            if let Some(text) = value {
                let name_alone = name.rsplit('.').next().unwrap_or(name);
                let flag = format!("--{}", name_alone.replace('_', "-"));
                raw.add(name, text.clone(), Origin::Flag(flag))?;
            }
        }
        for pair in &self.set {
            let (name, text) = pair
                .split_once('=')
                .ok_or_else(|| SettingsError(format!("--set {pair}: expected setting=value")))?;
            raw.add(name.trim(), text.trim().to_owned(), Origin::Flag("--set".to_owned()))?;
        }
        raw.resolve()
    }

    fn flags(&self) -> [(&'static str, &Option<String>); 12] {
        [
            ("id", &self.id),
            ("mode", &self.mode),
            ("listen", &self.listen),
            ("peer_listen", &self.peer_listen),
            ("advertise", &self.advertise),
            ("peers", &self.peers),
            ("join", &self.join),
            ("join_as", &self.join_as),
            ("data_dir", &self.data_dir),
            ("engine", &self.engine),
            ("leader.fixed_leader", &self.fixed_leader),
            ("log", &self.log),
        ]
    }
}

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the settings, and say what is wrong with them
    Check(SettingsArgs),
    /// Show every setting, its value, and where it came from
    Print(SettingsArgs),
}

pub(super) fn config(command: &ConfigCommand) -> Exit {
    let (args, print) = match command {
        ConfigCommand::Check(args) => (args, false),
        ConfigCommand::Print(args) => (args, true),
    };
    let resolved = match args.resolve() {
        Ok(resolved) => resolved,
        Err(error) => {
            complain(error);
            return Exit::Usage;
        }
    };
    if !print {
        println!("the settings are valid");
        return Exit::Done;
    }
    let rows = resolved.rows();
    let names = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let values = rows.iter().map(|row| row.1.len()).max().unwrap_or(0).min(40);
    for (name, value, origin, help) in rows {
        println!("{name:names$} = {value:values$}  # {origin}; {help}");
    }
    Exit::Done
}
