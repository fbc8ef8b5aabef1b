/// Draws `N` bytes from the operating system's generator.
///
/// # Panics
///
/// If the system has no working generator: nothing safe could be done without one.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    crypto::tls::provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the operating system has a random generator");
    bytes
}
