//! Blockers: before rolling work takes a slot for a node, somebody looks whether anything keeps it from that node
//! ([`crate::blockers`]). A request for something that is blocked is refused and names what blocks it; `--force` goes on and
//! names what it sets aside. What becomes blocked later is waited for in the node's turn, as long as for a slot.
//!
//! The look itself is the caller's ([`Action::Look`]); it is never stored, and what it says is soon forgotten.

use super::{Action, Coordinator};
use crate::Instant;
use crate::blockers::{Blocker, Facts};
use alloc::vec::Vec;
use beehive_mqtt::{NodeName, Text};

/// How long what a look said is good for: as long as a round of looks at a whole crew may take.
pub const LOOK_FRESH_MS: u64 = 10_000;

/// How often a node that is blocked is looked at again.
pub const LOOK_AGAIN_MS: u64 = 30_000;

/// How long a look may take, the operator's command included; after that it counts as one that found nothing out.
pub const LOOK_MS: u64 = 15_000;

/// What is known of a node.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    asked: Option<(u64, Instant)>,
    said: Option<(Instant, Vec<Blocker>)>,
}

impl Coordinator {
    /// What keeps rolling work from this node, as far as that was looked at in the last `fresh_ms`; else a look is asked for.
    pub(super) fn blockers(&mut self, now: Instant, node: &NodeName, fresh_ms: u64) -> Option<Vec<Blocker>> {
        if self.config.blockers.is_empty() {
            return Some(Vec::new());
        }
        let look = self.looks.entry(node.clone()).or_insert(Look { asked: None, said: None });
        if let Some((token, at)) = look.asked {
            if now.since_ms(at) < LOOK_MS {
                return None;
            }
            // its answer was lost, or it was never taken up
            let why = Text::format(format_args!("no answer within {} s", LOOK_MS / 1_000));
            self.looked(
                now,
                token,
                &Facts { shown: Err(why.clone()), minute: None, command: crate::blockers::Said::Stay(why) },
            );
        }
        let said = self.looks.get(node).and_then(|look| look.said.as_ref());
        if let Some((_, found)) = said.filter(|(at, _)| now.since_ms(*at) < fresh_ms) {
            return Some(found.clone());
        }
        let token = self.next_token;
        self.next_token += 1;
        if let Some(look) = self.looks.get_mut(node) {
            look.asked = Some((token, now));
        }
        self.out.push(Action::Look { token, node: node.clone() });
        None
    }

    /// Why rolling work must not take this node now.
    pub(super) fn blocked(&mut self, now: Instant, node: &NodeName) -> Option<Text<160>> {
        // one that is blocked is not looked at each time that something happens
        let known = self.looks.get(node).and_then(|look| look.said.clone());
        let last = known.and_then(|(_, found)| found.into_iter().next());
        let fresh_ms = if last.is_some() { LOOK_AGAIN_MS } else { LOOK_FRESH_MS };
        let first = match (self.blockers(now, node, fresh_ms), last) {
            (Some(found), _) => found.into_iter().next()?,
            // until it is known better
            (None, Some(last)) => last,
            (None, None) => return Some(Text::cut("waits for a look at what may keep it from this node")),
        };
        Some(Text::format(format_args!("blocked: {first}")))
    }

    pub(super) fn looked(&mut self, now: Instant, token: u64, facts: &Facts) {
        let mine = |look: &Look| look.asked.is_some_and(|(asked, _)| asked == token);
        let Some((node, look)) = self.looks.iter_mut().find(|(_, look)| mine(look)) else { return };
        look.asked = None;
        look.said = Some((now, self.config.blockers.found(node, facts)));
    }

    /// When something is due for the looks on which a node's turn waits.
    pub(super) fn look_deadlines(&self) -> impl Iterator<Item = Instant> + '_ {
        let waits = |node: &NodeName| self.told.slot_waits.keys().any(|(_, held)| held == node);
        self.looks.iter().filter(move |(node, _)| waits(node)).filter_map(|(_, look)| match (look.asked, &look.said) {
            (Some((_, at)), _) => Some(at.plus_ms(LOOK_MS)),
            (None, Some((at, found))) if !found.is_empty() => Some(at.plus_ms(LOOK_AGAIN_MS)),
            (None, _) => None,
        })
    }
}
