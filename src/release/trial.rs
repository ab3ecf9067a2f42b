//! A release on trial: when it stays, and when the Pi goes back. Pure; the time comes in as a parameter.
//!
//! The release itself says one thing alone: that it is up and has heard the coordinator ([`Moment::Healthy`]). Everything else
//! is judged by the release before it, which systemd runs before each start of the daemon ([`Moment::Starting`]) and now and
//! then while something is on trial ([`Moment::Tick`]): what is broken is not asked whether it works.

use super::version::ReleaseVersion;
use serde::{Deserialize, Serialize};

/// So often the daemon of a release on trial may be started: once for the upgrade, twice for what is not its fault (a power
/// cut, a person). What dies at its start is back after three starts, some seconds.
pub const MAX_STARTS: u32 = 3;

/// So long a release on trial may take in one boot until it is confirmed, in milliseconds. A master that has just been
/// started takes a minute; a coordinator whose broker is lost for longer than this costs a new version, not the old one.
pub const CONFIRM_WITHIN_MS: u64 = 5 * 60_000;

/// So long a daemon must have been up before it may call itself healthy, in milliseconds: one heartbeat of the coordinator,
/// so that a release that dies in its first seconds is never confirmed.
pub const UP_FOR_MS: u64 = beehive_mqtt::HEARTBEAT_MS;

/// What is stored. The releases before and after this one read it too: a field may come, none may go or change, and what one
/// of them does not know it leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// The trial that goes on.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// How the last change of release ended.
    #[serde(default)]
    pub last: Option<Ended>,
}

/// A release on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub version: ReleaseVersion,
    /// Where the way back leads.
    pub back: ReleaseVersion,
    /// How often its daemon was started.
    pub starts: u32,
    /// The boot that `since_ms` belongs to.
    pub boot: String,
    /// When the trial began in that boot, in milliseconds since boot.
    pub since_ms: u64,
    /// Why it is over and the way back is being gone; what a power cut interrupts is gone to its end.
    #[serde(default)]
    pub going_back: Option<String>,
}

/// How a change of release ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The version that was to be used.
    pub version: ReleaseVersion,
    /// How.
    pub how: How,
    /// Why, for people.
    pub reason: String,
}

/// How a change of release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is in use.
    Confirmed,
    /// The Pi went back to the version before.
    WentBack,
    /// It was never switched to.
    Abandoned,
}

/// When it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// The daemon of the current release is about to be started.
    Starting,
    /// Some time has passed.
    Tick,
    /// The daemon of this version is up and has heard the coordinator, or a person says that it is fine.
    Healthy(ReleaseVersion),
    /// A person wants the version before.
    Asked,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Nothing,
    /// Store this; the trial goes on.
    GoesOn(Record),
    /// Store this: the trial is over, and what is in use stays.
    Over(Record),
    /// Store `begun`, then switch to `to`, then store `done`.
    GoBack {
        /// The record while it is done.
        begun: Record,
        /// To which version.
        to: ReleaseVersion,
        /// The record after it.
        done: Record,
    },
}

/// Where and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now<'a> {
    /// The version that is in use.
    pub current: &'a ReleaseVersion,
    /// This boot's id.
    pub boot: &'a str,
    /// Milliseconds since this boot.
    pub ms: u64,
}

/// A trial that begins.
pub fn begin(now: Now<'_>, version: &ReleaseVersion, record: &Record) -> Record {
    let trial = Trial {
        version: version.clone(),
        back: now.current.clone(),
        starts: 0,
        boot: now.boot.to_owned(),
        since_ms: now.ms,
        going_back: None,
    };
    Record { trial: Some(trial), last: record.last.clone() }
}

/// What becomes of the trial in `record`, if there is one.
pub fn judge(record: &Record, now: Now<'_>, moment: &Moment) -> Verdict {
    let Some(trial) = &record.trial else { return Verdict::Nothing };
    let over =
        |how, reason: String| Record { trial: None, last: Some(Ended { version: trial.version.clone(), how, reason }) };
    let go_back = |reason: String| Verdict::GoBack {
        begun: Record {
            trial: Some(Trial { going_back: Some(reason.clone()), ..trial.clone() }),
            last: record.last.clone(),
        },
        to: trial.back.clone(),
        done: over(How::WentBack, reason),
    };
    if let Some(reason) = &trial.going_back {
        return go_back(reason.clone());
    }
    if *now.current != trial.version {
        let reason = format!("{} is in use: the change was interrupted before the switch", now.current);
        return Verdict::Over(over(How::Abandoned, reason));
    }
    match moment {
        Moment::Asked => go_back("somebody asked for it".to_owned()),
        Moment::Healthy(version) if *version == trial.version => {
            Verdict::Over(over(How::Confirmed, "it is up and has heard the coordinator".to_owned()))
        }
        Moment::Healthy(_) => Verdict::Nothing,
        Moment::Starting if trial.starts >= MAX_STARTS => go_back(format!(
            "its daemon was started {MAX_STARTS} times and was never confirmed: see `journalctl -u beehive`"
        )),
        Moment::Starting => {
            let (boot, since_ms) = if trial.boot == now.boot {
                (trial.boot.clone(), trial.since_ms)
            } else {
                (now.boot.to_owned(), now.ms)
            };
            let trial = Trial { starts: trial.starts + 1, boot, since_ms, ..trial.clone() };
            Verdict::GoesOn(Record { trial: Some(trial), last: record.last.clone() })
        }
        Moment::Tick if trial.boot == now.boot && now.ms.saturating_sub(trial.since_ms) >= CONFIRM_WITHIN_MS => {
            go_back(format!(
                "it did not hear the coordinator within {} s: see `journalctl -u beehive`",
                CONFIRM_WITHIN_MS / 1000
            ))
        }
        // in another boot its start has not come yet
        Moment::Tick => Verdict::Nothing,
    }
}

