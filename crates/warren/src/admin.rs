//! The running server if there is one, or else its state folder: the commands do not care which.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use backends::{StateDir, Store};
use config::Config;
use mgmt::types::{
    Certificate, ChangedPassword, ChangedTotp, ClientKey, CreatedUser, Ended, Fingerprints,
    NewAddresses, NewFingerprints, NewPassword, NewProfile, NewSettings, NewTotp, NewUser, Profile,
    User,
};
use mgmt::{ApiClient, ClientError, Failure, ops};
use sys::Account;
use sys::privileges::ActingAs;

use crate::cli::{ConfigFile, Global};
use crate::output::remark;

/// Users, certificates and profiles, wherever they are at the moment.
#[derive(Debug)]
pub(crate) enum Admin {
    /// Behind a running server, which acts on changes at once.
    Live(Box<ApiClient>),
    /// In a state folder that no server uses.
    Offline(Offline),
}

/// A state folder that no server uses.
#[derive(Debug)]
pub(crate) struct Offline {
    store: Store,
    config: Option<PathBuf>,
    /// After the store, which is closed as who opened it.
    _acting: Option<ActingAs>,
}

impl Offline {
    /// Read when it is needed: listing users works with a configuration that is broken.
    fn config(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref())?)
    }
}

impl Admin {
    /// Finds the server, or a state folder that exists.
    pub(crate) async fn open(global: &Global, config: &ConfigFile) -> anyhow::Result<Self> {
        if let Some(live) = Self::live(global, config).await? {
            return Ok(live);
        }
        if let Err(error) = std::fs::metadata(&global.state) {
            let state = global.state.display();
            return Err(match error.kind() {
                io::ErrorKind::NotFound => Failure::not_found(format!(
                    "{state}: no such state folder; `warren up` makes it, --state names another"
                ))
                .into(),
                _ => anyhow::Error::new(error).context(format!("{state}: cannot use the folder")),
            });
        }
        Self::offline(global, config)
    }

    /// Finds the server or the state folder, or makes the folder.
    pub(crate) async fn open_or_make(global: &Global, config: &ConfigFile) -> anyhow::Result<Self> {
        match Self::live(global, config).await? {
            Some(live) => Ok(live),
            None => Self::offline(global, config),
        }
    }

