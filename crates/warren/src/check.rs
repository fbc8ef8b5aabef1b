//! `warren check`

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use config::{Config, Ipv6Pool};
use host::{Facts, WatchedFiles};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use serde::Serialize;
use shell::{check_outside, outside_files};

use crate::admin::config_path;
use crate::cli::{ConfigFile, Global};
use crate::confine;
use crate::output::{Output, Table};

/// What is in order and what is not.
#[derive(Debug, Serialize)]
struct Report {
    /// The configuration file, if there is one.
    config: Option<String>,
    findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    subject: String,
    grade: Grade,
    detail: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// In order.
    Ok,
    /// The server runs, but somebody should look.
    Warning,
    /// The server cannot start.
    Missing,
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "MISSING",
        }
    }
}

/// Reports on the configuration and the machine; changes nothing.
pub(crate) fn run(global: &Global, args: &ConfigFile, output: Output) -> anyhow::Result<ExitCode> {
    let path = config_path(global, args);
    let config = Config::load(path.as_deref())?;
    let is_running = UnixStream::connect(global.state.join("api.sock")).is_ok();

    let mut findings = of_the_host(&Facts::gather(), &config);
    findings.extend(of_the_bridge(&config, is_running));
    findings.extend(of_the_doors(&config, is_running));
    findings.extend(of_outside_cas(&config));
    findings.extend(of_least_privilege(&config));
    findings.push(of_offloads());
    findings.extend(of_the_tun_device());
    let report = Report { config: path.map(|path| path.display().to_string()), findings };
    output.show(&report, text)?;

    let cannot_start = report.findings.iter().any(|finding| finding.grade == Grade::Missing);
    Ok(if cannot_start { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(report: &Report) -> String {
    let mut table = Table::new(["CHECK", "RESULT", "DETAIL"]);
    let file = report.config.clone().unwrap_or_else(|| "no file: the defaults".to_owned());
    table.row(["configuration".to_owned(), Grade::Ok.as_str().to_owned(), file]);
    for finding in &report.findings {
        table.row([
            finding.subject.clone(),
            finding.grade.as_str().to_owned(),
            finding.detail.clone(),
        ]);
    }
    table.render()
}

fn finding(subject: &str, grade: Grade, detail: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), grade, detail: detail.into() }
}

fn of_the_host(facts: &Facts, config: &Config) -> Vec<Finding> {
    let wants_ipv6 = config.network.ipv6 != Ipv6Pool::Off;
    let graded = |subject, result: &Result<(), String>, otherwise| match result {
        Ok(()) => finding(subject, Grade::Ok, ""),
        Err(reason) => finding(subject, otherwise, reason.as_str()),
    };
    let has = |subject, has: bool, otherwise, detail: &str| match has {
        true => finding(subject, Grade::Ok, ""),
        false => finding(subject, otherwise, detail),
    };

    let mut findings = vec![
        has(
            "privileges",
            facts.net_admin,
            Grade::Missing,
            "CAP_NET_ADMIN is missing: run as root, or as a systemd service",
        ),
        graded("TUN device", &facts.tun, Grade::Missing),
        graded(
            "packet filter",
            &facts.nf_tables,
            if config.network.nat { Grade::Missing } else { Grade::Warning },
        ),
        graded("policy rules", &facts.rules, Grade::Warning),
    ];
    if config.network.ipv4.is_some() {
        findings.push(has(
            "IPv4 forwarding",
            facts.forwarding4.is_some(),
            Grade::Missing,
            "this kernel cannot forward IPv4: members would reach nothing but each other",
        ));
    }
    if wants_ipv6 {
        findings.push(has(
            "IPv6",
            facts.ipv6 && facts.forwarding6.is_some(),
            Grade::Warning,
            "this kernel has no IPv6: turn it on, or set network.ipv6 = \"off\"",
        ));
    }
    for chain in &facts.forward_droppers {
        let detail = format!(
            "nf_tables chain {chain} drops forwarded packets: members reach nothing behind this \
             machine unless it has a rule for them"
        );
        findings.push(finding("other filters", Grade::Warning, detail));
    }
    findings
}

/// Whether the interface that the configuration names can be bridged.
fn of_the_bridge(config: &Config, is_running: bool) -> Option<Finding> {
    let interface = config.network.bridge.as_deref()?;
    let subject = format!("bridge {interface}");
    Some(match host::check_bridge(interface) {
        Ok(()) => finding(&subject, Grade::Ok, ""),
        Err(_) if is_running => {
            finding(&subject, Grade::Ok, "in use by the server that is running")
        }
        Err(error) => finding(&subject, Grade::Missing, error.to_string()),
    })
}

fn of_the_doors(config: &Config, is_running: bool) -> Vec<Finding> {
    let door = &config.doors.openvpn;
    if !door.enabled {
        return vec![finding("door openvpn", Grade::Warning, "doors.openvpn.enabled is false")];
    }
    let udp = door.listen.iter().map(|address| (*address, SockType::Datagram));
    let tcp = door.listen_tcp.iter().map(|address| (*address, SockType::Stream));
    let listen = udp.chain(tcp).map(|(address, kind)| {
        let (transport, key) = match kind {
            SockType::Stream => ("tcp", "doors.openvpn.listen_tcp"),
            _ => ("udp", "doors.openvpn.listen"),
        };
        let subject = format!("openvpn {address}/{transport}");
        match try_to_bind(address, kind) {
            Ok(()) => finding(&subject, Grade::Ok, ""),
            Err(Errno::EADDRINUSE) if is_running => {
                finding(&subject, Grade::Ok, "in use by the server that is running")
            }
            Err(Errno::EADDRINUSE) => finding(
                &subject,
                Grade::Missing,
                format!("another program has this {transport} port: end it, or change {key}"),
            ),
            Err(Errno::EADDRNOTAVAIL) => finding(
                &subject,
                Grade::Missing,
                format!("this machine does not have the address: change {key}"),
            ),
            Err(Errno::EACCES) => finding(
                &subject,
                Grade::Missing,
                "ports below 1024 need root or CAP_NET_BIND_SERVICE",
            ),
            Err(Errno::EAFNOSUPPORT) => finding(
                &subject,
                Grade::Missing,
                format!("this kernel has no IPv6: remove the address from {key}"),
            ),
            Err(errno) => finding(&subject, Grade::Missing, errno.desc()),
        }
    });
    listen.collect()
}

/// Other CAs whose certificates let members in: read and checked as the server does.
fn of_outside_cas(config: &Config) -> Option<Finding> {
    let door = &config.doors.openvpn;
    let read = WatchedFiles::Own(outside_files(door)).read(None);
    let checked = match read {
        Ok(Some(snapshot)) => check_outside(door, &snapshot).transpose()?,
        Ok(None) => return None,
        Err(error) => Err(error.to_string()),
    };
    Some(match checked {
        Ok((cas, lists)) => {
            let detail = format!("CAs: {cas}, revocation lists: {lists}");
            finding("certificates of others", Grade::Ok, detail)
        }
        Err(line) => finding("certificates of others", Grade::Missing, line),
    })
}

/// What the server gives up after its start, and what this machine does not let it.
fn of_least_privilege(config: &Config) -> Vec<Finding> {
    let obstacles = confine::obstacles(&config.server.user).into_iter();
    obstacles
        .map(|(subject, result)| match result {
            Ok(detail) => finding(subject, Grade::Ok, detail),
            Err(why) => finding(subject, Grade::Warning, why),
        })
        .collect()
}

/// What the kernel does for datagrams; without it everything works, but slower.
fn of_offloads() -> Finding {
    let offers = || -> nix::Result<()> {
        let socket = socket_of(AddressFamily::Inet, SockType::Datagram)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &1200)?;
        setsockopt(&socket, sockopt::UdpGroSegment, &true)
    };
    match offers() {
        Ok(()) => finding("UDP offloads", Grade::Ok, ""),
        Err(errno) => finding(
            "UDP offloads",
            Grade::Warning,
            format!("no UDP GSO and GRO ({}): several times slower", errno.desc()),
        ),
    }
}

