//! External programs (k3s, kubeadm, systemctl, ctr …), as an engine runs them: a fixed path, arguments that the engine built
//! from its own types, nothing of this process's environment, a deadline, and output that is kept up to a bound for the
//! report of a failure. There is no shell, and a secret goes in by standard input or in a file, never as an argument.
//!
//! An engine sees [`Tools`] alone. On a Pi each program is a transient unit of systemd; in tests it is a recorded double.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

/// How much of what a program prints is kept: the end of it, where programs say why they failed.
pub const OUTPUT_BYTES: usize = 8 * 1024;

/// A program and what it is told.
#[derive(Clone)]
pub struct ToolCall {
    /// Its absolute path on the Pi.
    pub program: &'static str,
    /// Its arguments, one word each. No secret is among them: every process of the machine can read them.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(&'static str, String)>,
    /// What it reads from its standard input.
    pub input: Option<Zeroizing<Vec<u8>>>,
    /// When it is ended, with all that it has started.
    pub deadline: Duration,
}

impl ToolCall {
    /// A call of `program` with `arguments`, and a minute's time.
    pub fn new<S: Into<String>>(program: &'static str, arguments: impl IntoIterator<Item = S>) -> Self {
        Self {
            program,
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            input: None,
            deadline: Duration::from_secs(60),
        }
    }

    /// The same with this deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same with this on its standard input.
    #[must_use]
    pub fn reading(mut self, input: Zeroizing<Vec<u8>>) -> Self {
        self.input = Some(input);
        self
    }

    /// The same with this in its environment.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }
}

impl fmt::Debug for ToolCall {
    /// The program and its arguments; what it reads may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program)?;
        for argument in &self.arguments {
            write!(f, " {argument}")?;
        }
        Ok(())
    }
}

/// How a program ended that could be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; none where a signal ended it.
    pub code: Option<i32>,
    /// The end of what it printed to standard output, [`OUTPUT_BYTES`] at most.
    pub stdout: String,
    /// The end of what it printed to standard error, [`OUTPUT_BYTES`] at most.
    pub stderr: String,
}

impl Ran {
    /// Whether it ended with 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

/// Why a program did not come to an end of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// It is not there.
    #[error("{program} is not installed on this Pi")]
    Missing {
        /// Which.
        program: &'static str,
    },
    /// It could not be started.
    #[error("{program} could not be started: {why}")]
    NotStarted {
        /// Which.
        program: &'static str,
        /// Why.
        why: String,
    },
    /// It was ended at its deadline.
    #[error("{program} was ended after {} s; it last said: {last}", deadline.as_secs())]
    Deadline {
        /// Which.
        program: &'static str,
        /// The deadline.
        deadline: Duration,
        /// The end of what it printed by then.
        last: String,
    },
}

/// What runs programs. Clones of a handle share it.
pub trait Tools: Send + Sync {
    /// Runs a program to its end. If the future is dropped, the program is ended with all that it has started.
    ///
    /// # Errors
    /// The future's error says whether it is missing, could not be started or had to be ended. A program that ended with
    /// another status than 0 is no error here.
    fn run(&self, call: ToolCall) -> BoxFuture<'static, Result<Ran, ToolError>>;

    /// Whether the program is there.
    fn has(&self, program: &'static str) -> bool;
}
