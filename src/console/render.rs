//! The console's output: tables and lines for people, documents for programs. Pure functions from the model to text.
//!
//! Text that came over the wire is shown with its control characters replaced, so that nobody can drive the operator's
//! terminal with an escape sequence in an event.

use std::fmt::Write;

use beehive_mqtt::console::{ConsoleResponse, PlanStep};
use beehive_mqtt::coordinator::{ClusterPhase, OperationSummary};
use beehive_mqtt::node::{EngineRun, Part, Role, Throttling};
use beehive_mqtt::{CrewName, NodeName, OperationId, ProtocolVersion};
use serde_json::{Value, json};

use super::model::{CrewView, EventSource, EventView, NodeView, OperationView, Seen, word};

/// What a table shows where nothing is known.
const UNKNOWN: &str = "-";

/// `text` with each control character replaced.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A table with aligned columns and two spaces between them.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([header[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

fn role(view: &CrewView, node: &NodeView) -> String {
    match view.role(node) {
        Some(Role::Master) => "master".to_owned(),
        Some(Role::Node) => "node".to_owned(),
        None => UNKNOWN.to_owned(),
    }
}

fn power(node: &NodeView, seen: Seen) -> String {
    let Some(state) = &node.state else { return UNKNOWN.to_owned() };
    let power = match &state.goal {
        Some(goal) => format!("{}/{}", word(&state.power), word(goal)),
        None => word(&state.power),
    };
    match seen {
        Seen::Online => power,
        Seen::Offline | Seen::Silent | Seen::Unknown => format!("({power})"),
    }
}

fn membership(view: &CrewView, node: &NodeView) -> String {
    match (&node.member, view.coordinator()) {
        (Some(member), _) => match member.speaks.filter(|speaks| speaks.is_unknown()) {
            // nothing that it says is read, which looks like silence
            Some(speaks) => format!("{} (protocol {speaks})", member.membership),
            None => member.membership.as_str().to_owned(),
        },
        (None, Some(_)) => "unlisted".to_owned(),
        (None, None) => UNKNOWN.to_owned(),
    }
}

/// The table of all nodes.
pub fn node_table(view: &CrewView, now_ms: u64) -> String {
    let rows: Vec<Vec<String>> = view
        .nodes()
        .into_iter()
        .map(|node| {
            let seen = node.seen(now_ms);
            let (led, running) = match (&node.state, seen) {
                (Some(state), Seen::Online) => (
                    clean(state.led.as_str()),
                    state.running.as_ref().map_or(UNKNOWN, |running| running.verb.as_str()).to_owned(),
                ),
                // a light and a command of a Pi that is not there would be a guess
                (Some(_) | None, _) => (UNKNOWN.to_owned(), UNKNOWN.to_owned()),
            };
            vec![
                node.node.to_string(),
                role(view, node),
                seen.as_str().to_owned(),
                membership(view, node),
                power(node, seen),
                led,
                running,
            ]
        })
        .collect();
    table(&["NODE", "ROLE", "PRESENCE", "MEMBERSHIP", "POWER", "LED", "RUNNING"], &rows)
}

/// The line on the cluster as a whole.
pub fn cluster_line(crew: &CrewName, view: &CrewView) -> String {
    let seen = match view.coordinator_seen() {
        Seen::Online => "online",
        Seen::Offline => "offline",
        Seen::Silent => "silent",
        Seen::Unknown => "not heard",
    };
    let Some(state) = view.coordinator() else {
        return format!("crew {crew}: cluster unknown, coordinator {seen}\n");
    };
    let mut line = format!("crew {crew}: cluster {}", word(&state.phase));
    if let Some(cluster) = &state.cluster {
        let _ = write!(line, ", id {cluster}");
    }
    if let (Some(version), false) = (view.engine_version(), state.phase == ClusterPhase::Absent) {
        let _ = write!(line, ", {}", clean(version));
    }
    let _ = writeln!(line, ", coordinator {seen} on {}, term {}", state.master, state.session.term);
    line
}

