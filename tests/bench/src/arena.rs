//! Two hosts and the cable between them.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use lab::{Lab, Namespace, Pki};
use nix::sched::{CloneFlags, setns};

/// Where everything is measured.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) server: Namespace,
    pub(crate) client: Namespace,
    /// Certificates for stock servers and their clients.
    pub(crate) pki: Pki,
    started: AtomicUsize,
    _lab: Lab,
}

impl Arena {
    /// The server's address on the cable.
    pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
    /// The client's.
    pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));

    pub(crate) fn build() -> Result<Self> {
        let lab = Lab::new("bench")?;
        end_on_signal(&lab)?;
        let (server, client) = (lab.namespace("server")?, lab.namespace("client")?);
        lab.link(&server, &["198.18.0.1/24"], &client, &["198.18.0.2/24"])?;
        let pki = Pki::new(lab.folder())?;
        Ok(Self { server, client, pki, started: AtomicUsize::new(0), _lab: lab })
    }

    /// A name that nothing here has had yet.
    pub(crate) fn fresh_name(&self, what: &str) -> String {
        format!("{what}-{}", self.started.fetch_add(1, Ordering::Relaxed))
    }
}

/// Ctrl-C and SIGTERM end the process at once. Its end is what removes namespaces and peers;
/// only the lab's folder would stay.
fn end_on_signal(lab: &Lab) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let folder = lab.folder().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            let _ = fs::remove_dir_all(&folder);
            eprintln!("bench: interrupted");
            process::exit(130);
        });
    })?;
    Ok(())
}

/// Runs long work on a thread of its own in a namespace.
///
/// # Errors
/// If the namespace cannot be entered, or the work's own.
pub(crate) fn within<R: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<R> + Send,
) -> Result<R> {
    let network =
        namespace.enter(|| File::open("/proc/thread-self/ns/net")).context("open the namespace")?;
    thread::scope(|scope| {
        let working = scope.spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
            work()
        });
        working.join().unwrap_or_else(|_| Err(anyhow!("the work in the namespace panicked")))
    })
}
