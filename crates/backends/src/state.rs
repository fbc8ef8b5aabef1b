use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// The files of a state folder; besides them, names that begin as [`OUR_FILES_BEGIN`] says.
const OUR_FILES: [&str; 5] =
    ["warren.db", "lock", "host-changes.json", "host-changes.json.new", "device-id"];
const OUR_FILES_BEGIN: [&str; 2] = ["warren.db-", "sysctl-"];
const OUR_FOLDERS: [&str; 2] = ["profiles", "clients"];
/// Only root and whoever asks for it make these in a state folder; they keep their owner.
const NOT_INHERITED: [&str; 2] = ["warren.toml", "api.sock"];
/// No other program calls a file so.
const TELLTALE: [&str; 2] = ["warren.db", "warren.toml"];
/// `clients/PROFILE/file` is the deepest that there is.
const MAX_DEPTH: usize = 4;

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
    /// The folder is somebody else's, or the system's.
    #[error(
        "{path}: this folder holds other things than a server's state; choose one of its own \
         with --state"
    )]
    OtherThings {
        /// The path.
        path: String,
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

    /// Makes the folder if it is not there, and gives it, with everything of ours inside, to the
    /// user that will open it. Only root can.
    ///
    /// What is not ours, such as a configuration file, stays as it is. Symbolic links are never
    /// followed, and files that have a second name elsewhere are left alone: the folder's former
    /// owner might have put them there.
    ///
    /// # Errors
    ///
    /// Fails if that is impossible, or the folder looks like anything but a state folder.
    pub fn hand_over(path: &Path, uid: u32, gid: u32) -> Result<(), StateError> {
        let io =
            |what| move |source| StateError::Io { path: path.display().to_string(), what, source };
        if !path.exists() {
            // Whoever gets it has to get there.
            let parents = path.parent().map_or(Ok(()), |parents| {
                DirBuilder::new().recursive(true).mode(0o755).create(parents)
            });
            let made = parents.and_then(|()| make_private(path));
            made.map_err(io("cannot make the state folder"))?;
        }
        let folder =
            OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(path).map_err(
                |source| match source.kind() {
                    io::ErrorKind::NotADirectory => {
                        StateError::NotAFolder { path: path.display().to_string() }
                    }
                    _ => io("cannot open the state folder")(source),
                },
            )?;
        let unreadable = io("cannot read the state folder");
        let metadata = folder.metadata().map_err(unreadable)?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::WritableByOthers { path: path.display().to_string(), mode });
        }
        let names = names_in(&folder).map_err(io("cannot read the state folder"))?;
        if !is_state(&folder, &names) {
            return Err(StateError::OtherThings { path: path.display().to_string() });
        }
        let heir = Heir { uid, gid, former: metadata.uid() };
        for name in names.iter().filter(|name| is_our_file(name) || is_our_folder(name)) {
            heir.take(&folder, name, MAX_DEPTH).map_err(io("cannot change the owner of"))?;
        }
        if (metadata.uid(), metadata.gid()) != (uid, gid) {
            fchown(&folder, Some(uid), Some(gid)).map_err(io("cannot change the owner of"))?;
        }
        Ok(())
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

/// Makes a folder that others may read, and gives it with all that is in it to the user, in the
/// manner of [`StateDir::hand_over`]. Only root can.
///
/// # Errors
///
/// Fails if that is impossible.
pub fn hand_over_all(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let heir = Heir { uid, gid, former: folder.metadata()?.uid() };
    for name in names_in(&folder)? {
        heir.take(&folder, &name, MAX_DEPTH)?;
    }
    fchown(&folder, Some(uid), Some(gid))
}

/// Who gets what root or the former owner had.
#[derive(Clone, Copy, Debug)]
struct Heir {
    uid: u32,
    gid: u32,
    former: u32,
}

