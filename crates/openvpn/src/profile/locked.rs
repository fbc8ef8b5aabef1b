//! `pkcs12`, `key` and `askpass`: our certificate and key, which a passphrase may protect.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::Secret;
use pki::{Bundle, PkiError};

use super::{Draft, Line, Profile, ProfileError, ReadFile, directive};

pub(super) const NOTHING_TRUSTED: &str =
    "neither \"ca\" nor \"peer-fingerprint\": the server could be anybody; add its CA";

/// What waits for a passphrase.
#[derive(Debug)]
pub(crate) enum Locked {
    /// The profile's `key`.
    Key,
    /// A PKCS #12 file.
    Bundle(Secret),
}

impl Profile {
    /// Whether a passphrase must [`unlock`](Self::unlock) the profile before it can be used.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked.is_some()
    }

    /// Opens the private key that the profile names, or its PKCS #12 file.
    ///
    /// # Errors
    ///
    /// The passphrase does not open it, or what it holds is not enough; the profile is as it was.
    pub fn unlock(&mut self, passphrase: &Secret) -> Result<(), ProfileError> {
        match &self.locked {
            None => return Ok(()),
            Some(Locked::Key) => {
                let key = self.key.as_ref().map(Secret::expose).unwrap_or_default();
                let key = pki::open_key(key, passphrase).map_err(|error| whole("key", &error))?;
                self.key = Some(key);
            }
            Some(Locked::Bundle(der)) => {
                let bundle = pki::open_bundle(der.expose(), passphrase)
                    .map_err(|error| whole("pkcs12", &error))?;
                let holds_ca = !(bundle.authorities.is_empty() && bundle.intermediates.is_empty());
                if self.ca.is_empty() && self.fingerprints.is_empty() && !holds_ca {
                    return Err(ProfileError::whole(NOTHING_TRUSTED));
                }
                unpack(bundle, &mut self.ca, &mut self.certificate, &mut self.key);
            }
        }
        self.locked = None;
        Ok(())
    }
}

/// `pkcs12`.
pub(super) fn bundle(line: &Line, read: ReadFile<'_>) -> Result<Secret, ProfileError> {
    let content = Secret::new(directive::content(line, read)?);
    if line.block.is_none() {
        return Ok(content);
    }
    let is_sign = |byte: &u8| !byte.is_ascii_whitespace();
    let signs = Secret::new(content.expose().iter().copied().filter(is_sign).collect::<Vec<_>>());
    let der = STANDARD.decode(signs.expose()).map_err(|_| line.error("is not base64"))?;
    Ok(Secret::new(der))
}

/// `askpass`: the first line of a file; without one, somebody has to be asked.
pub(super) fn passphrase(line: &Line, read: ReadFile<'_>) -> Result<Option<Secret>, ProfileError> {
    if line.block.is_none() && line.words.is_empty() {
        return Ok(None);
    }
    let content = Secret::new(directive::content(line, read)?);
    let first = content.expose().split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Some(Secret::new(first.strip_suffix(b"\r").unwrap_or(first))))
}

/// Opens what can be opened with what the profile says.
pub(super) fn open(draft: &mut Draft) -> Result<(), ProfileError> {
    let passphrase = draft.passphrase.take();
    if let Some(der) = draft.bundle.take() {
        if draft.certificate.is_some() || draft.key.is_some() {
            let both = "\"pkcs12\" beside \"cert\" or \"key\"; keep one";
            return Err(ProfileError::whole(both));
        }
        let none = Secret::new("");
        match pki::open_bundle(der.expose(), passphrase.as_ref().unwrap_or(&none)) {
            Ok(bundle) => unpack(bundle, &mut draft.ca, &mut draft.certificate, &mut draft.key),
            Err(PkiError::WrongPassphrase) if passphrase.is_none() => {
                draft.locked = Some(Locked::Bundle(der));
            }
            Err(error) => return Err(whole("pkcs12", &error)),
        }
        return Ok(());
    }
    if let Some(key) = draft.key.as_ref().filter(|key| pki::is_locked(key.expose())) {
        match passphrase {
            Some(passphrase) => {
                let key = pki::open_key(key.expose(), &passphrase);
                draft.key = Some(key.map_err(|error| whole("key", &error))?);
            }
            None => draft.locked = Some(Locked::Key),
        }
    }
    Ok(())
}

/// As OpenVPN does: without a `ca`, the file's authorities are believed.
fn unpack(
    bundle: Bundle,
    ca: &mut Vec<u8>,
    certificate: &mut Option<Vec<u8>>,
    key: &mut Option<Secret>,
) {
    let Bundle { key: opened, certificate: mut chain, intermediates, authorities } = bundle;
    if ca.is_empty() {
        ca.extend_from_slice(&authorities);
        if authorities.is_empty() {
            ca.extend_from_slice(&intermediates);
        }
    }
    chain.extend(intermediates);
    *certificate = Some(chain);
    *key = Some(opened);
}

fn whole(directive: &str, error: &PkiError) -> ProfileError {
    ProfileError::whole(format!("{directive}: {error}"))
}

#[cfg(test)]
mod tests;
