//! What the LEDs say. The patterns and their priorities are data in `beehive_board::led`; here the node's state is
//! matched with them, and the winner is played.
//!
//! The SHIM's LED shares its line with the button, and while it is lit the line has to be let go and read many times a
//! second. So the patterns of everyday (ready, blank), which would do that all day long, are left to the Pi's own LEDs.

use super::Agent;
use crate::hal::{HalError, Halted, Led, Leds, OverCurrent};
use beehive_board::cut::Feed;
use beehive_board::gesture::{Gesture, GestureEvent, Threshold};
use beehive_board::led::{Fault, Light, Pattern, Reach, Source};
use beehive_board::power::Phase;
use beehive_board::time::Instant;
use beehive_mqtt::node::{EngineRun, Lifecycle, PartStatus, PowerGoal, PowerPhase};

/// How long the status is shown after a short press.
const STATUS_MS: u64 = 3_000;

/// How long an over-current is shown after it was last seen.
const OVER_CURRENT_MS: u64 = 60_000;

/// How long the broker must be away before the LEDs say so.
const BROKER_AWAY_MS: u64 = 60_000;

/// What PWR does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PwrLed {
    /// It is its own trigger's.
    Given,
    /// It plays along.
    Plays(Light),
}

impl Agent {
    pub(super) fn show_press(&mut self, now: Instant, event: GestureEvent) {
        match event {
            GestureEvent::Pressed => self.player.set(Source::Press, Pattern::PressShort, now),
            GestureEvent::Passed(Threshold::Hold) => self.player.set(Source::Press, Pattern::PressHold, now),
            GestureEvent::Passed(Threshold::ResetFrom) => self.player.set(Source::Press, Pattern::PressReset, now),
            GestureEvent::Passed(Threshold::ResetUntil | Threshold::Stuck) => {
                self.player.set(Source::Press, Pattern::PressShort, now);
            }
            GestureEvent::Released => self.player.clear(Source::Press),
            GestureEvent::Gesture(Gesture::ResetArmed) => {
                let for_ms = u64::from(self.settings.thresholds.confirm_within_ms);
                self.player.set_for(Source::Press, Pattern::PressReset, now, for_ms);
            }
            GestureEvent::Gesture(
                Gesture::Short
                | Gesture::Double
                | Gesture::PowerOff
                | Gesture::Reset
                | Gesture::Cancelled
                | Gesture::Stuck,
            ) => self.player.clear(Source::Press),
        }
    }

    pub(super) fn show_power(&mut self, now: Instant, phase: Phase) {
        match phase {
            Phase::Running => self.player.clear(Source::Power),
            Phase::Grace | Phase::Draining => self.player.set(Source::Power, Pattern::Draining, now),
            Phase::Stopping | Phase::HandingOver | Phase::Halted => {
                self.player.set(Source::Power, Pattern::Stopping, now);
            }
        }
    }

    pub(super) fn show_identify(&mut self, now: Instant, for_ms: u64) {
        self.player.set_for(Source::Identify, Pattern::Identify, now, for_ms);
    }

    /// For a while the patterns of everyday are shown on the SHIM's LED too.
    pub(super) fn show_status(&mut self, now: Instant) {
        self.status_until = Some(now.plus_ms(STATUS_MS));
    }

    pub(super) fn show_over_current(&mut self, now: Instant, over_current: OverCurrent) {
        match over_current {
            OverCurrent::New => self.player.set_for(Source::Hat, Pattern::OverCurrent, now, OVER_CURRENT_MS),
            OverCurrent::None => {}
        }
    }

    fn pattern(&self) -> Pattern {
        match self.core.lifecycle() {
            Lifecycle::Blank => Pattern::Blank,
            Lifecycle::Joining | Lifecycle::Leaving => Pattern::Joining,
            Lifecycle::Broken => Pattern::NotReady,
            Lifecycle::Member => match (self.engine_seen.run, self.engine_seen_running) {
                (EngineRun::Running, _) => Pattern::Ready,
                (EngineRun::Stopped, EngineRun::Stopped) => Pattern::Booting,
                (EngineRun::Stopped, EngineRun::Running) => Pattern::NotReady,
            },
        }
    }

    /// The first fault there is.
    fn fault(&self, now: Instant) -> Option<Fault> {
        let failed = |status| matches!(status, PartStatus::Busy | PartStatus::Failed);
        let is = |fault: &Fault| match fault {
            Fault::UnderVoltage => self.throttling.is_some_and(|told| told.under_voltage == Some(true)),
            Fault::Button => failed(self.info.button.status),
            Fault::Hat => failed(self.info.poe_hat.status),
            Fault::Broker => self.broker_away_at().is_some_and(|at| at <= now),
            Fault::Broken => self.core.lifecycle() == Lifecycle::Broken,
        };
        Fault::ALL.into_iter().find(is)
    }

