//! What a user has besides a name and proofs: subnets, options, limits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::users::exists;
use super::{Pools, Store, StoreError, from_sql, to_sql};

/// Subnets behind one user: sites have a few.
const MAX_NETWORKS: usize = 64;
/// Options of one user; they have to be told in every push.
const MAX_OPTIONS: usize = 64;
/// The shortest time that a limit may name: less would end sessions that have hardly begun.
const MIN_LIMIT: Duration = Duration::from_secs(10);
/// The longest: ten years.
const MAX_LIMIT: Duration = Duration::from_secs(315_360_000);

/// A user's settings.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct UserSettings {
    /// Subnets behind the user's devices.
    pub behind: Vec<IpNet>,
    /// Options for the user's OpenVPN clients.
    pub openvpn_options: Vec<String>,
    /// A session ends after this long.
    pub session_limit: Option<Duration>,
    /// A session ends after this long without a packet.
    pub idle_limit: Option<Duration>,
}

impl Store {
    /// A user's settings; those of somebody unknown are empty.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn user_settings(&self, name: &str) -> Result<UserSettings, StoreError> {
        Ok(read(&self.connection(), name)?)
    }

    /// Everybody's settings who has any, by name.
    ///
    /// # Errors
    ///
    /// Fails if the database does.
    pub fn all_user_settings(&self) -> Result<BTreeMap<String, UserSettings>, StoreError> {
        let connection = self.connection();
        let names = connection
            .prepare_cached("SELECT user FROM user_settings")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()?;
        let settings = names.into_iter().map(|name| {
            let settings = read(&connection, &name)?;
            Ok((name, settings))
        });
        settings.collect()
    }

    /// Changes a user's settings; sessions that are up keep those they began with.
    ///
    /// # Errors
    ///
    /// Fails if there is no such user, or something cannot be: a subnet that is part of the
    /// network or somebody else's, an option that no client takes.
    pub fn change_user_settings(
        &self,
        name: &str,
        pools: &Pools,
        change: impl FnOnce(&mut UserSettings),
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if !exists(transaction, name)? {
                return Err(StoreError::NoSuchUser(name.to_owned()));
            }
            let mut settings = read(transaction, name)?;
            change(&mut settings);
            check(&settings, pools)?;
            check_others(transaction, name, &settings.behind)?;
            let lines = |list: Vec<String>| list.join("\n");
            let seconds = |limit: Option<Duration>| limit.map(|limit| to_sql(limit.as_secs()));
            transaction.execute(
                "INSERT OR REPLACE INTO user_settings (user, behind, options, session_limit, \
                 idle_limit) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    name,
                    lines(settings.behind.iter().map(ToString::to_string).collect()),
                    lines(settings.openvpn_options),
                    seconds(settings.session_limit),
                    seconds(settings.idle_limit),
                ],
            )?;
            Ok(())
        })
    }
}

fn read(connection: &Connection, name: &str) -> rusqlite::Result<UserSettings> {
    let limit = |seconds: Option<i64>| seconds.map(|it| Duration::from_secs(from_sql(it)));
    let settings = connection
        .prepare_cached(
            "SELECT behind, options, session_limit, idle_limit FROM user_settings WHERE user = ?1",
        )?
        .query_row([name], |row| {
            let (behind, options): (String, String) = (row.get(0)?, row.get(1)?);
            Ok(UserSettings {
                behind: behind.lines().filter_map(|net| net.parse().ok()).collect(),
                openvpn_options: options.lines().map(str::to_owned).collect(),
                session_limit: limit(row.get(2)?),
                idle_limit: limit(row.get(3)?),
            })
        })
        .optional()?;
    Ok(settings.unwrap_or_default())
}

fn check(settings: &UserSettings, pools: &Pools) -> Result<(), StoreError> {
    let bad = |what: String, why: &str| StoreError::BadSetting { what, why: why.to_owned() };
    if settings.behind.len() > MAX_NETWORKS || settings.openvpn_options.len() > MAX_OPTIONS {
        return Err(bad("so many".to_owned(), "a user has up to 64 subnets and 64 options"));
    }
    for (at, net) in settings.behind.iter().enumerate() {
        let subnet = || format!("subnet {net}");
        if net.addr() != net.network() {
            let why = format!("it is an address inside a subnet; write {}", net.trunc());
            return Err(bad(subnet(), &why));
        }
        if !is_routable(net) {
            return Err(bad(subnet(), "it cannot be behind anybody; name the site's own networks"));
        }
        let pools = [pools.ipv4.map(IpNet::V4), pools.ipv6.map(IpNet::V6)];
        if let Some(pool) = pools.into_iter().flatten().find(|pool| overlap(pool, net)) {
            return Err(bad(subnet(), &format!("it overlaps the network itself ({pool})")));
        }
        let mut others = settings.behind.iter().take(at);
        if let Some(other) = others.find(|other| overlap(other, net)) {
            return Err(bad(subnet(), &format!("it overlaps {other}; remove one of them")));
        }
    }
    for option in &settings.openvpn_options {
        if let Err(why) = openvpn::check_option(option) {
            return Err(bad(format!("option {option:?}"), &why));
        }
    }
    for limit in [settings.session_limit, settings.idle_limit].into_iter().flatten() {
        if !(MIN_LIMIT..=MAX_LIMIT).contains(&limit) {
            let what = format!("limit of {} seconds", limit.as_secs());
            return Err(bad(what, "write 10 seconds to 315360000 (ten years)"));
        }
    }
    Ok(())
}

/// Two users who claim one address would have each other's packets.
fn check_others(connection: &Connection, name: &str, behind: &[IpNet]) -> Result<(), StoreError> {
    if behind.is_empty() {
        return Ok(());
    }
    let mut select = connection.prepare_cached(
        "SELECT user, behind FROM user_settings WHERE user <> ?1 AND behind <> ''",
    )?;
    let others =
        select.query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for other in others {
        let (user, list) = other?;
        for taken in list.lines().filter_map(|net| net.parse::<IpNet>().ok()) {
            if let Some(net) = behind.iter().find(|net| overlap(net, &taken)) {
                return Err(StoreError::BadSetting {
                    what: format!("subnet {net}"),
                    why: format!("it overlaps {taken}, which is behind user {user:?}"),
                });
            }
        }
    }
    Ok(())
}

fn overlap(left: &IpNet, right: &IpNet) -> bool {
    left.contains(right) || right.contains(left)
}

/// Whether hosts of a site can be in it.
fn is_routable(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            // "This network", loopback, link-local, and everything from multicast on.
            net.prefix_len() >= 8 && !matches!(first, 0 | 127 | 224..) && !address.is_link_local()
        }
        IpAddr::V6(address) => {
            net.prefix_len() >= 16
                && !address.is_multicast()
                && !address.is_unicast_link_local()
                && !address.is_unspecified()
                && !address.is_loopback()
        }
    }
}

#[cfg(test)]
mod tests;
