//! What the LEDs say. The patterns and their priorities are data in `beehive_board::led`; here the node's state is
//! matched with them, and the winner is played.
//!
//! The SHIM's LED shares its line with the button, and while it is lit the line has to be let go and read many times a
//! second. So the patterns of everyday (ready, blank), which would do that all day long, are left to the Pi's own LEDs.

use super::Agent;
use crate::hal::{Led, OverCurrent};
use beehive_board::gesture::{Gesture, GestureEvent, Threshold};
use beehive_board::led::{Light, Pattern, Source};
use beehive_board::power::Phase;
use beehive_board::time::Instant;
use beehive_mqtt::node::{EngineRun, Lifecycle};

/// How long the status is shown after a short press.
const STATUS_MS: u64 = 3_000;

/// How long an over-current is shown after it was last seen.
const OVER_CURRENT_MS: u64 = 60_000;

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
            Lifecycle::Member => match self.engine.state().run {
                EngineRun::Running => Pattern::Ready,
                EngineRun::Stopped => Pattern::NotReady,
            },
        }
    }

    pub(super) fn next_light(&self, now: Instant) -> Option<Instant> {
        // without an LED of the Pi's own nobody sees the patterns of everyday: no need to wake for them
        let seen = self.leds.is_some() || (self.shim.is_some() && self.is_for_the_shim(now));
        if seen { self.player.shown(now).until } else { self.status_until.filter(|until| *until > now) }
    }

    fn is_for_the_shim(&self, now: Instant) -> bool {
        match self.player.pattern(now) {
            // lit by the hand that holds the button
            None | Some(Pattern::PressShort | Pattern::PressHold) => false,
            Some(Pattern::Ready | Pattern::Blank | Pattern::NotReady | Pattern::Booting) => {
                self.status_until.is_some_and(|until| now < until)
            }
            Some(
                Pattern::Joining
                | Pattern::Draining
                | Pattern::Stopping
                | Pattern::SafeToUnplug
                | Pattern::HaltedFivePresent
                | Pattern::OverCurrent
                | Pattern::Identify
                | Pattern::PressReset
                | Pattern::Error(_),
            ) => true,
        }
    }

    /// Plays what wins.
    pub(super) fn show(&mut self, now: Instant) {
        let pattern = self.pattern();
        self.player.set(Source::Node, pattern, now);
        let light = self.player.shown(now).light;
        if self.led_shown != Some(light) {
            if let Some(leds) = &mut self.leds {
                if let Err(error) = leds.set(Led::Act, light) {
                    tracing::warn!("{error}; the agent works without the Pi's LEDs");
                    self.leds = None;
                }
            }
            self.led_shown = Some(light);
        }
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
