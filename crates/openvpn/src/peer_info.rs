//! What the ends tell each other about themselves: `peer_info` lines and the options string.

use contract::{Carrier, Layer};
use crypto::digest::Hash;

use crate::cipher::{Cipher, Offer, digest_name};
use crate::initiator::InitiatorConfig;
use crate::session::Core;
use crate::shape::ShapeRules;
use crate::wrap::Side;

/// Bits of IV_PROTO.
pub(crate) mod proto {
    pub(crate) const DATA_V2: u32 = 1 << 1;
    pub(crate) const REQUEST_PUSH: u32 = 1 << 2;
    pub(crate) const TLS_KEY_EXPORT: u32 = 1 << 3;
    pub(crate) const AUTH_PENDING: u32 = 1 << 4;
    pub(crate) const NCP_P2P: u32 = 1 << 5;
    pub(crate) const CC_EXIT_NOTIFY: u32 = 1 << 7;
    pub(crate) const AUTH_FAIL_TEMP: u32 = 1 << 8;
    pub(crate) const DYN_TLS_CRYPT: u32 = 1 << 9;
    pub(crate) const DNS_OPTION_V2: u32 = 1 << 11;
    pub(crate) const PUSH_UPDATE: u32 = 1 << 12;
}

/// A client's `peer_info`, read once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct PeerInfo {
    pub(crate) proto: u32,
    pub(crate) ncp: u32,
    pub(crate) ciphers: Option<String>,
    pub(crate) mtu: Option<u16>,
    pub(crate) hardware: Option<String>,
    /// Takes `compress stub-v2`, under which packets are what they would be without.
    pub(crate) stub_v2: bool,
    pub(crate) software: String,
    /// Ways in which its user can be asked while a login is pending.
    sso: String,
}

impl PeerInfo {
    pub(crate) fn parse(text: &str) -> Self {
        let mut info = Self::default();
        let (mut version, mut platform, mut gui) = ("", "", "");
        for line in text.lines().take(128) {
            let Some((name, value)) = line.split_once('=') else { continue };
            match name {
                "IV_PROTO" => info.proto = value.parse().unwrap_or(0),
                "IV_NCP" => info.ncp = value.parse().unwrap_or(0),
                "IV_CIPHERS" => info.ciphers = Some(value.to_owned()),
                "IV_MTU" => info.mtu = value.parse().ok(),
                "IV_HWADDR" if !value.is_empty() => info.hardware = Some(printable(value, 64)),
                "IV_SSO" => info.sso = printable(value, 256),
                "IV_COMP_STUBv2" => info.stub_v2 = value == "1",
                "IV_VER" => version = value,
                "IV_PLAT" => platform = value,
                "IV_GUI_VER" => gui = value,
                _ => {}
            }
        }
        let words = [version, platform, gui].into_iter().filter(|word| !word.is_empty());
        info.software = printable(&words.collect::<Vec<_>>().join(" "), 96);
        info
    }

    pub(crate) fn has(&self, bit: u32) -> bool {
        self.proto & bit != 0
    }

    /// Whether it says that it can show its user such a message.
    pub(crate) fn understands(&self, info: &str) -> bool {
        let method = match info.split(':').next().unwrap_or_default() {
            "WEB_AUTH" => "webauth",
            "OPEN_URL" => "openurl",
            "CR_TEXT" => "crtext",
            _ => return true,
        };
        self.sso.split(',').any(|known| known == method)
    }

    pub(crate) fn offer<'a>(&'a self, options: &'a str) -> Offer<'a> {
        Offer {
            list: self.ciphers.as_deref(),
            negotiates: self.ncp >= 2,
            fixed: option(options, "cipher"),
        }
    }
}

/// Only printable ASCII, and not more than `limit` of it: what a peer sends ends up in logs.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    text.chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' })
        .take(limit)
        .collect()
}

/// The value of one word in an options string (`V4,dev-type tun,cipher AES-256-GCM,…`).
pub(crate) fn option<'a>(options: &'a str, name: &str) -> Option<&'a str> {
    options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix(' '))
}

/// What the sender of an options string carries; packets, unless it says otherwise.
pub(crate) fn layer_of(options: &str) -> Layer {
    match option(options, "dev-type") {
        Some("tap") => Layer::Ethernet,
        _ => Layer::Ip,
    }
}

/// Whether a word without a value stands in an options string.
pub(crate) fn has_word(options: &str, word: &str) -> bool {
    options.split(',').any(|option| option == word)
}

/// What an options string tells of its sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announced {
    side: Side,
    carrier: Carrier,
    layer: Layer,
    cipher: Cipher,
    digest: Hash,
    mtu: u16,
    shape: ShapeRules,
}

impl Announced {
    /// What a session is, with the cipher that it is about to use.
    pub(crate) fn of(core: &Core, cipher: Cipher, mtu: u16) -> Self {
        let (side, carrier, layer, digest) =
            (core.side, core.path.carrier, core.layer, core.digest);
        let agreed = core.agreement.map(|agreement| agreement.framing);
        let framing = agreed.unwrap_or(core.shape.framing);
        let shape = ShapeRules { framing, ..core.shape };
        Self { side, carrier, layer, cipher, digest, mtu, shape }
    }
}

