//! `seeds FROM COUNT [EVENTS [hashed|real]]`: plays that many seeds and prints what they came to. Ends with 1 at a violation,
//! and then prints its log, made as small as it gets. For the tiers of `./test` and for the mutants: it builds in seconds,
//! while `beehive sim`, which does the same, needs the whole program.

use beehive_sim::batch::batch;
use beehive_sim::reached::ENOUGH;
use beehive_sim::{Options, Signing, shrink};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let (Some(from), Some(count)) = (number(0), number(1)) else {
        eprintln!("usage: seeds FROM COUNT [EVENTS [hashed|real]]");
        return ExitCode::from(2);
    };
    let signing = if words.get(3).is_some_and(|word| word == "real") { Signing::Real } else { Signing::Hashed };
    let options = Options { events: number(2).unwrap_or(5_000), signing, ..Options::default() };
    let batch = batch(from, count, &options, &|_| ());
    println!("{}", batch.summary(from));
    if std::env::var_os("BEEHIVE_SIM_REACHED").is_some() {
        for (place, times) in batch.reached.iter() {
            println!("{times:>12}  {place}");
        }
    }
    let too_little = batch.too_little().unwrap_or_default();
    if let Some(violation) = batch.violations.into_iter().next() {
        let (violation, options) = match std::env::var_os("BEEHIVE_SIM_SHRINK") {
            Some(_) => (violation, options),
            None => shrink::shrink(violation, &options),
        };
        for line in &violation.log {
            println!("{line}");
        }
        println!("seed {}: {}", violation.seed, violation.why);
        println!("with these faults alone: {}", shrink::kinds(options.mask).join(", "));
        return ExitCode::FAILURE;
    }
    // few seeds do not come everywhere
    let missing = batch.reached.missing();
    if count >= ENOUGH && !missing.is_empty() {
        println!("never reached: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    // a run that does little, or whose faults come seldom, shows little
    if count >= ENOUGH && !too_little.is_empty() {
        println!("{too_little}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
