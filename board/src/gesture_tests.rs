//! The recogniser against examples, against a slow model that reads a whole train of edges after the fact, and in an
//! exhaustive search over trains.

use std::string::ToString as _;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use Gesture::{Cancelled, Double, PowerOff, Reset, ResetArmed, Short, Stuck};
use GestureEvent::{Gesture as G, Passed, Pressed, Released};

type Train = Vec<(u64, Level)>;

/// Plays a train as a punctual program does: every deadline is met, every edge is taken at once.
fn play_from(first: Level, train: &[(u64, Level)], end_ms: u64) -> Vec<GestureEvent> {
    let mut button = Recogniser::new(Thresholds::default(), first, Instant::from_ms(0));
    let mut told = Vec::new();
    for &(at_ms, level) in train {
        poll_until(&mut button, Instant::from_ms(at_ms), &mut told);
        told.extend(button.edge(Instant::from_ms(at_ms), level));
    }
    poll_until(&mut button, Instant::from_ms(end_ms), &mut told);
    told
}

fn poll_until(button: &mut Recogniser, end: Instant, told: &mut Vec<GestureEvent>) {
    while let Some(deadline) = button.next_deadline().filter(|deadline| *deadline <= end) {
        let before = button.clone();
        let events = button.poll(deadline);
        assert!(*button != before, "a deadline at which nothing happens would spin");
        told.extend(events);
    }
}

/// Presses given as (start, length), played from rest.
fn play(presses: &[(u64, u64)]) -> Vec<GestureEvent> {
    let mut train = Train::new();
    for &(start, length) in presses {
        train.push((start, Level::Pressed));
        train.push((start + length, Level::Released));
    }
    let end = train.last().map_or(0, |edge| edge.0) + 100_000;
    play_from(Level::Released, &train, end)
}

fn gestures(events: &[GestureEvent]) -> Vec<Gesture> {
    events
        .iter()
        .filter_map(|event| match event {
            G(gesture) => Some(*gesture),
            Pressed | Passed(_) | Released => None,
        })
        .collect()
}

#[test]
fn each_class_is_recognised_at_its_bounds() {
    for (presses, expected) in [
        (vec![(1_000, 29)], vec![]),
        (vec![(1_000, 30)], vec![Short]),
        (vec![(1_000, 1_000)], vec![Short]),
        (vec![(1_000, 1_001)], vec![Cancelled]),
        (vec![(1_000, 2_999)], vec![Cancelled]),
        (vec![(1_000, 3_000)], vec![PowerOff]),
        (vec![(1_000, 9_999)], vec![PowerOff]),
        (vec![(1_000, 10_000)], vec![ResetArmed, Cancelled]),
        (vec![(1_000, 14_999)], vec![ResetArmed, Cancelled]),
        (vec![(1_000, 15_000)], vec![Cancelled]),
        (vec![(1_000, 29_999)], vec![Cancelled]),
        (vec![(1_000, 30_000)], vec![Stuck]),
        (vec![(1_000, 500_000)], vec![Stuck]),
        (vec![(1_000, 100), (1_500, 100)], vec![Double]),
        (vec![(1_000, 100), (1_501, 100)], vec![Short, Short]),
        (vec![(1_000, 100), (1_300, 100), (1_600, 100)], vec![Double, Short]),
        (vec![(1_000, 100), (1_300, 4_000)], vec![PowerOff]),
        (vec![(1_000, 100), (1_300, 2_000)], vec![Cancelled]),
        (vec![(1_000, 12_000), (13_499, 100)], vec![ResetArmed, Cancelled]),
        (vec![(1_000, 12_000), (13_500, 100)], vec![ResetArmed, Reset]),
        (vec![(1_000, 12_000), (13_500, 1_000)], vec![ResetArmed, Reset]),
        (vec![(1_000, 12_000), (13_500, 1_001)], vec![ResetArmed, Cancelled]),
        (vec![(1_000, 12_000), (13_500, 4_000)], vec![ResetArmed, Cancelled]),
        (vec![(1_000, 12_000), (18_000, 100)], vec![ResetArmed, Reset]),
        (vec![(1_000, 12_000), (18_001, 100)], vec![ResetArmed, Cancelled, Short]),
        (vec![(1_000, 12_000), (13_500, 100), (14_000, 100)], vec![ResetArmed, Reset, Short]),
        (vec![(1_000, 100), (1_300, 12_000), (14_000, 100)], vec![ResetArmed, Reset]),
        (vec![(1_000, 16_000), (18_000, 100)], vec![Cancelled, Short]),
    ] {
        assert_eq!(gestures(&play(&presses)), expected, "{presses:?}");
    }
}

