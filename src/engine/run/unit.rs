//! Programs as transient units of systemd, asked for over D-Bus (org.freedesktop.systemd1(5)).
//!
//! D-Bus rather than `systemd-run --wait --pipe`: `systemd-run` ends with the program's status or with its own, and nobody
//! can tell which; killed, it leaves the unit running; and before systemd 254 it has no way to say that `$` in an argument
//! is a `$`. `Type=oneshot`, so that the end of the start job is the end of the program, and its deadline that of the start.
//!
//! - `DefaultDependencies=no` and no dependency that would start or wait for something: systemd starts nothing while the
//!   system stops that conflicts with it, and the stop of an engine is needed exactly then. `PartOf=` the root unit, whose
//!   stop is theirs; not `After=`, which would make a start wait for the root unit's own end.
//! - Its environment is that of the call alone: what the manager would add is unset by name (`UnsetEnvironment=` is applied
//!   last, systemd.exec(5)).
//! - What an earlier root unit left running when it was killed is ended before the first program of this one.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::net::unix::pipe;
use zbus::zvariant::{Fd, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, Proxy};

use super::{Streams, is_program};
use crate::engine::tool::{Ran, ToolCall, ToolError, Tools};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// What the names of our units begin with.
const PREFIX: &str = "beehive-tool-";
/// Whose stop is theirs.
const ROOT_UNIT: &str = "beehive-engine.service";

/// kubeadm takes some 60 MB, k3s loading images some 200; a Pi has 1 GB, and the daemon must live beside it.
const MEMORY_MAX_BYTES: u64 = 512 * 1024 * 1024;
/// A Go program has some dozens of threads; a fork bomb has more than this.
const TASKS_MAX: u64 = 512;
/// How long systemd may take to say that a deadline has passed before it is not waited for any more.
const MARGIN: Duration = Duration::from_secs(10);
/// How long systemd may take to answer where it has nothing to wait for.
const ANSWER: Duration = Duration::from_secs(10);
/// Exit statuses that systemd gives where it could not run the program (systemd.exec(5), "Process Exit Codes").
const NOT_RUN: std::ops::RangeInclusive<i32> = 200..=243;
/// `LOG_NOTICE` of syslog(3): systemd tells starts and ends as information.
const LOG_NOTICE: i32 = 5;
/// `CLD_EXITED` of siginfo(2): it ended by itself. Everything else was a signal.
const EXITED: i32 = 1;

/// What the service manager adds to the environment of every unit (systemd.exec(5), "Environment Variables Set or
/// Propagated by the Service Manager").
const ADDED_BY_MANAGER: [&str; 24] = [
    "PATH",
    "LANG",
    "USER",
    "LOGNAME",
    "HOME",
    "SHELL",
    "INVOCATION_ID",
    "XDG_RUNTIME_DIR",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CACHE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "MAINPID",
    "MANAGERPID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

/// Runs programs as transient units.
#[derive(Debug, Clone, Copy)]
pub struct UnitTools {
    _opened: (),
}

impl UnitTools {
    /// Ends what an earlier root unit left running.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub async fn open() -> Result<Self, ToolError> {
        let clear = async {
            let bus = Connection::system().await?;
            let manager = manager(&bus).await?;
            let patterns = [format!("{PREFIX}*.service")];
            let states: [&str; 0] = [];
            let found: Vec<Listed> = manager.call("ListUnitsByPatterns", &(&states[..], &patterns[..])).await?;
            for unit in found {
                tracing::warn!(unit = unit.0, "a program of an earlier root unit still ran; it is ended");
                stop(&manager, &unit.0).await;
            }
            Ok::<(), zbus::Error>(())
        };
        let failed = |why: String| ToolError::NotStarted { program: "systemd", why };
        match tokio::time::timeout(ANSWER, clear).await {
            Ok(Ok(())) => Ok(Self { _opened: () }),
            Ok(Err(error)) => Err(failed(format!("it cannot be asked over the system bus: {error}"))),
            Err(_) => Err(failed("it does not answer over the system bus".to_owned())),
        }
    }
}

/// A unit as `ListUnitsByPatterns` tells it; its name comes first.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

