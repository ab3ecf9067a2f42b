//! A machine for the demo and the tests: what it is asked for comes out of a channel, and whoever plays it ends the agent
//! as systemd would.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beehive_board::cut::FeedRecord;
use beehive_board::power::Goal;
use beehive_mqtt::BootId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::{Host, HostError, Notice, Strength};
use crate::clock::Clock;

/// Requests that nobody has taken yet. An agent asks once politely and once by force.
const MAX_HAND_OVERS: usize = 8;

/// A request to stop the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandOver {
    /// What for.
    pub goal: Goal,
    /// How.
    pub strength: Strength,
}

/// Whether logind does as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logind {
    /// It takes requests.
    Works,
    /// It refuses them, as with an inhibitor that somebody holds.
    Refuses,
    /// It never answers.
    Hangs,
}

/// A simulated machine. Clones share it.
#[derive(Clone)]
pub struct SimulatedHost {
    inner: Arc<Inner>,
}

struct Inner {
    boot: BootId,
    hand_overs: mpsc::Sender<HandOver>,
    state: Mutex<State>,
}

struct State {
    logind: Logind,
    feed: Option<FeedRecord>,
    millicelsius: Option<i32>,
    notices: Notices,
}

/// What systemd was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// How often it was told that the daemon is ready.
    pub ready: u32,
    /// How often it was told that the daemon is alive.
    pub watchdog: u32,
    /// How often it was told that the daemon ends.
    pub stopping: u32,
    /// The last status line.
    pub status: String,
}

impl SimulatedHost {
    /// A machine in its boot `boot`, and the requests to stop it.
    pub fn new(boot: BootId) -> (Self, mpsc::Receiver<HandOver>) {
        let (hand_overs, requests) = mpsc::channel(MAX_HAND_OVERS);
        let state =
            State { logind: Logind::Works, feed: None, millicelsius: Some(45_000), notices: Notices::default() };
        (Self { inner: Arc::new(Inner { boot, hand_overs, state: Mutex::new(state) }) }, requests)
    }

    /// Makes logind work, refuse or hang from now on.
    pub fn set_logind(&self, logind: Logind) {
        self.state().logind = logind;
    }

    /// Sets the processor's temperature.
    pub fn set_millicelsius(&self, millicelsius: Option<i32>) {
        self.state().millicelsius = millicelsius;
    }

    /// The feed's record as the final hook would read it.
    pub fn feed(&self) -> Option<FeedRecord> {
        self.state().feed.clone()
    }

    /// What systemd was told so far.
    pub fn notices(&self) -> Notices {
        self.state().notices.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for SimulatedHost {
    fn boot_id(&self) -> BootId {
        self.inner.boot.clone()
    }

    fn uptime_ms(&self) -> u64 {
        Clock.now().as_ms()
    }

    fn hand_over(&self, goal: Goal, strength: Strength) -> BoxFuture<'static, Result<(), HostError>> {
        let host = self.clone();
        async move {
            let logind = host.state().logind;
            match (strength, logind) {
                (Strength::Forced, _) | (Strength::Polite, Logind::Works) => {}
                (Strength::Polite, Logind::Refuses) => {
                    return Err(HostError {
                        code: "logind",
                        reason: "logind was told to refuse; ask it by force".to_owned(),
                    });
                }
                (Strength::Polite, Logind::Hangs) => std::future::pending().await,
            }
            host.inner.hand_overs.try_send(HandOver { goal, strength }).map_err(|error| HostError {
                code: "closed",
                reason: format!("the simulated machine takes no request to stop ({error}); it has ended"),
            })
        }
        .boxed()
    }

    fn model(&self) -> String {
        "simulated Pi".to_owned()
    }

    fn write_feed(&self, record: &FeedRecord) -> Result<(), HostError> {
        self.state().feed = Some(record.clone());
        Ok(())
    }

    fn processor_millicelsius(&self) -> Option<i32> {
        self.state().millicelsius
    }

    fn notify(&self, notice: Notice<'_>) {
        let notices = &mut self.state().notices;
        match notice {
            Notice::Ready => notices.ready += 1,
            Notice::Watchdog => notices.watchdog += 1,
            Notice::Stopping => notices.stopping += 1,
            Notice::Status(text) => text.clone_into(&mut notices.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (SimulatedHost, mpsc::Receiver<HandOver>) {
        SimulatedHost::new("b1".parse().unwrap())
    }

    #[tokio::test]
    async fn a_request_comes_out_of_the_channel() {
        let (host, mut requests) = host();
        host.hand_over(Goal::Reboot, Strength::Polite).await.unwrap();
        assert_eq!(requests.recv().await, Some(HandOver { goal: Goal::Reboot, strength: Strength::Polite }));
        drop(requests);
        assert_eq!(host.hand_over(Goal::PowerOff, Strength::Forced).await.unwrap_err().code, "closed");
    }

    #[tokio::test]
    async fn force_goes_past_a_logind_that_refuses_or_hangs() {
        let (host, mut requests) = host();
        host.set_logind(Logind::Refuses);
        assert_eq!(host.hand_over(Goal::PowerOff, Strength::Polite).await.unwrap_err().code, "logind");
        host.set_logind(Logind::Hangs);
        assert!(host.hand_over(Goal::PowerOff, Strength::Polite).now_or_never().is_none());
        assert!(requests.try_recv().is_err());
        host.hand_over(Goal::PowerOff, Strength::Forced).await.unwrap();
        assert_eq!(requests.recv().await, Some(HandOver { goal: Goal::PowerOff, strength: Strength::Forced }));
    }
}
