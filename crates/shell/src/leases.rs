//! Leases on disk: the hub hands them on, a thread writes them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use backends::Store;
use hub::{LeaseMemory, StoredLease};

use crate::clock;

/// Remembers leases in the store without making the hub wait for the disk.
#[derive(Debug)]
pub(crate) struct StoreMemory {
    store: Arc<Store>,
    /// One entry per login, written faster than logins are judged.
    queue: Mutex<Option<Sender<StoredLease>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl StoreMemory {
    pub(crate) fn new(store: Arc<Store>) -> std::io::Result<Self> {
        let (queue, leases) = channel();
        let writer = std::thread::Builder::new().name("leases".to_owned()).spawn({
            let store = Arc::clone(&store);
            move || write(&store, &leases)
        })?;
        Ok(Self { store, queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(writer)) })
    }
}

impl Drop for StoreMemory {
    fn drop(&mut self) {
        // Closing the queue ends the writer once everything is written.
        drop(self.queue.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

impl LeaseMemory for StoreMemory {
    fn load(&self) -> Vec<StoredLease> {
        match self.store.leases() {
            Ok(leases) => leases
                .into_iter()
                .map(|lease| StoredLease {
                    user: lease.user,
                    device: lease.device,
                    ipv4: lease.ipv4,
                    ipv6: lease.ipv6,
                })
                .collect(),
            Err(error) => {
                tracing::error!(%error, "leases cannot be read: devices may get new addresses");
                Vec::new()
            }
        }
    }

    fn remember(&self, lease: &StoredLease) {
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = queue.send(lease.clone());
        }
    }

    fn forget(&self, user: &str, device: &str) {
        // Without addresses it is no lease any more.
        self.remember(&StoredLease {
            user: user.to_owned(),
            device: device.to_owned(),
            ipv4: None,
            ipv6: None,
        });
    }
}

fn write(store: &Store, leases: &Receiver<StoredLease>) {
    while let Ok(first) = leases.recv() {
        let batch = std::iter::once(first).chain(leases.try_iter().take(255));
        let last_used = clock::now();
        let batch = batch
            .map(|lease| backends::StoredLease {
                user: lease.user,
                device: lease.device,
                ipv4: lease.ipv4,
                ipv6: lease.ipv6,
                last_used,
            })
            .collect::<Vec<_>>();
        if let Err(error) = store.remember_leases(&batch) {
            tracing::error!(%error, "leases cannot be written: devices may get new addresses");
        }
    }
}