impl Tools for UnitTools {
    fn run(&self, call: ToolCall) -> BoxFuture<'static, Result<Ran, ToolError>> {
        run(call).boxed()
    }

    fn has(&self, program: &'static str) -> bool {
        is_program(Path::new(program))
    }
}

async fn manager(bus: &Connection) -> zbus::Result<Proxy<'static>> {
    Proxy::new(bus, SYSTEMD, MANAGER_PATH, MANAGER).await
}

async fn stop(manager: &Proxy<'_>, unit: &str) {
    // fails where it has ended meanwhile
    let _ = manager.call::<_, _, OwnedObjectPath>("StopUnit", &(unit, "replace")).await;
}

/// Stops the unit when it is dropped before its end.
struct Running {
    manager: Proxy<'static>,
    unit: String,
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Yes,
    No,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended == Ended::Yes {
            return;
        }
        let (manager, unit) = (self.manager.clone(), std::mem::take(&mut self.unit));
        // where the executor is gone this process ends, and the root unit's stop is that of its programs
        if let Ok(executor) = tokio::runtime::Handle::try_current() {
            executor.spawn(async move { stop(&manager, &unit).await });
        }
    }
}

/// A property of the unit.
type Property = (&'static str, Value<'static>);

/// The unit's properties except for its pipes. `inherited` are the names that the manager's own environment holds.
fn properties(call: &ToolCall, inherited: &[String]) -> Vec<Property> {
    let mut words = vec![call.program.to_owned()];
    words.extend(call.arguments.iter().cloned());
    let environment: Vec<String> = call.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut unset: Vec<String> = ADDED_BY_MANAGER.iter().map(|name| (*name).to_owned()).collect();
    unset.extend(inherited.iter().filter_map(|pair| pair.split('=').next()).map(str::to_owned));
    unset.retain(|name| !call.environment.iter().any(|(given, _)| given == name));
    unset.sort();
    unset.dedup();
    let name = program_name(call.program);
    let micros = u64::try_from(call.deadline.as_micros()).unwrap_or(u64::MAX);
    vec![
        ("Description", Value::from(format!("beehive: {name}"))),
        ("Type", Value::from("oneshot")),
        // no-env-expand: a `$` in an argument is a `$`
        ("ExecStartEx", Value::from(vec![(call.program.to_owned(), words, vec!["no-env-expand".to_owned()])])),
        ("Environment", Value::from(environment)),
        ("UnsetEnvironment", Value::from(unset)),
        ("TimeoutStartUSec", Value::from(micros)),
        // all of it, at once: a program that is ended here has had its time, and each step can be done again
        ("KillMode", Value::from("control-group")),
        ("KillSignal", Value::from(9_i32)),
        // an exit with another status is an answer and no failure of systemd's; and a line of the journal for the start and
        // the end of each program would wear the card
        ("SuccessExitStatus", Value::from((statuses(), Vec::<i32>::new()))),
        ("LogLevelMax", Value::from(LOG_NOTICE)),
        ("MemoryMax", Value::from(MEMORY_MAX_BYTES)),
        ("TasksMax", Value::from(TASKS_MAX)),
        // a core file would hold what it read
        ("LimitCORE", Value::from(0_u64)),
        ("UMask", Value::from(0o077_u32)),
        ("IgnoreSIGPIPE", Value::from(false)),
        ("DefaultDependencies", Value::from(false)),
        ("PartOf", Value::from(vec![ROOT_UNIT.to_owned()])),
        // it stays until its end was read, and no longer, however it ended
        ("CollectMode", Value::from("inactive-or-failed")),
        ("AddRef", Value::from(true)),
    ]
}

/// Every exit status that can be a program's own.
fn statuses() -> Vec<i32> {
    (1..=255).filter(|status| !NOT_RUN.contains(status)).collect()
}

/// The program's own name, for the unit's.
fn program_name(program: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or_default();
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect()
}

/// How a unit ended, in systemd's words.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    /// `Result` of the service.
    result: String,
    /// `ExecMainCode`: how its process ended, as in siginfo.
    code: i32,
    /// `ExecMainStatus`: its status, or the signal.
    status: i32,
}

/// What an end means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    Ran(Option<i32>),
    TooLong,
    NotRun(String),
}

