//! The worker: the one process in which a module's code runs.

use std::os::unix::net::UnixStream;

use contract::Secret;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{self, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;
use pki::KeyName;

use crate::message::{
    Facts, Kind, Listed, MAX_CERTIFICATE, MAX_SIGNATURE, Mechanism, PinQuestion, Reply, Request,
    Trouble, receive, send,
};
use crate::{Module, Place, public_key};

/// Objects of one token that a list shows.
const MAX_LISTED: usize = 64;

/// Answers until the warden is gone.
pub(crate) fn work(mut line: UnixStream, place: &Place) {
    let mut open = None;
    while let Ok(Some((kind, body))) = receive(&mut line) {
        let reply = match Request::parse(kind, &body) {
            Ok(Request::Open { pin }) => match find(place, pin.as_ref()) {
                Ok((key, facts)) => {
                    open = Some(key);
                    Reply::Opened(facts)
                }
                Err(reply) => reply,
            },
            Ok(Request::Sign { how, input }) => match &open {
                Some(key) => key.sign(how, &input),
                None => Reply::Failed(Trouble::Passing, "no key is open".to_owned()),
            },
            Ok(Request::List { pin }) => list(place, pin.as_ref()).unwrap_or_else(|reply| reply),
            Err(_) => return,
        };
        if send(&mut line, reply.write()).is_err() {
            return;
        }
    }
}

/// A key, and the session in which it can be used.
#[derive(Debug)]
struct OpenKey {
    session: Session,
    key: ObjectHandle,
}

impl OpenKey {
    fn sign(&self, how: Mechanism, input: &[u8]) -> Reply {
        let pss = |hash_alg, mgf, len: std::ffi::c_ulong| {
            mechanism::Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len: len.into() })
        };
        let how = match how {
            Mechanism::RsaPkcs1 => mechanism::Mechanism::RsaPkcs,
            Mechanism::RsaPss256 => pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
            Mechanism::RsaPss384 => pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
            Mechanism::RsaPss512 => pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
            Mechanism::Ecdsa => mechanism::Mechanism::Ecdsa,
        };
        match self.session.sign(&how, self.key, input) {
            Ok(signature) if signature.len() <= MAX_SIGNATURE => Reply::Signed(signature),
            Ok(_) => Reply::Failed(Trouble::Passing, "the signature is too long".to_owned()),
            Err(error) => {
                Reply::Failed(Trouble::Passing, format!("it does not sign: {}", words(&error)))
            }
        }
    }
}

/// A token in a reader.
struct Found<'p> {
    module: &'p Module,
    session: Session,
    info: TokenInfo,
    mechanisms: Vec<MechanismType>,
}