/// The line on one operation.
pub fn operation_line(id: &OperationId, operation: &OperationView) -> String {
    let Some(summary) = &operation.summary else { return format!("operation {id}: not reported yet\n") };
    let (ended, total) = operation.ended_of_total();
    let node = summary.node.as_ref().map(|node| format!(" of {node}")).unwrap_or_default();
    format!(
        "operation {id}: {}{node} {}, {ended} of {total} steps, asked for by {}\n",
        summary.kind,
        summary.phase,
        clean(summary.requested_by.as_str())
    )
}

/// What `beehive status` prints.
pub fn status_text(crew: &CrewName, view: &CrewView, now_ms: u64) -> String {
    let mut text = cluster_line(crew, view);
    for (id, operation) in unfinished(view) {
        text.push_str(&operation_line(id, operation));
    }
    text.push('\n');
    text.push_str(&node_table(view, now_ms));
    text
}

/// The operations that have not ended; the one that the coordinator names is among them even if nothing else is known.
fn unfinished(view: &CrewView) -> Vec<(&OperationId, &OperationView)> {
    view.operations().filter(|(_, operation)| operation.summary.is_some() && !operation.is_final()).collect()
}

/// One node as a document.
pub fn node_document(view: &CrewView, node: &NodeView, now_ms: u64) -> Value {
    let state = node.state.as_ref();
    let seen = match node.seen(now_ms) {
        Seen::Unknown => None,
        known => Some(known),
    };
    json!({
        "node": node.node,
        "role": view.role(node),
        "presence": seen,
        "membership": node.member.as_ref().map(|member| member.membership),
        "slot": node.member.as_ref().map(|member| member.slot),
        "protocol": node.member.as_ref().and_then(|member| member.speaks),
        "lifecycle": state.map(|state| state.lifecycle),
        "power": state.map(|state| state.power),
        "goal": state.and_then(|state| state.goal),
        "led": state.map(|state| state.led.as_str()),
        "running": state.and_then(|state| state.running.as_ref()),
        "engine": state.map(|state| &state.engine),
        "boot": state.map(|state| &state.boot),
        "last_shutdown": state.and_then(|state| state.last_shutdown.as_ref()),
    })
}

/// Everything that is known of one node as a document.
pub fn node_show_document(view: &CrewView, node: &NodeView, now_ms: u64) -> Value {
    let mut document = node_document(view, node, now_ms);
    if let Value::Object(fields) = &mut document {
        fields.insert("info".to_owned(), json!(node.info));
        fields.insert("telemetry".to_owned(), json!(node.telemetry));
        fields.insert("connection".to_owned(), json!(node.presence));
    }
    document
}

/// The crew as a document.
pub fn status_document(crew: &CrewName, view: &CrewView, now_ms: u64) -> Value {
    let state = view.coordinator();
    let coordinator = match view.coordinator_seen() {
        Seen::Unknown => None,
        known => Some(known),
    };
    json!({
        "crew": crew,
        "cluster": {
            "phase": state.map(|state| state.phase),
            "id": state.and_then(|state| state.cluster.as_ref()),
            "engine_version": view.engine_version(),
        },
        "coordinator": {
            "presence": coordinator,
            "node": state.map(|state| &state.master),
            "term": state.map(|state| state.session.term),
        },
        "operations": unfinished(view).into_iter().map(|(_, of)| operation_document(of)).collect::<Vec<_>>(),
        "nodes": node_documents(view, now_ms),
    })
}

/// All nodes as documents.
pub fn node_documents(view: &CrewView, now_ms: u64) -> Value {
    view.nodes().into_iter().map(|node| node_document(view, node, now_ms)).collect()
}

/// One operation as a document.
pub fn operation_document(operation: &OperationView) -> Value {
    let mut document = json!(operation.summary);
    if let Value::Object(fields) = &mut document {
        let steps = operation
            .steps()
            .into_iter()
            .map(|(node, step)| json!({ "number": step.number, "step": step.step, "node": node, "state": step.state }));
        fields.insert("steps".to_owned(), steps.collect());
    }
    document
}