impl End {
    fn meaning(&self) -> Meaning {
        match self.result.as_str() {
            "timeout" => Meaning::TooLong,
            "exit-code" if self.code == EXITED && NOT_RUN.contains(&self.status) => {
                Meaning::NotRun(format!("systemd could not run it (status {})", self.status))
            }
            "success" | "exit-code" if self.code == EXITED => Meaning::Ran(Some(self.status)),
            "success" | "signal" | "core-dump" | "oom-kill" | "watchdog" => Meaning::Ran(None),
            other => Meaning::NotRun(format!("systemd did not run it: {other}")),
        }
    }
}

async fn run(call: ToolCall) -> Result<Ran, ToolError> {
    let (program, deadline) = (call.program, call.deadline);
    if !is_program(Path::new(program)) {
        return Err(ToolError::Missing { program });
    }
    let not_started = |why: String| ToolError::NotStarted { program, why };
    let mut streams = Streams::new();
    let pipes = Pipes::open(&mut streams, call.input.clone()).map_err(|error| not_started(error.to_string()))?;
    let ended = tokio::time::timeout(deadline.saturating_add(MARGIN), unit(&call, pipes)).await;
    streams.end().await;
    match ended {
        Ok(Ok(end)) => match end.meaning() {
            Meaning::Ran(code) => Ok(streams.ran(code)),
            Meaning::TooLong => Err(streams.too_long(program, deadline)),
            Meaning::NotRun(why) => Err(not_started(why)),
        },
        Ok(Err(error)) => Err(not_started(format!("systemd did not take it: {error}"))),
        Err(_) => Err(streams.too_long(program, deadline)),
    }
}

/// The program's ends of its pipes.
struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    fn open(streams: &mut Streams, input: Option<zeroize::Zeroizing<Vec<u8>>>) -> std::io::Result<Self> {
        let (stdout, from_stdout) = pipe::pipe()?;
        let (stderr, from_stderr) = pipe::pipe()?;
        streams.stdout(from_stdout);
        streams.stderr(from_stderr);
        let stdin = match input {
            None => None,
            Some(input) => {
                let (to_stdin, stdin) = pipe::pipe()?;
                streams.stdin(to_stdin, input);
                Some(stdin.into_blocking_fd()?)
            }
        };
        Ok(Self { stdin, stdout: stdout.into_blocking_fd()?, stderr: stderr.into_blocking_fd()? })
    }

    /// As properties of the unit. They are closed on this side when the message that carries them is gone.
    fn properties(self) -> Vec<Property> {
        let mut properties = vec![
            ("StandardOutputFileDescriptor", Value::from(Fd::from(self.stdout))),
            ("StandardErrorFileDescriptor", Value::from(Fd::from(self.stderr))),
        ];
        match self.stdin {
            Some(stdin) => properties.push(("StandardInputFileDescriptor", Value::from(Fd::from(stdin)))),
            None => properties.push(("StandardInput", Value::from("null"))),
        }
        properties
    }
}

