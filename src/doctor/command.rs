//! `beehive doctor`: the checks on this machine, for people and for scripts, and `--fix`.

use std::fmt::Write as _;
use std::path::Path;

use beehive_mqtt::node::Role;
use serde_json::{Value, json};

use super::fix::{self, Change, Hands, Mode, Outcome, RealHands, Reboot};
use super::lines;
use super::{API_PORT, Finding, Machine, Patient, Probes, RealProbes, Remote, Severity, Subject, Wanted, examine};
use crate::cli::{DEFAULT_CONFIG, DoctorArgs};
use crate::config::Config;
use crate::console::ExitCode;
use crate::console::exit::Trouble;

/// The port of a registry unless another is named.
const REGISTRY_PORT: u16 = 443;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Look.
    Look,
    /// Look, and change or tell the changes.
    Mend(Mode),
}

/// What is said on standard output, and how the program ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// For people.
    pub text: String,
    /// For scripts.
    pub document: Value,
    /// 0 without an error, 5 with one, 1 if a change could not be made.
    pub code: ExitCode,
}

/// Carries `beehive doctor` out on this machine.
///
/// # Errors
/// If it is not clear what this Pi is meant to be, or root is needed.
pub fn run(args: &DoctorArgs) -> Result<Report, Trouble> {
    if args.shim_lines {
        return Ok(shim_lines(&Machine::here()));
    }
    let config = configuration(args.config.as_deref())?;
    let (subject, assumed) = subject(args, config.as_ref())?;
    let work = match (args.fix, args.dry_run) {
        (_, true) => Work::Mend(Mode::DryRun),
        (true, false) => Work::Mend(Mode::Apply),
        (false, false) => Work::Look,
    };
    if work == Work::Mend(Mode::Apply) && !rustix::process::geteuid().is_root() {
        return Err(Trouble::new(
            ExitCode::Failed,
            "nothing is mended",
            "only root may change the system's files",
            "sudo beehive doctor --fix; --dry-run shows what it would change",
        ));
    }
    Ok(report(&Machine::here(), &RealProbes, &RealHands, &subject, assumed, work))
}

/// Who else uses the SHIM's lines. The packages ask it when they are installed.
fn shim_lines(machine: &Machine) -> Report {
    let users = lines::other_users(machine);
    let code = if users.is_empty() { ExitCode::Done } else { ExitCode::Refused };
    let text = match users.as_slice() {
        [] => "nobody else is configured to use BCM4 or BCM17\n".to_owned(),
        users => users.iter().fold(String::new(), |mut text, user| {
            let _ = writeln!(text, "WARNING: {user}\n  beehive does not cut the power beside it. {}", user.remedy);
            text
        }),
    };
    let users = users.iter().map(|user| json!({ "line": user.line, "user": user.who, "remedy": user.remedy }));
    let document = json!({ "format": 1, "shim_lines": users.collect::<Vec<_>>(), "result": code.word() });
    Report { text, document, code }
}

/// The configuration that is named, or the usual one where it is there.
fn configuration(named: Option<&Path>) -> Result<Option<Config>, Trouble> {
    let path = match named {
        Some(path) => path,
        None if Path::new(DEFAULT_CONFIG).exists() => Path::new(DEFAULT_CONFIG),
        None => return Ok(None),
    };
    Config::load(path).map(Some).map_err(|error| {
        Trouble::new(ExitCode::Usage, error.to_string(), "", "correct it, or name another one with --config")
    })
}

/// Whether the engine was named by anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assumed {
    /// It was.
    No,
    /// It is the default: nobody named one, or only the simulated one.
    Yes,
}

fn subject(args: &DoctorArgs, config: Option<&Config>) -> Result<(Subject, Assumed), Trouble> {
    let Some(role) = args.role.map(Into::into).or(config.map(|config| config.role)) else {
        return Err(Trouble::new(
            ExitCode::Usage,
            "what this Pi is meant to be is not known",
            format!("there is no configuration ({DEFAULT_CONFIG}), and no --role"),
            "add --role master or --role node",
        ));
    };
    let configured = config.and_then(|config| Wanted::of_kind(config.engine.kind.as_str()));
    let (engine, assumed) = match args.engine.map(Wanted::from).or(configured) {
        Some(engine) => (engine, Assumed::No),
        None => (Wanted::K3s, Assumed::Yes),
    };
    let configured = config.map_or("", |config| config.engine.version.as_str());
    let mut subject = Subject::new(role, engine, args.version.version.as_deref().unwrap_or(configured));
    if let Some(config) = config {
        subject.node = Some(config.node.as_str().to_owned());
        subject.state_dir.clone_from(&config.state_dir);
    }
    let remote = |text: &Option<String>, option: &str, port| match text {
        None => Ok(None),
        Some(text) => Remote::parse(text, port)
            .map(Some)
            .map_err(|why| Trouble::new(ExitCode::Usage, format!("{option} cannot be used: {why}"), "", "correct it")),
    };
    subject.server = remote(&args.server, "--server", API_PORT)?;
    subject.registry = remote(&args.registry, "--registry", REGISTRY_PORT)?;
    Ok((subject, assumed))
}

