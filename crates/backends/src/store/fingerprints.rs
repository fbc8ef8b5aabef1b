use rusqlite::{OptionalExtension as _, params};

use super::{Store, StoreError, to_sql, users};
use crate::clock;

/// Certificates that one user may have registered: everyone's fit into memory.
pub const MAX_FINGERPRINTS: u32 = 32;

impl Store {
    /// Changes which certificates let a user in by nothing but their SHA-256 (OpenVPN's
    /// `peer-fingerprint`): adds these and removes those, or does neither. One that the user has
    /// already is not added twice.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user, one to add is another user's or one too many, or one to
    /// remove is not this user's.
    pub fn change_fingerprints(
        &self,
        name: &str,
        add: &[[u8; 32]],
        remove: &[[u8; 32]],
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if !users::exists(transaction, name)? {
                return Err(StoreError::NoSuchUser(name.to_owned()));
            }
            for fingerprint in remove {
                let removed = transaction.execute(
                    "DELETE FROM peer_fingerprints WHERE fingerprint = ?1 AND user = ?2",
                    params![fingerprint, name],
                )?;
                if removed == 0 {
                    return Err(StoreError::NoSuchFingerprint { user: name.to_owned() });
                }
            }
            for fingerprint in add {
                let owner: Option<String> = transaction
                    .query_row(
                        "SELECT user FROM peer_fingerprints WHERE fingerprint = ?1",
                        [fingerprint],
                        |row| row.get(0),
                    )
                    .optional()?;
                match owner {
                    Some(owner) if owner == name => continue,
                    Some(user) => return Err(StoreError::FingerprintTaken { user }),
                    None => {}
                }
                transaction.execute(
                    "INSERT INTO peer_fingerprints (fingerprint, user, added) VALUES (?1, ?2, ?3)",
                    params![fingerprint, name, to_sql(clock::now())],
                )?;
            }
            let count: u32 = transaction.query_row(
                "SELECT count(*) FROM peer_fingerprints WHERE user = ?1",
                [name],
                |row| row.get(0),
            )?;
            if count > MAX_FINGERPRINTS {
                return Err(StoreError::TooManyFingerprints { user: name.to_owned() });
            }
            Ok(())
        })
    }

    /// The fingerprints of the certificates that let a user in, the first one first; or of
    /// everybody's.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn fingerprints(&self, name: Option<&str>) -> Result<Vec<[u8; 32]>, StoreError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(
            "SELECT fingerprint FROM peer_fingerprints WHERE ?1 IS NULL OR user = ?1 \
             ORDER BY added, fingerprint",
        )?;
        let found = select.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(found)
    }

    /// Whom the certificate with this SHA-256 lets in.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn user_of_fingerprint(
        &self,
        fingerprint: &[u8; 32],
    ) -> Result<Option<String>, StoreError> {
        let user = self
            .connection()
            .prepare_cached("SELECT user FROM peer_fingerprints WHERE fingerprint = ?1")?
            .query_row([fingerprint], |row| row.get(0))
            .optional()?;
        Ok(user)
    }
}