/// What `beehive node show` prints.
pub fn node_show_text(view: &CrewView, node: &NodeView, now_ms: u64) -> String {
    let seen = node.seen(now_ms);
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<14} {}", clean(value));
    };
    line("node", node.node.as_str());
    line("role", &role(view, node));
    match &node.presence {
        Some(presence) => {
            let (start, connection) = presence.order();
            let reason = match presence.reason.as_str() {
                "" => String::new(),
                reason => format!(", {reason}"),
            };
            line("presence", &format!("{} (start {start}, connection {connection}{reason})", seen.as_str()));
        }
        None => line("presence", seen.as_str()),
    }
    let slot = match &node.member {
        Some(member) => format!("{} (slot {})", member.membership, word(&member.slot)),
        None => membership(view, node),
    };
    line("membership", &slot);
    if let Some(state) = &node.state {
        line("lifecycle", &word(&state.lifecycle));
        line("power", &power(node, seen));
        line("led", state.led.as_str());
        line("running", state.running.as_ref().map_or(UNKNOWN, |running| running.verb.as_str()));
        let engine = match (&state.engine.run, &state.engine.cluster) {
            (EngineRun::Running, Some(cluster)) => format!("running in cluster {cluster} {}", state.engine.version),
            (EngineRun::Stopped, Some(cluster)) => format!("stopped, of cluster {cluster} {}", state.engine.version),
            (EngineRun::Running, None) => "running, in no cluster".to_owned(),
            (EngineRun::Stopped, None) => "stopped, in no cluster".to_owned(),
        };
        line("engine", engine.trim_end());
        line("boot", state.boot.as_str());
        if let Some(last) = &state.last_shutdown {
            let phase = word(&last.phase);
            line("last shutdown", &format!("{} in {phase}, asked by {}", word(&last.outcome), last.reason));
        }
    }
    if let Some(info) = &node.info {
        line("model", &format!("{}, {}", info.model, info.architecture));
        line("beehive", info.version.as_str());
        line("protocol", &info.speaks.unwrap_or(ProtocolVersion::V1.into()).to_string());
        line("engine kind", info.engine.as_str());
        line("pins", info.pins.as_str());
        for (key, part) in [("button", &info.button), ("PoE HAT", &info.poe_hat), ("LEDs", &info.leds)] {
            line(key, &part_text(part));
        }
        line("broker", &word(&info.broker));
    }
    if let Some(values) = &node.telemetry {
        line("up for", &format!("{} s", values.uptime_ms / 1000));
        line("feed", &format!("{} ({})", values.feed, values.feed_evidence));
        if let Some(current) = values.poe_current_ma {
            line("PoE current", &format!("{current} mA"));
        }
        line("over-currents", &values.over_currents.to_string());
        if let Some(fan) = values.fan_duty {
            line("fan", &format!("{fan} of 255"));
        }
        if let Some(temperature) = values.processor_millicelsius {
            line("processor", &format!("{:.1} degrees Celsius", f64::from(temperature) / 1000.0));
        }
        if let Some(throttling) = values.throttling {
            line("throttling", &throttling_text(throttling));
        }
        let refused = values.refused;
        let each = [
            ("malformed", refused.malformed),
            ("oversized", refused.oversized),
            ("unknown version", refused.unknown_version),
            ("retained", refused.retained),
            ("foreign", refused.foreign),
        ];
        let some: Vec<String> =
            each.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
        line("refused", &if some.is_empty() { "none".to_owned() } else { some.join(", ") });
    }
    text
}

/// What is wrong with supply and clock, of what the firmware tells.
fn throttling_text(throttling: Throttling) -> String {
    let said = [
        ("under-voltage", throttling.under_voltage),
        ("frequency capped", throttling.frequency_capped),
        ("throttled", throttling.throttled),
        ("soft temperature limit", throttling.soft_temperature_limit),
    ];
    let now: Vec<&str> = said.iter().filter(|(_, flag)| *flag == Some(true)).map(|(name, _)| *name).collect();
    if now.is_empty() { "none".to_owned() } else { now.join(", ") }
}

