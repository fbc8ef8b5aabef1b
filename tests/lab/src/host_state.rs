//! What a program may change on its host and has to put back.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::namespace::Namespace;

/// Settings of network devices and the stack that a VPN is likely to touch.
const SYSCTLS: &str = r"^net\.ipv[46]\..*(forward|accept_ra$|rp_filter|src_valid_mark)";

/// Rules, addresses, routes, settings and resolver of a namespace at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    parts: BTreeMap<&'static str, BTreeSet<String>>,
}

impl HostState {
    /// Looks at everything.
    ///
    /// # Errors
    /// If one of the tools fails.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let questions: [(&'static str, &str, &[&str]); 8] = [
            ("nftables", "nft", &["list", "ruleset"]),
            ("addresses", "ip", &["-o", "addr"]),
            ("IPv4 routes", "ip", &["route", "show", "table", "all"]),
            ("IPv6 routes", "ip", &["-6", "route", "show", "table", "all"]),
            ("IPv4 rules", "ip", &["rule"]),
            ("IPv6 rules", "ip", &["-6", "rule"]),
            ("sysctls", "sysctl", &["-a", "-r", SYSCTLS]),
            ("resolver", "cat", &["/etc/resolv.conf"]),
        ];
        let mut parts = BTreeMap::new();
        for (part, program, arguments) in questions {
            let text = namespace.run(program, arguments)?;
            // The order of a listing is not a promise.
            parts.insert(part, text.lines().map(|line| line.trim().to_owned()).collect());
        }
        Ok(Self { parts })
    }

    /// Checks that the namespace is as it was.
    ///
    /// # Errors
    /// If not, with each line that is missing (`-`) or new (`+`).
    pub fn check_unchanged(&self, namespace: &Namespace) -> Result<()> {
        let after = Self::of(namespace)?;
        let difference = self.difference(&after);
        ensure!(difference.is_empty(), "{} changed:\n{difference}", namespace.name());
        Ok(())
    }

    fn difference(&self, after: &Self) -> String {
        let mut text = String::new();
        for (part, before) in &self.parts {
            let after = &after.parts[part];
            for line in before.difference(after) {
                text.push_str(&format!("  {part}: - {line}\n"));
            }
            for line in after.difference(before) {
                text.push_str(&format!("  {part}: + {line}\n"));
            }
        }
        text
    }
}
