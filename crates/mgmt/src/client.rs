//! The other end of the socket: what the command line asks a running server with.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::types::{
    Certificate, ChangedPassword, ChangedTotp, ClientKey, CreatedUser, Ended, Fingerprints, Kick,
    NewAddresses, NewFingerprints, NewPassword, NewProfile, NewSettings, NewTotp, NewUser, Profile,
    Reloaded, Session, Status, User,
};

/// A server that answers nothing for this long does not work: hashing a password behind a queue of
/// others takes about a second, and a reload waits for the kernel.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for the session list of a full server, at about 600 bytes each.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A connection to a running server.
#[derive(Debug)]
pub struct ApiClient {
    requests: SendRequest<Full<Bytes>>,
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing listens on the socket.
    NotRunning {
        /// Where a server would listen.
        socket: PathBuf,
    },
    /// The caller may not use the socket.
    Permission {
        /// Which socket.
        socket: PathBuf,
    },
    /// The server says no.
    Refused(Failure),
    /// The connection broke, or the answer is not one.
    Broken {
        /// Which socket.
        socket: PathBuf,
        /// What happened, in words.
        what: String,
    },
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning { socket } => write!(
                f,
                "no server runs on {}; start it with `warren up`, or name its folder with --state",
                socket.parent().unwrap_or(socket).display()
            ),
            Self::Permission { socket } => write!(
                f,
                "{}: permission denied; run this as root or as the user that the server runs as",
                socket.display()
            ),
            Self::Refused(failure) => failure.fmt(f),
            Self::Broken { socket, what } => {
                write!(
                    f,
                    "{}: the server did not answer: {what}; its log says why",
                    socket.display()
                )
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl ApiClient {
    /// Connects to the server behind `socket`.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotRunning`] if there is none, [`ClientError::Permission`] if the caller may
    /// not ask it.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            // A path that is too long to be a socket's: no server can listen there.
            | io::ErrorKind::InvalidInput => ClientError::NotRunning { socket: socket.to_owned() },
            io::ErrorKind::PermissionDenied => {
                ClientError::Permission { socket: socket.to_owned() }
            }
            _ => broken(socket, &error),
        })?;
        let (requests, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| broken(socket, &error))?;
        tokio::spawn(connection);

