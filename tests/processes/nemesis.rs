//! Every kind of fault there is strikes a cluster of real nodes under load, and every promise holds;
//! and where data really is lost, that is found.

use std::fs;
use std::path::Path;
use std::time::Duration;

use quorate::config::Engine;
use quorate::lab::nemesis::{AttachOptions, Campaign, Family, Plan, SegmentReport, attach};
use quorate::runtime::Runtime;
use quorate::types::Mode;
use tempfile::TempDir;

use super::trial::Trial;

/// Any would do; the same one gives the same faults in the same order.
const SEED: u64 = 20;

#[tokio::test]
async fn leader_mode_keeps_its_promises_under_every_kind_of_fault() {
    every_kind_of_fault(Engine::Sled, Mode::Leader).await;
}

#[tokio::test]
async fn fjall_keeps_its_promises_under_every_kind_of_fault() {
    every_kind_of_fault(Engine::Fjall, Mode::Leader).await;
}

#[tokio::test]
async fn leaderless_mode_keeps_its_promises_under_every_kind_of_fault() {
    every_kind_of_fault(Engine::Sled, Mode::Leaderless).await;
}

#[tokio::test]
async fn leader_mode_over_wiped_disks_is_found_to_have_lost_writes() {
    wiped_disks_are_found(Mode::Leader).await;
}

#[tokio::test]
async fn leaderless_mode_over_wiped_disks_is_found_to_have_lost_writes() {
    wiped_disks_are_found(Mode::Leaderless).await;
}

#[tokio::test]
async fn a_cluster_that_something_else_breaks_is_loaded_and_checked_too() {
    let mut trial = Trial::start(Mode::Leader, &[]).await;
    let out = TempDir::new().expect("a directory");
    let options = AttachOptions {
        addresses: trial.cluster.addresses(),
        load_for: Duration::from_secs(1),
        seed: SEED,
        out: out.path().to_owned(),
    };
    let runtime = trial.runtime.clone();
    let report = runtime.spawn({
        let runtime = runtime.clone();
        async move { attach(&runtime, &options).await }
    });
    trial.cluster.kill(1).expect("killed");
    trial.restart(1).await;
    let report = report.await.expect("no panic").expect("the evidence is written");
    assert_eq!((report.broken(), report.unverified()), (Vec::new(), Vec::new()));
    assert!(report.acknowledged > 0 && report.directory.join("history.jsonl").exists());
}

fn plan(engine: Engine, mode: Mode, families: &[Family], out: &Path) -> Plan {
    Plan {
        binary: env!("CARGO_BIN_EXE_quorate").into(),
        mode,
        nodes: 3,
        engine,
        families: families.to_vec(),
        seed: SEED,
        out: out.to_owned(),
    }
}

async fn every_kind_of_fault(engine: Engine, mode: Mode) {
    let out = TempDir::new().expect("a directory");
    let plan = plan(engine, mode, &Family::ALL, out.path());
    let mut campaign = Campaign::start(&Runtime::real(), plan).await.expect("it starts");
    let not_tried = campaign.not_tried().to_vec();
    for not_tried in &not_tried {
        eprintln!("!!! NOT TRIED: {}: {}", not_tried.family, not_tried.reason);
        assert_eq!(not_tried.family, Family::Disk, "only a full disk needs root");
    }
    let mut struck: Vec<Family> = Vec::new();
    let mut segment = campaign.begin().await.expect("every node serves");
    // As many cycles as there are kinds of faults: each comes first once.
    for _ in 0..Family::ALL.len() - not_tried.len() {
        let cycle = campaign.draw();
        struck.push(cycle.faults[0].family());
        let ended = segment.cycle(&mut campaign.field, &cycle).await;
        if let Err(error) = ended {
            let kept = keep(&mut campaign, out);
            panic!("{cycle:?}: {error:#}; data and logs are kept under {kept}");
        }
    }
    for panic in campaign.field.cluster.panics().expect("the logs are readable") {
        segment.note_problem(panic);
    }
    let report = segment.finish(SEED, out.path()).await.expect("the evidence is written");
    struck.sort_unstable();
    struck.extend(not_tried.iter().map(|not_tried| not_tried.family));
    assert_eq!(struck, Family::ALL);
    if !report.broken().is_empty() || !report.unverified().is_empty() {
        let (broken, unverified) = (report.broken(), report.unverified());
        let kept = keep(&mut campaign, out);
        panic!("broken: {broken:#?}; not verified: {unverified:#?}; all is kept under {kept}");
    }
    assert_it_was_a_real_trial(&report, &campaign);
}

/// Nothing can be concluded from faults that did not happen, or from an idle cluster.
fn assert_it_was_a_real_trial(report: &SegmentReport, campaign: &Campaign) {
    let examined = |name: &str| -> u64 {
        report.findings.iter().filter(|f| f.check == name).map(|f| f.examined).sum()
    };
    for name in ["lost-write", "value-from-nowhere", "stale-read", "read-went-back"] {
        assert!(examined(name) > 0, "nothing to check for {name}");
    }
    let links = campaign.links();
    let cut = links.held + links.refused;
    let happened = [links.carried, cut, links.delayed, links.dripped, links.reset];
    assert!(happened.iter().all(|count| *count > 0), "{links:?}");
    assert!(report.kills > 0 && report.acknowledged > 0, "{report:?}");
    let marks = fs::read_to_string(report.directory.join("nemesis.jsonl")).expect("marks");
    let lines = |event: &str| marks.lines().filter(|line| line.contains(event)).count();
    assert!(lines(r#""event":"fault""#) >= report.cycles as usize, "{marks}");
    assert!(lines(r#""event":"ready""#) > report.cycles as usize, "{marks}");
}

async fn wiped_disks_are_found(mode: Mode) {
    let out = TempDir::new().expect("a directory");
    let plan = plan(Engine::Sled, mode, &[Family::Kill], out.path());
    let mut campaign = Campaign::start(&Runtime::real(), plan).await.expect("it starts");
    let mut segment = campaign.begin().await.expect("every node serves");
    segment.until_every_node_serves().await.expect("every node acknowledges more");
    segment.end_load().await.expect("the load ends");
    for index in 0..3 {
        campaign.field.cluster.kill(index).expect("killed");
        fs::remove_dir_all(campaign.field.cluster.data_dir(index)).expect("wiped");
    }
    for index in 0..3 {
        campaign.field.cluster.restart(index).expect("started");
    }
    campaign.field.cluster.wait_until_ready().await.expect("a new cluster");
    let report = segment.finish(SEED, out.path()).await.expect("the evidence is written");
    let lost = report.broken().iter().any(|broken| broken.starts_with("lost-write"));
    assert!(lost, "every disk was wiped and no loss was found: {:#?}", report.findings);
}

/// Keeps everything that a failed trial left behind; says where.
fn keep(campaign: &mut Campaign, out: TempDir) -> String {
    let data = campaign.keep_evidence();
    let at = out.keep().display().to_string();
    match data {
        Ok(_) => at,
        Err(error) => format!("{at}, but for the data: {error:#}"),
    }
}
