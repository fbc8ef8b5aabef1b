//! What a session does by itself as time passes: keep-alive, renewal of keys, giving up.

use std::time::Instant;

use contract::{Event, Fatal, TunnelKey};

use super::{Core, Role, Session};
use crate::data::PING;
use crate::generation::Generation;
use crate::packet::KeyId;

/// Why a session is over whose silence is not to be mended (`ping-exit`).
pub const SILENT: &str = "the other end fell silent, and the profile says to end then (ping-exit)";

impl Core {
    /// When something is due next, and what.
    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let generations = || [&self.current, &self.next].into_iter().flatten();
        let repeats = generations().filter_map(Generation::retransmission);
        // Nothing else is done any more while a farewell is on its way.
        if let Some((at, _)) = self.closing {
            return repeats.chain([(at, "farewell")]).min();
        }
        let renegotiate = self.renegotiate_at.filter(|_| self.next.is_none());
        generations()
            .filter_map(|generation| generation.expiry(self.timing.handshake))
            .chain(repeats)
            .chain(self.next.as_ref().and_then(Generation::switch_deadline))
            .chain(self.retired.as_ref().map(|retired| (retired.until, "old keys")))
            .chain(self.keep_alive.as_ref().map(|alive| (alive.check_at, "keep-alive")))
            .chain(renegotiate.map(|at| (at, "renegotiation")))
            .chain(self.expire_at.map(|at| (at, "key lifetime")))
            .min()
    }

    /// A peer that must not move has: nobody answers it there, so as far as the link goes, it is
    /// silent.
    pub(super) fn stray(&mut self, key: TunnelKey) {
        if self.keys().contains(&key)
            && let Some(alive) = &mut self.keep_alive
        {
            alive.is_elsewhere = true;
        }
    }
}

impl Session {
    /// What is due by itself: the next step of the keys in use and to come, and the peer's silence.
    pub(super) fn on_time(&mut self, now: Instant) -> Result<(), Fatal> {
        if let Some((until, fatal)) = self.core.closing {
            let heard = [&self.core.current, &self.core.next]
                .into_iter()
                .flatten()
                .all(Generation::is_acknowledged);
            // A refused peer that has the message in full may go at once.
            return if heard || now >= until { Err(fatal) } else { Ok(()) };
        }
        let limit = self.core.timing.handshake;
        if self.core.current.as_ref().is_some_and(|current| current.has_expired(now, limit)) {
            return Err(Fatal::PeerGone);
        }
        if self.core.next.as_ref().is_some_and(|next| next.has_expired(now, limit)) {
            self.abandon_renegotiation(now, "timed out");
        }
        if self.core.next.as_mut().is_some_and(|next| next.is_ready(now)) {
            self.core.switch(now);
        }
        if self.core.expire_at.is_some_and(|at| at <= now) {
            return Err(Fatal::ProtocolViolation("the peer does not renew its keys"));
        }
        if self.core.retired.as_ref().is_some_and(|retired| retired.until <= now) {
            self.core.remove_retired();
        }
        self.keep_alive(now)?;
        if let Role::Initiator(role) = &mut self.role {
            role.on_time(&mut self.core, now);
        }
        self.renew(now)
    }

    fn keep_alive(&mut self, now: Instant) -> Result<(), Fatal> {
        let core = &mut self.core;
        let Some((_, tunnel)) = core.current.as_ref().and_then(Generation::keys) else {
            return Ok(());
        };
        let opened = core.opened(&tunnel);
        let Some(alive) = core.keep_alive.as_mut().filter(|alive| alive.check_at <= now) else {
            return Ok(());
        };
        let is_quiet = tunnel.sealed() == alive.sealed;
        let is_elsewhere = std::mem::take(&mut alive.is_elsewhere);
        if opened != alive.opened && !is_elsewhere {
            alive.heard = now;
        }
        // The ping that may follow counts as traffic of its own; it must not hide silence.
        alive.sealed = tunnel.sealed() + u64::from(is_quiet);
        alive.opened = opened;
        alive.check_at = now + core.timing.ping;
        let heard = alive.heard.max(core.last_control);
        if now.saturating_duration_since(heard) >= core.timing.ping_restart {
            return Err(match core.timing.exits_on_silence {
                true => Fatal::Denied(SILENT),
                false => Fatal::PeerGone,
            });
        }
        if is_quiet {
            core.send_in_tunnel(&PING);
        }
        Ok(())
    }

    /// Starts a renegotiation when it is time, or when the keys have carried enough.
    fn renew(&mut self, now: Instant) -> Result<(), Fatal> {
        let Some((_, tunnel)) = self.core.current.as_ref().and_then(Generation::keys) else {
            return Ok(());
        };
        let is_due = self.core.renegotiate_at.is_some_and(|at| at <= now) || tunnel.is_worn();
        if !is_due || self.core.next.is_some() || !self.is_established() {
            return Ok(());
        }
        let key_id = self.core.current.as_ref().map_or(KeyId::FIRST, |current| current.key_id());
        self.renegotiate(now, key_id.next())
    }

    /// Gives up a renegotiation; the keys in use stay, and another attempt follows.
    pub(super) fn abandon_renegotiation(&mut self, now: Instant, why: &str) {
        self.forget_negotiation();
        let core = &mut self.core;
        core.next = None;
        core.renegotiate_at = core.timing.renegotiate.map(|_| now + core.timing.handshake / 2);
        core.event(Event::Remark(format!("renegotiation failed: {why}")));
    }

    /// Whatever was found out for a generation that is gone must not count for another, which may
    /// well have the same number.
    pub(super) fn forget_negotiation(&mut self) {
        self.core.timing.handshake = match &mut self.role {
            Role::Initiator(role) => role.forget_negotiation(),
            Role::Responder(role) => role.forget_negotiation(),
            Role::Point(role) => role.timing().handshake,
        };
    }
}
