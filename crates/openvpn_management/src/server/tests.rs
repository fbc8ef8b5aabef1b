use std::sync::atomic::{AtomicU32, Ordering};

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use config::Config;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::*;
use crate::seats::MAX_CONSOLES;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("warren-management-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bind(path: &Path) -> Result<Listener, ManagementError> {
    listener(&ManagementListen::Unix(path.to_owned()))
}

fn listener(place: &ManagementListen) -> Result<Listener, ManagementError> {
    Bound::bind(place).map(|bound| Listener::new(bound).unwrap())
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_away() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let listener = bind(&path).unwrap();

    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let taken = bind(&path).unwrap_err().to_string();
    assert!(taken.contains("another program listens there") && !taken.contains('\n'), "{taken}");
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_an_earlier_run_left_is_replaced_but_never_a_file() {
    let folder = Folder::new();
    let path = folder.path("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(bind(&path).unwrap());

    std::fs::write(&path, "precious").unwrap();
    assert!(bind(&path).unwrap_err().to_string().contains("there is a file"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_living_socket_of_another_kind_is_somebody_elses() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();

    let taken = bind(&path).unwrap_err().to_string();
    assert!(taken.contains("another program listens there"), "{taken}");
    assert!(path.exists());
    drop(other);
}

#[tokio::test]
async fn a_groups_socket_is_the_groups_whatever_way_leads_to_it() {
    let folder = Folder::new();
    let real = folder.path("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, folder.path("link")).unwrap();
    let group = Gid::effective().as_raw();
    let callers = Callers { user: None, group: Some(group) };
    let place = ManagementListen::Unix(folder.path("link/socket"));

    let bound = Bound::bind_for(&place, callers).unwrap();
    let facts = std::fs::metadata(real.join("socket")).unwrap();
    assert_eq!((facts.mode() & 0o777, facts.gid()), (0o660, group));
    drop(bound);
    assert!(!real.join("socket").exists());
}

#[test]
fn a_password_is_the_first_line_of_a_private_file() {
    let folder = Folder::new();
    let path = folder.path("password");
    std::fs::write(&path, "open sesame\r\nanything\n").unwrap();
    set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(read_password(&path).unwrap_err().to_string().contains("chmod 600"));

    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read_password(&path).unwrap().expose(), b"open sesame");
    std::fs::write(&path, "\n").unwrap();
    assert!(read_password(&path).unwrap_err().to_string().contains("empty"));
    let missing = read_password(&folder.path("nowhere")).unwrap_err().to_string();
    assert!(missing.starts_with("doors.openvpn.management_password_file: "), "{missing}");
}

/// A server's protocol at the configured place, without a server.
fn open(text: &str) -> Result<Option<Management>, ManagementError> {
    let config = Config::parse(text, "w.toml").unwrap();
    let door = &config.doors.openvpn;
    let Some(entrance) = Entrance::open(door)? else { return Ok(None) };
    Management::open(door, entrance, LogTap::new(), || unreachable!("nobody logs in")).map(Some)
}

#[tokio::test]
async fn it_is_off_unless_asked_for() {
    assert!(open("").unwrap().is_none());
}

#[tokio::test]
async fn a_tcp_port_in_use_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("[doors.openvpn]\nmanagement = \"{}\"\n", taken.local_addr().unwrap());
    let error = open(&text).unwrap_err().to_string();
    assert!(error.starts_with("doors.openvpn.management: cannot listen on 127.0.0.1:"), "{error}");
    assert!(!error.contains('\n'));
}

async fn greeting(stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    line
}

#[tokio::test]
async fn there_are_so_many_seats_and_one_that_is_left_is_free_again() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let listener = bind(&path).unwrap();
    let shared = crate::testing::shared();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            take(listener.accept().await, &mut connections, &shared).await;
        }
    });
    let mut consoles = Vec::new();
    for _ in 0..MAX_CONSOLES {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        assert!(greeting(&mut stream).await.starts_with(">INFO:"));
        consoles.push(stream);
    }
    let stream = UnixStream::connect(&path).await.unwrap();
    assert!(greeting(stream).await.starts_with("ERROR: too many"));

    drop(consoles.pop());
    loop {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        if greeting(&mut stream).await.starts_with(">INFO:") {
            break;
        }
        tokio::task::yield_now().await;
    }
    accepting.abort();
}

#[tokio::test]
async fn tcp_is_spoken_on_the_loopback() {
    let listener = listener(&ManagementListen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let Listener::Tcp(tcp) = &listener else { panic!() };
    let address = tcp.local_addr().unwrap();
    let shared = crate::testing::shared();
    let mut connections = JoinSet::new();
    let console =
        tokio::spawn(async move { greeting(TcpStream::connect(address).await.unwrap()).await });
    take(listener.accept().await, &mut connections, &shared).await;
    assert!(console.await.unwrap().starts_with(">INFO:"));
}
