//! Gestures (being written).
use serde::{Deserialize, Serialize};

/// What the button's line says, independent of its polarity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The button is held down (the line is low).
    Pressed,
    /// The button is up (the line is high).
    Released,
}