impl Heir {
    fn take(self, folder: &File, name: &str, depth: usize) -> io::Result<()> {
        // No link is followed, and nothing that is not a file makes us wait.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(inside(folder, name));
        // Links and sockets cannot be opened so; the server makes its socket anew.
        let Ok(file) = opened else { return Ok(()) };
        let metadata = file.metadata()?;
        if metadata.is_dir() && depth > 0 {
            for name in names_in(&file)? {
                self.take(&file, &name, depth - 1)?;
            }
        }
        let is_inherited = [0, self.former].contains(&metadata.uid());
        let is_only_here = metadata.is_dir() || (metadata.is_file() && metadata.nlink() == 1);
        let is_done = (metadata.uid(), metadata.gid()) == (self.uid, self.gid);
        if is_inherited && is_only_here && !is_done {
            fchown(&file, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }
}

fn is_our_file(name: &str) -> bool {
    OUR_FILES.contains(&name) || OUR_FILES_BEGIN.iter().any(|begin| name.starts_with(begin))
}

fn is_our_folder(name: &str) -> bool {
    OUR_FOLDERS.contains(&name)
}

/// Whether these are the contents of a state folder: there is a file that nothing else has, or
/// nothing that is not ours, as where only a client ever ran. `/var` and `/run` have a `lock`, too.
fn is_state(folder: &File, names: &[String]) -> bool {
    let kind = |name: &str| inside(folder, name).symlink_metadata().map(|it| it.file_type());
    let is_file = |name: &str| kind(name).is_ok_and(|kind| kind.is_file());
    let is_ours = |name: &String| {
        NOT_INHERITED.contains(&name.as_str())
            || (is_our_file(name) && is_file(name))
            || (is_our_folder(name) && kind(name).is_ok_and(|kind| kind.is_dir()))
    };
    TELLTALE.into_iter().any(is_file) || names.iter().all(is_ours)
}

fn inside(folder: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

fn names_in(folder: &File) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(inside(folder, ""))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
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
    fn folders_on_the_way_to_a_new_state_folder_can_be_passed_by_its_owner() {
        let scratch = Scratch::new();
        let state = scratch.path().join("srv/vpn/state");
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());

        StateDir::hand_over(&state, uid, gid).unwrap();

        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&scratch.path().join("srv")) & 0o011, 0o011);
    }

    #[test]
    fn a_folder_of_other_things_is_not_handed_over() {
        let scratch = Scratch::new();
        fs::write(scratch.path().join("passwd"), "").unwrap();
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());

        let refused = StateDir::hand_over(scratch.path(), uid, gid).unwrap_err();
        assert!(matches!(refused, StateError::OtherThings { .. }), "{refused}");

        fs::write(scratch.path().join("warren.toml"), "").unwrap();
        StateDir::hand_over(scratch.path(), uid, gid).unwrap();
    }

    #[test]
    fn folders_of_the_system_that_have_a_lock_are_not_handed_over() {
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let hand_over = |made: &dyn Fn(&Path)| {
            let scratch = Scratch::new();
            made(scratch.path());
            fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
            StateDir::hand_over(scratch.path(), uid, gid)
        };
        let folder = |path: PathBuf| fs::create_dir(path).unwrap();
        let file = |path: PathBuf| fs::write(path, "").unwrap();

        for (name, made) in [
            ("/run", &(|at: &Path| folder(at.join("lock"))) as &dyn Fn(&Path)),
            ("/var", &|at| {
                file(at.join("lock"));
                folder(at.join("lib"));
            }),
            ("a link", &|at| {
                std::os::unix::fs::symlink("run/lock", at.join("lock")).unwrap();
            }),
            ("a folder of that name", &|at| folder(at.join("warren.db"))),
            ("nearly", &|at| file(at.join("warren.database"))),
            ("a library's", &|at| file(at.join("lockdown"))),
        ] {
            let refused = hand_over(made).unwrap_err();
            assert!(matches!(refused, StateError::OtherThings { .. }), "{name}: {refused}");
        }
        for (name, made) in [
            (
                "a client's",
                &(|at: &Path| {
                    folder(at.join("clients"));
                    folder(at.join("profiles"));
                }) as &dyn Fn(&Path),
            ),
            ("a server's that did not get far", &|at| file(at.join("lock"))),
            ("a server's with other things", &|at| {
                file(at.join("warren.db"));
                file(at.join("notes"));
            }),
        ] {
            hand_over(made).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        }
    }

    #[test]
    fn the_heir_gets_what_is_ours_and_nothing_that_a_link_leads_to() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to give files away");
            return;
        }
        let scratch = Scratch::new();
        let state = scratch.state();
        drop(scratch.store());
        let outside = scratch.path().join("outside");
        fs::write(&outside, "").unwrap();
        fs::create_dir(state.clients()).unwrap();
        fs::write(state.clients().join("id"), "").unwrap();
        fs::write(state.path().join("warren.toml"), "").unwrap();
        std::os::unix::fs::symlink(&outside, state.profiles().join("link")).unwrap();
        fs::hard_link(&outside, state.profiles().join("second-name")).unwrap();

        StateDir::hand_over(state.path(), 61_086, 61_087).unwrap();

        let owner = |path: &Path| {
            let metadata = path.symlink_metadata().unwrap();
            (metadata.uid(), metadata.gid())
        };
        for heirloom in [
            state.path().to_owned(),
            state.database(),
            state.clients().join("id"),
            state.profiles(),
        ] {
            assert_eq!(owner(&heirloom), (61_086, 61_087), "{heirloom:?}");
        }
        for other in [
            outside,
            state.path().join("warren.toml"),
            state.profiles().join("link"),
            state.profiles().join("second-name"),
        ] {
            assert_eq!(owner(&other), (0, 0), "{other:?}");
        }
        StateDir::hand_over(state.path(), 0, 0).unwrap();
        assert_eq!(owner(&state.database()), (0, 0));
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
