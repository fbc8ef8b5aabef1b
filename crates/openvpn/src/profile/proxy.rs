//! Proxies on the way to the server: `http-proxy`, `socks-proxy`, and what belongs to them.

use std::sync::Arc;
use std::time::Duration;

use proxy::{Authentication, HttpOptions, ProxyError, Version};

use super::directive::{login, number, port};
use super::{Draft, Line, Login, ProfileError, ReadFile};

/// A proxy to go through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password, for a proxy that asks.
    pub login: Option<proxy::Login>,
    /// What it speaks.
    pub kind: ProxyKind,
    /// How long one conversation with it may take, if the profile says so.
    pub timeout: Option<Duration>,
}

/// What a proxy speaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Http {
        /// Which proofs it may ask for.
        allowed: Authentication,
        /// What requests say.
        options: HttpOptions,
    },
    /// SOCKS 5.
    Socks,
}

/// What the profile says of HTTP proxies in general.
#[derive(Debug, Default)]
pub(super) struct HttpSettings {
    options: HttpOptions,
    timeout: Option<Duration>,
    login: Option<proxy::Login>,
}

/// Obeys one of these directives; whether it is one.
pub(super) fn apply(
    draft: &mut Draft,
    line: &Line,
    read: ReadFile<'_>,
) -> Result<bool, ProfileError> {
    match line.name.as_str() {
        "http-proxy" => {
            let proxy = http(line, read)?;
            place(draft, proxy);
        }
        "socks-proxy" => {
            let proxy = socks(line, read)?;
            place(draft, proxy);
        }
        "http-proxy-user-pass" => draft.http.login = Some(given(line, login(line, read)?)?),
        "http-proxy-timeout" => {
            draft.http.timeout = Some(Duration::from_secs(number(line, 0, 1, 3600)?));
        }
        "http-proxy-option" => option(draft, line)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A block's proxy is its own; any other is for all remotes without one.
fn place(draft: &mut Draft, proxy: Proxy) {
    match &mut draft.block {
        Some(block) => block.proxy = Some(proxy),
        None => draft.proxy = Some(proxy),
    }
}

fn http(line: &Line, read: ReadFile<'_>) -> Result<Proxy, ProfileError> {
    let (host, port) = address(line, None)?;
    let (mut allowed, mut login_given) = (Authentication::None, None);
    match line.word(2) {
        None => {}
        Some("auto") => allowed = Authentication::Basic,
        Some("auto-nct") => allowed = Authentication::Digest,
        Some("none") if line.words.len() == 3 => {}
        Some(file) => {
            allowed = Authentication::Basic;
            login_given = Some(given(line, login(&beginning_with(line, file), read)?)?);
        }
    }
    match line.word(3).map(str::to_ascii_lowercase).as_deref() {
        None => {}
        Some("none") => allowed = Authentication::None,
        Some("basic") => allowed = Authentication::Basic,
        Some("digest") => allowed = Authentication::Digest,
        Some("ntlm" | "ntlm2") => {
            return Err(line.error("NTLM is broken and not supported; use basic or digest"));
        }
        Some(other) => {
            return Err(line.error(format_args!("{other:?} is none of none, basic, digest")));
        }
    }
    let kind = ProxyKind::Http { allowed, options: HttpOptions::default() };
    Ok(Proxy { host, port, login: login_given, kind, timeout: None })
}

fn socks(line: &Line, read: ReadFile<'_>) -> Result<Proxy, ProfileError> {
    let (host, port) = address(line, Some(1080))?;
    let login = match line.word(2) {
        None => None,
        Some(file) => Some(given(line, login(&beginning_with(line, file), read)?)?),
    };
    Ok(Proxy { host, port, login, kind: ProxyKind::Socks, timeout: None })
}

fn address(line: &Line, default: Option<u16>) -> Result<(String, u16), ProfileError> {
    let host = line.word(0).ok_or_else(|| line.error("needs a host and a port"))?;
    proxy::Target::new(host, 1).map_err(|_| line.error("the proxy's name is not a host name"))?;
    let port = match (line.word(1), default) {
        (None, Some(default)) => default,
        _ => port(line, 1)?,
    };
    Ok((host.to_owned(), port))
}

/// The same line, for a reader that expects the file's name first.
fn beginning_with(line: &Line, file: &str) -> Line {
    let words = vec![file.to_owned()];
    Line { number: line.number, name: line.name.clone(), words, block: None }
}

fn given(line: &Line, login: Login) -> Result<proxy::Login, ProfileError> {
    match login {
        Login::Given(user, password) => Ok(proxy::Login { user, password }),
        _ => Err(line.error("needs a file or an inline block with the user name on the first line, the password on the second")),
    }
}

fn option(draft: &mut Draft, line: &Line) -> Result<(), ProfileError> {
    let wrong = |error: ProxyError| line.error(error);
    let options = &mut draft.http.options;
    match (line.word(0), line.word(1), line.word(2)) {
        (Some("VERSION"), Some("1.0"), None) => options.set_version(Version::Http10),
        (Some("VERSION"), Some("1.1"), None) => options.set_version(Version::Http11),
        (Some("AGENT"), Some(agent), None) => options.set_agent(agent).map_err(wrong)?,
        (Some("CUSTOM-HEADER"), Some(name), value) => {
            options.add_header(name, value.unwrap_or_default()).map_err(wrong)?;
        }
        _ => {
            return Err(
                line.error("needs VERSION 1.0 or 1.1, AGENT TEXT, or CUSTOM-HEADER NAME VALUE")
            );
        }
    }
    Ok(())
}

/// A proxy as the remotes get it, once the whole profile is known.
pub(super) fn finish(proxy: Proxy, settings: &HttpSettings) -> Arc<Proxy> {
    let mut proxy = proxy;
    if let ProxyKind::Http { options, .. } = &mut proxy.kind {
        options.clone_from(&settings.options);
        proxy.timeout = settings.timeout;
        proxy.login = proxy.login.or_else(|| settings.login.clone());
    }
    Arc::new(proxy)
}
