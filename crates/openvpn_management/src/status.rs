//! The answers that show the server: status in three formats, help, version.

use std::fmt::Write as _;

use dataplane::PortTotals;
use openvpn::management::VERSION;
use shell::SessionInfo;
use time::OffsetDateTime;
use time::macros::format_description;

/// What is shown for a user name that was not asked for.
const UNDEFINED: &str = "UNDEF";

/// What we are: consoles look for `OpenVPN` and three numbers with dots between them.
pub(crate) fn release() -> String {
    format!(
        "OpenVPN 2.6.0-compatible Warren {} {}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS
    )
}

/// The answer to `version`.
pub(crate) fn version() -> String {
    format!("OpenVPN Version: {}\nManagement Version: {VERSION}\nEND\n", release())
}

/// `2026-11-23 03:48:49`, in UTC.
pub(crate) fn ascii_time(seconds: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_default()
}

/// What a status is made of.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) now: u64,
    pub(crate) sessions: &'a [(SessionInfo, PortTotals)],
    /// Whether members log in with a user name.
    pub(crate) has_user_names: bool,
}

impl Snapshot<'_> {
    /// The answer to `status N`.
    pub(crate) fn status(&self, format: u8) -> String {
        match format {
            2 => self.table(','),
            3 => self.table('\t'),
            _ => self.list(),
        }
    }

    fn list(&self) -> String {
        let mut out = format!(
            "OpenVPN CLIENT LIST\nUpdated,{}\n\
             Common Name,Real Address,Bytes Received,Bytes Sent,Connected Since\n",
            ascii_time(self.now)
        );
        for (info, totals) in self.sessions {
            let since = ascii_time(info.since);
            let (name, rx, tx) = (field(&info.user), totals.rx_bytes, totals.tx_bytes);
            let _ = writeln!(out, "{name},{},{rx},{tx},{since}", info.remote);
        }
        out.push_str("ROUTING TABLE\nVirtual Address,Common Name,Real Address,Last Ref\n");
        for (info, _) in self.sessions {
            for address in addresses(info) {
                let since = ascii_time(info.since);
                let _ = writeln!(out, "{address},{},{},{since}", field(&info.user), info.remote);
            }
        }
        out.push_str("GLOBAL STATS\nMax bcast/mcast queue length,0\nEND\n");
        out
    }

    fn table(&self, separator: char) -> String {
        let mut out = String::new();
        let mut row = |fields: &[&str]| {
            let mut separated = false;
            for field in fields {
                if std::mem::replace(&mut separated, true) {
                    out.push(separator);
                }
                out.push_str(field);
            }
            out.push('\n');
        };
        row(&["TITLE", &release()]);
        row(&["TIME", &ascii_time(self.now), &self.now.to_string()]);
        row(&[
            "HEADER",
            "CLIENT_LIST",
            "Common Name",
            "Real Address",
            "Virtual Address",
            "Virtual IPv6 Address",
            "Bytes Received",
            "Bytes Sent",
            "Connected Since",
            "Connected Since (time_t)",
            "Username",
            "Client ID",
            "Peer ID",
            "Data Channel Cipher",
        ]);
        for (info, totals) in self.sessions {
            let name = field(&info.user);
            let address4 = info.lease.ipv4.map(|(address, _)| address.to_string());
            let address6 = info.lease.ipv6.map(|(address, _)| address.to_string());
            let peer_id = info.facts.peer_id.map(|peer_id| peer_id.to_string());
            row(&[
                "CLIENT_LIST",
                &name,
                &info.remote.to_string(),
                &address4.unwrap_or_default(),
                &address6.unwrap_or_default(),
                &totals.rx_bytes.to_string(),
                &totals.tx_bytes.to_string(),
                &ascii_time(info.since),
                &info.since.to_string(),
                if self.has_user_names { &name } else { UNDEFINED },
                &info.id.to_string(),
                &peer_id.unwrap_or_default(),
                &info.facts.cipher,
            ]);
        }
        row(&[
            "HEADER",
            "ROUTING_TABLE",
            "Virtual Address",
            "Common Name",
            "Real Address",
            "Last Ref",
            "Last Ref (time_t)",
        ]);
        for (info, _) in self.sessions {
            for address in addresses(info) {
                row(&[
                    "ROUTING_TABLE",
                    &address,
                    &field(&info.user),
                    &info.remote.to_string(),
                    &ascii_time(info.since),
                    &info.since.to_string(),
                ]);
            }
        }
        row(&["GLOBAL_STATS", "Max bcast/mcast queue length", "0"]);
        row(&["GLOBAL_STATS", "dco_enabled", "0"]);
        row(&["END"]);
        out
    }
}

