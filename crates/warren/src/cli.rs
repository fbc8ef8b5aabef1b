//! The command line: every command, option and help text.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use config::RunAs;
use ipnet::IpNet;

use crate::connect::ConsoleArgs;

/// Where a server keeps everything it must remember.
const DEFAULT_STATE: &str = "/var/lib/warren";

/// One program that is every VPN server and client a network needs.
///
/// `warren up` as root starts a server with nothing else installed and nothing configured: it makes
/// its own certificates, network, first user and profile, and says where they are. The other
/// commands ask that server, or work on its state folder while it is not running.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_long_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

Results go to stdout, everything else to stderr. RUST_LOG sets the log level of any command,
for example RUST_LOG=debug or RUST_LOG=info,openvpn=trace.")]
pub(crate) struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What applies to every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The server's state folder: users, certificates, keys, and the socket to ask it by
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_STATE)]
    #[arg(help_heading = "Options of every command", display_order = 900)]
    pub(crate) state: PathBuf,
    /// Print results as JSON
    #[arg(long, global = true)]
    #[arg(help_heading = "Options of every command", display_order = 901)]
    pub(crate) json: bool,
}

/// Which configuration file.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigFile {
    /// Configuration file [default: warren.toml in the state folder, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `up`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// Keep all of the file system in sight, to find out whether the sandbox is in the way
    #[arg(long)]
    pub(crate) no_sandbox: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the server and stay in the foreground
    ///
    /// The first start makes the state folder, a certificate authority, keys, a user with a random
    /// password that is shown this once, and a profile for that user. When everything is open it
    /// prints the line `ready`.
    ///
    /// Ctrl-C or SIGTERM tells the peers, ends the sessions and leaves the machine's addresses,
    /// routes, sysctls and packet filter as they were found; a start after a crash repairs what
    /// the crash left behind. SIGHUP, like `warren reload`, applies a changed configuration file.
    ///
    /// Started as root, it gives root up before it opens a port: the state folder goes to another
    /// user (`server.user` in the configuration), only the capabilities for the network stay, and
    /// of the file system only the state folder is left.
    Up(UpArgs),
    /// Say what is wrong with the configuration and what this machine lacks
    ///
    /// Changes nothing. Exit code 0: `warren up` can run here; 1: the machine lacks something that
    /// it needs; 2: the configuration is wrong.
    Check(ConfigFile),
    /// About the configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Add, change and list users
    #[command(subcommand)]
    User(UserCommand),
    /// List and revoke client certificates
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// List and revoke client keys, which profiles hold beside or instead of a certificate
    #[command(subcommand)]
    ClientKey(ClientKeyCommand),
    /// Look for keys in smart cards and other tokens (PKCS #11)
    #[command(subcommand)]
    Pkcs11(Pkcs11Command),
    /// Write a file that connects one device of a user
    ///
    /// Every call makes a new client certificate and a new client key, so that a lost device can
    /// be revoked by itself: give each device a profile of its own. The profile holds private
    /// keys; hand it over by a way that nobody else reads.
    Profile(ProfileArgs),
    /// List live sessions
    Sessions,
    /// End a session, or every session of a user
    ///
    /// The peer is told and may come back; `user disable` and `certificate revoke` keep it out.
    Kick(KickArgs),
    /// Show uptime, doors, counters and what was dropped and why
    Status,
    /// Apply a changed configuration file
    ///
    /// Sessions that the change does not concern stay. A file that is wrong changes nothing, and
    /// the answer says what is wrong with it.
    Reload,
    /// Be a client: connect this machine to a VPN server
    ///
    /// Stays in the foreground until Ctrl-C, SIGTERM or the end of its terminal, and then leaves
    /// addresses, routes and name resolution as they were found. Reconnects by itself when the
    /// connection breaks.
    Connect(ConnectArgs),
}

/// About the configuration file.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a configuration file with every key, its default, its unit and its reason
    Example,
}

/// Tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Pkcs11Command {
    /// List what a library offers: keys and certificates, by names for `pkcs11-id` and `server_key`
    ///
    /// The library runs in a process of its own, which is ended if it does not answer.
    List {
        /// The library that knows the token, as in /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so
        module: PathBuf,
        /// Only the token with this label
        #[arg(long, value_name = "LABEL")]
        token: Option<String>,
        /// Log in first: some tokens show more then
        #[arg(long)]
        login: bool,
        /// Log in with the PIN on the first line of this file, instead of asking for it
        #[arg(long, value_name = "FILE")]
        pin_file: Option<PathBuf>,
    },
}

/// Users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user
    ///
    /// The password is read from the terminal; without a terminal, or if nothing is typed, a random
    /// one is made and printed.
    Add {
        /// 1 to 64 characters: letters, digits, and . _ @ - (not first . or -)
        name: String,
        #[command(flatten)]
        password: PasswordSource,
        /// An address that shall always be this user's; give it twice for IPv4 and IPv6
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// List users
    List,
    /// Show everything about a user
    Show {
        /// Whom
        name: String,
    },
    /// Change what a user has: subnets, options, limits
    ///
    /// What is given takes the place of all of its kind; what is not stays. Live sessions keep
    /// what they began with.
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true)
        .args(["iroute", "push", "session_timeout", "idle_timeout", "clear"]))]
    Set {
        /// Whose
        name: String,
        /// A subnet behind the user's devices, as in 192.168.7.0/24; may be given several times
        #[arg(long, value_name = "NET")]
        iroute: Vec<IpNet>,
        /// An option for the user's OpenVPN clients, as in "route 10.0.0.0 255.0.0.0"; may be
        /// given several times
        #[arg(long, value_name = "OPTION")]
        push: Vec<String>,
        /// End a session after so many seconds
        #[arg(long, value_name = "SECONDS")]
        session_timeout: Option<u64>,
        /// End a session after so many seconds without a packet
        #[arg(long, value_name = "SECONDS")]
        idle_timeout: Option<u64>,
        /// Take away what was set
        #[arg(long, value_name = "WHAT", value_enum)]
        clear: Vec<Setting>,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Change a user's password
    Passwd {
        /// Whose
        name: String,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Ask a user for a one-time code besides the password
    ///
    /// Makes a new secret for an authenticator app and prints it this once, as text and as the URI
    /// that apps read from a QR code. The code is asked for at every login by password; the user's
    /// next profile asks for it beside the password. Certificates alone (`auth = "certificate"`)
    /// are not asked for codes.
    Totp {
        /// Whom
        name: String,
        /// Ask no more
        #[arg(long)]
        off: bool,
    },
    /// Let a user in with a certificate that no CA has signed
    ///
    /// What counts is the SHA-256 of the whole certificate (OpenVPN's `peer-fingerprint`), as
    /// `openssl x509 -fingerprint -sha256 -noout -in FILE` prints it; the door must ask for
    /// certificates. Without an option, lists what the user has. Sessions with a certificate that
    /// is removed end.
    Fingerprint {
        /// Whom
        name: String,
        /// Let the user in with this certificate, too; may be given several times
        #[arg(long, value_name = "SHA256")]
        add: Vec<String>,
        /// Do so no more; may be given several times
        #[arg(long, value_name = "SHA256")]
        remove: Vec<String>,
    },
    /// Let a user in again
    Enable {
        /// Whom
        name: String,
    },
    /// Keep a user out, and end their sessions
    Disable {
        /// Whom
        name: String,
    },
    /// Remove a user, revoke their certificates, and end their sessions
    Remove {
        /// Whom
        name: String,
    },
    /// Fix a user's addresses, or leave them to the pool again
    ///
    /// Live sessions keep the address they have.
    Address {
        /// Whose
        name: String,
        /// The address; give it twice for IPv4 and IPv6, or not at all to leave it to the pool
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// What of a user's settings goes away.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Setting {
    /// Subnets behind the user's devices
    Iroute,
    /// Options for OpenVPN clients
    Push,
    /// The limit on a session's time
    SessionTimeout,
    /// The limit on a session's idleness
    IdleTimeout,
}

/// Where a password comes from.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PasswordSource {
    /// Read the password from the first line of stdin
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

/// Certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertificateCommand {
    /// List the client certificates that profiles were written with
    List {
        /// Only this user's
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Refuse a certificate from now on, and end the sessions that it opened
    Revoke {
        /// Its serial number, as `certificate list` prints it
        serial: String,
    },
}

/// Client keys.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientKeyCommand {
    /// List the client keys that profiles were written with
    List {
        /// Only this user's
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Refuse a client key from now on, and end the sessions that came with it
    ///
    /// Its holder does not get as far as TLS any more, and gets no answer. The certificate of the
    /// same profile is revoked, too.
    Revoke {
        /// Its name, as `client-key list` prints it
        id: String,
    },
}

/// `profile`.
#[derive(Args, Debug)]
pub(crate) struct ProfileArgs {
    /// For whom
    pub(crate) name: String,
    /// For which door
    #[arg(long, value_enum)]
    pub(crate) door: Door,
    /// For which program [default: OpenVPN from 2.5 on, and OpenVPN Connect; with --qr: connect]
    #[arg(long = "for", value_name = "PROGRAM", value_enum)]
    pub(crate) client: Option<ClientProgram>,
    /// Where the client finds the server
    ///
    /// [default: `remote` of the door's configuration, or else the address of this machine that
    /// leads to the internet]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) remote: Option<String>,
    /// What the client carries
    #[arg(long, value_enum, default_value_t = Device::Tun)]
    pub(crate) dev: Device,
    /// Write to this file, mode 0600, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Draw a QR code for a phone on the terminal instead of printing the profile
    ///
    /// Without URL it holds the profile itself, private keys included; it takes 185 columns, and
    /// an app that reads text from QR codes to save it as a file. With an https:// URL it holds
    /// that alone, and a phone with OpenVPN Connect fetches the profile from there: put the file
    /// that --out writes at that address.
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true)]
    pub(crate) qr: Option<Option<String>>,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

/// The programs that have profiles of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ClientProgram {
    /// OpenVPN 2.4, which has no key of its own but the one that all share
    #[value(name = "2.4")]
    OpenVpn24,
    /// OpenVPN 2.5
    #[value(name = "2.5")]
    OpenVpn25,
    /// OpenVPN 2.6 and later
    #[value(name = "2.6")]
    OpenVpn26,
    /// OpenVPN Connect, for phones and computers
    #[value(name = "connect")]
    Connect,
}

