//! Real peers on one machine: network namespaces, the programs that run in them, and a relay that
//! impairs the path between them.
//!
//! ```text
//!   client-1 ─┐
//!   client-2 ─┼─ switch ── [relay] ── server ─┬─ outside host   (sees what leaves by NAT)
//!   client-n ─┘                               └─ LAN host       (a network behind the server)
//! ```
//!
//! A [`Namespace`] is a thread that has unshared its network and mounts; whatever it starts
//! inherits both. Nothing has a name outside this process and nothing is persistent, so the kernel
//! removes every device, route and rule when the process ends, however it ends, and any number of
//! copies of the tests run beside each other. It needs root and the Debian packages iproute2,
//! nftables, iputils-ping, iperf3, tcpdump, tshark, openssl, openvpn, procps, systemd and
//! util-linux.
//!
//! A failed [`scenario`] prints the last lines of every peer. With `LAB_KEEP` in the environment
//! the folders with their whole output, configurations and captures stay in `/tmp`.
//!
//! ```no_run
//! lab::scenario("two hosts", |lab| {
//!     let (a, b) = (lab.namespace("a")?, lab.namespace("b")?);
//!     lab.link(&a, &["192.0.2.1/24"], &b, &["192.0.2.2/24"])?;
//!     assert_eq!(lab::ping(&a, "192.0.2.2".parse()?, 3)?.received, 3);
//!     Ok(())
//! });
//! ```

#![forbid(unsafe_code)]

mod capture;
pub mod console;
mod flood;
mod host_state;
mod lab;
pub mod machine;
mod namespace;
pub mod openvpn;
mod peer;
mod pki;
mod probe;
mod relay;
pub mod softether;
pub mod token;
mod traffic;
pub mod warren;
mod world;

pub use capture::{Capture, Pcap};
pub use flood::{Flood, FloodReport, Noise};
pub use host_state::HostState;
pub use lab::{Lab, scenario};
pub use namespace::{Link, Namespace, Switch};
pub use peer::{Mark, Output, Peer};
pub use pki::{Identity, Pki};
pub use probe::{
    Ping, PingReport, SourceMirror, all, eventually, ping, ping_every, reach, source_seen,
};
pub use relay::{Counters, Flow, Impairment, Relay};
pub use traffic::{Iperf, IperfReport, RunningIperf, transfer};
pub use world::World;

use std::time::Duration;

/// What a step that depends on a real peer may take before it counts as failed: many times what
/// it takes on an idle machine, because two test processes may share two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);
