//! `warren up`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use backends::{StateDir, StateLock, Store};
use config::Config;
use contract::Secret;
use host::{Keeper, WatchedFiles, read_as_its_owner};
use ipnet::IpNet;
use mgmt::types::{NewProfile, NewUser};
use mgmt::{Api, ApiServer, Control, ops};
use openvpn_management::{Entrance, LogTap, Management};
use shell::{ConfigReader, Server, ServerConfig, members, outside_files, repair_clients};
use token::TokenKey;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::admin::{config_path, runtime};
use crate::banner::{Banner, FirstUser};
use crate::cli::{Global, UpArgs};
use crate::confine::{Confined, Confinement, Role, check_trust};
use crate::control::Live;
use crate::output::print;
use crate::running::Running;
use crate::signals::{Signals, tell_ready};
use crate::{logging, management, pkcs11, profile};

/// The setting that says that a first user was made once; removing that user is for good.
const FIRST_START: &str = "first-start";
/// Who comes in first.
const FIRST_USER: &str = "warren";

/// Everything a server needs to start.
#[derive(Debug)]
pub(crate) struct Start {
    /// The checked configuration.
    pub(crate) config: Config,
    /// Reads it again.
    pub(crate) config_reader: ConfigReader,
    /// What keeps root's rights, if we have given them up.
    pub(crate) keeper: Option<Keeper>,
    /// The server's key, if it is in a token.
    pub(crate) token: Option<TokenKey>,
    /// The state folder.
    pub(crate) state: StateDir,
    /// Held until the process ends.
    pub(crate) lock: StateLock,
    /// Users, certificates and settings.
    pub(crate) store: Arc<Store>,
    /// Where the management protocol is spoken.
    pub(crate) entrance: Option<Entrance>,
    /// What the management protocol shows of the log, if it is spoken.
    pub(crate) tap: Option<LogTap>,
}

/// Reads the configuration, opens the state, then serves until a signal.
pub(crate) fn run(global: &Global, args: &UpArgs) -> anyhow::Result<()> {
    // Before anything is made: a wrong configuration changes nothing.
    let config_path = config_path(global, &args.config);
    let config = match &config_path {
        Some(path) => Config::load_with(path, || read_as_its_owner(path))?,
        None => Config::default(),
    };
    check_trust(&config, config_path.as_deref(), &global.state)?;
    let tap = config.doors.openvpn.management.is_some().then(LogTap::new);
    logging::start_with(&config.log.level.to_string(), tap.as_ref());

    // With the rights of whoever calls.
    // First: the process that keeps the module has all that we have by then.
    let token = pkcs11::of_server(config.doors.openvpn.server_key.as_ref())?;
    let entrance = Entrance::open(&config.doors.openvpn)?;
    // Before any thread: from here on it is not root.
    let confined = Confinement {
        user: &config.server.user,
        sandbox: !args.no_sandbox,
        state: &global.state,
        role: Role::Server {
            config: config_path.as_deref().map(std::path::absolute).transpose()?,
            watched: outside_files(&config.doors.openvpn),
            sockets: entrance.iter().filter_map(Entrance::socket).map(Path::to_owned).collect(),
        },
    };
    let Confined { state, keeper } = confined.enter()?;
    let config_reader = reader(config_path, keeper.clone());
    let state = StateDir::open(state)?;
    let lock = state.lock()?;
    let store = Arc::new(Store::open(&state)?);
    let ended = runtime()?.block_on(async {
        // Before anything is changed: a signal that arrives early must not leave it changed.
        let signals = Signals::listen()?;
        let keeper = keeper.clone();
        let start =
            Start { config, config_reader, keeper, token, state, lock, store, entrance, tap };
        serve(start, signals).await
    });
    if let Some(keeper) = keeper {
        keeper.end();
    }
    ended
}

/// Reads the file, or has it read by whom may.
fn reader(path: Option<PathBuf>, keeper: Option<Keeper>) -> ConfigReader {
    ConfigReader::new(move || match (&path, &keeper) {
        (Some(path), Some(keeper)) => Config::load_with(path, || keeper.read_config()),
        (path, _) => Config::load(path.as_deref()),
    })
}

