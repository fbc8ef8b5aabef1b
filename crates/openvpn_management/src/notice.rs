//! What consoles are told without having asked: `>CLIENT`, `>STATE`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use contract::{AuthContext, CertificateId, Lease};
use dataplane::PortTotals;
use openvpn::management::one_line;
use shell::SessionInfo;
use tokio::sync::broadcast;
use zeroize::Zeroizing;

use crate::status::ascii_time;

/// Notices that a connection may be behind before it is cut: losing one of them would leave a
/// login without a decision.
const BEHIND: usize = 1024;

/// One notice, whole: however many lines it has, nothing comes between them.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    /// For everybody; may hold a password.
    Client(Arc<Zeroizing<String>>),
    /// For those who asked for the state; without `>STATE:`.
    State(Arc<str>),
    /// For everybody, as it is.
    Lines(Arc<str>),
    /// For those who asked for texts for user interfaces; without `>ECHO:`.
    Echo(Arc<str>),
}

/// Where notices are told.
#[derive(Debug)]
pub(crate) struct Notices(broadcast::Sender<Notice>);

impl Notices {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Notice> {
        self.0.subscribe()
    }

    /// Whether anybody is there to hear.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Says whether somebody may have heard it.
    pub(crate) fn tell(&self, notice: Notice) -> bool {
        self.0.send(notice).is_ok()
    }

    pub(crate) fn client(&self, environment: Environment) -> bool {
        self.tell(Notice::Client(Arc::new(environment.finish())))
    }
}

/// A `>CLIENT` notice with its environment, line by line.
#[derive(Debug)]
pub(crate) struct Environment(Zeroizing<String>);

impl Environment {
    /// `head` is what follows `>CLIENT:`, as in `CONNECT,7,1`.
    pub(crate) fn new(head: &str) -> Self {
        // Room enough that a password is not left behind where the text was before it grew.
        let mut text = Zeroizing::new(String::with_capacity(32 * 1024));
        let _ = writeln!(text, ">CLIENT:{head}");
        Self(text)
    }

    /// One variable. A line feed in its value would forge another.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.push_str(">CLIENT:ENV,");
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(value.chars().map(|c| if c.is_control() { '_' } else { c }));
        self.0.push('\n');
    }

    /// Who connects, from where.
    pub(crate) fn describe_peer(&mut self, context: &AuthContext) {
        for (name, value) in context.introduction.lines().filter_map(|line| line.split_once('=')) {
            self.set(name, value);
        }
        self.set_remote("untrusted", SocketAddr::new(context.remote, context.port));
    }

    fn set_remote(&mut self, prefix: &str, remote: SocketAddr) {
        let suffix = if remote.is_ipv4() { "ip" } else { "ip6" };
        self.set(&format!("{prefix}_{suffix}"), &remote.ip().to_string());
        self.set(&format!("{prefix}_port"), &remote.port().to_string());
    }

    /// What the certificate says, which has been verified.
    pub(crate) fn describe_certificate(&mut self, name: &str, serial: Option<&str>) {
        self.set("common_name", name);
        self.set("X509_0_CN", name);
        if let Some(serial) = serial {
            let mut pairs = String::new();
            for (index, digit) in serial.chars().enumerate() {
                if index > 0 && (serial.len() - index).is_multiple_of(2) {
                    pairs.push(':');
                }
                pairs.push(digit);
            }
            self.set("tls_serial_hex_0", &pairs);
        }
    }

    /// A session that came up.
    pub(crate) fn describe_session(&mut self, info: &SessionInfo) {
        self.set_remote("trusted", info.remote);
        self.set_remote("untrusted", info.remote);
        self.set("username", &info.user);
        self.describe_certificate(&info.user, serial(info.certificate.as_ref()).as_deref());
        if let Some((address, _)) = info.lease.ipv4 {
            self.set("ifconfig_pool_remote_ip", &address.to_string());
        }
        if let Some((address, _)) = info.lease.ipv6 {
            self.set("ifconfig_pool_remote_ip6", &address.to_string());
        }
        self.set("IV_VER", &info.facts.software);
        self.set("time_unix", &info.since.to_string());
        self.set("time_ascii", &ascii_time(info.since));
    }

    /// What a session carried and how long it lasted.
    pub(crate) fn describe_end(&mut self, info: Option<&SessionInfo>, totals: &PortTotals) {
        let duration = info.map_or(0, |info| crate::now().saturating_sub(info.since));
        self.set("bytes_received", &totals.rx_bytes.to_string());
        self.set("bytes_sent", &totals.tx_bytes.to_string());
        self.set("time_duration", &duration.to_string());
    }

    /// Where the server stands.
    pub(crate) fn describe_server(&mut self, server: &ServerFacts) {
        self.set("daemon_pid", &std::process::id().to_string());
        self.set("daemon_start_time", &server.started.to_string());
        self.set("dev", &server.device);
        for address in &server.addresses {
            let name = if address.is_ipv4() { "ifconfig_local" } else { "ifconfig_ipv6_local" };
            self.set(name, &address.to_string());
        }
    }

    fn finish(mut self) -> Zeroizing<String> {
        self.0.push_str(">CLIENT:ENV,END\n");
        self.0
    }
}

