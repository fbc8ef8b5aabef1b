//! What may be done to users, certificates and profiles: once, for the server and for a command
//! without one.
//!
//! Everything here blocks: on the disk, on another process that writes, and while a password is
//! hashed. None of it touches live sessions; that is the caller's part.

mod fingerprints;
mod remote;

use std::time::Duration;

use backends::{
    CLIENT_CERTIFICATE_DAYS, ClientProgram, Identity, Pools, ProfileInput, Store, StoreError,
    StoredCertificate, StoredClientKey, UserSettings, Wrap, generate_password, openvpn_profile,
    totp_text, totp_uri,
};
use config::{AuthMode, Config, ControlWrap, CookiePolicy, Ipv6Pool, OpenVpn};
use contract::Secret;

pub use self::fingerprints::change_fingerprints;
use crate::failure::{Failure, Reason};
use crate::types::{
    Certificate, ChangedPassword, ChangedTotp, ClientKey, CreatedUser, NewAddresses, NewPassword,
    NewProfile, NewSettings, NewTotp, NewUser, Password, Profile, User, rfc3339,
};

/// Every user, by name.
///
/// # Errors
///
/// Fails if the store does; so do all functions below.
pub fn users(store: &Store) -> Result<Vec<User>, Failure> {
    let mut settings = store.all_user_settings()?;
    let users = store.users()?.into_iter();
    Ok(users
        .map(|user| {
            let settings = settings.remove(&user.name).unwrap_or_default();
            with_settings(user, settings)
        })
        .collect())
}

/// One user.
///
/// # Errors
///
/// Fails if there is no such user.
pub fn user(store: &Store, name: &str) -> Result<User, Failure> {
    Ok(with_settings(store.user(name)?, store.user_settings(name)?))
}

/// Changes what a user has besides name, password and addresses; live sessions keep what they have.
///
/// # Errors
///
/// Fails if there is no such user, or a setting cannot be.
pub fn set_settings(
    store: &Store,
    config: &Config,
    name: &str,
    new: &NewSettings,
) -> Result<User, Failure> {
    let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    store.change_user_settings(name, &pools(store, config)?, |settings| {
        if let Some(behind) = &new.behind {
            settings.behind.clone_from(behind);
        }
        if let Some(options) = &new.openvpn_options {
            settings.openvpn_options.clone_from(options);
        }
        if let Some(seconds) = new.session_timeout {
            settings.session_limit = limit(seconds);
        }
        if let Some(seconds) = new.idle_timeout {
            settings.idle_limit = limit(seconds);
        }
    })?;
    user(store, name)
}

/// Makes a user, with a random password if none is given.
///
/// # Errors
///
/// Fails if name, password or addresses cannot be used or are taken.
pub fn add_user(store: &Store, config: &Config, new: &NewUser) -> Result<CreatedUser, Failure> {
    let (password, generated_password) = given_or_generated(new.password.as_ref());
    let new_user = backends::NewUser {
        name: new.name.clone(),
        password: Some(password),
        fixed: new.addresses.clone(),
    };
    store.add_user(&new_user, &pools(store, config)?)?;

    Ok(CreatedUser { user: user(store, &new.name)?, generated_password })
}

/// Removes a user, revokes their certificates and frees their addresses.
///
/// # Errors
///
/// Fails if there is no such user.
pub fn remove_user(store: &Store, name: &str) -> Result<(), Failure> {
    Ok(store.remove_user(name)?)
}

/// Changes a password, to a random one if none is given.
///
/// # Errors
///
/// Fails if there is no such user or the password cannot be used.
pub fn set_password(
    store: &Store,
    name: &str,
    new: &NewPassword,
) -> Result<ChangedPassword, Failure> {
    let (password, generated_password) = given_or_generated(new.password.as_ref());
    store.set_password(name, Some(&password))?;

    Ok(ChangedPassword { user: name.to_owned(), generated_password })
}

/// Lets a user in, or keeps them out.
///
/// # Errors
///
/// Fails if there is no such user.
pub fn set_enabled(store: &Store, name: &str, enabled: bool) -> Result<(), Failure> {
    Ok(store.set_enabled(name, enabled)?)
}

/// Fixes a user's addresses; none leaves them to the pool.
///
/// # Errors
///
/// Fails if there is no such user, or an address cannot be used or is taken.
pub fn set_addresses(
    store: &Store,
    config: &Config,
    name: &str,
    new: &NewAddresses,
) -> Result<User, Failure> {
    store.set_addresses(name, &new.addresses, &pools(store, config)?)?;

    user(store, name)
}

/// Gives the user a secret for one-time codes, or takes it away.
///
/// # Errors
///
/// Fails if there is no such user.
pub fn set_totp(
    store: &Store,
    config: &Config,
    name: &str,
    new: NewTotp,
) -> Result<ChangedTotp, Failure> {
    let mut changed = ChangedTotp { user: name.to_owned(), secret: None, uri: None };
    if new.enabled {
        let text =
            |secret: Secret| Password::new(String::from_utf8_lossy(secret.expose()).into_owned());
        let secret = store.make_totp(name)?;
        changed.uri = Some(text(totp_uri(&secret, &config.network.name, name)));
        changed.secret = Some(text(totp_text(&secret)));
    } else {
        store.clear_totp(name)?;
    }
    Ok(changed)
}

