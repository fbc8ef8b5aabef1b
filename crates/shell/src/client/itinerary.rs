//! Where a client goes, how often it tries, and what it brings: what every protocol needs to be told.

use std::time::Duration;

use contract::Layer;
use openvpn::{Family, Profile, Remote};

/// What of a profile is the client's own business, and not its protocol's.
#[derive(Clone, Debug)]
pub(super) struct Itinerary {
    /// Servers, in the order in which to try them.
    pub(super) remotes: Vec<Remote>,
    /// Shuffle them first.
    pub(super) remote_random: bool,
    /// The port that connections are made from; `None` leaves it to the kernel.
    pub(super) local_port: Option<u16>,
    /// The device's name, if it is to have a certain one.
    pub(super) device: Option<String>,
    /// What the device carries.
    pub(super) layer: Layer,
    /// The largest packet that the device takes before the server has said more, in bytes.
    pub(super) mtu: u16,
    /// The first and the longest wait between two rounds through the servers.
    pub(super) retry: (Duration, Duration),
    /// After so many rounds it gives up.
    pub(super) retry_max: Option<u32>,
    /// How long one server is given to answer.
    pub(super) server_timeout: Duration,
    /// The other end is a peer, not a server; networks behind both reach each other.
    pub(super) link: Option<Link>,
}

/// A link between two peers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// The IP version of the outer packets, if the profile says so.
    pub(super) family: Option<Family>,
}

impl From<&Profile> for Itinerary {
    fn from(profile: &Profile) -> Self {
        let local_port = match &profile.point {
            Some(point) => point.local_port,
            None => profile.local_port,
        };
        Self {
            remotes: profile.remotes.clone(),
            remote_random: profile.remote_random,
            local_port,
            device: profile.device.clone(),
            layer: profile.layer,
            mtu: profile.mtu,
            retry: profile.retry,
            retry_max: profile.retry_max,
            server_timeout: profile.server_timeout,
            link: profile.point.as_ref().map(|point| Link { family: point.family }),
        }
    }
}
