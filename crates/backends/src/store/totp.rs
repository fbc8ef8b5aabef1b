use contract::Secret;
use rusqlite::{OptionalExtension as _, params};

use super::{Store, StoreError, to_sql, users};
use crate::random::random_bytes;
use crate::totp::SECRET_LEN;

impl Store {
    /// Gives the user a new secret for one-time codes, in place of any before, and ends what was
    /// proved without it; returns the secret, which is shown this once.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user.
    pub fn make_totp(&self, name: &str) -> Result<Secret, StoreError> {
        let secret = Secret::new(random_bytes::<SECRET_LEN>());
        self.write(|transaction| {
            users::prove_again(transaction, name)?;
            transaction.execute(
                "INSERT OR REPLACE INTO totp (user, secret, last_step) VALUES (?1, ?2, -1)",
                params![name, secret.expose()],
            )?;
            Ok(())
        })?;
        Ok(secret)
    }

    /// The user needs no one-time code any more.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user.
    pub fn clear_totp(&self, name: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            users::prove_again(transaction, name)?;
            transaction.execute("DELETE FROM totp WHERE user = ?1", [name])?;
            Ok(())
        })
    }

    /// Whether the user has to show a one-time code.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn has_totp(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.totp(name)?.is_some())
    }

    pub(crate) fn totp(&self, name: &str) -> Result<Option<Secret>, StoreError> {
        let secret = self
            .connection()
            .prepare_cached("SELECT secret FROM totp WHERE user = ?1")?
            .query_row([name], |row| row.get::<_, Vec<u8>>(0))
            .map(Secret::new)
            .optional()?;
        Ok(secret)
    }

    /// Marks the step's code as used; false if it, or a later one, has been used before.
    pub(crate) fn use_totp(&self, name: &str, step: u64) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let used = transaction.execute(
                "UPDATE totp SET last_step = ?2 WHERE user = ?1 AND last_step < ?2",
                params![name, to_sql(step)],
            )?;
            Ok(used == 1)
        })
    }
}
