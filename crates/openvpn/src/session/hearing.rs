//! What comes out of a generation, at once or after a step of its handshake was made elsewhere.

use std::time::Instant;

use contract::{Ask, AskId, Done, Fatal};

use super::{Core, Role, Session};
use crate::generation::{Generation, Heard};
use crate::packet::KeyId;
use crate::point::Point;
use crate::tls::{Step, TlsFailure};

impl Session {
    /// Goes on with what a generation heard, or with how it failed.
    pub(super) fn on_received(
        &mut self,
        now: Instant,
        key_id: KeyId,
        received: Result<Vec<Heard>, TlsFailure>,
    ) -> Result<(), Fatal> {
        let heard = match received {
            Ok(heard) => heard,
            Err(failure) => {
                // Let the alert out before the session is gone.
                if let Some(generation) = self.core.generation(key_id) {
                    generation.fill();
                }
                return self.fail_generation(now, key_id, Fatal::Tls(failure.0));
            }
        };
        if let Some(work) = self.core.generation(key_id).and_then(Generation::take_work) {
            let ask = self.core.ask(Ask::Work(work));
            if let Some(generation) = self.core.generation(key_id) {
                generation.awaits(ask);
            }
        }
        for heard in heard {
            self.on_heard(now, key_id, heard)?;
        }
        Ok(())
    }

    /// A step was made; the generation that wanted it may have been given up meanwhile.
    pub(super) fn on_worked(&mut self, now: Instant, ask: AskId, done: Done) -> Result<(), Fatal> {
        let Some(key_id) = asking(&self.core, ask) else { return Ok(()) };
        let Some(generation) = self.core.generation(key_id) else { return Ok(()) };
        let step = done.take::<Step>().ok_or(Fatal::Local("an answer to another question"))?;
        let received = generation.resume(step);
        self.on_received(now, key_id, received)
    }

    fn on_heard(&mut self, now: Instant, key_id: KeyId, heard: Heard) -> Result<(), Fatal> {
        match (&mut self.role, heard) {
            (Role::Initiator(role), Heard::Handshaked) => {
                role.on_handshaked(&mut self.core, key_id);
                Ok(())
            }
            (Role::Responder(_), Heard::Handshaked) => Ok(()),
            (Role::Point(role), Heard::Handshaked) => {
                role.on_handshaked(&mut self.core, key_id);
                Ok(())
            }
            (Role::Point(role), Heard::Record(record)) => {
                role.on_record(&mut self.core, now, key_id, *record)
            }
            (Role::Point(_), Heard::Message(message)) => Point::on_message(&message),
            (Role::Initiator(role), Heard::Record(record)) => {
                role.on_record(&mut self.core, now, key_id, *record)
            }
            (Role::Responder(role), Heard::Record(record)) => {
                role.on_record(&mut self.core, now, key_id, *record)
            }
            (Role::Initiator(role), Heard::Message(message)) => {
                role.on_message(&mut self.core, now, &message)
            }
            (Role::Responder(role), Heard::Message(message)) => {
                role.on_message(&mut self.core, now, &message)
            }
        }
    }
}

/// The generation whose step this question is about.
fn asking(core: &Core, ask: AskId) -> Option<KeyId> {
    let mut generations = [&core.next, &core.current].into_iter().flatten();
    generations.find(|generation| generation.has_asked(ask)).map(Generation::key_id)
}
