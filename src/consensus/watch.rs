//! The project's watched value as the one openraft waits on, so that simulated worlds replay.

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};

use crate::runtime::watch::{self, Receiver, Ref, Sender};

/// See the module.
#[derive(Debug)]
pub struct SeamWatch;

/// A [`Sender`] under openraft's trait.
pub struct SeamSender<T>(Sender<T>);

/// A [`Receiver`] under openraft's trait.
pub struct SeamReceiver<T>(Receiver<T>);

impl<T> Clone for SeamSender<T> {
    fn clone(&self) -> Self {
        SeamSender(self.0.clone())
    }
}

impl<T> Clone for SeamReceiver<T> {
    fn clone(&self) -> Self {
        SeamReceiver(self.0.clone())
    }
}

impl Watch for SeamWatch {
    type Sender<T: OptionalSend + OptionalSync> = SeamSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = SeamReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        (SeamSender(sender), SeamReceiver(receiver))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<SeamWatch, T> for SeamSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receiver_count() == 0 {
            return Err(SendError(value));
        }
        self.0.send_replace(value);
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> SeamReceiver<T> {
        SeamReceiver(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<SeamWatch, T> for SeamReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.0.borrow_and_update()
    }
}
