use std::net::{Ipv4Addr, Ipv6Addr};

use rusqlite::{Connection, params};

use super::{Store, StoreError, from_sql, to_sql};

/// The addresses a device had last, to be given to it again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredLease {
    /// Whose.
    pub user: String,
    /// Which of the user's devices.
    pub device: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Seconds since 1970.
    pub last_used: u64,
}

impl Store {
    /// Every lease, longest unused first.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn leases(&self) -> Result<Vec<StoredLease>, StoreError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(
            "SELECT user, device, ipv4, ipv6, last_used FROM leases ORDER BY last_used, user, \
             device",
        )?;
        let leases = select.query_map([], |row| {
            Ok(StoredLease {
                user: row.get(0)?,
                device: row.get(1)?,
                ipv4: row.get::<_, Option<String>>(2)?.and_then(|text| text.parse().ok()),
                ipv6: row.get::<_, Option<String>>(3)?.and_then(|text| text.parse().ok()),
                last_used: from_sql(row.get(4)?),
            })
        })?;
        Ok(leases.collect::<Result<_, _>>()?)
    }

    /// Remembers a lease instead of the device's earlier one; whoever had one of its addresses
    /// before loses it.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn remember_lease(&self, lease: &StoredLease) -> Result<(), StoreError> {
        self.remember_leases(std::slice::from_ref(lease))
    }

    /// Remembers many with one write to the disk.
    ///
    /// # Errors
    ///
    /// Fails if the database does; then none is remembered.
    pub fn remember_leases(&self, leases: &[StoredLease]) -> Result<(), StoreError> {
        self.write(|transaction| {
            Ok(leases.iter().try_for_each(|lease| remember(transaction, lease))?)
        })
    }

    /// Forgets the leases of a user.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn forget_leases(&self, user: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM leases WHERE user = ?1", [user])?;
            Ok(())
        })
    }
}

fn remember(connection: &Connection, lease: &StoredLease) -> rusqlite::Result<()> {
    let (ipv4, ipv6) = (lease.ipv4.map(|a| a.to_string()), lease.ipv6.map(|a| a.to_string()));
    connection
        .prepare_cached(
            "DELETE FROM leases WHERE (user = ?1 AND device = ?2) OR ipv4 = ?3 OR ipv6 = ?4",
        )?
        .execute(params![lease.user, lease.device, ipv4, ipv6])?;
    if ipv4.is_none() && ipv6.is_none() {
        // Forgotten: its addresses went to somebody else.
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO leases (user, device, ipv4, ipv6, last_used) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![lease.user, lease.device, ipv4, ipv6, to_sql(lease.last_used)])?;
    Ok(())
}