/// What every environment holds of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerFacts {
    pub(crate) started: u64,
    pub(crate) device: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// `>CLIENT:ADDRESS` for every address of a session.
pub(crate) fn addresses(info: &SessionInfo) -> Notice {
    let address4 = info.lease.ipv4.map(|(address, _)| IpAddr::V4(address));
    let address6 = info.lease.ipv6.map(|(address, _)| IpAddr::V6(address));
    let mut text = String::new();
    for address in [address4, address6].into_iter().flatten() {
        let _ = writeln!(text, ">CLIENT:ADDRESS,{},{address},1", info.id);
    }
    Notice::Client(Arc::new(Zeroizing::new(text)))
}

/// One state, without `>STATE:`: what happened, why, and our own addresses.
pub(crate) fn state(time: u64, name: &str, why: &str, server: &ServerFacts) -> String {
    let own = |is_ipv4: bool| {
        let mut own = server.addresses.iter().filter(|address| address.is_ipv4() == is_ipv4);
        own.next().map(ToString::to_string).unwrap_or_default()
    };
    let why = one_line(why);
    match own(false) {
        own6 if own6.is_empty() => format!("{time},{name},{why},{},,,,", own(true)),
        own6 => format!("{time},{name},{why},{},,,,,{own6}", own(true)),
    }
}

/// Where a client is, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
    pub(crate) remote: Option<SocketAddr>,
}

impl Place {
    pub(crate) fn of(lease: &Lease) -> Self {
        Self {
            ipv4: lease.ipv4.map(|(address, _)| address),
            ipv6: lease.ipv6.map(|(address, _)| address),
            remote: None,
        }
    }
}

/// One state of a client, without `>STATE:`: what happened, why, our own addresses, and the
/// server's.
pub(crate) fn client_state(time: u64, name: &str, why: &str, place: &Place) -> String {
    let why = one_line(why).replace(',', ";");
    let own = place.ipv4.map(|address| address.to_string()).unwrap_or_default();
    let (remote, port) = match place.remote {
        Some(remote) => (remote.ip().to_string(), remote.port().to_string()),
        None => Default::default(),
    };
    let state = format!("{time},{name},{why},{own},{remote},{port},,");
    match place.ipv6 {
        Some(address) => format!("{state},{address}"),
        None => state,
    }
}

/// The serial number, if the certificate is known by that.
pub(crate) fn serial(certificate: Option<&CertificateId>) -> Option<String> {
    match certificate? {
        CertificateId::Own(serial) => Some(serial.clone()),
        CertificateId::Registered(_) | CertificateId::Outside { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_peer_sends_makes_a_line_of_its_own() {
        let mut environment = Environment::new("CONNECT,7,1");
        environment.set("password", "a\r\n>CLIENT:ENV,common_name=root\0");
        environment.set("username", "b=c");

        assert_eq!(
            environment.finish().as_str(),
            ">CLIENT:CONNECT,7,1\n\
             >CLIENT:ENV,password=a__>CLIENT:ENV,common_name=root_\n\
             >CLIENT:ENV,username=b=c\n\
             >CLIENT:ENV,END\n"
        );
    }

    #[test]
    fn a_serial_number_is_written_in_pairs() {
        let mut environment = Environment::new("CONNECT,7,1");
        environment.describe_certificate("anna", Some("1aff0"));
        assert!(environment.finish().contains(">CLIENT:ENV,tls_serial_hex_0=1:af:f0\n"));
    }

    #[test]
    fn a_state_has_the_fields_of_openvpn() {
        let server = ServerFacts {
            started: 1,
            device: "warren0".to_owned(),
            addresses: vec!["10.86.0.1".parse().unwrap(), "fd86::1".parse().unwrap()],
        };
        assert_eq!(
            state(1_795_405_726, "CONNECTED", "SUCCESS", &server),
            "1795405726,CONNECTED,SUCCESS,10.86.0.1,,,,,fd86::1"
        );
        let place = Place {
            ipv4: Some("10.8.0.2".parse().unwrap()),
            ipv6: Some("fd08::2".parse().unwrap()),
            remote: Some("192.0.2.1:1194".parse().unwrap()),
        };
        assert_eq!(
            client_state(7, "CONNECTED", "SUCCESS", &place),
            "7,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,,fd08::2"
        );
        let nowhere = Place::default();
        assert_eq!(client_state(7, "RECONNECTING", "a,\nb", &nowhere), "7,RECONNECTING,a;_b,,,,,");
        let bare = ServerFacts::default();
        assert_eq!(state(5, "CONNECTING", "", &bare), "5,CONNECTING,,,,,,");
    }
}
