//! The terminal view: the crew as MQTT tells it, live, and keys for what somebody who stands before the Pis can do.
//!
//! It reads the same model as the ops console, and asks as the ops console does. Only the column "at the Pi" and the dot
//! of the LED are not heard but seen: they are read from the simulated Pis.
//!
//! The terminal is given back on every way out: at an end, an error, a signal, and when something panics.

use super::play::{Entry, Happened, Stage, Stop};
use super::script::Wish;
use super::world::{CREW, Machine, Mains, Pi, Press, short};
use crate::console::model::{CrewView, NodeView, OperationView, Seen, word};
use crate::console::render::clean;
use crate::link::Network;
use anyhow::Context;
use beehive_board::led::Light;
use beehive_mqtt::console::ConsoleRequest;
use beehive_mqtt::coordinator::{ClusterPhase, Membership, OperationKind, OperationPhase, StepState};
use beehive_mqtt::node::{PowerGoal, PowerPhase, Role};
use beehive_mqtt::{NodeName, RequestId};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use futures_util::StreamExt;
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use std::io::Stdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The wait between two pictures: the fastest LED pattern changes every 100 ms.
const FRAME: Duration = Duration::from_millis(50);

/// How often a request is sent again, under the same id, until it is answered.
const RESEND: Duration = Duration::from_secs(1);

/// After this long an answer is no longer waited for.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The keys, in the order of the two lines at the bottom.
const KEYS: [&[(&str, &str)]; 2] = [
    &[
        ("\u{2191}\u{2193} 1-9", "choose"),
        ("b", "press"),
        ("d", "double: reboot"),
        ("h", "hold: off"),
        ("x", "leave+reset"),
        ("m", "mains"),
        ("n", "network"),
        ("i", "blink"),
    ],
    &[
        ("c", "create"),
        ("R", "rebuild"),
        ("B", "reboot all"),
        ("S", "shut all down"),
        ("A", "abort"),
        ("r", "restart console"),
        ("q", "quit"),
    ],
];

/// Shows the crew until somebody quits.
///
/// # Errors
/// [`Stop`] says why it ended, unless by the key for that.
pub(super) async fn show(stage: &mut Stage) -> Result<(), Stop> {
    let mut screen = Screen::open()?;
    let mut keys = EventStream::new();
    let mut ui = Ui { chosen: 0, pending: None };
    let mut frame_at = Instant::now();
    loop {
        if Instant::now() >= frame_at {
            if screen.broken() {
                return Err(Stop::Broken(anyhow::anyhow!("a task panicked")));
            }
            let pis: Vec<Standing> = stage.world.pis().iter().map(|pi| Standing::of(pi)).collect();
            let seen = Picture { stage: &stage.view, log: Log(&stage.log), pis: &pis, chosen: ui.chosen };
            let (broker, now_ms) = (stage.broker.to_string(), stage.now_ms());
            screen.draw(|frame| draw(frame, &seen, &broker, now_ms))?;
            frame_at = Instant::now() + FRAME;
        }
        ui.send_again(stage)?;
        tokio::select! {
            biased;
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => match ui.key(stage, key)? {
                    Then::GoOn => frame_at = Instant::now(),
                    Then::Quit => return Ok(()),
                },
                Some(Ok(Event::Resize(..))) => frame_at = Instant::now(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(anyhow::Error::new(error).context("cannot read the keyboard").into()),
                // the terminal has gone
                None => return Ok(()),
            },
            happened = stage.next(frame_at) => match happened? {
                Happened::Answer(response) => ui.answered(stage, &response.id.clone(), &response),
                Happened::News | Happened::Time => {}
            },
        }
    }
}

enum Then {
    GoOn,
    Quit,
}

struct Pending {
    request: ConsoleRequest,
    again: Instant,
    limit: Instant,
}

struct Ui {
    chosen: usize,
    pending: Option<Pending>,
}

