//! What `warren up` prints when everything is open.

use std::fmt;
use std::path::PathBuf;

/// Doors, networks and, the first time, how to get in. Its last line is `ready`.
#[derive(Debug, Default)]
pub(crate) struct Banner {
    /// Protocol and address, one entry for each address.
    pub(crate) doors: Vec<(String, String)>,
    /// The IPv4 network.
    pub(crate) network4: Option<String>,
    /// The IPv6 network.
    pub(crate) network6: Option<String>,
    /// On the first start only.
    pub(crate) first_user: Option<FirstUser>,
}

/// The user that the first start made.
#[derive(Debug)]
pub(crate) struct FirstUser {
    /// The name.
    pub(crate) user: String,
    /// The password, which is kept nowhere.
    pub(crate) password: String,
    /// Where the profile is.
    pub(crate) profile: PathBuf,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Warren {}", env!("CARGO_PKG_VERSION"))?;
        for (door, address) in &self.doors {
            writeln!(f, "  {door:<9} {address}")?;
        }
        for network in [&self.network4, &self.network6].into_iter().flatten() {
            writeln!(f, "  network   {network}")?;
        }
        if let Some(first) = &self.first_user {
            writeln!(f, "  user      {}", first.user)?;
            writeln!(f, "  password  {}    (shown this once)", first.password)?;
            writeln!(f, "  profile   {}", first.profile.display())?;
        }
        writeln!(f, "ready")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_start_says_how_to_get_in_and_ends_with_ready() {
        let banner = Banner {
            doors: vec![("openvpn".into(), "0.0.0.0:1194/udp".into())],
            network4: Some("10.86.0.0/16".into()),
            network6: None,
            first_user: Some(FirstUser {
                user: "warren".into(),
                password: "hush".into(),
                profile: "/var/lib/warren/profiles/warren.ovpn".into(),
            }),
        };

        let text = banner.to_string();

        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  openvpn   0.0.0.0:1194/udp",
                "  network   10.86.0.0/16",
                "  user      warren",
                "  password  hush    (shown this once)",
                "  profile   /var/lib/warren/profiles/warren.ovpn",
                "ready",
            ]
        );
    }

    #[test]
    fn a_later_start_shows_no_password() {
        assert!(!Banner::default().to_string().contains("password"));
    }
}