#[test]
fn thresholds_are_told_while_the_button_is_down() {
    assert_eq!(
        play(&[(1_000, 40_000)]),
        [
            Pressed,
            Passed(Threshold::Hold),
            Passed(Threshold::ResetFrom),
            Passed(Threshold::ResetUntil),
            Passed(Threshold::Stuck),
            G(Stuck),
            Released
        ]
    );
    assert_eq!(play(&[(1_000, 3_000)]), [Pressed, Passed(Threshold::Hold), Released, G(PowerOff)]);
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, Instant::from_ms(0));
    assert!(button.edge(Instant::from_ms(10), Level::Pressed).is_empty());
    assert_eq!(button.next_deadline(), Some(Instant::from_ms(40)));
    assert!(button.poll(Instant::from_ms(39)).is_empty());
    assert_eq!(button.poll(Instant::from_ms(40)), [Pressed]);
    assert_eq!(button.next_deadline(), Some(Instant::from_ms(3_010)), "from the edge, not from when it counted");
    assert!(button.poll(Instant::from_ms(3_009)).is_empty());
    assert_eq!(button.poll(Instant::from_ms(3_010)), [Passed(Threshold::Hold)]);
}

#[test]
fn low_at_the_start_is_stuck_until_it_was_high_once() {
    assert_eq!(play_from(Level::Pressed, &[], 500_000), [G(Stuck)]);
    let train = [(60_000, Level::Released), (61_000, Level::Pressed), (61_100, Level::Released)];
    assert_eq!(play_from(Level::Pressed, &train, 70_000), [G(Stuck), Released, Pressed, Released, G(Short)]);
    // A pulse is not high: the press that seems to follow is still the low of the start.
    let train = [(5_000, Level::Released), (5_010, Level::Pressed), (9_000, Level::Released)];
    assert_eq!(play_from(Level::Pressed, &train, 70_000), [G(Stuck), Released]);
    let mut button = Recogniser::new(Thresholds::default(), Level::Pressed, Instant::from_ms(0));
    assert!(button.is_stuck());
    button.edge(Instant::from_ms(0), Level::Released);
    button.poll(Instant::from_ms(30));
    assert!(!button.is_stuck());
}

#[test]
fn bounce_leaves_no_trace_at_either_end_nor_in_the_middle() {
    let train = [
        (1_000, Level::Pressed),
        (1_002, Level::Released),
        (1_005, Level::Pressed),
        (2_000, Level::Released),
        (2_020, Level::Pressed),
        (5_000, Level::Released),
        (5_003, Level::Pressed),
        (5_004, Level::Released),
    ];
    assert_eq!(play_from(Level::Released, &train, 20_000), [Pressed, Passed(Threshold::Hold), Released, G(PowerOff)]);
}

#[test]
fn a_bounce_at_the_end_of_the_gap_does_not_make_or_lose_a_double() {
    // The second press begins inside the gap and counts only after it.
    assert_eq!(gestures(&play(&[(1_000, 100), (1_490, 100)])), [Double]);
    // A pulse inside the gap holds the answer back for its own length only.
    let train = [(1_000, Level::Pressed), (1_100, Level::Released), (1_490, Level::Pressed), (1_505, Level::Released)];
    assert_eq!(gestures(&play_from(Level::Released, &train, 1_506)), [Short]);
}

#[test]
fn a_lost_release_makes_the_press_come_to_nothing() {
    let train = [(1_000, Level::Pressed), (4_500, Level::Pressed), (4_600, Level::Released)];
    let told = play_from(Level::Released, &train, 20_000);
    assert_eq!(gestures(&told), [Cancelled]);
    // One that is told just too late to be the end of a bounce.
    let train = [(1_000, Level::Pressed), (4_500, Level::Pressed), (4_530, Level::Released)];
    assert_eq!(gestures(&play_from(Level::Released, &train, 20_000)), [Cancelled]);
    // No threshold is told of a press of which nobody knows since when it lasts, but the last one of a stuck button.
    let train = [(1_000, Level::Pressed), (3_999, Level::Pressed)];
    let told = play_from(Level::Released, &train, 40_000);
    assert_eq!(told, [Pressed, Passed(Threshold::Stuck), G(Stuck)]);
    // A lost press is seen as nothing, or as a press cut short by its neighbours; never as more.
    let train = [(1_000, Level::Released), (2_000, Level::Released)];
    assert_eq!(play_from(Level::Released, &train, 20_000), []);
}