impl Ui {
    fn key(&mut self, stage: &mut Stage, key: KeyEvent) -> Result<Then, Stop> {
        let last = stage.world.pis().len().saturating_sub(1);
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                // in raw mode the terminal sends no SIGINT
                KeyCode::Char('c') => Err(Stop::Interrupt),
                _ => Ok(Then::GoOn),
            };
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(Then::Quit),
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.chosen = (self.chosen + 1).min(last),
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = last,
            KeyCode::Char(digit @ '1'..='9') => {
                let index = usize::try_from(u32::from(digit) - u32::from('1')).unwrap_or(0);
                self.chosen = index.min(last);
            }
            KeyCode::Char('b') => self.press(stage, Press::Short, "press"),
            KeyCode::Char('d') => self.press(stage, Press::Double, "double"),
            KeyCode::Char('h') => self.press(stage, Press::Hold, "hold"),
            KeyCode::Char('x') => self.press(stage, Press::Reset, "hold long, then tap"),
            KeyCode::Char('m') => {
                if let Some(pi) = self.pi(stage) {
                    pi.mains(match pi.has_mains() {
                        Mains::On => Mains::Off,
                        Mains::Off => Mains::On,
                    });
                }
            }
            KeyCode::Char('n') => {
                if let Some(pi) = self.pi(stage) {
                    pi.network(match pi.has_network() {
                        Network::Up => Network::Cut,
                        Network::Cut => Network::Up,
                    });
                }
            }
            KeyCode::Char('i') => {
                let number = u8::try_from(self.chosen + 1).ok();
                self.ask(stage, Wish::Operation { kind: OperationKind::NodeIdentify, node: number })?;
            }
            KeyCode::Char('c') => self.ask_crew(stage, OperationKind::Create)?,
            KeyCode::Char('R') => self.ask_crew(stage, OperationKind::Rebuild)?,
            KeyCode::Char('B') => self.ask_crew(stage, OperationKind::Reboot)?,
            KeyCode::Char('S') => self.ask_crew(stage, OperationKind::Shutdown)?,
            KeyCode::Char('A') => self.ask(stage, Wish::Abort)?,
            KeyCode::Char('r') => {
                self.pending = None;
                stage.restart_console()?;
            }
            _ => {}
        }
        Ok(Then::GoOn)
    }

    fn pi(&self, stage: &Stage) -> Option<Arc<Pi>> {
        stage.world.pis().get(self.chosen).cloned()
    }

    fn press(&self, stage: &mut Stage, press: Press, text: &str) {
        let Some(pi) = self.pi(stage) else { return };
        stage.say(">", &format!("{text} the button of {}", short(&pi.node)));
        pi.press(press);
    }

    fn ask_crew(&mut self, stage: &mut Stage, kind: OperationKind) -> Result<(), Stop> {
        self.ask(stage, Wish::Operation { kind, node: None })
    }

    fn ask(&mut self, stage: &mut Stage, wish: Wish) -> Result<(), Stop> {
        let request = Stage::request(wish)?;
        stage.say(
            ">",
            &match wish {
                Wish::Operation { kind, node: Some(node) } => format!("ask for {kind} of {node:03}"),
                Wish::Operation { kind, node: None } => format!("ask for {kind}"),
                Wish::Abort => "ask for an abort".to_owned(),
                Wish::Resume => "ask for a resume".to_owned(),
            },
        );
        let now = Instant::now();
        self.pending = Some(Pending { request, again: now, limit: now + GIVE_UP });
        self.send_again(stage)
    }

    /// Sends what is not answered yet.
    fn send_again(&mut self, stage: &mut Stage) -> Result<(), Stop> {
        let now = Instant::now();
        let Some(pending) = &mut self.pending else { return Ok(()) };
        if now >= pending.limit {
            self.pending = None;
            stage.say("", &format!("no answer within {} s: is the master on?", GIVE_UP.as_secs()));
        } else if now >= pending.again {
            pending.again = now + RESEND;
            stage.send(&pending.request)?;
        }
        Ok(())
    }

    fn answered(&mut self, stage: &mut Stage, id: &RequestId, response: &beehive_mqtt::console::ConsoleResponse) {
        if let Some(pending) = self.pending.take_if(|pending| pending.request.id == *id) {
            stage.tell_answer(&pending.request, response);
        }
    }
}

/// A Pi as it is seen by somebody who stands before it.
struct Standing {
    node: NodeName,
    place: &'static str,
    light: Option<Light>,
}

