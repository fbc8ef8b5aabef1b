use backends::Store;

use crate::failure::Failure;
use crate::types::{Fingerprints, NewFingerprints};

/// Changes which certificates let a user in by their SHA-256; returns all there are then, and those
/// that were removed as sessions name them.
///
/// # Errors
///
/// Fails if there is no such user, one is no fingerprint, one to add is another user's, or one to
/// remove is not this user's.
pub fn change_fingerprints(
    store: &Store,
    name: &str,
    new: &NewFingerprints,
) -> Result<(Fingerprints, Vec<String>), Failure> {
    let parse = |texts: &[String]| -> Result<Vec<_>, Failure> {
        texts.iter().map(|text| parse(text)).collect()
    };
    let (add, remove) = (parse(&new.add)?, parse(&new.remove)?);
    if add.is_empty() && remove.is_empty() {
        store.user(name)?;
    } else {
        store.change_fingerprints(name, &add, &remove)?;
    }
    let fingerprints = store.fingerprints(Some(name))?.iter().map(write).collect();
    let ended = remove.iter().map(|gone| format!("sha256:{}", hex::encode(gone))).collect();
    Ok((Fingerprints { user: name.to_owned(), fingerprints, sessions: 0 }, ended))
}

fn parse(text: &str) -> Result<[u8; 32], Failure> {
    let digits: String = text.trim().chars().filter(|&sign| sign != ':').collect();
    let mut fingerprint = [0; 32];
    match hex::decode_to_slice(&digits, &mut fingerprint) {
        Ok(()) => Ok(fingerprint),
        Err(_) => Err(Failure::invalid(format!(
            "{text:?} is no SHA-256 fingerprint; write the 64 digits that `openssl x509 \
             -fingerprint -sha256 -noout -in FILE` prints"
        ))),
    }
}

fn write(fingerprint: &[u8; 32]) -> String {
    let pairs = fingerprint.iter().map(|byte| format!("{byte:02X}"));
    pairs.collect::<Vec<_>>().join(":")
}