/// Asks a device that is gone again at once; without TUN there is nothing to ask, and the missing
/// device is a finding of its own.
fn of_the_tun_device() -> Option<Finding> {
    let offloads = sys::Tun::open("warren%d", 1).ok()?.offloads();
    Some(match (offloads.gso, offloads.uso) {
        (true, true) => finding("TUN offloads", Grade::Ok, ""),
        (true, false) => finding(
            "TUN offloads",
            Grade::Ok,
            "TCP only: UDP segmentation needs Linux 6.2, which makes UDP inside the tunnel faster",
        ),
        (false, _) => finding(
            "TUN offloads",
            Grade::Warning,
            "no segmentation offload on TUN devices: several times slower",
        ),
    })
}

fn socket_of(family: AddressFamily, kind: SockType) -> nix::Result<OwnedFd> {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None)
}

fn try_to_bind(address: SocketAddr, kind: SockType) -> nix::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket_of(family, kind)?;
    if kind == SockType::Stream {
        // As the door does: connections of an earlier run do not count.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        // As the door does: "[::]" and "0.0.0.0" are two addresses.
        setsockopt(&socket.as_fd(), sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn healthy() -> Facts {
        Facts {
            net_admin: true,
            tun: Ok(()),
            nf_tables: Ok(()),
            forwarding4: Some(false),
            forwarding6: Some(false),
            rules: Ok(()),
            ipv6: true,
            forward_droppers: Vec::new(),
        }
    }

    fn config(text: &str) -> Config {
        Config::parse(text, "test").expect("a valid configuration")
    }

    fn worst(facts: &Facts, text: &str) -> Vec<(String, &'static str)> {
        let findings = of_the_host(facts, &config(text));
        let bad = findings.into_iter().filter(|finding| finding.grade != Grade::Ok);
        bad.map(|finding| (finding.subject, finding.grade.as_str())).collect()
    }

    #[test]
    fn a_machine_that_has_everything_is_in_order() {
        assert_eq!(worst(&healthy(), ""), []);
    }

    #[test]
    fn what_the_server_cannot_do_without_is_missing() {
        let poor = Facts { net_admin: false, tun: Err("no device".into()), ..healthy() };
        assert_eq!(
            worst(&poor, ""),
            [("privileges".to_owned(), "MISSING"), ("TUN device".to_owned(), "MISSING")]
        );
    }

    #[test]
    fn what_the_configuration_does_not_use_is_not_missed() {
        let no_filter = Facts { nf_tables: Err("no module".into()), ..healthy() };
        assert_eq!(worst(&no_filter, ""), [("packet filter".to_owned(), "MISSING")]);
        assert_eq!(
            worst(&no_filter, "[network]\nnat = false"),
            [("packet filter".to_owned(), "warning")]
        );

        let no_ipv6 = Facts { ipv6: false, forwarding6: None, ..healthy() };
        assert_eq!(worst(&no_ipv6, ""), [("IPv6".to_owned(), "warning")]);
        assert_eq!(worst(&no_ipv6, "[network]\nipv6 = \"off\""), []);
    }

    #[test]
    fn a_port_in_use_is_named_unless_the_server_has_it() {
        let other = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = other.local_addr().expect("bound");
        let config = config(&format!("[doors.openvpn]\nlisten = [\"{address}\"]"));

        let taken = &of_the_doors(&config, false)[0];
        assert_eq!(
            (taken.grade, taken.subject.as_str()),
            (Grade::Missing, format!("openvpn {address}/udp").as_str())
        );
        assert_eq!(of_the_doors(&config, true)[0].grade, Grade::Ok);

        drop(other);
        assert_eq!(of_the_doors(&config, false)[0].grade, Grade::Ok);
    }

    #[test]
    fn a_tcp_port_in_use_is_named_with_its_own_key() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = other.local_addr().expect("bound");
        let config = config(&format!("[doors.openvpn]\nlisten_tcp = [\"{address}\"]"));
        let tcp = || of_the_doors(&config, false).pop().expect("a finding");

        assert_eq!(tcp().grade, Grade::Missing);
        assert_eq!(tcp().subject, format!("openvpn {address}/tcp"));
        assert!(tcp().detail.contains("doors.openvpn.listen_tcp"), "{:?}", tcp().detail);

        drop(other);
        assert_eq!(tcp().grade, Grade::Ok);
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let config = config("[doors.openvpn]\nlisten = [\"192.0.2.1:1194\"]");

        let elsewhere = &of_the_doors(&config, false)[0];

        assert_eq!(elsewhere.grade, Grade::Missing);
        assert!(elsewhere.detail.contains("doors.openvpn.listen"), "{elsewhere:?}");
    }
}
