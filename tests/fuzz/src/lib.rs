//! Fuzz targets, and their corpora as plain tests.
//!
//! A target is a function of bytes that must neither panic nor hang nor eat memory, and that
//! asserts what must hold for every input. It lives beside the code it attacks, in `pub mod fuzz`
//! of that crate, so that it always compiles; here it gets a name, by one line in [`TARGETS`], and
//! a corpus, in `corpus/NAME`. From then on `cargo test -p fuzz` replays the corpus, and
//! `cargo xtask fuzz NAME` looks for what is not in it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod ethernet;
mod reader;

/// Something that any input must leave unharmed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What `cargo xtask fuzz` calls it, and the name of its folder in `corpus`.
    pub name: &'static str,
    /// Panics if the input found a mistake.
    pub run: fn(&[u8]),
}

/// Every target, by crate and name.
pub const TARGETS: &[Target] = &[
    target("dataplane_coalesce", dataplane::fuzz::coalesce),
    target("dataplane_deframe", dataplane::fuzz::deframe),
    target("dataplane_ip", dataplane::fuzz::ip),
    target("dataplane_split", dataplane::fuzz::split),
    target("hub_frames", hub::fuzz::frames),
    target("hub_network", hub::fuzz::network),
    target("openvpn_client_key", openvpn::fuzz::client_key),
    target("openvpn_control", openvpn::fuzz::control),
    target("openvpn_data", openvpn::fuzz::data),
    target("openvpn_login", openvpn::fuzz::login),
    target("openvpn_management", openvpn::fuzz::management),
    target("openvpn_messages", openvpn::fuzz::messages),
    target("openvpn_profile", openvpn::fuzz::profile),
    target("openvpn_reliable", openvpn::fuzz::reliable),
    target("openvpn_shape", openvpn::fuzz::shape),
    target("pki_certificate", pki::fuzz::certificate),
    target("pki_key_name", pki::fuzz::key_name),
    target("pki_revocation_list", pki::fuzz::revocation_list),
    target("proxy_http", proxy::fuzz::http),
    target("proxy_socks", proxy::fuzz::socks),
    target("token_message", token::fuzz::message),
    target("wire_ethernet", ethernet::ethernet),
    target("wire_reader", reader::reader),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The target called `name`.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