#[test]
fn the_head_of_a_bounce_that_is_told_as_a_press_ends_the_press() {
    let at = Instant::from_ms;
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, at(0));
    button.edge(at(1_000), Level::Pressed);
    assert_eq!(button.poll(at(1_030)), [Pressed]);
    button.edge(at(3_998), Level::Pressed);
    assert_eq!(button.next_deadline(), Some(at(4_028)), "until then it is open what that was");
    assert_eq!(button.poll(at(4_027)), [], "no threshold either");
    button.edge(at(4_027), Level::Released);
    assert_eq!(button.poll(at(4_057)), [Passed(Threshold::Hold), Released, G(PowerOff)]);
    // A bounce in the middle of a hold whose release was told in time leaves no trace.
    let train = [
        (1_000, Level::Pressed),
        (2_000, Level::Pressed),
        (2_001, Level::Released),
        (2_002, Level::Pressed),
        (5_000, Level::Released),
    ];
    assert_eq!(gestures(&play_from(Level::Released, &train, 20_000)), [PowerOff]);
}

#[test]
fn our_own_led_on_the_line_does_not_disarm_a_reset() {
    let train = [
        (1_000, Level::Pressed),
        (13_000, Level::Released),
        (13_300, Level::Released),
        (13_700, Level::Released),
        (14_000, Level::Pressed),
        (14_100, Level::Released),
    ];
    assert_eq!(gestures(&play_from(Level::Released, &train, 30_000)), [ResetArmed, Reset]);
}

#[test]
fn a_late_program_measures_by_the_edges() {
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, Instant::from_ms(0));
    button.edge(Instant::from_ms(1_000), Level::Pressed);
    // The daemon slept, and looks at the time before it looks at the next edge.
    assert_eq!(button.poll(Instant::from_ms(6_000)), [Pressed, Passed(Threshold::Hold)]);
    button.edge(Instant::from_ms(1_500), Level::Released);
    assert_eq!(button.poll(Instant::from_ms(6_001)), [Released, G(Short)]);
}

#[test]
fn a_clock_that_jumps_back_voids_the_press_and_then_the_button_works_again() {
    let at = Instant::from_ms;
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, at(1_000_000));
    button.edge(at(1_000_100), Level::Pressed);
    button.poll(at(1_002_000));
    assert!(button.edge(at(50), Level::Released).is_empty());
    assert_eq!(button.poll(at(80)), [Released, G(Cancelled)]);
    // held on after the jump, as long as a power-off wants it: nobody knows how long it really was
    button.edge(at(1_000_000), Level::Pressed);
    button.poll(at(1_000_100));
    assert!(button.poll(at(1_000)).is_empty());
    button.edge(at(6_000), Level::Released);
    assert_eq!(gestures(&button.poll(at(6_100))), [Cancelled]);
    button.edge(at(7_000), Level::Pressed);
    button.edge(at(7_100), Level::Released);
    assert_eq!(gestures(&button.poll(at(9_000))), [Short]);
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, at(0));
    button.edge(at(5_000), Level::Pressed);
    button.edge(at(5_100), Level::Released);
    assert_eq!(button.poll(at(6_000)), [Pressed, Released, G(Short)].split_at(1).1);

    // The same seen by a poll, with a reset armed.
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, at(1_000_000));
    button.edge(at(1_000_100), Level::Pressed);
    button.edge(at(1_012_100), Level::Released);
    assert_eq!(button.poll(at(1_012_200)).last(), Some(&G(ResetArmed)));
    assert!(button.poll(at(1_011_900)).is_empty(), "a caller with a slightly older time is no jump");
    assert_eq!(button.poll(at(7)), [G(Cancelled)]);
    button.edge(at(1_000), Level::Pressed);
    button.edge(at(1_100), Level::Released);
    assert_eq!(gestures(&button.poll(at(2_000))), [Short]);
}

