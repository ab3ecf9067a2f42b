//! The way to a Pi: a program that the operator names (`ssh`), with `beehive release …` behind it. The words are ours, a
//! version's among them; nothing that came over the wire is one.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::plan::Facts;
use crate::cli::Via;
use crate::release::package::{Architecture, Package};
use crate::release::trial::{Ended, Trial};
use crate::release::version::{Protocols, ReleaseVersion, Running};

/// How long a question may take: a Pi hashes three releases for its list.
const ASK: Duration = Duration::from_secs(60);

/// How long a release may be on its way: some 7 MB over a poor wireless network.
const COPY: Duration = Duration::from_secs(600);

/// The most that is read of an answer.
const ANSWER_BYTES: u64 = 64 * 1024;

/// What `beehive release list --json` prints. What a later version adds is not looked at.
#[derive(Debug, Deserialize)]
struct Listed {
    architecture: Option<Architecture>,
    current: Option<ReleaseVersion>,
    previous: Option<ReleaseVersion>,
    releases: Vec<Release>,
    trial: Option<Trial>,
    last: Option<Ended>,
}

#[derive(Debug, Deserialize)]
struct Release {
    version: ReleaseVersion,
    #[serde(default)]
    fault: Option<String>,
    protocol: Option<Protocols>,
}

/// What a Pi says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of its releases.
    pub facts: Facts,
    /// Of its last change.
    pub last: Option<Ended>,
}

/// A Pi, as far as it is reached.
#[derive(Debug, Clone, Copy)]
pub struct Remote<'a> {
    /// How.
    pub via: &'a Via,
    /// Where.
    pub host: &'a str,
}

/// The last line of what a program complained of, fit for a terminal.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it says nothing");
    super::super::render::clean(&line.chars().take(300).collect::<String>())
}

async fn limited(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let mut from = from.take(ANSWER_BYTES);
        // what was read until it failed is all there is
        let _ = from.read_to_end(&mut bytes).await;
        // the rest is drained, or the program would wait for ever
        let _ = tokio::io::copy(&mut from.into_inner(), &mut tokio::io::sink()).await;
    }
    bytes
}

impl Remote<'_> {
    async fn run(self, words: &[&str], input: Vec<u8>, limit: Duration) -> Result<Vec<u8>, String> {
        let command = self.via.for_host(self.host);
        let Some((program, arguments)) = command.split_first() else { return Err("--via names no program".to_owned()) };
        let mut child = Command::new(program)
            .args(arguments)
            .args(["beehive", "release"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // a program that refuses early does not read it all, and says why on its own
                let _ = stdin.write_all(&input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let work = async {
            let ((), stdout, stderr) = tokio::join!(write, limited(stdout), limited(stderr));
            (stdout, stderr, child.wait().await)
        };
        let what = words.first().copied().unwrap_or_default();
        let Ok((stdout, stderr, status)) = tokio::time::timeout(limit, work).await else {
            return Err(format!("`release {what}` did not end within {} s", limit.as_secs()));
        };
        match status {
            Ok(status) if status.success() => Ok(stdout),
            Ok(status) => Err(format!("`release {what}` failed ({status}): {}", last_words(&stderr))),
            Err(error) => Err(format!("`release {what}`: {error}")),
        }
    }

    /// What is on it.
    pub async fn ask(self) -> Result<Answer, String> {
        let stdout = self.run(&["list", "--json"], Vec::new(), ASK).await?;
        let listed: Listed =
            serde_json::from_slice(&stdout).map_err(|error| format!("its answer cannot be read: {error}"))?;
        let running = |version: Option<ReleaseVersion>| match version {
            None => Ok(None),
            Some(version) => {
                let found = listed.releases.iter().find(|release| release.version == version);
                let fault =
                    || found.and_then(|found| found.fault.clone()).unwrap_or_else(|| "it is not there".to_owned());
                match found.and_then(|found| found.protocol) {
                    Some(protocol) => Ok(Some(Running { version, protocol })),
                    None => Err(format!("its release {version} cannot be believed: {}", fault())),
                }
            }
        };
        let facts = Facts {
            architecture: listed.architecture,
            current: running(listed.current.clone())?,
            previous: running(listed.previous.clone())?,
            trial: listed.trial.map(|trial| trial.version),
        };
        Ok(Answer { facts, last: listed.last })
    }

    /// Puts a release onto it.
    pub async fn install(self, package: &Package) -> Result<(), String> {
        let mut stream = Vec::new();
        package.write_stream(&mut stream).map_err(|error| error.to_string())?;
        self.run(&["install", "-", "--json"], stream, COPY).await.map(drop)
    }

    /// Lets it use a release.
    pub async fn use_version(self, version: &ReleaseVersion) -> Result<(), String> {
        self.run(&["use", version.as_str(), "--json"], Vec::new(), ASK).await.map(drop)
    }

    /// Lets it go back.
    pub async fn roll_back(self) -> Result<Value, String> {
        let stdout = self.run(&["rollback", "--json"], Vec::new(), ASK).await?;
        serde_json::from_slice(&stdout).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}
