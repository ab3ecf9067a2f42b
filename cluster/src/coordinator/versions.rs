//! Which version of the protocol each node speaks. Down at once, up only on evidence: what is written in too low a version
//! everybody reads, what is written in too high a one nobody hears.

use super::drive::verb_of;
use super::requests::Reply;
use super::{Coordinator, Seen};
use crate::Instant;
use crate::plan::PlannedStep;
use alloc::boxed::Box;
use alloc::vec::Vec;
use beehive_mqtt::command::VerbName;
use beehive_mqtt::coordinator::CoordinatorEventKind;
use beehive_mqtt::{NodeName, ProtocolVersion, SpokenVersion, Text};

impl Coordinator {
    /// The version in which this node is written to.
    pub fn version_of(&self, node: &NodeName) -> ProtocolVersion {
        let heard = self.seen.get(node).and_then(|seen| seen.speaks);
        heard.unwrap_or(ProtocolVersion::BEFORE).min(self.config.speaks)
    }

    /// The version of what everybody reads: the lowest that a member of the crew speaks, or may speak.
    pub fn broadcast_version(&self) -> ProtocolVersion {
        self.record.known.iter().map(|node| self.version_of(node)).fold(self.config.speaks, ProtocolVersion::min)
    }

    /// A node says that it speaks this version, at whatever time it said so. If it seemed to speak a higher one, its program may be the one before
    /// again, and it hears nothing of us until we write so.
    pub(super) fn speaks_less(&mut self, node: &NodeName, version: ProtocolVersion) {
        if let Some(Seen { speaks: Some(speaks), .. }) = self.seen.get_mut(node) {
            if version < *speaks {
                *speaks = version;
                self.told.forget_state();
            }
        }
    }

    /// Only whoever is not heard otherwise: nobody has looked who signed it.
    pub(super) fn on_unspoken(&mut self, now: Instant, node: &NodeName, version: SpokenVersion) {
        let heard = self.state_of(node).is_some() && !self.is_silent(now, node);
        if heard || !self.record.known.contains(node) || self.unspoken.get(node) == Some(&version) {
            return;
        }
        self.unspoken.insert(node.clone(), version);
        let detail = Text::format(format_args!("{node} {}", NotSpoken(version)));
        self.tell(now, CoordinatorEventKind::Refused, None, Some(node), detail);
    }

    /// What a member is shown to speak.
    pub(super) fn shown_version(&self, node: &NodeName) -> Option<SpokenVersion> {
        let heard = self.seen.get(node).and_then(|seen| seen.speaks).and_then(SpokenVersion::said_by);
        match self.config.speaks {
            // the program before has no word for it
            ProtocolVersion::V1 => None,
            ProtocolVersion::V2 => self.unspoken.get(node).copied().or(heard),
        }
    }

    /// Why this verb cannot be sent to this node.
    pub(super) fn not_understood(&self, node: &NodeName, verb: VerbName) -> Option<Text<160>> {
        if let Some(version) = self.unspoken.get(node) {
            return Some(Text::format(format_args!("{node} {}", NotSpoken(*version))));
        }
        let needs = (self.since)(verb);
        if needs <= self.version_of(node) {
            return None;
        }
        Some(match self.seen.get(node).and_then(|seen| seen.speaks) {
            Some(speaks) => Text::format(format_args!(
                "{node} speaks protocol version {speaks}, and {verb} needs {needs}; upgrade beehive there first"
            )),
            None => Text::format(format_args!("{node} was not heard yet, and {verb} needs protocol version {needs}")),
        })
    }

    /// The plan, if each node understands what it will be told, as far as it was heard: whoever was not may be current, and is
    /// told nothing before that is known.
    pub(super) fn understood(&self, plan: Vec<PlannedStep>) -> Result<Vec<PlannedStep>, Box<Reply>> {
        let known = |node: &NodeName| {
            let heard = self.seen.get(node).is_some_and(|seen| seen.speaks.is_some());
            heard || self.unspoken.contains_key(node)
        };
        let told = |step: &PlannedStep| verb_of(step.kind).filter(|_| known(&step.node));
        let not = |step: &PlannedStep| told(step).and_then(|verb| self.not_understood(&step.node, verb));
        match plan.iter().find_map(not) {
            None => Ok(plan),
            Some(why) => Err(Box::new(Reply::refused("protocol-version", format_args!("{why}")))),
        }
    }
}

/// What is wrong with such a version, and what to do.
struct NotSpoken(SpokenVersion);

impl core::fmt::Display for NotSpoken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (before, current) = (ProtocolVersion::BEFORE, ProtocolVersion::CURRENT);
        let where_to = if self.0 > current.into() { "on the master" } else { "there" };
        write!(
            f,
            "writes in protocol version {}, and this coordinator speaks {before} and {current}; upgrade beehive {where_to} first",
            self.0
        )
    }
}
