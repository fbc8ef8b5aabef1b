//! Network namespaces, and the cables and switches between them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::lab::Shared;
use crate::peer::{Output, Peer};

type Job = Box<dyn FnOnce() + Send>;

/// What a short command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace with mounts of its own: an empty `/run`, and a writable copy of `/etc`
/// that the host does not see.
///
/// It exists as long as a clone of it, or a process or socket made inside it.
#[derive(Clone, Debug)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    jobs: Sender<Job>,
    devices: AtomicUsize,
    lab: Arc<Shared>,
}

impl Namespace {
    pub(crate) fn new(name: &str, lab: &Arc<Shared>) -> Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (ready, is_ready) = sync_channel(1);
        // Children are started by this thread and ask to be killed when it ends (`PDEATHSIG`
        // counts threads), so it lives exactly as long as the namespace is in use.
        thread::Builder::new().name(format!("ns-{name}")).spawn(move || {
            let unshared = unshare_here();
            let failed = unshared.is_err();
            let _ = ready.send(unshared);
            if failed {
                return;
            }
            while let Ok(job) = inbox.recv() {
                job();
            }
        })?;
        let path = is_ready
            .recv()
            .context("the namespace's thread ended early")?
            .with_context(|| format!("make namespace {name}"))?;

        let devices = AtomicUsize::new(0);
        let inner = Inner { name: name.to_owned(), path, jobs, devices, lab: Arc::clone(lab) };
        let namespace = Self { inner: Arc::new(inner) };
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name given to [`Lab::namespace`](crate::Lab::namespace).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The lab's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.inner.lab.folder()
    }

    pub(crate) fn lab(&self) -> &Shared {
        &self.inner.lab
    }

    /// Runs `work` on the namespace's own thread; sockets it opens stay in the namespace wherever
    /// they are used afterwards. Long work would hold up everything else here.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn enter<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, answered) = sync_channel(1);
        let job: Job = Box::new(move || {
            let _ = answer.send(work());
        });
        self.inner.jobs.send(job).expect("the namespace's thread runs while a handle exists");
        answered.recv().expect("work inside a namespace does not panic")
    }

    /// Starts a program in the namespace, in a process group of its own.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Peer> {
        Peer::spawn(self, name, command)
    }

    /// Runs a short command and returns its standard output.
    ///
    /// # Errors
    /// If it fails, with what it said; or if it does not end within 20 seconds.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.try_run(program, arguments)?;
        if !output.success() {
            bail!("{}: `{program} {}`: {output}", self.name(), arguments.join(" "));
        }
        Ok(output.stdout)
    }

    /// Runs a short command and returns how it ended.
    ///
    /// # Errors
    /// If it cannot be started or does not end within 20 seconds.
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(arguments);
        self.output(command, COMMAND_PATIENCE)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time.
    pub fn output(&self, command: Command, timeout: Duration) -> Result<Output> {
        Peer::spawn_unlisted(self, command)?.wait_exit(timeout)
    }

    /// Adds a route, `via` a neighbour.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn route(&self, destination: &str, via: IpAddr) -> Result<()> {
        let family = if via.is_ipv4() { "-4" } else { "-6" };
        self.run("ip", &[family, "route", "add", destination, "via", &via.to_string()])?;
        Ok(())
    }

    /// Turns forwarding on, both families.
    ///
    /// # Errors
    /// If the kernel refuses the setting.
    pub fn forward(&self) -> Result<()> {
        self.set_sysctl("net/ipv4/ip_forward", "1")?;
        self.set_sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Writes a setting under `/proc/sys`.
    ///
    /// # Errors
    /// If there is no such setting.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let (path, value) = (format!("/proc/sys/{name}"), value.to_owned());
        self.enter(move || fs::write(&path, value).with_context(|| format!("write {path}")))
    }

    /// The addresses of every device: `(device, address)`, link-local ones left out.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn addresses(&self) -> Result<Vec<(String, IpAddr)>> {
        let listing: serde_json::Value = serde_json::from_str(&self.run("ip", &["-j", "addr"])?)?;
        let mut found = Vec::new();
        for device in listing.as_array().into_iter().flatten() {
            let name = device["ifname"].as_str().unwrap_or_default();
            for address in device["addr_info"].as_array().into_iter().flatten() {
                if address["scope"] == "link" {
                    continue;
                }
                if let Some(ip) = address["local"].as_str().and_then(|text| text.parse().ok()) {
                    found.push((name.to_owned(), ip));
                }
            }
        }
        Ok(found)
    }

    /// The device that has this address.
    ///
    /// # Errors
    /// If none has.
    pub fn device_with(&self, address: IpAddr) -> Result<String> {
        self.addresses()?
            .into_iter()
            .find_map(|(device, ip)| (ip == address).then_some(device))
            .ok_or_else(|| anyhow!("{}: no device has {address}", self.name()))
    }

    fn next_device(&self) -> String {
        format!("eth{}", self.inner.devices.fetch_add(1, Ordering::Relaxed))
    }

    fn bring_up(&self, device: &str, addresses: &[&str]) -> Result<()> {
        for address in addresses {
            if address.contains(':') {
                self.run("ip", &["addr", "add", address, "dev", device, "nodad"])?;
            } else {
                self.run("ip", &["addr", "add", address, "dev", device])?;
            }
        }
        self.run("ip", &["link", "set", device, "up"])?;
        Ok(())
    }
}

