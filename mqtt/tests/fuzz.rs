//! Mutated messages through every decoder, on the stable compiler: what arrives from strangers must neither end the program
//! nor be read as something that cannot be written again. The corpus is the fixtures and `fuzz/corpus`.
//!
//! One second in an ordinary run, thirty in `./test fuzz` (`BEEHIVE_FUZZ_SECONDS`). It is seeded; a failure prints the seed
//! and the input, and `BEEHIVE_FUZZ_SEED` plays it again. For those with a nightly compiler there is a target for cargo-fuzz
//! in `fuzz/`, which runs the same function.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod samples;

use beehive_mqtt::bridge::DoorTopic;
use beehive_mqtt::{Distrust, Topic, verify};
use samples::{crew, decode_any};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// What JSON decoders stumble over.
const WORDS: [&[u8]; 30] = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"-0",
    b"0.1",
    b"18446744073709551616",
    b"4294967296",
    b"65536",
    b"\"\"",
    b"\\u0000",
    b"\\ud83d",
    b"\\ud83d\\udc1d",
    b"\xff",
    b"\xf0\x9f\x90\x9d",
    b"\xc0\x80",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"\\\"",
    b"\"v\":1",
    b"\"v\":2,",
    b"\"body\":\"{}\"",
    b"\"do\":\"reset\"",
    b"\"ask\":\"abort\"",
    b"\"node\":\"A/B\"",
    b"                ",
];

fn mutate(random: &mut Random, corpus: &[(Topic, Vec<u8>)], bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            1 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            2 => bytes.truncate(at),
            3 => {
                let end = (at + random.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            5 => {
                let word = WORDS[random.below(WORDS.len())];
                let end = (at + word.len()).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
            6 => {
                // a piece of another message
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len());
                let to = (from + random.below(200)).min(other.len());
                let end = (at + random.below(64)).min(bytes.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                // a piece of itself, again
                let end = (at + random.below(100)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// Every decoder on some bytes. Whether they were read as a message.
fn try_all(topic: &Topic, bytes: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(found) = Topic::parse(&crew(), text) {
            assert_eq!(found.name(&crew()).as_str(), text, "a topic has one name");
        }
        let _ = DoorTopic::parse(&crew(), text);
    }
    let name = topic.name(&crew());
    let _ = verify(bytes, &name, |_, message, _| {
        assert!(message.len() <= bytes.len() + 512);
        Err(Distrust::Forged)
    });
    match decode_any(topic, bytes) {
        Err(error) => {
            assert!(error.to_string().len() < 400, "an error as long as what it complains of");
            false
        }
        Ok(again) => {
            assert_eq!(decode_any(topic, &again).as_deref(), Ok(again.as_slice()), "read, written and read again");
            true
        }
    }
}

/// The inner document of an envelope.
fn body(bytes: &[u8]) -> Option<Vec<u8>> {
    let envelope: Value = serde_json::from_slice(bytes).ok()?;
    Some(envelope.get("body")?.as_str()?.as_bytes().to_vec())
}

fn corpus() -> Vec<(Topic, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for dir in ["tests/fixtures/v1", "tests/fixtures/v2", "tests/fixtures/v2/older", "fuzz/corpus"] {
        let mut paths: Vec<_> =
            fs::read_dir(root.join(dir)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.is_file()) {
            let text = fs::read(path).unwrap();
            let end = text.iter().position(|byte| *byte == b'\n').unwrap();
            let topic = std::str::from_utf8(&text[..end]).unwrap();
            all.push((Topic::parse(&crew(), topic).unwrap(), text[end + 1..].to_vec()));
        }
    }
    all
}

#[test]
fn mutated_messages_end_nothing_and_are_read_as_what_can_be_written() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
    };
    let seconds = number("BEEHIVE_FUZZ_SECONDS", 1);
    let seed = number("BEEHIVE_FUZZ_SEED", 20_201_130);
    let corpus = corpus();
    assert!(corpus.len() > 100, "the corpus has {} messages", corpus.len());
    let mut random = Random(seed);
    let (mut runs, mut read): (u64, BTreeMap<String, u64>) = (0, BTreeMap::new());
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        for _ in 0..100 {
            let (topic, bytes) = &corpus[random.below(corpus.len())];
            let mut bytes = bytes.clone();
            // half of the envelopes are opened first, or hardly a mutation would reach what is in them
            match body(&bytes) {
                Some(mut body) if random.below(2) == 0 => {
                    mutate(&mut random, &corpus, &mut body);
                    bytes = json!({"v": 1, "body": String::from_utf8_lossy(&body)}).to_string().into_bytes();
                }
                Some(_) | None => mutate(&mut random, &corpus, &mut bytes),
            }
            runs += 1;
            match catch_unwind(AssertUnwindSafe(|| try_all(topic, &bytes))) {
                Ok(true) => {
                    let kind = format!("{topic:?}");
                    *read.entry(kind.split('(').next().unwrap().to_owned()).or_default() += 1;
                }
                Ok(false) => {}
                Err(panic) => {
                    eprintln!("seed {seed}, run {runs}: {topic:?}\n{:?}", String::from_utf8_lossy(&bytes));
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    let total: u64 = read.values().sum();
    println!("seed {seed}: {runs} mutated messages in {seconds} s, {total} of them read as a message: {read:?}");
    assert!(runs > 1_000 * seconds, "so few runs show nothing: {runs}");
    assert!(total > runs / 100, "the mutations break everything at once: {total} of {runs} were read");
    // in one second on a busy machine not every kind has its turn
    let wanted = if seconds >= 10 { 16 } else { 6 };
    assert!(read.len() >= wanted, "whole kinds are never read: {read:?}");
}