/// Whether a daemon that was started at `started_ms` may call itself healthy because it hears the coordinator now, at `now_ms`.
/// What the broker had kept is no sign of life.
pub fn is_healthy(started_ms: u64, now_ms: u64, heard: crate::link::Retained) -> bool {
    match heard {
        crate::link::Retained::Yes => false,
        crate::link::Retained::No => now_ms.saturating_sub(started_ms) >= UP_FOR_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Retained;

    fn version(text: &str) -> ReleaseVersion {
        text.parse().unwrap()
    }

    fn new() -> Record {
        let (old, now) = (version("1.0.0"), 1_000);
        begin(Now { current: &old, boot: "b1", ms: now }, &version("2.0.0"), &Record::default())
    }

    fn at(current: &ReleaseVersion, ms: u64) -> Now<'_> {
        Now { current, boot: "b1", ms }
    }

    #[test]
    fn it_goes_back_after_its_starts_are_used_up() {
        let (current, mut record) = (version("2.0.0"), new());
        for start in 1..=MAX_STARTS {
            let Verdict::GoesOn(next) = judge(&record, at(&current, 2_000), &Moment::Starting) else {
                panic!("{start}")
            };
            assert_eq!(next.trial.as_ref().unwrap().starts, start);
            record = next;
        }
        let Verdict::GoBack { begun, to, done } = judge(&record, at(&current, 3_000), &Moment::Starting) else {
            panic!()
        };
        assert_eq!(to, version("1.0.0"));
        assert_eq!((done.trial.clone(), done.last.clone().unwrap().how), (None, How::WentBack));
        // interrupted before the switch or after it: the same again, also if it says now that it is healthy
        for current in [version("2.0.0"), version("1.0.0")] {
            for moment in [Moment::Starting, Moment::Tick, Moment::Healthy(version("2.0.0"))] {
                let Verdict::GoBack { to, done: again, .. } = judge(&begun, at(&current, 1), &moment) else { panic!() };
                assert_eq!((to, again), (version("1.0.0"), done.clone()));
            }
        }
    }

    #[test]
    fn it_goes_back_when_the_time_of_this_boot_is_up() {
        let (current, record) = (version("2.0.0"), new());
        assert_eq!(judge(&record, at(&current, 1_000 + CONFIRM_WITHIN_MS - 1), &Moment::Tick), Verdict::Nothing);
        assert!(matches!(
            judge(&record, at(&current, 1_000 + CONFIRM_WITHIN_MS), &Moment::Tick),
            Verdict::GoBack { .. }
        ));
        // a start in the same boot gives no more time; another boot does, from its first start on
        let Verdict::GoesOn(same) = judge(&record, at(&current, 9_000), &Moment::Starting) else { panic!() };
        assert_eq!(same.trial.as_ref().unwrap().since_ms, 1_000);
        let other = Now { boot: "b2", ..at(&current, CONFIRM_WITHIN_MS * 2) };
        assert_eq!(judge(&record, other, &Moment::Tick), Verdict::Nothing);
        let Verdict::GoesOn(next) = judge(&record, other, &Moment::Starting) else { panic!() };
        assert_eq!(judge(&next, other, &Moment::Tick), Verdict::Nothing);
        let later = Now { ms: other.ms + CONFIRM_WITHIN_MS, ..other };
        assert!(matches!(judge(&next, later, &Moment::Tick), Verdict::GoBack { .. }));
    }

    #[test]
    fn only_the_release_on_trial_confirms_itself() {
        let (current, record) = (version("2.0.0"), new());
        assert_eq!(judge(&record, at(&current, 1), &Moment::Healthy(version("1.0.0"))), Verdict::Nothing);
        let Verdict::Over(done) = judge(&record, at(&current, 1), &Moment::Healthy(version("2.0.0"))) else { panic!() };
        assert_eq!((done.trial.clone(), done.last.clone().unwrap().how), (None, How::Confirmed));
        for moment in [Moment::Starting, Moment::Tick, Moment::Asked, Moment::Healthy(version("2.0.0"))] {
            assert_eq!(judge(&done, at(&current, u64::MAX), &moment), Verdict::Nothing, "{moment:?}");
        }
    }

    #[test]
    fn a_change_that_never_came_to_the_switch_is_no_trial() {
        let (old, record) = (version("1.0.0"), new());
        for moment in [Moment::Starting, Moment::Tick, Moment::Healthy(version("2.0.0")), Moment::Asked] {
            let Verdict::Over(done) = judge(&record, at(&old, u64::MAX), &moment) else { panic!("{moment:?}") };
            assert_eq!(done.last.unwrap().how, How::Abandoned);
        }
    }

    #[test]
    fn a_living_word_of_the_coordinator_counts_and_only_some_time_after_the_start() {
        assert!(is_healthy(5, 5 + UP_FOR_MS, Retained::No));
        assert!(!is_healthy(5, 4 + UP_FOR_MS, Retained::No));
        assert!(!is_healthy(5, u64::MAX, Retained::Yes));
    }
}
