//! `beehive demo`: a whole crew on this machine, with nothing else installed or running. The agents, the coordinator and
//! their links are the real ones; boards, machines, engine and Kubernetes are simulated, and the broker is embedded.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `broker` | the embedded broker |
//! | `world` | the Pis: power, button, network, boot, final hook |
//! | `script` | the little language of scenarios |
//! | `play` | the stage: a console that knows what MQTT says; plays a script on it |
//! | `view` | the stage in a terminal, with keys |

mod broker;
mod play;
mod script;
mod view;
mod world;

use crate::cli::DemoArgs;
use crate::console::ExitCode;
use play::{Echo, Signals, Stage, Stop};
use script::Script;
use std::io::IsTerminal;
use tokio::time::Instant;
use world::{Pace, World};

/// What `beehive demo --help` adds to the options.
pub const HELP: &str = script::HELP;

/// What is played where there is no terminal and no script.
const SCENARIO: &str = include_str!("scenario.txt");

/// The least crew that the built-in scenario needs.
const SCENARIO_NODES: u8 = 3;

/// How long a step of the engine takes where a person watches: long enough to follow.
const STEP_IN_A_TERMINAL_MS: u64 = 400;

/// What the shell calls an end by SIGHUP, SIGINT and SIGTERM.
const BY_HANG_UP: u8 = 129;
const BY_INTERRUPT: u8 = 130;
const BY_TERMINATE: u8 = 143;

/// Runs the demo until its scenario has ended, or somebody ends it.
pub async fn run(arguments: &DemoArgs) -> std::process::ExitCode {
    let begun = Instant::now();
    let script = match read(arguments) {
        Ok(script) => script,
        Err(error) => {
            eprintln!("beehive: {error}");
            return ExitCode::Usage.into();
        }
    };
    match perform(arguments, script.as_ref(), begun).await {
        Ok(()) => ExitCode::Done.into(),
        Err(Stop::Interrupt) => BY_INTERRUPT.into(),
        Err(Stop::Terminate) => BY_TERMINATE.into(),
        Err(Stop::HangUp) => BY_HANG_UP.into(),
        Err(Stop::Failed(why)) => {
            eprintln!("beehive: {why}");
            ExitCode::Failed.into()
        }
        Err(Stop::Broken(error)) => {
            eprintln!("beehive: the demo cannot go on: {error:#}");
            ExitCode::Failed.into()
        }
    }
}

/// What is to be played; nothing where a person plays.
fn read(arguments: &DemoArgs) -> anyhow::Result<Option<Script>> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let script = match &arguments.script {
        None if terminal => return Ok(None),
        None if arguments.nodes < SCENARIO_NODES => anyhow::bail!(
            "the built-in scenario needs {SCENARIO_NODES} nodes, and --nodes says {}; give more, or a scenario of your \
             own with --script",
            arguments.nodes
        ),
        None => Script::parse("built-in scenario", SCENARIO, arguments.nodes)?,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                anyhow::anyhow!("cannot read the script {}: {error}; name a text file with --script", path.display())
            })?;
            Script::parse(&path.display().to_string(), &text, arguments.nodes)?
        }
    };
    Ok(Some(script))
}

async fn perform(arguments: &DemoArgs, script: Option<&Script>, begun: Instant) -> Result<(), Stop> {
    let signals = Signals::listen()?;
    let broker = broker::start()?;
    let (pace, echo) = match script {
        Some(_) => (Pace::quick(arguments.step_ms.unwrap_or(0)), Echo::Print),
        None => (Pace::real(arguments.step_ms.unwrap_or(STEP_IN_A_TERMINAL_MS)), Echo::Keep),
    };
    let (world, notes) = World::new(arguments.nodes, broker, pace)?;
    let mut stage = Stage::new(world, notes, broker, begun, echo, signals)?;
    stage.say("", &format!("{} nodes, broker at {broker}", arguments.nodes));
    let ended = match script {
        Some(script) => stage.play(script).await,
        None => view::show(&mut stage).await,
    };
    stage.end().await;
    ended
}
