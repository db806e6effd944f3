//! A watched value: one place that senders change and receivers wait on.
//!
//! **Why our own.** tokio's `watch` spreads its waiters over eight lists by unseeded randomness, so
//! that two tasks that wait on one value wake in an order of their own in every run, and a
//! simulated world does not replay. This one has the same shape and wakes in the order of waiting.
//!
//! **Guarantees.** A receiver that waits after a change it has not seen returns at once; no change
//! is missed, though several may be seen as one. Waiters wake in the order in which they began.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// A look at the value; holds it still, so drop it before the next await.
pub type Ref<'a, T> = RwLockReadGuard<'a, T>;

struct Shared<T> {
    value: RwLock<T>,
    /// Raised by each change, under the value's lock.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    changed: Notify,
    /// Woken when the last receiver goes.
    deserted: Notify,
}

/// Every sender of the value is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody is left to change the value")]
pub struct Closed;

/// Changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

/// Looks at the value, and waits for changes.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A watched value with a sender and a receiver, which has seen the first value.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A watched value without receivers.
    pub fn new(value: T) -> Sender<T> {
        Sender(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            changed: Notify::new(),
            deserted: Notify::new(),
        }))
    }

    /// Changes the value where `change` says that it did; gives what `change` said.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.value.write();
        let changed = change(&mut value);
        if changed {
            self.0.version.fetch_add(1, Ordering::Release);
        }
        drop(value);
        if changed {
            self.0.changed.notify_waiters();
        }
        changed
    }

    /// Changes the value, and gives the one before.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_if_modified(|current| {
            std::mem::swap(current, &mut value);
            true
        });
        value
    }

    /// A receiver that has seen the value as it is now.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::AcqRel);
        let value = self.0.value.read();
        let seen = self.0.version.load(Ordering::Acquire);
        drop(value);
        Receiver { shared: self.0.clone(), seen }
    }

    /// A look at the value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.value.read()
    }

    /// How many receivers there are.
    pub fn receiver_count(&self) -> usize {
        self.0.receivers.load(Ordering::Acquire)
    }

    /// Waits until there is no receiver.
    pub async fn closed(&self) {
        loop {
            let mut deserted = std::pin::pin!(self.0.deserted.notified());
            deserted.as_mut().enable();
            if self.receiver_count() == 0 {
                return;
            }
            deserted.await;
        }
    }
}

impl<T> Receiver<T> {
    /// A look at the value; what changed is still to be seen by [`Receiver::changed`].
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.read()
    }

    /// A look at the value, which is seen by that.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.version.load(Ordering::Acquire);
        value
    }

    /// Waits for a change that was not seen; it is seen by that.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // On the list before the look, so that no change falls in between.
            changed.as_mut().enable();
            let version = self.shared.version.load(Ordering::Acquire);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.senders.load(Ordering::Acquire) == 0 {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Waits until the value is as `wanted` says, and gives a look at it.
    pub async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            // A block, so that the look does not outlive the decision.
            let fits = { wanted(&self.borrow_and_update()) };
            if fits {
                return Ok(self.shared.value.read());
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::AcqRel);
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::AcqRel);
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.shared.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.deserted.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::runtime::{Runtime, in_a_paused_world};

    #[test]
    fn waiters_wake_in_the_order_in_which_they_began() {
        in_a_paused_world(async {
            let runtime = Runtime::simulated(1, 0);
            let sender = Sender::new(0);
            let woken = Arc::new(Mutex::new(Vec::new()));
            for number in 0..100 {
                let (mut receiver, woken) = (sender.subscribe(), woken.clone());
                runtime.spawn(async move {
                    receiver.changed().await.expect("a change");
                    woken.lock().push(number);
                });
            }
            runtime.sleep(Duration::from_millis(1)).await;
            sender.send_replace(1);
            runtime.sleep(Duration::from_millis(1)).await;
            assert_eq!(*woken.lock(), (0..100).collect::<Vec<_>>());
        });
    }

    #[test]
    fn no_change_is_missed_and_the_end_is_told() {
        in_a_paused_world(async {
            let (sender, mut receiver) = channel(1);
            sender.send_replace(2);
            assert_eq!(receiver.changed().await, Ok(()));
            assert_eq!(*receiver.borrow(), 2);
            assert!(!sender.send_if_modified(|_| false));
            let late = sender.clone();
            drop(sender);
            late.send_replace(3);
            drop(late);
            assert_eq!(receiver.wait_for(|value| *value == 3).await.map(|value| *value), Ok(3));
            assert_eq!(receiver.changed().await, Err(Closed));
        });
    }

    #[test]
    fn a_sender_learns_that_nobody_listens_any_more() {
        in_a_paused_world(async {
            let (sender, receiver) = channel(());
            let more = receiver.clone();
            assert_eq!(sender.receiver_count(), 2);
            drop(receiver);
            let runtime = Runtime::simulated(1, 0);
            runtime.spawn(async move {
                tokio::task::yield_now().await;
                drop(more);
            });
            sender.closed().await;
            assert_eq!(sender.receiver_count(), 0);
        });
    }
}
