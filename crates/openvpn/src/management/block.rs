use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::profile::words;

/// Lines in a block; a client with hundreds of routes of its own gets them from the network.
const MAX_LINES: usize = 256;
/// The longest option that fits into one control message with room for its surroundings.
const MAX_OPTION: usize = 512;

/// What a management client wants of a client that it lets in: the lines between `client-auth` and
/// `END`, in the words of a client-config file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Block {
    /// Options for the client (`push`).
    pub push: Vec<String>,
    /// Its addresses (`ifconfig-push`, `ifconfig-ipv6-push`).
    pub addresses: Vec<IpAddr>,
    /// Networks behind it (`iroute`, `iroute-ipv6`).
    pub behind: Vec<IpNet>,
    /// It is not to come in after all (`disable`).
    pub is_disabled: bool,
    /// Names of directives that mean nothing here.
    pub ignored: Vec<String>,
    lines: usize,
}

/// Why a line is not taken; the login that it is about must not be granted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockError(pub String);

impl std::fmt::Display for BlockError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BlockError {}

impl Block {
    /// Takes one line.
    ///
    /// # Errors
    ///
    /// One line: what is wrong with it.
    pub fn push(&mut self, line: &str) -> Result<(), BlockError> {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return Err(BlockError(format!("more than {MAX_LINES} lines for one client")));
        }
        let words = words(line.trim()).map_err(BlockError)?;
        let mut words = words.iter().map(String::as_str);
        let Some(name) = words.next() else { return Ok(()) };
        let arguments = words.collect::<Vec<_>>();
        let wrong = || BlockError(format!("{name}: its arguments cannot be read"));
        match (name, arguments.as_slice()) {
            ("push", [option]) => {
                // A comma would begin another option, and so would a line feed.
                let is_sound = !option.is_empty()
                    && option.len() <= MAX_OPTION
                    && option.chars().all(|c| c != ',' && !c.is_control());
                if !is_sound {
                    return Err(BlockError(format!(
                        "push: an option has 1 to {MAX_OPTION} bytes, no comma and no control \
                         character"
                    )));
                }
                self.push.push((*option).to_owned());
            }
            ("ifconfig-push", [address, ..]) => {
                let address = address.parse::<Ipv4Addr>().map_err(|_| wrong())?;
                self.addresses.push(address.into());
            }
            ("ifconfig-ipv6-push", [address, ..]) => {
                let address = address.split('/').next().unwrap_or_default();
                let address = address.parse::<Ipv6Addr>().map_err(|_| wrong())?;
                self.addresses.push(address.into());
            }
            ("iroute", [network, mask @ ..]) => {
                let network = network.parse::<Ipv4Addr>().map_err(|_| wrong())?;
                let mask = match mask {
                    [] => Ipv4Addr::BROADCAST,
                    [mask] => mask.parse().map_err(|_| wrong())?,
                    _ => return Err(wrong()),
                };
                let net = Ipv4Net::with_netmask(network, mask).map_err(|_| wrong())?;
                self.behind.push(net.trunc().into());
            }
            ("iroute-ipv6", [network]) => {
                let net = network.parse::<Ipv6Net>().map_err(|_| wrong())?;
                self.behind.push(net.trunc().into());
            }
            ("disable", []) => self.is_disabled = true,
            (
                "push" | "ifconfig-push" | "ifconfig-ipv6-push" | "iroute" | "iroute-ipv6"
                | "disable",
                _,
            ) => return Err(wrong()),
            _ => self.ignored.push(super::one_line(name)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lines: &[&str]) -> Result<Block, BlockError> {
        let mut block = Block::default();
        lines.iter().try_for_each(|line| block.push(line))?;
        Ok(block)
    }

    #[test]
    fn a_client_config_is_understood() {
        let read = block(&[
            "push \"route 10.9.0.0 255.255.255.0\"",
            "  push 'echo a \"b\"'",
            "# a comment",
            "",
            "ifconfig-push 10.86.0.9 255.255.0.0",
            "ifconfig-ipv6-push fd86::9/64 fd86::1",
            "iroute 192.168.40.7 255.255.255.0",
            "iroute-ipv6 fd40::/48",
            "comp-lzo no",
        ])
        .unwrap();

        assert_eq!(read.push, ["route 10.9.0.0 255.255.255.0", "echo a \"b\""]);
        assert_eq!(
            read.addresses,
            ["10.86.0.9", "fd86::9"].map(|at| at.parse::<IpAddr>().unwrap())
        );
        assert_eq!(read.behind, ["192.168.40.0/24", "fd40::/48"].map(|net| net.parse().unwrap()));
        assert_eq!(read.ignored, ["comp-lzo"]);
        assert!(!read.is_disabled && block(&["disable"]).unwrap().is_disabled);
    }

    #[test]
    fn an_option_cannot_smuggle_another() {
        for line in [
            "push \"route 10.9.0.0,auth-token x\"",
            "push \"a\u{0}b\"",
            "push \"\"",
            "push a b",
            "push",
            &format!("push {}", "x".repeat(MAX_OPTION + 1)),
        ] {
            assert!(block(&[line]).is_err(), "{line:?}");
        }
    }

    #[test]
    fn half_a_line_grants_nothing() {
        for line in [
            "ifconfig-push",
            "ifconfig-push 10.86.0",
            "ifconfig-ipv6-push 10.0.0.1",
            "iroute 192.168.40.0 255.0.255.0",
            "iroute 192.168.40.0 255.255.255.0 x",
            "iroute-ipv6 fd40::/129",
            "push \"route",
            "disable now",
        ] {
            assert!(block(&[line]).is_err(), "{line:?}");
        }
        assert!(block(&["push x"; MAX_LINES]).is_ok());
        assert!(block(&["push x"; MAX_LINES + 1]).is_err());
    }
}