/// The member's addresses inside the network.
fn addresses(info: &SessionInfo) -> impl Iterator<Item = String> {
    let address4 = info.lease.ipv4.map(|(address, _)| address.to_string());
    let address6 = info.lease.ipv6.map(|(address, _)| address.to_string());
    address4.into_iter().chain(address6)
}

/// A name must not make a field, or a line, of its own.
fn field(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == ',' { '_' } else { c }).collect()
}

/// The answer to `status` of a client. What is counted are the packets inside the tunnel.
pub(crate) fn statistics(now: u64, totals: &PortTotals) -> String {
    let PortTotals { rx_bytes, tx_bytes, .. } = totals;
    format!(
        "OpenVPN STATISTICS\nUpdated,{}\nTUN/TAP read bytes,{tx_bytes}\nTUN/TAP write \
         bytes,{rx_bytes}\nTCP/UDP read bytes,{rx_bytes}\nTCP/UDP write bytes,{tx_bytes}\nAuth \
         read bytes,{rx_bytes}\nEND\n",
        ascii_time(now)
    )
}

/// The answer to `help`.
pub(crate) fn help(is_client: bool) -> String {
    let commands = if is_client { CLIENT_COMMANDS } else { COMMANDS };
    format!("Management Interface for {}\n{commands}END\n", release())
}

const CLIENT_COMMANDS: &str = "\
Commands:
auth-retry [t]         : What follows a refused login: none, interact or nointeract.
bytecount n            : Bytes inside the tunnel, in and out, every n secs (0=off).
cr-response response   : Answer the server's question; base64.
echo [on|off] [N|all]  : Like log, but for what the server says to user interfaces.
env-filter [level]     : Accepted; everything that is known is shown.
exit|quit              : Close this connection.
forget-passwords       : Forget the passwords that were typed.
help                   : Print this message.
hold [on|off|release]  : Show or set the hold flag, or let the client go on.
load-stats             : Bytes in one line.
log [on|off] [N|all]   : New lines of the log, or the last N.
mute [n]               : Leave out what is logged more than n times in a row (0=never).
needok type action     : Nothing asks for a confirmation.
needstr type action    : Nothing asks for a text.
password type p        : Enter a password that was asked for.
pid                    : Show the process id.
pkcs11-id-count        : Always 0; tokens are not chosen here.
proxy type [host port flags] : Answer >PROXY: NONE, HTTP or SOCKS.
remote type [host port] : Answer >REMOTE: ACCEPT, MOD or SKIP.
remote-entry-count     : How many servers the profile names.
remote-entry-get i|all [j] : Those servers, from i to before j.
signal s               : SIGUSR1 connects anew, SIGHUP also forgets passwords, SIGTERM and
                         SIGINT end the client, SIGUSR2 logs the status.
state [on|off] [N|all] : New states, or the last N.
status [n]             : Bytes so far.
username type u        : Enter a user name that was asked for.
verb [n]               : How much is told of the log, 0 to 15.
version [n]            : Show the versions.
";

const COMMANDS: &str = "\
Commands:
bytecount n            : Traffic of every client, every n secs (0=off).
client-auth CID KID    : Let a client in, with lines of options for it (MULTILINE)
client-auth-nt CID KID : Let a client in
client-deny CID KID R [CR] : Refuse a client: reason R for the log, CR for the client
client-kill CID [M]    : End a session with message M (RESTART or HALT)
client-pending-auth CID KID MSG timeout : Tell a client MSG, and decide within timeout
echo [on|off] [N|all]  : Like log, but for echo messages; a server has none.
env-filter [level]     : Accepted; everything that is known is shown.
exit|quit              : Close this connection.
forget-passwords       : Accepted; a server keeps none.
help                   : Print this message.
hold [on|off|release]  : Show or set the hold flag; a server never waits.
kill cn                : End the sessions of a common name.
kill IP:port           : End the session of the client at IP:port.
load-stats             : Clients and bytes in one line.
log [on|off] [N|all]   : New lines of the log, or the last N.
mute [n]               : Leave out what is logged more than n times in a row (0=never).
pid                    : Show the process id.
signal s               : SIGHUP reads the configuration, SIGTERM stops the server,
                         SIGUSR1 lets all clients connect again, SIGUSR2 logs the status.
state [on|off] [N|all] : Like log, but for the state.
status [n]             : Show the clients in format n (1 to 3).
verb [n]               : How much `log` shows: 0 errors, 3 usual, 4 and more details.
version [n]            : Show the version.
";

#[cfg(test)]
mod tests;