    /// When the broker has been away for long enough to say so.
    fn broker_away_at(&self) -> Option<Instant> {
        self.broker.down_since.map(|since| since.plus_ms(BROKER_AWAY_MS))
    }

    /// At the end of the agent: before a power-off the LEDs are left as the halted Pi shows them, otherwise they are
    /// given back as they are dropped.
    pub(super) fn leave_leds(&mut self) {
        match (self.phase, self.goal) {
            (PowerPhase::HandingOver | PowerPhase::Halted, Some(PowerGoal::PowerOff)) => {}
            (PowerPhase::HandingOver | PowerPhase::Halted, Some(PowerGoal::Reboot) | None)
            | (PowerPhase::Running | PowerPhase::Grace | PowerPhase::Draining | PowerPhase::Stopping, _) => return,
        }
        let halted = match self.feed.0 {
            Feed::Shim => Halted::Cut,
            Feed::Poe | Feed::Unknown => Halted::FivePresent,
        };
        if let Some(leds) = &mut self.leds {
            leds.leave(halted);
        }
    }

    pub(super) fn next_light(&self, now: Instant) -> Option<Instant> {
        // without an LED of the Pi's own nobody sees the patterns of everyday: no need to wake for them
        let away = self.broker_away_at().filter(|at| *at > now);
        let seen = self.leds.is_some() || (self.shim.is_some() && self.is_for_the_shim(now));
        let light = if seen { self.player.shown(now).until } else { self.status_until.filter(|until| *until > now) };
        light.into_iter().chain(away).min()
    }

    fn is_for_the_shim(&self, now: Instant) -> bool {
        match self.player.pattern(now).map(Pattern::reach) {
            // lit by the hand that holds the button
            None | Some(Reach::Pressed | Reach::Left) => false,
            Some(Reach::Everyday | Reach::Lasting) => self.status_until.is_some_and(|until| now < until),
            Some(Reach::Everywhere) => true,
        }
    }

    /// What PWR does for the pattern that shows.
    fn pwr(&self, now: Instant, light: Light) -> PwrLed {
        match self.player.pattern(now).map(Pattern::reach) {
            None | Some(Reach::Everyday) => PwrLed::Given,
            Some(Reach::Lasting | Reach::Everywhere | Reach::Pressed | Reach::Left) => PwrLed::Plays(light),
        }
    }

    fn show_on_the_pi(&mut self, now: Instant, light: Light) {
        let pwr = self.pwr(now, light);
        let (act_changes, pwr_changes) = (self.led_shown != Some(light), self.pwr_shown != pwr);
        let Some(leds) = &mut self.leds else { return };
        let show = |leds: &mut Box<dyn Leds>| -> Result<(), HalError> {
            if act_changes {
                leds.set(Led::Act, light)?;
            }
            match pwr {
                _ if !pwr_changes => Ok(()),
                PwrLed::Given => leds.give_back(Led::Pwr),
                PwrLed::Plays(light) => leds.set(Led::Pwr, light),
            }
        };
        match show(leds) {
            Ok(()) => {
                self.led_shown = Some(light);
                self.pwr_shown = pwr;
            }
            Err(error) => {
                tracing::warn!("{error}; the agent works without the Pi's LEDs");
                self.leds = None;
            }
        }
    }

    /// Plays what wins.
    pub(super) fn show(&mut self, now: Instant) {
        let pattern = self.pattern();
        self.player.set(Source::Node, pattern, now);
        match self.fault(now) {
            Some(fault) => self.player.set(Source::Fault, Pattern::Error(fault.code()), now),
            None => self.player.clear(Source::Fault),
        }
        let light = self.player.shown(now).light;
        self.show_on_the_pi(now, light);
        let shim_light = if self.is_for_the_shim(now) { light } else { Light::Dark };
        let Some(shim) = &mut self.shim else { return };
        let was_listening = shim.is_listening();
        match shim.poll(now, shim_light) {
            Ok(seen) => {
                self.shim_next = seen.next;
                // while edges come they tell, with the kernel's stamps; a sample would overtake one that is on its way
                let sample = seen.level.filter(|_| !was_listening);
                if let (Some(level), Some(recogniser)) = (sample, &mut self.recogniser) {
                    self.listening_since = now;
                    let events = recogniser.sample(now, level);
                    if !events.is_empty() {
                        self.gestures(now, events);
                    }
                }
            }
            Err(error) => {
                tracing::warn!("the button's line: {error}");
                self.shim_next = Some(now.plus_ms(1_000));
            }
        }
    }
}
