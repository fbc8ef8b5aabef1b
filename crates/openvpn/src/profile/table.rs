//! Every directive of OpenVPN, and what becomes of it in a client profile: one line each.
//!
//! `docs/openvpn-directives.md` is generated from this table (see `tests/directives.rs`). To
//! support one more directive, obey it in `directive.rs` and change the first word of its line.

use std::fmt::Write as _;

/// One directive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Directive {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What becomes of it.
    pub standing: Standing,
    /// Which forms of it, why not, or what to use instead; may be empty.
    pub note: &'static str,
}

/// What becomes of a directive in a client profile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is obeyed.
    Obeyed,
    /// It changes nothing: what it asks for is done anyway, or means nothing here.
    Moot,
    /// It is not obeyed, which harms nobody but is noted.
    Ignored,
    /// It is refused, unless the profile itself says that it may be unknown.
    Unsupported,
    /// It is always refused: a profile must not be able to ask for that.
    Dangerous,
    /// It is refused: only a server has it.
    Server,
    /// It is refused: it is an order to the program, not a setting.
    Command,
}

impl Standing {
    /// In a word or two, for the list of directives.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Obeyed => "supported",
            Self::Moot => "nothing to do",
            Self::Ignored => "ignored, noted",
            Self::Unsupported => "refused: not supported",
            Self::Dangerous => "refused: dangerous",
            Self::Server => "refused: a server's",
            Self::Command => "refused: a command",
        }
    }
}

/// The directive of this name.
pub(crate) fn find(name: &str) -> Option<&'static Directive> {
    let at = DIRECTIVES.binary_search_by_key(&name, |directive| directive.name).ok()?;
    DIRECTIVES.get(at)
}

/// The page of the documentation that lists them all, in Markdown.
#[must_use]
pub fn directives_page() -> String {
    let mut page = String::from(HEAD);
    for Directive { name, standing, note } in DIRECTIVES {
        let note = note.replace('|', "\\|");
        writeln!(page, "| `{name}` | {} | {note} |", standing.word())
            .expect("writing into a String does not fail");
    }
    page
}

const HEAD: &str = "\
# OpenVPN's directives

What `warren connect` does with every directive in a profile. The list is generated from the table
that the program itself uses (`crates/openvpn/src/profile/table.rs`), and a test fails if the two
differ.

- **supported**: obeyed as OpenVPN obeys it, in the forms named.
- **nothing to do**: what it asks for is done anyway, or means nothing here. Accepted silently.
- **ignored, noted**: not obeyed, which harms nobody; a note says so on the terminal.
- **refused**: the profile is not used; the message names the line and the directive. One that is
  merely not supported is noted instead if the profile says `ignore-unknown-option NAME` or
  `setenv opt NAME …`; one that is dangerous never is.

For a server's directives, the last column names what takes their place in Warren, if anything does.

| directive | in a profile | |
|---|---|---|
";

const fn obeyed(name: &'static str, note: &'static str) -> Directive {
    Directive { name, standing: Standing::Obeyed, note }
}

const fn moot(name: &'static str, note: &'static str) -> Directive {
    Directive { name, standing: Standing::Moot, note }
}

const fn ignored(name: &'static str, note: &'static str) -> Directive {
    Directive { name, standing: Standing::Ignored, note }
}

const fn unsupported(name: &'static str, note: &'static str) -> Directive {
    Directive { name, standing: Standing::Unsupported, note }
}

const fn dangerous(name: &'static str, note: &'static str) -> Directive {
    Directive { name, standing: Standing::Dangerous, note }
}

const fn server(name: &'static str, note: &'static str) -> Directive {
    Directive { name, standing: Standing::Server, note }
}

const fn command(name: &'static str) -> Directive {
    Directive { name, standing: Standing::Command, note: "" }
}

