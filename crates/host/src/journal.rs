//! What has been changed and not undone yet, on disk, so that the next start can repair what a
//! killed run left behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::change::{Change, Undone};
use crate::error::HostError;
use crate::keeper::{Keeper, Names};
use crate::place::{Place, remove_file, replace_file};

const FILE: &str = "host-changes.json";

/// The list of changes in force. Clones share one list.
///
/// A change is on disk before it is made, and leaves the disk after it has been undone. One
/// process at a time may use the journal of a state folder; the caller locks the folder.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: PathBuf,
    place: Place,
    keeper: Option<Keeper>,
    entries: Mutex<Vec<Entry>>,
}

/// A change and where it was made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Entry {
    place: Place,
    change: Change,
}

impl Journal {
    /// Opens the journal in the state folder, for changes in the network namespace of the calling
    /// thread.
    ///
    /// # Errors
    ///
    /// Fails if the file can be neither read nor made sense of.
    pub fn open(state: &Path) -> Result<Self, HostError> {
        Self::open_with(state, None)
    }

    /// The same in a process that is not root any more: what only root can change is changed by
    /// the keeper.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(state: &Path, keeper: Option<&Keeper>) -> Result<Self, HostError> {
        let path = state.join(FILE);
        let entries = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|cause| HostError::Journal { path: path.clone(), cause })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(HostError::file(&path, "read")(error)),
        };
        // The same folder by another name is the same holder of settings.
        let state = fs::canonicalize(state).map_err(HostError::file(state, "open"))?;
        let place = Place::here()?;
        let keeper = keeper.cloned();
        Ok(Self(Arc::new(Shared { state, place, keeper, entries: Mutex::new(entries) })))
    }

    /// Undoes what an earlier run left, newest first; returns what was repaired and what could
    /// not be, one line each. Call it once, before anything else is changed.
    ///
    /// Files are put back wherever and whenever they were changed. Of all else, what was changed
    /// before the last boot or in another network namespace is forgotten: the first is gone, the
    /// second is out of reach and goes with its namespace.
    ///
    /// # Errors
    ///
    /// Fails if the journal cannot be written. A change that cannot be undone is no error: it
    /// has a line, and stays in the journal for the next start.
    pub fn repair(&self) -> Result<Vec<String>, HostError> {
        let mut lines = Vec::new();
        let mut entries = self.entries();
        // A file outlives the boot, and is the same one in every network namespace.
        entries.retain(|entry| entry.place == self.0.place || entry.change.is_on_disk());
        let mut left = Vec::new();
        for entry in entries.drain(..).rev() {
            let change = &entry.change;
            match change.undo(self.names()) {
                Ok(Undone::Yes) => {
                    lines.push(format!("undone after a run that was cut off: {change}"))
                }
                Ok(Undone::NothingToDo) => {}
                Ok(Undone::Left(why)) => lines.push(format!("{change} stays: {why}")),
                Err(error) => {
                    lines.push(error.to_string());
                    left.push(entry);
                }
            }
        }
        left.reverse();
        *entries = left;
        self.save(&entries)?;
        Ok(lines)
    }

    /// Who changes name servers.
    pub(crate) fn names(&self) -> Names<'_> {
        Names(self.0.keeper.as_ref())
    }

    /// The state folder.
    pub(crate) fn state(&self) -> &Path {
        &self.0.state
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0.place
    }

    /// Writes down changes that are about to be made.
    pub(crate) fn note(&self, changes: &[Change]) -> Result<(), HostError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut entries = self.entries();
        let place = &self.0.place;
        entries.extend(
            changes.iter().map(|change| Entry { place: place.clone(), change: change.clone() }),
        );
        self.save(&entries)
    }

    /// Forgets changes that have been undone.
    pub(crate) fn strike(&self, changes: &[Change]) -> Result<(), HostError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut entries = self.entries();
        for change in changes {
            // The newest, should two be alike.
            if let Some(at) = entries.iter().rposition(|entry| &entry.change == change) {
                entries.remove(at);
            }
        }
        self.save(&entries)
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, entries: &[Entry]) -> Result<(), HostError> {
        let path = self.0.state.join(FILE);
        let saved = if entries.is_empty() {
            remove_file(&path)
        } else {
            let bytes = serde_json::to_vec_pretty(entries).map_err(io::Error::other);
            bytes.and_then(|bytes| replace_file(&path, &bytes))
        };
        saved.map_err(HostError::file(&path, "write"))
    }
}

#[cfg(test)]
mod tests;
