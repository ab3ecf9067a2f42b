//! The crew in a terminal: a row for each Pi, the operation with its steps, the events, and keys that handle buttons,
//! plugs and cables. It shows what MQTT says; only LED, plug and cable are looked at where they are.

use super::play::{Happened, Stage, Stop};
use super::script::Wish;
use super::world::{Machine, Mains, Pi, Press, short};
use crate::console::model::{NodeView, OperationView, Seen, word};
use crate::console::render::clean;
use crate::link::Network;
use beehive_board::led::Light;
use beehive_mqtt::console::ConsoleRequest;
use beehive_mqtt::coordinator::{OperationKind, StepState};
use beehive_mqtt::node::Role;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the screen is drawn: often enough to see an LED blink.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Rows of the operation's part of the screen, its frame included.
const OPERATION_ROWS: u16 = 8;

/// The least rows of the events' part.
const EVENTS_ROWS: u16 = 5;

const KEYS: &str = "1-9 up down choose | b press  h hold  d double  m mains  n network | \
                    c create  R rebuild  S shutdown | r restart console | q quit";

/// Gives the terminal back however the view ends, and before a panic's message is printed.
struct Screen;

impl Screen {
    fn open() -> (Self, ratatui::DefaultTerminal) {
        // it installs a panic hook that restores the terminal first
        (Self, ratatui::init())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Whether the view goes on.
enum Next {
    Go,
    Quit,
}

struct View {
    chosen: TableState,
    /// What was asked and is not answered yet.
    asked: Vec<ConsoleRequest>,
}

/// Shows `stage` until somebody quits.
pub(super) async fn show(stage: &mut Stage) -> Result<(), Stop> {
    let (_screen, mut terminal) = Screen::open();
    let mut keys = EventStream::new();
    let mut view = View { chosen: TableState::default().with_selected(Some(0)), asked: Vec::new() };
    loop {
        terminal
            .draw(|frame| view.draw(stage, frame))
            .map_err(|error| Stop::Broken(anyhow::anyhow!("cannot draw: {error}")))?;
        let until = Instant::now() + DRAW_EVERY;
        loop {
            tokio::select! {
                biased;
                key = keys.next() => match key {
                    Some(Ok(Event::Key(key))) => match view.key(stage, key)? {
                        Next::Go => break,
                        Next::Quit => return Ok(()),
                    },
                    Some(Ok(_)) => break,
                    // the terminal has gone away
                    Some(Err(_)) | None => return Ok(()),
                },
                happened = stage.next(until) => match happened? {
                    Happened::News => {}
                    Happened::Answer(response) => view.answered(stage, &response),
                    Happened::Time => break,
                },
            }
            if Instant::now() >= until {
                break;
            }
        }
    }
}

impl View {
    fn answered(&mut self, stage: &mut Stage, response: &beehive_mqtt::console::ConsoleResponse) {
        if let Some(index) = self.asked.iter().position(|request| request.id == response.id) {
            let request = self.asked.remove(index);
            stage.tell_answer(&request, response);
        }
    }

    fn ask(&mut self, stage: &mut Stage, kind: OperationKind) -> Result<(), Stop> {
        stage.say(">", kind.as_str());
        let request = Stage::request(Wish::Operation { kind, node: None })?;
        stage.send(&request)?;
        self.asked.push(request);
        Ok(())
    }

    fn key(&mut self, stage: &mut Stage, key: KeyEvent) -> Result<Next, Stop> {
        if key.kind != KeyEventKind::Press {
            return Ok(Next::Go);
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                // in raw mode it is a key, not a signal
                KeyCode::Char('c') => Err(Stop::Interrupt),
                _ => Ok(Next::Go),
            };
        }
        let count = stage.world.pis().len();
        let at = self.chosen.selected().unwrap_or(0).min(count.saturating_sub(1));
        let chosen = stage.world.pis().get(at).map(Arc::clone);
        match (key.code, chosen) {
            (KeyCode::Char('q') | KeyCode::Esc, _) => return Ok(Next::Quit),
            (KeyCode::Up | KeyCode::Char('k'), _) => self.chosen.select(Some(at.saturating_sub(1))),
            (KeyCode::Down | KeyCode::Char('j'), _) => self.chosen.select(Some((at + 1).min(count.saturating_sub(1)))),
            (KeyCode::Char(digit @ '1'..='9'), _) => {
                let index = usize::from(digit as u8 - b'1');
                if index < count {
                    self.chosen.select(Some(index));
                }
            }
            (KeyCode::Char('b'), Some(pi)) => press(stage, &pi, Press::Short, "press"),
            (KeyCode::Char('h'), Some(pi)) => press(stage, &pi, Press::Hold, "hold"),
            (KeyCode::Char('d'), Some(pi)) => press(stage, &pi, Press::Double, "double"),
            (KeyCode::Char('m'), Some(pi)) => pi.mains(match pi.has_mains() {
                Mains::On => Mains::Off,
                Mains::Off => Mains::On,
            }),
            (KeyCode::Char('n'), Some(pi)) => pi.network(match pi.has_network() {
                Network::Up => Network::Cut,
                Network::Cut => Network::Up,
            }),
            (KeyCode::Char('c'), _) => self.ask(stage, OperationKind::Create)?,
            (KeyCode::Char('R'), _) => self.ask(stage, OperationKind::Rebuild)?,
            (KeyCode::Char('S'), _) => self.ask(stage, OperationKind::Shutdown)?,
            (KeyCode::Char('r'), _) => {
                self.asked.clear();
                stage.restart_console()?;
            }
            (_, _) => {}
        }
        Ok(Next::Go)
    }

    fn draw(&mut self, stage: &Stage, frame: &mut Frame<'_>) {
        let pis = u16::try_from(stage.world.pis().len()).unwrap_or(u16::MAX);
        let spare = frame.area().height.saturating_sub(OPERATION_ROWS + EVENTS_ROWS + 1);
        let rows = pis.saturating_add(3).min(spare).max(4);
        let [crew, operation, events, help] = Layout::vertical([
            Constraint::Length(rows),
            Constraint::Length(OPERATION_ROWS),
            Constraint::Min(EVENTS_ROWS),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_crew(stage, frame, crew);
        draw_operation(stage, frame, operation);
        draw_events(stage, frame, events);
        frame.render_widget(Paragraph::new(KEYS).style(Style::new().add_modifier(Modifier::DIM)), help);
    }

    fn draw_crew(&mut self, stage: &Stage, frame: &mut Frame<'_>, area: Rect) {
        let cluster = stage.view.coordinator().map_or("not heard of".to_owned(), |state| word(&state.phase));
        let coordinator = match stage.view.coordinator_seen() {
            Seen::Online => "online",
            Seen::Offline => "offline",
            Seen::Silent => "silent",
            Seen::Unknown => "not heard of",
        };
        let title = format!(
            " beehive demo | crew {} | cluster {cluster} | coordinator {coordinator} | mqtt://{} ",
            super::world::CREW,
            stage.broker
        );
        let rows: Vec<Row<'_>> = stage.world.pis().iter().map(|pi| row(stage, pi)).collect();
        let widths = [
            Constraint::Length(18),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Length(12),
            Constraint::Length(1),
            Constraint::Length(11),
            Constraint::Length(11),
            Constraint::Fill(1),
        ];
        let header = Row::new(["NODE", "ROLE", "PRESENCE", "POWER", "", "LED", "MEMBERSHIP", "RUNNING"])
            .style(Style::new().add_modifier(Modifier::BOLD));
        let table = Table::new(rows, widths)
            .header(header)
            .highlight_symbol("> ")
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::new().borders(Borders::ALL).title(title));
        frame.render_stateful_widget(table, area, &mut self.chosen);
    }
}

fn press(stage: &mut Stage, pi: &Arc<Pi>, press: Press, name: &str) {
    stage.say(">", &format!("{name} {}", short(&pi.node)));
    pi.press(press);
}

fn row<'a>(stage: &Stage, pi: &Pi) -> Row<'a> {
    let heard = stage.view.node(&pi.node);
    let seen = heard.map_or(Seen::Unknown, |view| view.seen(stage.now_ms()));
    let role = match pi.role {
        Role::Master => "master",
        Role::Node => "node",
    };
    let cable = match pi.has_network() {
        Network::Up => seen.as_str().to_owned(),
        Network::Cut => format!("{}*", seen.as_str()),
    };
    let dot = match pi.act_led() {
        Light::Lit => Span::styled("*", Style::new().fg(Color::Green).add_modifier(Modifier::BOLD)),
        Light::Dark => Span::styled(".", Style::new().add_modifier(Modifier::DIM)),
    };
    let membership = heard.and_then(|view| view.member.as_ref()).map_or("-", |member| member.membership.as_str());
    let (led, running) = match (heard.and_then(|view| view.state.as_ref()), seen) {
        (Some(state), Seen::Online) => {
            (clean(state.led.as_str()), state.running.as_ref().map_or("-", |running| running.verb.as_str()).to_owned())
        }
        (Some(_) | None, _) => ("-".to_owned(), "-".to_owned()),
    };
    Row::new([
        Cell::from(pi.node.to_string()),
        Cell::from(role),
        Cell::from(cable).style(seen_style(seen)),
        Cell::from(power(pi, heard)),
        Cell::from(dot),
        Cell::from(led),
        Cell::from(membership).style(membership_style(membership)),
        Cell::from(running),
    ])
}

/// What the Pi says of its power, where it says something; else how it stands there.
fn power(pi: &Pi, heard: Option<&NodeView>) -> String {
    match (pi.machine(), pi.has_mains()) {
        (Machine::On, _) => {
            heard.and_then(|view| view.state.as_ref()).map_or("on".to_owned(), |state| word(&state.power))
        }
        (Machine::Booting, _) => "booting".to_owned(),
        (Machine::Halted(_), _) => "halted, 5 V".to_owned(),
        (Machine::Off, Mains::On) => "off".to_owned(),
        (Machine::Off, Mains::Off) => "no mains".to_owned(),
    }
}

fn seen_style(seen: Seen) -> Style {
    match seen {
        Seen::Online => Style::new().fg(Color::Green),
        Seen::Offline => Style::new().fg(Color::Red),
        Seen::Silent => Style::new().fg(Color::Yellow),
        Seen::Unknown => Style::new(),
    }
}

fn membership_style(membership: &str) -> Style {
    match membership {
        "ready" => Style::new().fg(Color::Green),
        "broken" | "lost" => Style::new().fg(Color::Red),
        "-" | "blank" | "expected" => Style::new(),
        _ => Style::new().fg(Color::Yellow),
    }
}

fn draw_operation(stage: &Stage, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::new().borders(Borders::ALL);
    let Some((_, operation)) = stage.view.operation() else {
        let text = "none yet: press c to create the cluster";
        frame.render_widget(Paragraph::new(text).block(block.title(" operation ")), area);
        return;
    };
    let Some(summary) = &operation.summary else {
        frame.render_widget(Paragraph::new("not reported yet").block(block.title(" operation ")), area);
        return;
    };
    let (ended, total) = operation.ended_of_total();
    let node = summary.node.as_ref().map(|node| format!(" of {}", short(node))).unwrap_or_default();
    let title = format!(
        " operation: {}{node} {}, {ended} of {total} steps, asked for by {} ",
        summary.kind,
        summary.phase,
        clean(summary.requested_by.as_str())
    );
    let lines: Vec<Line<'_>> = steps(operation, usize::from(area.height.saturating_sub(2)));
    frame.render_widget(Paragraph::new(lines).block(block.title(title)), area);
}

/// A line for each node with steps: those that run first.
fn steps<'a>(operation: &OperationView, rows: usize) -> Vec<Line<'a>> {
    let mut nodes: Vec<_> = operation.nodes.values().collect();
    nodes.sort_by_key(|of| !of.steps.iter().any(|step| step.state == StepState::Running));
    let more = nodes.len().saturating_sub(rows);
    let shown = if more > 0 { rows.saturating_sub(1) } else { rows };
    let mut lines: Vec<Line<'_>> = nodes
        .into_iter()
        .take(shown)
        .map(|of| {
            let mut spans = vec![Span::raw(format!("{} ", short(&of.node)))];
            for step in &of.steps {
                let (mark, style) = match step.state {
                    StepState::Pending => (" ", Style::new().add_modifier(Modifier::DIM)),
                    StepState::Running => (">", Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD)),
                    StepState::Done => ("+", Style::new().fg(Color::Green)),
                    StepState::Failed => ("!", Style::new().fg(Color::Red)),
                    StepState::Skipped => ("-", Style::new().add_modifier(Modifier::DIM)),
                };
                spans.push(Span::styled(format!(" {mark}{}", step.step), style));
            }
            if !of.reason.as_str().is_empty() {
                spans.push(Span::raw(format!("  {}", clean(of.reason.as_str()))));
            }
            Line::from(spans)
        })
        .collect();
    if more > 0 {
        lines.push(Line::from(format!("and {} more nodes", more + 1)));
    }
    lines
}

fn draw_events(stage: &Stage, frame: &mut Frame<'_>, area: Rect) {
    let rows = usize::from(area.height.saturating_sub(2));
    let from = stage.log.len().saturating_sub(rows);
    let lines: Vec<Line<'_>> = stage.log.iter().skip(from).map(|entry| Line::from(entry.line())).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::new().borders(Borders::ALL).title(" events ")), area);
}
