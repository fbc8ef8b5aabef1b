//! Every key there is: its type, default (as TOML), unit and reason.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::management::{FilePath, ManagementAddress};
use crate::outside::{NameRuleText, UserNameText};
use crate::table::{List, Section, table};
use crate::text::{
    AuthMode, Cipher, Compression, ControlWrap, CookiePolicy, Digest, Domain, Group, Interface,
    Ipv4Pool, Ipv6Pool, Level, NetworkName, OptionalRemote, OptionalTarget, PushOption, RunAs,
    TlsVersion, Whole,
};
use crate::token::TokenKeyUri;

/// All tables, in the order of the example file.
pub(crate) const SECTIONS: &[&Section] =
    &[&NetworkTable::SECTION, &OpenVpnTable::SECTION, &LogTable::SECTION, &ServerTable::SECTION];

table! {
    ["network"]
    "The virtual network that every session joins, whichever door it came through."
    NetworkTable {
        name: NetworkName = r#""warren""#, "",
            "What the network is called in profiles, logs and the session list.";
        ipv4: Ipv4Pool = r#""10.86.0.0/16""#, "",
            "Members get their IPv4 addresses from here; the first one is the server's own. Choose \
            a range that neither the members' homes nor the networks behind this server use.";
        ipv6: Ipv6Pool = r#""auto""#, "",
            "Members get their IPv6 addresses from here. \"auto\" takes a random private /64, made \
            at the first start and kept.";
        dns: List<IpAddr> = r#"["9.9.9.9", "1.1.1.1"]"#, "",
            "Resolvers that members are told to use, best first. Once all their traffic goes \
            through the tunnel, the resolver of the coffee house's network is no longer within \
            reach; so there must be one. [] leaves the members' own.";
        search: List<Domain> = "[]", "",
            "Domains that members try for names without a dot.";
        routes: List<IpNet> = "[]", "",
            "Networks behind this server that members reach through the tunnel, such as the \
            office's \"192.168.7.0/24\". Needed only where redirect_gateway is false.";
        redirect_gateway: bool = "true", "",
            "Members send everything through the tunnel. With false, only what is for the network \
            itself and for `routes`.";
        client_to_client: bool = "true", "",
            "Members reach each other.";
        relay_broadcast: bool = "true", "",
            "What a member sends to everybody reaches everybody, whatever door they came through: \
            broadcast, and the groups of mDNS, SSDP and LLMNR, by which games, printers and \
            players are found. Limited in number. Without client_to_client, nothing is relayed.";
        relay_groups: List<Group> = "[]", "",
            "Multicast groups that are relayed as well, such as a game's \"239.1.2.3\".";
        bridge: Interface = r#""""#, "",
            "An interface of this host, such as \"eth1\", or a bridge it has already, such as \
            \"br0\". Members that carry Ethernet (profiles with --dev tap) are on the network behind \
            it as if plugged in: frames of every kind pass both ways, and its DHCP server and IPv6 \
            routers give addresses to members that ask, besides those of the pools above. An \
            interface goes into a bridge of Warren's own, so this host must not have an address \
            there; one that has belongs into a bridge of the system's first. With mtu = 1500, \
            full-sized frames of that network reach members, too. Wireless interfaces cannot be \
            bridged. A member that is on that network itself is kept off the segment. Empty for \
            none.";
        bridge_networks: List<IpNet> = "[]", "",
            "Networks of the hosts behind `bridge`, such as \"192.168.7.0/24\": members that carry \
            packets and those hosts reach each other directly, without NAT. Either `ipv4` is a \
            part of such a network that its DHCP server leaves out, such as \
            \"192.168.7.192/26\", and the hosts need nothing; or they have a route to the pools on \
            that link. [] leaves it to this host's own routes and NAT.";
        nat: bool = "true", "",
            "Members appear to the outside under this server's address (masquerading). With \
            false, the networks outside need a route back to the pools above.";
        mtu: Whole<576, 9000> = "1420", "bytes",
            "The largest IP packet inside the tunnel. 1420 fits into the 1500 of nearly every \
            path with the AEAD ciphers, over IPv4 and IPv6; IPv6 inside needs at least 1280.";
    }
}

