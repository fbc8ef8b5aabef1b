//! Users, leases, certificates: the store in the state folder.
//!
//! ```text
//!   StateDir  /var/lib/warren (0700): warren.db, lock, api.sock, profiles/
//!      |
//!      +-- Store ---- users, fixed addresses, leases, certificates, settings
//!            |  \
//!            |   +-- Identity: CA, server certificate, OpenVPN key; made at the first start
//!            +------ LocalAuthenticator: contract::Authenticator over the user list
//! ```
//!
//! The server and the command line open the same store at the same time; [`Store::generation`]
//! tells the server that a user or certificate has changed. Everything here blocks on the disk:
//! async callers use a blocking thread, as [`LocalAuthenticator`] does.
//!
//! ```no_run
//! use backends::{Identity, NewUser, Pools, StateDir, Store, generate_password};
//!
//! let state = StateDir::open("/var/lib/warren")?;
//! let _running = state.lock()?;
//! let store = Store::open(&state)?;
//! let identity = Identity::load_or_create(&store)?;
//! let alice = NewUser {
//!     name: "alice".to_owned(),
//!     password: Some(generate_password()),
//!     fixed: Vec::new(),
//! };
//! store.add_user(&alice, &Pools::default())?;
//! let issued = store.issue_certificate(&identity.authority, "alice", 3650)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod authenticator;
mod authority;
mod challenges;
mod clock;
mod identity;
mod password;
mod profile;
mod random;
mod state;
mod static_key;
mod store;
mod totp;

#[cfg(test)]
mod scratch;

pub use authenticator::LocalAuthenticator;
pub use authority::{Authority, CLIENT_CERTIFICATE_DAYS, CertificateError, Issued, SERVER_NAME};
pub use identity::{Identity, TOKEN_KEY_LEN};
pub use password::generate_password;
pub use profile::{ClientProgram, ProfileInput, ProfileRemote, Transport, Wrap, openvpn_profile};
pub use random::random_bytes;
pub use state::{StateDir, StateError, StateLock, hand_over_all};
pub use static_key::{StaticKey, StaticKeyError};
pub use store::{
    IssuedClientKey, MAX_FINGERPRINTS, NewUser, Pools, Standing, Store, StoreError,
    StoredCertificate, StoredClientKey, StoredLease, User, UserSettings,
};
pub use totp::{totp_text, totp_uri};
