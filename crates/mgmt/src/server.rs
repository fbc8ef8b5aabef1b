//! HTTP/1.1 and JSON on the unix socket of a running server.

use std::fs::{Permissions, remove_file, set_permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Query, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use backends::Store;
use contract::Farewell;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};

use crate::control::{Control, Select};
use crate::failure::{Failure, Reason};
use crate::ops;
use crate::types::{
    Certificate, ChangedPassword, ChangedTotp, ClientKey, CreatedUser, Ended, Fingerprints, Kick,
    NewAddresses, NewFingerprints, NewPassword, NewProfile, NewSettings, NewTotp, NewUser, Profile,
    Reloaded, Session, Status, User,
};

/// The largest request is a user with a password and two addresses.
const MAX_BODY: usize = 64 * 1024;

/// How long requests in flight may take once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the API's handlers work on.
#[derive(Clone, Debug)]
pub struct Api {
    /// Users, certificates and settings.
    pub store: Arc<Store>,
    /// The running server.
    pub control: Arc<dyn Control>,
}

/// The socket, listening; its file goes away with it.
#[derive(Debug)]
pub struct ApiServer {
    listener: LocalListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = remove_file(&self.0);
    }
}

/// The socket cannot be made.
#[derive(Debug)]
pub struct BindError {
    socket: PathBuf,
    source: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let socket = self.socket.display();
        match self.source.kind() {
            io::ErrorKind::InvalidInput => write!(
                f,
                "{socket}: too long for the path of a unix socket (107 bytes); \
                 choose a shorter --state folder"
            ),
            _ => {
                write!(f, "{socket}: cannot make the socket of the management API: {}", self.source)
            }
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl ApiServer {
    /// Makes the socket, mode 0600, in place of one that an earlier run left behind.
    ///
    /// The caller holds the lock of the state folder, so no living server is behind an old one.
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails if the path is too long or the folder cannot be written.
    pub fn bind(socket: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError { socket: socket.to_owned(), source };
        match remove_file(socket) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let file = SocketFile(socket.to_owned());
        set_permissions(socket, Permissions::from_mode(0o600)).map_err(failed)?;
        // The socket belongs to whoever runs the server: that is the uid to compare peers with.
        let owner = std::fs::metadata(socket).map_err(failed)?.uid();

        Ok(Self { listener: LocalListener { inner: listener, owner }, file })
    }

    /// Answers requests until `stop` is ready.
    ///
    /// # Errors
    ///
    /// Fails if the socket stops working.
    pub async fn serve(
        self,
        api: Api,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
        let stop = async move {
            stop.await;
            let _ = stopping.send(());
        };
        let service = router(api).into_make_service_with_connect_info::<Peer>();
        let Self { listener, file: _file } = self;
        let server = axum::serve(listener, service).with_graceful_shutdown(stop);
        tokio::select! {
            result = async { server.await } => result,
            () = async { let _ = stopped.await; tokio::time::sleep(FAREWELL).await } => Ok(()),
        }
    }
}

/// A unix socket that knows who connects.
#[derive(Debug)]
struct LocalListener {
    inner: UnixListener,
    owner: u32,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// As the kernel vouches for it.
    uid: Option<u32>,
    /// Whom the socket belongs to.
    owner: u32,
}

impl Peer {
    fn may_ask(self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == self.owner)
    }
}

impl Listener for LocalListener {
    type Io = UnixStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        let (stream, _) = Listener::accept(&mut self.inner).await;
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        let peer = Peer { uid, owner: self.owner };

        (stream, peer)
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: None, owner: self.owner })
    }
}

impl Connected<IncomingStream<'_, LocalListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, LocalListener>) -> Self {
        *stream.remote_addr()
    }
}

