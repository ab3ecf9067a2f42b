//! What the coordinator finds out beside the wire and Kubernetes' work: what a node's labels and pods are, what time it is, and
//! what the operator's own programs say. They come from the configuration on this card alone, are never a shell's, and are
//! given up at a deadline.

use crate::config::OperatorCommand;
use crate::kube::Kubernetes;
use beehive_cluster::blockers::{Facts, Said, Shown, WeekMinute};
use beehive_cluster::coordinator::LOOK_MS;
use beehive_mqtt::{NodeName, Text};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long one of the operator's programs may take. Less than a look may, so that it is known why there is no answer.
const COMMAND: Duration = Duration::from_millis(LOOK_MS - 3_000);

/// How much of what a program prints is read; the first line counts.
const OUTPUT_BYTES: usize = 4096;

/// What there is beside the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outside {
    /// Says whether a node may be taken.
    pub may_take: Option<OperatorCommand>,
    /// Lets a switch feed a Pi.
    pub switch_on: Option<OperatorCommand>,
}

impl Outside {
    /// Finds out what a blocker may ask for.
    pub(super) async fn look(&self, kubernetes: &dyn Kubernetes, node: &NodeName) -> Facts {
        let shown = async {
            match tokio::time::timeout(COMMAND, kubernetes.look(node)).await {
                Ok(Ok(shown)) => Ok(shown),
                Ok(Err(error)) => Err(Text::format(format_args!("{}: {}", error.code, error.reason))),
                Err(_) => Err(Text::cut("the API server does not answer")),
            }
        };
        let command = async {
            match &self.may_take {
                None => Said::Go,
                Some(command) => match run(command, node).await {
                    Ok(()) => Said::Go,
                    Err(why) => Said::Stay(why),
                },
            }
        };
        let (shown, minute, command): (Result<Shown, _>, _, _) = tokio::join!(shown, minute(), command);
        Facts { shown, minute, command }
    }

    /// Lets the switch feed this Pi.
    ///
    /// # Errors
    /// What the program said, or why it could not be run.
    pub(super) async fn switch_on(&self, node: &NodeName) -> Result<(), Text<120>> {
        match &self.switch_on {
            Some(command) => run(command, node).await,
            None => Err(Text::cut("there is no switch_on in [cluster]")),
        }
    }
}

/// Runs one of the operator's programs for `node`, whose name is its last argument. What it says when it does not want is its
/// first line.
async fn run(command: &OperatorCommand, node: &NodeName) -> Result<(), Text<120>> {
    let program = command.program.display();
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.arguments)
        .arg(node.as_str())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("BEEHIVE_NODE", node.as_str())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Text::format(format_args!("{program} cannot be run: {error}")))?;
    let output = child.stdout.take();
    let talk = async {
        let mut said = Vec::new();
        if let Some(mut output) = output {
            read_some(&mut output, &mut said).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, said))
    };
    match tokio::time::timeout(COMMAND, talk).await {
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, said))) => {
            let said = String::from_utf8_lossy(&said);
            let line: String = said.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
            let line = line.trim();
            Err(match line {
                "" => Text::format(format_args!("{program} ended with {status} and said nothing")),
                line => Text::cut(line),
            })
        }
        Ok(Err(error)) => Err(Text::format(format_args!("{program}: {error}"))),
        // dropped with its future, and killed with that
        Err(_) => Err(Text::format(format_args!("{program} did not end within {} s", COMMAND.as_secs()))),
    }
}

