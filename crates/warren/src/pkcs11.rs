//! Keys in tokens: `warren pkcs11 list`, and what `connect` and `up` do before they have threads.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use config::TokenPlace;
use contract::Secret;
use host::is_roots_alone;
use openvpn::Profile;
use pki::{CertificateFacts, KeyName};
use serde::Serialize;
use sys::privileges;
use token::{Listed, Module, PinQuestion, PinSource, Place, TokenKey, Warden};
use zeroize::Zeroizing;

use crate::cli::Pkcs11Command;
use crate::failure::Usage;
use crate::output::{Output, Table};
use crate::{logging, password};

/// No token takes longer PINs.
const MAX_PIN: u64 = 255;

/// Who knows the PIN.
#[derive(Debug)]
struct Pins {
    /// Open: it may be out of reach once rights have been given up.
    file: Option<(PathBuf, Mutex<File>)>,
    is_attended: bool,
}

impl Pins {
    fn new(file: Option<&Path>, is_attended: bool) -> anyhow::Result<Self> {
        let open = |path: &Path| match File::open(path) {
            Ok(file) => Ok((path.to_owned(), Mutex::new(file))),
            Err(error) => Err(Usage(format!("{}: cannot read the PIN: {error}", path.display()))),
        };
        Ok(Self { file: file.map(open).transpose()?, is_attended })
    }
}

impl PinSource for Pins {
    fn pin(&self, question: &PinQuestion) -> Result<Secret, String> {
        if let Some((path, file)) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // What cannot be rewound, such as stdin, says it once.
            let _ = file.rewind();
            return first_line(&mut *file).map_err(|why| format!("{}: {why}", path.display()));
        }
        if !self.is_attended || !io::stdin().is_terminal() {
            return Err(format!("the {question} is wanted, and nobody is there to type it"));
        }
        let typed = password::prompt(&format!("{question}: "));
        typed.map(|pin| pin.to_secret()).map_err(|error| format!("{error:#}"))
    }
}

fn first_line(input: impl Read) -> Result<Secret, String> {
    // Made large enough at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PIN as usize + 3));
    let read = input.take(MAX_PIN + 2).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read the PIN: {error}"))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || line.len() as u64 > MAX_PIN {
        return Err(format!("the first line must be the PIN, of 1 to {MAX_PIN} bytes"));
    }
    Ok(Secret::new(line))
}

/// Who says which library is loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NamedBy {
    /// Whoever wrote the profile, perhaps a stranger.
    Profile,
    /// The command line, or the server's configuration.
    Caller,
}

/// The library's real path. One that root loads is as powerful as root, and one that a profile
/// names must not have come with it.
fn checked(path: &str, by: NamedBy) -> anyhow::Result<String> {
    let look = || format!("{path}: cannot look at this library");
    if !Path::new(path).is_absolute() {
        return Err(Usage(format!("{path}: write the whole path of the library")).into());
    }
    let real = Path::new(path).canonicalize().with_context(look)?;
    let must_be_roots = by == NamedBy::Profile || privileges::is_root();
    if must_be_roots && !is_roots_alone(&real).with_context(look)? {
        let what = format!(
            "{path}: others than root can change this library; install it where only root can write"
        );
        return Err(Usage(what).into());
    }
    let real = real.into_os_string().into_string();
    real.map_err(|_| Usage(format!("{path}: its real path is not UTF-8")).into())
}

fn start(mut place: Place, by: NamedBy) -> anyhow::Result<Warden> {
    for module in &mut place.modules {
        module.path = checked(&module.path, by)?;
    }
    Warden::start(place).context("cannot start the process that keeps the PKCS #11 module")
}

/// Starts the process that keeps the modules of a profile, if it names a key in a token. Whatever
/// is read or typed later, that process does not know.
pub(crate) fn warden_of(profile: &Profile) -> anyhow::Result<Option<Warden>> {
    let Some(said) = &profile.token else { return Ok(None) };
    let module = |provider: &openvpn::TokenProvider| Module {
        path: provider.path.clone(),
        has_pin_pad: provider.has_pin_pad,
        hides_certificates: provider.hides_certificates,
    };
    let place = Place {
        modules: said.providers.iter().map(module).collect(),
        key: said.key.clone(),
        pin_cache: said.pin_cache,
    };
    start(place, NamedBy::Profile).map(Some)
}