async fn only_for_the_owner(
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if peer.may_ask() {
        return next.run(request).await;
    }
    Failure::new(Reason::Forbidden, "only root and the user that the server runs as may ask")
        .into_response()
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/sessions", get(sessions))
        .route("/v1/sessions/kick", post(kick))
        .route("/v1/reload", post(reload))
        .route("/v1/users", get(users).post(add_user))
        .route("/v1/users/{name}", get(user).delete(remove_user))
        .route("/v1/users/{name}/settings", post(set_settings))
        .route("/v1/users/{name}/password", post(set_password))
        .route("/v1/users/{name}/totp", post(set_totp))
        .route("/v1/users/{name}/fingerprints", post(change_fingerprints))
        .route("/v1/users/{name}/addresses", post(set_addresses))
        .route("/v1/users/{name}/enable", post(enable))
        .route("/v1/users/{name}/disable", post(disable))
        .route("/v1/profiles", post(new_profile))
        .route("/v1/certificates", get(certificates))
        .route("/v1/certificates/{serial}/revoke", post(revoke))
        .route("/v1/client-keys", get(client_keys))
        .route("/v1/client-keys/{id}/revoke", post(revoke_client_key))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(only_for_the_owner))
        .with_state(api)
}

type Answer<T> = Result<Json<T>, Failure>;

async fn status(State(api): State<Api>) -> Json<Status> {
    Json(api.control.status().await)
}

async fn sessions(State(api): State<Api>) -> Json<Vec<Session>> {
    Json(api.control.sessions().await)
}

async fn kick(State(api): State<Api>, Body(kick): Body<Kick>) -> Answer<Ended> {
    let user = Select::User(kick.target.clone());
    let id = kick.target.parse().ok().map(Select::Id);
    let live = api.control.sessions().await;
    let is_there = |select: &Select| live.iter().any(|session| select.matches(session));
    let meant = match id.filter(is_there) {
        Some(_) if is_there(&user) => {
            return Err(Failure::conflict(format!(
                "`{}` is both a user and the id of a session; kick by the ids that \
                 `warren sessions` lists for the user, or disable the user",
                kick.target
            )));
        }
        Some(id) => id,
        None => user,
    };
    let sessions = api.control.end_sessions(&meant, Farewell::Kicked).await;
    if sessions == 0 {
        return Err(Failure::not_found(format!(
            "no session has the id or user `{}`; `warren sessions` lists them",
            kick.target
        )));
    }
    Ok(Json(Ended { sessions }))
}

async fn reload(State(api): State<Api>) -> Answer<Reloaded> {
    api.control.reload().await.map(Json)
}

async fn users(State(api): State<Api>) -> Answer<Vec<User>> {
    blocking(&api, ops::users).await.map(Json)
}

async fn add_user(State(api): State<Api>, Body(new): Body<NewUser>) -> Answer<CreatedUser> {
    let config = api.control.config();
    blocking(&api, move |store| ops::add_user(store, &config, &new)).await.map(Json)
}

async fn remove_user(State(api): State<Api>, Name(name): Name) -> Answer<Ended> {
    let user = name.clone();
    blocking(&api, move |store| ops::remove_user(store, &user)).await?;
    end(&api, Select::User(name)).await
}

async fn set_password(
    State(api): State<Api>,
    Name(name): Name,
    Body(new): Body<NewPassword>,
) -> Answer<ChangedPassword> {
    blocking(&api, move |store| ops::set_password(store, &name, &new)).await.map(Json)
}

async fn set_totp(
    State(api): State<Api>,
    Name(name): Name,
    Body(new): Body<NewTotp>,
) -> Answer<ChangedTotp> {
    let config = api.control.config();
    blocking(&api, move |store| ops::set_totp(store, &config, &name, new)).await.map(Json)
}

async fn change_fingerprints(
    State(api): State<Api>,
    Name(name): Name,
    Body(new): Body<NewFingerprints>,
) -> Answer<Fingerprints> {
    let changed = blocking(&api, move |store| ops::change_fingerprints(store, &name, &new)).await?;
    api.control.tell_registered().await;
    let (mut changed, removed) = changed;
    for certificate in removed {
        changed.sessions += end(&api, Select::Certificate(certificate)).await?.sessions;
    }
    Ok(Json(changed))
}

