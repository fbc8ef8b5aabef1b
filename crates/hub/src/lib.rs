//! Virtual networks: who is plugged in where, and where a packet leaves.
//!
//! ```text
//!   control side                         forwarding side, one copy per worker
//!   HubNetwork: attach, detach --Plug--> Switch:  member <-> member, member <-> host
//!     Pool: who gets which address       Uplink:  host <-> the one tunnel of a client
//! ```
//!
//! The control side locks, allocates and remembers; the forwarding side does none of that: every
//! packet costs at most two table look-ups for its source and two for its destination.
//!
//! Ports that carry frames are on the network's [`Segment`], where the network itself is one
//! station among others: it answers for the addresses of everybody who is not on the segment, and
//! takes what is sent to it into [`Fabric::forward`](contract::Fabric::forward).
//!
//! ```
//! # use std::{sync::Arc, time::Instant};
//! use contract::{FabricOp, Fabric, Layer, PacketHead, Plug, PortId, Verdict, HOST_PORT};
//! use hub::{Segment, Switch, SwitchSettings};
//! use wire::ethernet::Mac;
//!
//! # let (seed, now) = (7, Instant::now());
//! let mut switch = Switch::new(SwitchSettings {
//!     subnets: vec!["10.86.0.0/16".parse()?],
//!     gateways: vec!["10.86.0.1".parse()?],
//!     host_mtu: 1500,
//!     policy: Default::default(),
//!     on_bridge: vec![],
//!     groups: vec![],
//!     segment: Arc::new(Segment::new(Mac([2, 0, 0, 0, 0, 1]), seed, now)),
//! });
//! let prefixes = vec!["10.86.0.2/32".parse()?];
//! let (layer, user) = (Layer::Ip, "alice".into());
//! let plug = Plug { port: PortId(7), prefixes, mtu: 1400, layer, user };
//! switch.apply(&FabricOp::Plug(plug));
//!
//! let packet = PacketHead {
//!     source: "192.0.2.1".parse()?,
//!     destination: "10.86.0.2".parse()?,
//!     protocol: 6,
//!     len: 40,
//! };
//! assert_eq!(switch.forward(HOST_PORT, &packet), Verdict::Port(PortId(7)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod fabric;
pub mod fuzz;
mod memory;
mod network;
mod plan;
mod pool;
mod segment;

pub use fabric::{AnyFabric, DISCOVERY_GROUPS, Switch, SwitchPolicy, SwitchSettings, Uplink};
pub use memory::{Forgetful, LeaseMemory, StoredLease};
pub use network::{HubNetwork, Member, NetworkSettings};
pub use plan::{DEFAULT_IPV4, PlanError};
pub use segment::Segment;