fn part_text(part: &Part) -> String {
    match part.detail.as_str() {
        "" => word(&part.status),
        detail => format!("{}: {detail}", word(&part.status)),
    }
}

/// One event as a line.
pub fn event_line(event: &EventView) -> String {
    let (who, about) = match (event.source, &event.node) {
        (EventSource::Node, Some(node)) => (node.as_str(), String::new()),
        (EventSource::Node, None) => (UNKNOWN, String::new()),
        (EventSource::Coordinator, Some(node)) => ("coordinator", format!("{node} ")),
        (EventSource::Coordinator, None) => ("coordinator", String::new()),
    };
    let operation = event.operation.as_ref().map(|id| format!(" (operation {id})")).unwrap_or_default();
    // two integers rather than a float: milliseconds are exact
    let (seconds, millis) = (event.uptime_ms / 1000, event.uptime_ms % 1000);
    let line = format!(
        "{who:<20} {seconds:>7}.{millis:03}  {:<18} {about}{}{operation}",
        clean(&event.kind),
        clean(&event.detail)
    );
    format!("{}\n", line.trim_end())
}

/// A plan, numbered.
pub fn plan_text(title: &str, plan: &[PlanStep]) -> String {
    if plan.is_empty() {
        return format!("{title}: nothing to do\n");
    }
    let stages = plan.iter().map(|step| step.stage).max().unwrap_or(0);
    let rows: Vec<Vec<String>> = plan
        .iter()
        .enumerate()
        .map(|(index, step)| {
            vec![
                format!("{:>4}", index + 1),
                step.stage.to_string(),
                step.step.as_str().to_owned(),
                step.node.to_string(),
            ]
        })
        .collect();
    let steps = if plan.len() == 1 { "step" } else { "steps" };
    format!(
        "{title}: {} {steps}, last stage {stages}; nothing has been done\n{}",
        plan.len(),
        table(&["STEP", "STAGE", "WHAT", "NODE"], &rows)
    )
}

/// The coordinator's answer, and the operation's end where it was waited for, as a document.
pub fn answer_document(
    response: &ConsoleResponse,
    need_a_hand: Option<&[NodeName]>,
    operation: Option<&OperationView>,
) -> Value {
    let plan: Vec<Value> = response
        .plan
        .iter()
        .enumerate()
        .map(|(index, step)| json!({ "number": index + 1, "stage": step.stage, "step": step.step, "node": step.node }))
        .collect();
    json!({
        "request": response.id,
        "status": response.status,
        "code": response.code,
        "text": response.text,
        "operation": response.operation,
        "plan": plan,
        "need_a_hand": need_a_hand,
        "outcome": operation.map(operation_document),
    })
}

/// The end of an operation in words.
pub fn outcome_text(title: &str, summary: &OperationSummary) -> String {
    let counts = summary.counts;
    let not_run = counts.pending + counts.running;
    let total = counts.done + counts.failed + counts.skipped + not_run;
    let phase = summary.phase.as_str().replace('_', " ");
    let mut text = format!("{title}: {phase}, {} of {total} steps done", counts.done);
    for (count, what) in [(counts.failed, "failed"), (counts.skipped, "skipped"), (not_run, "not run")] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text.push('\n');
    for failure in &summary.failures {
        let _ = writeln!(text, "  {} on {}: {}", failure.step, failure.node, clean(failure.reason.as_str()));
    }
    text
}

