//! The database.

mod certificates;
mod client_keys;
mod error;
mod fingerprints;
mod leases;
mod settings;
mod totp;
mod users;

#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::net::Ipv6Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::Secret;
use ipnet::Ipv6Net;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

pub use self::certificates::{Standing, StoredCertificate};
pub use self::client_keys::{IssuedClientKey, StoredClientKey};
pub use self::error::StoreError;
pub use self::fingerprints::MAX_FINGERPRINTS;
pub use self::leases::StoredLease;
pub use self::settings::UserSettings;
pub(crate) use self::users::Account;
pub use self::users::{NewUser, Pools, User};
use crate::random::random_bytes;
use crate::state::StateDir;

/// How long one process waits for another that is writing.
const BUSY: Duration = Duration::from_secs(5);

const ULA: &str = "network.ipv6";

/// Each entry brings the schema one version further; entries are only ever added.
///
/// A certificate keeps its user's name when the user is removed, so that it stays revoked if the
/// name is given out again. The triggers make every change that concerns a live session visible
/// to other processes.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE users (
        name TEXT PRIMARY KEY,
        password TEXT,
        enabled INTEGER NOT NULL DEFAULT 1,
        ipv4 TEXT UNIQUE,
        ipv6 TEXT UNIQUE,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE leases (
        user TEXT NOT NULL,
        device TEXT NOT NULL,
        ipv4 TEXT UNIQUE,
        ipv6 TEXT UNIQUE,
        last_used INTEGER NOT NULL,
        PRIMARY KEY (user, device)
    ) STRICT;
    CREATE TABLE certificates (
        serial TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        fingerprint BLOB NOT NULL UNIQUE,
        not_after INTEGER NOT NULL,
        issued INTEGER NOT NULL,
        revoked INTEGER
    ) STRICT;
    CREATE INDEX certificates_of_user ON certificates (user);
    CREATE TABLE settings (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE generation (number INTEGER NOT NULL) STRICT;
    INSERT INTO generation VALUES (1);
    CREATE TRIGGER user_added AFTER INSERT ON users
        BEGIN UPDATE generation SET number = number + 1; END;
    CREATE TRIGGER user_changed AFTER UPDATE ON users
        BEGIN UPDATE generation SET number = number + 1; END;
    CREATE TRIGGER user_removed AFTER DELETE ON users
        BEGIN UPDATE generation SET number = number + 1; END;
    CREATE TRIGGER certificate_changed AFTER UPDATE ON certificates
        BEGIN UPDATE generation SET number = number + 1; END;
",
    "
    CREATE TABLE client_keys (
        id TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        certificate TEXT,
        issued INTEGER NOT NULL,
        revoked INTEGER
    ) STRICT;
    CREATE INDEX client_keys_of_user ON client_keys (user);
    CREATE INDEX client_keys_of_certificate ON client_keys (certificate);
    CREATE TRIGGER client_key_changed AFTER UPDATE ON client_keys
        BEGIN UPDATE generation SET number = number + 1; END;
",
    "
    CREATE TABLE user_settings (
        user TEXT PRIMARY KEY,
        behind TEXT NOT NULL,
        options TEXT NOT NULL,
        session_limit INTEGER,
        idle_limit INTEGER
    ) STRICT;
    CREATE TRIGGER user_settings_removed AFTER DELETE ON users
        BEGIN DELETE FROM user_settings WHERE user = old.name; END;
",
    "
    ALTER TABLE users ADD COLUMN proof_since INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE totp (
        user TEXT PRIMARY KEY,
        secret BLOB NOT NULL,
        last_step INTEGER NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE peer_fingerprints (
        fingerprint BLOB PRIMARY KEY,
        user TEXT NOT NULL,
        added INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX peer_fingerprints_of_user ON peer_fingerprints (user);
    CREATE TRIGGER peer_fingerprint_added AFTER INSERT ON peer_fingerprints
        BEGIN UPDATE generation SET number = number + 1; END;
    CREATE TRIGGER peer_fingerprint_removed AFTER DELETE ON peer_fingerprints
        BEGIN UPDATE generation SET number = number + 1; END;
    CREATE TRIGGER peer_fingerprints_of_removed AFTER DELETE ON users
        BEGIN DELETE FROM peer_fingerprints WHERE user = old.name; END;
",
];

/// Users, leases, certificates and settings, shared by the server and the command line.
///
/// Every method blocks on the disk, and up to five seconds on another process that is writing.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    path: PathBuf,
}

impl Store {
    /// Opens the database in the state folder, and makes it (mode 0600) if it is not there.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be opened, is damaged, or was written by a newer version.
    pub fn open(state: &StateDir) -> Result<Self, StoreError> {
        let path = state.database();
        let name = path.display().to_string();
        // SQLite gives its journal files the mode of the database.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::Io { path: name.clone(), source })?;
        let connection = Connection::open(&path)
            .and_then(|mut connection| {
                prepare(&connection)?;
                Ok((migrate(&mut connection)?, connection))
            })
            .map_err(|source| StoreError::Open { path: name.clone(), source });
        match connection? {
            (Schema::Current, connection) => Ok(Self { connection: Mutex::new(connection), path }),
            (Schema::Newer, _) => Err(StoreError::Newer { path: name }),
        }
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// A number that grows whenever a user or certificate changes in a way that may concern a
    /// live session, whichever process changed it.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn generation(&self) -> Result<u64, StoreError> {
        let number: i64 = self
            .connection()
            .prepare_cached("SELECT number FROM generation")?
            .query_row([], |row| row.get(0))?;
        Ok(number.unsigned_abs())
    }

    /// What is kept under `key`.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn setting(&self, key: &str) -> Result<Option<Secret>, StoreError> {
        Ok(setting(&self.connection(), key)?)
    }

    /// Keeps `value` under `key`, instead of what was there.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn set_setting(&self, key: &str, value: &Secret) -> Result<(), StoreError> {
        self.write(|transaction| set_setting(transaction, key, value))
    }

    /// What is kept under `key` if it passes `good`; otherwise what `make` makes, which is kept
    /// from then on. Two processes that ask at once get the same.
    ///
    /// # Errors
    ///
    /// Fails if `make` or the database does.
    pub fn setting_or(
        &self,
        key: &str,
        good: impl FnOnce(&Secret) -> bool,
        make: impl FnOnce() -> Result<Secret, StoreError>,
    ) -> Result<Secret, StoreError> {
        self.write(|transaction| {
            if let Some(value) = setting(transaction, key)?.filter(good) {
                return Ok(value);
            }
            let value = make()?;
            set_setting(transaction, key, &value)?;
            Ok(value)
        })
    }

    /// The random private /64 of this server (RFC 4193, 3.2.2), made when first asked for.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn unique_local_prefix(&self) -> Result<Ipv6Net, StoreError> {
        let read = |value: &Secret| -> Option<Ipv6Net> {
            std::str::from_utf8(value.expose()).ok()?.parse().ok()
        };
        let value = self.setting_or(
            ULA,
            |value| read(value).is_some(),
            || {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&random_bytes::<8>());
                octets[0] = 0xfd;
                Ok(Secret::new(format!("{}/64", Ipv6Addr::from(octets))))
            },
        )?;
        Ok(read(&value).expect("it was read or made a moment ago"))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolls it back, so the connection is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in a transaction that no other writer can come between; an error undoes it.
    fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A revocation must survive a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Removed keys and hashes leave no trace in the file.
    connection.pragma_update(None, "secure_delete", "ON")
}

enum Schema {
    Current,
    Newer,
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<Schema> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    let Some(missing) = MIGRATIONS.get(done..) else {
        return Ok(Schema::Newer);
    };
    for (version, migration) in (version + 1..).zip(missing) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.commit()?;
    Ok(Schema::Current)
}

fn setting(connection: &Connection, key: &str) -> rusqlite::Result<Option<Secret>> {
    connection
        .prepare_cached("SELECT value FROM settings WHERE key = ?1")?
        .query_row([key], |row| row.get::<_, Vec<u8>>(0))
        .map(Secret::new)
        .optional()
}

fn set_setting(connection: &Connection, key: &str, value: &Secret) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO settings (key, value) VALUES (?1, ?2)")?
        .execute(params![key, value.expose()])?;
    Ok(())
}

/// SQLite's integers are signed; times and counts of ours are not.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
