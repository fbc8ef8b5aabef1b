//! Fuzz targets: each takes any bytes, and panics if it finds a mistake.

use crate::KeyName;

/// Names of keys, as operators and profiles give them.
pub fn key_name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(name) = KeyName::parse(text) else { return };

    let shown = name.to_string();
    let bare = KeyName { module: None, pin_file: None, ..name };
    // Escapes make it longer than what may be read.
    if shown.len() <= 4096 {
        assert_eq!(KeyName::parse(&shown), Ok(bare), "{shown}");
    }
}
