use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;

/// Runs the test on a thread, since it never comes back from there; without root, says so and
/// skips it.
fn inside(sandbox: impl FnOnce(&Path) -> Sandbox + Send + 'static, test: fn(&Path)) {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root for a mount namespace");
        return;
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("warren-sandbox-{}-{number}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("secret"), "of the host").unwrap();
    fs::create_dir(folder.join("state")).unwrap();
    fs::write(folder.join("state/db"), "rows").unwrap();
    let there = folder.clone();
    let thread = thread::spawn(move || {
        // The working folder belongs to the whole process: this thread needs one of its own.
        unshare(CloneFlags::CLONE_FS).unwrap();
        if !is_possible() {
            eprintln!("skipped: may not make a mount namespace");
            return;
        }
        sandbox(&there).enter(Account { uid: 61086, gid: 61086 }).unwrap();

        test(&there);
    });
    let result = thread.join();
    fs::remove_dir_all(folder).unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn nothing_of_the_host_is_there_but_what_was_asked_for() {
    inside(
        |folder| Sandbox::new().writable(folder.join("state")),
        |folder| {
            let mut root: Vec<_> = fs::read_dir("/")
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            root.sort();
            assert_eq!(root, ["dev", "proc", "tmp"]);
            assert!(fs::read("/etc/passwd").is_err() && fs::read_dir("/root").is_err());
            assert!(!folder.join("secret").exists());

            assert_eq!(fs::read_to_string(folder.join("state/db")).unwrap(), "rows");
            fs::write(folder.join("state/more"), "rows").unwrap();
            fs::write("/tmp/sorted", "rows").unwrap();
            let read_only = fs::write("/new", "").unwrap_err();
            assert_eq!(read_only.raw_os_error(), Some(libc::EROFS));
            assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
        },
    );
}

#[test]
fn what_is_to_be_read_cannot_be_written_and_what_is_missing_is_left_out() {
    inside(
        |folder| {
            let there = folder.join("state");
            Sandbox::new().readable(there).readable("/no/such/folder").code("/usr/lib")
        },
        |folder| {
            let refused = fs::write(folder.join("state/db"), "").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
            assert!(!Path::new("/no").exists());
            assert!(fs::read_dir("/usr/lib").unwrap().count() > 0);
            assert!(!Path::new("/usr/bin").exists());
        },
    );
}

#[test]
fn of_proc_only_the_settings_of_the_network_can_be_written() {
    inside(
        |_| Sandbox::new(),
        |_| {
            let core = "/proc/sys/kernel/core_pattern";
            let refused = fs::write(core, fs::read(core).unwrap()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
            let forward = "/proc/sys/net/ipv4/conf/lo/rp_filter";
            fs::write(forward, fs::read(forward).unwrap()).unwrap();
            let tun = Path::new("/dev/net/tun");
            if tun.exists() {
                OpenOptions::new().read(true).write(true).open(tun).unwrap();
            }
            fs::write("/dev/null", "nothing").unwrap();
        },
    );
}

#[test]
fn a_private_folder_belongs_to_the_process() {
    inside(
        |_| Sandbox::new().private("/etc"),
        |_| {
            let etc = fs::metadata("/etc").unwrap();
            assert_eq!((etc.uid(), etc.permissions().mode() & 0o777), (61086, 0o755));
            fs::write("/etc/hosts", "127.0.0.1 localhost\n").unwrap();
        },
    );
}