        Ok(Self { requests, socket: socket.to_owned() })
    }

    /// How the server is doing.
    ///
    /// # Errors
    ///
    /// Fails if the connection breaks; so do all methods below, or the server refuses.
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status", None::<&()>).await
    }

    /// Every live session.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn sessions(&mut self) -> Result<Vec<Session>, ClientError> {
        self.ask(Method::GET, "/v1/sessions", None::<&()>).await
    }

    /// Ends a session by its id, or all of a user.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn kick(&mut self, target: &str) -> Result<Ended, ClientError> {
        let kick = Kick { target: target.to_owned() };
        self.ask(Method::POST, "/v1/sessions/kick", Some(&kick)).await
    }

    /// Applies a changed configuration file.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn reload(&mut self) -> Result<Reloaded, ClientError> {
        self.ask(Method::POST, "/v1/reload", None::<&()>).await
    }

    /// Every user.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn users(&mut self) -> Result<Vec<User>, ClientError> {
        self.ask(Method::GET, "/v1/users", None::<&()>).await
    }

    /// Makes a user.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn add_user(&mut self, new: &NewUser) -> Result<CreatedUser, ClientError> {
        self.ask(Method::POST, "/v1/users", Some(new)).await
    }

    /// Removes a user and ends their sessions.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn remove_user(&mut self, name: &str) -> Result<Ended, ClientError> {
        self.ask(Method::DELETE, &format!("/v1/users/{}", segment(name)), None::<&()>).await
    }

    /// Changes a password.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn set_password(
        &mut self,
        name: &str,
        new: &NewPassword,
    ) -> Result<ChangedPassword, ClientError> {
        self.ask(Method::POST, &format!("/v1/users/{}/password", segment(name)), Some(new)).await
    }

    /// Gives the user a secret for one-time codes, or takes it away.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn set_totp(&mut self, name: &str, new: NewTotp) -> Result<ChangedTotp, ClientError> {
        self.ask(Method::POST, &format!("/v1/users/{}/totp", segment(name)), Some(&new)).await
    }

    /// Changes which certificates let the user in by their fingerprint, and ends the sessions of
    /// those that do no more.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn change_fingerprints(
        &mut self,
        name: &str,
        new: &NewFingerprints,
    ) -> Result<Fingerprints, ClientError> {
        self.ask(Method::POST, &format!("/v1/users/{}/fingerprints", segment(name)), Some(new))
            .await
    }

    /// Lets a user in, or keeps them out and ends their sessions.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn set_enabled(&mut self, name: &str, enabled: bool) -> Result<Ended, ClientError> {
        let verb = if enabled { "enable" } else { "disable" };
        self.ask(Method::POST, &format!("/v1/users/{}/{verb}", segment(name)), None::<&()>).await
    }

    /// Fixes a user's addresses; live sessions keep theirs.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn set_addresses(
        &mut self,
        name: &str,
        new: &NewAddresses,
    ) -> Result<User, ClientError> {
        self.ask(Method::POST, &format!("/v1/users/{}/addresses", segment(name)), Some(new)).await
    }

    /// One user.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn user(&mut self, name: &str) -> Result<User, ClientError> {
        self.ask(Method::GET, &format!("/v1/users/{}", segment(name)), None::<&()>).await
    }

    /// Changes a user's settings; live sessions keep theirs.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn set_settings(
        &mut self,
        name: &str,
        new: &NewSettings,
    ) -> Result<User, ClientError> {
        self.ask(Method::POST, &format!("/v1/users/{}/settings", segment(name)), Some(new)).await
    }

    /// Makes a profile, with a certificate of its own.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn new_profile(&mut self, new: &NewProfile) -> Result<Profile, ClientError> {
        self.ask(Method::POST, "/v1/profiles", Some(new)).await
    }

    /// Every client certificate, or those of one user.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn certificates(
        &mut self,
        user: Option<&str>,
    ) -> Result<Vec<Certificate>, ClientError> {
        let query = user.map(|user| format!("?user={}", segment(user))).unwrap_or_default();
        self.ask(Method::GET, &format!("/v1/certificates{query}"), None::<&()>).await
    }

    /// Revokes a certificate and ends the sessions that it opened.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn revoke(&mut self, serial: &str) -> Result<Ended, ClientError> {
        let path = format!("/v1/certificates/{}/revoke", segment(serial));
        self.ask(Method::POST, &path, None::<&()>).await
    }

    /// Every client key, or those of one user.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn client_keys(&mut self, user: Option<&str>) -> Result<Vec<ClientKey>, ClientError> {
        let query = user.map(|user| format!("?user={}", segment(user))).unwrap_or_default();
        self.ask(Method::GET, &format!("/v1/client-keys{query}"), None::<&()>).await
    }

    /// Revokes a client key, and the certificate that was given out with it, and ends the sessions
    /// that they opened.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    pub async fn revoke_client_key(&mut self, id: &str) -> Result<Ended, ClientError> {
        let path = format!("/v1/client-keys/{}/revoke", segment(id));
        self.ask(Method::POST, &path, None::<&()>).await
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        question: Option<&Q>,
    ) -> Result<A, ClientError> {
        match timeout(PATIENCE, self.exchange(method, path, question)).await {
            Ok(answer) => answer,
            Err(_) => Err(broken(&self.socket, &format!("silent for {} s", PATIENCE.as_secs()))),
        }
    }

    async fn exchange<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        question: Option<&Q>,
    ) -> Result<A, ClientError> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, "warren");
        let mut body = Vec::new();
        if let Some(question) = question {
            body = serde_json::to_vec(question).map_err(|error| broken(&self.socket, &error))?;
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Full::new(body.into())).map_err(|error| broken(&self.socket, &error))?;

        let response = self
            .requests
            .send_request(request)
            .await
            .map_err(|error| broken(&self.socket, &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| broken(&self.socket, &error))?
            .to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| broken(&self.socket, &error));
        }
        match serde_json::from_slice(&body) {
            Ok(failure) => Err(ClientError::Refused(failure)),
            Err(_) => Err(broken(&self.socket, &format!("HTTP status {status}"))),
        }
    }
}

fn broken(socket: &Path, what: &impl ToString) -> ClientError {
    ClientError::Broken { socket: socket.to_owned(), what: what.to_string() }
}

/// A name as one segment of a path or value of a query (RFC 3986, 2.1).
fn segment(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        // RFC 3986, 2.3: these need no encoding.
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("anna@home.example"), "anna%40home.example");
        assert_eq!(segment("../a?b#c%/ü"), "..%2Fa%3Fb%23c%25%2F%C3%BC");
    }
}
