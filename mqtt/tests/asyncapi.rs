//! The AsyncAPI document of the protocol, `docs/asyncapi.json`, made from the types: its channels from [`Topic`], its schemas
//! from the samples of every message, the smallest to the largest. It is compared byte for byte, so it cannot drift;
//! `BEEHIVE_BLESS=1` writes it anew. `./test asyncapi` has it validated by the project's own parser, and every fixture by
//! the schemas.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod samples;

use beehive_mqtt::codec::Wrapping;
use beehive_mqtt::sign::Writer;
use beehive_mqtt::topic::{Delivery, Retention};
use beehive_mqtt::{CrewName, NodeName, OperationId, Topic, UserName};
use samples::{Fill, Sample, all, crew};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The words of an enumeration.
fn words<T: Serialize>(all: &[T]) -> Vec<Value> {
    all.iter().map(|value| serde_json::to_value(value).unwrap()).collect()
}

/// Where an enumeration stands: the kind of message and the path in it.
fn enumeration(kind: &str, path: &str) -> Option<Vec<Value>> {
    use samples::*;
    Some(match (kind, path) {
        ("presence", "status") => words(CONNECTIONS),
        ("node state", "lifecycle") => words(LIFECYCLES),
        ("node state", "power" | "last_shutdown.phase") => words(POWER_PHASES),
        ("node state", "goal") => words(POWER_GOALS),
        ("node state", "running.verb") => words(VERBS),
        ("node state", "engine.run") => words(ENGINE_RUNS),
        ("node state", "last_shutdown.outcome") => words(OUTCOMES),
        ("node info", "role") => words(ROLES),
        ("node info", "button.status" | "poe_hat.status" | "leds.status") => words(PART_STATUSES),
        ("node info", "broker") => words(BROKER_TRUSTS),
        ("node event", "kind") => words(NODE_EVENTS),
        ("node request", "want") => words(WANTS),
        ("command result", "verb") => words(VERBS),
        ("command result", "status") => words(STATUSES),
        ("command", "verb.answer") => words(ANSWERS),
        ("coordinator state", "phase") => words(CLUSTER_PHASES),
        ("coordinator state", "members.membership") => words(MEMBERSHIPS),
        ("coordinator state", "members.slot") => words(SLOTS),
        ("operation summary" | "console request", "kind") => words(KINDS),
        ("operation summary", "phase") => words(PHASES),
        ("operation summary", "failures.step")
        | ("operation's node", "steps.step")
        | ("console response", "plan.step") => words(STEPS),
        ("operation's node", "steps.state") => words(STEP_STATES),
        ("coordinator event", "kind") => words(COORDINATOR_EVENTS),
        ("manifest", "users.role") => words(USER_ROLES),
        ("console request", "mode") => words(MODES),
        ("console request", "force") => words(FORCES),
        ("console response", "status") => words(RESPONSES),
        _ => return None,
    })
}

/// Names a variant where one of these stands in an object.
const TAGS: [&str; 2] = ["do", "ask"];

/// A value of a sample, and whether the sample is the largest.
type Seen<'a> = (&'a Value, Fill);

fn schema(kind: &str, path: &str, seen: &[Seen<'_>]) -> Value {
    let there: Vec<Seen<'_>> = seen.iter().filter(|(value, _)| !value.is_null()).copied().collect();
    let mut schema = match there.first() {
        None => return json!({"type": "null"}),
        Some((Value::Bool(_), _)) => json!({"type": "boolean"}),
        Some((Value::Number(_), _)) => number(&there),
        Some((Value::String(_), _)) => string(kind, path, &there),
        Some((Value::Array(_), _)) => array(kind, path, &there),
        Some((Value::Object(_), _)) => object(kind, path, &there),
        Some((Value::Null, _)) => unreachable!("filtered"),
    };
    if there.len() < seen.len() {
        if let Some(name) = schema.get("type").cloned() {
            schema["type"] = json!([name, "null"]);
            if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
                words.push(Value::Null);
            }
        } else {
            schema = json!({"oneOf": [schema, {"type": "null"}]});
        }
    }
    schema
}

