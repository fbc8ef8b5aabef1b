//! The server's key, where it is in a token.

use std::sync::Arc;

use backends::{Identity, Store};
use rustls::sign::CertifiedKey;
use token::TokenKey;

use super::{StartError, cannot};

/// The key with a certificate of the server's own authority: profiles stay as they are.
pub(super) fn certified(
    identity: &Identity,
    store: &Store,
    key: &TokenKey,
) -> Result<Arc<CertifiedKey>, StartError> {
    let place = format!("doors.openvpn.server_key: token {:?}", key.token());
    let public_key = key.public_key().ok_or_else(|| {
        let what = "does not say what its public key is; write that to it, too";
        StartError(format!("{place}: {what}"))
    })?;
    let chain =
        identity.certify_elsewhere(store, public_key).map_err(|error| cannot(&place)(&error))?;
    key.certified(chain).map(Arc::new).map_err(|why| StartError(format!("{place}: {why}")))
}
