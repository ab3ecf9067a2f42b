//! The machine below the agent: which boot this is, how to hand over to systemd, where the final hook reads the feed.
//!
//! | module | host |
//! | --- | --- |
//! | [`linux`] | a Pi: `/proc`, logind over D-Bus, systemd's notify socket |
//! | [`doors`] | its inhibitor and its drain unit: shutdowns that somebody else started |
//! | [`simulated`] | none: a channel that tells the demo what was asked for |

pub mod doors;
pub mod linux;
pub mod simulated;

use beehive_board::cut::FeedRecord;
use beehive_board::power::Goal;
use beehive_mqtt::node::Throttling;
use beehive_mqtt::{BootId, MachineMark};
use futures_util::future::BoxFuture;

pub use doors::{Door, Doors, Knock};
pub use linux::LinuxHost;
pub use simulated::SimulatedHost;

/// How a shutdown is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Through logind: whoever holds an inhibitor is heard, and whoever may not is told so.
    Polite,
    /// Past logind and its inhibitors, straight to systemd: services still stop and file systems are still unmounted.
    Forced,
}

/// What systemd is told of the daemon (sd_notify(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// It has started.
    Ready,
    /// It is alive.
    Watchdog,
    /// It is about to end.
    Stopping,
    /// What it does, in one line for `systemctl status`.
    Status(&'a str),
}

/// Why the machine did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct HostError {
    /// A stable word: `logind`, `systemctl`, `force`, `file`, `closed`.
    pub code: &'static str,
    /// A sentence: what happened, why, what to do.
    pub reason: String,
}

/// The machine.
pub trait Host: Send + Sync {
    /// This boot.
    fn boot_id(&self) -> BootId;

    /// Milliseconds of `CLOCK_BOOTTIME`.
    fn uptime_ms(&self) -> u64;

    /// Asks the system to stop for `goal`. The future ends when the request was taken, not when the machine is off.
    ///
    /// # Errors
    /// The future's error says who refused and why; a polite request that was refused can be repeated by force.
    fn hand_over(&self, goal: Goal, strength: Strength) -> BoxFuture<'static, Result<(), HostError>>;

    /// The model, for people; `unknown` where nothing tells it.
    fn model(&self) -> String;

    /// The processor architecture that this program was built for: `arm`, `aarch64`, `x86_64`.
    fn architecture(&self) -> &'static str {
        std::env::consts::ARCH
    }

    /// Which machine this is; nothing where that is not known.
    fn machine(&self) -> Option<MachineMark> {
        None
    }

    /// Puts the feed's record where the final hook reads it, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written; the hook then finds an old one, or none, and cuts nothing in time.
    fn write_feed(&self, record: &FeedRecord) -> Result<(), HostError>;

    /// Who else uses one of the SHIM's lines, by what is configured on this machine; `None` if nobody does.
    fn other_user_of_the_shim(&self) -> Option<String> {
        None
    }

    /// The processor's temperature in thousandths of a degree Celsius, where there is a sensor.
    fn processor_millicelsius(&self) -> Option<i32>;

    /// What the firmware says of the supply and the clock, where there is somebody to ask.
    fn throttling(&self) -> Option<Throttling> {
        None
    }

    /// How long systemd's watchdog waits for a sign of life, in milliseconds; `None` where none watches.
    fn watchdog_ms(&self) -> Option<u64> {
        None
    }

    /// Tells systemd how the daemon is. Whoever runs without systemd is not bothered.
    fn notify(&self, notice: Notice<'_>);
}
