use std::collections::BTreeMap;
use std::sync::Arc;

use contract::{
    ContentKind, DataPlaneOp, Discard, Exit, Opened, Path, PortId, Tunnel, TunnelKey, Via,
};

/// The data plane's double: what is installed, by key, and how each port sends.
///
/// Strict where the real one is lenient: an order that makes no sense is a bug in the engine that
/// gave it, so it panics.
#[derive(Debug, Default)]
pub struct Ledger {
    tunnels: BTreeMap<TunnelKey, Installed>,
    exits: BTreeMap<PortId, Exit>,
}

/// One installed tunnel.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Whose packets come out of it.
    pub port: PortId,
    /// Where its datagrams go.
    pub via: Via,
    /// The keys.
    pub tunnel: Arc<dyn Tunnel>,
}

/// What came out of a datagram.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) port: PortId,
    pub(crate) content: Content,
    /// The key under which the outermost datagram came from somewhere new.
    pub(crate) roamed: Option<TunnelKey>,
}

#[derive(Debug)]
pub(crate) enum Content {
    Packet(Vec<u8>),
    Control(Vec<u8>),
    Nothing,
}

impl Ledger {
    /// Carries out one order.
    ///
    /// # Panics
    ///
    /// If the order makes no sense: a key installed twice, or one named that is not installed.
    pub fn apply(&mut self, op: DataPlaneOp) {
        match op {
            DataPlaneOp::Install { key, port, via, tunnel } => {
                let before = self.tunnels.insert(key, Installed { port, via, tunnel });
                assert!(before.is_none(), "{key:?} installed over a tunnel that is in force");
            }
            DataPlaneOp::SendVia { port, exit } => {
                let Exit::Tunnel(key) = exit;
                let owner = self.tunnels.get(&key).map(|installed| installed.port);
                assert_eq!(owner, Some(port), "{port:?} told to send with {key:?}");
                self.exits.insert(port, exit);
            }
            DataPlaneOp::Move { key, path } => {
                let installed = self.tunnels.get_mut(&key);
                let installed = installed.unwrap_or_else(|| panic!("{key:?} moved, not installed"));
                installed.via = Via::Path(path);
            }
            DataPlaneOp::Remove { port, key } => {
                let removed = self.tunnels.remove(&key);
                let owner = removed.map(|installed| installed.port);
                assert_eq!(owner, Some(port), "{key:?} removed, not installed by {port:?}");
                self.exits.retain(|_, exit| *exit != Exit::Tunnel(key));
            }
        }
    }

    /// The keys of every tunnel in force.
    #[must_use]
    pub fn keys(&self) -> Vec<TunnelKey> {
        self.tunnels.keys().copied().collect()
    }

    /// The tunnel in force under `key`.
    #[must_use]
    pub fn tunnel(&self, key: TunnelKey) -> Option<&Installed> {
        self.tunnels.get(&key)
    }

    /// How `port` sends.
    #[must_use]
    pub fn exit(&self, port: PortId) -> Option<Exit> {
        self.exits.get(&port).copied()
    }

    /// Whether nothing is in force: what a session must leave behind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.exits.is_empty()
    }

    /// Seals as a worker does, with what `port` sends with.
    ///
    /// # Errors
    ///
    /// [`Discard::NoTunnel`] if the port has no exit, or what the tunnel says.
    pub fn seal(
        &self,
        port: PortId,
        kind: ContentKind,
        content: &[u8],
    ) -> Result<(Path, Vec<u8>), Discard> {
        let Some(Exit::Tunnel(key)) = self.exit(port) else { return Err(Discard::NoTunnel) };
        let installed = self.tunnel(key).ok_or(Discard::NoTunnel)?;

        let frame = installed.tunnel.frame(kind, content.len());
        let mut datagram = vec![0; frame.head + content.len() + frame.tail];
        datagram[frame.head..][..content.len()].copy_from_slice(content);
        installed.tunnel.seal(kind, content.len(), &mut datagram)?;

        match installed.via {
            Via::Path(path) => Ok((path, datagram)),
            // No protocol nests twice.
            Via::Port(_) if kind == ContentKind::Inner => Err(Discard::Malformed),
            Via::Port(outer) => self.seal(outer, ContentKind::Inner, &datagram),
        }
    }

    /// Opens as a worker does, one level of nesting deep.
    pub(crate) fn open(
        &self,
        path: Path,
        key: TunnelKey,
        datagram: &mut [u8],
    ) -> Result<Arrived, Discard> {
        let outer = self.tunnel(key).ok_or(Discard::NoTunnel)?;
        let Via::Path(known) = outer.via else { return Err(Discard::SpoofedSource) };
        let opened = outer.tunnel.open(datagram)?;
        let roamed = (known != path).then_some(key);

        let (port, opened) = match opened {
            Opened::Inner(key, inner) => {
                let nested = self.tunnel(key).ok_or(Discard::NoTunnel)?;
                if nested.via != Via::Port(outer.port) {
                    return Err(Discard::SpoofedSource);
                }
                (nested.port, nested.tunnel.open(inner)?)
            }
            opened => (outer.port, opened),
        };
        let content = match opened {
            Opened::Packet(content) | Opened::Frame(content) => Content::Packet(content.to_vec()),
            Opened::Control(message) => Content::Control(message.to_vec()),
            Opened::KeepAlive | Opened::Kept => Content::Nothing,
            Opened::Inner(..) | Opened::Packed(_) => return Err(Discard::Malformed),
        };
        Ok(Arrived { port, content, roamed })
    }
}
