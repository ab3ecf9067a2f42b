//! Under-voltage and throttling become events when they begin and when they end, and fields of the telemetry.

use super::Agent;
use beehive_mqtt::node::{NodeEventKind, Throttling};

/// What changed between two readings: the kind and the detail of each event, in the order of the firmware's bits.
///
/// A flag that is first seen clear is no change; one that is first seen set begins. One that is no longer told ends
/// nothing: nobody knows.
pub(super) fn changes(before: Option<Throttling>, now: Option<Throttling>) -> Vec<(NodeEventKind, String)> {
    let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
    let flags = [
        (None, before.under_voltage, now.under_voltage),
        (Some("frequency_capped"), before.frequency_capped, now.frequency_capped),
        (Some("throttled"), before.throttled, now.throttled),
        (Some("soft_temperature_limit"), before.soft_temperature_limit, now.soft_temperature_limit),
    ];
    let mut told = Vec::new();
    for (name, before, now) in flags {
        let turn = match (before, now) {
            (None | Some(false), Some(true)) => "begins",
            (Some(true), Some(false)) => "ends",
            (None | Some(false), Some(false)) | (Some(true), Some(true)) | (_, None) => continue,
        };
        told.push(match name {
            None => (NodeEventKind::UnderVoltage, turn.to_owned()),
            Some(name) => (NodeEventKind::Throttling, format!("{name} {turn}")),
        });
    }
    told
}

impl Agent {
    pub(super) fn follow_supply(&mut self) {
        let now = self.host.throttling();
        for (kind, detail) in changes(self.throttling, now) {
            self.tell(kind, &detail);
        }
        // what is not told any more keeps its last value for the comparison alone
        let merge = |before: Option<bool>, now: Option<bool>| now.or(before);
        let (old, new) = (self.throttling.unwrap_or_default(), now.unwrap_or_default());
        let merged = Throttling {
            under_voltage: merge(old.under_voltage, new.under_voltage),
            frequency_capped: merge(old.frequency_capped, new.frequency_capped),
            throttled: merge(old.throttled, new.throttled),
            soft_temperature_limit: merge(old.soft_temperature_limit, new.soft_temperature_limit),
        };
        self.throttling = (merged != Throttling::default()).then_some(merged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voltage(low: bool) -> Option<Throttling> {
        Some(Throttling { under_voltage: Some(low), ..Throttling::default() })
    }

    #[test]
    fn each_beginning_and_each_end_is_told_once() {
        let begins = vec![(NodeEventKind::UnderVoltage, "begins".to_owned())];
        let ends = vec![(NodeEventKind::UnderVoltage, "ends".to_owned())];
        assert_eq!(changes(None, voltage(false)), vec![]);
        assert_eq!(changes(None, voltage(true)), begins);
        assert_eq!(changes(voltage(false), voltage(true)), begins);
        assert_eq!(changes(voltage(true), voltage(true)), vec![]);
        assert_eq!(changes(voltage(true), voltage(false)), ends);
        assert_eq!(changes(voltage(true), None), vec![], "nobody knows whether it ended");
    }

    #[test]
    fn the_three_ways_to_be_slow_are_named() {
        let all = |flag| {
            Some(Throttling {
                under_voltage: None,
                frequency_capped: Some(flag),
                throttled: Some(flag),
                soft_temperature_limit: Some(flag),
            })
        };
        let told: Vec<String> = changes(all(false), all(true)).into_iter().map(|(_, detail)| detail).collect();
        assert_eq!(told, ["frequency_capped begins", "throttled begins", "soft_temperature_limit begins"]);
        assert!(changes(all(true), all(false)).iter().all(|(kind, _)| *kind == NodeEventKind::Throttling));
    }
}