#[test]
fn a_voided_press_is_cancelled_and_nothing_else() {
    let at = Instant::from_ms;
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, at(0));
    button.edge(at(1_000), Level::Pressed);
    assert_eq!(button.poll(at(1_030)), [Pressed]);
    button.void();
    button.edge(at(5_000), Level::Released);
    assert_eq!(button.poll(at(5_030)), [Released, G(Cancelled)], "and no threshold of a hold");
}

#[test]
fn samples_are_as_good_as_edges() {
    let at = Instant::from_ms;
    let mut button = Recogniser::new(Thresholds::default(), Level::Released, at(0));
    let mut told = Vec::new();
    for ms in (0..10_000_u64).step_by(10) {
        let level = if (1_000..4_500).contains(&ms) { Level::Pressed } else { Level::Released };
        told.extend(button.sample(at(ms), level));
    }
    assert_eq!(told, [Pressed, Passed(Threshold::Hold), Released, G(PowerOff)]);
}

#[test]
fn defaults_are_valid_and_each_rule_can_be_broken() {
    assert_eq!(Thresholds::default().validate(), Ok(()));
    let broken = |change: &dyn Fn(&mut Thresholds)| {
        let mut t = Thresholds::default();
        change(&mut t);
        t.validate().unwrap_err()
    };
    for (name, error) in [
        ("debounce_ms", broken(&|t| t.debounce_ms = 0)),
        ("debounce_ms", broken(&|t| t.debounce_ms = 101)),
        ("short_max_ms", broken(&|t| t.short_max_ms = 229)),
        ("double_gap_ms", broken(&|t| t.double_gap_ms = 129)),
        ("double_gap_ms", broken(&|t| t.double_gap_ms = 2_001)),
        ("hold_ms", broken(&|t| t.hold_ms = 999)),
        ("hold_ms", broken(&|t| t.hold_ms = 1_499)),
        ("reset_from_ms", broken(&|t| t.reset_from_ms = 4_999)),
        ("reset_until_ms", broken(&|t| t.reset_until_ms = 10_999)),
        ("stuck_after_ms", broken(&|t| t.stuck_after_ms = 15_999)),
        ("stuck_after_ms", broken(&|t| t.stuck_after_ms = 600_001)),
        ("confirm_after_ms", broken(&|t| t.confirm_after_ms = 129)),
        ("confirm_within_ms", broken(&|t| t.confirm_within_ms = 1_499)),
        ("confirm_within_ms", broken(&|t| t.confirm_within_ms = 60_001)),
        ("short_max_ms", broken(&|t| t.short_max_ms = 0)),
        ("reset_from_ms", broken(&|t| t.hold_ms = u32::MAX)),
    ] {
        assert_eq!(error.name, name);
    }
    assert_eq!(
        broken(&|t| t.hold_ms = 1_200).to_string(),
        "hold_ms = 1200 ms must be at least 500 ms more than short_max_ms = 1000 ms: a slow tap must not power off"
    );
}

/// The slow model: reads the whole train after the fact, first into presses, then into what they meant.
mod model {
    use super::*;

    pub(super) struct Press {
        pub(super) start: u64,
        pub(super) end: Option<u64>,
    }

    /// Stretches that lasted the debounce time, as presses.
    pub(super) fn presses(train: &[(u64, Level)], t: &Thresholds) -> Vec<Press> {
        let mut presses: Vec<Press> = Vec::new();
        for (index, &(start, level)) in train.iter().enumerate() {
            let lasted = train.get(index + 1).is_none_or(|next| next.0 - start >= t.debounce_ms.into());
            let down = presses.last().is_some_and(|press| press.end.is_none());
            match level {
                Level::Pressed if lasted && !down => presses.push(Press { start, end: None }),
                Level::Released if lasted && down => {
                    if let Some(press) = presses.last_mut() {
                        press.end = Some(start);
                    }
                }
                Level::Pressed | Level::Released => {}
            }
        }
        presses
    }