/// Starts the unit and waits for its end.
async fn unit(call: &ToolCall, pipes: Pipes) -> zbus::Result<End> {
    // a connection for each program: the unit is referenced by it, and let go with it
    let bus = Connection::system().await?;
    let manager = manager(&bus).await?;
    manager.call::<_, _, ()>("Subscribe", &()).await?;
    let mut removed = manager.receive_signal("JobRemoved").await?;
    let inherited: Vec<String> = manager.get_property("Environment").await?;
    let mut properties = properties(call, &inherited);
    properties.extend(pipes.properties());
    let unit = format!("{PREFIX}{}-{}.service", program_name(call.program), uuid::Uuid::new_v4().simple());
    let others: Vec<(String, Vec<(String, OwnedValue)>)> = Vec::new();
    // from here on, whatever becomes of the call
    let mut running = Running { manager: manager.clone(), unit: unit.clone(), ended: Ended::No };
    let job: OwnedObjectPath = manager.call("StartTransientUnit", &(unit.as_str(), "fail", properties, others)).await?;
    loop {
        let Some(signal) = removed.next().await else {
            return Err(zbus::Error::Failure("the system bus ended".to_owned()));
        };
        let (_, ended, _, _): (u32, OwnedObjectPath, String, String) = signal.body().deserialize()?;
        if ended == job {
            break;
        }
    }
    let path: OwnedObjectPath = manager.call("GetUnit", &unit.as_str()).await?;
    let service = Proxy::new(&bus, SYSTEMD, path, SERVICE).await?;
    let end = End {
        result: service.get_property("Result").await?,
        code: service.get_property("ExecMainCode").await?,
        status: service.get_property("ExecMainStatus").await?,
    };
    running.ended = Ended::Yes;
    Ok(end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn property<'a>(properties: &'a [Property], name: &str) -> &'a Value<'static> {
        &properties.iter().find(|(found, _)| *found == name).unwrap().1
    }

    #[test]
    fn a_call_becomes_a_unit_of_its_own_words() {
        let call = ToolCall::new("/usr/bin/kubeadm", ["reset", "$HOME", "%i", "-f"])
            .within(Duration::from_secs(90))
            .with("PATH", "/usr/bin");
        let inherited = ["MINE=1".to_owned(), "LANG=C".to_owned(), "PATH=/x".to_owned()];
        let properties = properties(&call, &inherited);
        let words = ["/usr/bin/kubeadm", "reset", "$HOME", "%i", "-f"].map(str::to_owned).to_vec();
        let execution = vec![("/usr/bin/kubeadm".to_owned(), words, vec!["no-env-expand".to_owned()])];
        assert_eq!(*property(&properties, "ExecStartEx"), Value::from(execution));
        assert_eq!(property(&properties, "ExecStartEx").value_signature(), "a(sasas)");
        assert_eq!(*property(&properties, "TimeoutStartUSec"), Value::from(90_000_000_u64));
        assert_eq!(*property(&properties, "Environment"), Value::from(vec!["PATH=/usr/bin".to_owned()]));
        let unset: Vec<String> = property(&properties, "UnsetEnvironment").try_clone().unwrap().try_into().unwrap();
        for name in ["MINE", "LANG", "INVOCATION_ID", "HOME"] {
            assert!(unset.iter().any(|found| found == name), "{name} would be passed on");
        }
        assert!(!unset.iter().any(|found| found == "PATH"), "what the call sets is not unset");
        for (name, value) in [
            ("Type", Value::from("oneshot")),
            ("KillMode", Value::from("control-group")),
            ("DefaultDependencies", Value::from(false)),
            // an exit with another status is an answer and no failure of systemd's; and a line of the journal for the start and
            // the end of each program would wear the card
            ("SuccessExitStatus", Value::from((statuses(), Vec::<i32>::new()))),
            ("LogLevelMax", Value::from(LOG_NOTICE)),
            ("MemoryMax", Value::from(MEMORY_MAX_BYTES)),
            ("TasksMax", Value::from(TASKS_MAX)),
            ("LimitCORE", Value::from(0_u64)),
        ] {
            assert_eq!(*property(&properties, name), value, "{name}");
        }
        assert!(!properties.iter().any(|(name, _)| *name == "After"), "its start would wait for the root unit's end");
    }

    #[test]
    fn an_end_is_told_from_a_start_that_failed() {
        let end = |result: &str, code, status| End { result: result.to_owned(), code, status }.meaning();
        assert_eq!(end("success", 1, 0), Meaning::Ran(Some(0)));
        assert_eq!(end("exit-code", 1, 1), Meaning::Ran(Some(1)));
        assert_eq!(end("signal", 2, 9), Meaning::Ran(None));
        assert_eq!(end("oom-kill", 2, 9), Meaning::Ran(None));
        // ended by systemd itself at the deadline
        assert_eq!(end("timeout", 2, 9), Meaning::TooLong);
        // 203: EXIT_EXEC
        assert!(matches!(end("exit-code", 1, 203), Meaning::NotRun(_)));
        assert!(matches!(end("resources", 0, 0), Meaning::NotRun(_)));
    }

    #[test]
    fn a_units_name_holds_nothing_but_the_programs() {
        assert_eq!(program_name("/usr/bin/kubeadm"), "kubeadm");
        assert_eq!(program_name("/usr/local/bin/k3s-killall.sh"), "k3s-killallsh");
    }
}