impl ClientProgram {
    /// Its name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenVpn24 => "2.4",
            Self::OpenVpn25 => "2.5",
            Self::OpenVpn26 => "2.6",
            Self::Connect => "connect",
        }
    }
}

/// The protocols that have profiles.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Door {
    /// A .ovpn file with everything in it
    Openvpn,
}

impl Door {
    /// Its name in the configuration and the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Openvpn => "openvpn",
        }
    }
}

/// What a client's device carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Device {
    /// IP packets
    Tun,
    /// Ethernet frames
    Tap,
}

/// `kick`.
#[derive(Args, Debug)]
pub(crate) struct KickArgs {
    /// A session's id, or a user's name
    #[arg(value_name = "ID|USER")]
    pub(crate) target: String,
}

/// `connect`.
#[derive(Args, Debug)]
pub(crate) struct ConnectArgs {
    /// The profile: an OpenVPN client configuration (.ovpn), or either end of a point-to-point link
    pub(crate) file: PathBuf,
    /// Read user and password from the first two lines of this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "password_stdin"])]
    pub(crate) auth_user_pass: Option<PathBuf>,
    /// The user to log in as, if the server asks for one
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Read the password from the first line of stdin
    #[arg(long, requires = "user")]
    pub(crate) password_stdin: bool,
    /// Read the PIN of the profile's token (pkcs11-id) from the first line of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
    /// Whom to turn into if started as root: an account; "auto" for the account warren, or else a
    /// number that no account has; "root" for nobody else
    #[arg(long, value_name = "ACCOUNT", default_value = "auto")]
    pub(crate) run_as: RunAs,
    /// Keep all of the file system in sight, to find out whether the sandbox is in the way
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    #[command(flatten)]
    pub(crate) console: ConsoleArgs,
}

#[cfg(test)]
mod tests;