    /// All events, given that the train was followed by `end`, long after its last edge.
    pub(super) fn events(train: &[(u64, Level)], end: u64, t: &Thresholds) -> Vec<GestureEvent> {
        let presses = presses(train, t);
        let mut told = Vec::new();
        let mut index = 0;
        while index < presses.len() {
            let press = &presses[index];
            let next = presses.get(index + 1);
            index += 1;
            told.push(Pressed);
            passed(press, end, t, &mut told);
            let Some(up) = press.end else { break };
            told.push(Released);
            let length = up - press.start;
            if length <= t.short_max_ms.into() {
                match next {
                    Some(second) if second.start - up <= t.double_gap_ms.into() => {
                        match second.end.map(|end| end - second.start) {
                            Some(length) if length <= t.short_max_ms.into() => {
                                told.extend([Pressed, Released, G(Double)]);
                                index += 1;
                            }
                            // Longer: read it as if the tap before had not been.
                            Some(_) | None => {}
                        }
                    }
                    Some(_) | None => told.push(G(Short)),
                }
            } else if length < t.hold_ms.into() {
                told.push(G(Cancelled));
            } else if length < t.reset_from_ms.into() {
                told.push(G(PowerOff));
            } else if length < t.reset_until_ms.into() {
                told.push(G(ResetArmed));
                match next {
                    Some(confirm) if confirm.start - up <= t.confirm_within_ms.into() => {
                        index += 1;
                        told.push(Pressed);
                        let deliberate = confirm.start - up >= t.confirm_after_ms.into();
                        let length = confirm.end.unwrap_or(end) - confirm.start;
                        if length >= t.stuck_after_ms.into() {
                            told.extend([Passed(Threshold::Stuck), G(Stuck)]);
                        }
                        if confirm.end.is_some() {
                            told.push(Released);
                            if length < t.stuck_after_ms.into() {
                                let confirmed = deliberate && length <= t.short_max_ms.into();
                                told.push(G(if confirmed { Reset } else { Cancelled }));
                            }
                        }
                    }
                    Some(_) | None => told.push(G(Cancelled)),
                }
            } else if length < t.stuck_after_ms.into() {
                told.push(G(Cancelled));
            }
        }
        told
    }

    fn passed(press: &Press, end: u64, t: &Thresholds, told: &mut Vec<GestureEvent>) {
        let length = press.end.unwrap_or(end) - press.start;
        for (threshold, from) in [
            (Threshold::Hold, t.hold_ms),
            (Threshold::ResetFrom, t.reset_from_ms),
            (Threshold::ResetUntil, t.reset_until_ms),
            (Threshold::Stuck, t.stuck_after_ms),
        ] {
            if length >= from.into() {
                told.push(Passed(threshold));
            }
        }
        if length >= t.stuck_after_ms.into() {
            told.push(G(Stuck));
        }
    }
}

/// Gaps between edges, most of them near a bound.
fn gap() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..60,
        4 => 60_u64..450,
        3 => 395_u64..520,
        3 => 900_u64..1_100,
        3 => 2_900_u64..3_200,
        3 => 9_900_u64..10_100,
        4 => 10_000_u64..15_000,
        2 => 14_900_u64..15_100,
        1 => 4_900_u64..5_100,
        1 => 29_900_u64..30_100,
        1 => 0_u64..60_000,
    ]
}

fn alternating_train() -> impl Strategy<Value = Train> {
    prop::collection::vec(gap(), 0..24).prop_map(|gaps| {
        let mut at = 1_000;
        let mut train = Train::new();
        for (index, gap) in gaps.into_iter().enumerate() {
            at += gap;
            train.push((at, if index % 2 == 0 { Level::Pressed } else { Level::Released }));
        }
        train
    })
}

/// Any train at all: levels repeat as if edges were lost.
fn any_train() -> impl Strategy<Value = Train> {
    prop::collection::vec((gap(), any::<bool>()), 0..24).prop_map(|steps| {
        let mut at = 1_000;
        steps
            .into_iter()
            .map(|(gap, down)| {
                at += gap;
                (at, if down { Level::Pressed } else { Level::Released })
            })
            .collect()
    })
}