/// The options string that we send. Peers only warn about differences, so it says what is usual.
pub(crate) fn options_string(announced: &Announced) -> String {
    let Announced { side, carrier, layer, cipher, digest, mtu, shape } = *announced;
    let role = match side {
        Side::Initiator => "tls-client",
        Side::Responder => "tls-server",
    };
    // The family is not what it says: peers of both have always said the same. The length in front
    // of a message on a stream counts.
    let (transport, overhead) = match (carrier, side) {
        (Carrier::Stream(_), Side::Initiator) => ("TCPv4_CLIENT", 51),
        (Carrier::Stream(_), Side::Responder) => ("TCPv4_SERVER", 51),
        _ => ("UDPv4", 49),
    };
    // Of a frame, OpenVPN counts the head and two tags.
    let (device, mtu) = match layer {
        Layer::Ip => ("tun", u32::from(mtu)),
        Layer::Ethernet => ("tap", u32::from(mtu) + 32),
    };
    let keysize = cipher.key_len() * 8;
    // AEAD peers announce their HMAC as null.
    let auth = if cipher.aead().is_some() { "[null-digest]" } else { digest_name(digest) };
    let framing = if shape.framing.is_some() { ",comp-lzo" } else { "" };
    let fragment = if shape.fragment.is_some() { ",mtu-dynamic" } else { "" };
    format!(
        "V4,dev-type {device},link-mtu {},tun-mtu {mtu},proto {transport}{framing}{fragment},cipher {cipher},auth {auth},keysize {keysize},key-method 2,{role}",
        mtu + overhead,
    )
}

/// What an initiator tells: the facts of this implementation, in the vocabulary of 2.6, or of 2.5
/// if the profile wants it so.
pub(crate) fn our_peer_info(config: &InitiatorConfig) -> String {
    let mut proto = proto::DATA_V2 | proto::REQUEST_PUSH;
    if !config.is_before_2_6 {
        proto |= proto::TLS_KEY_EXPORT
            | proto::AUTH_PENDING
            | proto::CC_EXIT_NOTIFY
            | proto::AUTH_FAIL_TEMP
            | proto::DYN_TLS_CRYPT
            | proto::DNS_OPTION_V2
            | proto::PUSH_UPDATE;
    }
    let (version, mtu) = (config.version, config.mtu);
    let list = config.ciphers.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(":");
    let mut info = format!(
        "IV_VER=warren-{version}\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU={mtu}\nIV_NCP=2\nIV_CIPHERS={list}\nIV_PROTO={proto}\n"
    );
    if config.shape.framing.is_some() {
        info.push_str("IV_LZO_STUB=1\nIV_COMP_STUB=1\nIV_COMP_STUBv2=1\n");
    }
    if !config.device.is_empty() {
        info.push_str(&format!("IV_HWADDR={}\n", config.device));
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_2_6_is_understood() {
        let info = PeerInfo::parse(
            "IV_VER=2.6.14\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU=1600\nIV_NCP=2\nIV_CIPHERS=AES-256-GCM:AES-128-GCM\nIV_PROTO=990\nIV_HWADDR=02:00:00:00:00:01\n",
        );

        assert!(info.has(proto::DATA_V2) && info.has(proto::TLS_KEY_EXPORT));
        assert!(info.has(proto::DYN_TLS_CRYPT) && !info.has(proto::DNS_OPTION_V2));
        assert_eq!(info.mtu, Some(1600));
        assert_eq!(info.software, "2.6.14 linux");
        assert_eq!(info.hardware.as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn control_characters_never_reach_the_log() {
        let info = PeerInfo::parse("IV_VER=\u{1b}[31mred\r\nIV_PLAT=a\u{0}b\n");
        assert!(info.software.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{info:?}");
    }

    #[test]
    fn each_end_says_which_end_of_a_connection_it_is() {
        let stream = Carrier::Stream(contract::StreamId(1));
        let of = |side, carrier| {
            options_string(&Announced {
                side,
                carrier,
                layer: Layer::Ip,
                cipher: Cipher::Aes256Gcm,
                digest: Hash::Sha256,
                mtu: 1500,
                shape: ShapeRules::default(),
            })
        };

        let client = of(Side::Initiator, stream);
        assert_eq!(option(&client, "proto"), Some("TCPv4_CLIENT"));
        assert_eq!(option(&client, "link-mtu"), Some("1551"));
        assert_eq!(option(&of(Side::Responder, stream), "proto"), Some("TCPv4_SERVER"));
        let udp = of(Side::Responder, Carrier::Udp(contract::SocketId(0)));
        assert_eq!(
            (option(&udp, "proto"), option(&udp, "link-mtu")),
            (Some("UDPv4"), Some("1549"))
        );
    }

    #[test]
    fn the_cipher_of_an_options_string_is_found() {
        assert_eq!(option("V4,cipher BF-CBC,auth SHA1", "cipher"), Some("BF-CBC"));
        assert_eq!(option("V4,ciphers x", "cipher"), None);
    }
}
