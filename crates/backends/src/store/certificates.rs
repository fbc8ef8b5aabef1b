use contract::{CertificateId, DenyReason};
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Store, StoreError, client_keys, from_sql, to_sql, users};
use crate::authority::{Authority, Issued};
use crate::clock;

/// A certificate that we have issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredCertificate {
    /// In lower-case hexadecimal.
    pub serial: String,
    /// For whom.
    pub user: String,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
    /// Good until this second since 1970.
    pub not_after: u64,
    /// Issued at this second since 1970.
    pub issued: u64,
    /// Revoked at this second since 1970.
    pub revoked: Option<u64>,
}

/// Whether somebody who came in once is still welcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Yes.
    Welcome,
    /// No.
    Unwelcome(DenyReason),
}

impl Store {
    /// Issues a certificate for one of the user's devices, valid for `days`, and writes it down.
    /// The private key is in the answer only.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user.
    pub fn issue_certificate(
        &self,
        authority: &Authority,
        user: &str,
        days: u32,
    ) -> Result<Issued, StoreError> {
        let now = clock::now();
        let issued = authority.issue_client(user, now, days)?;
        let facts = &issued.facts;
        self.write(|transaction| {
            if !users::exists(transaction, user)? {
                return Err(StoreError::NoSuchUser(user.to_owned()));
            }
            transaction.execute(
                "INSERT INTO certificates (serial, user, fingerprint, not_after, issued) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![facts.serial, user, facts.fingerprint, facts.not_after, to_sql(now)],
            )?;
            Ok(())
        })?;
        Ok(issued)
    }

    /// The user's certificates, oldest first.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn certificates(&self, user: &str) -> Result<Vec<StoredCertificate>, StoreError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(&format!(
            "{SELECT_CERTIFICATE} WHERE user = ?1 ORDER BY issued, serial"
        ))?;
        let certificates = select.query_map([user], certificate)?.collect::<Result<_, _>>()?;
        Ok(certificates)
    }

    /// The certificate with this SHA-256 fingerprint, if we have issued it.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn certificate_by_fingerprint(
        &self,
        fingerprint: &[u8; 32],
    ) -> Result<Option<StoredCertificate>, StoreError> {
        let found = self
            .connection()
            .prepare_cached(&format!("{SELECT_CERTIFICATE} WHERE fingerprint = ?1"))?
            .query_row([fingerprint], certificate)
            .optional()?;
        Ok(found)
    }

    /// Revokes a certificate, and the client key that was given out with it; one that is revoked
    /// already keeps its date.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchCertificate`], or the database's.
    pub fn revoke(&self, serial: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            let changed = transaction.execute(
                "UPDATE certificates SET revoked = coalesce(revoked, ?2) WHERE serial = ?1",
                params![serial, to_sql(clock::now())],
            )?;
            if changed == 0 {
                Err(StoreError::NoSuchCertificate(serial.to_owned()))
            } else {
                client_keys::revoke_with_certificate(transaction, serial)?;
                Ok(())
            }
        })
    }

    /// Revokes all of a user's certificates and client keys; says how many certificates were still
    /// good.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn revoke_user_certificates(&self, user: &str) -> Result<usize, StoreError> {
        self.write(|transaction| {
            client_keys::revoke_of_user(transaction, user)?;
            Ok(transaction.execute(
                "UPDATE certificates SET revoked = ?2 WHERE user = ?1 AND revoked IS NULL",
                params![user, to_sql(clock::now())],
            )?)
        })
    }

    /// Says whether a live session may go on: the user is there and enabled, and the certificate it
    /// came with (if any) is not revoked if it is ours, and still the user's if it is registered;
    /// what an outside CA says of its own is not known here. Asked when
    /// [`generation`](Self::generation) moved.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn standing(
        &self,
        user: &str,
        certificate: Option<&CertificateId>,
    ) -> Result<Standing, StoreError> {
        let Some(account) = self.account(user)? else {
            return Ok(Standing::Unwelcome(DenyReason::BadCredentials));
        };
        if !account.enabled {
            return Ok(Standing::Unwelcome(DenyReason::AccountDisabled));
        }
        let good = match certificate {
            None | Some(CertificateId::Outside { .. }) => true,
            Some(CertificateId::Own(serial)) => self
                .connection()
                .prepare_cached(
                    "SELECT 1 FROM certificates WHERE serial = ?1 AND user = ?2 AND \
                     revoked IS NULL",
                )?
                .exists([serial.as_str(), user])?,
            Some(CertificateId::Registered(fingerprint)) => {
                self.user_of_fingerprint(fingerprint)?.as_deref() == Some(user)
            }
        };
        Ok(if good { Standing::Welcome } else { Standing::Unwelcome(DenyReason::Revoked) })
    }
}

const SELECT_CERTIFICATE: &str =
    "SELECT serial, user, fingerprint, not_after, issued, revoked FROM certificates";

fn certificate(row: &Row<'_>) -> rusqlite::Result<StoredCertificate> {
    Ok(StoredCertificate {
        serial: row.get(0)?,
        user: row.get(1)?,
        fingerprint: row.get(2)?,
        not_after: from_sql(row.get(3)?),
        issued: from_sql(row.get(4)?),
        revoked: row.get::<_, Option<i64>>(5)?.map(from_sql),
    })
}
