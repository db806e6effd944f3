//! A steady load of puts and gets whose every answer is remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate::history::{Ended, Op};
use quorate::lab::load::{Ask, LabClient, Scene};
use quorate::runtime::Task;
use quorate::types::Key;

use super::trial::{LOOK_EVERY, PATIENCE};

/// How many clients ask at a time, any node each time.
const CLIENTS: usize = 8;
/// The pause between two requests of a client, so that the load is steady and not as much as the
/// machine can take: other tests run beside it.
const PAUSE: Duration = Duration::from_millis(10);

/// Clients at work.
pub struct Load {
    scene: Arc<Scene>,
    shared: Arc<Shared>,
    clients: Vec<Task<Vec<Op>>>,
}

struct Shared {
    keys: Vec<Key>,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Starts clients that put and get `keys` through all nodes.
    pub fn start(scene: &Arc<Scene>, keys: &[Key]) -> Load {
        let shared = Arc::new(Shared {
            keys: keys.to_vec(),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let client =
            |_| scene.runtime.spawn(one_client(scene.client(), scene.clone(), shared.clone()));
        let clients = (0..CLIENTS).map(client).collect();
        Load { scene: scene.clone(), shared, clients }
    }

    /// Waits until `count` more writes than now are acknowledged.
    pub async fn acknowledge(&self, count: u64, when: &str) {
        let runtime = &self.scene.runtime;
        let deadline = runtime.now() + PATIENCE;
        let acknowledged = || self.shared.acknowledged.load(Ordering::Relaxed);
        let before = acknowledged();
        while acknowledged() < before + count {
            assert!(
                runtime.now() < deadline,
                "{when}: {} of {count} writes acknowledged within {} s",
                acknowledged() - before,
                PATIENCE.as_secs()
            );
            runtime.sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the load; every operation with what became of it.
    pub async fn stop(self) -> Vec<Op> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut ops = Vec::new();
        for client in self.clients {
            ops.extend(client.await.expect("a client does not panic"));
        }
        ops
    }
}

async fn one_client(mut client: LabClient, scene: Arc<Scene>, shared: Arc<Shared>) -> Vec<Op> {
    let ask = Ask::default_for(scene.mode);
    while !shared.stop.load(Ordering::Relaxed) {
        let node = client.random.below(scene.nodes.len());
        let key = &shared.keys[client.random.below(shared.keys.len())];
        if client.random.below(3) == 0 {
            client.get(node, key, ask).await;
        } else if client.put(node, key).await.ended == Ended::Ok {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        scene.runtime.sleep(PAUSE).await;
    }
    client.ops
}
