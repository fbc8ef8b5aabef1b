//! What a profile lets a server push, and what it asks for itself.

use contract::Layer;

use super::{HostOptions, Outcome};

/// `pull-filter`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FilterAction {
    /// Obey it, whatever later filters say.
    Accept,
    /// Pass it over.
    Ignore,
    /// Leave the server.
    Reject,
}

/// How a profile treats what is pushed.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    /// Options of the profile's own: the words of each.
    pub(crate) own: Vec<Vec<String>>,
    /// `pull-filter`, in order: the first whose text an option begins with decides.
    pub(crate) filters: Vec<(FilterAction, String)>,
    /// `route-nopull`: neither routes nor resolvers of the server are obeyed.
    pub(crate) refuses_routes: bool,
    /// `route-noexec`: no routes at all are set.
    pub(crate) leaves_routes_alone: bool,
    /// `dev tun` or `dev tap`: on Ethernet, an address always comes with a mask.
    pub(crate) layer: Layer,
}

/// What is done with a pushed option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Judgement {
    Obey,
    PassOver,
    Leave,
}

impl Pull {
    /// The host's options before anything is pushed.
    pub(crate) fn host_options(&self) -> HostOptions {
        let mut options = HostOptions::default();
        for words in &self.own {
            let words = words.iter().map(String::as_str).collect::<Vec<_>>();
            // They were tried when the profile was read.
            let _: Outcome = options.option(&words);
        }
        options
    }

    pub(crate) fn judge(&self, option: &str) -> Judgement {
        if option.starts_with("push-continuation") {
            return Judgement::Obey;
        }
        let filter = self.filters.iter().find(|(_, text)| option.starts_with(text.as_str()));
        match filter {
            Some((FilterAction::Reject, _)) => return Judgement::Leave,
            Some((FilterAction::Ignore, _)) => return Judgement::PassOver,
            Some((FilterAction::Accept, _)) | None => {}
        }
        const ROUTES: &[&str] = &[
            "route",
            "route-ipv6",
            "route-metric",
            "redirect-gateway",
            "redirect-private",
            "block-ipv6",
            "block-outside-dns",
            "dhcp-option",
            "dns",
        ];
        let name = option.split_ascii_whitespace().next().unwrap_or_default();
        if self.refuses_routes && ROUTES.contains(&name) {
            return Judgement::PassOver;
        }
        Judgement::Obey
    }
}
