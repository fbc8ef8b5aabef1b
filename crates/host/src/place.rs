//! Where and when this program runs: which boot, which network namespace; and files that are
//! either the old or the new version, never half of one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use serde::{Deserialize, Serialize};

use crate::error::HostError;

/// The largest file of the system's that is read: `resolv.conf` and the like are far smaller.
const MAX_FILE: u64 = 1024 * 1024;

/// What changes are made in. But for files, they are gone with the boot, and out of reach in
/// another namespace.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Place {
    pub(crate) boot: String,
    pub(crate) netns: u64,
}

impl Place {
    /// The place of the calling thread.
    pub(crate) fn here() -> Result<Self, HostError> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(BOOT).map_err(HostError::file(Path::new(BOOT), "read"))?;
        let netns = netns().map_err(HostError::kernel("identify the network namespace"))?;
        Ok(Self { boot: boot.trim().to_owned(), netns })
    }

    /// Where everything in this namespace that changes the host agrees on who changed what.
    pub(crate) fn shared_folder(&self) -> PathBuf {
        Path::new("/run/warren").join(self.netns.to_string())
    }
}

fn netns() -> io::Result<u64> {
    // Kernels before 5.14 have no cookies; the inode is as good while the namespace lives.
    sys::netns::netns_cookie().or_else(|_| Ok(fs::metadata("/proc/thread-self/ns/net")?.ino()))
}

/// Replaces the file so that a crash leaves the old content or the new one.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let fresh = folder.join(name);
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

/// Removes the file; one that is not there is fine.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Reads a file that everybody on the host may read, whatever else this process may; no other,
/// and nothing that is not a file.
pub(crate) fn read_public(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o004 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}