/// What is said before Pis are switched off.
pub fn hand_text(nodes: Option<&[NodeName]>) -> String {
    match nodes {
        None => "how many Pis will need a hand to come back is not known: the coordinator was not heard".to_owned(),
        Some([]) => "no Pi is on, so none will need a hand to come back".to_owned(),
        Some([node]) => {
            format!("1 Pi will need a hand to come back (its button, or its supply off and on): {node}")
        }
        Some(nodes) => {
            let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            format!(
                "{} Pis will need a hand each to come back (the button, or the supply off and on): {}",
                nodes.len(),
                names.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{
        coordinator_state, incoming, name, node_event, node_state, operation, presence, state, steps, summary,
    };
    use super::*;
    use crate::link::Retained;
    use beehive_mqtt::command::VerbName;
    use beehive_mqtt::console::ResponseStatus;
    use beehive_mqtt::coordinator::{
        CoordinatorEvent, CoordinatorEventKind, Failure, Membership, OperationPhase, StepKind, StepState,
    };
    use beehive_mqtt::node::{
        BrokerTrust, Connection, LastShutdown, NodeInfo, PartStatus, PowerGoal, PowerPhase, Presence, Refused, Running,
        ShutdownOutcome, Telemetry,
    };
    use beehive_mqtt::{Text, Topic};

    /// A crew in all its shades: the master, one that runs a command, one that went off, one never heard, a stranger.
    fn crew_view() -> CrewView {
        let mut view = CrewView::new();
        let mut crew = coordinator_state(&[
            ("pi-1", Membership::Ready),
            ("pi-2", Membership::Joining),
            ("pi-3", Membership::Lost),
            ("pi-4", Membership::Expected),
        ]);
        crew.operation = Some("op-1".parse().unwrap());
        crew.phase = ClusterPhase::Changing;
        view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::Yes));
        let online = Presence { status: Connection::Online, start: 1, connection: 1, reason: Text::new() };
        view.apply(0, &incoming(Topic::CoordinatorPresence, &online, Retained::Yes));
        view.apply(0, &presence("pi-1", Connection::Online, (1, 1), Retained::Yes));
        view.apply(0, &state("pi-1", &node_state(), Retained::Yes));
        let mut joining = node_state();
        let id = "op-1-4-1".parse().unwrap();
        joining.running = Some(Running { id, verb: VerbName::Join });
        joining.led = Text::cut("evil\u{1b}[2J");
        view.apply(0, &presence("pi-2", Connection::Online, (1, 1), Retained::Yes));
        view.apply(0, &state("pi-2", &joining, Retained::Yes));
        let mut off = node_state();
        off.power = PowerPhase::HandingOver;
        off.goal = Some(PowerGoal::PowerOff);
        view.apply(0, &presence("pi-3", Connection::Offline, (1, 1), Retained::Yes));
        view.apply(0, &state("pi-3", &off, Retained::Yes));
        view.apply(0, &presence("a-stranger", Connection::Online, (1, 1), Retained::Yes));
        view.apply(0, &operation(&summary("op-1", OperationPhase::Running, 1), Retained::Yes));
        view.apply(0, &operation(&summary("op-0", OperationPhase::Done, 9), Retained::Yes));
        view
    }

    fn bee() -> CrewName {
        "bee".parse().unwrap()
    }

    #[test]
    fn status_in_words() {
        let expected = "\
crew bee: cluster changing, id c-1, v1.31.4, coordinator online on pi-1, term 1
operation op-1: rebuild running, 3 of 6 steps, asked for by user:ann

NODE        ROLE    PRESENCE  MEMBERSHIP  POWER                     LED       RUNNING
pi-1        master  online    ready       running                   steady    -
pi-2        node    online    joining     running                   evil\u{fffd}[2J  join
pi-3        node    offline   lost        (handing_over/power_off)  -         -
pi-4        node    -         expected    -                         -         -
a-stranger  -       online    unlisted    -                         -         -
";
        assert_eq!(status_text(&bee(), &crew_view(), 0), expected);
    }

    #[test]
    fn status_of_a_crew_without_a_coordinator() {
        let mut view = CrewView::new();
        view.apply(0, &state("pi-2", &node_state(), Retained::Yes));
        let expected = "\
crew bee: cluster unknown, coordinator not heard

NODE  ROLE  PRESENCE  MEMBERSHIP  POWER      LED  RUNNING
pi-2  -     -         -           (running)  -    -
";
        assert_eq!(status_text(&bee(), &view, 0), expected);
    }

    #[test]
    fn status_as_a_document() {
        let document = status_document(&bee(), &crew_view(), 0);
        assert_eq!(document["crew"], "bee");
        assert_eq!(document["cluster"], json!({ "phase": "changing", "id": "c-1", "engine_version": "v1.31.4" }));
        assert_eq!(document["coordinator"], json!({ "presence": "online", "node": "pi-1", "term": 1 }));
        assert_eq!(document["operations"].as_array().unwrap().len(), 1);
        assert_eq!(document["operations"][0]["counts"]["done"], 3);
        assert_eq!(document["nodes"].as_array().unwrap().len(), 5);
        let node = |index: usize, key: &str| document["nodes"][index][key].clone();
        assert_eq!((node(0, "node"), node(0, "role")), (json!("pi-1"), json!("master")));
        assert_eq!(node(1, "running"), json!({ "id": "op-1-4-1", "verb": "join" }));
        assert_eq!((node(2, "presence"), node(2, "goal")), (json!("offline"), json!("power_off")));
        assert_eq!((node(3, "presence"), node(3, "power")), (Value::Null, Value::Null));
        assert_eq!((node(4, "membership"), node(4, "slot")), (Value::Null, Value::Null));
    }

    #[test]
    fn one_node_in_words() {
        let mut view = crew_view();
        let mut after_a_cut = node_state();
        after_a_cut.last_shutdown = Some(LastShutdown {
            phase: PowerPhase::Draining,
            reason: Text::cut("button"),
            outcome: ShutdownOutcome::Interrupted,
        });
        view.apply(0, &state("pi-1", &after_a_cut, Retained::No));
        let part = |status, detail| Part { status, detail: Text::cut(detail) };
        let info = NodeInfo {
            role: Role::Master,
            model: Text::cut("Raspberry Pi 3"),
            version: Text::cut("0.1.0"),
            architecture: Text::cut("armv7"),
            engine: Text::cut("simulated"),
            pins: Text::cut("character-device"),
            button: part(PartStatus::Busy, "held by gpio-keys"),
            poe_hat: part(PartStatus::Missing, ""),
            leds: part(PartStatus::Works, "ACT, PWR"),
            broker: BrokerTrust::Loopback,
            speaks: Some(beehive_mqtt::SpokenVersion(2)),
        };
        view.apply(0, &incoming(Topic::Info(name("pi-1")), &info, Retained::Yes));
        let telemetry = Telemetry {
            uptime_ms: 61_000,
            feed: Text::cut("shim"),
            feed_evidence: Text::cut("no HAT"),
            poe_current_ma: None,
            over_currents: 0,
            fan_duty: None,
            processor_millicelsius: Some(48_312),
            throttling: None,
            refused: Refused { malformed: 2, retained: 1, ..Refused::default() },
        };
        view.apply(0, &incoming(Topic::Telemetry(name("pi-1")), &telemetry, Retained::No));
        let expected = "\
node           pi-1
role           master
presence       online (start 1, connection 1)
membership     ready (slot free)
lifecycle      member
power          running
led            steady
running        -
engine         running in cluster c-1 v1.31.4
boot           boot-1
last shutdown  interrupted in draining, asked by button
model          Raspberry Pi 3, armv7
beehive        0.1.0
protocol       2
engine kind    simulated
pins           character-device
button         busy: held by gpio-keys
PoE HAT        missing
LEDs           works: ACT, PWR
broker         loopback
up for         61 s
feed           shim (no HAT)
over-currents  0
processor      48.3 degrees Celsius
refused        2 malformed, 1 retained
";
        let node = view.node(&name("pi-1")).unwrap();
        assert_eq!(node_show_text(&view, node, 0), expected);
        let document = node_show_document(&view, node, 0);
        assert_eq!(document["info"]["button"]["detail"], "held by gpio-keys");
        assert_eq!(document["telemetry"]["refused"]["malformed"], 2);
        assert_eq!(document["connection"]["start"], 1);
    }

    #[test]
    fn a_plan_is_numbered() {
        let step = |stage, step, node| PlanStep { step, node: name(node), stage };
        let plan = [step(1, StepKind::Snapshot, "pi-1"), step(2, StepKind::Reset, "pi-2")];
        let expected = "\
plan for rebuild of crew bee: 2 steps, last stage 2; nothing has been done
STEP  STAGE  WHAT      NODE
   1  1      snapshot  pi-1
   2  2      reset     pi-2
";
        assert_eq!(plan_text("plan for rebuild of crew bee", &plan), expected);
        assert_eq!(plan_text("plan for reset", &[]), "plan for reset: nothing to do\n");
    }

    #[test]
    fn events_are_lines_and_documents() {
        let mut view = CrewView::new();
        view.apply(0, &node_event("pi-2", 3, 12_034));
        let event = CoordinatorEvent {
            kind: CoordinatorEventKind::Step,
            operation: Some("op-1".parse().unwrap()),
            node: Some(name("pi-2")),
            detail: Text::cut("join\ndone"),
            uptime_ms: 5,
        };
        view.apply(0, &incoming(Topic::CoordinatorEvent, &event, Retained::No));
        let lines: Vec<String> = view.events().map(event_line).collect();
        assert_eq!(
            lines,
            [
                "pi-2                      12.034  button_pressed     short\n",
                "coordinator                0.005  step               pi-2 join\u{fffd}done (operation op-1)\n",
            ]
        );
        assert_eq!(
            json!(view.events().next().unwrap()),
            json!({
                "from": "node", "kind": "button_pressed", "node": "pi-2", "operation": null, "detail": "short",
                "uptime_ms": 12_034, "sequence": 3,
            })
        );
    }

    #[test]
    fn an_outcome_names_its_failures() {
        let mut end = summary("op-1", OperationPhase::PartlyDone, 9);
        end.counts.pending = 0;
        end.counts.running = 0;
        end.counts.failed = 1;
        end.counts.skipped = 2;
        let reason = Text::cut("no\tway");
        end.failures.push(Failure { node: name("pi-2"), step: StepKind::Join, reason }).unwrap();
        assert_eq!(
            outcome_text("rebuild of crew bee", &end),
            "rebuild of crew bee: partly done, 3 of 6 steps done, 1 failed, 2 skipped\n  join on pi-2: no\u{fffd}way\n"
        );
    }

    #[test]
    fn an_answer_as_a_document_has_its_plan_and_its_outcome() {
        let mut view = CrewView::new();
        view.apply(0, &operation(&summary("op-1", OperationPhase::Done, 2), Retained::No));
        view.apply(0, &steps("op-1", "pi-1", 2, &[(1, StepKind::Snapshot, StepState::Done)]));
        let mut response = ConsoleResponse {
            id: "op-1".parse().unwrap(),
            status: ResponseStatus::Started,
            code: Text::new(),
            text: Text::cut("begun"),
            operation: Some("op-1".parse().unwrap()),
            plan: Default::default(),
            audit: beehive_mqtt::coordinator::AuditHead::NONE,
            sealed: None,
        };
        response.plan.push(PlanStep { step: StepKind::Snapshot, node: name("pi-1"), stage: 1 }).unwrap();
        let hands = [name("pi-1")];
        let document = answer_document(&response, Some(&hands), view.operation().map(|(_, operation)| operation));
        assert_eq!(document["status"], "started");
        assert_eq!(document["plan"], json!([{ "number": 1, "stage": 1, "step": "snapshot", "node": "pi-1" }]));
        assert_eq!(document["need_a_hand"], json!(["pi-1"]));
        assert_eq!(document["outcome"]["phase"], "done");
        assert_eq!(document["outcome"]["steps"][0]["state"], "done");
    }

    #[test]
    fn the_hands_are_counted_before() {
        assert!(hand_text(None).contains("not known"));
        assert!(hand_text(Some(&[])).starts_with("no Pi is on"));
        assert!(hand_text(Some(&[name("pi-1")])).starts_with("1 Pi will need a hand"));
        let two = hand_text(Some(&[name("pi-1"), name("pi-2")]));
        assert!(two.starts_with("2 Pis will need a hand") && two.ends_with("pi-1, pi-2"), "{two}");
    }
}
