use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contract::Secret;
use ipnet::{Ipv4Net, Ipv6Net};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Store, StoreError, client_keys, from_sql, to_sql};
use crate::{clock, password};

/// Long enough for mail addresses; an X.509 common name ends at 64 (RFC 5280, appendix A).
const MAX_NAME_LEN: usize = 64;

/// A user to be.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// 1 to 64 of `A-Za-z0-9._@-`, neither `.` nor `-` first.
    pub name: String,
    /// `None`: the user comes by certificate only.
    pub password: Option<Secret>,
    /// Addresses that are always this user's: at most one of each family.
    pub fixed: Vec<IpAddr>,
}

/// A user as listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// The name.
    pub name: String,
    /// Whether the user may come in.
    pub enabled: bool,
    /// Addresses that are always this user's.
    pub fixed: Vec<IpAddr>,
    /// Added at this second since 1970.
    pub created: u64,
    /// Whether there is a password to know.
    pub has_password: bool,
    /// How many devices have had an address.
    pub devices: u32,
}

/// The network's address ranges, which fixed addresses must be in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pools {
    /// Its first address is the server's.
    pub ipv4: Option<Ipv4Net>,
    /// Its first address after the zero is the server's.
    pub ipv6: Option<Ipv6Net>,
}

/// What a login is checked against.
pub(crate) struct Account {
    pub(crate) hash: Option<String>,
    pub(crate) enabled: bool,
    pub(crate) fixed: Vec<IpAddr>,
    /// Nothing that the user proved before this second since 1970 counts.
    pub(crate) proof_since: u64,
}

impl Store {
    /// Adds a user.
    ///
    /// # Errors
    ///
    /// Fails if name, password or address cannot be used or is taken.
    pub fn add_user(&self, user: &NewUser, pools: &Pools) -> Result<(), StoreError> {
        check_name(&user.name)?;
        let (ipv4, ipv6) = check_addresses(&user.fixed, pools)?;
        let hash = user.password.as_ref().map(hash).transpose()?;

        self.write(|transaction| {
            if exists(transaction, &user.name)? {
                return Err(StoreError::UserExists(user.name.clone()));
            }
            claim(transaction, &user.name, &user.fixed)?;
            transaction.execute(
                // A user of that name who was removed has left tokens with devices.
                "INSERT INTO users (name, password, ipv4, ipv6, created, proof_since) VALUES (?1, \
                 ?2, ?3, ?4, ?5, ?5)",
                params![user.name, hash, text(ipv4), text(ipv6), to_sql(clock::now())],
            )?;
            Ok(())
        })
    }

    /// Everyone, by name.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn users(&self) -> Result<Vec<User>, StoreError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(&format!("{SELECT_USER} ORDER BY name"))?;
        let users = select.query_map([], user)?.collect::<Result<_, _>>()?;
        Ok(users)
    }

    /// One user.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchUser`], or the database's.
    pub fn user(&self, name: &str) -> Result<User, StoreError> {
        self.connection()
            .prepare_cached(&format!("{SELECT_USER} WHERE name = ?1"))?
            .query_row([name], user)
            .optional()?
            .ok_or_else(|| StoreError::NoSuchUser(name.to_owned()))
    }

    /// Gives the user a new password, or takes it away: then only a certificate lets the user in.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user or the password cannot be used.
    pub fn set_password(&self, name: &str, password: Option<&Secret>) -> Result<(), StoreError> {
        let hash = password.map(hash).transpose()?;
        self.change(name, |transaction| {
            transaction.execute(
                "UPDATE users SET password = ?2, proof_since = max(?3, proof_since + 1) WHERE \
                 name = ?1",
                params![name, hash, to_sql(clock::now())],
            )
        })
    }

    /// Lets the user in or keeps the user out.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user.
    pub fn set_enabled(&self, name: &str, enabled: bool) -> Result<(), StoreError> {
        self.change(name, |transaction| {
            transaction
                .execute("UPDATE users SET enabled = ?2 WHERE name = ?1", params![name, enabled])
        })
    }

    /// Gives the user these fixed addresses instead of those before; none makes them dynamic.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user or an address cannot be used or is taken.
    pub fn set_addresses(
        &self,
        name: &str,
        fixed: &[IpAddr],
        pools: &Pools,
    ) -> Result<(), StoreError> {
        let (ipv4, ipv6) = check_addresses(fixed, pools)?;
        self.write(|transaction| {
            if !exists(transaction, name)? {
                return Err(StoreError::NoSuchUser(name.to_owned()));
            }
            claim(transaction, name, fixed)?;
            transaction.execute(
                "UPDATE users SET ipv4 = ?2, ipv6 = ?3 WHERE name = ?1",
                params![name, text(ipv4), text(ipv6)],
            )?;
            Ok(())
        })
    }

    /// Removes the user: revokes the certificates, frees the addresses.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user.
    pub fn remove_user(&self, name: &str) -> Result<(), StoreError> {
        self.change(name, |transaction| {
            transaction.execute(
                "UPDATE certificates SET revoked = ?2 WHERE user = ?1 AND revoked IS NULL",
                params![name, to_sql(clock::now())],
            )?;
            client_keys::revoke_of_user(transaction, name)?;
            transaction.execute("DELETE FROM leases WHERE user = ?1", [name])?;
            transaction.execute("DELETE FROM totp WHERE user = ?1", [name])?;
            transaction.execute("DELETE FROM users WHERE name = ?1", [name])
        })
    }

    pub(crate) fn account(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let account = self
            .connection()
            .prepare_cached(
                "SELECT password, enabled, ipv4, ipv6, proof_since FROM users WHERE name = ?1",
            )?
            .query_row([name], |row| {
                Ok(Account {
                    hash: row.get(0)?,
                    enabled: row.get(1)?,
                    fixed: addresses(row, 2)?,
                    proof_since: from_sql(row.get(4)?),
                })
            })
            .optional()?;
        Ok(account)
    }

    fn change(
        &self,
        name: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
    ) -> Result<(), StoreError> {
        self.write(|transaction| match work(transaction)? {
            0 => Err(StoreError::NoSuchUser(name.to_owned())),
            _ => Ok(()),
        })
    }
}

