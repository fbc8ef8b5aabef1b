//! What the network that is bridged has to be.

use ipnet::IpNet;

use crate::error::{ConfigError, Source};
use crate::file::NetworkTable;

/// Checks the keys about the bridge against the pools and each other.
pub(crate) fn check(
    table: &NetworkTable,
    mut pools: impl Iterator<Item = (&'static str, IpNet)> + Clone,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    let (networks, key) = (&table.bridge_networks, "network.bridge_networks");
    if table.bridge.value.0.is_none() {
        return match networks.value.first() {
            Some(net) => {
                let what = "nothing is bridged; name the interface in `bridge`, or remove this";
                Err(source.error(net.at, Some(key), what))
            }
            None => Ok(()),
        };
    }
    if !table.client_to_client.value {
        let what = "with client_to_client = false, members reach nobody on the network that is \
                    bridged; set it to true, or remove this";
        return Err(source.error(table.bridge.at, Some("network.bridge"), what));
    }
    for (index, net) in networks.value.iter().enumerate() {
        let (at, net) = (net.at, net.value);
        if let Some((name, pool)) = pools.find(|(_, pool)| pool.contains(&net)) {
            let what = format!(
                "{net} is all of network.{name} ({pool}), or a part of it; the pool may be a part \
                 of this, not the other way round"
            );
            return Err(source.error(at, Some(key), what));
        }
        let overlaps = |other: &IpNet| other.contains(&net) || net.contains(other);
        let mut others = networks.value[..index].iter().map(|other| other.value);
        if let Some(other) = others.find(overlaps) {
            let what = format!("{net} overlaps {other}; remove the smaller one");
            return Err(source.error(at, Some(key), what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::Config;

    fn refused(network: &str) -> String {
        let text = format!("[network]\n{network}\n");
        let sentence = Config::parse(&text, "w.toml").unwrap_err().to_string();
        assert!(!sentence.contains('\n'), "more than one line: {sentence}");
        sentence
    }

    #[test]
    fn the_pool_may_be_a_part_of_the_network_that_is_bridged() {
        let text = "[network]\nipv4 = \"192.168.7.192/26\"\nbridge = \"eth1\"\n\
                    bridge_networks = [\"192.168.7.0/24\", \"fd77::/64\"]\n";

        let network = Config::parse(text, "w.toml").unwrap().network;

        assert_eq!(network.bridge.as_deref(), Some("eth1"));
        assert_eq!(network.bridge_networks.len(), 2);
    }

    #[test]
    fn networks_that_contradict_each_other_are_refused_with_their_line() {
        for (network, words) in [
            ("bridge_networks = [\"192.168.7.0/24\"]", ":2: network.bridge_networks: nothing"),
            ("bridge = \"eth1\"\nbridge_networks = [\"10.86.0.0/16\"]", "network.ipv4"),
            ("bridge = \"eth1\"\nbridge_networks = [\"10.86.4.0/24\"]", "network.ipv4"),
            (
                "bridge = \"eth1\"\nbridge_networks = [\"192.168.0.0/16\", \"192.168.7.0/24\"]",
                "overlaps 192.168.0.0/16",
            ),
            ("client_to_client = false\nbridge = \"eth1\"", ":3: network.bridge: with"),
        ] {
            let sentence = refused(network);
            assert!(sentence.contains(words), "{sentence}");
        }
    }

    #[test]
    fn what_no_interface_can_be_called_is_refused() {
        for name in ["a name", "an-interface-of-more-bytes", "eth/1", "..", "\u{fc}ber"] {
            let sentence = refused(&format!("bridge = \"{name}\""));
            assert!(sentence.contains("network.bridge") && sentence.contains("eth1"), "{sentence}");
        }
    }
}
