//! Certificates that are not our own while the server runs: outside CAs, whose files are followed,
//! and registered ones.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::Config;
use contract::{CertificateId, WallClock};
use host::WatchedFiles;
use pki::OutsideRules;
use tracing::{error, info};

use super::watch::WATCH_EVERY;
use super::{Server, lock};
use crate::driver::SessionInfo;
use crate::outside::{Unusable, blame, rules};

/// How often the files are looked at: what is revoked there is out within five seconds.
pub(super) const FOLLOW_EVERY: Duration = WATCH_EVERY.saturating_mul(2);

/// What is known of the files.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// The stamp of the contents in force; `None` if they cannot be used.
    seen: Option<u64>,
    /// What was last said to be wrong with them.
    told: Option<String>,
}

/// What the files hold, checked, and not in force yet.
#[derive(Debug, Default)]
pub(super) struct ReadOutside {
    rules: Option<OutsideRules>,
    seen: Option<u64>,
}

impl ReadOutside {
    pub(super) fn rules(&self) -> Option<&OutsideRules> {
        self.rules.as_ref()
    }
}

/// Reads what `config` says of outside CAs.
///
/// # Errors
///
/// One line that names the key and the file.
pub(super) async fn first(
    config: &Config,
    files: &WatchedFiles,
    clock: &Arc<WallClock>,
) -> Result<ReadOutside, Unusable> {
    Ok(look(config, files, clock, None).await?.unwrap_or_default())
}

/// The same, but `None` if the files are as they were at `seen`, or there are none.
async fn look(
    config: &Config,
    files: &WatchedFiles,
    clock: &Arc<WallClock>,
    seen: Option<u64>,
) -> Result<Option<ReadOutside>, Unusable> {
    let door = config.doors.openvpn.clone();
    if door.outside.is_none() {
        return Ok(None);
    }
    let (files, clock) = (files.clone(), Arc::clone(clock));
    let read = move || {
        let cannot = |error| format!("doors.openvpn.client_ca: cannot be read: {error}");
        let Some(snapshot) = files.read(seen).map_err(cannot)? else { return Ok(None) };
        let rules = rules(&door, &snapshot, &clock)?;
        Ok(Some(ReadOutside { rules, seen: Some(snapshot.stamp) }))
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| {
        Err(format!("doors.openvpn.client_ca: cannot be read: {error}").into())
    })
}

impl Server {
    /// Reads what `config` says of outside CAs, and changes nothing.
    ///
    /// # Errors
    ///
    /// One line that names the key and the file.
    pub(super) async fn read_outside(&self, config: &Config) -> Result<ReadOutside, Unusable> {
        first(config, &self.0.files, &self.0.clock).await
    }

    /// Whether other CAs stand in the files than the door knows of.
    pub(super) fn has_other_cas(&self, read: &ReadOutside) -> bool {
        let names = |rules: Option<&OutsideRules>| {
            let names = rules.into_iter().flat_map(OutsideRules::names);
            names.map(|name| name.as_ref().to_vec()).collect::<Vec<_>>()
        };
        names(read.rules()) != names(self.0.members.outside().as_deref())
    }

    /// Puts in force what was read; live sessions are looked at again.
    pub(super) fn accept_outside(&self, read: ReadOutside) {
        self.0.members.accept(read.rules.map(Arc::new));
        *lock(&self.0.followed) = Followed { seen: read.seen, told: None };
        self.0.has_new_rules.store(true, Ordering::Relaxed);
    }

    /// Goes on without the outside CAs until their files can be used, and says why.
    pub(super) fn distrust_outside(&self, why: String) {
        self.0.members.distrust();
        error!("{why}: until then certificates that depend on it are refused");
        *lock(&self.0.followed) = Followed { seen: None, told: Some(why) };
    }

    /// Takes up what has changed in the files. What cannot be used lets nobody in whom it
    /// concerns, and is told once.
    pub(super) async fn follow_outside(&self) {
        // A reload reads them itself.
        let Ok(_alone) = self.0.reloading.try_lock() else { return };
        let config = self.config();
        if config.doors.openvpn.outside.is_none() {
            return;
        }
        let (seen, told) = {
            let followed = lock(&self.0.followed);
            (followed.seen, followed.told.clone())
        };
        let why = match look(&config, &self.0.files, &self.0.clock, seen).await {
            Ok(Some(read)) => {
                info!("client_ca and crl were read again: they are in force");
                return self.accept_outside(read);
            }
            Ok(None) => {
                // Handshakes and the authenticator see for themselves that a list is too old.
                let rules = self.0.members.outside();
                let dates = rules.map_or(Ok(()), |rules| rules.check_dates());
                dates.err().map(|error| blame(&config.doors.openvpn, &error))
            }
            Err(unusable) => {
                self.0.members.distrust();
                lock(&self.0.followed).seen = None;
                Some(unusable.line)
            }
        };
        if why != told {
            if let Some(why) = &why {
                error!("{why}: until then certificates that depend on it are refused");
            }
            lock(&self.0.followed).told = why;
        }
    }

    /// Tells handshakes which certificates are registered in the store at this moment. Says whether
    /// that could be done.
    pub async fn tell_registered(&self) -> bool {
        match self.ask_store(|store| store.fingerprints(None)).await {
            Ok(fingerprints) => {
                self.0.members.register(fingerprints.into_iter().collect());
                true
            }
            Err(error) => {
                error!(%error, "the list of registered certificates cannot be read");
                false
            }
        }
    }

    /// Whether the session came with an outside certificate that would be refused today.
    pub(super) async fn has_lost_trust(&self, session: &SessionInfo) -> bool {
        let Some(CertificateId::Outside { chain, .. }) = session.certificate.clone() else {
            return false;
        };
        let (members, user) = (Arc::clone(&self.0.members), session.user.clone());
        self.ask_store(move |_| members.has_lost(&user, &chain)).await
    }
}
