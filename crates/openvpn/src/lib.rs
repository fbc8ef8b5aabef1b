//! The OpenVPN protocol, both roles, without a socket or a clock.
//!
//! ```text
//!   datagram -> Door::route --cookie--> Session (control)  --Install-->  DataTunnel (fast path)
//! ```
//!
//! [`Door`] tells clients from strangers, [`Session`] is one connection of either role,
//! [`DataTunnel`] seals and opens packets, [`Profile`] reads `.ovpn` files. A TCP connection
//! is one more path for datagrams, which a peer never leaves. Neither Ethernet (tap), static keys
//! nor compression are here.
//!
//! The protocol has no RFC; the names are those of its wire-protocol document and of the options
//! that its users know.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

mod acceptor;
mod challenge;
mod cipher;
mod client_key;
mod data;
mod early;
pub mod fuzz;
mod generation;
mod initiator;
mod introduction;
mod key_method;
mod keys;
pub mod management;
mod packet;
mod peer_info;
mod profile;
mod pull;
mod push;
mod reliable;
mod responder;
mod session;
mod static_key;
mod tls;
mod token;
mod wrap;

pub use acceptor::{Door, claims};
pub use challenge::{Challenge, LoginRefusal, static_response};
pub use cipher::{Cipher, digest_name, digest_named};
pub use client_key::{
    BadClientKey, ClientKey, ClientKeyId, ClientKeyRules, MAX_METADATA, Metadata, SERVER_KEY_LEN,
    ServerKey, UnwrappedKey, is_young,
};
pub use data::{DataKeys, DataTunnel};
pub use initiator::{Conduct, InitiatorConfig};
pub use packet::{KeyId, NO_PEER_ID, Opcode};
pub use profile::{
    AuthRetry, DIRECTIVES, Directive, Family, Login, Profile, ProfileError, Proxy, ProxyKind,
    ReadFile, Remote, Standing, StaticChallenge, Transport, directives_page,
};
pub use pull::{FilterAction, Pull, check_option};
pub use responder::{AuthMode, ResponderConfig};
pub use session::Session;
pub use static_key::{BadStaticKey, STATIC_KEY_LEN, StaticKey};
pub use token::TokenPolicy;
pub use wrap::{Protection, Side};