/// All of them, by name.
pub const DIRECTIVES: &[Directive] = &[
    obeyed("allow-compression", "with a warning; nothing that is sent is ever compressed"),
    obeyed("allow-deprecated-insecure-static-crypto", "lets secret be used, with a warning"),
    moot("allow-nonadmin", "Windows only, and obsolete there"),
    unsupported("allow-pull-fqdn", "names in pushed routes are not looked up"),
    moot("allow-recursive-routing", "packets to the server never go through its own tunnel"),
    obeyed("askpass", "asked for, or the first line of a file"),
    obeyed("auth", "SHA1, SHA256 or SHA512"),
    server("auth-gen-token", ""),
    server("auth-gen-token-secret", ""),
    obeyed("auth-nocache", "asked for again when it is needed again"),
    obeyed("auth-retry", "none, nointeract or interact"),
    unsupported("auth-token", "tokens are taken from the server only"),
    unsupported("auth-token-user", "tokens are taken from the server only"),
    obeyed("auth-user-pass", "asked for, from a file, or inline"),
    server("auth-user-pass-optional", ""),
    server("auth-user-pass-verify", "users are in the user list: `warren user`"),
    server("bcast-buffers", ""),
    moot("bind", "see lport"),
    unsupported("bind-dev", "the route to the server decides on the interface"),
    obeyed("block-ipv6", ""),
    obeyed(
        "block-outside-dns",
        "ports 53 and 853 are closed but through the tunnel, where there is nf_tables",
    ),
    obeyed("ca", "PEM, inline or a file"),
    unsupported("capath", "use ca"),
    server("ccd-exclusive", ""),
    unsupported("cd", "paths are relative to the profile's folder"),
    obeyed("cert", "PEM, inline or a file"),
    ignored("chroot", "how Warren runs is not the profile's business"),
    obeyed("cipher", "as data-ciphers-fallback"),
    obeyed("client", "the server hands out addresses and options"),
    server("client-cert-not-required", "`doors.openvpn.auth = \"password\"`"),
    server("client-config-dir", "`warren user address`"),
    server("client-connect", "no programs are run"),
    server("client-crresponse", "no programs are run"),
    server("client-disconnect", "no programs are run"),
    unsupported("client-nat", "addresses inside the tunnel are not translated"),
    server("client-to-client", "`network.client_to_client`"),
    obeyed(
        "comp-lzo",
        "the framing, with a warning: what arrives is expanded, nothing is compressed",
    ),
    moot("comp-noadapt", "nothing is compressed"),
    obeyed("compat-mode", "before 2.6.0: nothing newer is offered"),
    server("compat-names", ""),
    obeyed("compress", "as comp-lzo: lzo, lz4, lz4-v2, stub, stub-v2, migrate"),
    command("config"),
    server("connect-freq", "`doors.openvpn.handshakes_per_second`"),
    server("connect-freq-initial", "`doors.openvpn.handshakes_per_second`"),
    obeyed("connect-retry", "first and longest wait"),
    obeyed("connect-retry-max", ""),
    obeyed("connect-timeout", "as server-poll-timeout"),
    obeyed("connection", "a block: remote, proto and port inside hold for it alone"),
    obeyed("crl-verify", "PEM, inline or a file; or a folder and dir, read at the start"),
    unsupported("cryptoapicert", "Windows only"),
    moot("daemon", "how Warren runs is not the profile's business"),
    obeyed("data-ciphers", "AES-GCM, ChaCha20-Poly1305, AES-CBC; ?NAME and DEFAULT as in OpenVPN"),
    obeyed("data-ciphers-fallback", "for servers that do not negotiate"),
    obeyed("dev", "tun, tap, or a device's name"),
    unsupported("dev-node", "Windows and macOS only"),
    obeyed("dev-type", "tun or tap"),
    moot("dh", "a server's, and long obsolete"),
    unsupported("dhcp-internal", "Windows only, and OpenVPN's own"),
    obeyed(
        "dhcp-option",
        "DNS, DNS6, DOMAIN, DOMAIN-SEARCH, DOMAIN-ROUTE, ADAPTER_DOMAIN_SUFFIX; others are noted",
    ),
    moot("dhcp-pre-release", "Windows only"),
    moot("dhcp-release", "Windows only"),
    moot("dhcp-renew", "Windows only"),
    server("disable", "`warren user disable`"),
    moot("disable-dco", "packets are handled in this process"),
    moot("disable-occ", "options strings are compared by nobody"),
    obeyed(
        "dns",
        "server and search-domains; split domains, DNSSEC and DoT with systemd-resolved only; no DoH, no other ports",
    ),
    dangerous("dns-updown", "profiles run no programs here; remove the line"),
    dangerous("down", "profiles run no programs here; remove the line"),
    dangerous("down-pre", "profiles run no programs here; remove the line"),
    server("duplicate-cn", "every device has a session of its own"),
    moot("ecdh-curve", "TLS chooses among X25519, P-256 and P-384"),
    moot("echo", "for OpenVPN's user interfaces"),
    dangerous("engine", "profiles load no code here; remove the line"),
    moot("errors-to-stderr", "errors always go there"),
    moot("explicit-exit-notify", "the server is always told"),
    obeyed("extra-certs", "certificates between ours and the authority"),
    moot("fast-io", ""),
    obeyed(
        "float",
        "with a static key, and of a peer that calls; whom we call is where the profile says",
    ),
    moot("force-tls-key-material-export", "keys are exported wherever the server can"),
    obeyed("fragment", "SIZE, SIZE mtu; over UDP, at both ends"),
    command("genkey"),
    dangerous("gremlin", "it damages packets on purpose"),
    ignored("group", "how Warren runs is not the profile's business"),
    obeyed("hand-window", ""),
    server("hash-size", ""),
    command("help"),
    obeyed(
        "http-proxy",
        "HOST PORT [FILE, auto or auto-nct] [none, basic or digest]; a password is sent only to a proxy that asks; no NTLM",
    ),
    obeyed("http-proxy-option", "VERSION, AGENT, CUSTOM-HEADER"),
    unsupported("http-proxy-override", "the profile names its proxy"),
    moot("http-proxy-retry", "a proxy that fails is tried again, as a server is"),
    obeyed("http-proxy-timeout", ""),
    obeyed("http-proxy-user-pass", "inline, or a file"),
    obeyed("ifconfig", "between two peers: LOCAL REMOTE"),
    obeyed("ifconfig-ipv6", "between two peers: LOCAL/LENGTH REMOTE"),
    server("ifconfig-ipv6-pool", "`network.ipv6`"),
    server("ifconfig-ipv6-push", "`warren user address`"),
    unsupported("ifconfig-noexec", "the device's addresses are Warren's business"),
    moot("ifconfig-nowarn", ""),
    server("ifconfig-pool", "`network.ipv4`"),
    server("ifconfig-pool-persist", "leases are always kept"),
    server("ifconfig-push", "`warren user address`"),
    server("ifconfig-push-constraint", "fixed addresses must be in the network"),
    obeyed("ignore-unknown-option", "what it names is noted instead of refused"),
    obeyed("inactive", "then it ends"),
    moot("ip-remote-hint", "OpenVPN ignores it, too"),
    moot("ip-win32", "Windows only"),
    dangerous("ipchange", "profiles run no programs here; remove the line"),
    dangerous("iproute", "profiles run no programs here; remove the line"),
    server("iroute", ""),
    server("iroute-ipv6", ""),
    obeyed("keepalive", "as ping and ping-restart"),
    obeyed("key", "PEM, inline or a file; encrypted as PKCS #8 with AES or 3DES, or not at all"),
    moot("key-derivation", "negotiated"),
    obeyed("key-direction", "1"),
    moot("key-method", "only method 2 is left"),
    dangerous("keying-material-exporter", "it hands out keys of the session"),
    server("learn-address", "no programs are run"),
    moot("link-mtu", "sizes follow from tun-mtu"),
    unsupported("lladdr", "an Ethernet device's"),
    unsupported("local", "the route to the server decides on the address"),
    moot("log", "Warren's log is its own"),
    moot("log-append", "Warren's log is its own"),
    obeyed("lport", ""),
    moot("machine-readable-output", ""),
    obeyed(
        "management",
        "SOCKET unix [FILE], or HOST PORT [FILE]; beyond this machine only with a password",
    ),
    obeyed("management-client", "to a unix socket or this machine"),
    server("management-client-auth", ""),
    obeyed("management-client-group", ""),
    obeyed("management-client-user", ""),
    unsupported(
        "management-external-cert",
        "a certificate is in the profile or beside it; use cert",
    ),
    unsupported("management-external-key", "a key is in the profile or beside it; use key"),
    obeyed("management-forget-disconnect", ""),
    obeyed("management-hold", ""),
    obeyed("management-log-cache", "1 to 10000 lines"),
    obeyed("management-query-passwords", ""),
    obeyed("management-query-proxy", ""),
    obeyed("management-query-remote", ""),
    obeyed("management-signal", ""),
    obeyed("management-up-down", ""),
    unsupported("mark", "Warren marks its own packets"),
    server("max-clients", "`doors.openvpn.max_sessions`"),
    moot("max-packet-size", "control packets are below 1250 bytes"),
    moot("max-routes", "bounded by Warren itself"),
    server("max-routes-per-client", ""),
    command("mktun"),
    moot("mlock", "memory is Warren's business"),
    obeyed("mode", "p2p"),
    moot("msg-channel", "Windows only"),
    obeyed("mssfix", "SIZE, SIZE mtu, SIZE fixed, 0; without it, the tunnel's mtu is the limit"),
    moot("mtu-disc", "the kernel's default"),
    moot("mtu-dynamic", "OpenVPN's old name of fragment without a size"),
    moot("mtu-test", ""),
    moot("multihome", "the kernel chooses the address"),
    moot("mute", ""),
    moot("mute-replay-warnings", "replays are counted, not reported"),
    obeyed("ncp-ciphers", "as data-ciphers"),
    moot("nice", "how Warren runs is not the profile's business"),
    dangerous("no-iv", "it would weaken the encryption"),
    dangerous("no-name-remapping", "names are never handed to programs"),
    dangerous("no-replay", "it would switch off replay protection"),
    obeyed("nobind", "between two peers; a client takes a free port unless lport asks for one"),
    unsupported("ns-cert-type", "obsolete; use remote-cert-tls"),
    moot("opt-verify", "options strings are compared by nobody"),
    server("override-username", ""),
    unsupported("parameter", "OpenVPN's own"),
    ignored("passtos", "the outer packets' traffic class is not copied"),
    moot("pause-exit", "Windows only"),
    obeyed("peer-fingerprint", "SHA-256"),
    moot("peer-id", "negotiated"),
    moot("persist-key", "keys stay in memory between attempts"),
    moot("persist-local-ip", ""),
    moot("persist-remote-ip", ""),
    moot("persist-tun", "the device stays between attempts"),
    obeyed("ping", ""),
    obeyed("ping-exit", ""),
    obeyed("ping-restart", ""),
    moot("ping-timer-rem", ""),
    obeyed("pkcs11-cert-private", ""),
    obeyed("pkcs11-id", "a PKCS #11 URI, or what --show-pkcs11-ids prints"),
    unsupported("pkcs11-id-management", "nobody asks for the key while connecting; use pkcs11-id"),
    obeyed("pkcs11-pin-cache", ""),
    obeyed("pkcs11-private-mode", "0, or a mask with C_Sign (1)"),
    obeyed("pkcs11-protected-authentication", ""),
    obeyed(
        "pkcs11-providers",
        "absolute paths; loaded by a process of their own, and as root only if root alone can change them",
    ),
    obeyed("pkcs12", "a file, or inline as base64; its CA is trusted unless there is a ca"),
    dangerous("plugin", "profiles load no code here; remove the line"),
    obeyed("port", "as rport"),
    server("port-share", ""),
    moot("preresolve", "names are looked up at every attempt"),
    moot("prng", ""),
    obeyed("proto", "udp and tcp, also tcp-client; with 4 or 6 for one family only"),
    unsupported("proto-force", "remotes are tried in the profile's order"),
    moot("protocol-flags", "negotiated"),
    moot("providers", "for OpenSSL"),
    obeyed("pull", "with tls-client it makes a client"),
    obeyed("pull-filter", "accept, ignore, reject"),
    server("push", ""),
    server("push-continuation", "long pushes are split by themselves"),
    moot("push-peer-info", "always sent"),
    server("push-remove", ""),
    server("push-reset", ""),
    moot("rcvbuf", "chosen by Warren"),
    moot("rdns-internal", "Windows only"),
    obeyed("redirect-gateway", "every flag but bypass-dns; def1 is how it is always done"),
    obeyed("redirect-private", ""),
    moot("register-dns", "Windows only"),
    moot("remap-usr1", ""),
    obeyed("remote", "HOST [PORT] [PROTO]"),
    obeyed("remote-cert-eku", "TLS Web Server Authentication"),
    obeyed("remote-cert-ku", ""),
    obeyed("remote-cert-tls", "server"),
    obeyed("remote-random", ""),
    moot("remote-random-hostname", "names are looked up afresh at every attempt"),
    moot("reneg-bytes", "keys are renewed long before they wear out"),
    moot("reneg-pkts", "keys are renewed long before they wear out"),
    obeyed("reneg-sec", ""),
    moot("replay-persist", "keys are used once; with secret, replays are known while Warren runs"),
    moot("replay-window", "always as wide as needed"),
    moot("resolv-retry", "names are looked up at every attempt"),
    command("rmtun"),
    obeyed(
        "route",
        "NETWORK [NETMASK [GATEWAY [METRIC]]], as addresses; gateways vpn_gateway, net_gateway, remote_host, or one in the tunnel",
    ),
    moot("route-delay", "routes follow the device at once"),
    obeyed("route-gateway", "an address"),
    obeyed("route-ipv6", "PREFIX/LENGTH [GATEWAY [METRIC]]"),
    obeyed("route-ipv6-gateway", ""),
    moot("route-method", "Windows only"),
    obeyed("route-metric", ""),
    obeyed("route-noexec", ""),
    obeyed("route-nopull", "neither routes nor resolvers"),
    dangerous("route-pre-down", "profiles run no programs here; remove the line"),
    unsupported("route-table", "Warren has a table of its own"),
    dangerous("route-up", "profiles run no programs here; remove the line"),
    obeyed("rport", ""),
    dangerous("script-security", "profiles run no programs here; remove the line"),
    obeyed(
        "secret",
        "with cipher AES-256-CBC or AES-128-CBC, and allow-deprecated-insecure-static-crypto",
    ),
    server("server", "`network.ipv4`"),
    server("server-bridge", ""),
    server("server-ipv6", "`network.ipv6`"),
    obeyed("server-poll-timeout", "how long a server is given to answer"),
    moot("service", "Windows only"),
    obeyed("session-timeout", "then it ends"),
    ignored("setcon", "how Warren runs is not the profile's business"),
    obeyed("setenv", "`opt`: what is not known here is noted; other variables go nowhere"),
    moot("setenv-safe", "variables go nowhere"),
    ignored("shaper", "the rate is not limited here"),
    command("show-adapters"),
    command("show-ciphers"),
    command("show-curves"),
    command("show-digests"),
    command("show-engines"),
    command("show-gateway"),
    command("show-groups"),
    command("show-net"),
    moot("show-net-up", "Windows only"),
    command("show-pkcs11-ids"),
    command("show-tls"),
    command("show-valid-subnets"),
    moot("single-session", ""),
    moot("sndbuf", "chosen by Warren"),
    ignored("socket-flags", "chosen by Warren"),
    obeyed("socks-proxy", "HOST [PORT] [FILE]; TCP, and UDP where the proxy relays it"),
    moot("socks-proxy-retry", "a proxy that fails is tried again, as a server is"),
    server("stale-routes-check", ""),
    obeyed("static-challenge", "TEXT ECHO [scrv1 or concat]"),
    moot("status", "`warren sessions`"),
    moot("status-version", ""),
    moot("suppress-timestamps", ""),
    moot("syslog", "how Warren runs is not the profile's business"),
    moot("tap-sleep", "Windows only"),
    moot("tcp-nodelay", ""),
    server("tcp-queue-limit", ""),
    command("test-crypto"),
    obeyed("tls-auth", "inline or a file, with a direction"),
    obeyed("tls-cert-profile", "preferred or suiteb; weak certificates are always refused"),
    ignored("tls-cipher", "TLS takes its own choice, all of it strong"),
    ignored("tls-ciphersuites", "TLS takes its own choice, all of it strong"),
    obeyed("tls-client", "without pull, one end of a link between two peers"),
    obeyed("tls-crypt", "inline or a file"),
    obeyed("tls-crypt-v2", "a client key, inline or a file"),
    server("tls-crypt-v2-max-age", "`doors.openvpn.client_key_max_age`"),
    server("tls-crypt-v2-verify", "no programs are run"),
    moot("tls-exit", ""),
    dangerous("tls-export-cert", "profiles write no files here; remove the line"),
    moot("tls-groups", "TLS chooses among X25519, P-256 and P-384"),
    unsupported("tls-remote", "obsolete; use verify-x509-name"),
    obeyed("tls-server", "the other end of such a link: waits to be called"),
    moot("tls-timeout", "retransmission adapts by itself"),
    dangerous("tls-verify", "profiles run no programs here; remove the line"),
    obeyed("tls-version-max", "1.2 or 1.3"),
    obeyed("tls-version-min", "1.2 or 1.3"),
    moot("tmp-dir", "no files are written"),
    moot("topology", "the server's push decides"),
    moot("tran-window", "a minute"),
    moot("tun-ipv6", "IPv6 is always carried"),
    obeyed("tun-mtu", ""),
    moot("tun-mtu-extra", "Ethernet devices only"),
    moot("tun-mtu-max", "sizes are bounded by Warren itself"),
    moot("txqueuelen", ""),
    moot("udp-mtu", "OpenVPN's old name of link-mtu"),
    dangerous("up", "profiles run no programs here; remove the line"),
    moot("up-delay", ""),
    dangerous("up-restart", "profiles run no programs here; remove the line"),
    ignored("user", "how Warren runs is not the profile's business"),
    server("username-as-common-name", "users are known by one name everywhere"),
    moot("verb", "Warren's log has its own level"),
    server("verify-client-cert", "`doors.openvpn.auth`"),
    obeyed("verify-hash", "SHA256 of the certificate that signed the server's"),
    obeyed("verify-x509-name", "subject, name or name-prefix"),
    command("version"),
    unsupported("vlan-accept", "an Ethernet server's"),
    unsupported("vlan-pvid", "an Ethernet server's"),
    unsupported("vlan-tagging", "an Ethernet server's"),
    moot("win-sys", "Windows only"),
    moot("windows-driver", "Windows only"),
    moot("writepid", "how Warren runs is not the profile's business"),
    moot("x509-track", "variables go nowhere"),
    obeyed("x509-username-field", "what verify-x509-name is about; CN unless set"),
];