/// Client certificates, oldest first: those of `user`, or of everybody there is.
///
/// # Errors
///
/// Fails if there is no such user and never was.
pub fn certificates(store: &Store, user: Option<&str>) -> Result<Vec<Certificate>, Failure> {
    let mut stored = Vec::new();
    match user {
        Some(name) => {
            stored = store.certificates(name)?;
            // A user who was removed has left revoked certificates.
            if stored.is_empty() {
                store.user(name)?;
            }
        }
        None => {
            for user in store.users()? {
                stored.extend(store.certificates(&user.name)?);
            }
            stored.sort_by_key(|certificate| certificate.issued);
        }
    }

    Ok(stored.into_iter().map(Certificate::from).collect())
}

/// Refuses a certificate from now on, and returns its serial number as the store writes it;
/// `serial` is the number in hexadecimal.
///
/// # Errors
///
/// Fails if no certificate has that number.
pub fn revoke(store: &Store, serial: &str) -> Result<String, Failure> {
    let serial = serial.to_ascii_lowercase();
    match store.revoke(&serial) {
        Ok(()) => Ok(serial),
        Err(StoreError::NoSuchCertificate(_)) => Err(Failure::not_found(format!(
            "there is no certificate with serial number {serial:?}; `warren certificate list` \
             shows them"
        ))),
        Err(other) => Err(other.into()),
    }
}

/// Client keys, oldest first: those of `user`, or of everybody.
///
/// # Errors
///
/// Fails if there is no such user and never was.
pub fn client_keys(store: &Store, user: Option<&str>) -> Result<Vec<ClientKey>, Failure> {
    let stored = store.client_keys(user)?;
    if let (true, Some(name)) = (stored.is_empty(), user) {
        store.user(name)?;
    }

    Ok(stored.into_iter().map(ClientKey::from).collect())
}

/// Refuses a client key from now on, and the certificate of the same profile; returns the key's
/// name as the store writes it.
///
/// # Errors
///
/// Fails if no client key has that name.
pub fn revoke_client_key(store: &Store, id: &str) -> Result<String, Failure> {
    let id = id.to_ascii_lowercase();
    store.revoke_client_key(&id)?;

    Ok(id)
}

/// Makes a profile, with a new certificate and a new client key in it where the door asks for them.
///
/// # Errors
///
/// Fails if there is no such user, door or program, if the door lets no such program in, or if
/// nobody can tell where clients find the server.
pub fn new_profile(store: &Store, config: &Config, new: &NewProfile) -> Result<Profile, Failure> {
    if new.door != "openvpn" {
        return Err(Failure::invalid(format!(
            "there is no door {:?} that takes profiles; there is \"openvpn\"",
            new.door
        )));
    }
    let door = &config.doors.openvpn;
    let client = client_program(new.client.as_deref(), door)?;
    if new.tap && !door.tap {
        return Err(Failure::invalid(
            "Ethernet is off: set doors.openvpn.tap = true, or leave out --dev tap".to_owned(),
        ));
    }
    store.user(&new.user)?;
    let place = remote::find(new.remote.as_deref(), door)?;
    let identity = Identity::load_or_create(store)?;
    let issued = match door.auth {
        AuthMode::Certificate | AuthMode::Both => Some(store.issue_certificate(
            &identity.authority,
            &new.user,
            CLIENT_CERTIFICATE_DAYS,
        )?),
        AuthMode::Password => None,
    };
    let serial = issued.as_ref().map(|issued| issued.facts.serial.clone());
    let client_key =
        if door.control == ControlWrap::TlsCryptV2 && client != ClientProgram::OpenVpn24 {
            Some(store.issue_client_key(&identity.client_keys, &new.user, serial.as_deref())?)
        } else {
            None
        };

    let key = issued.as_ref().map(|issued| String::from_utf8_lossy(issued.key_pem.expose()));
    let wrap_key = match &client_key {
        Some(own) => own.key.to_pem(),
        None => identity.static_key.to_pem(),
    };
    let text = openvpn_profile(&ProfileInput {
        user: &new.user,
        network: &config.network.name,
        client,
        remotes: &place.remotes(),
        ca_pem: identity.authority.certificate_pem(),
        certificate: issued
            .as_ref()
            .zip(key.as_deref())
            .map(|(issued, key)| (issued.certificate_pem.as_str(), key)),
        ask_code: store.has_totp(&new.user)?,
        ask_password: matches!(door.auth, AuthMode::Password | AuthMode::Both),
        wrap: match (door.control, &client_key) {
            (_, Some(_)) => Wrap::TlsCryptV2(&wrap_key),
            (ControlWrap::TlsAuth, None) => Wrap::TlsAuth(&wrap_key),
            (ControlWrap::TlsCryptV2 | ControlWrap::TlsCrypt, None) => Wrap::TlsCrypt(&wrap_key),
        },
        ciphers: &door.ciphers.iter().map(|cipher| cipher.as_str()).collect::<Vec<_>>(),
        digest: door.digest.as_str(),
        tls_min: door.tls_min.as_str(),
        mtu: config.network.mtu,
        device: if new.tap { "tap" } else { "tun" },
        fragment: door.fragment,
    });

    Ok(Profile {
        user: new.user.clone(),
        door: new.door.clone(),
        file_name: format!("{}.ovpn", new.user),
        remote: place.written(),
        serial,
        not_after: issued.map(|issued| rfc3339(issued.facts.not_after.try_into().unwrap_or(0))),
        client_key: client_key.map(|key| key.id),
        text: text.to_string(),
    })
}