/// Presses whose ends bounce, as the kernel tells them that reads the level of an edge up to 20 ms after its stamp; and what
/// they are without bounce.
fn bouncing_train() -> impl Strategy<Value = (Train, Train)> {
    let pulses = || prop::collection::vec(1_u64..5, 0..3);
    // far from every bound, since a bounce takes from a press or adds to it
    let held = prop_oneof![100_u64..900, 1_100_u64..2_900, 3_100_u64..9_900, 10_100_u64..14_900, 15_100_u64..29_900];
    let up = prop_oneof![100_u64..380, 420_u64..480, 520_u64..4_900, 5_100_u64..9_000];
    let press = (held, pulses(), up, pulses());
    (prop::collection::vec(press, 1..6), prop::collection::vec(0_u64..21, 64)).prop_map(|(presses, lags)| {
        let (mut line, mut clean) = (Train::new(), Train::new());
        let mut start = 1_000;
        let mut change = |at: u64, level: Level, pulses: &[u64]| {
            clean.push((at, level));
            let (mut at, mut level_now) = (at, level);
            line.push((at, level_now));
            // each pulse goes away and comes back, so that the line ends where it should
            for &pulse in pulses {
                for _ in 0..2 {
                    at += pulse;
                    level_now = if level_now == Level::Pressed { Level::Released } else { Level::Pressed };
                    line.push((at, level_now));
                }
            }
        };
        for (held, down, up, release) in &presses {
            change(start, Level::Pressed, down);
            change(start + held, Level::Released, release);
            start += held + up;
        }
        let read = |at: u64| line.iter().rev().find(|edge| edge.0 <= at).map_or(Level::Released, |edge| edge.1);
        let told = line.iter().zip(lags).map(|(&(at, _), lag)| (at, read(at + lag))).collect();
        (told, clean)
    })
}

/// Whether the edges' own times allow a reset, read as generously as possible.
fn reset_is_possible(train: &[(u64, Level)], t: &Thresholds) -> bool {
    let edges = |level: Level| train.iter().filter(move |edge| edge.1 == level).map(|edge| edge.0);
    edges(Level::Pressed).any(|down| {
        edges(Level::Released).any(|up| {
            let held = up.saturating_sub(down);
            held >= t.reset_from_ms.into()
                && held < t.reset_until_ms.into()
                && edges(Level::Pressed).any(|again| {
                    let after = again.saturating_sub(up);
                    after >= t.confirm_after_ms.into()
                        && after <= t.confirm_within_ms.into()
                        && edges(Level::Released).any(|end| end > again && end - again <= t.short_max_ms.into())
                })
        })
    })
}