/// Gives the calling thread a network and mounts of its own; returns the path of its network.
fn unshare_here() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;

    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("/ private")?;
    // /mnt only lends its name to the scratch area of the copy of /etc.
    mount(Some("lab"), "/mnt", Some("tmpfs"), MsFlags::empty(), none).context("/mnt")?;
    fs::create_dir("/mnt/upper")?;
    fs::create_dir("/mnt/work")?;
    let layers = Some("lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work");
    mount(Some("lab"), "/etc", Some("overlay"), MsFlags::empty(), layers).context("/etc")?;
    umount2("/mnt", MntFlags::MNT_DETACH).context("/mnt")?;
    mount(Some("lab"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("/run")?;
    mount(Some("lab"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("/sys")?;
    // Every device would otherwise spend its first second asking whether its address is taken.
    for device in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_dad"), "0");
    }

    let (process, thread) = (std::process::id(), nix::unistd::gettid());
    Ok(PathBuf::from(format!("/proc/{process}/task/{thread}/ns/net")))
}

/// A cable between two namespaces.
#[derive(Clone, Debug)]
pub struct Link {
    /// The device at the first end.
    pub a: String,
    /// The device at the second end.
    pub b: String,
}

impl Link {
    pub(crate) fn new(a: &Namespace, on_a: &[&str], b: &Namespace, on_b: &[&str]) -> Result<Self> {
        let link = Self { a: a.next_device(), b: b.next_device() };
        let path = b.inner.path.to_string_lossy().into_owned();
        let arguments = ["link", "add", &link.a, "type", "veth", "peer", "name", &link.b];
        a.run("ip", &[&arguments[..], &["netns", &path]].concat())?;
        a.bring_up(&link.a, on_a)?;
        b.bring_up(&link.b, on_b)?;
        Ok(link)
    }
}

/// An Ethernet switch.
#[derive(Clone, Debug)]
pub struct Switch {
    namespace: Namespace,
}

impl Switch {
    pub(crate) fn new(namespace: Namespace) -> Result<Self> {
        namespace.run("ip", &["link", "add", "bridge", "type", "bridge"])?;
        namespace.run("ip", &["link", "set", "bridge", "up"])?;
        Ok(Self { namespace })
    }

    /// Plugs a namespace in, with these addresses; returns its new device.
    ///
    /// # Errors
    /// If the devices or addresses are refused.
    pub fn attach(&self, to: &Namespace, addresses: &[&str]) -> Result<String> {
        let link = Link::new(to, addresses, &self.namespace, &[])?;
        self.namespace.run("ip", &["link", "set", &link.b, "master", "bridge"])?;
        Ok(link.a)
    }

    /// The namespace that is the switch.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