impl Standing {
    fn of(pi: &Pi) -> Self {
        let machine = pi.machine();
        let place = match (pi.has_mains(), &machine, pi.has_network()) {
            (Mains::Off, _, _) => "unplugged",
            (Mains::On, Machine::Off, _) => "off",
            (Mains::On, Machine::Halted(_), _) => "halted, 5V",
            (Mains::On, Machine::Booting, _) => "boots",
            (Mains::On, Machine::On, Network::Cut) => "on, no net",
            (Mains::On, Machine::On, Network::Up) => "on",
        };
        let light = match machine {
            Machine::On => Some(pi.act_led()),
            Machine::Booting | Machine::Off | Machine::Halted(_) => None,
        };
        Self { node: pi.node.clone(), place, light }
    }
}

struct Log<'a>(&'a std::collections::VecDeque<Entry>);

struct Picture<'a> {
    stage: &'a CrewView,
    log: Log<'a>,
    pis: &'a [Standing],
    chosen: usize,
}

const DIM: Style = Style::new().fg(Color::DarkGray);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

fn colour(colour: Color) -> Style {
    Style::new().fg(colour)
}

fn draw(frame: &mut Frame<'_>, seen: &Picture<'_>, broker: &str, now_ms: u64) {
    let area = frame.area();
    let height = usize::from(area.height);
    let operation = operation_lines(seen.stage, usize::from(area.width));
    // title and header above the Pis; a part of the room at most, so that a crew of fifty leaves some for the rest
    let pis = (seen.pis.len() + 2).min((height * 2 / 5).max(3));
    let steps = (operation.lines.len() + 1).min((height / 4).max(2));
    let [head, table, steps, events, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(pis).unwrap_or(u16::MAX)),
        Constraint::Length(u16::try_from(steps).unwrap_or(u16::MAX)),
        Constraint::Min(2),
        Constraint::Length(3),
    ])
    .areas(area);
    frame.render_widget(header(seen.stage, broker), head);
    draw_pis(frame, seen, table, now_ms);
    frame.render_widget(Paragraph::new(operation.lines).block(block(&operation.title)), steps);
    draw_events(frame, &seen.log, events);
    frame.render_widget(Paragraph::new(KEYS.map(keys_line).to_vec()).block(block("keys")), foot);
}

fn block(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).border_style(DIM).title(Span::styled(format!(" {title} "), BOLD))
}

fn header(view: &CrewView, broker: &str) -> Line<'static> {
    let (phase, style) = match view.coordinator().map(|state| state.phase) {
        Some(phase @ ClusterPhase::Ready) => (word(&phase), colour(Color::Green)),
        Some(phase @ (ClusterPhase::Changing | ClusterPhase::Degraded)) => (word(&phase), colour(Color::Yellow)),
        Some(phase @ ClusterPhase::Absent) => (word(&phase), DIM),
        None => ("not heard of".to_owned(), DIM),
    };
    let (coordinator, coordinator_style) = match view.coordinator_seen() {
        Seen::Online => ("online", colour(Color::Green)),
        Seen::Offline => ("offline", colour(Color::Red)),
        Seen::Silent => ("silent", colour(Color::Red)),
        Seen::Unknown => ("not heard of", DIM),
    };
    Line::from(vec![
        Span::styled(format!("crew {}", CREW), BOLD),
        Span::raw("   cluster "),
        Span::styled(phase, style),
        Span::raw("   coordinator "),
        Span::styled(coordinator, coordinator_style),
        Span::raw(format!("   broker {broker}")),
    ])
}

fn keys_line(keys: &[(&'static str, &'static str)]) -> Line<'static> {
    let mut spans = Vec::new();
    for (key, what) in keys {
        spans.push(Span::styled(*key, BOLD));
        spans.push(Span::raw(format!(" {what}  ")));
    }
    Line::from(spans)
}

fn draw_pis(frame: &mut Frame<'_>, seen: &Picture<'_>, area: Rect, now_ms: u64) {
    let header = ["NODE", "ROLE", "AT THE PI", "LED", "POWER", "LINK", "MEMBERSHIP", "COMMAND"];
    let widths = [18, 6, 10, 14, 16, 7, 12].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    let rows = seen.pis.iter().enumerate().map(|(index, pi)| pi_row(seen, index, pi, now_ms));
    // the chosen one is always among those that are shown
    let room = usize::from(area.height).saturating_sub(2).max(1);
    let above = (seen.chosen + 1).saturating_sub(room);
    let title = if seen.pis.len() > room {
        format!("Pis {} to {} of {}", above + 1, (above + room).min(seen.pis.len()), seen.pis.len())
    } else {
        "Pis".to_owned()
    };
    let table = Table::new(rows.skip(above).take(room), widths)
        .header(Row::new(header).style(DIM))
        .column_spacing(1)
        .block(block(&title));
    frame.render_widget(table, area);
}

