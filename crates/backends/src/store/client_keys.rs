use openvpn::{ClientKey, ClientKeyId, Metadata, ServerKey};
use rusqlite::{Connection, Row, params};

use super::{Store, StoreError, from_sql, to_sql, users};
use crate::clock;
use crate::random::random_bytes;

/// A client key that we have made: for one profile, and recognised before TLS begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredClientKey {
    /// In lower-case hexadecimal.
    pub id: String,
    /// For whom.
    pub user: String,
    /// The serial number of the certificate in the same profile, if there is one.
    pub certificate: Option<String>,
    /// Made at this second since 1970.
    pub issued: u64,
    /// Revoked at this second since 1970.
    pub revoked: Option<u64>,
}

/// A client key as given out once.
#[derive(Debug)]
pub struct IssuedClientKey {
    /// What it is called in the list, in lower-case hexadecimal.
    pub id: String,
    /// What goes into the profile.
    pub key: ClientKey,
}

impl Store {
    /// Makes a client key for a profile of the user, and writes down that it exists; `certificate`
    /// is the serial number of the certificate in the same profile. The key is in the answer only.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user.
    pub fn issue_client_key(
        &self,
        server_key: &ServerKey,
        user: &str,
        certificate: Option<&str>,
    ) -> Result<IssuedClientKey, StoreError> {
        let now = clock::now();
        let id = ClientKeyId(random_bytes());
        let material = openvpn::StaticKey::from_bytes(random_bytes());
        let key = server_key
            .wrap(&material, &Metadata::write(now, id))
            .expect("metadata of ours is 25 bytes long");
        let id = id.to_string();
        self.write(|transaction| {
            if !users::exists(transaction, user)? {
                return Err(StoreError::NoSuchUser(user.to_owned()));
            }
            transaction.execute(
                "INSERT INTO client_keys (id, user, certificate, issued) VALUES (?1, ?2, ?3, ?4)",
                params![id, user, certificate, to_sql(now)],
            )?;
            Ok(())
        })?;
        Ok(IssuedClientKey { id, key })
    }

    /// Client keys, oldest first: the user's, or everybody's.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn client_keys(&self, user: Option<&str>) -> Result<Vec<StoredClientKey>, StoreError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(
            "SELECT id, user, certificate, issued, revoked FROM client_keys \
             WHERE ?1 IS NULL OR user = ?1 ORDER BY issued, id",
        )?;
        let keys = select.query_map([user], client_key)?.collect::<Result<_, _>>()?;
        Ok(keys)
    }

    /// The keys that open no door any more.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn revoked_client_keys(&self) -> Result<Vec<ClientKeyId>, StoreError> {
        let connection = self.connection();
        let mut select =
            connection.prepare_cached("SELECT id FROM client_keys WHERE revoked IS NOT NULL")?;
        let ids = select.query_map([], |row| row.get::<_, String>(0))?;
        let mut revoked = Vec::new();
        for id in ids {
            let mut bytes = [0; 16];
            if hex::decode_to_slice(id?, &mut bytes).is_ok() {
                revoked.push(ClientKeyId(bytes));
            }
        }
        Ok(revoked)
    }

    /// Whether this key opens no door any more.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn is_client_key_revoked(&self, id: &str) -> Result<bool, StoreError> {
        let connection = self.connection();
        let mut select = connection
            .prepare_cached("SELECT 1 FROM client_keys WHERE id = ?1 AND revoked IS NOT NULL")?;
        Ok(select.exists([id])?)
    }

    /// Revokes a client key, and the certificate that was given out with it; one that is revoked
    /// already keeps its date.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchClientKey`], or the database's.
    pub fn revoke_client_key(&self, id: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            let now = to_sql(clock::now());
            let changed = transaction.execute(
                "UPDATE client_keys SET revoked = coalesce(revoked, ?2) WHERE id = ?1",
                params![id, now],
            )?;
            if changed == 0 {
                return Err(StoreError::NoSuchClientKey(id.to_owned()));
            }
            transaction.execute(
                "UPDATE certificates SET revoked = ?2 WHERE revoked IS NULL AND serial = \
                 (SELECT certificate FROM client_keys WHERE id = ?1)",
                params![id, now],
            )?;
            Ok(())
        })
    }
}

