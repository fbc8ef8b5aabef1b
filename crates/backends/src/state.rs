use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The folder in which a server keeps everything: only its owner may look inside.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The folder cannot be made or read.
    #[error("{path}: {what} ({source}); run as root, or choose a folder of your own with --state")]
    Io {
        /// Which file or folder.
        path: String,
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// There is a file where the folder should be.
    #[error("{path}: this is not a folder; choose another with --state")]
    NotAFolder {
        /// The path.
        path: String,
    },
    /// Somebody else could plant or replace files.
    #[error("{path}: others can write here (mode {mode:04o}); run chmod 700 {path}")]
    WritableByOthers {
        /// The path.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder belongs to another user.
    #[error(
        "{path}: this folder belongs to user id {owner}; run as that user, or choose another \
         with --state"
    )]
    ForeignOwner {
        /// The path.
        path: String,
        /// The owner's numeric id.
        owner: u32,
    },
    /// Another server uses the folder.
    #[error(
        "{path}: a server is already running on this state{}; stop it, or choose another with \
         --state",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    AlreadyRunning {
        /// The path.
        path: String,
        /// The other server, if it has said so yet.
        pid: Option<u32>,
    },
}

impl StateDir {
    /// Opens the folder, and makes it (mode 0700) if it is not there.
    ///
    /// # Errors
    ///
    /// Fails if that is impossible, or somebody else owns or can write the folder.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let name = || path.display().to_string();
        let io = |what| move |source| StateError::Io { path: name(), what, source };

        if !path.exists() {
            make_private(&path).map_err(io("cannot make the state folder"))?;
        }
        let metadata = path.metadata().map_err(io("cannot read the state folder"))?;
        if !metadata.is_dir() {
            return Err(StateError::NotAFolder { path: name() });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::WritableByOthers { path: name(), mode });
        }
        let ours = nix::unistd::geteuid().as_raw();
        if metadata.uid() != ours {
            return Err(StateError::ForeignOwner { path: name(), owner: metadata.uid() });
        }
        let state = Self { path };
        let profiles = state.profiles();
        if !profiles.exists() {
            make_private(&profiles).map_err(|source| StateError::Io {
                path: profiles.display().to_string(),
                what: "cannot make the folder for profiles",
                source,
            })?;
        }
        Ok(state)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path.join("warren.db")
    }

    /// The socket on which a running server takes orders.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.path.join("api.sock")
    }

    /// Where profiles are written if nobody says otherwise.
    #[must_use]
    pub fn profiles(&self) -> PathBuf {
        self.path.join("profiles")
    }

    /// Where clients that connect from here keep what they change: a folder for each profile.
    #[must_use]
    pub fn clients(&self) -> PathBuf {
        self.path.join("clients")
    }

    /// Claims the folder for a running server, until the lock is dropped or the process dies.
    ///
    /// # Errors
    ///
    /// [`StateError::AlreadyRunning`] if another server has it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.path.join("lock");
        let io = |what| {
            let path = path.display().to_string();
            move |source| StateError::Io { path, what, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("cannot open the lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let path = self.path.display().to_string();
                return Err(StateError::AlreadyRunning { path, pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(io("cannot take the lock")(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io("cannot write the lock"))?;
        Ok(StateLock { file })
    }
}

/// The claim of a running server on its state folder.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

impl Drop for StateLock {
    /// Gives the claim back at once. Closing the file alone would not while a child that has not
    /// yet reached `exec` holds a copy of it.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_new_state_folder_is_for_its_owner_only() {
        let scratch = Scratch::new();

        let state = scratch.state();

        for folder in [state.path().to_owned(), state.profiles()] {
            assert_eq!(folder.metadata().unwrap().mode() & 0o7777, 0o700, "{folder:?}");
        }
        StateDir::open(state.path()).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let scratch = Scratch::new();
        for mode in [0o770, 0o707, 0o1777] {
            fs::set_permissions(scratch.path(), Permissions::from_mode(mode)).unwrap();
            let refused = StateDir::open(scratch.path()).unwrap_err();
            assert!(matches!(refused, StateError::WritableByOthers { .. }), "{refused}");
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_named() {
        let scratch = Scratch::new();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();

        let refused = StateDir::open(&file).unwrap_err().to_string();

        let path = file.display();
        assert_eq!(refused, format!("{path}: this is not a folder; choose another with --state"));
    }

    #[test]
    fn a_second_server_on_the_same_state_learns_who_is_first() {
        let scratch = Scratch::new();
        let state = scratch.state();

        let first = state.lock().unwrap();
        let second = state.lock().unwrap_err();

        let ours = std::process::id();
        assert!(
            matches!(second, StateError::AlreadyRunning { pid: Some(pid), .. } if pid == ours),
            "{second}"
        );
        drop(first);
        state.lock().unwrap();
    }

    #[test]
    fn the_claim_ends_with_its_holder_whoever_still_has_a_copy_of_the_file() {
        let scratch = Scratch::new();
        let state = scratch.state();

        let first = state.lock().unwrap();
        let _inherited = first.file.try_clone().unwrap();
        drop(first);

        state.lock().unwrap();
    }
}