async fn set_addresses(
    State(api): State<Api>,
    Name(name): Name,
    Body(new): Body<NewAddresses>,
) -> Answer<User> {
    let config = api.control.config();
    blocking(&api, move |store| ops::set_addresses(store, &config, &name, &new)).await.map(Json)
}

async fn user(State(api): State<Api>, Name(name): Name) -> Answer<User> {
    blocking(&api, move |store| ops::user(store, &name)).await.map(Json)
}

async fn set_settings(
    State(api): State<Api>,
    Name(name): Name,
    Body(new): Body<NewSettings>,
) -> Answer<User> {
    let config = api.control.config();
    blocking(&api, move |store| ops::set_settings(store, &config, &name, &new)).await.map(Json)
}

async fn enable(State(api): State<Api>, Name(name): Name) -> Answer<Ended> {
    blocking(&api, move |store| ops::set_enabled(store, &name, true)).await?;
    Ok(Json(Ended::default()))
}

async fn disable(State(api): State<Api>, Name(name): Name) -> Answer<Ended> {
    let user = name.clone();
    blocking(&api, move |store| ops::set_enabled(store, &user, false)).await?;
    end(&api, Select::User(name)).await
}

async fn new_profile(State(api): State<Api>, Body(new): Body<NewProfile>) -> Answer<Profile> {
    let config = api.control.config();
    blocking(&api, move |store| ops::new_profile(store, &config, &new)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificatesOf {
    user: Option<String>,
}

async fn certificates(State(api): State<Api>, parts: Whose) -> Answer<Vec<Certificate>> {
    blocking(&api, move |store| ops::certificates(store, parts.0.user.as_deref())).await.map(Json)
}

async fn revoke(State(api): State<Api>, Name(serial): Name) -> Answer<Ended> {
    let serial = blocking(&api, move |store| ops::revoke(store, &serial)).await?;
    end(&api, Select::Certificate(serial)).await
}

async fn client_keys(State(api): State<Api>, parts: Whose) -> Answer<Vec<ClientKey>> {
    blocking(&api, move |store| ops::client_keys(store, parts.0.user.as_deref())).await.map(Json)
}

async fn revoke_client_key(State(api): State<Api>, Name(id): Name) -> Answer<Ended> {
    let id = blocking(&api, move |store| ops::revoke_client_key(store, &id)).await?;
    end(&api, Select::ClientKey(id)).await
}

async fn no_such_route() -> Failure {
    Failure::not_found("the API has no such path; it begins with /v1/")
}

async fn no_such_method() -> Response {
    let failure = Failure::invalid("the path does not take this method");
    (StatusCode::METHOD_NOT_ALLOWED, Json(failure)).into_response()
}

/// Ends the sessions of somebody who is not welcome any more.
async fn end(api: &Api, select: Select) -> Answer<Ended> {
    let sessions = api.control.end_sessions(&select, Farewell::Revoked).await;
    Ok(Json(Ended { sessions }))
}

/// Runs an operation on the store where waiting for a disk holds nobody up.
async fn blocking<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let store = Arc::clone(&api.store);
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "an operation of the management API ended early");
            Err(Failure::internal("the operation ended early; the server's log says why"))
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.reason.status())
            .expect("every reason has a valid HTTP status");
        (status, Json(self)).into_response()
    }
}

fn rejected(status: StatusCode, message: String) -> Response {
    (status, Json(Failure::invalid(message))).into_response()
}

/// A JSON body; what is wrong with it is said in JSON too.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(rejected(rejection.status(), rejection.body_text())),
        }
    }
}

/// The one name in the path.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(name)) => Ok(Self(name)),
            Err(rejection) => Err(rejected(rejection.status(), rejection.body_text())),
        }
    }
}

/// The filter of the certificate list.
struct Whose(CertificatesOf);

impl<S: Send + Sync> FromRequestParts<S> for Whose {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(rejected(rejection.status(), rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests;