fn number(seen: &[Seen<'_>]) -> Value {
    if seen.iter().any(|(value, _)| value.as_i64().is_some_and(|number| number < 0)) {
        return json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX});
    }
    let most = seen.iter().map(|(value, _)| value.as_u64().expect("no fractions in this protocol")).max().unwrap();
    // JavaScript's numbers are exact to 2^53 only
    if most > 1 << 53 {
        json!({"type": "integer", "minimum": 0, "description": "64 bits, unsigned"})
    } else {
        json!({"type": "integer", "minimum": 0, "maximum": most})
    }
}

fn string(kind: &str, path: &str, seen: &[Seen<'_>]) -> Value {
    let texts: BTreeSet<&str> = seen.iter().map(|(value, _)| value.as_str().unwrap()).collect();
    if let Some(words) = enumeration(kind, path) {
        for text in &texts {
            assert!(words.contains(&Value::from(*text)), "{kind}.{path}: {text:?} is not in its enumeration");
        }
        return json!({"type": "string", "enum": words});
    }
    for (value, fill) in seen {
        let filler = |c: char| matches!(c, '\u{1}' | 'x') || c.is_ascii_hexdigit();
        let text = value.as_str().unwrap();
        let is_filler = *fill != Fill::Most || text.chars().all(filler);
        assert!(is_filler, "{kind}.{path}: {text:?} looks like a word: name its enumeration in this file");
    }
    let longest = texts.iter().map(|text| text.len()).max().unwrap();
    let shortest = texts.iter().map(|text| text.len()).min().unwrap();
    let hexadecimal = texts.iter().all(|text| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    if hexadecimal && longest == shortest {
        return json!({"type": "string", "pattern": format!("^[0-9a-f]{{{longest}}}$")});
    }
    let mut schema = json!({"type": "string", "maxLength": longest, "description": "at most so many bytes of UTF-8"});
    // names and ids are never empty, texts for people may be
    if shortest > 0
        && texts.iter().all(|text| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-')))
    {
        schema = json!({"type": "string", "minLength": 1, "maxLength": longest, "pattern": "^[0-9a-z]([0-9a-z-]*[0-9a-z])?$"});
    }
    schema
}

fn array(kind: &str, path: &str, seen: &[Seen<'_>]) -> Value {
    let arrays = || seen.iter().map(|(value, fill)| (value.as_array().unwrap(), *fill));
    let items: Vec<Seen<'_>> = arrays().flat_map(|(items, fill)| items.iter().map(move |item| (item, fill))).collect();
    let longest = arrays().map(|(items, _)| items.len()).max().unwrap();
    json!({"type": "array", "maxItems": longest, "items": schema(kind, path, &items)})
}

fn object(kind: &str, path: &str, seen: &[Seen<'_>]) -> Value {
    let tag = TAGS.iter().find(|tag| seen.iter().all(|(value, _)| value.get(**tag).is_some()));
    if let Some(tag) = tag {
        let mut variants: BTreeMap<&str, Vec<Seen<'_>>> = BTreeMap::new();
        for (value, fill) in seen {
            variants.entry(value[*tag].as_str().unwrap()).or_default().push((value, *fill));
        }
        let variants = variants.into_iter().map(|(name, seen)| {
            let mut variant = fields(kind, path, &seen, Some(tag));
            variant["properties"][*tag] = json!({"const": name});
            variant["title"] = json!(name);
            variant
        });
        return json!({"oneOf": variants.collect::<Vec<_>>()});
    }
    fields(kind, path, seen, None)
}

fn fields(kind: &str, path: &str, seen: &[Seen<'_>], tag: Option<&str>) -> Value {
    let objects = || seen.iter().map(|(value, fill)| (value.as_object().unwrap(), *fill));
    let names: BTreeSet<&String> = objects().flat_map(|(object, _)| object.keys()).collect();
    let mut properties = Map::new();
    let mut required = Vec::new();
    for name in names {
        let values: Vec<Seen<'_>> =
            objects().filter_map(|(object, fill)| object.get(name).map(|value| (value, fill))).collect();
        if values.len() == seen.len() {
            required.push(name.clone());
        }
        if tag == Some(name.as_str()) {
            continue;
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        properties.insert(name.clone(), schema(kind, &path, &values));
    }
    // a receiver ignores what it does not know, so no additional property is forbidden
    json!({"type": "object", "required": required, "properties": properties})
}

/// `node state` → `NodeState`.
fn camel(kind: &str) -> String {
    kind.split([' ', '\'']).map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// Every topic of the protocol, with names that stand for parameters. The match makes a new one a compile error.
fn topics() -> Vec<(Topic, &'static str)> {
    const _: fn(Topic) = |topic| match topic {
        Topic::Presence(_) | Topic::State(_) | Topic::Info(_) | Topic::Telemetry(_) | Topic::Event(_) => {}
        Topic::Request(_) | Topic::Result(_) | Topic::Command(_) | Topic::CoordinatorPresence => {}
        Topic::CoordinatorState | Topic::Operation(_) | Topic::OperationNode(..) | Topic::CoordinatorEvent => {}
        Topic::Manifest | Topic::ConsoleRequest(_) | Topic::ConsoleResponse(_) | Topic::Direct(..) => {}
    };
    let node = || -> NodeName { "parameter-node".parse().unwrap() };
    let user = || -> UserName { "parameter-user".parse().unwrap() };
    let operation = || -> OperationId { "parameter-operation".parse().unwrap() };
    vec![
        (
            Topic::Presence(node()),
            "whether a node is connected; also its last will. A hint, which may delay a step and permits none",
        ),
        (Topic::State(node()), "what a node is and does; repeated every ten seconds"),
        (Topic::Info(node()), "what a node is made of"),
        (Topic::Telemetry(node()), "measured values, every ten seconds"),
        (Topic::Event(node()), "what happened on a node"),
        (Topic::Request(node()), "what a node asks of the coordinator, again under the same id until it is answered"),
        (Topic::Result(node()), "how far a command is"),
        (Topic::Command(node()), "what a node is told, again under the same id until a final result comes"),
        (Topic::CoordinatorPresence, "whether the coordinator is connected; also its last will"),
        (Topic::CoordinatorState, "the cluster, and the coordinator's session; repeated every ten seconds"),
        (Topic::Operation(operation()), "an operation in short; the last five stay"),
        (Topic::OperationNode(operation(), node()), "one node's steps, while the operation is active"),
        (Topic::CoordinatorEvent, "what happened in the crew"),
        (Topic::Manifest, "who is in the crew, with which keys, and who coordinates; signed with the crew's own key"),
        (Topic::ConsoleRequest(user()), "what an operator asks, again under the same id until it is answered"),
        (Topic::ConsoleResponse(user()), "the coordinator's answer"),
        (
            Topic::Direct(user(), node()),
            "what an operator tells a node while no coordinator is there, again under the same id until a result comes",
        ),
    ]
}

fn document() -> Value {
    let samples = all();
    let of_topic = |topic: &Topic| {
        let same = |sample: &&Sample| std::mem::discriminant(&sample.topic) == std::mem::discriminant(topic);
        samples.iter().find(same).unwrap_or_else(|| panic!("no sample for {topic:?}"))
    };
    let (mut channels, mut operations, mut messages, mut schemas) = (Map::new(), Map::new(), Map::new(), Map::new());
    let parameter_crew: CrewName = "parameter-crew".parse().unwrap();
    for (topic, summary) in topics() {
        let sample = of_topic(&topic);
        let message = camel(sample.kind);
        let debug = format!("{topic:?}");
        let channel = debug.split('(').next().unwrap().to_owned();
        let channel = channel[..1].to_lowercase() + &channel[1..];
        let address = topic.name(&parameter_crew);
        let mut parameters = Map::new();
        let mut shown = address.as_str().to_owned();
        for (name, description) in [
            ("crew", "the crew, such as bee42-crew-01"),
            ("node", "the node's host name"),
            ("user", "the operator or tool"),
            ("operation", "the operation's id, which is that of the request that asked for it"),
        ] {
            let placeholder = format!("parameter-{name}");
            if shown.contains(&placeholder) {
                shown = shown.replace(&placeholder, &format!("{{{name}}}"));
                parameters.insert(name.to_owned(), json!({"description": description}));
            }
        }
        let writer = match topic.writer() {
            Writer::Node(_) => "the node",
            Writer::Coordinator => "the coordinator",
            Writer::User(_) => "the user",
            Writer::Crew => "the crew's owner, through the coordinator",
        };
        channels.insert(
            channel.clone(),
            json!({
                "address": shown,
                "summary": summary,
                "description": format!("Written by {writer}."),
                "parameters": parameters,
                "messages": {message.clone(): {"$ref": format!("#/components/messages/{message}")}},
            }),
        );
        let qos = match topic.delivery() {
            Delivery::AtMostOnce => 0,
            Delivery::AtLeastOnce => 1,
        };
        operations.insert(
            format!("send{}{}", &channel[..1].to_uppercase(), &channel[1..]),
            json!({
                "action": "send",
                "title": format!("said by {writer}"),
                "channel": {"$ref": format!("#/channels/{channel}")},
                "messages": [{"$ref": format!("#/channels/{channel}/messages/{message}")}],
                "bindings": {"mqtt": {"qos": qos, "retain": topic.retention() == Retention::Retained}},
            }),
        );
        if schemas.contains_key(&message) {
            continue;
        }
        let of_kind: Vec<(Value, Fill)> = samples
            .iter()
            .filter(|other| other.kind == sample.kind)
            .map(|other| (serde_json::from_str(&other.body).unwrap(), other.fill))
            .collect();
        let seen: Vec<Seen<'_>> = of_kind.iter().map(|(value, fill)| (value, *fill)).collect();
        let mut body = schema(sample.kind, "", &seen);
        body["title"] = json!(sample.kind);
        let payload = match sample.wrapping {
            Wrapping::Envelope => {
                schemas.insert(message.clone(), body);
                json!({
                    "type": "object",
                    "title": format!("{}, in its envelope", sample.kind),
                    "required": ["v", "key", "body", "sig"],
                    "properties": {
                        "v": {"enum": [1, 2]},
                        "key": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
                        "body": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "maxLength": sample.max_body_bytes,
                            "description": format!("A JSON document: #/components/schemas/{message}."),
                            "x-schema": format!("#/components/schemas/{message}"),
                        },
                        "sig": {"type": "string", "pattern": "^[0-9a-f]{128}$"},
                    },
                })
            }
            Wrapping::Plain => {
                body["required"].as_array_mut().unwrap().push(json!("v"));
                body["properties"]["v"] = json!({"enum": [1, 2]});
                schemas.insert(message.clone(), body);
                json!({"$ref": format!("#/components/schemas/{message}")})
            }
        };
        messages.insert(
            message,
            json!({
                "name": sample.kind,
                "contentType": "application/json",
                "payload": payload,
                "x-max-bytes": sample.max_bytes,
            }),
        );
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "beehive",
            "version": "2",
            "description": "The MQTT protocol between the Pis of a crew, its coordinator and its operators. Every message but \
                            presence and telemetry is an envelope whose `body` is the exact text that `sig` covers, with the \
                            topic (Ed25519; docs/protocol.md says over which bytes). Made from the types by \
                            mqtt/tests/asyncapi.rs.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "crew": {
                "host": "bee42-crew-01-001:8883",
                "protocol": "secure-mqtt",
                "protocolVersion": "3.1.1",
                "description": "The crew's own broker, on its master.",
                "security": [{"$ref": "#/components/securitySchemes/certificate"}],
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {
                "certificate": {
                    "type": "X509",
                    "description": "A client certificate of the crew; its common name is the identity at the broker.",
                },
            },
        },
    })
}

#[test]
fn the_document_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/asyncapi.json");
    let made = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("BEEHIVE_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    if let Some((at, (kept, made))) = kept.lines().zip(made.lines()).enumerate().find(|(_, (kept, made))| kept != made)
    {
        panic!(
            "docs/asyncapi.json, line {}: it says {kept:?}, the types say {made:?}; BEEHIVE_BLESS=1 if that is meant",
            at + 1
        );
    }
    assert_eq!(
        kept.len(),
        made.len(),
        "docs/asyncapi.json ends otherwise than the types; BEEHIVE_BLESS=1 if that is meant"
    );
    assert_eq!(crew().as_str(), "bee42-crew-01");
}