fn report(
    machine: &Machine,
    probes: &dyn Probes,
    hands: &dyn Hands,
    subject: &Subject,
    assumed: Assumed,
    work: Work,
) -> Report {
    let look = || examine(&Patient { machine, probes, subject });
    let mut findings = look();
    let changes = match work {
        Work::Look => Vec::new(),
        Work::Mend(mode) => {
            // a note needs nothing to be done
            let bad: Vec<Finding> = findings.iter().filter(|f| f.severity > Severity::Note).cloned().collect();
            let changes = fix::apply(machine, hands, &bad, mode);
            if mode == Mode::Apply && !changes.is_empty() {
                findings = look();
            }
            changes
        }
    };
    let failed = changes.iter().any(|change| matches!(change.outcome, Outcome::Failed(_)));
    let worst = findings.iter().map(|finding| finding.severity).max();
    let code = match worst {
        _ if failed => ExitCode::Failed,
        Some(Severity::Error) => ExitCode::Refused,
        Some(Severity::Warning | Severity::Note) | None => ExitCode::Done,
    };
    let document = document(subject, assumed, &findings, &changes, code);
    Report { text: text(subject, assumed, &findings, &changes, work), document, code }
}

fn restart_needed(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.reboot == Reboot::Needed && !matches!(change.outcome, Outcome::Failed(_)))
}

fn document(subject: &Subject, assumed: Assumed, findings: &[Finding], changes: &[Change], code: ExitCode) -> Value {
    let findings: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "severity": finding.severity, "id": finding.id, "evidence": finding.evidence,
                "remedy": finding.remedy, "fixable": finding.fix.is_some(),
            })
        })
        .collect();
    json!({
        "format": 1,
        "role": subject.role,
        "engine": subject.engine.as_str(),
        "engine_assumed": assumed == Assumed::Yes,
        "version": subject.version.map(|version| version.to_string()),
        "node": subject.node,
        "findings": findings,
        "changes": changes,
        "restart_needed": restart_needed(changes),
        "result": code.word(),
    })
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Node => "node",
    }
}

