//! `beehive`: controller for small Kubernetes clusters of Raspberry Pis. What it does lives in the library; here the command
//! line is taken apart, and errors become exit codes.

use beehive::announce;
use beehive::audit::{self, Found};
use beehive::cli::{self, AuditCommand, Cli, Command, ConfigCommand, CrewCommand, EngineCommand};
use beehive::config::Config;
use beehive::console::{self, ExitCode};
use beehive::engine::root::command::{self, Serve};
use beehive::host::doors::{self, Drained};
use clap::Parser;
use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "workstation")]
    let cli = match beehive::crew::file::crews::completed(cli) {
        Ok(cli) => cli,
        Err(error) => return complain(ExitCode::Usage, &format_args!("{error:#}")).into(),
    };
    let code = match &cli.command {
        Command::Console(command) => {
            log("error");
            block_on(console::run(&cli.options, command)).unwrap_or(ExitCode::Failed)
        }
        Command::Run(arguments) => {
            log("info");
            match Config::load(&arguments.config) {
                Ok(config) => block_on(beehive::daemon::run(config)).map_or(ExitCode::Failed, outcome),
                Err(error) => complain(ExitCode::Usage, &error),
            }
        }
        Command::Drain(arguments) => match Config::load(&arguments.config) {
            Ok(config) => drained(&doors::drain(&config.run_dir, config.power.inhibit_ms())),
            Err(error) => complain(ExitCode::Usage, &error),
        },
        Command::GiveBack(arguments) => {
            log("info");
            match Config::load(&arguments.config) {
                Ok(config) => given_back(beehive::hal::give_back::everything(&config)),
                Err(error) => complain(ExitCode::Usage, &error),
            }
        }
        Command::Doctor(arguments) => match beehive::doctor::command::run(arguments) {
            Ok(report) => {
                let text = if cli.options.json { format!("{}\n", report.document) } else { report.text };
                match written(cli::print(text.as_bytes())) {
                    ExitCode::Done => report.code,
                    failed => failed,
                }
            }
            Err(trouble) => complain(trouble.exit, &trouble),
        },
        Command::Announce(arguments) => {
            let mut note = |text: &str| eprintln!("beehive: {text}");
            match announce::announce(&arguments.root, &arguments.config, &mut note) {
                Ok(done) => written(cli::print(format!("{done}\n").as_bytes())),
                Err(error) => complain(ExitCode::Failed, &format_args!("this Pi is not announced: {error}")),
            }
        }
        Command::Enrol(arguments) => {
            log("info");
            match block_on(beehive::enrol::command::run(arguments)) {
                Some(Ok(text)) => written(cli::print(text.as_bytes())),
                Some(Err(error)) => complain(ExitCode::Failed, &format_args!("{error:#}")),
                None => ExitCode::Failed,
            }
        }
        Command::Engine(EngineCommand::Serve(arguments)) => {
            log("info");
            let code = match Config::load(&arguments.config) {
                Ok(config) => {
                    let serve = Serve {
                        config,
                        socket: arguments.socket.clone(),
                        tools_below: arguments.tools_below.clone(),
                        idle: Duration::from_secs(arguments.idle),
                    };
                    block_on(command::serve(serve)).map_or(ExitCode::Failed, outcome)
                }
                Err(error) => complain(ExitCode::Usage, &error),
            };
            if code != ExitCode::Done && arguments.socket.is_none() {
                // systemd starts it again at once, as long as somebody waits at the socket
                std::thread::sleep(command::PAUSE);
            }
            code
        }
        Command::Config(ConfigCommand::Check { file }) => match Config::load(file) {
            Ok(_) => written(cli::print(format!("{}: valid\n", file.display()).as_bytes())),
            Err(error) => complain(ExitCode::Usage, &error),
        },
        Command::Config(ConfigCommand::Example { crew, node, role }) => {
            written(cli::print(Config::to_toml_default(crew, node, (*role).into()).as_bytes()))
        }
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => {
            log("off");
            return block_on(beehive::demo::run(arguments)).unwrap_or(std::process::ExitCode::FAILURE);
        }
        #[cfg(feature = "sim")]
        Command::Sim(command) => match beehive::sim::run(command, cli.options.json) {
            Ok(code) => code,
            Err(error) => complain(ExitCode::Failed, &format_args!("{error:#}")),
        },
        Command::Bridge(arguments) => {
            log("info");
            block_on(beehive::bridge::run(&cli.options, arguments)).map_or(ExitCode::Failed, outcome)
        }
        Command::Crew(CrewCommand::Upgrade(arguments)) => {
            log("error");
            block_on(console::upgrade::run(&cli.options, arguments)).unwrap_or(ExitCode::Failed)
        }
        #[cfg(feature = "workstation")]
        Command::Crew(CrewCommand::Enrol(arguments)) => {
            log("error");
            match block_on(beehive::enrol::owner::command::run(arguments, &cli.options)) {
                Some(Ok((text, document, code))) => {
                    let text = if cli.options.json { format!("{document}\n") } else { text };
                    match written(cli::print(text.as_bytes())) {
                        ExitCode::Done => code,
                        failed => failed,
                    }
                }
                Some(Err(trouble)) => complain(trouble.exit, &trouble),
                None => ExitCode::Failed,
            }
        }
        Command::Release(command) => match beehive::release::command::run(command) {
            Ok(said) if cli.options.json => written(cli::print(format!("{}\n", said.document).as_bytes())),
            Ok(said) => written(cli::print(said.text.as_bytes())),
            Err(error) => complain(beehive::release::command::exit_of(&error), &format_args!("{error:#}")),
        },
        Command::Crew(command) => match beehive::crew::command::crew(command, &cli.options) {
            Ok(text) => written(cli::print(text.as_bytes())),
            Err(error) => complain(ExitCode::Failed, &format_args!("{error:#}")),
        },
        Command::Broker(command) => match beehive::crew::command::broker(command) {
            Ok(text) => written(cli::print(text.as_bytes())),
            Err(error) => complain(ExitCode::Failed, &format_args!("{error:#}")),
        },
        Command::Audit(command) => {
            let json = cli.options.json;
            let found = match command {
                AuditCommand::Verify(log) => audit::verify_log(log, json),
                AuditCommand::Show { log, last } => audit::show(log, *last, json),
                AuditCommand::Head => cli.options.audit_head().and_then(|path| audit::head(&path)),
            };
            match found {
                Ok(Found { text, code }) => match written(cli::print(text.as_bytes())) {
                    ExitCode::Done => code,
                    failed => failed,
                },
                Err(error) => complain(ExitCode::Failed, &format_args!("{error:#}")),
            }
        }
        #[cfg(feature = "workstation")]
        Command::Discover(arguments) => {
            log("error");
            block_on(beehive::discover::run(&cli.options, arguments)).unwrap_or(ExitCode::Failed)
        }
        #[cfg(feature = "workstation")]
        Command::Image(command) => match beehive::image::run(command, &cli.options) {
            Ok(said) if cli.options.json => written(cli::print(format!("{}\n", said.document).as_bytes())),
            Ok(said) => written(cli::print(said.text.as_bytes())),
            Err(trouble) => complain(trouble.exit, &trouble),
        },
        #[cfg(feature = "pages")]
        Command::Completions { shell } => written(cli::print(&cli::completions(*shell))),
        #[cfg(feature = "pages")]
        Command::Man { dir: Some(dir) } => written(cli::man_pages(dir)),
        #[cfg(feature = "pages")]
        Command::Man { dir: None } => written(cli::man_page().and_then(|page| cli::print(&page))),
        Command::Version => written(cli::print(cli::version(&cli.options).as_bytes())),
    };
    code.into()
}