table! {
    ["doors.openvpn"]
    "OpenVPN over UDP and TCP, for unmodified OpenVPN clients. Tested with 2.5, 2.6, 2.7 and \
    OpenVPN 3, which is inside Connect; profiles are also written for 2.4."
    OpenVpnTable {
        enabled: bool = "true", "",
            "Open this door.";
        listen: List<SocketAddr> = r#"["0.0.0.0:1194", "[::]:1194"]"#, "",
            "Addresses and UDP ports to listen on.";
        listen_tcp: List<SocketAddr> = r#"["0.0.0.0:1194", "[::]:1194"]"#, "",
            "Addresses and TCP ports to listen on, for members behind firewalls that let no UDP \
            through; slower than UDP wherever packets get lost. [] for none.";
        port_share: OptionalTarget = r#""""#, "",
            "What does not begin like OpenVPN on a TCP port is handed to this server, as in \
            \"127.0.0.1:8443\" for the web server that had port 443 before. Empty closes such \
            connections.";
        remote: OptionalRemote = r#""""#, "",
            "What profiles tell members to connect to: this server's public name or address, with \
            a port (for UDP and TCP alike) if the one outside differs, as in \
            \"vpn.example.org:443\". Empty takes this machine's own address, which is right only \
            where no NAT is in front of it.";
        auth: AuthMode = r#""both""#, "",
            "What a member must prove: that it holds the certificate in its profile, that it knows \
            the password, or both.";
        client_ca: FilePath = r#""""#, "",
            "Certificates of these CAs (PEM, one or several, with authorities between) let members \
            in besides this server's own, if the user list has a user of that name. Read again \
            when the file changes. Where the server is started as root, this is believed only in \
            a file that nobody but root can change or replace.";
        crl: FilePath = r#""""#, "",
            "Revocation lists of the CAs in `client_ca` (PEM), or a folder of such files. Each of \
            those CAs must have one, every certificate of a chain is looked up, and where a list \
            is out of date or cannot be read, nobody of those CAs gets in. Read again when it \
            changes; sessions of what was revoked end.";
        username_field: UserNameText = r#""CN""#, "",
            "What in a certificate of `client_ca` is the user's name, as OpenVPN's \
            x509-username-field: \"emailAddress\", \"UID\", \"ext:subjectAltName\" (a mail \
            address there), \"serialNumber\", or several with spaces between.";
        verify_x509_name: NameRuleText = r#""""#, "",
            "Of the certificates of `client_ca`, only these, as OpenVPN writes it: \"office- \
            name-prefix\" for user names that begin so, \"anna name\" for one, or a whole subject \
            as in \"C=DE, O=Burrow, CN=anna\".";
        remote_cert_tls: bool = "true", "",
            "Certificates of `client_ca` must say that they are for clients (extended key usage) \
            and for signing (key usage). With false they may leave that open, as those of old \
            easy-rsa do; one that names other purposes is refused all the same.";
        control: ControlWrap = r#""tls-crypt-v2""#, "",
            "How handshakes are wrapped before anyone is authenticated. tls-crypt-v2 gives every \
            profile a key of its own, which can be revoked; tls-crypt (OpenVPN 2.4) one key to all \
            of them; tls-auth is that without hiding anything, for clients still older. Profiles \
            written with tls-crypt-v2 stay good whatever stands here, and so do those with \
            tls-crypt after a change to tls-crypt-v2; others must be written again.";
        shared_key: bool = "true", "",
            "Let profiles in that share one key (tls-crypt, tls-auth), too. With false, nobody \
            gets as far as TLS without a key of their own that is not revoked.";
        client_key_max_age: Whole<0, 36_500> = "0", "days",
            "Keys of profiles (tls-crypt-v2) that are older than this open no door any more, nor \
            do those whose age is unknown. 0 lets them live as long as their certificates.";
        tls_crypt_v2_cookie: CookiePolicy = r#""preferred""#, "",
            "Whether a client with a key of its own must prove that it is where it says before \
            anything is kept about it. OpenVPN 2.5 cannot: \"preferred\" lets a bounded number of \
            such clients begin anyway, \"required\" keeps them out.";
        server_key: TokenKeyUri = r#""""#, "",
            "The server's private key is in a token, and stays there: its PKCS #11 URI, as in \
            \"pkcs11:token=vpn;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=\
            /etc/warren/pin\". RSA, P-256 or P-384; `warren pkcs11 list` shows what there is. Its \
            certificate comes from the server's own authority, so that profiles stay as they are. \
            Where the server is started as root, this is believed only in a file that nobody but \
            root can change or replace.";
        ciphers: List<Cipher> = r#"["AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305"]"#, "",
            "Data ciphers, best first; the first that the client knows is taken. Add \
            \"AES-256-CBC\" or \"AES-128-CBC\" only for clients that know nothing better.";
        digest: Digest = r#""SHA256""#, "",
            "The hash for tls-auth and for the CBC ciphers; the others need none.";
        tls_min: TlsVersion = r#""1.2""#, "",
            "The oldest version of TLS that is accepted.";
        auth_token: bool = "true", "",
            "Who has shown the password gets a token that takes its place when keys are renewed \
            and when the connection breaks, so that clients need not keep the password, and \
            nobody is asked for a code every hour. A token is worth nothing once the user is \
            disabled or removed, or the password changes.";
        auth_token_lifetime: Whole<0, 31_536_000> = "0", "seconds",
            "So long after the password was shown, it has to be shown again. 0: never, as long \
            as the token is renewed.";
        auth_token_renewal: Whole<5, 604_800> = "3600", "seconds",
            "A token that has not been renewed for twice as long is worth nothing: this is how \
            long a device may sleep without its user being asked again. Tokens are renewed with \
            the keys, so twice this must be more than `renegotiate`, which it is unless set.";
        compression: Compression = r#""refuse""#, "",
            "What happens to clients whose profiles have comp-lzo or compress. \"refuse\" turns \
            them away; \"decompress\" lets them in, and tells them to stop where they can. \
            Nothing that this server sends is ever compressed: compression gives away what is \
            encrypted.";
        fragment: Whole<0, 65_000> = "0", "bytes",
            "Packets are cut so that no datagram's payload is larger (at least 68), and every \
            client must have the same `fragment` in its profile. Only for paths that lose large \
            datagrams and clients that need it; 0 is off.";
        mssfix: Whole<0, 65_000> = "0", "bytes",
            "TCP inside the tunnel is held to segments whose datagrams have payloads no larger \
            than this (at least 68). 0 takes `fragment`, or what the tunnel's mtu allows.";
        renegotiate: Whole<0, 604_800> = "3600", "seconds",
            "Fresh keys are made this often. 0 leaves it to the client; otherwise at least 5.";
        ping: Whole<1, 3600> = "10", "seconds",
            "Both ends send a sign of life after this much silence. Keeps NAT routers on the way \
            from forgetting the session; some forget after 30.";
        ping_restart: Whole<2, 86_400> = "60", "seconds",
            "A client that hears nothing for this long connects again; the server gives it up \
            after twice that. Must be more than `ping`.";
        push: List<PushOption> = "[]", "",
            "More options for every client, as OpenVPN writes them: \"route 10.0.0.0 255.0.0.0 \
            vpn_gateway 50\", \"block-outside-dns\", \"inactive 3600\". What the server decides \
            itself (addresses, ciphers) is refused. `warren user set` has options for one user.";
        handshake_timeout: Whole<5, 600> = "60", "seconds",
            "A client that has not finished its handshake by then is dropped.";
        tap: bool = "true", "",
            "Clients that carry Ethernet (dev tap) are served beside all others: they exchange \
            frames of any kind with each other, and packets with everybody.";
        max_sessions: Whole<1, 1_000_000> = "4096", "sessions",
            "More clients than this are turned away. Bounds the memory: about 32 KiB each.";
        handshakes_per_second: Whole<1, 1_000_000> = "100", "replies per second",
            "Replies to the first packets of strangers, all together. Bounds what this server can \
            be made to send to forged addresses.";
        management: ManagementAddress = r#""""#, "",
            "Speak OpenVPN's management protocol here, for the consoles and exporters that know \
            it: the path of a unix socket as in \"/run/warren.mgmt\", or an address as in \
            \"127.0.0.1:7505\". Empty for nowhere. Where the server is started as root, this \
            is believed only in a file that nobody but root can change or replace.";
        management_password_file: FilePath = r#""""#, "",
            "A file whose first line is asked of whoever connects to `management`. It must be \
            there if that is not a unix socket or the loopback: the protocol itself protects \
            nothing.";
        management_client_auth: bool = "false", "",
            "Whoever is connected to `management` decides about logins, instead of the user list. \
            Certificates are checked first, as ever; while nobody is connected, nobody gets in.";
    }
}

table! {
    ["log"]
    "What is told to the journal or the terminal."
    LogTable {
        level: Level = r#""info""#, "",
            "How much. Packets' contents, passwords and keys appear at no level.";
    }
}

table! {
    ["server"]
    "The program itself."
    ServerTable {
        workers: Whole<0, 256> = "0", "threads",
            "Threads that carry packets. 0 takes one per processor core but one, at least one.";
        user: RunAs = r#""auto""#, "",
            "Whom the server turns into once it is started as root. \"auto\" takes the account \
            warren if there is one, or else a number that no account has. \"root\" stays root, \
            which makes every mistake in this program root's. Anything but \"auto\" is believed \
            only in a file that nobody but root can change or replace.";
    }
}