/// Reads to the end and keeps the beginning, so that a program that prints much does not wait for ever.
async fn read_some(output: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> std::io::Result<()> {
    let mut part = [0; 1024];
    loop {
        let count = output.read(&mut part).await?;
        if count == 0 {
            return Ok(());
        }
        let room = OUTPUT_BYTES.saturating_sub(said.len());
        said.extend_from_slice(part.get(..count.min(room)).unwrap_or_default());
    }
}

/// The minute of the week here, by `/etc/localtime`; none while the clock is not set. A Pi has no clock of its own: until it
/// has heard of the time, it goes on from when it went down.
async fn minute() -> Option<WeekMinute> {
    if !is_set().await {
        return None;
    }
    let now = jiff::Zoned::now();
    let days = u16::try_from(now.weekday().to_monday_zero_offset()).ok()?;
    let (hour, minute) = (u16::try_from(now.hour()).ok()?, u16::try_from(now.minute()).ok()?);
    Some(WeekMinute::new(days * 24 * 60 + hour * 60 + minute))
}

/// Whether the kernel's clock is kept by something that has heard of the time (systemd's `NTPSynchronized`, which looks at the
/// kernel and so holds for chrony too). Where systemd does not run nobody can be asked, and the clock is believed.
async fn is_set() -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return true;
    }
    let asked = async {
        let bus = zbus::Connection::system().await?;
        let clock = zbus::Proxy::new(
            &bus,
            "org.freedesktop.timedate1",
            "/org/freedesktop/timedate1",
            "org.freedesktop.timedate1",
        );
        clock.await?.get_property::<bool>("NTPSynchronized").await
    };
    match tokio::time::timeout(COMMAND, asked).await {
        Ok(Ok(set)) => set,
        Ok(Err(error)) => {
            tracing::warn!("nobody says whether the clock is set: {error}");
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::{ControlPlane, SimulatedKubernetes};
    use crate::store::Store;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn script(dir: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = dir.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn node() -> NodeName {
        "pi-2".parse().unwrap()
    }

    async fn says(text: &str) -> Result<(), String> {
        let dir = tempfile::TempDir::new().unwrap();
        let command = OperatorCommand { program: script(&dir, text), arguments: vec!["--port".to_owned()] };
        run(&command, &node()).await.map_err(|why| why.to_string())
    }

    #[tokio::test]
    async fn a_program_is_asked_with_the_nodes_name_and_says_why_not() {
        assert_eq!(says("exit 0").await, Ok(()));
        assert_eq!(
            says("echo \"$1 $2 $BEEHIVE_NODE ${HOME-none}\"; exit 3").await,
            Err("--port pi-2 pi-2 none".to_owned())
        );
        let nothing = says("exit 3").await.unwrap_err();
        assert!(nothing.ends_with("ended with exit status: 3 and said nothing"), "{nothing}");
        let long = says("yes no | head -c 100000; printf '\\033[1m'; exit 1").await;
        assert_eq!(long, Err("no".to_owned()));
        let control = says("printf 'a\\033[1mb\\n'; exit 1").await;
        assert_eq!(control, Err("a[1mb".to_owned()));
        let missing = OperatorCommand { program: "/nonexistent/program".into(), arguments: Vec::new() };
        let why = run(&missing, &node()).await.unwrap_err();
        // an emulator's fork does not tell its parent that there is no such program; its exit status does
        let told = why.as_str().contains("cannot be run") || why.as_str().contains("exit status: 127");
        assert!(why.as_str().starts_with("/nonexistent/program") && told, "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_given_up() {
        let why = says("exec sleep 600").await.unwrap_err();
        assert!(why.ends_with("did not end within 12 s"), "{why}");
    }

    #[tokio::test]
    async fn a_look_gathers_what_blockers_ask_for() {
        let dir = tempfile::TempDir::new().unwrap();
        let plane = ControlPlane::open(Store::open(&dir.path().join("store")).unwrap()).unwrap();
        let kubernetes = SimulatedKubernetes::new(plane, 0);
        let command = OperatorCommand { program: script(&dir, "echo not now; exit 1"), arguments: Vec::new() };
        let outside = Outside { may_take: Some(command), switch_on: None };
        let facts = outside.look(&kubernetes, &node()).await;
        assert_eq!(facts.command, Said::Stay(Text::cut("not now")));
        let why = facts.shown.unwrap_err();
        assert!(why.as_str().starts_with("unreachable"), "{why}");
        assert_eq!(outside.switch_on(&node()).await.unwrap_err().as_str(), "there is no switch_on in [cluster]");
    }
}
