//! Many seeds, on every processor, and what they came to together.

use crate::campaign::{Options, Report, Violation, run};
use crate::reached::Reached;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The least median of a run's operations: one that does little shows little.
pub const LEAST_OPERATIONS: u64 = 3;

/// The least median of the faults for each operation.
pub const LEAST_FAULTS: u64 = 10;

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Batch {
    /// How many seeds ended well.
    pub seeds: u64,
    /// Events of all of them.
    pub events: u64,
    /// Faults among them.
    pub faults: u64,
    /// Operations that ended.
    pub operations: u64,
    /// How many of them had to be taken up again after the faults.
    pub taken_up_again: u64,
    /// How many crews had twenty Pis or more.
    pub large: u64,
    /// The world's time, all together.
    pub simulated: Duration,
    /// The median of the operations that a run ended.
    pub median_operations: u64,
    /// The median of a run's faults for each of its operations.
    pub median_faults_per_operation: u64,
    /// The fewest events of a run.
    pub least_events: u64,
    /// What they reached.
    pub reached: Reached,
    /// Those that broke a rule; the run ends with the first.
    pub violations: Vec<Violation>,
    /// How long it took.
    pub took: Duration,
    /// On how many processors.
    pub processors: u64,
}

impl Batch {
    /// What it came to in words, for people.
    pub fn summary(&self, from: u64) -> String {
        format!(
            "{} seeds from {from}, {} of them with 20 Pis and more: {} events (at least {} each), {} faults, {} operations ended, \
             {} of them taken up again\nmedians of a run: {} operations, {} faults an operation; {} violations\n\
             {:.1} s on {} processors: {:.1} seeds a second and processor, {} simulated hours",
            self.seeds,
            self.large,
            self.events,
            self.least_events,
            self.faults,
            self.operations,
            self.taken_up_again,
            self.median_operations,
            self.median_faults_per_operation,
            self.violations.len(),
            self.took.as_secs_f64(),
            self.processors,
            self.per_second_and_processor(),
            self.simulated.as_secs() / 3600,
        )
    }

    /// What is wrong where too little has happened: the medians of a run.
    pub fn too_little(&self) -> Option<String> {
        let enough = self.median_operations >= LEAST_OPERATIONS && self.median_faults_per_operation >= LEAST_FAULTS;
        (!enough).then(|| {
            format!(
                "too little happens: the medians of a run are to be {LEAST_OPERATIONS} operations and {LEAST_FAULTS} faults an \
                 operation, and are {} and {}",
                self.median_operations, self.median_faults_per_operation
            )
        })
    }

    /// Seeds a second on one processor.
    #[allow(clippy::cast_precision_loss)] // a figure for people
    pub fn per_second_and_processor(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE) / self.processors.max(1) as f64
    }
}

/// Plays `count` seeds from `from` on. After a violation no other seed begins. `progress` is called now and then with the
/// number of seeds that are done.
pub fn batch(from: u64, count: u64, options: &Options, progress: &(dyn Fn(u64) + Sync)) -> Batch {
    let begun = Instant::now();
    let processors = std::thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap_or(1));
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let sum: Mutex<(Batch, Vec<u64>, Vec<u64>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    if offset >= count {
                        return;
                    }
                    let result = run(from + offset, options);
                    let mut sum = sum.lock().unwrap();
                    match result {
                        Ok(report) => add(&mut sum, &report),
                        Err(violation) => {
                            sum.0.violations.push(violation);
                            next.store(count, Ordering::Relaxed);
                        }
                    }
                    drop(sum);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    let (mut batch, operations, faults) = sum.into_inner().unwrap();
    batch.median_operations = median(operations);
    batch.median_faults_per_operation = median(faults);
    batch.took = begun.elapsed();
    batch.processors = processors;
    batch
}

fn add((batch, operations, faults): &mut (Batch, Vec<u64>, Vec<u64>), report: &Report) {
    batch.least_events = if batch.seeds == 0 { report.events } else { batch.least_events.min(report.events) };
    batch.seeds += 1;
    batch.events += report.events;
    batch.faults += report.faults;
    batch.operations += report.operations;
    batch.taken_up_again += report.taken_up_again;
    batch.large += u64::from(report.nodes >= 20);
    batch.simulated += Duration::from_millis(report.simulated_ms);
    batch.reached.add(&report.reached);
    operations.push(report.operations);
    faults.push(report.faults / report.operations.max(1));
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