/// Revokes the key that came with a certificate.
pub(super) fn revoke_with_certificate(
    connection: &Connection,
    serial: &str,
) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE client_keys SET revoked = ?2 WHERE certificate = ?1 AND revoked IS NULL",
        params![serial, to_sql(clock::now())],
    )
}

/// Revokes all of a user's keys.
pub(super) fn revoke_of_user(connection: &Connection, user: &str) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE client_keys SET revoked = ?2 WHERE user = ?1 AND revoked IS NULL",
        params![user, to_sql(clock::now())],
    )
}

fn client_key(row: &Row<'_>) -> rusqlite::Result<StoredClientKey> {
    Ok(StoredClientKey {
        id: row.get(0)?,
        user: row.get(1)?,
        certificate: row.get(2)?,
        issued: from_sql(row.get(3)?),
        revoked: row.get::<_, Option<i64>>(4)?.map(from_sql),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::{Identity, NewUser, Pools};

    fn store_with(names: &[&str]) -> (Scratch, Store, Identity) {
        let scratch = Scratch::new();
        let store = scratch.store();
        for name in names {
            let user = NewUser { name: (*name).to_owned(), password: None, fixed: Vec::new() };
            store.add_user(&user, &Pools::default()).unwrap();
        }
        let identity = Identity::load_or_create(&store).unwrap();
        (scratch, store, identity)
    }

    fn revoked(store: &Store) -> Vec<String> {
        store.revoked_client_keys().unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_says_which_it_is_to_the_server_that_made_it() {
        let (_scratch, store, identity) = store_with(&["alice"]);

        let issued = store.issue_client_key(&identity.client_keys, "alice", Some("aa")).unwrap();

        let metadata = identity.client_keys.unwrap(issued.key.wrapped()).unwrap().metadata;
        assert_eq!(metadata.id.unwrap().to_string(), issued.id);
        let stored = store.client_keys(Some("alice")).unwrap().remove(0);
        assert_eq!((stored.id, stored.certificate.as_deref()), (issued.id, Some("aa")));
        assert_eq!((metadata.issued, stored.revoked), (Some(stored.issued), None));
        let nobody = store.issue_client_key(&identity.client_keys, "bob", None);
        assert!(matches!(nobody, Err(StoreError::NoSuchUser(_))), "{nobody:?}");
    }

    #[test]
    fn a_profile_is_revoked_as_a_whole_by_either_of_its_keys() {
        let (_scratch, store, identity) = store_with(&["alice"]);
        let profile = || {
            let certificate =
                store.issue_certificate(&identity.authority, "alice", 30).unwrap().facts.serial;
            let key =
                store.issue_client_key(&identity.client_keys, "alice", Some(&certificate)).unwrap();
            (certificate, key.id)
        };
        let (one, two, three) = (profile(), profile(), profile());
        let before = store.generation().unwrap();

        store.revoke(&one.0).unwrap();
        assert_eq!(revoked(&store), [one.1.as_str()]);
        store.revoke_client_key(&two.1).unwrap();
        let left = store.certificates("alice").unwrap();
        let good = left.iter().filter(|certificate| certificate.revoked.is_none());
        assert_eq!(good.map(|certificate| &certificate.serial).collect::<Vec<_>>(), [&three.0]);

        assert!(store.generation().unwrap() > before, "a running server looks again");
        assert_eq!(revoked(&store).len(), 2);
        let unknown = store.revoke_client_key("00");
        assert!(matches!(unknown, Err(StoreError::NoSuchClientKey(_))), "{unknown:?}");
    }

    #[test]
    fn a_user_who_is_removed_leaves_revoked_keys() {
        let (_scratch, store, identity) = store_with(&["alice", "bob"]);
        let alice = store.issue_client_key(&identity.client_keys, "alice", None).unwrap();
        store.issue_client_key(&identity.client_keys, "bob", None).unwrap();

        store.remove_user("alice").unwrap();

        assert_eq!(revoked(&store), [alice.id]);
        assert_eq!(store.client_keys(None).unwrap().len(), 2);
    }
}