    async fn live(global: &Global, config: &ConfigFile) -> anyhow::Result<Option<Self>> {
        match server(global).await {
            Ok(client) => {
                if let Some(file) = &config.config {
                    remark(&format!(
                        "the server is running: its own configuration counts, not {}",
                        file.display()
                    ));
                }
                Ok(Some(Self::Live(Box::new(client))))
            }
            Err(ClientError::NotRunning { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn offline(global: &Global, config: &ConfigFile) -> anyhow::Result<Self> {
        let config = config_path(global, config);
        let acting = act_as_owner(&global.state)?;
        let state = StateDir::open(&global.state)?;
        let store = Store::open(&state)?;
        Ok(Self::Offline(Offline { store, config, _acting: acting }))
    }

    /// Every user.
    pub(crate) async fn users(&mut self) -> anyhow::Result<Vec<User>> {
        Ok(match self {
            Self::Live(server) => server.users().await?,
            Self::Offline(state) => ops::users(&state.store)?,
        })
    }

    /// Makes a user.
    pub(crate) async fn add_user(&mut self, new: &NewUser) -> anyhow::Result<CreatedUser> {
        Ok(match self {
            Self::Live(server) => server.add_user(new).await?,
            Self::Offline(state) => ops::add_user(&state.store, &state.config()?, new)?,
        })
    }

    /// Removes a user.
    pub(crate) async fn remove_user(&mut self, name: &str) -> anyhow::Result<Ended> {
        Ok(match self {
            Self::Live(server) => server.remove_user(name).await?,
            Self::Offline(state) => {
                ops::remove_user(&state.store, name)?;
                Ended::default()
            }
        })
    }

    /// Changes a password.
    pub(crate) async fn set_password(
        &mut self,
        name: &str,
        new: &NewPassword,
    ) -> anyhow::Result<ChangedPassword> {
        Ok(match self {
            Self::Live(server) => server.set_password(name, new).await?,
            Self::Offline(state) => ops::set_password(&state.store, name, new)?,
        })
    }

    /// Gives the user a secret for one-time codes, or takes it away.
    pub(crate) async fn set_totp(
        &mut self,
        name: &str,
        new: NewTotp,
    ) -> anyhow::Result<ChangedTotp> {
        Ok(match self {
            Self::Live(server) => server.set_totp(name, new).await?,
            Self::Offline(state) => ops::set_totp(&state.store, &state.config()?, name, new)?,
        })
    }

    /// Changes which certificates let the user in by their fingerprint.
    pub(crate) async fn change_fingerprints(
        &mut self,
        name: &str,
        new: &NewFingerprints,
    ) -> anyhow::Result<Fingerprints> {
        Ok(match self {
            Self::Live(server) => server.change_fingerprints(name, new).await?,
            Self::Offline(state) => ops::change_fingerprints(&state.store, name, new)?.0,
        })
    }

    /// Lets a user in, or keeps them out.
    pub(crate) async fn set_enabled(&mut self, name: &str, enabled: bool) -> anyhow::Result<Ended> {
        Ok(match self {
            Self::Live(server) => server.set_enabled(name, enabled).await?,
            Self::Offline(state) => {
                ops::set_enabled(&state.store, name, enabled)?;
                Ended::default()
            }
        })
    }

    /// Fixes a user's addresses.
    pub(crate) async fn set_addresses(
        &mut self,
        name: &str,
        new: &NewAddresses,
    ) -> anyhow::Result<User> {
        Ok(match self {
            Self::Live(server) => server.set_addresses(name, new).await?,
            Self::Offline(state) => ops::set_addresses(&state.store, &state.config()?, name, new)?,
        })
    }

    /// One user.
    pub(crate) async fn user(&mut self, name: &str) -> anyhow::Result<User> {
        Ok(match self {
            Self::Live(server) => server.user(name).await?,
            Self::Offline(state) => ops::user(&state.store, name)?,
        })
    }

    /// Changes a user's settings.
    pub(crate) async fn set_settings(
        &mut self,
        name: &str,
        new: &NewSettings,
    ) -> anyhow::Result<User> {
        Ok(match self {
            Self::Live(server) => server.set_settings(name, new).await?,
            Self::Offline(state) => ops::set_settings(&state.store, &state.config()?, name, new)?,
        })
    }

    /// Makes a profile.
    pub(crate) async fn new_profile(&mut self, new: &NewProfile) -> anyhow::Result<Profile> {
        Ok(match self {
            Self::Live(server) => server.new_profile(new).await?,
            Self::Offline(state) => ops::new_profile(&state.store, &state.config()?, new)?,
        })
    }

    /// Client certificates.
    pub(crate) async fn certificates(
        &mut self,
        user: Option<&str>,
    ) -> anyhow::Result<Vec<Certificate>> {
        Ok(match self {
            Self::Live(server) => server.certificates(user).await?,
            Self::Offline(state) => ops::certificates(&state.store, user)?,
        })
    }

    /// Revokes a certificate.
    pub(crate) async fn revoke(&mut self, serial: &str) -> anyhow::Result<Ended> {
        Ok(match self {
            Self::Live(server) => server.revoke(serial).await?,
            Self::Offline(state) => {
                ops::revoke(&state.store, serial)?;
                Ended::default()
            }
        })
    }
}

impl Admin {
    /// Client keys.
    pub(crate) async fn client_keys(
        &mut self,
        user: Option<&str>,
    ) -> anyhow::Result<Vec<ClientKey>> {
        Ok(match self {
            Self::Live(server) => server.client_keys(user).await?,
            Self::Offline(state) => ops::client_keys(&state.store, user)?,
        })
    }

    /// Revokes a client key.
    pub(crate) async fn revoke_client_key(&mut self, id: &str) -> anyhow::Result<Ended> {
        Ok(match self {
            Self::Live(server) => server.revoke_client_key(id).await?,
            Self::Offline(state) => {
                ops::revoke_client_key(&state.store, id)?;
                Ended::default()
            }
        })
    }
}

/// Root works on a server's state as the server's user: files that it makes are of use to the
/// server, and a server that was broken into cannot lead it astray with links.
fn act_as_owner(state: &Path) -> anyhow::Result<Option<ActingAs>> {
    let Ok(folder) = std::fs::metadata(state) else { return Ok(None) };
    if folder.uid() == 0 || !sys::privileges::is_root() {
        return Ok(None);
    }
    let owner = Account { uid: folder.uid(), gid: folder.gid() };
    let acting = ActingAs::new(owner);
    let acting = acting.with_context(|| format!("{}: cannot act as its owner", state.display()))?;
    Ok(Some(acting))
}

/// The running server, for what only it can answer.
pub(crate) async fn server(global: &Global) -> Result<ApiClient, ClientError> {
    ApiClient::connect(&global.state.join("api.sock")).await
}

/// The configuration file: the one named, or the state folder's own if it exists.
pub(crate) fn config_path(global: &Global, config: &ConfigFile) -> Option<PathBuf> {
    config.config.clone().or_else(|| {
        let own = global.state.join("warren.toml");
        // A file that exists but cannot be looked at is an error that loading it explains.
        let missing =
            own.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        (!missing).then_some(own)
    })
}

/// A runtime with as many threads as the machine likes, for what runs long.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}