/// Logs go to standard error, from `level` on unless `RUST_LOG` says otherwise. systemd adds the time by itself.
fn log(level: &str) {
    // by module and level alone: filters with patterns in them bring half a megabyte of regular expressions
    let wanted = std::env::var("RUST_LOG").ok().and_then(|wanted| wanted.parse::<Targets>().ok());
    let filter = wanted.or_else(|| level.parse().ok()).unwrap_or_default();
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).without_time();
    tracing_subscriber::registry().with(lines).with(filter).init();
}

/// One thread does: nothing here computes for long, and a thread's stack is memory on a small Pi.
fn block_on<F: Future>(future: F) -> Option<F::Output> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => Some(runtime.block_on(future)),
        Err(error) => {
            eprintln!("beehive: cannot start: {error}");
            None
        }
    }
}

/// What the drain unit's journal says. A shutdown goes on either way.
fn drained(how: &Drained) -> ExitCode {
    match how {
        Drained::Done => eprintln!("beehive: this node is emptied and its engine stopped; systemd goes on"),
        Drained::NotStopping { state } => {
            eprintln!("beehive: nothing to drain: the system is not stopping (systemd says {state:?})");
        }
        Drained::Alone { reason } => {
            eprintln!("beehive: not drained: {reason}; systemd stops the engine's own unit");
            return ExitCode::Failed;
        }
        Drained::TimedOut => {
            eprintln!("beehive: not drained: the agent did not end in time");
            return ExitCode::Failed;
        }
    }
    ExitCode::Done
}

fn outcome(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::Done,
        Err(error) => complain(ExitCode::Failed, &format_args!("{error:#}")),
    }
}

fn given_back(result: Result<(), Vec<beehive::hal::HalError>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::Done,
        Err(errors) => errors.iter().fold(ExitCode::Failed, |code, error| complain(code, error)),
    }
}

fn complain(code: ExitCode, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("beehive: {error}");
    code
}

fn written(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::Done,
        Err(error) => complain(ExitCode::Failed, &format_args!("cannot write: {error}")),
    }
}