async fn serve(start: Start, mut signals: Signals) -> anyhow::Result<()> {
    let store = Arc::clone(&start.store);
    let socket = ApiServer::bind(&start.state.api_socket())?;
    let (running, control, banner) = launch(start).await?;
    let (close, closed) = oneshot::channel::<()>();
    let api = Api { store, control: Arc::clone(&control) };
    let api = tokio::spawn(socket.serve(api, async {
        let _ = closed.await;
    }));

    if let Err(error) = print(&banner.to_string()) {
        warn!(%error, "nobody reads what the server prints");
    }
    tell_ready();
    let result = running.until_told(&mut signals, async || reload(control.as_ref()).await).await;
    drop(close);
    if let Ok(Err(error)) = api.await {
        warn!(%error, "the management API ended early");
    }
    result
}

/// Opens the doors.
async fn launch(start: Start) -> anyhow::Result<(Running, Arc<dyn Control>, Banner)> {
    let Start { config, config_reader, keeper, token, state, lock, store, entrance, tap } = start;
    // First, as every port: one in use must not cost a device and a firewall table.
    let members = members(&store)?;
    let management = management::open(&config, entrance, tap, &store, &members)?;
    let files = match &keeper {
        Some(keeper) => WatchedFiles::Kept(keeper.clone()),
        None => WatchedFiles::Own(outside_files(&config.doors.openvpn)),
    };
    repair_clients(&state.clients(), keeper.as_ref());
    let server = Server::start(ServerConfig {
        config,
        config_reader,
        keeper,
        token,
        members,
        files,
        state: state.path().to_owned(),
        store: Arc::clone(&store),
        authenticator: management.as_ref().and_then(Management::authenticator),
    })
    .await?;
    let management = management.map(|management| management::start(management, &server));
    // Only a server that runs shows a password: one that fails to start has not used up the first.
    let first_user = match first_user(&state, &store, &server.config()) {
        Ok(first_user) => first_user,
        Err(error) => {
            server.stop().await;
            return Err(error);
        }
    };

    let banner = banner(&server, first_user);
    let control = Arc::new(Live(server.clone()));
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let is_broken = tokio::select! {
            _ = stopped => false,
            () = server.broken() => true,
        };
        if let Some(management) = management {
            management.stop().await;
        }
        for line in server.stop().await {
            warn!("{line}");
        }
        drop(lock);
        ensure!(!is_broken, "a part of the server broke; the log says which");
        Ok(())
    });
    Ok((Running { stop, task }, control, banner))
}

/// Makes the first user of a fresh state folder, and a profile for it.
fn first_user(
    state: &StateDir,
    store: &Store,
    config: &Config,
) -> anyhow::Result<Option<FirstUser>> {
    if store.setting(FIRST_START)?.is_some() {
        return Ok(None);
    }
    let first_user = if store.users()?.is_empty() {
        let new = NewUser { name: FIRST_USER.to_owned(), password: None, addresses: Vec::new() };
        let created = ops::add_user(store, config, &new)?;
        let wanted = NewProfile {
            user: FIRST_USER.to_owned(),
            door: "openvpn".to_owned(),
            remote: None,
            client: None,
            tap: false,
        };
        let made = ops::new_profile(store, config, &wanted)?;
        let file = state.profiles().join(&made.file_name);
        profile::write(&file, &made.text)?;
        created.generated_password.map(|password| FirstUser {
            user: FIRST_USER.to_owned(),
            password: password.expose().to_owned(),
            profile: file,
        })
    } else {
        None
    };
    store.set_setting(FIRST_START, &Secret::new("done"))?;
    Ok(first_user)
}

fn banner(server: &Server, first_user: Option<FirstUser>) -> Banner {
    let doors = server.doors().into_iter().flat_map(|door| {
        door.listen.into_iter().map(move |at| (door.name.to_owned(), at.to_string()))
    });
    let network = |is_ipv4: bool| {
        let mut own = server.summary().addresses.iter();
        own.find(|net| matches!(net, IpNet::V4(_)) == is_ipv4)
            .map(|net| format!("{}, here {}", net.trunc(), net.addr()))
    };
    Banner { doors: doors.collect(), network4: network(true), network6: network(false), first_user }
}

/// SIGHUP has nobody to answer but the log.
async fn reload(control: &dyn Control) {
    match control.reload().await {
        Ok(reloaded) => info!(
            applied = reloaded.applied.join(", "),
            needs_restart = reloaded.restart.join(", "),
            "configuration read again"
        ),
        Err(failure) => error!(%failure, "the configuration stays as it was"),
    }
}