impl Found<'_> {
    fn wants_login(&self) -> bool {
        self.info.login_required() || self.module.hides_certificates
    }

    /// Logs in, or says what is missing for that.
    fn log_in(&self, pin: Option<&Secret>) -> Result<(), Reply> {
        if self.info.user_pin_locked() {
            let why = format!("the PIN of token {:?} is locked", self.info.label());
            return Err(Reply::Failed(Trouble::Lasting, why));
        }
        let pin = match pin {
            None if self.module.has_pin_pad => None,
            None => return Err(Reply::WantsPin(self.question())),
            Some(pin) => {
                let text = std::str::from_utf8(pin.expose()).map_err(|_| {
                    Reply::Failed(Trouble::Lasting, "the PIN is not text".to_owned())
                })?;
                Some(AuthPin::from(text))
            }
        };
        match self.session.login(UserType::User, pin.as_ref()) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => Err(Reply::Failed(
                match &error {
                    Error::Pkcs11(
                        RvError::PinIncorrect
                        | RvError::PinInvalid
                        | RvError::PinLenRange
                        | RvError::PinExpired
                        | RvError::PinLocked
                        | RvError::UserPinNotInitialized,
                        _,
                    ) => Trouble::Lasting,
                    _ => Trouble::Passing,
                },
                match &error {
                    Error::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange, _) => {
                        format!("the PIN of token {:?} is wrong", self.info.label())
                    }
                    _ => format!(
                        "token {:?} refuses the login: {}",
                        self.info.label(),
                        words(&error)
                    ),
                },
            )),
        }
    }

    fn question(&self) -> PinQuestion {
        PinQuestion {
            token: self.info.label().to_owned(),
            is_last_try: self.info.user_pin_final_try(),
        }
    }

    fn objects(&self, class: ObjectClass, name: &KeyName) -> Vec<ObjectHandle> {
        let mut template = vec![Attribute::Class(class)];
        template.extend(name.id.clone().map(Attribute::Id));
        template.extend(name.object.clone().map(|label| Attribute::Label(label.into_bytes())));
        let found = self.session.iter_objects(&template).map(|found| found.flatten());
        found.map_or_else(|_| Vec::new(), |found| found.take(MAX_LISTED).collect())
    }

    fn bytes(&self, object: ObjectHandle, what: AttributeType) -> Vec<u8> {
        let values = self.session.get_attributes(object, &[what]).unwrap_or_default();
        match values.into_iter().next() {
            Some(
                Attribute::Id(bytes)
                | Attribute::Label(bytes)
                | Attribute::Value(bytes)
                | Attribute::Modulus(bytes)
                | Attribute::PublicExponent(bytes)
                | Attribute::EcParams(bytes)
                | Attribute::EcPoint(bytes),
            ) => bytes,
            _ => Vec::new(),
        }
    }

    /// What the private key is, and what lies beside it.
    fn facts(&self, key: ObjectHandle) -> Result<Facts, String> {
        let asked = [AttributeType::KeyType, AttributeType::AlwaysAuthenticate];
        let mut key_type = None;
        for attribute in self.session.get_attributes(key, &asked).unwrap_or_default() {
            match attribute {
                Attribute::KeyType(found) => key_type = Some(found),
                Attribute::AlwaysAuthenticate(true) => {
                    return Err(
                        "it wants the PIN for every signature, which is not supported".to_owned()
                    );
                }
                _ => {}
            }
        }
        let id = self.bytes(key, AttributeType::Id);
        let beside = KeyName { id: Some(id.clone()), ..KeyName::default() };
        let beside = |class| {
            let found = if id.is_empty() { Vec::new() } else { self.objects(class, &beside) };
            found.first().copied()
        };
        let public = beside(ObjectClass::PUBLIC_KEY);
        // A private key has most numbers of its public one, but not always.
        let number = |what| {
            let own = self.bytes(key, what);
            match public {
                Some(public) if own.is_empty() => self.bytes(public, what),
                _ => own,
            }
        };
        let can = |mechanism| self.mechanisms.contains(&mechanism);
        let (kind, public_key) = match key_type {
            Some(KeyType::RSA) => {
                let (pkcs1, pss) = (can(MechanismType::RSA_PKCS), can(MechanismType::RSA_PKCS_PSS));
                if !pkcs1 && !pss {
                    return Err("its token cannot sign with RSA".to_owned());
                }
                let modulus = number(AttributeType::Modulus);
                let exponent = number(AttributeType::PublicExponent);
                let is_known = !modulus.is_empty() && !exponent.is_empty();
                let spki = is_known.then(|| public_key::from_modulus(&modulus, &exponent));
                (Kind::Rsa { pkcs1, pss }, spki)
            }
            Some(KeyType::EC) => {
                let params = number(AttributeType::EcParams);
                let kind = public_key::curve(&params)
                    .ok_or("its curve is not supported; P-256 and P-384 are")?;
                (kind, public_key::from_point(&params, &number(AttributeType::EcPoint)))
            }
            _ => return Err("its kind is not supported; RSA and ECDSA are".to_owned()),
        };
        let certificate = beside(ObjectClass::CERTIFICATE)
            .map(|certificate| self.bytes(certificate, AttributeType::Value))
            .filter(|der| der.len() <= MAX_CERTIFICATE);
        Ok(Facts {
            public_key: public_key.unwrap_or_default(),
            certificate: certificate.unwrap_or_default(),
            kind,
            token: self.info.label().to_owned(),
        })
    }
}

/// Loads the modules and opens every token that fits the name.
fn tokens(place: &Place) -> Result<Vec<Found<'_>>, Reply> {
    let mut found = Vec::new();
    for module in &place.modules {
        let failed = |error: Error| {
            let why = format!("{}: {}", module.path, words(&error));
            Reply::Failed(Trouble::Passing, why)
        };
        let library = Pkcs11::new(&module.path).map_err(failed)?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed(error)),
        }
        for slot in library.get_slots_with_token().map_err(failed)? {
            // One reader that does not work must not hide the others.
            let Ok(info) = library.get_token_info(slot) else { continue };
            let fits = place.key.fits(
                info.label(),
                info.manufacturer_id(),
                info.model(),
                info.serial_number(),
            );
            if !fits || !info.token_initialized() {
                continue;
            }
            let mechanisms = library.get_mechanism_list(slot).unwrap_or_default();
            let Ok(session) = library.open_ro_session(slot) else { continue };
            found.push(Found { module, session, info, mechanisms });
        }
    }
    Ok(found)
}