const SELECT_USER: &str = "SELECT name, enabled, ipv4, ipv6, created, password IS NOT NULL, \
    (SELECT count(*) FROM leases WHERE leases.user = users.name) FROM users";

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        name: row.get(0)?,
        enabled: row.get(1)?,
        fixed: addresses(row, 2)?,
        created: from_sql(row.get(4)?),
        has_password: row.get(5)?,
        devices: row.get(6)?,
    })
}

/// An IPv4 address in column `at` and an IPv6 address in the next.
fn addresses(row: &Row<'_>, at: usize) -> rusqlite::Result<Vec<IpAddr>> {
    let columns: [Option<String>; 2] = [row.get(at)?, row.get(at + 1)?];
    Ok(columns.iter().flatten().filter_map(|address| address.parse().ok()).collect())
}

/// Whatever the user has proved until this moment does not count any more.
pub(super) fn prove_again(connection: &Connection, name: &str) -> Result<(), StoreError> {
    let changed = connection.execute(
        "UPDATE users SET proof_since = max(?2, proof_since + 1) WHERE name = ?1",
        params![name, to_sql(clock::now())],
    )?;
    if changed == 0 { Err(StoreError::NoSuchUser(name.to_owned())) } else { Ok(()) }
}

pub(super) fn exists(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM users WHERE name = ?1")?.exists([name])
}

/// Makes sure that the addresses are nobody else's, and takes them from leases of others.
fn claim(connection: &Connection, name: &str, fixed: &[IpAddr]) -> Result<(), StoreError> {
    for address in fixed {
        let text = address.to_string();
        let owner = connection
            .prepare_cached("SELECT name FROM users WHERE (ipv4 = ?1 OR ipv6 = ?1) AND name <> ?2")?
            .query_row([&text, name], |row| row.get(0))
            .optional()?;
        if let Some(user) = owner {
            return Err(StoreError::AddressTaken { address: *address, user });
        }
        connection.execute(
            "DELETE FROM leases WHERE (ipv4 = ?1 OR ipv6 = ?1) AND user <> ?2",
            [&text, name],
        )?;
    }
    Ok(())
}

fn hash(password: &Secret) -> Result<String, StoreError> {
    match password::refuse(password) {
        Some(why) => Err(StoreError::BadPassword(why)),
        None => Ok(password::hash(password)),
    }
}

/// Names end up in certificates, file names, logs and environment variables.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let good = (1..=MAX_NAME_LEN).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(['-', '.']);
    if good { Ok(()) } else { Err(StoreError::BadName(name.to_owned())) }
}

fn check_addresses(
    fixed: &[IpAddr],
    pools: &Pools,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), StoreError> {
    let (mut ipv4, mut ipv6) = (None, None);
    for &address in fixed {
        let refuse = |why: String| StoreError::BadAddress { address, why };
        let twice = match address {
            IpAddr::V4(address) => {
                check_in_pool4(address, pools.ipv4).map_err(refuse)?;
                ipv4.replace(address).is_some()
            }
            IpAddr::V6(address) => {
                check_in_pool6(address, pools.ipv6).map_err(refuse)?;
                ipv6.replace(address).is_some()
            }
        };
        if twice {
            return Err(refuse("it is the second of its family; give one of each".to_owned()));
        }
    }
    Ok((ipv4, ipv6))
}

fn check_in_pool4(address: Ipv4Addr, pool: Option<Ipv4Net>) -> Result<(), String> {
    let pool = pool.ok_or("the network has no IPv4; remove it")?;
    if !pool.contains(&address) {
        return Err(format!("it is outside of network.ipv4; choose one inside {pool}"));
    }
    let first = u32::from(pool.network()) + 1;
    match u32::from(address) {
        number if number == first => Err("it is the server's own; choose another".to_owned()),
        number if number < first || address == pool.broadcast() => {
            Err(format!("it is the first or last of {pool}; choose another"))
        }
        _ => Ok(()),
    }
}

fn check_in_pool6(address: Ipv6Addr, pool: Option<Ipv6Net>) -> Result<(), String> {
    let pool = pool.ok_or("the network has no IPv6; remove it")?;
    if !pool.contains(&address) {
        return Err(format!("it is outside of network.ipv6; choose one inside {pool}"));
    }
    if u128::from(address) <= u128::from(pool.network()) + 1 {
        return Err("it is the server's own; choose another".to_owned());
    }
    Ok(())
}

fn text(address: Option<impl ToString>) -> Option<String> {
    address.map(|address| address.to_string())
}
