//! Whom a file's content comes from, and reading it as no more than that.
//!
//! A configuration file may lie in a folder that belongs to the server's user, who could put a
//! link to any other file in its place. Root's rights must not follow it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// Far larger than any configuration.
const MAX_FILE: u64 = 1024 * 1024;
/// As the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// How far a path is root's alone.
enum Way {
    /// To its end, which is here.
    Roots(PathBuf),
    /// From `folder`, in which it is no longer; `rest` is not empty.
    Others { folder: PathBuf, rest: PathBuf },
}

/// Whether nobody but root can change or replace the file: everything on the way to it, links
/// included, belongs to root and can be written by root only, or is as `/tmp` is.
///
/// # Errors
///
/// Fails if the file, or something on the way to it, is not there or cannot be looked at.
pub fn is_roots_alone(file: &Path) -> io::Result<bool> {
    Ok(matches!(way(file)?, Way::Roots(_)))
}

/// Reads a text file; root reads it as whoever could have replaced it. Where that is not root
/// alone, links are not followed, and the file must be one that the owner of the folder may read
/// and that has no second name elsewhere.
///
/// # Errors
///
/// As reading it would, or one line that says why root does not read it.
pub fn read_as_its_owner(file: &Path) -> io::Result<String> {
    if !sys::privileges::is_root() {
        return fs::read_to_string(file);
    }
    let file = match way(file)? {
        Way::Roots(file) => File::open(file)?,
        Way::Others { folder, rest } => open_in(&folder, &rest)?,
    };
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(Errno::EFBIG.into());
    }
    String::from_utf8(content).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn way(path: &Path) -> io::Result<Way> {
    let mut here = PathBuf::from("/");
    let mut rest = std::path::absolute(path)?;
    let mut links = 0;
    loop {
        let mut components = rest.components();
        let Some(first) = components.next() else { return Ok(Way::Roots(here)) };
        let name = match first {
            Component::Normal(name) => name,
            Component::RootDir => OsStr::new("/"),
            Component::ParentDir => OsStr::new(".."),
            Component::CurDir | Component::Prefix(_) => OsStr::new("."),
        };
        let next = if first == Component::ParentDir {
            here.parent().unwrap_or(&here).to_owned()
        } else {
            here.join(name)
        };
        let metadata = fs::symlink_metadata(&next)?;
        if !is_roots(&metadata) {
            return Ok(Way::Others { folder: here, rest });
        }
        let behind = components.as_path();
        if !metadata.is_symlink() {
            (here, rest) = (next, behind.to_owned());
            continue;
        }
        if here != Path::new("/proc") && here.starts_with("/proc") {
            // What this process has open, such as `/dev/stdin`, has no path to look at. Any other
            // link there leads past everything that was looked at.
            let is_open_file = here.ends_with("fd") && behind.as_os_str().is_empty();
            return Ok(if is_open_file {
                Way::Roots(next)
            } else {
                Way::Others { folder: here, rest }
            });
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        rest = fs::read_link(&next)?.join(behind);
    }
}

fn is_roots(metadata: &fs::Metadata) -> bool {
    let mode = metadata.mode();
    // A link has no mode of its own, and in a folder such as /tmp only the owner of a thing
    // replaces it.
    let is_closed =
        mode & 0o022 == 0 || metadata.is_symlink() || (metadata.is_dir() && mode & 0o1000 != 0);
    metadata.uid() == 0 && is_closed
}

/// Opens one step after the other, so that nothing can become a link in between.
fn open_in(folder: &Path, rest: &Path) -> io::Result<File> {
    let on_the_way = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // Nothing that is not a file makes us wait.
    let at_the_end = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut at = File::from(nix::fcntl::open(folder, on_the_way, Mode::empty())?);
    let mut owner = None;
    let mut components = rest.components();
    while let Some(component) = components.next() {
        let is_last = components.as_path().as_os_str().is_empty();
        let flags = if is_last { at_the_end } else { on_the_way };
        let opened = openat(&at, component.as_os_str(), flags, Mode::empty());
        at = File::from(opened.map_err(|errno| match errno {
            Errno::ELOOP | Errno::ENOTDIR => refused("there is a link on the way to it"),
            errno => errno.into(),
        })?);
        let metadata = at.metadata()?;
        owner.get_or_insert_with(|| (metadata.uid(), metadata.gid()));
    }
    let metadata = at.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(refused("it is not a plain file with one name"));
    }
    let (uid, gid) = owner.unwrap_or_default();
    let may_read = if metadata.uid() == uid {
        0o400
    } else if metadata.gid() == gid {
        0o040
    } else {
        0o004
    };
    if metadata.mode() & may_read == 0 {
        return Err(refused(&format!("user {uid} may not read it")));
    }
    Ok(at)
}

