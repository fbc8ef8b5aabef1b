//! A file system of the process's own, with nothing in it but what the process needs.
//!
//! ```text
//!   /            tmpfs, read-only
//!   /dev         null, zero, random, urandom, tty; net/tun, which belongs to the process
//!   /proc        read-only, but for what is below sys/net
//!   /tmp         tmpfs
//!   and what was asked for, in its place: folders and files of the host, or private ones
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::pivot_root;

use crate::privileges::Account;

/// Where the new root is put together: a folder that every Linux has, and that is covered only in
/// the new namespace.
const STAGE: &str = "/sys";
const NOTHING: Option<&str> = None;
/// What no part of a sandbox ever needs.
const NEVER: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
/// The terminal is for passwords that a server asks for later.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/net/tun"];
/// SQLite's sorting and the like; a folder in memory counts as memory of the process.
const TMP: &str = "size=16m,mode=1777";
const SMALL: &str = "size=1m,mode=0755";

/// What will be in the sandbox.
#[derive(Debug, Default)]
pub struct Sandbox {
    parts: Vec<(PathBuf, Part)>,
}

#[derive(Debug, Eq, PartialEq)]
enum Part {
    /// Of the host, to be written.
    Writable,
    /// Of the host, to be read.
    Readable,
    /// Of the host, to be read, and to load code from.
    Code,
    /// An empty folder in memory that belongs to the process.
    Private,
}

impl Sandbox {
    /// With devices, `/proc` and `/tmp` only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file or folder of the host that can be changed. Paths are absolute, without
    /// symbolic links on the way.
    #[must_use]
    pub fn writable(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Part::Writable)
    }

    /// Adds a file or folder of the host, with what is mounted below it; one that is not there is
    /// left out.
    #[must_use]
    pub fn readable(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Part::Readable)
    }

    /// The same for code: libraries that are loaded when they are needed.
    #[must_use]
    pub fn code(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Part::Code)
    }

    /// Adds an empty folder that nobody else sees and that the process may fill.
    #[must_use]
    pub fn private(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Part::Private)
    }

    fn with(mut self, path: impl Into<PathBuf>, part: Part) -> Self {
        self.parts.push((path.into(), part));
        self
    }

    /// Moves the calling process, which has one thread, into the sandbox; the working folder is
    /// then `/`. What is open stays open.
    ///
    /// # Errors
    ///
    /// Says which step failed. The process is then where it was, in a namespace of its own at
    /// most.
    pub fn enter(mut self, owner: Account) -> io::Result<()> {
        step("make a mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        step("make mounts private", mount(NOTHING, "/", NOTHING, private, NOTHING))?;
        // What lies deeper covers what lies above it.
        self.parts.sort_by_key(|(path, _)| path.components().count());
        let sources = self.open_sources()?;
        let proc = OpenPath::new(Path::new("/proc"))?;
        let proc_net = OpenPath::new(Path::new("/proc/sys/net"))?;
        let devices = devices()?;

        tmpfs(Path::new(STAGE), SMALL, NEVER)?;
        let built = (|| {
            build_proc(&proc, &proc_net)?;
            build_devices(&devices, owner)?;
            tmpfs(&staged(Path::new("/tmp"))?, TMP, NEVER | MsFlags::MS_NOEXEC)?;
            for (source, (path, part)) in sources.iter().zip(&self.parts) {
                build(source.as_ref(), path, part, owner)?;
            }
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | NEVER;
            step("protect the root", mount(NOTHING, STAGE, NOTHING, read_only, NOTHING))?;
            std::env::set_current_dir(STAGE)?;
            // Puts the old root on top of the new one, from where it is taken away.
            step("change the root", pivot_root(".", "."))?;
            step("leave the old root", umount2(".", MntFlags::MNT_DETACH))?;
            std::env::set_current_dir("/")
        })();
        built.inspect_err(|_| {
            let _ = std::env::set_current_dir("/");
            let _ = umount2(STAGE, MntFlags::MNT_DETACH);
        })
    }

    /// The host's part of each entry, before anything is covered.
    fn open_sources(&self) -> io::Result<Vec<Option<OpenPath>>> {
        let open = |(path, part): &(PathBuf, Part)| match part {
            Part::Private => Ok(None),
            Part::Writable => OpenPath::new(path).map(Some),
            Part::Readable | Part::Code => match OpenPath::new(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                opened => opened.map(Some),
            },
        };
        self.parts.iter().map(open).collect()
    }
}

/// Whether the process may make a mount namespace. Leaves only the calling thread in one, which
/// should end.
#[must_use]
pub fn is_possible() -> bool {
    unshare(CloneFlags::CLONE_NEWNS).is_ok()
}

/// A file or folder by handle: what is mounted over its name later does not count.
#[derive(Debug)]
struct OpenPath {
    file: File,
    name: PathBuf,
    link: Option<PathBuf>,
}

impl OpenPath {
    fn new(path: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| at(path, "find", error))?;
        let is_link = file.metadata()?.is_symlink();
        let link = is_link.then(|| fs::read_link(path)).transpose()?;
        Ok(Self { file, name: path.to_owned(), link })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Shows it at `target`.
    fn bind(&self, target: &Path) -> io::Result<()> {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&self.path()), target, NOTHING, flags, NOTHING)
            .map_err(|errno| at(&self.name, "bind", errno.into()))
    }
}

