//! The exact bytes of every message of each version of the protocol that is spoken, in `fixtures/v1` and `fixtures/v2`: a file
//! a message, its topic in the first line and its bytes in the second. What is there is read for as long as its version is
//! spoken; what is made today is made in exactly these bytes.
//!
//! `BEEHIVE_BLESS=1 cargo test -p beehive-mqtt` writes what is made today in the current version. A file whose bytes change is
//! kept under `fixtures/v2/older`, where it goes on being read. **Those of the version before are what another program wrote
//! and reads: they are blessed no more.**

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod samples;

use beehive_mqtt::codec::{MAX_PACKET_BYTES, Wrapping};
use beehive_mqtt::node::{NodeEvent, NodeEventKind};
use beehive_mqtt::sign::RecordHash;
use beehive_mqtt::topic::MAX_TOPIC_BYTES;
use beehive_mqtt::{DecodeError, ProtocolVersion, Text, Topic, Verified, decode, encode, verify};
use proptest::prelude::*;
use samples::{Fill, Sample, TestKey, all, all_in, crew, decode_any, decode_any_in};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn folder(version: ProtocolVersion) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

fn file(sample: &Sample) -> Vec<u8> {
    let topic = sample.topic.name(&crew());
    [topic.as_bytes(), b"\n", &sample.bytes, b"\n"].concat()
}

/// The topic and the bytes of a fixture.
fn read(path: &Path) -> (Topic, Vec<u8>) {
    let text = fs::read(path).unwrap();
    let end = text.iter().position(|byte| *byte == b'\n').unwrap();
    let topic = Topic::parse(&crew(), std::str::from_utf8(&text[..end]).unwrap()).unwrap();
    (topic, text[end + 1..text.len() - 1].to_vec())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    all.sort();
    all
}

#[test]
fn every_message_is_made_in_the_bytes_that_are_pinned() {
    let dir = folder(ProtocolVersion::CURRENT);
    let older = dir.join("older");
    let blesses = std::env::var_os("BEEHIVE_BLESS").is_some();
    fs::create_dir_all(&older).unwrap();
    let mut names = BTreeSet::new();
    for sample in all() {
        assert!(names.insert(format!("{}.txt", sample.name)), "two samples are called {}", sample.name);
        let path = dir.join(format!("{}.txt", sample.name));
        let (made, kept) = (file(&sample), fs::read(&path).ok());
        match kept {
            Some(kept) if kept == made => {}
            kept if blesses => {
                if let Some(kept) = kept {
                    let hash = RecordHash::of(&kept).to_string();
                    fs::write(older.join(format!("{}-{}.txt", sample.name, &hash[..8])), kept).unwrap();
                }
                fs::write(&path, made).unwrap();
            }
            kept => {
                let kept = kept.map(|kept| String::from_utf8_lossy(&kept).into_owned());
                let made = String::from_utf8_lossy(&made).into_owned();
                panic!(
                    "{}: the bytes have changed; BEEHIVE_BLESS=1 if that is meant\nkept {kept:?}\nmade {made:?}",
                    sample.name
                );
            }
        }
        assert_eq!((sample.is)(&sample.bytes), Ok(true), "{} is not read back", sample.name);
    }
    for path in files(&dir) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(names.contains(&name), "{name} is made no more: move it to older, it has to be read for ever");
    }
}

#[test]
fn every_fixture_is_read_for_as_long_as_its_version_is_spoken() {
    for version in [ProtocolVersion::BEFORE, ProtocolVersion::CURRENT] {
        let (today, older) = (files(&folder(version)), files(&folder(version).join("older")));
        assert!(today.len() > 100, "{} fixtures", today.len());
        for path in today.iter().chain(&older) {
            let (topic, bytes) = read(path);
            let again = decode_any(&topic, &bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(decode_any(&topic, &again), Ok(again.clone()), "{}", path.display());
            // and its version is known from it alone, which the signature covers
            if topic.wrapping() == Wrapping::Envelope {
                let name = topic.name(&crew());
                let signed = verify(&bytes, &name, |key, message, signature| {
                    use beehive_mqtt::Signer as _;
                    assert_eq!((key, &TestKey.sign(message)), (TestKey.key(), signature), "{}", path.display());
                    Ok(())
                });
                assert!(matches!(signed, Ok(Verified { version: found, .. }) if found == version), "{signed:?}");
            }
        }
    }
}

#[test]
fn what_is_written_in_the_version_before_is_what_its_own_programs_wrote() {
    let before = ProtocolVersion::BEFORE;
    // byte for byte what stands in the fixtures, which no program of today has written: as made now, and as read and written
    let made: BTreeMap<String, Vec<u8>> =
        all_in(before).iter().map(|sample| (format!("{}.txt", sample.name), file(sample))).collect();
    let kept: BTreeMap<String, Vec<u8>> = files(&folder(before))
        .iter()
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&kept), "a new message belongs to a new version: give it its `since`");
    for (name, kept) in &kept {
        assert!(made[name] == *kept, "{name}: made {}", String::from_utf8_lossy(&made[name]));
    }
    for path in files(&folder(before)) {
        let (topic, bytes) = read(&path);
        assert_eq!(decode_any_in(before, &topic, &bytes), Ok(bytes.clone()), "{}", path.display());
    }
}

