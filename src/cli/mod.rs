//! The command line.
//!
//! Exit codes: 0 done, 1 failed, 2 unknown outcome or unknown verdict, 3 precondition failed, 4 not
//! found, 64 usage. Output is for people on a terminal, and plain or JSON elsewhere.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::types::Mode;

mod bench;
mod check;
mod client;
mod cluster;
mod compare;
mod demo;
mod explain;
mod join;
mod layout;
mod leadership;
mod members;
mod nemesis;
mod real_files;
mod repair;
mod serve;
mod settings;
mod simulate;

/// What a command ends with; the numbers are the process's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    Failed = 1,
    Unknown = 2,
    PreconditionFailed = 3,
    NotFound = 4,
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A replicated key-value store with two architectures behind one HTTP API: a Raft-elected leader,
/// or leaderless quorum writes with read repair.
#[derive(Parser)]
#[command(name = "quorate", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node
    Serve(settings::SettingsArgs),
    /// Start a throw-away cluster, and print its addresses and lines to try
    Demo(demo::DemoArgs),
    /// Put each architecture through the same loads and the same fault, check them, and write a report
    Compare(compare::CompareArgs),
    /// Put load on a throw-away cluster, or on running nodes, and say what it costs
    Bench(Box<bench::BenchArgs>),
    /// Run whole clusters under faults in simulated time, from seeds, and check what they promise
    Sim(simulate::SimArgs),
    /// Kill, pause, cut off and mislead the nodes of a throw-away cluster under load, and check it
    Nemesis(nemesis::NemesisArgs),
    /// Start nodes on real data directories after cuts, kills, full disks and rot, and check them
    RealFiles(real_files::RealFilesArgs),
    /// Check recorded histories against what each level promises
    Check(check::CheckArgs),
    /// Read a key
    Get(client::GetArgs),
    /// Write a key
    Put(client::PutArgs),
    /// Delete a key
    Delete(client::DeleteArgs),
    /// List keys in order
    List(client::ListArgs),
    /// Show what each replica holds of a key, who is behind, and what reads would return
    Explain(explain::ExplainArgs),
    /// Ask about the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Ask whether a node can serve; for health checks
    Health(client::HealthArgs),
    /// Look at the settings a node would run with
    #[command(subcommand)]
    Config(settings::ConfigCommand),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version are no mistakes; clap writes them to standard output.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = error.print();
            return exit.into();
        }
    };
    let exit = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Sim(args) => simulate::run(&args),
        Command::Nemesis(args) => nemesis::run(&args),
        Command::RealFiles(args) => real_files::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Get(args) => client::get(&args),
        Command::Put(args) => client::put(&args),
        Command::Delete(args) => client::delete(&args),
        Command::List(args) => client::list(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Cluster(command) => cluster::cluster(&command),
        Command::Health(args) => client::health(&args),
        Command::Config(command) => settings::config(&command),
    };
    exit.into()
}

/// Says what went wrong, in one line, on standard error.
fn complain(problem: impl std::fmt::Display) {
    eprintln!("quorate: {problem}");
}

/// A tokio runtime for a command; what goes wrong is said.
fn tokio_runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        complain(format!("cannot start the runtime: {error}"));
        Exit::Failed
    })
}

/// Reads `--mode` where it may name both modes.
fn modes(text: &str) -> Result<Vec<Mode>, Exit> {
    if text == "both" {
        return Ok(Mode::ALL.to_vec());
    }
    text.parse().map(|mode| vec![mode]).map_err(|_: String| {
        complain(format!("--mode {text}: expected leader, leaderless or both"));
        Exit::Usage
    })
}