fn refused(why: &str) -> io::Error {
    let what = format!("{why}, in a folder that others than root can write");
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::testing::{Lab, sh};

    const SERVER: u32 = 61_086;

    /// The server's folder, with a file of the server's in it.
    fn state() -> PathBuf {
        let state = PathBuf::from("/run/state");
        fs::write(state.join("warren.toml"), "[log]\n").unwrap();
        for path in [&state, &state.join("warren.toml")] {
            chown(path, Some(SERVER), Some(SERVER)).unwrap();
        }
        fs::write("/run/secret", "root's").unwrap();
        fs::set_permissions("/run/secret", fs::Permissions::from_mode(0o600)).unwrap();
        state
    }

    #[test]
    fn root_reads_its_own_file_by_whatever_links_of_its_own() {
        Lab::run(|_| {
            state();
            fs::create_dir("/run/etc").unwrap();
            symlink("../secret", "/run/etc/link").unwrap();
            symlink("/run/etc", "/run/elsewhere").unwrap();

            let link = Path::new("/run/elsewhere/link");
            assert_eq!(read_as_its_owner(link).unwrap(), "root's");
            assert!(is_roots_alone(link).unwrap());
            let missing = read_as_its_owner(Path::new("/run/etc/none")).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            symlink("circle", "/run/circle").unwrap();
            read_as_its_owner(Path::new("/run/circle")).unwrap_err();
        });
    }

    #[test]
    fn in_the_servers_folder_root_reads_what_the_server_could() {
        Lab::run(|_| {
            let state = state();
            let file = state.join("warren.toml");
            // The folder may be reached by root's links.
            symlink("state", "/run/var").unwrap();

            assert_eq!(read_as_its_owner(&file).unwrap(), "[log]\n");
            assert_eq!(read_as_its_owner(Path::new("/run/var/warren.toml")).unwrap(), "[log]\n");
            assert!(!is_roots_alone(&file).unwrap());
            chown(&file, Some(0), Some(0)).unwrap();
            assert_eq!(read_as_its_owner(&file).unwrap(), "[log]\n");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            let error = read_as_its_owner(&file).unwrap_err().to_string();
            assert!(error.contains("user 61086 may not read it"), "{error}");
        });
    }

    #[test]
    fn what_is_open_is_read_but_nothing_is_reached_by_way_of_a_process() {
        Lab::run(|_| {
            let state = state();
            let secret = File::open("/run/secret").unwrap();
            let folder = File::open(&state).unwrap();
            let own = |name: &str| PathBuf::from(format!("/proc/thread-self/{name}"));

            let open = own(&format!("fd/{}", secret.as_raw_fd()));
            assert_eq!(read_as_its_owner(&open).unwrap(), "root's");
            let through = format!("fd/{}/warren.toml", folder.as_raw_fd());
            for name in ["root/run/state/warren.toml", "root/run/secret", &through] {
                assert!(!is_roots_alone(&own(name)).unwrap(), "{name}");
                let error = read_as_its_owner(&own(name)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{name}: {error}");
            }
        });
    }

    #[test]
    fn nothing_in_the_servers_folder_leads_root_to_another_file() {
        Lab::run(|_| {
            let state = state();
            let refused = |name: &str| {
                let file = state.join(name);
                let error = read_as_its_owner(&file).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{name}: {error}");
                assert!(!is_roots_alone(&file).unwrap(), "{name}");
            };
            let open = |path: &str| fs::set_permissions(path, fs::Permissions::from_mode(0o644));

            symlink("/run/secret", state.join("link")).unwrap();
            refused("link");
            // Everybody may read it, who gets there.
            open("/run/secret").unwrap();
            refused("link");
            symlink("/run", state.join("folder")).unwrap();
            refused("folder/secret");
            fs::hard_link("/run/secret", state.join("second-name")).unwrap();
            refused("second-name");
            // Opening it must not wait for a writer.
            sh("mkfifo -m 644 /run/state/pipe");
            refused("pipe");
            fs::create_dir(state.join("inner")).unwrap();
            refused("inner");
        });
    }
}