/// The same message with a field more, inside and outside.
fn with_more(sample: &Sample) -> Vec<u8> {
    let more = |text: &str| {
        let mut value: Value = serde_json::from_str(text).unwrap();
        value.as_object_mut().unwrap().insert("of_a_later_version".to_owned(), json!({"x": [1, "y", null]}));
        value.to_string()
    };
    let bytes = std::str::from_utf8(&sample.bytes).unwrap();
    match sample.wrapping {
        Wrapping::Plain => more(bytes).into_bytes(),
        Wrapping::Envelope => {
            let mut envelope: Value = serde_json::from_str(&more(bytes)).unwrap();
            envelope["body"] = Value::String(more(&sample.body));
            envelope.to_string().into_bytes()
        }
    }
}

#[test]
fn fields_of_later_versions_are_ignored_and_other_versions_answered_with_an_error() {
    for sample in all().iter().filter(|sample| sample.fill != Fill::Most) {
        assert_eq!((sample.is)(&with_more(sample)), Ok(true), "{}", sample.name);
        let text = std::str::from_utf8(&sample.bytes).unwrap();
        for version in [0, 3, 3_000_000_000_u64] {
            let other = text.replacen("\"v\":2", &format!("\"v\":{version}"), 1);
            let error = decode_any(&sample.topic, other.as_bytes()).unwrap_err();
            assert!(matches!(error, DecodeError::Version { version: found, .. } if found == version), "{error}");
        }
    }
}

#[test]
fn the_largest_message_of_each_kind_keeps_its_limit() {
    let mut table = Vec::new();
    for sample in all().iter().filter(|sample| sample.fill == Fill::Most) {
        assert!(sample.body.len() <= sample.max_body_bytes, "{}: {} bytes", sample.name, sample.body.len());
        assert!(sample.bytes.len() <= sample.max_bytes, "{}: {} bytes", sample.name, sample.bytes.len());
        // the fixed header of a packet, the topic's length and the packet's id
        let packet = sample.bytes.len() + MAX_TOPIC_BYTES + 9;
        assert!(packet <= MAX_PACKET_BYTES, "{}: a packet of {packet} bytes", sample.name);
        // a limit that is far too wide lets strangers cost more than they need to
        assert!(sample.max_body_bytes < 65_536, "{}", sample.name);
        table.push(format!("{:40} {:6} of {:6}", sample.name, sample.bytes.len(), sample.max_bytes));
    }
    println!("{}", table.join("\n"));
    // and the one that is as large as its kind needs shows that the limits are no guesses
    for kind in all().iter().map(|sample| sample.kind).collect::<BTreeSet<_>>() {
        let of_kind = || all().into_iter().filter(move |sample| sample.kind == kind && sample.fill == Fill::Most);
        let largest = of_kind().map(|sample| sample.body.len()).max().unwrap();
        let limit = of_kind().next().unwrap().max_body_bytes;
        assert!(largest * 3 >= limit, "{kind}: the largest has {largest} bytes, and the limit is {limit}");
    }
}

#[test]
fn a_mebibyte_of_nesting_is_an_error_and_no_end() {
    let mebibyte = 1 << 20;
    let deep = |open: &str, length: usize| open.repeat(length / open.len());
    for sample in all().iter().filter(|sample| sample.fill == Fill::Usual) {
        for open in ["[", "{\"a\":", "[[{\"body\":"] {
            let error = decode_any(&sample.topic, deep(open, mebibyte).as_bytes()).unwrap_err();
            assert!(matches!(error, DecodeError::Oversized { .. }), "{error}");
            // within the limit, outside and inside
            let whole = deep(open, sample.max_bytes.min(sample.max_body_bytes));
            assert!(decode_any(&sample.topic, whole.as_bytes()).is_err());
            let version = format!("{{\"v\":1,\"more\":{whole}");
            assert!(decode_any(&sample.topic, version.as_bytes()).is_err());
            let body = json!({"v": 1, "body": whole}).to_string();
            assert!(decode_any(&sample.topic, body.as_bytes()).is_err());
            assert!(verify(body.as_bytes(), "t", |_, _, _| Ok(())).is_err());
        }
    }
}