fn build(source: Option<&OpenPath>, path: &Path, part: &Part, owner: Account) -> io::Result<()> {
    let Some(source) = source else {
        if *part == Part::Private {
            let target = staged(path)?;
            tmpfs(&target, SMALL, NEVER | MsFlags::MS_NOEXEC)?;
            chown(&target, Some(owner.uid), Some(owner.gid))?;
        }
        return Ok(());
    };
    if let Some(link) = &source.link {
        staged_parent(path)?;
        return symlink(link, in_stage(path)).map_err(|error| at(path, "link", error));
    }
    let target = if source.file.metadata()?.is_dir() { staged(path)? } else { staged_file(path)? };
    source.bind(&target)?;
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if *part != Part::Writable {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    if *part != Part::Code {
        attributes |= libc::MOUNT_ATTR_NOEXEC;
    }
    restrict(&target, attributes)
}

fn build_proc(proc: &OpenPath, net: &OpenPath) -> io::Result<()> {
    let harmless = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let target = staged(Path::new("/proc"))?;
    proc.bind(&target)?;
    restrict(&target, harmless | libc::MOUNT_ATTR_RDONLY)?;
    let target = target.join("sys/net");
    net.bind(&target)?;
    restrict(&target, harmless)
}

/// A device of the host, and its number.
#[derive(Debug)]
struct Device {
    node: OpenPath,
    number: u64,
    is_ours: bool,
}

fn devices() -> io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for path in DEVICES {
        let Ok(node) = OpenPath::new(Path::new(path)) else { continue };
        let metadata = node.file.metadata()?;
        if metadata.file_type().is_char_device() {
            let is_ours = path == "/dev/net/tun";
            devices.push(Device { node, number: metadata.rdev(), is_ours });
        }
    }
    Ok(devices)
}

fn build_devices(devices: &[Device], owner: Account) -> io::Result<()> {
    tmpfs(&staged(Path::new("/dev"))?, SMALL, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    for Device { node, number, is_ours } in devices {
        if *is_ours {
            // On many machines the node is root's alone. This one is the process's alone.
            staged_parent(&node.name)?;
            let own = in_stage(&node.name);
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            if mknod(&own, SFlag::S_IFCHR, mode, *number).is_ok() {
                chown(&own, Some(owner.uid), Some(owner.gid))?;
                // A container may allow the node and forbid the device in one: then it is shown.
                let opened = OpenOptions::new().read(true).write(true).open(&own);
                if opened.is_ok() {
                    continue;
                }
                fs::remove_file(&own)?;
            }
        }
        node.bind(&staged_file(&node.name)?)?;
    }
    Ok(())
}

fn tmpfs(target: &Path, options: &str, flags: MsFlags) -> io::Result<()> {
    mount(Some("warren"), target, Some("tmpfs"), flags, Some(options))
        .map_err(|errno| at(target, "mount a tmpfs at", errno.into()))
}

fn in_stage(path: &Path) -> PathBuf {
    Path::new(STAGE).join(path.strip_prefix("/").unwrap_or(path))
}

/// The place of a folder in the new root, made with all that lead to it.
fn staged(path: &Path) -> io::Result<PathBuf> {
    let target = in_stage(path);
    // Not the process's umask: a folder on the way that only root enters is a dead end.
    let mut made = PathBuf::from(STAGE);
    for component in target.strip_prefix(STAGE).unwrap_or(&target).components() {
        made.push(component);
        match DirBuilder::new().mode(0o755).create(&made) {
            Ok(()) => fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(path, "make", error)),
        }
    }
    Ok(target)
}

fn staged_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| staged(parent).map(drop))
}

fn staged_file(path: &Path) -> io::Result<PathBuf> {
    staged_parent(path)?;
    let target = in_stage(path);
    match OpenOptions::new().write(true).create_new(true).mode(0o644).open(&target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path, "make", error)),
        _ => Ok(target),
    }
}

/// Takes abilities away from everything that is mounted at and below `target`.
fn restrict(target: &Path, attributes: u64) -> io::Result<()> {
    match set_attributes(target, attributes) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        result => return result.map_err(|error| at(target, "protect", error)),
    }
    // Linux before 5.12 changes one mount at a time; what the new flags do not repeat is lost,
    // and a flag that came with the mount may not be lost in a container.
    let present = nix::sys::statvfs::statvfs(target)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    for (attribute, present_flag, flag) in [
        (libc::MOUNT_ATTR_RDONLY, nix::sys::statvfs::FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (libc::MOUNT_ATTR_NOSUID, nix::sys::statvfs::FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, nix::sys::statvfs::FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, nix::sys::statvfs::FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        if attributes & attribute != 0 || present.contains(present_flag) {
            flags |= flag;
        }
    }
    mount(NOTHING, target, NOTHING, flags, NOTHING)
        .map_err(|errno| at(target, "protect", errno.into()))
}

fn set_attributes(target: &Path, attributes: u64) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    let target = CString::new(target.as_os_str().as_bytes())?;
    let change =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let pointer: *const libc::mount_attr = &change;
    // SAFETY: mount_setattr reads a C string and one structure of the size that it is told; both
    // are alive during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::AT_RECURSIVE,
            pointer,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn step<T>(what: &str, result: Result<T, Errno>) -> io::Result<T> {
    result.map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("cannot {what}: {error}"))
    })
}

fn at(path: &Path, what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