fn pi_row(picture: &Picture<'_>, index: usize, pi: &Standing, now_ms: u64) -> Row<'static> {
    let chosen = index == picture.chosen;
    let node = format!("{}{}", if chosen { '\u{25b8}' } else { ' ' }, pi.node);
    let view = picture.stage.node(&pi.node);
    let seen = view.map_or(Seen::Unknown, |view| view.seen(now_ms));
    let connected = seen == Seen::Online;
    let state = view.and_then(|view| view.state.as_ref());
    let role = match view.and_then(|view| picture.stage.role(view)) {
        Some(Role::Master) => "master",
        Some(Role::Node) => "node",
        None => "-",
    };
    let dot = match pi.light {
        Some(Light::Lit) => Span::styled("\u{25cf} ", colour(Color::LightGreen)),
        Some(Light::Dark) => Span::styled("\u{25cb} ", DIM),
        None => Span::raw("  "),
    };
    // a pattern and a command of a Pi that is not there would be a guess
    let led = state.filter(|_| connected).map_or(String::new(), |state| clean(state.led.as_str()));
    let command = state.filter(|_| connected).and_then(|state| state.running.as_ref());
    let (link, link_style) = match seen {
        Seen::Online => ("online", colour(Color::Green)),
        Seen::Offline => ("offline", colour(Color::Red)),
        Seen::Silent => ("silent", colour(Color::Yellow)),
        Seen::Unknown => ("-", DIM),
    };
    let (power, power_style) = power(view, connected);
    let (membership, membership_style) = membership(view);
    Row::new(vec![
        Cell::from(Span::styled(node, if chosen { BOLD } else { Style::new() })),
        Cell::from(role),
        Cell::from(pi.place),
        Cell::from(Line::from(vec![dot, Span::raw(fit(&led, 12))])),
        Cell::from(Span::styled(power, power_style)),
        Cell::from(Span::styled(link, link_style)),
        Cell::from(Span::styled(fit(membership, 12), membership_style)),
        Cell::from(command.map_or("", |running| running.verb.as_str())),
    ])
}

/// The power phase and what it is for; in parentheses what a Pi that is not connected said last.
fn power(view: Option<&NodeView>, connected: bool) -> (String, Style) {
    let Some(state) = view.and_then(|view| view.state.as_ref()) else { return ("-".to_owned(), DIM) };
    let style = match state.power {
        PowerPhase::Running => Style::new(),
        PowerPhase::Grace | PowerPhase::Draining | PowerPhase::Stopping => colour(Color::Yellow),
        PowerPhase::HandingOver | PowerPhase::Halted => colour(Color::Red),
    };
    let phase = match state.power {
        // the column's name says the rest
        PowerPhase::HandingOver => "handover".to_owned(),
        PowerPhase::Running | PowerPhase::Grace | PowerPhase::Draining | PowerPhase::Stopping | PowerPhase::Halted => {
            word(&state.power)
        }
    };
    let text = match state.goal {
        Some(PowerGoal::PowerOff) => format!("{phase}/off"),
        Some(PowerGoal::Reboot) => format!("{phase}/reboot"),
        None => phase,
    };
    if connected { (text, style) } else { (fit(&format!("({text})"), 16), DIM) }
}

fn membership(view: Option<&NodeView>) -> (&'static str, Style) {
    let Some(member) = view.and_then(|view| view.member.as_ref()) else { return ("-", DIM) };
    let style = match member.membership {
        Membership::Ready => colour(Color::Green),
        Membership::Joining
        | Membership::Draining
        | Membership::Cordoned
        | Membership::CordonedByOthers
        | Membership::Leaving => colour(Color::Yellow),
        Membership::NotReady | Membership::Broken | Membership::Lost => colour(Color::Red),
        Membership::Expected | Membership::Blank => DIM,
    };
    (member.membership.as_str(), style)
}

struct OperationText {
    title: String,
    lines: Vec<Line<'static>>,
}

fn operation_lines(view: &CrewView, width: usize) -> OperationText {
    let Some((_, operation)) = view.operation() else {
        let hint = "none to show: c creates the cluster, R rebuilds it, S shuts the crew down";
        return OperationText { title: "operation".to_owned(), lines: vec![Line::styled(hint, DIM)] };
    };
    let mut title = "operation".to_owned();
    let mut lines = Vec::new();
    if let Some(summary) = &operation.summary {
        let node = summary.node.as_ref().map(|node| format!(" of {node}")).unwrap_or_default();
        title = format!("{}{node}, asked for by {}", summary.kind, clean(summary.requested_by.as_str()));
        lines.push(progress(operation, summary.phase));
    }
    // those at work first, so that they are seen where there is no room for all
    let mut nodes: Vec<_> = operation.nodes.values().collect();
    nodes.sort_by_key(|of| {
        let works = of.steps.iter().any(|step| step.state == StepState::Running);
        let first = of.steps.first().map_or(u16::MAX, |step| step.number);
        (!works && nodes_are_many(operation), first)
    });
    for of in nodes {
        let mut spans = vec![Span::styled(format!("{} ", short(&of.node)), BOLD)];
        for step in &of.steps {
            let (sign, style) = match step.state {
                StepState::Pending => ('\u{b7}', DIM),
                StepState::Running => ('\u{25b8}', colour(Color::Yellow)),
                StepState::Done => ('\u{2713}', colour(Color::Green)),
                StepState::Failed => ('\u{2717}', colour(Color::Red)),
                StepState::Skipped => ('-', DIM),
            };
            spans.push(Span::styled(format!(" {sign}{}", step.step), style));
        }
        let used: usize = spans.iter().map(Span::width).sum();
        if !of.reason.as_str().is_empty() && used + 4 < width {
            spans.push(Span::styled(fit(&format!("  {}", clean(of.reason.as_str())), width - used), DIM));
        }
        lines.push(Line::from(spans));
    }
    OperationText { title, lines }
}

/// Whether the nodes of an operation may have no room on the screen.
fn nodes_are_many(operation: &OperationView) -> bool {
    operation.nodes.len() > 6
}

fn progress(operation: &OperationView, phase: OperationPhase) -> Line<'static> {
    const CELLS: u32 = 40;
    let (ended, total) = operation.ended_of_total();
    let full = (ended * CELLS).checked_div(total).unwrap_or(0);
    let style = match phase {
        OperationPhase::Done => colour(Color::Green),
        OperationPhase::Running | OperationPhase::Paused | OperationPhase::Aborting => colour(Color::Yellow),
        OperationPhase::Failed | OperationPhase::Aborted | OperationPhase::PartlyDone => colour(Color::Red),
    };
    let bar = |count: u32, cell: &str| cell.repeat(usize::try_from(count).unwrap_or(0));
    Line::from(vec![
        Span::styled(bar(full, "\u{2588}"), style),
        Span::styled(bar(CELLS - full, "\u{2591}"), DIM),
        Span::raw(format!(" {ended} of {total} steps, ")),
        Span::styled(phase.as_str(), style),
    ])
}