fn event(detail: &str) -> NodeEvent {
    NodeEvent { kind: NodeEventKind::Board, detail: Text::cut(detail), uptime_ms: 1, sequence: 1 }
}

/// Strings that have broken encoders.
const HARD: [&str; 16] = [
    "",
    "\u{0}",
    "\u{1}\u{1f}\u{7f}",
    "\"\\/\u{8}\u{c}\n\r\t",
    "\\u0041 \\ud83d",
    "\u{2028}\u{2029}",
    "\u{feff}bom",
    "\u{d7ff}\u{e000}\u{fffd}\u{fffe}\u{ffff}",
    "\u{10000}\u{10ffff}",
    "\u{1f41d}\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
    "e\u{301} \u{e9}",
    "\u{202e}desrever",
    "{\"v\":2,\"body\":\"{}\"}",
    "</script><!--",
    "\u{5d0}\u{627}\u{4e2d}",
    "%00%0a${x}`y`",
];

proptest! {
    #[test]
    fn every_string_of_any_unicode_survives(text in any::<String>()) {
        let sent = event(&text);
        let bytes = encode(&sent, "t", &TestKey).unwrap();
        prop_assert_eq!(decode::<NodeEvent>(&bytes), Ok(sent));
        let sent = samples::presence(Fill::Usual, beehive_mqtt::node::Connection::Online);
        let sent = beehive_mqtt::node::Presence { reason: Text::cut(&text), ..sent };
        let bytes = encode(&sent, "t", &TestKey).unwrap();
        prop_assert_eq!(decode(&bytes), Ok(sent));
        let sent = samples::console_response(Fill::Usual, beehive_mqtt::console::ResponseStatus::Done);
        let sent = beehive_mqtt::console::ConsoleResponse { text: Text::cut(&text), code: Text::cut(&text), ..sent };
        let bytes = encode(&sent, "t", &TestKey).unwrap();
        prop_assert_eq!(decode(&bytes), Ok(sent));
    }
}

/// Reads our envelopes, and writes what it read as envelopes of its own, in both of Python's ways.
const PYTHON: &str = r#"
import json, sys
for line in sys.stdin.buffer:
    envelope = json.loads(line)
    body = json.loads(envelope["body"])
    for ascii in (True, False):
        inner = json.dumps(body, ensure_ascii=ascii)
        whole = json.dumps({"v": 2, "key": envelope["key"], "body": inner, "sig": envelope["sig"]}, ensure_ascii=ascii)
        sys.stdout.buffer.write(whole.encode("utf-8", "surrogatepass") + b"\n")
"#;

#[test]
fn every_string_survives_python_in_both_directions() {
    let mut texts: Vec<String> = HARD.iter().map(|text| (*text).to_owned()).collect();
    // every part of Unicode, a few characters of each
    let mut point = 1_u32;
    while point < 0x11_0000 {
        texts.push((0..8).filter_map(|more| char::from_u32(point + more * 37)).collect());
        point += 1_499;
    }
    let sent: Vec<NodeEvent> = texts.iter().map(|text| event(text)).collect();
    let mut python = Command::new("python3")
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is not installed: apt-get install python3-minimal");
    let mut input = python.stdin.take().unwrap();
    let lines: Vec<Vec<u8>> = sent.iter().map(|event| encode(event, "t", &TestKey).unwrap()).collect();
    let writer = std::thread::spawn(move || {
        for line in lines {
            assert!(!line.contains(&b'\n'), "a message is one line");
            input.write_all(&line).unwrap();
            input.write_all(b"\n").unwrap();
        }
    });
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let back: Vec<&[u8]> = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(back.len(), 2 * sent.len());
    for (pair, sent) in back.chunks(2).zip(&sent) {
        for line in pair {
            assert_eq!(decode::<NodeEvent>(line).as_ref(), Ok(sent), "{}", String::from_utf8_lossy(line));
        }
    }
}
