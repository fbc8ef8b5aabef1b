//! A SoftHSM2 token of one's own, behind a module that can be told to misbehave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The module itself, which needs [`Token::settings`] in `SOFTHSM2_CONF`.
pub const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// What the module of a [`Token`] can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Signatures never end.
    HangSigning,
    /// It never gets as far as to say what it can.
    HangLoading,
    /// The token has been pulled out.
    Gone,
    /// It crashes when it is to sign.
    Crash,
}

impl Mischief {
    fn file(self) -> &'static str {
        match self {
            Self::HangSigning => "hang-signing",
            Self::HangLoading => "hang-loading",
            Self::Gone => "gone",
            Self::Crash => "crash",
        }
    }
}

/// SoftHSM2's functions, some of them with our own in front. The numbers are their places in
/// CK_FUNCTION_LIST (PKCS #11 2.40, 3.1).
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
struct list { unsigned char version[2]; void *functions[68]; };
enum { GET_SLOT_LIST = 4, SIGN = 43, DEVICE_REMOVED = 0x32 };

static struct list ours;
static ulong_t (*real_sign)(ulong_t, void *, ulong_t, void *, ulong_t *);
static ulong_t (*real_slots)(unsigned char, ulong_t *, ulong_t *);

static int told(const char *file) { return access(file, F_OK) == 0; }
static void hang(void) { for (;;) pause(); }

static ulong_t sign(ulong_t session, void *data, ulong_t len, void *out, ulong_t *out_len) {
    if (told(FOLDER "/hang-signing")) hang();
    if (told(FOLDER "/crash")) abort();
    if (told(FOLDER "/gone")) return DEVICE_REMOVED;
    return real_sign(session, data, len, out, out_len);
}

static ulong_t slots(unsigned char with_token, ulong_t *list, ulong_t *count) {
    if (told(FOLDER "/gone")) { *count = 0; return 0; }
    return real_slots(with_token, list, count);
}

ulong_t C_GetFunctionList(struct list **out) {
    struct list *real = 0;
    ulong_t (*get)(struct list **);
    if (told(FOLDER "/hang-loading")) hang();
    setenv("SOFTHSM2_CONF", FOLDER "/softhsm2.conf", 1);
    void *library = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    if (!library || !(get = dlsym(library, "C_GetFunctionList")) || get(&real)) return 5;
    memcpy(&ours, real, sizeof ours);
    real_sign = ours.functions[SIGN];
    real_slots = ours.functions[GET_SLOT_LIST];
    ours.functions[SIGN] = sign;
    ours.functions[GET_SLOT_LIST] = slots;
    *out = &ours;
    return 0;
}
"#;

/// A token.
#[derive(Debug)]
pub struct Token {
    folder: PathBuf,
}

impl Token {
    /// Its label.
    pub const LABEL: &str = "my tok/en";
    /// Its PIN.
    pub const PIN: &str = "648219";

    /// Makes a token and its module in `folder`, which must exist.
    ///
    /// # Errors
    /// If SoftHSM2, OpenSC's tools or a C compiler are missing or fail.
    pub fn new(folder: &Path) -> Result<Self> {
        let token = Self { folder: folder.join("token") };
        fs::create_dir_all(token.folder.join("objects"))?;
        let objects = token.folder.join("objects");
        let settings = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            objects.display()
        );
        fs::write(token.settings(), settings)?;
        let pins = ["--pin", Self::PIN, "--so-pin", "00000000"];
        let new = ["--init-token", "--free", "--label", Self::LABEL];
        token.run("softhsm2-util", &[&new[..], &pins].concat())?;
        fs::write(token.folder.join("module.c"), SOURCE)?;
        let folder = format!("-DFOLDER=\"{}\"", token.folder.display());
        let softhsm = format!("-DSOFTHSM=\"{SOFTHSM}\"");
        let library = ["-shared", "-fPIC", "-O1", "-o", "module.so", "module.c", "-ldl"];
        token.run("gcc", &[&[folder.as_str(), &softhsm][..], &library].concat())?;
        Ok(token)
    }

    /// The library that knows the token.
    #[must_use]
    pub fn module(&self) -> String {
        self.folder.join("module.so").display().to_string()
    }

    /// What [`SOFTHSM`] itself has to be told to know the token.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// A file with a PIN.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn pin_file(&self, pin: &str) -> Result<String> {
        let file = self.folder.join(format!("pin-{pin}"));
        fs::write(&file, format!("{pin}\n"))?;
        Ok(file.display().to_string())
    }

    /// Makes a key that is in the token and nowhere else: `RSA`, or on the curve of this name.
    ///
    /// # Errors
    /// If openssl or the token fail.
    pub fn make_key(&self, id: &str, kind: &str) -> Result<()> {
        let curve = format!("ec_paramgen_curve:{kind}");
        let kind = match kind {
            "RSA" => ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            _ => ["-algorithm", "EC", "-pkeyopt", &curve],
        };
        let (key, public) = (format!("{id}.key"), format!("{id}.pub"));
        self.run("openssl", &[&["genpkey", "-out", &key][..], &kind].concat())?;
        self.run("openssl", &["pkey", "-in", &key, "-pubout", "-out", &public])?;
        let place = ["--token", Self::LABEL, "--pin", Self::PIN, "--id", id, "--label", id];
        self.run("softhsm2-util", &[&["--import", &key][..], &place].concat())?;
        fs::remove_file(self.folder.join(key)).context("remove the key's file")
    }

    /// Has the CA in `pki` certify a key for a client, and puts the certificate beside it.
    ///
    /// # Errors
    /// If openssl or the token fail.
    pub fn certify(&self, pki: &Path, id: &str, name: &str) -> Result<()> {
        let file = |kind: &str| format!("{id}.{kind}");
        let (public, der, extensions) = (file("pub"), file("der"), file("ext"));
        let usage = "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n";
        fs::write(self.folder.join(&extensions), usage)?;
        let (ca, key) = (pki.join("ca.pem"), pki.join("ca.key"));
        let (ca, key) = (ca.display().to_string(), key.display().to_string());
        let subject = format!("/CN={name}");
        let public = ["x509", "-new", "-force_pubkey", &public, "-subj", &subject, "-days", "30"];
        let signed = ["-CA", &ca, "-CAkey", &key, "-extfile", &extensions];
        let written = ["-outform", "der", "-out", &der];
        self.run("openssl", &[&public[..], &signed, &written].concat())?;
        self.tool(&["--write-object", &der, "--type", "cert", "--id", id]).map(drop)
    }

    /// From now on the module does this.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn misbehave(&self, how: Mischief) -> Result<()> {
        fs::write(self.folder.join(how.file()), "").context("tell the module")
    }

    /// From now on it does not.
    ///
    /// # Errors
    /// If it was not told to.
    pub fn behave(&self, how: Mischief) -> Result<()> {
        fs::remove_file(self.folder.join(how.file())).context("tell the module")
    }

    fn tool(&self, arguments: &[&str]) -> Result<String> {
        let login = ["--module", SOFTHSM, "--login", "--pin", Self::PIN];
        self.run("pkcs11-tool", &[&login[..], arguments].concat())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .env("SOFTHSM2_CONF", self.settings())
            .current_dir(&self.folder)
            .output()
            .with_context(|| format!("start {program} (is the Debian package installed?)"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
