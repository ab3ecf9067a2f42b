//! Programs as children of this process, each the leader of a process group, which is ended as one.
//!
//! Two things it cannot do, which is why a Pi uses units: it sets no limits, and a program that begins a session of its own
//! leaves the group and lives on.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::{Streams, is_program};
use crate::engine::tool::{Ran, ToolCall, ToolError, Tools};

/// Runs programs as children. `/usr/bin/kubeadm` is looked up below its folder.
#[derive(Debug, Clone)]
pub struct ChildTools {
    below: PathBuf,
}

impl ChildTools {
    /// Programs below `folder`: `/` for the machine's own, another one for doubles.
    pub fn below(folder: &Path) -> Self {
        Self { below: folder.to_owned() }
    }

    fn path(&self, program: &'static str) -> PathBuf {
        self.below.join(program.trim_start_matches('/'))
    }
}

impl Tools for ChildTools {
    fn run(&self, call: ToolCall) -> BoxFuture<'static, Result<Ran, ToolError>> {
        let path = self.path(call.program);
        run(path, call).boxed()
    }

    fn has(&self, program: &'static str) -> bool {
        is_program(&self.path(program))
    }
}

/// Ends the whole group when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // fails where nobody of it is left
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn run(path: PathBuf, call: ToolCall) -> Result<Ran, ToolError> {
    let program = call.program;
    if !is_program(&path) {
        return Err(ToolError::Missing { program });
    }
    let not_started = |error: std::io::Error| ToolError::NotStarted { program, why: error.to_string() };
    let mut command = Command::new(&path);
    command
        .args(&call.arguments)
        .env_clear()
        .envs(call.environment.iter().map(|(name, value)| (*name, value.as_str())))
        .current_dir("/")
        .stdin(if call.input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(not_started)?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let mut streams = Streams::new();
    if let Some(stdout) = child.stdout.take() {
        streams.stdout(stdout);
    }
    if let Some(stderr) = child.stderr.take() {
        streams.stderr(stderr);
    }
    if let (Some(stdin), Some(input)) = (child.stdin.take(), call.input) {
        streams.stdin(stdin, input);
    }
    let ended = tokio::time::timeout(call.deadline, child.wait()).await;
    // whether it ended or has to: nothing that it started lives on
    drop(group);
    streams.end().await;
    match ended {
        Ok(Ok(status)) => Ok(streams.ran(code(status))),
        Ok(Err(error)) => Err(not_started(error)),
        Err(_) => Err(streams.too_long(program, call.deadline)),
    }
}

fn code(status: ExitStatus) -> Option<i32> {
    status.code()
}
