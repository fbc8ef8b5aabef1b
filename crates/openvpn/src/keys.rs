//! From a finished TLS handshake to data-channel keys.

use crypto::prf::tls1_prf;
use zeroize::Zeroizing;

use crate::packet::ControlSid;
use crate::static_key::{Half, STATIC_KEY_LEN, StaticKey};
use crate::wrap::Side;

/// Label of the exporter for data keys (`tls-ekm`).
pub(crate) const EXPORT_DATA_KEYS: &[u8] = b"EXPORTER-OpenVPN-datakeys";
/// Label of the exporter for the wrapping of renegotiations (`dyn-tls-crypt`).
pub(crate) const EXPORT_DYNAMIC_TLS_CRYPT: &[u8] = b"EXPORTER-OpenVPN-dynamic-tls-crypt";

/// The random part of one key method 2 record.
#[derive(Clone)]
pub(crate) struct KeySource {
    /// Only the initiator sends one.
    pub(crate) pre_master: Zeroizing<[u8; 48]>,
    pub(crate) random1: Zeroizing<[u8; 32]>,
    pub(crate) random2: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySource(..)")
    }
}

/// Both ends' contributions.
#[derive(Debug)]
pub(crate) struct KeySources<'a> {
    pub(crate) initiator: &'a KeySource,
    pub(crate) responder: &'a KeySource,
    pub(crate) initiator_sid: ControlSid,
    pub(crate) responder_sid: ControlSid,
}

/// 256 bytes of key material by the TLS 1.0 PRF, the way of every version before 2.6.
pub(crate) fn derive_by_prf(sources: &KeySources<'_>) -> StaticKey {
    let mut master = Zeroizing::new([0; 48]);
    tls1_prf(
        &*sources.initiator.pre_master,
        &[b"OpenVPN master secret", &*sources.initiator.random1, &*sources.responder.random1],
        &mut *master,
    );
    let mut keys = Zeroizing::new([0; STATIC_KEY_LEN]);
    tls1_prf(
        &*master,
        &[
            b"OpenVPN key expansion",
            &*sources.initiator.random2,
            &*sources.responder.random2,
            &sources.initiator_sid.0,
            &sources.responder_sid.0,
        ],
        &mut *keys,
    );
    StaticKey::from_bytes(*keys)
}

/// The half of the data keys that `side` sends with: the first is initiator to responder.
pub(crate) fn sending_half(side: Side) -> Half {
    match side {
        Side::Initiator => Half::K0,
        Side::Responder => Half::K1,
    }
}