/// Opens the key.
fn find(place: &Place, pin: Option<&Secret>) -> Result<(OpenKey, Facts), Reply> {
    let name = &place.key;
    let mut tokens = tokens(place)?;
    if tokens.is_empty() {
        let why = match &name.token {
            Some(token) => format!("no token {token:?} is there; plug it in, or see which are"),
            None => "no token is there; plug it in".to_owned(),
        };
        return Err(Reply::Failed(Trouble::Passing, why));
    }
    // A PIN is for one token, and tokens count mistakes: others are not to be tried with it.
    if tokens.len() > 1 {
        tokens.retain(|token| {
            let shown =
                [ObjectClass::PRIVATE_KEY, ObjectClass::CERTIFICATE, ObjectClass::PUBLIC_KEY];
            shown.into_iter().any(|class| !token.objects(class, name).is_empty())
        });
    }
    let (Some(token), true) = (tokens.pop(), tokens.is_empty()) else {
        let why = format!("{name} fits no token alone; name the token, too (token=…)");
        return Err(Reply::Failed(Trouble::Lasting, why));
    };
    if token.wants_login() {
        token.log_in(pin)?;
    }
    let key = match token.objects(ObjectClass::PRIVATE_KEY, name).as_slice() {
        [key] => *key,
        found => {
            let label = token.info.label();
            let why = match found {
                [] => format!("token {label:?} has no private key {name}"),
                _ => format!("token {label:?} has several private keys {name}; say more of it"),
            };
            return Err(Reply::Failed(Trouble::Lasting, why));
        }
    };
    let facts = token.facts(key).map_err(|why| {
        Reply::Failed(Trouble::Lasting, format!("the key {name} cannot be used: {why}"))
    })?;
    Ok((OpenKey { session: token.session, key }, facts))
}

/// What every token shows; more of it after the login.
fn list(place: &Place, pin: Option<&Secret>) -> Result<Reply, Reply> {
    let tokens = tokens(place)?;
    if pin.is_some() {
        let [token] = tokens.as_slice() else {
            let why = format!("{} tokens fit; a PIN is for one of them: name it", tokens.len());
            return Err(Reply::Failed(Trouble::Lasting, why));
        };
        token.log_in(pin)?;
    }
    let mut listed: Vec<Listed> = Vec::new();
    for token in &tokens {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let classes = [ObjectClass::CERTIFICATE, ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY];
        for class in classes {
            for object in token.objects(class, &KeyName::default()) {
                let label = token.bytes(object, AttributeType::Label);
                let id = Some(token.bytes(object, AttributeType::Id)).filter(|id| !id.is_empty());
                let name = KeyName {
                    token: text(token.info.label()),
                    manufacturer: text(token.info.manufacturer_id()),
                    model: text(token.info.model()),
                    serial: text(token.info.serial_number()),
                    // Key and certificate share a number, and not always a label.
                    object: String::from_utf8(label).ok().filter(|_| id.is_none()),
                    id,
                    ..KeyName::default()
                };
                let name = name.to_string();
                // The same key again, as its other half.
                if listed.iter().any(|known| known.name == name) {
                    continue;
                }
                let is_certificate = class == ObjectClass::CERTIFICATE;
                let der = is_certificate.then(|| token.bytes(object, AttributeType::Value));
                let certificate = der.filter(|der| der.len() <= MAX_CERTIFICATE);
                listed.push(Listed {
                    name,
                    token: token.info.label().to_owned(),
                    certificate: certificate.unwrap_or_default(),
                });
            }
        }
    }
    Ok(Reply::Listed(listed))
}

/// The library's words are paragraphs; the names of its errors say as much.
fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(RvError::DeviceRemoved | RvError::TokenNotPresent, _) => {
            "the token is gone".to_owned()
        }
        Error::Pkcs11(error, function) => format!("{error:?} ({function:?})"),
        Error::LibraryLoading(error) => format!("cannot be loaded: {error}"),
        Error::MissingSymbol(_) | Error::NullFunctionPointer => {
            "this is not a PKCS #11 module".to_owned()
        }
        other => other.to_string(),
    }
}
