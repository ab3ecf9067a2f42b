//! Makes a violation smaller: which kinds of faults it needs, and how few events.

use crate::campaign::{Options, Violation, run};
use crate::world::FAULTS;

/// The same violation with as few kinds of faults as it takes: each kind is left out in turn, and stays out if the run still
/// breaks that rule, whenever and with whomever. What is left is a run of its own, which replays with the options that come with it.
pub fn shrink(found: Violation, options: &Options) -> (Violation, Options) {
    let mut smallest = found;
    let mut options = options.clone();
    // one bit more than there are names: the disasters
    for bit in (0..=FAULTS.len()).rev() {
        let fewer = Options { mask: options.mask & !(1 << bit), ..options.clone() };
        if fewer.mask == options.mask {
            continue;
        }
        match run(smallest.seed, &fewer) {
            Err(still) if rule(&still.why) == rule(&smallest.why) => {
                smallest = still;
                options = fewer;
            }
            Err(_) | Ok(_) => {}
        }
    }
    (smallest, options)
}

/// What was broken, but for times, nodes and how many of them: the words without a figure.
fn rule(why: &str) -> String {
    let words = why.split_whitespace().filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// The names of the kinds of faults that a mask allows.
pub fn kinds(mask: u32) -> Vec<&'static str> {
    let named = FAULTS.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| *name);
    let disasters = (mask & (1 << FAULTS.len()) != 0).then_some("disasters");
    named.chain(disasters).collect()
}

#[cfg(test)]
mod tests {
    use super::rule;

    #[test]
    fn a_rule_is_the_same_whenever_and_with_whomever() {
        let one = "at 17 ms: crew-002 is cordoned by rolling work while {crew-003, crew-004} are down or cordoned";
        let same = "at 9001 ms: crew-007 is cordoned by rolling work while {crew-001} are down or cordoned";
        assert_eq!(rule(one), rule(same));
        assert_ne!(rule(one), rule("at 17 ms: the command r-2-1 ran 2 times"));
    }
}