/// The program that a profile is for, if the door lets it in.
fn client_program(name: Option<&str>, door: &OpenVpn) -> Result<ClientProgram, Failure> {
    let Some(name) = name else { return Ok(ClientProgram::Any) };
    let client = ClientProgram::named(name).ok_or_else(|| {
        Failure::invalid(format!(
            "there are no profiles for {name:?}; there are \"2.4\", \"2.5\", \"2.6\" and \"connect\""
        ))
    })?;
    let own_keys = door.control == ControlWrap::TlsCryptV2;
    if client == ClientProgram::OpenVpn24 && !door.shared_key {
        return Err(Failure::conflict(
            "OpenVPN 2.4 knows only the key that all profiles share, which is refused \
             (doors.openvpn.shared_key)",
        ));
    }
    let is_cookie_required = door.tls_crypt_v2_cookie == CookiePolicy::Required;
    if client == ClientProgram::OpenVpn25 && own_keys && is_cookie_required {
        return Err(Failure::conflict(
            "OpenVPN 2.5 cannot prove where it is, which is required \
             (doors.openvpn.tls_crypt_v2_cookie)",
        ));
    }
    Ok(client)
}

/// The address ranges that fixed addresses must be in.
fn pools(store: &Store, config: &Config) -> Result<Pools, Failure> {
    let ipv6 = match config.network.ipv6 {
        Ipv6Pool::Auto => Some(store.unique_local_prefix()?),
        Ipv6Pool::Prefix(prefix) => Some(prefix),
        Ipv6Pool::Off => None,
    };
    Ok(Pools { ipv4: config.network.ipv4, ipv6 })
}

/// The password for the store, and what the operator must be told of it.
fn given_or_generated(given: Option<&Password>) -> (Secret, Option<Password>) {
    match given {
        Some(password) => (password.to_secret(), None),
        None => {
            let secret = generate_password();
            let text = String::from_utf8_lossy(secret.expose()).into_owned();
            (secret, Some(Password::new(text)))
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let reason = match error {
            StoreError::BadName(_)
            | StoreError::BadPassword(_)
            | StoreError::BadAddress { .. }
            | StoreError::BadSetting { .. } => Reason::Invalid,
            StoreError::UserExists(_)
            | StoreError::AddressTaken { .. }
            | StoreError::FingerprintTaken { .. }
            | StoreError::TooManyFingerprints { .. } => Reason::Conflict,
            StoreError::NoSuchUser(_)
            | StoreError::NoSuchCertificate(_)
            | StoreError::NoSuchFingerprint { .. }
            | StoreError::NoSuchClientKey(_) => Reason::NotFound,
            _ => Reason::Internal,
        };
        Self::new(reason, error.to_string())
    }
}

fn with_settings(user: backends::User, settings: UserSettings) -> User {
    User {
        name: user.name,
        enabled: user.enabled,
        addresses: user.fixed,
        has_password: user.has_password,
        devices: user.devices.into(),
        created: rfc3339(user.created),
        behind: settings.behind,
        openvpn_options: settings.openvpn_options,
        session_timeout: settings.session_limit.map(|limit| limit.as_secs()),
        idle_timeout: settings.idle_limit.map(|limit| limit.as_secs()),
    }
}

impl From<StoredCertificate> for Certificate {
    fn from(certificate: StoredCertificate) -> Self {
        Self {
            serial: certificate.serial,
            user: certificate.user,
            fingerprint: hex::encode(certificate.fingerprint),
            issued: rfc3339(certificate.issued),
            not_after: rfc3339(certificate.not_after),
            revoked: certificate.revoked.map(rfc3339),
        }
    }
}

impl From<StoredClientKey> for ClientKey {
    fn from(key: StoredClientKey) -> Self {
        Self {
            id: key.id,
            user: key.user,
            certificate: key.certificate,
            issued: rfc3339(key.issued),
            revoked: key.revoked.map(rfc3339),
        }
    }
}

#[cfg(test)]
mod tests;
