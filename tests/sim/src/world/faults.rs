//! What goes wrong, how often, and the chance that decides.

/// What may go wrong, each in parts of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// A message is lost.
    pub(crate) loss: u64,
    /// A message arrives twice.
    pub(crate) duplicate: u64,
    /// A message takes up to three seconds, so that others overtake it.
    pub(crate) delay: u64,
    /// A message that was sent once, however long ago, arrives again.
    pub(crate) replay: u64,
    /// A step of an engine fails.
    pub(crate) engine: u64,
    /// A piece of work of the API server fails.
    pub(crate) kube: u64,
    /// A step of an engine hangs until its deadline.
    pub(crate) hang: u64,
    /// Storing fails.
    pub(crate) store: u64,
    /// The power goes while something is stored: the card has it, has a torn file, or has lost it.
    pub(crate) torn: u64,
    /// A core dies between two of its actions.
    pub(crate) crash: u64,
    /// After any event an operator does something.
    pub(crate) acts: u64,
    /// Every few seconds something dies: an agent, a Pi, the coordinator.
    pub(crate) disasters: u64,
    /// The broker restarts, as one of the disasters.
    pub(crate) broker: u64,
    /// A machine's clock leaps ahead, as one of the disasters.
    pub(crate) clocks: u64,
    /// A drain of some node never ends, as one of the disasters.
    pub(crate) blocks: u64,
    /// Another program is put on a Pi, of the version before or of the current one, as one of the disasters.
    pub(crate) programs: u64,
}

/// The kinds of faults, in the order of a mask's bits.
pub(crate) const FAULTS: [&str; 15] = [
    "loss",
    "duplicate",
    "delay",
    "replay",
    "engine",
    "kube",
    "hang",
    "store",
    "torn",
    "crash",
    "acts",
    "broker",
    "clocks",
    "blocks",
    "programs",
];

impl Faults {
    /// Only those kinds whose bit is set; the last bit is that of the disasters.
    pub(crate) fn masked(mut self, mask: u32) -> Self {
        let fields = [
            &mut self.loss,
            &mut self.duplicate,
            &mut self.delay,
            &mut self.replay,
            &mut self.engine,
            &mut self.kube,
            &mut self.hang,
            &mut self.store,
            &mut self.torn,
            &mut self.crash,
            &mut self.acts,
            &mut self.broker,
            &mut self.clocks,
            &mut self.blocks,
            &mut self.programs,
            &mut self.disasters,
        ];
        for (bit, field) in fields.into_iter().enumerate() {
            if mask & (1 << bit) == 0 {
                *field = 0;
            }
        }
        self
    }
}

/// Splitmix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
    pub(crate) fn hits(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }
}
