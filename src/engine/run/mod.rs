//! How [`Tools`] runs programs: [`UnitTools`] on a Pi, each program a transient unit of systemd; [`ChildTools`] where systemd
//! does not run and in tests, each program a child in a process group of its own, looked up below a folder.
//!
//! Both hold the same contract, and one test holds it against both: the program's own words alone as arguments (nothing
//! expands `$`, `%`, `*` or quotes), only the call's environment, the end of the output, standard input closed after what
//! the call gives, an end at the deadline, and an end of *all* that was started when the future is dropped.

mod child;
mod unit;

pub use child::ChildTools;
pub use unit::UnitTools;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::tool::{OUTPUT_BYTES, Ran, ToolError, Tools};

/// How long the output is waited for after the program's end. What it started is ended by then, so the pipes close at once;
/// only a process that got away could hold them open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is taken from a pipe at a time: a pipe of Linux holds 64 KiB, and most programs here say less than this.
const CHUNK_BYTES: usize = 4 * 1024;

/// What runs programs on this machine: transient units where systemd is the system's manager, children elsewhere.
///
/// # Errors
/// If systemd is there and cannot be asked.
pub async fn here() -> Result<Arc<dyn Tools>, ToolError> {
    match sd_notify::booted() {
        Ok(true) => Ok(Arc::new(UnitTools::open().await?)),
        Ok(false) | Err(_) => {
            tracing::warn!(
                "systemd does not manage this machine: programs of the engine run as children, without limits of their own"
            );
            Ok(Arc::new(ChildTools::below(Path::new("/"))))
        }
    }
}

/// Whether a program can be run: a file, and executable by somebody.
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The end of what a program prints to one of its outputs.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        let surplus = kept.len().saturating_sub(OUTPUT_BYTES);
        kept.drain(..surplus);
    }

    /// As text of [`OUTPUT_BYTES`] at most. What would steer a terminal is left out: this ends up in logs and reports.
    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let plain: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        let surplus = plain.len().saturating_sub(OUTPUT_BYTES);
        match plain.char_indices().map(|(at, _)| at).find(|at| *at >= surplus) {
            Some(start) => plain.get(start..).unwrap_or_default().to_owned(),
            None => String::new(),
        }
    }
}

/// The three pipes of a program at work. They end with this.
struct Streams {
    work: JoinSet<()>,
    stdout: Tail,
    stderr: Tail,
}

impl Streams {
    fn new() -> Self {
        Self { work: JoinSet::new(), stdout: Tail::default(), stderr: Tail::default() }
    }

    fn stdout(&mut self, from: impl AsyncRead + Unpin + Send + 'static) {
        self.work.spawn(follow(from, self.stdout.clone()));
    }

    fn stderr(&mut self, from: impl AsyncRead + Unpin + Send + 'static) {
        self.work.spawn(follow(from, self.stderr.clone()));
    }

    fn stdin(&mut self, mut to: impl AsyncWrite + Unpin + Send + 'static, input: Zeroizing<Vec<u8>>) {
        self.work.spawn(async move {
            // a program that does not read all of it says by its status whether it minds
            let _ = to.write_all(&input).await;
        });
    }

    /// Waits for what is on its way still.
    async fn end(&mut self) {
        let _ = tokio::time::timeout(LAST_WORDS, async { while self.work.join_next().await.is_some() {} }).await;
    }

    fn ran(&self, code: Option<i32>) -> Ran {
        Ran { code, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    fn too_long(&self, program: &'static str, deadline: Duration) -> ToolError {
        let last = match (self.stderr.text(), self.stdout.text()) {
            (said, printed) if said.trim().is_empty() => printed,
            (said, _) => said,
        };
        let last = match last.trim() {
            "" => "nothing".to_owned(),
            last => last.to_owned(),
        };
        ToolError::Deadline { program, deadline, last }
    }
}

async fn follow(mut from: impl AsyncRead + Unpin, tail: Tail) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        tail.push(chunk.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