fn power_off_is_possible(train: &[(u64, Level)], t: &Thresholds) -> bool {
    train.iter().filter(|edge| edge.1 == Level::Pressed).any(|down| {
        train.iter().filter(|edge| edge.1 == Level::Released).any(|up| {
            let held = up.0.saturating_sub(down.0);
            held >= t.hold_ms.into() && held < t.reset_from_ms.into()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn agrees_with_the_model_that_reads_the_train_after_the_fact(train in alternating_train()) {
        let end = train.last().map_or(0, |edge| edge.0) + 100_000;
        let expected = model::events(&train, end, &Thresholds::default());
        prop_assert_eq!(play_from(Level::Released, &train, end), expected);
    }

    /// Without a single poll until the end: the answer comes late and is the same.
    #[test]
    fn a_program_that_only_takes_edges_hears_the_same(train in alternating_train()) {
        let end = train.last().map_or(0, |edge| edge.0) + 100_000;
        let mut button = Recogniser::new(Thresholds::default(), Level::Released, Instant::from_ms(0));
        let mut told = Vec::new();
        for &(at_ms, level) in &train {
            told.extend(button.edge(Instant::from_ms(at_ms), level));
        }
        told.extend(button.poll(Instant::from_ms(end)));
        prop_assert_eq!(told, model::events(&train, end, &Thresholds::default()));
    }

    #[test]
    fn bounce_of_which_the_level_is_read_late_changes_no_gesture((told, clean) in bouncing_train()) {
        let end = clean.last().map_or(0, |edge| edge.0) + 100_000;
        let expected = model::events(&clean, end, &Thresholds::default());
        prop_assert_eq!(gestures(&play_from(Level::Released, &told, end)), gestures(&expected));
    }

    /// Edges lost, polls at any time, late or early: what the edges' own times do not allow is not told.
    #[test]
    fn nothing_dangerous_without_edges_that_say_so(
        train in any_train(),
        polls in prop::collection::vec((0_usize..24, 0_u64..120_000), 0..12),
    ) {
        let t = Thresholds::default();
        let mut button = Recogniser::new(t, Level::Released, Instant::from_ms(0));
        let mut told = Vec::new();
        for (index, &(at_ms, level)) in train.iter().enumerate() {
            told.extend(button.edge(Instant::from_ms(at_ms), level));
            for &(_, later) in polls.iter().filter(|poll| poll.0 == index) {
                told.extend(button.poll(Instant::from_ms(at_ms + later)));
            }
        }
        told.extend(button.poll(Instant::from_ms(10_000_000)));
        let told = gestures(&told);
        prop_assert!(!told.contains(&Reset) || reset_is_possible(&train, &t));
        prop_assert!(!told.contains(&PowerOff) || power_off_is_possible(&train, &t));
    }

    /// The clock does what it likes. A gesture that acts still needs edges in the right order, and after a release and
    /// a pause the button works.
    #[test]
    fn a_wild_clock_makes_no_reset_without_two_presses_and_heals(
        calls in prop::collection::vec((0_u64..100_000, 0_u8..3), 0..32),
    ) {
        let mut button = Recogniser::new(Thresholds::default(), Level::Released, Instant::from_ms(0));
        let mut presses = 0;
        let mut last = 0;
        for (at_ms, call) in calls {
            last = at_ms;
            let at = Instant::from_ms(at_ms);
            let events = match call {
                0 => button.edge(at, Level::Pressed),
                1 => button.edge(at, Level::Released),
                _ => button.poll(at),
            };
            presses += events.iter().filter(|event| **event == Pressed).count();
            if gestures(&events).contains(&Reset) {
                prop_assert!(presses >= 2);
            }
        }
        let at = |ms: u64| Instant::from_ms(last + ms);
        button.edge(at(0), Level::Released);
        button.poll(at(40_000));
        button.poll(at(80_000));
        prop_assert_eq!(button.level(), Level::Released);
        button.edge(at(90_000), Level::Pressed);
        button.edge(at(90_100), Level::Released);
        prop_assert_eq!(gestures(&button.poll(at(99_000))), [Short]);
    }
}

/// Every train of up to five edges over times that stand for each class, levels repeated or not: 18 + 18² + … + 18⁵
/// trains. None reaches a reset without a hold in the window, its release, and a second short press after a pause.
#[test]
fn no_train_reaches_a_reset_without_a_release_and_a_second_deliberate_press() {
    const GAPS_MS: [u64; 9] = [10, 40, 450, 600, 1_200, 3_500, 10_500, 16_000, 31_000];
    const DEPTH: usize = 5;
    let t = Thresholds::default();

    struct Search {
        t: Thresholds,
        trains: u64,
        resets: u64,
        most_events: usize,
    }

    impl Search {
        fn visit(&mut self, button: &Recogniser, train: &mut Train) {
            if train.len() == DEPTH {
                return;
            }
            let last = train.last().map_or(0, |edge| edge.0);
            for gap in GAPS_MS {
                for level in [Level::Pressed, Level::Released] {
                    let mut next = button.clone();
                    let at = last + gap;
                    train.push((at, level));
                    self.trains += 1;
                    let events = next.edge(Instant::from_ms(at), level);
                    // The outcome of the train so far, if nothing more came.
                    let mut end = next.clone();
                    let last_events = end.poll(Instant::from_ms(at + 35));
                    self.most_events = self.most_events.max(events.len()).max(last_events.len());
                    for event in last_events.iter().chain(&events) {
                        if *event == G(Reset) {
                            self.resets += 1;
                            assert!(reset_is_possible(train, &self.t), "{train:?}");
                        }
                    }
                    self.visit(&next, train);
                    train.pop();
                }
            }
        }
    }

    let mut search = Search { t, trains: 0, resets: 0, most_events: 0 };
    let button = Recogniser::new(t, Level::Released, Instant::from_ms(0));
    search.visit(&button, &mut Train::new());
    assert_eq!(search.trains, 18 + 18_u64.pow(2) + 18_u64.pow(3) + 18_u64.pow(4) + 18_u64.pow(5));
    assert!(search.resets > 0, "a search that never meets a reset shows nothing");
    assert!(search.most_events < MAX_EVENTS, "{} events in one call", search.most_events);
}
