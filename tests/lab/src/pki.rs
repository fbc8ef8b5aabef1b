//! A certificate authority for the peers that Warren does not provide with one, by `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A certificate and its private key, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key (PKCS #8).
    pub key: String,
}

/// A CA with ECDSA P-256 keys, and a static key for tls-crypt or tls-auth.
#[derive(Clone, Debug)]
pub struct Pki {
    folder: PathBuf,
    /// The CA's certificate, PEM.
    pub ca: String,
    /// The pre-shared OpenVPN key.
    pub static_key: String,
}

impl Pki {
    /// Makes a CA in `folder`, which must exist.
    ///
    /// # Errors
    /// If openssl or openvpn is missing or fails.
    pub fn new(folder: &Path) -> Result<Self> {
        let folder = folder.join("pki");
        fs::create_dir_all(&folder)?;
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let request = ["req", "-x509", "-days", "30", "-subj", "/CN=Lab CA"];
        let files = ["-keyout", "ca.key", "-out", "ca.pem"];
        run(&folder, "openssl", &[&request[..], &curve, &files].concat())?;
        run(&folder, "openvpn", &["--genkey", "secret", "static.key"])?;
        let ca = read(&folder, "ca.pem")?;
        let static_key = read(&folder, "static.key")?;
        Ok(Self { folder, ca, static_key })
    }

    /// The same keys and files, but profiles will trust `other`'s CA.
    #[must_use]
    pub fn trusting(&self, other: &Self) -> Self {
        Self { ca: other.ca.clone(), ..self.clone() }
    }

    /// Issues a server certificate.
    ///
    /// # Errors
    /// If openssl fails.
    pub fn server(&self, name: &str) -> Result<Identity> {
        self.issue(name, "serverAuth", 30)
    }

    /// Issues a server certificate that has a mail address beside its common name.
    ///
    /// # Errors
    /// If openssl fails.
    pub fn server_with_mail(&self, name: &str, mail: &str) -> Result<Identity> {
        self.issue_to(&format!("/CN={name}/emailAddress={mail}"), name, "serverAuth", 30)
    }

    /// Issues a client certificate.
    ///
    /// # Errors
    /// If openssl fails.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.issue(name, "clientAuth", 30)
    }

    /// Issues a certificate that ended yesterday.
    ///
    /// # Errors
    /// If openssl fails.
    pub fn expired(&self, name: &str, usage: &str) -> Result<Identity> {
        self.issue(name, usage, -1)
    }

    fn issue(&self, name: &str, usage: &str, days: i32) -> Result<Identity> {
        self.issue_to(&format!("/CN={name}"), name, usage, days)
    }

    fn issue_to(&self, subject: &str, name: &str, usage: &str, days: i32) -> Result<Identity> {
        let file = |kind: &str| format!("{name}.{kind}");
        let (key, request) = (file("key"), file("csr"));
        let (certificate, extensions) = (file("pem"), file("ext"));
        fs::write(
            self.folder.join(&extensions),
            format!(
                "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyAgreement\nextendedKeyUsage={usage}\n"
            ),
        )?;
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let wanted = ["req", "-new", "-subj", subject, "-keyout", &key, "-out", &request];
        run(&self.folder, "openssl", &[&wanted[..], &curve].concat())?;
        let days = days.to_string();
        let signing = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key"];
        let result = ["-days", &days, "-extfile", &extensions, "-out", &certificate];
        run(&self.folder, "openssl", &[&signing[..], &result].concat())?;
        Ok(Identity {
            certificate: read(&self.folder, &certificate)?,
            key: read(&self.folder, &key)?,
        })
    }
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .with_context(|| format!("start {program} (is the Debian package installed?)"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}`: {}", arguments.join(" "), said.trim_end());
    }
    Ok(())
}

fn read(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}
