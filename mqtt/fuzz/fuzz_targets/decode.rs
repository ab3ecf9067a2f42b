//! Every decoder on what libFuzzer makes up: the first line is the topic, the rest the message, as in the fixtures.
#![no_main]

#[path = "../../tests/samples/mod.rs"]
mod samples;

use beehive_mqtt::{Distrust, Topic, verify};
use libfuzzer_sys::fuzz_target;
use samples::{crew, decode_any};

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let Some(topic) = std::str::from_utf8(&data[..end]).ok().and_then(|text| Topic::parse(&crew(), text).ok()) else {
        return;
    };
    let bytes = &data[end + 1..];
    let _ = verify(bytes, &topic.name(&crew()), |_, _, _| Err(Distrust::Forged));
    if let Ok(again) = decode_any(&topic, bytes) {
        assert_eq!(decode_any(&topic, &again).as_deref(), Ok(again.as_slice()));
    }
});
