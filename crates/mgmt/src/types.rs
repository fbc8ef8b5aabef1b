//! Questions and answers of the API.
//!
//! Field names are a contract: scripts read them. Times are RFC 3339 in UTC, sizes are bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use contract::Secret;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One live session.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Session {
    /// Never used twice while the server runs.
    pub id: u64,
    /// Who.
    pub user: String,
    /// Through which door.
    pub door: String,
    /// Where the peer is at the moment.
    pub remote: SocketAddr,
    /// The address it has in the network.
    pub address4: Option<Ipv4Addr>,
    /// The address it has in the network.
    pub address6: Option<Ipv6Addr>,
    /// When it came up.
    pub since: String,
    /// Bytes of packets that came from the member.
    pub rx_bytes: u64,
    /// Bytes of packets that went to the member.
    pub tx_bytes: u64,
    /// Packets that came from the member.
    pub rx_packets: u64,
    /// Packets that went to the member.
    pub tx_packets: u64,
    /// The data channel's cipher.
    pub cipher: String,
    /// The control channel's protection: TLS version and wrapping.
    pub control: String,
    /// What the peer says it is.
    pub software: String,
    /// Which of the user's devices.
    pub device: String,
    /// The certificate it proved itself with: the serial number of one that Warren issued, else
    /// `sha256:` and the fingerprint.
    pub certificate: Option<String>,
    /// The client key it came with (tls-crypt-v2).
    #[serde(default)]
    pub client_key: Option<String>,
}

/// How the server is doing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The server's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The network its members are in.
    pub network: NetworkStatus,
    /// Every door, open or not.
    pub doors: Vec<DoorStatus>,
    /// Over all sessions since the start, ended ones included.
    pub counters: Counters,
    /// Packets dropped since the start, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Threads that carry packets.
    pub workers: u32,
    /// What the kernel does for us.
    pub offloads: Offloads,
}

/// The network's plan.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// The network device.
    pub device: String,
    /// The prefix and our own address in it, as in `10.86.0.1/16`.
    pub address4: Option<String>,
    /// The prefix and our own address in it, as in `fd12::1/64`.
    pub address6: Option<String>,
}

/// One door.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DoorStatus {
    /// The protocol.
    pub name: String,
    /// The addresses it listens on.
    pub listen: Vec<String>,
    /// Live sessions.
    pub sessions: u64,
    /// Whether peers can come in.
    pub state: DoorState,
}

/// Whether peers can come in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DoorState {
    /// They can.
    Open,
    /// The configuration says no.
    Disabled,
    /// It should be open but is not; the log says why.
    Failed,
}

impl fmt::Display for DoorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Open => "open",
            Self::Disabled => "disabled",
            Self::Failed => "failed",
        })
    }
}

/// Traffic, counted as inner packets.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counters {
    /// Bytes from members.
    pub rx_bytes: u64,
    /// Bytes to members.
    pub tx_bytes: u64,
    /// Packets from members.
    pub rx_packets: u64,
    /// Packets to members.
    pub tx_packets: u64,
}

/// What the kernel takes off our hands; all false works too, but slower.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Offloads {
    /// TCP super packets to and from the TUN device.
    pub tun_tso: bool,
    /// UDP super packets to and from the TUN device.
    pub tun_uso: bool,
    /// Many datagrams a send.
    pub udp_gso: bool,
    /// Many datagrams a receive.
    pub udp_gro: bool,
}

/// One user.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct User {
    /// The name to log in with.
    pub name: String,
    /// Whether the user may come in.
    pub enabled: bool,
    /// Addresses that are always the user's.
    pub addresses: Vec<IpAddr>,
    /// Whether there is a password.
    pub has_password: bool,
    /// Devices that have been given addresses.
    pub devices: u64,
    /// When the user was made.
    pub created: String,
    /// Subnets behind the user's devices.
    #[serde(default)]
    pub behind: Vec<IpNet>,
    /// Options for the user's OpenVPN clients.
    #[serde(default)]
    pub openvpn_options: Vec<String>,
    /// A session ends after so many seconds.
    #[serde(default)]
    pub session_timeout: Option<u64>,
    /// A session ends after so many seconds without a packet.
    #[serde(default)]
    pub idle_timeout: Option<u64>,
}

/// `POST /v1/users`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name to log in with.
    pub name: String,
    /// None: a random one is made and answered.
    #[serde(default)]
    pub password: Option<Password>,
    /// Addresses that shall always be the user's: at most one of each family.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// The answer to [`NewUser`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CreatedUser {
    /// The user.
    pub user: User,
    /// The random password; it is kept nowhere and cannot be shown again.
    pub generated_password: Option<Password>,
}

/// `POST /v1/users/NAME/password`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// None: a random one is made and answered.
    #[serde(default)]
    pub password: Option<Password>,
}

/// The answer to [`NewPassword`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChangedPassword {
    /// Whose.
    pub user: String,
    /// The random password; it is kept nowhere and cannot be shown again.
    pub generated_password: Option<Password>,
}

