//! The OpenVPN protocol, both roles, without a socket or a clock.
//!
//! ```text
//!   datagram -> Door::route --cookie--> Session (control)  --Install-->  DataTunnel (fast path)
//! ```
//!
//! [`Door`] tells clients from strangers, [`Session`] is one connection of either role,
//! [`DataTunnel`] seals and opens packets, [`FixedSession`] is a tunnel whose keys never change,
//! [`Profile`] reads `.ovpn` files. A TCP connection is one more path for datagrams, which a peer
//! never leaves. Ethernet (tap) is not here, and nothing is ever compressed.
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
mod fixed;
pub mod fuzz;
mod generation;
mod initiator;
mod introduction;
mod key_method;
mod keys;
pub mod management;
mod packet;
mod peer_info;
mod point;
mod profile;
mod pull;
mod push;
mod reliable;
mod responder;
mod session;
mod shape;
mod static_key;
mod tidings;
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
pub use fixed::{FixedConfig, FixedSession, LongWindow};
pub use initiator::{Conduct, InitiatorConfig};
pub use packet::{KeyId, NO_PEER_ID, Opcode};
pub use point::{PointConfig, PointTls};
pub use profile::{
    AuthRetry, DIRECTIVES, Directive, End, Family, Login, Management, ManagementPlace, Point,
    Profile, ProfileError, Proxy, ProxyKind, ReadFile, Remote, Standing, StaticChallenge,
    TokenProvider, TokenUse, Transport, directives_page,
};
pub use pull::{FilterAction, Pull, check_option};
pub use responder::{AuthMode, MAX_PENDING, ResponderConfig};
pub use session::{SILENT, Session};
pub use shape::{Framing, ShapeRules, SizeLimit};
pub use static_key::{BadStaticKey, STATIC_KEY_LEN, StaticKey};
pub use tidings::Tiding;
pub use token::TokenPolicy;
pub use wrap::{Protection, Side};
