//! One change of the host: how it is made, how it is undone; and the list of those in force.

use std::fmt;
use std::io;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::bridge;
use crate::dns::{LinkDns, ResolvConf, Restored};
use crate::error::HostError;
use crate::journal::Journal;
use crate::keeper::Names;
use crate::nft::{self, Ruleset};
use crate::place::Place;
use crate::route::{Link, Refusal, Route, Routing, Rule, is_one_of};
use crate::sysctl::{self, Setting};

/// How the kernel says that there is nothing to remove.
const GONE: [Errno; 4] = [Errno::ESRCH, Errno::ENOENT, Errno::ENODEV, Errno::EADDRNOTAVAIL];

/// A change, with all that is needed to make it and to undo it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Change {
    /// An address on the tunnel's interface.
    Address { link: Link, address: IpNet },
    /// A route.
    Route { link: Link, route: Route },
    /// A route that leads nowhere. It does not go with the tunnel's interface.
    Refusal(Refusal),
    /// A policy rule.
    Rule(Rule),
    /// A table of nf_tables.
    Table { name: String, ruleset: Ruleset },
    /// A kernel setting, shared with other Warrens; the folder says who we are among them.
    Hold { setting: Setting, place: Place, state: PathBuf },
    /// Resolvers of an interface, with systemd-resolved.
    LinkDns { link: Link, dns: LinkDns },
    /// `/etc/resolv.conf`.
    ResolvConf(ResolvConf),
    /// A bridge of our own, and the interface of the host's in it, which may have been off.
    Bridge { name: String, port: Link, was_up: bool },
}

/// How making a change ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Made {
    Yes,
    /// It was there already, so it is somebody else's and is not undone.
    Already,
}

/// How undoing a change ended.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Undone {
    Yes,
    /// It was not in force (any more).
    NothingToDo,
    /// It stays, for this reason.
    Left(&'static str),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { link, address } => write!(f, "address {address} on {}", link.name),
            Self::Route { link, route } => write!(f, "{route} through {}", link.name),
            Self::Refusal(refusal) => refusal.fmt(f),
            Self::Rule(rule) => rule.fmt(f),
            Self::Table { name, .. } => write!(f, "nf_tables table inet {name}"),
            Self::Hold { setting, .. } => setting.fmt(f),
            Self::LinkDns { link, .. } => write!(f, "resolvers of {}", link.name),
            Self::ResolvConf(_) => f.write_str("/etc/resolv.conf"),
            Self::Bridge { name, port, .. } => write!(f, "bridge {name} of {}", port.name),
        }
    }
}

impl Change {
    /// Whether it is a file, which outlives the boot and is in no network namespace.
    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self, Self::ResolvConf(_))
    }

    /// Makes the change; after an error, nothing has changed.
    fn make(&self, names: Names<'_>) -> Result<Made, HostError> {
        let made = match self {
            Self::Address { link, address } => {
                Routing::open().and_then(|mut routing| routing.add_address(link.index, *address))
            }
            Self::Route { route, .. } => {
                Routing::open().and_then(|mut routing| routing.add_route(route))
            }
            Self::Refusal(refusal) => {
                Routing::open().and_then(|mut routing| routing.add_refusal(refusal))
            }
            Self::Rule(rule) => Routing::open().and_then(|mut routing| routing.add_rule(rule)),
            Self::Table { name, ruleset } => ruleset.install(name),
            Self::Hold { setting, place, state } => {
                return sysctl::hold(*setting, place, state).map(|()| Made::Yes);
            }
            Self::LinkDns { dns, .. } => return names.set_link(dns).map(|()| Made::Yes),
            Self::ResolvConf(file) => return names.write(file).map(|()| Made::Yes),
            Self::Bridge { name, port, was_up } => {
                return bridge::make(name, port, *was_up).map(|()| Made::Yes);
            }
        };
        match made {
            Ok(()) => Ok(Made::Yes),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Made::Already),
            Err(cause) => Err(HostError::kernel(format!("set {self}"))(cause)),
        }
    }

    /// Undoes the change; doing so twice, or without having made it, is harmless.
    pub(crate) fn undo(&self, names: Names<'_>) -> Result<Undone, HostError> {
        let removed = match self {
            Self::Address { link, address } => {
                on_link(link, |routing| routing.remove_address(link.index, *address))
            }
            Self::Route { link, route } => on_link(link, |routing| routing.remove_route(route)),
            Self::Refusal(refusal) => {
                Routing::open().and_then(|mut routing| routing.remove_refusal(refusal))
            }
            Self::Rule(rule) => Routing::open().and_then(|mut routing| routing.remove_rule(rule)),
            Self::Bridge { name, port, was_up } => bridge::remove(name, port, *was_up),
            Self::Table { name, .. } => match nft::remove(name) {
                Ok(false) => return Ok(Undone::NothingToDo),
                removed => removed.map(drop),
            },
            Self::Hold { setting, place, state } => {
                return Ok(match sysctl::release(*setting, place, state)? {
                    true => Undone::Yes,
                    false => Undone::NothingToDo,
                });
            }
            Self::LinkDns { link, dns } => {
                let exists = Routing::open().and_then(|mut routing| routing.exists(link));
                return match exists.map_err(HostError::kernel("list interfaces"))? {
                    true => names.revert_link(dns).map(|()| Undone::Yes),
                    false => Ok(Undone::NothingToDo),
                };
            }
            Self::ResolvConf(file) => {
                return Ok(match names.restore(file)? {
                    Restored::Yes => Undone::Yes,
                    Restored::NothingToDo => Undone::NothingToDo,
                    Restored::ChangedByOthers => {
                        Undone::Left("another program wrote it since; check it by hand")
                    }
                    Restored::Harmful => Undone::Left(
                        "it would become a program, or a link to what is no known resolver's; \
                         check it and the state folder by hand",
                    ),
                });
            }
        };
        match removed {
            Ok(()) => Ok(Undone::Yes),
            Err(error) if is_one_of(&error, &GONE) => Ok(Undone::NothingToDo),
            Err(cause) => Err(HostError::kernel(format!("remove {self}"))(cause)),
        }
    }

    /// Whether `self` takes the place of `other` without a gap between them.
    fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table { name, .. }, Self::Table { name: other, .. }) => name == other,
            _ => false,
        }
    }

    /// The interface of an address, or of a route, which the kernel removes on its own when the
    /// interface loses its last address.
    fn addressed_link(&self) -> Option<&Link> {
        match self {
            Self::Address { link, .. } | Self::Route { link, .. } => Some(link),
            _ => None,
        }
    }
}