fn draw_events(frame: &mut Frame<'_>, log: &Log<'_>, area: Rect) {
    let room = usize::from(area.height).saturating_sub(1);
    let width = usize::from(area.width);
    let from = log.0.len().saturating_sub(room);
    let lines: Vec<Line<'static>> = log
        .0
        .iter()
        .skip(from)
        .map(|entry| {
            let line = fit(&entry.line(), width);
            let style = if entry.who == ">" { colour(Color::Cyan) } else { Style::new() };
            Line::styled(line, style)
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block("events")), area);
}

/// `text` in at most `width` columns; what is cut is shown as cut.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('\u{2026}');
    cut
}

/// The terminal while it is ours.
struct Screen {
    terminal: ratatui::Terminal<CrosstermBackend<Stdout>>,
    broken: Arc<AtomicBool>,
    /// Gives the terminal back. Last, so that it goes last.
    _restore: Restore,
}

struct Restore {
    given_back: Arc<AtomicBool>,
}

impl Screen {
    fn open() -> anyhow::Result<Self> {
        let broken = Arc::new(AtomicBool::new(false));
        // from here on whatever ends this function gives the terminal back
        let restore = Restore::hook(Arc::clone(&broken));
        enable_raw_mode().context("this terminal cannot be drawn on; play a scenario with --script instead")?;
        crossterm::execute!(std::io::stdout(), EnterAlternateScreen).context("cannot draw on the terminal")?;
        let mut terminal = ratatui::Terminal::new(CrosstermBackend::new(std::io::stdout()))?;
        terminal.hide_cursor()?;
        Ok(Self { terminal, broken, _restore: restore })
    }

    fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        self.terminal.draw(draw).context("cannot draw on the terminal")?;
        Ok(())
    }

    fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Restore {
    /// A panic's message is only seen on a terminal that is given back first. One in another thread is a Pi's: the stage
    /// tells of it, and the view goes on.
    fn hook(broken: Arc<AtomicBool>) -> Self {
        let given_back = Arc::new(AtomicBool::new(false));
        let drawing = std::thread::current().id();
        let before = std::panic::take_hook();
        let given_by_the_hook = Arc::clone(&given_back);
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == drawing {
                broken.store(true, Ordering::Relaxed);
                give_back(&given_by_the_hook);
                before(panic);
            }
        }));
        Self { given_back }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        give_back(&self.given_back);
        // the hook may not be changed by a thread that panics
        if !std::thread::panicking() {
            let _ = std::panic::take_hook();
        }
    }
}

/// Once: a second time would put the cursor back over what was printed since.
fn give_back(given_back: &AtomicBool) {
    if given_back.swap(true, Ordering::Relaxed) {
        return;
    }
    // nothing can be done for a terminal that does not take it
    let _ = crossterm::execute!(std::io::stdout(), LeaveAlternateScreen, crossterm::cursor::Show);
    let _ = disable_raw_mode();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Incoming, Retained};
    use beehive_mqtt::coordinator::{
        CoordinatorState, Member, OperationNode, OperationSummary, Slot, StepCounts, StepKind, StepReport,
    };
    use beehive_mqtt::node::{Connection, EngineRun, EngineState, Lifecycle, NodeState, Presence};
    use beehive_mqtt::{Payload, Text, Topic, encode};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::collections::VecDeque;

    fn name(number: u8) -> NodeName {
        crate::demo::world::node_name(number).unwrap()
    }

    fn signed<P: Payload>(payload: &P) -> Vec<u8> {
        encode(payload, "", &crate::keys::SignKey::from_seed(&[1; 32])).unwrap()
    }

    fn hear<P: Payload>(view: &mut CrewView, topic: Topic, payload: &P) {
        let message = Incoming { topic, payload: signed(payload), retained: Retained::No, key: None, version: None };
        view.apply(0, &message);
    }

    fn crew(nodes: u8) -> CrewView {
        let mut view = CrewView::new();
        let member = |number| Member {
            node: name(number),
            membership: if number == 1 { Membership::Ready } else { Membership::CordonedByOthers },
            slot: Slot::Free,
            boot: None,
            speaks: None,
        };
        let state = CoordinatorState {
            session: beehive_mqtt::coordinator::Session { term: 1, number: 1, nonce: "c1".parse().unwrap() },
            audit: beehive_mqtt::coordinator::AuditHead::NONE,
            speaks: None,
            master: name(1),
            phase: ClusterPhase::Degraded,
            cluster: None,
            operation: Some("o1".parse().unwrap()),
            members: (1..=nodes).map(member).collect(),
            uptime_ms: 0,
            revision: 1,
        };
        hear(&mut view, Topic::CoordinatorState, &state);
        let summary = OperationSummary {
            id: "o1".parse().unwrap(),
            kind: OperationKind::Rebuild,
            node: None,
            phase: OperationPhase::Running,
            revision: 1,
            requested_by: Text::cut("user:demo"),
            counts: StepCounts { pending: 1, running: 1, done: 2, failed: 0, skipped: 0 },
            failures: heapless::Vec::new(),
        };
        hear(&mut view, Topic::Operation("o1".parse().unwrap()), &summary);
        for number in 1..=nodes {
            let presence =
                Presence { status: Connection::Online, start: 1, connection: 1, reason: Text::cut("connected") };
            hear(&mut view, Topic::Presence(name(number)), &presence);
            let state = NodeState {
                lifecycle: Lifecycle::Member,
                power: PowerPhase::HandingOver,
                goal: Some(PowerGoal::Reboot),
                led: Text::cut("halted_five_present"),
                running: None,
                boot: "b".parse().unwrap(),
                start: 1,
                revision: 1,
                nonce: "s1".parse().unwrap(),
                heard: None,
                engine: EngineState { cluster: None, run: EngineRun::Running, version: Text::new() },
                last_shutdown: None,
                speaks: None,
                machine: None,
            };
            hear(&mut view, Topic::State(name(number)), &state);
            let step = |step, state| StepReport { number: u16::from(number), step, state };
            let steps = OperationNode {
                id: "o1".parse().unwrap(),
                node: name(number),
                revision: 1,
                steps: [step(StepKind::Reset, StepState::Done), step(StepKind::Join, StepState::Running)]
                    .into_iter()
                    .collect(),
                reason: Text::cut(&"waits ".repeat(20)),
            };
            hear(&mut view, Topic::OperationNode("o1".parse().unwrap(), name(number)), &steps);
        }
        view
    }

    fn drawn(view: &CrewView, nodes: u8, chosen: usize, size: (u16, u16)) -> Vec<String> {
        let pis: Vec<Standing> = (1..=nodes)
            .map(|number| Standing { node: name(number), place: "halted, 5V", light: Some(Light::Lit) })
            .collect();
        let text = "long ".repeat(60);
        let log: VecDeque<Entry> =
            (0..99_u64).map(|at| Entry { at_ms: at, who: "pi 001".to_owned(), text: text.clone() }).collect();
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        let picture = Picture { stage: view, log: Log(&log), pis: &pis, chosen };
        terminal.draw(|frame| draw(frame, &picture, "127.0.0.1:65535", 0)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let cells = buffer.content().chunks(usize::from(size.0));
        cells.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect()).collect()
    }

    #[test]
    fn a_hundred_by_thirty_shows_everything_in_its_column() {
        let lines = drawn(&crew(3), 3, 1, (100, 30));
        assert_eq!(
            lines[0].trim_end(),
            "crew bee42-crew-01   cluster degraded   coordinator not heard of   broker 127.0.0.1:65535"
        );
        assert_eq!(
            lines[2].trim_end(),
            "NODE               ROLE   AT THE PI  LED            POWER            LINK    MEMBERSHIP   COMMAND"
        );
        let row = "bee42-crew-01-002 node   halted, 5V \u{25cf} halted_five\u{2026} handover/reboot  online  cordoned_by\u{2026}";
        assert_eq!(lines[4].trim_end(), format!("\u{25b8}{row}"));
        assert!(lines[6].contains("rebuild, asked for by user:demo"), "{}", lines[6]);
        assert!(lines[7].trim_end().ends_with("\u{2591} 2 of 4 steps, running"), "{}", lines[7]);
        assert!(lines[8].starts_with("001  \u{2713}reset \u{25b8}join  waits"), "{}", lines[8]);
        assert!(lines[28].contains("i blink") && lines[29].contains("q quit"), "every key is there");
        // the newest event is the last, and every long line is shown as cut
        assert!(lines[26].starts_with("   0.098 s") && lines[26].ends_with('\u{2026}'), "{}", lines[26]);
    }

    #[test]
    fn the_chosen_of_fifty_is_shown_and_the_rest_keeps_its_room() {
        let view = crew(50);
        for (chosen, wanted) in [(0, "001"), (30, "031"), (49, "050")] {
            let lines = drawn(&view, 50, chosen, (100, 30));
            let marked: Vec<&String> = lines.iter().filter(|line| line.starts_with('\u{25b8}')).collect();
            assert_eq!(marked.len(), 1);
            assert!(marked[0].starts_with(&format!("\u{25b8}bee42-crew-01-{wanted}")), "{}", marked[0]);
            assert!(lines.iter().any(|line| line.contains("2 of 4 steps")));
            assert_eq!(lines.iter().filter(|line| line.contains("pi 001  long")).count(), 6, "events have room");
            assert!(lines[29].contains("quit"));
        }
    }

    #[test]
    fn no_size_is_too_small_to_draw() {
        let view = crew(50);
        for size in [(1, 1), (3, 40), (200, 2), (20, 5), (300, 100)] {
            drawn(&view, 50, 25, size);
        }
    }

    #[test]
    fn a_cut_is_seen() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc\u{2026}");
    }
}
