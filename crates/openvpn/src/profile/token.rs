//! `pkcs11-…`: a private key that stays in a token.

use std::time::Duration;

use pki::KeyName;

use super::{Draft, Line, ProfileError, directive};

/// Providers in one profile; OpenVPN takes as many (`MAX_PARMS`).
const MAX_PROVIDERS: usize = 16;
/// The bit of `pkcs11-private-mode` for C_Sign, the only way of using a key that TLS needs.
const SIGN: u32 = 1;

/// What a profile says of its token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenUse {
    /// `pkcs11-providers`.
    pub providers: Vec<TokenProvider>,
    /// `pkcs11-id`.
    pub key: KeyName,
    /// `pkcs11-pin-cache`; for ever if it is not said.
    pub pin_cache: Option<Duration>,
    /// Our own certificates beside the token's, in PEM (`extra-certs`).
    pub extra: Vec<u8>,
}

/// One library, and how it wants to be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenProvider {
    /// The absolute path of the library.
    pub path: String,
    /// `pkcs11-protected-authentication`: the PIN is typed at the reader.
    pub has_pin_pad: bool,
    /// `pkcs11-cert-private`: certificates are shown only after the login.
    pub hides_certificates: bool,
}

/// The directives while they are being read.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    providers: Vec<String>,
    pin_pads: Vec<bool>,
    hidden: Vec<bool>,
    modes: Vec<u32>,
    key: Option<KeyName>,
    pin_cache: Option<Duration>,
    is_named: bool,
}

/// Obeys one of these directives; whether it is one.
pub(super) fn apply(draft: &mut Draft, line: &Line) -> Result<bool, ProfileError> {
    let tokens = &mut draft.tokens;
    match line.name.as_str() {
        "pkcs11-providers" => {
            if line.words.is_empty() || line.words.len() > MAX_PROVIDERS {
                return Err(line.error(format_args!("needs 1 to {MAX_PROVIDERS} libraries")));
            }
            if let Some(relative) = line.words.iter().find(|path| !path.starts_with('/')) {
                return Err(line.error(format_args!(
                    "{relative:?} is not an absolute path; write /usr/lib/…/{relative}"
                )));
            }
            tokens.providers.clone_from(&line.words);
        }
        "pkcs11-protected-authentication" => tokens.pin_pads = flags(line)?,
        "pkcs11-cert-private" => tokens.hidden = flags(line)?,
        "pkcs11-private-mode" => {
            let mask = |word: &String| {
                let digits = word.strip_prefix("0x").unwrap_or(word);
                u32::from_str_radix(digits, 16).ok().filter(|mask| *mask < 16)
            };
            let masks = line.words.iter().take(MAX_PROVIDERS).map(mask);
            let masks = masks.collect::<Option<Vec<_>>>().filter(|masks| !masks.is_empty());
            tokens.modes = masks.ok_or_else(|| line.error("needs hexadecimal masks of 0 to f"))?;
            if tokens.modes.iter().any(|mask| *mask != 0 && mask & SIGN == 0) {
                return Err(line.error("a key is used by C_Sign only; use 0 or 1"));
            }
        }
        "pkcs11-pin-cache" => {
            tokens.pin_cache = match line.word(0) {
                Some("-1") => None,
                _ => Some(directive::seconds(line, 0, 0, 86_400 * 365)?),
            };
        }
        "pkcs11-id" => {
            let name = line.word(0).ok_or_else(|| line.error("needs the name of a key"))?;
            let key = KeyName::parse(name).map_err(|why| line.error(why))?;
            if key.pin_file.is_some() {
                return Err(line.error("pin-source names a file outside; use --pin-file FILE"));
            }
            tokens.key = Some(key);
        }
        _ => return Ok(false),
    }
    tokens.is_named = true;
    Ok(true)
}

fn flags(line: &Line) -> Result<Vec<bool>, ProfileError> {
    let flag = |word: &String| match word.as_str() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    };
    let flags = line.words.iter().take(MAX_PROVIDERS).map(flag).collect::<Option<Vec<_>>>();
    flags
        .filter(|flags| !flags.is_empty())
        .ok_or_else(|| line.error("needs 0 or 1 for each of pkcs11-providers"))
}

