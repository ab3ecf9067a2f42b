//! Bounded text for people: reasons, details, model names. Longer text is cut at a character when it is *made* here, and
//! refused when it *arrives* longer than the protocol allows.

use core::fmt;
use serde::{Deserialize, Serialize};

/// UTF-8 text of at most `N` bytes.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text<const N: usize>(heapless::String<N>);

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const fn new() -> Self {
        Self(heapless::String::new())
    }

    /// Takes as many whole characters of `text` as fit into `N` bytes.
    pub fn cut(text: &str) -> Self {
        let mut held = Self::new();
        held.append(text);
        held
    }

    /// The text that `arguments` format to, cut to `N` bytes.
    pub fn format(arguments: fmt::Arguments<'_>) -> Self {
        let mut held = Self::new();
        // `write_str` below never fails: what does not fit is cut
        let _ = fmt::Write::write_fmt(&mut held, arguments);
        held
    }

    fn append(&mut self, text: &str) {
        for character in text.chars() {
            if self.0.push(character).is_err() {
                return;
            }
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text);
        Ok(())
    }
}

impl<const N: usize> From<&str> for Text<N> {
    fn from(text: &str) -> Self {
        Self::cut(text)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(Text::<4>::cut("aéé").as_str(), "aé");
        assert_eq!(Text::<5>::cut("aéé").as_str(), "aéé");
        assert_eq!(Text::<3>::format(format_args!("{}{}", 12, 345)).as_str(), "123");
    }

    #[test]
    fn longer_text_from_the_wire_is_refused() {
        assert!(serde_json::from_str::<Text<3>>("\"abcd\"").is_err());
        assert_eq!(serde_json::from_str::<Text<3>>("\"abc\"").unwrap().as_str(), "abc");
    }
}