/// Opens the key that a profile names in a token.
pub(crate) fn open(warden: Warden, pin_file: Option<&Path>) -> anyhow::Result<TokenKey> {
    let pins = Pins::new(pin_file, true)?;
    TokenKey::open(warden, Arc::new(pins)).context("pkcs11-id")
}

/// Opens the server's key in a token, if the configuration names one.
pub(crate) fn of_server(place: Option<&TokenPlace>) -> anyhow::Result<Option<TokenKey>> {
    let Some(place) = place else { return Ok(None) };
    let open = || {
        let module = Module { path: place.module.clone(), ..Module::default() };
        let there = Place { modules: vec![module], key: place.key.clone(), pin_cache: None };
        let warden = start(there, NamedBy::Caller)?;
        let pins = Pins::new(place.pin_file.as_deref(), false)?;
        Ok::<_, anyhow::Error>(TokenKey::open(warden, Arc::new(pins))?)
    };
    open().context("doors.openvpn.server_key").map(Some)
}

/// A key or certificate, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    /// For `pkcs11-id` and `server_key`.
    name: String,
    token: String,
    subject: Option<String>,
    serial: Option<String>,
}

/// Runs one of the `pkcs11` commands.
pub(crate) fn run(command: Pkcs11Command, output: Output) -> anyhow::Result<()> {
    logging::start("warn");
    let Pkcs11Command::List { module, token, login, pin_file } = command;
    let path = module.to_string_lossy().into_owned();
    let label = token.clone();
    let key = KeyName { token, ..KeyName::default() };
    let modules = vec![Module { path: path.clone(), ..Module::default() }];
    let warden = start(Place { modules, key, pin_cache: None }, NamedBy::Caller)?;
    let pin = if login || pin_file.is_some() {
        let question =
            PinQuestion { token: label.unwrap_or_else(|| path.clone()), is_last_try: false };
        Some(Pins::new(pin_file.as_deref(), true)?.pin(&question).map_err(Usage)?)
    } else {
        None
    };
    let listed = token::list(&warden, pin)?;
    let shown = listed.into_iter().map(show).collect::<Vec<_>>();
    output.show(&shown, |shown| table(shown))
}

fn show(listed: Listed) -> Shown {
    let facts = CertificateFacts::read(&listed.certificate).ok();
    let (subject, serial) = facts.map(|facts| (facts.subject, facts.serial)).unzip();
    Shown { name: listed.name, token: listed.token, subject, serial }
}

fn table(shown: &[Shown]) -> String {
    let mut table = Table::new(["CERTIFICATE OF", "SERIAL", "NAME"]);
    for shown in shown {
        table.row([
            shown.subject.clone().unwrap_or_default(),
            shown.serial.clone().unwrap_or_default(),
            shown.name.clone(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_loads_no_library_that_came_with_it_whatever_way_it_names() {
        if !privileges::is_root() {
            eprintln!("skipped: needs root to own files");
            return;
        }
        let folder = std::env::temp_dir().join(format!("warren-module-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        let [own, evil] = ["own.so", "evil.so"].map(|name| folder.join(name));
        for file in [&own, &evil] {
            std::fs::write(file, "").expect("a file");
        }
        std::os::unix::fs::chown(&evil, Some(61_086), None).expect("root gives files away");
        let by_way_of_root = |file: &Path| format!("/proc/self/root{}", file.display());
        let seen = |path: &str| checked(path, NamedBy::Profile).map_err(|error| error.to_string());

        for path in [evil.display().to_string(), by_way_of_root(&evil)] {
            let refused = seen(&path).expect_err("it is somebody else's");
            assert!(refused.contains("others than root"), "{refused}");
        }
        // What was looked at is what is loaded.
        assert_eq!(seen(&by_way_of_root(&own)), Ok(own.display().to_string()));
        std::fs::remove_dir_all(&folder).expect("it was made above");
    }

    #[test]
    fn a_pin_is_one_line_that_a_token_can_take() {
        let read = |bytes: &[u8]| first_line(bytes).map(|pin| pin.expose().to_vec());

        assert_eq!(read(b"1234\r\nmore").expect("a line"), b"1234");
        assert_eq!(read(&[b'1'; 255]).expect("a line").len(), 255);
        for bad in [&b""[..], b"\n1234", &[b'1'; 256], &[b'1'; 5000]] {
            assert!(read(bad).is_err());
        }
    }
}
