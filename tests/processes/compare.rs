//! `quorate compare` with the architecture that waits for its leader.

use std::path::Path;
use std::process::{Command, Output};

/// The whole command. The kill is the experiment in which a fixed leader differs.
fn compare(contestants: &str, out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["compare", "--quick", "--only", "killed-node", "--contestants", contestants])
        .arg("--out")
        .arg(out)
        .output()
        .expect("the binary runs")
}

#[test]
fn a_fixed_leader_that_is_killed_is_waited_for_and_the_report_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = compare("fixed-leader", dir.path());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said.contains("writes did not come back until the node did"), "{said}");
    let read = |name| std::fs::read_to_string(dir.path().join(name)).expect("written");
    let results: serde_json::Value = serde_json::from_str(&read("results.json")).expect("JSON");
    let contestant = &results["contestants"][0];
    assert_eq!(contestant["name"], "fixed-leader");
    assert_eq!((&contestant["mode"], &contestant["fixed_leader"]), (&"leader".into(), &1.into()));
    let run = &contestant["killed_node"]["figures"];
    assert_eq!((&run["node"], &run["was_leader"]), (&1.into(), &true.into()), "{run}");
    let at_ms = |name: &str| run[name].as_f64().unwrap_or_else(|| panic!("no {name}: {run}"));
    assert!(at_ms("killed_ms") + at_ms("first_write_ms") >= at_ms("restarted_ms"), "{run}");
    assert!(read("report.md").contains("fixed-leader: writes did not come back until"));
    assert!(dir.path().join("histories/fixed-leader-killed-node.jsonl").exists());
}