/// Puts together what the profile says; nothing if it says nothing of tokens.
pub(super) fn finish(draft: &mut Draft) -> Result<Option<TokenUse>, ProfileError> {
    let Tokens { mut providers, pin_pads, hidden, key, pin_cache, is_named, .. } =
        std::mem::take(&mut draft.tokens);
    if !is_named {
        return Ok(None);
    }
    let Some(key) = key else {
        return Err(ProfileError::whole(
            "\"pkcs11-id\" is missing: say which key; `warren pkcs11 list LIBRARY` shows them",
        ));
    };
    if providers.is_empty() {
        providers.extend(key.module.clone().filter(|module| module.starts_with('/')));
    }
    if providers.is_empty() {
        let missing = "\"pkcs11-providers\" is missing: say which library knows the token";
        return Err(ProfileError::whole(missing));
    }
    if draft.key.is_some() || draft.bundle.is_some() || draft.has_cert {
        return Err(ProfileError::whole(
            "\"pkcs11-id\" beside \"cert\", \"key\" or \"pkcs12\"; keep one: the token has both",
        ));
    }
    let at = |flags: &[bool], at: usize| flags.get(at).copied().unwrap_or_default();
    let provider = |(n, path)| TokenProvider {
        path,
        has_pin_pad: at(&pin_pads, n),
        hides_certificates: at(&hidden, n),
    };
    let providers = providers.into_iter().enumerate().map(provider).collect();
    let extra = draft.certificate.take().unwrap_or_default();
    Ok(Some(TokenUse { providers, key, pin_cache, extra }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    const HEAD: &str = "client\ndev tun\nremote 192.0.2.1\npeer-fingerprint \
        00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:1f\n";
    const KEY: &str = "pkcs11-id 'SoftHSM\\x20project/SoftHSM\\x20v2/cfe3/tok/01'\n";

    fn parse(lines: &str) -> Result<Profile, ProfileError> {
        Profile::parse(&format!("{HEAD}{lines}"), &mut |_| Ok(b"PEM".to_vec()))
    }

    #[test]
    fn a_token_takes_the_place_of_certificate_and_key() {
        let lines = "pkcs11-providers /a.so /b.so\npkcs11-protected-authentication 0 1\n\
            pkcs11-cert-private 1\npkcs11-private-mode 0 1\npkcs11-pin-cache 300\n";

        let profile = parse(&format!("{lines}{KEY}extra-certs between.pem\n")).unwrap();

        let token = profile.token.unwrap();
        assert_eq!(token.key.token.as_deref(), Some("tok"));
        assert_eq!(token.pin_cache, Some(Duration::from_secs(300)));
        assert_eq!(token.extra, b"PEM");
        let shown = token.providers.iter();
        let shown = shown.map(|it| (it.path.as_str(), it.has_pin_pad, it.hides_certificates));
        assert_eq!(shown.collect::<Vec<_>>(), [("/a.so", false, true), ("/b.so", true, false)]);
    }

    #[test]
    fn a_uri_with_a_module_needs_no_provider_and_the_pin_stays_by_default() {
        let uri = "pkcs11-id pkcs11:token=a;id=%01?module-path=/a.so\npkcs11-pin-cache -1\n";

        let token = parse(uri).unwrap().token.unwrap();

        assert_eq!(token.providers[0].path, "/a.so");
        assert_eq!(token.pin_cache, None);
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let given = format!("pkcs11-providers /a.so\n{KEY}");
        for (lines, word) in [
            (KEY.to_owned(), "\"pkcs11-providers\" is missing"),
            ("pkcs11-providers /a.so\n".to_owned(), "\"pkcs11-id\" is missing"),
            ("pkcs11-providers a.so\n".to_owned(), "not an absolute path"),
            ("pkcs11-providers\n".to_owned(), "needs 1 to 16"),
            (format!("{given}cert a\nkey b\n"), "keep one"),
            (format!("{given}cert a\n"), "keep one"),
            (format!("{given}pkcs11-private-mode 4\n"), "C_Sign only"),
            (format!("{given}pkcs11-private-mode zz\n"), "hexadecimal"),
            (format!("{given}pkcs11-cert-private yes\n"), "0 or 1"),
            (format!("{given}pkcs11-pin-cache soon\n"), "not a number"),
            (format!("{given}pkcs11-id-management\n"), "refused by name"),
            ("pkcs11-id pkcs11:id=1?pin-source=/p\n".to_owned(), "--pin-file"),
            ("pkcs11-id pkcs11:token=1\n".to_owned(), "names no key"),
        ] {
            let error = parse(&lines).map(drop).unwrap_err().to_string();
            if word == "refused by name" {
                assert!(error.contains("pkcs11-id-management: not supported"), "{error}");
                continue;
            }
            assert!(error.contains(word), "{lines}: {error}");
        }
    }
}
