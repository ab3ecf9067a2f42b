//! The program's mark: which version of beehive it is and which versions of the protocol it speaks, as text that can be
//! found in the file, so that a release for another processor can be looked at without running it. What the program says of
//! itself is read from the same bytes.

use super::version::{Protocols, ReleaseVersion};
use beehive_mqtt::ProtocolVersion;

/// The oldest version of the protocol that this program speaks.
pub const OLDEST_PROTOCOL: u8 = ProtocolVersion::BEFORE.number();

const HEAD: &[u8] = b"beehive-release-mark 1 version ";
const MIDDLE: &[u8] = b" protocol ";
const TAIL: &[u8] = b" mark-ends\n";
/// The room for the version, padded with spaces.
const VERSION_BYTES: usize = ReleaseVersion::MAX_BYTES;
const BYTES: usize = HEAD.len() + VERSION_BYTES + MIDDLE.len() + 7 + TAIL.len();

static MARK: [u8; BYTES] =
    compose(env!("CARGO_PKG_VERSION").as_bytes(), OLDEST_PROTOCOL, ProtocolVersion::CURRENT.number());

const fn put(mut mark: [u8; BYTES], at: usize, text: &[u8]) -> [u8; BYTES] {
    let mut index = 0;
    while index < text.len() {
        mark[at + index] = text[index];
        index += 1;
    }
    mark
}

const fn digits(number: u8) -> [u8; 3] {
    [b'0' + number / 100, b'0' + number / 10 % 10, b'0' + number % 10]
}

const fn compose(version: &[u8], oldest: u8, newest: u8) -> [u8; BYTES] {
    let mut mark = [b' '; BYTES];
    mark = put(mark, 0, HEAD);
    mark = put(mark, HEAD.len(), version);
    let at = HEAD.len() + VERSION_BYTES;
    mark = put(mark, at, MIDDLE);
    mark = put(mark, at + MIDDLE.len(), &digits(oldest));
    mark = put(mark, at + MIDDLE.len() + 3, b"-");
    mark = put(mark, at + MIDDLE.len() + 4, &digits(newest));
    put(mark, BYTES - TAIL.len(), TAIL)
}

/// What a mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The version of beehive.
    pub version: ReleaseVersion,
    /// The versions of the protocol.
    pub protocol: Protocols,
}

/// This program's own.
///
/// # Panics
/// Never: a test reads the mark.
pub fn own() -> Marked {
    // the file's bytes count, not what the compiler knew of them
    match parse(std::hint::black_box(&MARK)) {
        Some(marked) => marked,
        None => unreachable!("the mark is what `compose` made"),
    }
}

fn parse(bytes: &[u8]) -> Option<Marked> {
    let rest = bytes.get(..BYTES)?.strip_prefix(HEAD)?.strip_suffix(TAIL)?;
    let (version, rest) = rest.split_at_checked(VERSION_BYTES)?;
    let (oldest, newest) = std::str::from_utf8(rest.strip_prefix(MIDDLE)?).ok()?.split_once('-')?;
    Some(Marked {
        version: std::str::from_utf8(version).ok()?.trim_end_matches(' ').parse().ok()?,
        protocol: Protocols::new(oldest.parse().ok()?, newest.parse().ok()?)?,
    })
}

/// The mark in a program's file; nothing if there is none, or if there are several that contradict each other.
pub fn find(program: &[u8]) -> Option<Marked> {
    let mut found: Option<Marked> = None;
    let mut rest = program;
    // the first byte first: a search for the whole head at every byte of 6 MB takes a Pi seconds
    while let Some(at) = rest.iter().position(|byte| *byte == HEAD[0]) {
        if let Some(marked) = parse(&rest[at..]) {
            match &found {
                Some(other) if *other != marked => return None,
                Some(_) | None => found = Some(marked),
            }
        }
        rest = &rest[at + 1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_mark_is_the_packages() {
        let own = own();
        assert_eq!(own.version.as_str(), env!("CARGO_PKG_VERSION"));
        assert_eq!(
            (own.protocol.oldest(), own.protocol.newest()),
            (OLDEST_PROTOCOL, ProtocolVersion::CURRENT.number())
        );
    }

    #[test]
    fn a_mark_is_found_in_a_program_and_two_that_differ_are_none() {
        let mark = |version: &str, newest| compose(version.as_bytes(), 1, newest);
        let program =
            |marks: &[[u8; BYTES]]| [b"bbb".as_slice(), HEAD, &marks.concat(), b"beehive-release-mark"].concat();
        assert_eq!(find(&program(&[])), None);
        let found = find(&program(&[mark("12.3.4-rc.1", 2), mark("12.3.4-rc.1", 2)])).unwrap();
        assert_eq!((found.version.as_str(), found.protocol.newest()), ("12.3.4-rc.1", 2));
        assert_eq!(find(&program(&[mark("1.0.0", 1), mark("1.0.1", 1)])), None);
        assert_eq!(find(&mark("1.0.0", 1)[..BYTES - 1]), None);
        assert_eq!(find(&mark("../../etc", 1)), None);
    }
}
