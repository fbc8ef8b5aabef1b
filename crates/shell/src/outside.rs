//! From what `client_ca` and `crl` name to rules for outside CAs.

use std::path::PathBuf;
use std::sync::Arc;

use backends::{Identity, Store};
use config::OpenVpn;
use contract::WallClock;
use host::{Content, Snapshot};
use pki::{Members, OutsideCas, OutsideError, OutsideRules, PkiError};

use crate::clock;
use crate::server::StartError;

/// Why what is in the files cannot be used.
#[derive(Clone, Debug)]
pub(crate) struct Unusable {
    /// The key, the file and the reason.
    pub(crate) line: String,
    /// Nobody did anything wrong: it has become too old, or is not good yet.
    pub(crate) is_out_of_date: bool,
}

impl From<String> for Unusable {
    fn from(line: String) -> Self {
        Self { line, is_out_of_date: false }
    }
}

/// The files that a door's outside CAs are in: what is watched while the server runs.
#[must_use]
pub fn outside_files(door: &OpenVpn) -> Vec<PathBuf> {
    let files = door.outside.iter().flat_map(|outside| {
        std::iter::once(&outside.client_ca).chain(outside.crl.as_ref()).cloned()
    });
    files.collect()
}

/// Whose certificates are accepted: at first only those of the server's own CA, which is made if
/// there is none yet.
///
/// # Errors
///
/// Fails if the store does.
pub fn members(store: &Store) -> Result<Arc<Members>, StartError> {
    let cannot = |why: String| StartError::new(format!("the server's certificate and keys: {why}"));
    let identity = Identity::load_or_create(store).map_err(|error| cannot(error.to_string()))?;
    let own = identity.authority.certificate();
    let members = Members::new(own, clock::start(), &crypto::tls::provider());
    members.map(Arc::new).map_err(|error| cannot(error.to_string()))
}

/// How many CAs and revocation lists a door's files hold at this moment, everything checked.
///
/// # Errors
///
/// One line that names the key and the file.
pub fn check_outside(
    door: &OpenVpn,
    snapshot: &Snapshot,
) -> Result<Option<(usize, usize)>, String> {
    let rules = rules(door, snapshot, &clock::start()).map_err(|unusable| unusable.line)?;
    Ok(rules.map(|rules| rules.counts()))
}

/// The rules by what [`outside_files`] hold; `None` if the door has no outside CA.
pub(crate) fn rules(
    door: &OpenVpn,
    snapshot: &Snapshot,
    clock: &Arc<WallClock>,
) -> Result<Option<OutsideRules>, Unusable> {
    let Some(outside) = &door.outside else { return Ok(None) };
    let mut contents = snapshot.contents.iter();
    let mut next = |key: &str| match contents.next() {
        Some(Ok(files)) => Ok(files),
        Some(Err(line)) => Err(format!("doors.openvpn.{key}: {line}")),
        None => Err(format!("doors.openvpn.{key}: takes effect after a restart")),
    };
    let certificates = all(next("client_ca")?, pki::certificates)
        .map_err(|line| format!("doors.openvpn.client_ca: {line}"))?;
    let lists = match &outside.crl {
        Some(_) => {
            let lists = all(next("crl")?, pki::revocation_lists);
            Some(lists.map_err(|line| format!("doors.openvpn.crl: {line}"))?)
        }
        None => None,
    };
    let cas = OutsideCas {
        certificates,
        lists,
        user_name: outside.username_field.clone(),
        names: outside.verify_x509_name.clone(),
        require_client_usage: outside.remote_cert_tls,
    };
    let rules = OutsideRules::new(cas, Arc::clone(clock), &crypto::tls::provider());
    rules.map(Some).map_err(|error| Unusable {
        line: blame(door, &error),
        is_out_of_date: error.is_out_of_date(),
    })
}

/// The line about one of the files.
pub(crate) fn blame(door: &OpenVpn, error: &OutsideError) -> String {
    let outside = door.outside.as_ref();
    let (key, path, error) = match error {
        OutsideError::Cas(error) => ("client_ca", outside.map(|it| &it.client_ca), error),
        OutsideError::Lists(error) => ("crl", outside.and_then(|it| it.crl.as_ref()), error),
    };
    let path = path.map(|path| path.display().to_string()).unwrap_or_default();
    format!("doors.openvpn.{key}: {path}: {error}")
}

fn all<T>(
    files: &[Content],
    read: impl Fn(&[u8]) -> Result<Vec<T>, PkiError>,
) -> Result<Vec<T>, String> {
    let mut found = Vec::new();
    for Content { path, text } in files {
        let read = read(text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
        found.extend(read);
    }
    Ok(found)
}
