//! The Ethernet side of the network: its hardware address, and the forgetting of others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::{Store, StoreError, random_bytes};
use hub::Segment;
use tracing::warn;
use wire::ethernet::Mac;

/// How often silent hardware addresses are looked for.
const AGE_EVERY: Duration = Duration::from_secs(5);

/// The segment of the network that `store` belongs to. Its hardware address is the same after a
/// restart, so that stations find the network again at once: it is made of what is random in the
/// network's IPv6 range.
pub(super) fn new(store: &Store) -> Result<Arc<Segment>, StoreError> {
    let [_, a, b, c, d, e, ..] = store.unique_local_prefix()?.addr().octets();
    let seed = u64::from_ne_bytes(random_bytes());
    Ok(Arc::new(Segment::new(Mac([0x02, a, b, c, d, e]), seed, Instant::now())))
}

/// Lets the segment forget, for as long as the future lives.
pub(super) async fn keep_fresh(segment: Arc<Segment>) {
    let mut every = tokio::time::interval(AGE_EVERY);
    let mut apart = BTreeSet::new();
    loop {
        every.tick().await;
        let now = Instant::now();
        segment.age(now);
        let former = std::mem::replace(&mut apart, segment.apart(now).into_iter().collect());
        for port in apart.difference(&former) {
            warn!(
                port = port.0,
                "a member is on the bridged network itself, too: it stays off the segment until a minute after its own bridge is gone"
            );
        }
    }
}
