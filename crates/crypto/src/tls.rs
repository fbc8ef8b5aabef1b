//! The cryptography that rustls is given.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// Suites and groups for every TLS connection of the program.
///
/// The key exchange draws its ephemeral keys from the operating system: that is the one piece of
/// randomness in an engine that does not come from its seed.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}
