//! The only unsafe code: sockets, TUN devices, privileges, mounts, limits of the operating system.
//!
//! Every function is safe to call and every unsafe block is one system call. What the kernel
//! refuses is remembered and not asked for again.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod limits;
pub mod netns;
pub mod offspring;
pub mod poller;
pub mod privileges;
pub mod sandbox;
pub mod tcp;
pub mod tun;
pub mod udp;

pub use poller::{Interest, Poller, Waker};
pub use privileges::{Account, Capability};
pub use sandbox::Sandbox;
pub use tcp::TcpIo;
pub use tun::{Tun, TunQueue};
pub use udp::{ReceiveBuffers, UdpIo, UdpOptions, UdpSender};
