//! A watch channel that wakes its waiters in the order in which they came.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

use openraft::async_runtime::{WatchSender, watch};
use openraft::{OptionalSend, OptionalSync};

#[derive(Debug)]
struct Channel<T> {
    value: RwLock<T>,
    state: Mutex<Waiters>,
}

#[derive(Debug)]
struct Waiters {
    version: u64,
    senders: usize,
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

/// The sending side; clones share the channel.
#[derive(Debug)]
pub struct Sender<T>(Arc<Channel<T>>);

/// The receiving side.
#[derive(Debug)]
pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

impl<T> Channel<T> {
    fn state(&self) -> MutexGuard<'_, Waiters> {
        self.state.lock().expect("nothing panics while it holds the channel")
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().expect("nothing panics while it writes the value")
    }

    fn wake(&self, change: impl FnOnce(&mut Waiters)) {
        let waiting = {
            let mut state = self.state();
            change(&mut state);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    fn notify(&self) {
        self.wake(|state| state.version += 1);
    }
}

impl<T> Sender<T> {
    fn new(value: T) -> Self {
        let state = Waiters { version: 0, senders: 1, waiting: BTreeMap::new(), next: 0 };
        Self(Arc::new(Channel { value: RwLock::new(value), state: Mutex::new(state) }))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.wake(|state| state.senders -= 1);
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), seen: self.seen }
    }
}

struct Changed<'r, T> {
    receiver: &'r mut Receiver<T>,
    place: Option<u64>,
}

impl<T> Future for Changed<'_, T> {
    type Output = Result<(), watch::RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { receiver, place } = &mut *self;
        let mut state = receiver.channel.state();
        if state.version != receiver.seen {
            receiver.seen = state.version;
            return Poll::Ready(Ok(()));
        }
        if state.senders == 0 {
            return Poll::Ready(Err(watch::RecvError(())));
        }
        let at = *place.get_or_insert(state.next);
        state.next = state.next.max(at + 1);
        state.waiting.insert(at, context.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for Changed<'_, T> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.receiver.channel.state().waiting.remove(&place);
        }
    }
}

/// The channel as openraft uses it.
#[derive(Debug)]
pub struct Watch;

impl watch::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let sender = Sender::new(init);
        let receiver = sender.subscribe();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        self.send_if_modified(|slot| {
            *slot = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let mut slot = self.0.value.write().expect("nothing panics while it writes the value");
        let modified = modify(&mut *slot);
        drop(slot);
        if modified {
            self.0.notify();
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.state().version;
        Receiver { channel: self.0.clone(), seen }
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        Changed { receiver: self, place: None }.await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.channel.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        self.seen = self.channel.state().version;
        self.channel.read()
    }
}

#[cfg(test)]
mod tests {
    use openraft::async_runtime::WatchReceiver;

    use super::*;

    #[tokio::test]
    async fn who_waited_first_is_woken_first_and_news_are_not_missed() {
        let sender = Sender::new(0);
        let order: Arc<Mutex<Vec<u32>>> = Arc::default();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut receiver, order) = (sender.subscribe(), order.clone());
            tasks.spawn(async move {
                while *receiver.borrow_and_update() != 2 {
                    receiver.changed().await.unwrap();
                }
                order.lock().unwrap().push(number);
            });
        }
        tokio::task::yield_now().await;
        sender.send(1).unwrap();
        tokio::task::yield_now().await;
        sender.send(2).unwrap();
        while tasks.join_next().await.is_some() {}
        assert!(order.lock().unwrap().is_sorted());
        let mut receiver = sender.subscribe();
        sender.send(3).unwrap();
        receiver.changed().await.unwrap();
        drop(sender);
        assert!(receiver.changed().await.is_err());
    }
}
