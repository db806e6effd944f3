//! A node that lost its data directory must not come back under its old id.

use std::fs;

use quorate::types::Mode;

use super::trial::{PATIENCE, Trial};

#[tokio::test]
async fn leader_mode_refuses_a_wiped_node_under_its_old_id_and_goes_on() {
    a_wiped_node_is_refused(Mode::Leader).await;
}

#[tokio::test]
async fn leaderless_mode_refuses_a_wiped_node_under_its_old_id_and_goes_on() {
    a_wiped_node_is_refused(Mode::Leaderless).await;
}

async fn a_wiped_node_is_refused(mode: Mode) {
    let mut trial = Trial::start(mode, &[]).await;
    trial.put(1, "kept", "before", "").await;
    // The first is the one that would initialise a new cluster.
    for victim in [0, 2] {
        let id = trial.cluster.ids()[victim];
        trial.cluster.kill(victim).expect("killed");
        let data = trial.cluster.data_dir(victim).to_owned();
        let aside = data.with_extension("aside");
        fs::rename(&data, &aside).expect("moved");

        trial.cluster.restart(victim).expect("the process starts");
        let (status, log) = trial.cluster.ended(victim, PATIENCE).await.expect("it ends");
        assert_eq!(status.code(), Some(1), "{log}");
        let said = log.lines().rfind(|line| line.starts_with("quorate: ")).unwrap_or_default();
        for part in [&format!("node {id}"), "other data", "restore the data directory"] {
            assert!(said.contains(part), "'{part}' is not in '{said}'");
        }

        // The others never took it for the node they know, and serve.
        let value = format!("while node {id} is away");
        trial.put_patiently(1, "while-away", &value).await;
        assert_eq!(trial.get(1, "while-away", "").await, Some(value.clone()));
        assert_eq!(trial.get(1, "kept", "").await.as_deref(), Some("before"));

        // With its own data it is welcome.
        fs::remove_dir_all(&data).expect("removed");
        fs::rename(&aside, &data).expect("moved back");
        trial.restart(victim).await;
        assert_eq!(trial.get(victim, "while-away", "").await, Some(value));
    }
}
