//! QR codes on the terminal, for phones.

use std::fmt::Write as _;
use std::io::IsTerminal;

use anyhow::{Context, bail, ensure};
use qrcode::{Color, EcLevel, QrCode};
use zeroize::Zeroizing;

/// What the largest symbol holds (version 40, the least error correction), in bytes.
const MAX_BYTES: usize = 2953;
/// Light modules that a symbol must have around it.
const QUIET: usize = 4;
/// What makes a phone hand an address to OpenVPN Connect, from version 3.3.6 on.
const IMPORT: &str = "openvpn://import-profile/";

/// What a symbol holds, and what to do with it.
#[derive(Debug)]
pub(crate) struct Content {
    text: Zeroizing<String>,
    /// For the person in front of the terminal.
    pub(crate) advice: String,
}

impl Content {
    /// The profile itself, without its comments.
    pub(crate) fn profile(profile: &str, file_name: &str) -> anyhow::Result<Self> {
        let mut text = Zeroizing::new(String::with_capacity(profile.len()));
        for line in profile.lines().filter(|line| !line.starts_with('#')) {
            text.push_str(line);
            text.push('\n');
        }
        ensure!(
            text.len() <= MAX_BYTES,
            "the profile is {} bytes long, and a QR code holds {MAX_BYTES}; put the file on a web \
             server of yours and write --qr=https://…",
            text.len()
        );
        let advice = format!(
            "the QR code holds the profile itself, private keys included ({} bytes): no picture of \
             it may stay anywhere. OpenVPN Connect has no scanner for it; read it with an app that \
             saves text, save it as {file_name}, and open that with OpenVPN Connect",
            text.len()
        );
        Ok(Self { text, advice })
    }

    /// The address of a file that somebody will put there.
    pub(crate) fn address(address: &str) -> anyhow::Result<Self> {
        let is_plain = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}".contains(c);
        if !address.starts_with("https://") || !address.chars().all(is_plain) {
            bail!("{address:?} is no address to fetch a profile from; write --qr=https://…");
        }
        let advice = format!(
            "the QR code holds an address and no key: put the profile at {address}, and take it \
             away once the phone's camera has opened the code; OpenVPN Connect from 3.3.6 on \
             fetches it, if it trusts that web server's certificate"
        );
        Ok(Self { text: Zeroizing::new(format!("{IMPORT}{address}")), advice })
    }

    /// The symbol, two modules to a character, and how many columns it takes.
    pub(crate) fn draw(&self) -> anyhow::Result<(String, usize)> {
        let code = QrCode::with_error_correction_level(self.text.as_bytes(), EcLevel::L)
            .context("cannot make a QR code of it")?;
        Ok(draw(&code, std::io::stdout().is_terminal()))
    }
}

fn draw(code: &QrCode, with_colours: bool) -> (String, usize) {
    let width = code.width();
    let columns = width + 2 * QUIET;
    let is_dark = |x: usize, y: usize| {
        let (x, y) = (x.wrapping_sub(QUIET), y.wrapping_sub(QUIET));
        x < width && y < width && code[(x, y)] == Color::Dark
    };
    // Black on white whatever the terminal's colours: many cameras read no negative.
    let (begin, end) = if with_colours { ("\x1b[38;5;16;48;5;231m", "\x1b[0m") } else { ("", "") };
    let mut text = String::new();
    for y in (0..columns).step_by(2) {
        text.push_str(begin);
        for x in 0..columns {
            text.push(match (is_dark(x, y), is_dark(x, y + 1)) {
                (false, false) => ' ',
                (true, false) => '▀',
                (false, true) => '▄',
                (true, true) => '█',
            });
        }
        writeln!(text, "{end}").expect("writing into a String does not fail");
    }
    (text, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a symbol as a phone would, from what is on the terminal.
    fn scan(drawn: &str) -> String {
        const SCALE: usize = 3;
        let rows: Vec<Vec<char>> = drawn.lines().map(|line| line.chars().collect()).collect();
        let (width, height) = (rows[0].len() * SCALE, rows.len() * 2 * SCALE);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            let (row, is_lower) = (y / SCALE / 2, y / SCALE % 2 == 1);
            let dark = match rows[row][x / SCALE] {
                '█' => true,
                '▀' => !is_lower,
                '▄' => is_lower,
                _ => false,
            };
            if dark { 0 } else { 255 }
        });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "one symbol");
        grids[0].decode().unwrap().1
    }

    #[test]
    fn a_phone_reads_the_profile_without_its_comments() {
        let body = "remote vpn.example.org 1194 udp\n".repeat(88);
        let content = Content::profile(&format!("# comment\n{body}# more"), "a.ovpn").unwrap();

        let (drawn, columns) = content.draw().unwrap();

        assert_eq!(scan(&drawn), body);
        assert!(columns <= 185 && drawn.lines().all(|line| line.chars().count() == columns));
        assert!(content.advice.contains("a.ovpn"));
    }

    #[test]
    fn a_phone_reads_an_address_for_openvpn_connect() {
        let content = Content::address("https://example.org/x/a.ovpn").unwrap();

        let (drawn, _) = content.draw().unwrap();

        assert_eq!(scan(&drawn), "openvpn://import-profile/https://example.org/x/a.ovpn");
    }

    #[test]
    fn what_does_not_fit_or_is_no_address_is_refused_in_one_line() {
        let long = Content::profile(&"x".repeat(MAX_BYTES), "a.ovpn").unwrap_err().to_string();
        assert!(long.contains("2954 bytes") && !long.contains('\n'), "{long}");
        for address in ["", "http://example.org/a", "https://a b", "https://a\nremote x"] {
            assert!(Content::address(address).is_err(), "{address:?}");
        }
    }

    #[test]
    fn on_a_terminal_the_colours_are_set_and_set_back() {
        let code = QrCode::new("x").unwrap();
        let (text, _) = draw(&code, true);
        assert!(text.lines().all(|line| line.starts_with("\x1b[38") && line.ends_with("\x1b[0m")));
    }
}
