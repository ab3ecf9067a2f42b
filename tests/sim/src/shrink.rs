//! Makes a violation smaller: which kinds of faults it needs, and how few events.

use crate::campaign::{Options, Violation, run};
use crate::world::FAULTS;

/// The same violation with as few kinds of faults as it takes: each kind is left out in turn, and stays out if the run still
/// ends in a violation. What is left is a run of its own, which replays with the options that come with it.
pub fn shrink(found: Violation, options: &Options) -> (Violation, Options) {
    let mut smallest = found;
    let mut options = options.clone();
    // one bit more than there are names: the disasters
    for bit in (0..=FAULTS.len()).rev() {
        let fewer = Options { mask: options.mask & !(1 << bit), ..options.clone() };
        if fewer.mask == options.mask {
            continue;
        }
        if let Err(still) = run(smallest.seed, &fewer) {
            smallest = still;
            options = fewer;
        }
    }
    (smallest, options)
}

/// The names of the kinds of faults that a mask allows.
pub fn kinds(mask: u32) -> Vec<&'static str> {
    let named = FAULTS.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| *name);
    let disasters = (mask & (1 << FAULTS.len()) != 0).then_some("disasters");
    named.chain(disasters).collect()
}
