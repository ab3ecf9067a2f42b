//! Confirmation of what destroys: the operator types the name of what is at stake. Without a terminal nobody is asked;
//! the command ends and says that `--yes` is the way for scripts.

use std::io::{self, BufRead, IsTerminal, Write};

use super::exit::{ExitCode, Trouble};

/// Whether somebody sits at the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attended {
    /// There is a terminal to ask and be answered on.
    Yes,
    /// There is none: a script, a pipe, a timer.
    No,
}

/// Whether `--yes` was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Beforehand, on the command line.
    Given,
    /// Not yet.
    Ask,
}

/// The way to the person at the terminal.
pub trait Terminal {
    /// Whether there is one.
    fn attended(&self) -> Attended;

    /// Shows `prompt` and reads one line.
    ///
    /// # Errors
    /// If the terminal cannot be written or read.
    fn ask(&mut self, prompt: &str) -> io::Result<String>;
}

/// The program's own terminal: the question on standard error, so that it is never mixed into the data.
#[derive(Debug, Default)]
pub struct OwnTerminal;

impl Terminal for OwnTerminal {
    fn attended(&self) -> Attended {
        if io::stdin().is_terminal() && io::stderr().is_terminal() { Attended::Yes } else { Attended::No }
    }

    fn ask(&mut self, prompt: &str) -> io::Result<String> {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{prompt}")?;
        stderr.flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    }
}

/// Asks for the name of what is at stake, unless consent was given.
///
/// # Errors
/// Without a terminal ([`ExitCode::Usage`]), and when another name is typed ([`ExitCode::Failed`]). Nothing has been
/// done then.
pub fn confirm(terminal: &mut dyn Terminal, consent: Consent, effect: &str, name: &str) -> Result<(), Trouble> {
    match (consent, terminal.attended()) {
        (Consent::Given, _) => return Ok(()),
        (Consent::Ask, Attended::No) => {
            return Err(Trouble::new(
                ExitCode::Usage,
                format!("not done: this {effect}"),
                "it needs a confirmation, and there is no terminal to ask on",
                "run it in a terminal, or add --yes",
            )
            .with_code("confirmation"));
        }
        (Consent::Ask, Attended::Yes) => {}
    }
    let typed = terminal.ask(&format!("This {effect}.\nType {name} to go on: ")).map_err(|error| {
        Trouble::new(
            ExitCode::Failed,
            "not done: the terminal could not be read",
            error.to_string(),
            "run it in another terminal, or add --yes",
        )
        .with_code("confirmation")
    })?;
    if typed.trim() == name {
        return Ok(());
    }
    Err(Trouble::new(
        ExitCode::Failed,
        "not done: it was not confirmed",
        format!("{:?} was typed, {name} is wanted", typed.trim()),
        "run it again and type the name as it stands there",
    )
    .with_code("confirmation"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted {
        attended: Attended,
        answer: Option<&'static str>,
        prompts: Vec<String>,
    }

    impl Scripted {
        fn new(attended: Attended, answer: Option<&'static str>) -> Self {
            Self { attended, answer, prompts: Vec::new() }
        }
    }

    impl Terminal for Scripted {
        fn attended(&self) -> Attended {
            self.attended
        }

        fn ask(&mut self, prompt: &str) -> io::Result<String> {
            self.prompts.push(prompt.to_owned());
            self.answer.map(str::to_owned).ok_or_else(|| io::Error::other("gone"))
        }
    }

    const EFFECT: &str = "tears the cluster of crew bee down";

    #[test]
    fn the_exact_name_is_wanted() {
        let mut terminal = Scripted::new(Attended::Yes, Some("bee\n"));
        assert_eq!(confirm(&mut terminal, Consent::Ask, EFFECT, "bee"), Ok(()));
        assert_eq!(terminal.prompts, ["This tears the cluster of crew bee down.\nType bee to go on: "]);
        for answer in ["y\n", "yes\n", "\n", "", "BEE\n", "bees\n"] {
            let mut terminal = Scripted::new(Attended::Yes, Some(answer));
            let trouble = confirm(&mut terminal, Consent::Ask, EFFECT, "bee").unwrap_err();
            assert_eq!(trouble.exit, ExitCode::Failed, "{answer:?}");
        }
    }

    #[test]
    fn without_a_terminal_nobody_is_asked() {
        let mut terminal = Scripted::new(Attended::No, Some("bee\n"));
        let trouble = confirm(&mut terminal, Consent::Ask, EFFECT, "bee").unwrap_err();
        assert_eq!(trouble.exit, ExitCode::Usage);
        assert!(trouble.fix.contains("--yes"));
        assert!(terminal.prompts.is_empty());
    }

    #[test]
    fn consent_on_the_command_line_asks_nobody() {
        for attended in [Attended::Yes, Attended::No] {
            let mut terminal = Scripted::new(attended, None);
            assert_eq!(confirm(&mut terminal, Consent::Given, EFFECT, "bee"), Ok(()));
            assert!(terminal.prompts.is_empty());
        }
    }

    #[test]
    fn a_terminal_that_breaks_confirms_nothing() {
        let mut terminal = Scripted::new(Attended::Yes, None);
        let trouble = confirm(&mut terminal, Consent::Ask, EFFECT, "bee").unwrap_err();
        assert!(trouble.why.contains("gone"));
    }
}