/// Does something to an interface, unless it is gone or another one has its number.
fn on_link(link: &Link, remove: impl FnOnce(&mut Routing) -> io::Result<()>) -> io::Result<()> {
    let mut routing = Routing::open()?;
    if !routing.exists(link)? {
        return Err(Errno::ENODEV.into());
    }
    remove(&mut routing)
}

/// The changes in force on behalf of one role.
#[derive(Debug)]
pub(crate) struct Ledger {
    journal: Journal,
    made: Vec<Change>,
}

impl Ledger {
    pub(crate) fn new(journal: &Journal) -> Self {
        Self { journal: journal.clone(), made: Vec::new() }
    }

    pub(crate) fn made(&self) -> &[Change] {
        &self.made
    }

    /// Undoes what is in force but not wanted, then makes what is wanted but not in force.
    ///
    /// # Errors
    ///
    /// Stops at the first change that cannot be made; the ledger says what is in force.
    pub(crate) fn reconcile(&mut self, want: &[Change]) -> Result<(), HostError> {
        let readdressed: Vec<_> = self
            .made
            .iter()
            .filter(|change| matches!(change, Change::Address { .. }) && !want.contains(change))
            .filter_map(|change| change.addressed_link().cloned())
            .collect();
        let stays = |change: &Change| {
            want.contains(change)
                && !change.addressed_link().is_some_and(|link| readdressed.contains(link))
        };

        let (kept, stale): (Vec<_>, Vec<_>) = self.made.drain(..).partition(stays);
        let (replaced, stale): (Vec<_>, Vec<_>) =
            stale.into_iter().partition(|old| want.iter().any(|new| new.replaces(old)));
        self.made = kept;
        self.made.extend(replaced);
        for line in self.undo_each(stale) {
            tracing::warn!("{line}");
        }

        let fresh: Vec<_> =
            want.iter().filter(|change| !self.made.contains(change)).cloned().collect();
        self.journal.note(&fresh)?;
        for (at, change) in fresh.iter().enumerate() {
            match change.make(self.journal.names()) {
                Ok(Made::Yes) => {
                    let replaced: Vec<_> =
                        self.made.extract_if(.., |old| change.replaces(old)).collect();
                    self.made.push(change.clone());
                    self.journal.strike(&replaced)?;
                }
                Ok(Made::Already) => {
                    tracing::warn!(%change, "exists already and is left as it is");
                    self.journal.strike(std::slice::from_ref(change))?;
                }
                Err(error) => {
                    self.journal.strike(&fresh[at..])?;
                    return Err(error);
                }
            }
        }
        // Undoing goes backwards through the order of the plan, not of its updates.
        self.made.sort_by_key(|change| want.iter().position(|wanted| wanted == change));
        Ok(())
    }

    /// Makes the list true, or leaves the host as it was: undoes everything on an error.
    pub(crate) fn apply(mut self, want: &[Change]) -> Result<Self, HostError> {
        match self.reconcile(want) {
            Ok(()) => Ok(self),
            Err(error) => {
                for line in self.undo() {
                    tracing::warn!("{line}");
                }
                Err(error)
            }
        }
    }

    /// Makes the list true, or goes back to the present one on an error.
    pub(crate) fn update(&mut self, want: &[Change]) -> Result<(), HostError> {
        let before = self.made.clone();
        self.reconcile(want).inspect_err(|_| {
            if let Err(error) = self.reconcile(&before) {
                tracing::warn!("{error}");
            }
        })
    }

    /// Undoes everything in reverse order; returns what stays, one line each.
    pub(crate) fn undo(mut self) -> Vec<String> {
        let made = std::mem::take(&mut self.made);
        self.undo_each(made)
    }

    fn undo_each(&self, mut changes: Vec<Change>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut done = Vec::new();
        changes.reverse();
        for change in changes {
            match change.undo(self.journal.names()) {
                Ok(Undone::Left(why)) => lines.push(format!("{change} stays: {why}")),
                Ok(Undone::Yes | Undone::NothingToDo) => {}
                Err(error) => {
                    // It stays in the journal, for the next start to try again.
                    lines.push(error.to_string());
                    continue;
                }
            }
            done.push(change);
        }
        if let Err(error) = self.journal.strike(&done) {
            lines.push(error.to_string());
        }
        lines
    }
}