/// `POST /v1/users/NAME/totp`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewTotp {
    /// True makes a new secret; false lets the user in without a code.
    pub enabled: bool,
}

/// The answer to [`NewTotp`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChangedTotp {
    /// Whose.
    pub user: String,
    /// The secret for an authenticator app, in base32; it cannot be shown again.
    pub secret: Option<Password>,
    /// The same as the `otpauth://` URI that apps read from a QR code.
    pub uri: Option<Password>,
}

/// `POST /v1/users/NAME/fingerprints`: certificates that let the user in without any CA, by their
/// SHA-256 in hexadecimal, with colons or without. Neither list: nothing changes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewFingerprints {
    /// Let the user in.
    #[serde(default)]
    pub add: Vec<String>,
    /// Do so no more.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// The answer to [`NewFingerprints`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Fingerprints {
    /// Whose.
    pub user: String,
    /// All there are now, as `openssl x509 -fingerprint -sha256` writes them.
    pub fingerprints: Vec<String>,
    /// How many sessions were ended.
    #[serde(default)]
    pub sessions: u64,
}

/// `POST /v1/users/NAME/addresses`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewAddresses {
    /// At most one of each family; none: the pool decides.
    pub addresses: Vec<IpAddr>,
}

/// `POST /v1/users/NAME/settings`: what is not named stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewSettings {
    /// Subnets behind the user's devices.
    #[serde(default)]
    pub behind: Option<Vec<IpNet>>,
    /// Options for the user's OpenVPN clients.
    #[serde(default)]
    pub openvpn_options: Option<Vec<String>>,
    /// Seconds; 0 is no limit.
    #[serde(default)]
    pub session_timeout: Option<u64>,
    /// Seconds; 0 is no limit.
    #[serde(default)]
    pub idle_timeout: Option<u64>,
}

/// `POST /v1/sessions/kick`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kick {
    /// A session's id, or a user.
    pub target: String,
}

/// What an operation did to live sessions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ended {
    /// How many it ended.
    pub sessions: u64,
}

/// The answer to `POST /v1/reload`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloaded {
    /// Keys that changed and are in force.
    pub applied: Vec<String>,
    /// Keys that changed but need a restart.
    pub restart: Vec<String>,
}

/// One client certificate that Warren issued.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Certificate {
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Whose.
    pub user: String,
    /// SHA-256, lower-case hexadecimal.
    pub fingerprint: String,
    /// When it was made.
    pub issued: String,
    /// When it expires.
    pub not_after: String,
    /// When it was revoked.
    pub revoked: Option<String>,
}

/// One client key that Warren made (tls-crypt-v2).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClientKey {
    /// Lower-case hexadecimal.
    pub id: String,
    /// Whose.
    pub user: String,
    /// The serial number of the certificate in the same profile.
    pub certificate: Option<String>,
    /// When it was made.
    pub issued: String,
    /// When it was revoked.
    pub revoked: Option<String>,
}

/// `POST /v1/profiles`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewProfile {
    /// For whom.
    pub user: String,
    /// For which door.
    pub door: String,
    /// Where the client finds the server: `HOST` or `HOST:PORT`. None: as configured, or else this
    /// machine's address on the way to the internet.
    #[serde(default)]
    pub remote: Option<String>,
    /// For which program: `2.4`, `2.5`, `2.6` (versions of OpenVPN) or `connect` (OpenVPN Connect).
    /// None: one that OpenVPN from 2.5 on and OpenVPN Connect both take.
    #[serde(default)]
    pub client: Option<String>,
    /// Whether the client carries Ethernet (`dev tap`) rather than packets.
    #[serde(default)]
    pub tap: bool,
}

/// The answer to [`NewProfile`]: a file for the client.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Profile {
    /// For whom.
    pub user: String,
    /// For which door.
    pub door: String,
    /// A name for the file.
    pub file_name: String,
    /// What the profile says the server's address is.
    pub remote: String,
    /// The certificate in it, made for it; none if the door asks only for passwords.
    pub serial: Option<String>,
    /// When that certificate expires.
    pub not_after: Option<String>,
    /// The client key in it, made for it; none if it has the key that all clients share.
    #[serde(default)]
    pub client_key: Option<String>,
    /// The file. It holds keys.
    pub text: String,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("user", &self.user)
            .field("door", &self.door)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// A password on its way; prints as nothing.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// Wraps it.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The text, for the one place that shows it to the operator.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The bytes, for the store.
    #[must_use]
    pub fn to_secret(&self) -> Secret {
        Secret::new(self.0.as_bytes())
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// A second since 1970 as the API writes it: RFC 3339, in UTC.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let latest = OffsetDateTime::new_utc(time::Date::MAX, time::Time::MIDNIGHT);
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(latest)
        .format(&Rfc3339)
        .expect("every year up to 9999 can be written")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_utc_and_never_too_late_to_write() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T00:00:00Z");
    }
}