fn text(subject: &Subject, assumed: Assumed, findings: &[Finding], changes: &[Change], work: Work) -> String {
    let mut text = format!("as a {} with {}", word(subject.role), subject.engine.as_str());
    if let Some(version) = subject.version {
        let _ = write!(text, " {version}");
    }
    text.push_str(match assumed {
        Assumed::Yes => " (assumed; --engine names another)\n",
        Assumed::No => "\n",
    });
    for Change { what, outcome, .. } in changes {
        let _ = match outcome {
            Outcome::Would => writeln!(text, "would change  {what}"),
            Outcome::Done => writeln!(text, "changed       {what}"),
            Outcome::Failed(why) => writeln!(text, "NOT CHANGED   {what}: {why}"),
        };
    }
    match work {
        Work::Look => {}
        Work::Mend(_) if changes.is_empty() => text.push_str("nothing that could be mended without a person\n"),
        Work::Mend(_) => {}
    }
    for finding in findings {
        let Finding { severity, id, evidence, remedy, fix } = finding;
        let mendable = match (fix, work) {
            (Some(_), Work::Look) if *severity > Severity::Note => " (--fix does it)",
            (Some(_) | None, Work::Look | Work::Mend(_)) => "",
        };
        let _ = writeln!(text, "{:<8} {id}: {evidence}\n         what to do: {remedy}{mendable}", severity.as_str());
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = writeln!(
        text,
        "errors: {}, warnings: {}, notes: {}{}",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note),
        if count(Severity::Error) > 0 { "; a cluster is neither made nor joined here" } else { "" }
    );
    if restart_needed(changes) {
        text.push_str(match work {
            Work::Mend(Mode::DryRun) => "a restart would be needed\n",
            Work::Look | Work::Mend(Mode::Apply) => "RESTART this Pi: not all of it holds before\n",
        });
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;

    use super::super::trees::{Answers, Tree};
    use super::*;
    use clap::Parser as _;

    struct Idle;

    impl Hands for Idle {
        fn load_module(&self, name: &str) -> io::Result<()> {
            Err(io::Error::other(format!("no {name} here")))
        }

        fn swap_off(&self, _: &str) -> io::Result<()> {
            Ok(())
        }
    }

    fn doctor(line: &[&str]) -> DoctorArgs {
        let line = ["beehive", "doctor"].iter().chain(line);
        match crate::cli::Cli::try_parse_from(line).unwrap().command {
            crate::cli::Command::Doctor(args) => args,
            _ => unreachable!(),
        }
    }

    #[test]
    fn role_and_engine_come_from_the_configuration_and_the_command_line_has_the_last_word() {
        let toml = "crew = \"bee\"\nnode = \"bee-2\"\nrole = \"node\"\nstate_dir = \"/srv/bee\"\n[engine]\nversion = \"v1.31.4+k3s1\"\n";
        let config = Config::parse(toml, "test").unwrap();
        let (subject_, assumed) = subject(&doctor(&[]), Some(&config)).unwrap();
        assert_eq!((subject_.role, subject_.engine, assumed), (Role::Node, Wanted::K3s, Assumed::Yes));
        assert_eq!((subject_.node.as_deref(), subject_.state_dir.to_str()), (Some("bee-2"), Some("/srv/bee")));
        assert_eq!(subject_.version.unwrap().to_string(), "1.31");
        let line = ["--role", "master", "--engine", "kubeadm", "--engine-version", "v1.26.1", "--server", "a:1"];
        let (subject_, assumed) = subject(&doctor(&line), Some(&config)).unwrap();
        assert_eq!((subject_.role, subject_.engine, assumed), (Role::Master, Wanted::Kubeadm, Assumed::No));
        assert_eq!(subject_.version.unwrap().to_string(), "1.26");
        assert_eq!(subject_.server.unwrap().to_string(), "a:1");
        let trouble = subject(&doctor(&[]), None).unwrap_err();
        assert!(trouble.exit == ExitCode::Usage && trouble.fix.contains("--role"), "{trouble}");
        let trouble = subject(&doctor(&["--role", "node", "--server", "https://a"]), None).unwrap_err();
        assert!(trouble.exit == ExitCode::Usage && trouble.what.contains("--server"), "{trouble}");
    }

    fn told(tree: &Tree, engine: Wanted, work: Work) -> Report {
        let subject = Subject::new(Role::Node, engine, "v1.26.0");
        report(&tree.machine(), &Answers::default(), &Idle, &subject, Assumed::No, work)
    }

    #[test]
    fn the_exit_code_is_of_the_worst_and_the_document_has_all() {
        let report = told(&Tree::bookworm(), Wanted::K3s, Work::Look);
        assert_eq!(report.code, ExitCode::Refused);
        assert!(
            report.text.contains("error    memory-cgroup: ") && report.text.contains("(--fix does it)"),
            "{}",
            report.text
        );
        assert_eq!(report.document["result"], "refused");
        assert_eq!(report.document["role"], "node");
        let first = &report.document["findings"][0];
        assert_eq!(
            (&first["severity"], &first["id"], &first["fixable"]),
            (&json!("error"), &json!("memory-cgroup"), &json!(true))
        );
        let ready = told(&Tree::debian(), Wanted::K3s, Work::Look);
        assert_eq!((ready.code, &ready.document["restart_needed"]), (ExitCode::Done, &json!(false)));
        assert!(ready.text.ends_with("errors: 0, warnings: 1, notes: 4\n"), "{}", ready.text);
    }

    #[test]
    fn other_users_of_the_shims_lines_refuse_and_are_named() {
        let nobody = shim_lines(&Tree::bookworm().machine());
        assert_eq!((nobody.code, &nobody.document["shim_lines"]), (ExitCode::Done, &json!([])));
        let tree = Tree::bookworm();
        tree.put("boot/firmware/config.txt", "dtoverlay=w1-gpio\n");
        let somebody = shim_lines(&tree.machine());
        assert_eq!((somebody.code, &somebody.document["shim_lines"][0]["line"]), (ExitCode::Refused, &json!(4)));
        assert!(somebody.text.starts_with("WARNING: BCM4 has another user: /boot/firmware/config.txt, line 1"));
    }

    #[test]
    fn notes_are_left_alone_and_a_change_that_fails_is_a_failure() {
        let tree = Tree::bookworm();
        let dry = told(&tree, Wanted::K3s, Work::Mend(Mode::DryRun));
        assert!(dry.text.contains("would change  /boot/firmware/cmdline.txt"), "{}", dry.text);
        assert!(
            !dry.text.contains("would change  /etc/modules-load") && dry.text.ends_with("a restart would be needed\n"),
            "{}",
            dry.text
        );
        let done = told(&tree, Wanted::K3s, Work::Mend(Mode::Apply));
        assert_eq!((done.code, &done.document["restart_needed"]), (ExitCode::Refused, &json!(true)));
        assert!(done.text.contains("what to do: restart this Pi"), "{}", done.text);
        let failed = told(&tree, Wanted::Kubeadm, Work::Mend(Mode::Apply));
        assert_eq!(failed.code, ExitCode::Failed);
        assert!(failed.text.contains("NOT CHANGED   load the module overlay: no overlay here"), "{}", failed.text);
        let again = told(&tree, Wanted::K3s, Work::Mend(Mode::DryRun));
        assert!(again.text.contains("would change  switch swap"), "it is still on in this test: {}", again.text);
    }
}
