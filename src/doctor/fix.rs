//! What `--fix` mends: files of the system, each whole or not at all, with a copy of what was there, and nothing changed in
//! them but what is named; and the running kernel, where that can be told without a restart. Done twice it changes nothing
//! the second time.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use super::kernel::{DPHYS_FILE, DPHYS_SIZE, dphys_is_on, has_module, is_swap_line, sysctl_path};
use super::{Finding, Machine};

/// Something that can be mended without a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Words are added to the one line of the kernel's command line.
    BootWords {
        /// The file, without the leading `/`.
        file: &'static str,
        /// The words that are missing.
        words: Vec<&'static str>,
    },
    /// Modules are loaded, now and at each start.
    Modules(Vec<&'static str>),
    /// Kernel settings become 1, now and at each start.
    Sysctls(Vec<&'static str>),
    /// Swap is switched off, now and at each start.
    SwapOff {
        /// What is on: devices and files.
        active: Vec<String>,
    },
}

/// Ours alone, so that nobody's lines are touched.
const MODULES_FILE: &str = "etc/modules-load.d/beehive.conf";
/// Late in the order of names, so that it has the last word (sysctl.d(5)).
const SYSCTL_FILE: &str = "etc/sysctl.d/90-beehive.conf";
/// What an own file begins with.
const OURS: &str = "# written by `beehive doctor --fix`\n";
/// What stands before a line that is switched off.
const COMMENT: &str = "# beehive: ";
/// What is added to the name of a file for the copy of what it was before our first change.
const BACKUP: &str = ".before-beehive";

/// Whether anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: what would be done is told.
    DryRun,
    /// It is done.
    Apply,
}

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It would be made.
    Would,
    /// It is made.
    Done,
    /// It could not be made: why.
    Failed(String),
}

/// Whether a change holds only after the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reboot {
    /// It does.
    Needed,
    /// It holds now.
    NotNeeded,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What is changed, with the file and the words.
    pub what: String,
    /// What came of it.
    pub outcome: Outcome,
    /// When it holds.
    pub reboot: Reboot,
}

/// What a fix does to the running kernel that is no file.
pub trait Hands {
    /// Loads a module.
    ///
    /// # Errors
    /// What the program that does it says.
    fn load_module(&self, name: &str) -> io::Result<()>;

    /// Switches off the swap on a device or file.
    ///
    /// # Errors
    /// What the program that does it says.
    fn swap_off(&self, path: &str) -> io::Result<()>;
}

/// This machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealHands;

fn run(program: &str, argument: &str) -> io::Result<()> {
    let output = Command::new(program).arg("--").arg(argument).env_clear().stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {argument}: {}, {}", output.status, said.trim())))
}

impl Hands for RealHands {
    fn load_module(&self, name: &str) -> io::Result<()> {
        run("/sbin/modprobe", name)
    }

    fn swap_off(&self, path: &str) -> io::Result<()> {
        run("/sbin/swapoff", path)
    }
}

/// A step on the way to a change.
enum Step<'a> {
    /// A file gets this text.
    File { path: &'static str, text: String },
    /// The running kernel gets a setting.
    Setting { key: &'static str },
    /// The running kernel gets a module.
    Module { name: &'static str },
    /// Swap is switched off.
    Swap { path: &'a str },
}

/// A step, told.
struct Planned<'a> {
    what: String,
    step: Step<'a>,
    reboot: Reboot,
}

/// The text with `words` at the end of its first line, and every other byte as it was.
fn with_words(text: &str, words: &[&str]) -> String {
    let end = text.find(['\r', '\n']).unwrap_or(text.len());
    let (line, rest) = text.split_at(end);
    let line = line.trim_end_matches([' ', '\t']);
    let present: Vec<&str> = line.split_whitespace().collect();
    let mut out = line.to_owned();
    for word in words.iter().filter(|word| !present.contains(word)) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    // a blank at the line's end is nobody's word, but it is not ours to take away from a line that stays
    if out == line { text.to_owned() } else { out + rest }
}

/// The text with the lines that `off` names commented out, and every other byte as it was.
fn without(text: &str, off: impl Fn(&str) -> bool) -> String {
    text.split_inclusive('\n')
        .map(|line| if off(line) { format!("{COMMENT}{line}") } else { line.to_owned() })
        .collect()
}

/// dphys-swapfile's configuration with the size 0: without a size it would compute one.
fn without_dphys(text: &str) -> String {
    let sets = |line: &str| line.split_once('=').is_some_and(|(key, _)| key.trim() == DPHYS_SIZE);
    let mut out = without(text, sets);
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(&format!("{DPHYS_SIZE}=0\n"));
    out
}

/// An own file with `lines` added to what it has.
fn own_file(machine: &Machine, path: &str, lines: &[String]) -> String {
    let mut text = machine.text(path).unwrap_or_else(|| OURS.to_owned());
    for line in lines {
        if !text.lines().any(|known| known == line) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// All steps of all findings. Fixes of a kind are one, so that no file is written twice.
fn plan<'a>(machine: &Machine, findings: &'a [Finding]) -> Vec<Planned<'a>> {
    let mut planned = Vec::new();
    let (mut modules, mut settings): (Vec<&'static str>, Vec<&'static str>) = (Vec::new(), Vec::new());
    for fix in findings.iter().filter_map(|finding| finding.fix.as_ref()) {
        match fix {
            Fix::BootWords { file, words } => {
                let text = with_words(&machine.text(file).unwrap_or_default(), words);
                let what = format!("/{file}: add {} to its first line", words.join(" "));
                planned.push(Planned { what, step: Step::File { path: file, text }, reboot: Reboot::Needed });
            }
            Fix::Modules(names) => modules.extend(names),
            Fix::Sysctls(keys) => settings.extend(keys),
            Fix::SwapOff { active } => swap_off(machine, active, &mut planned),
        }
    }
    // a bridge's settings come with their module
    if settings.iter().any(|key| key.starts_with("net.bridge.")) && !modules.contains(&"br_netfilter") {
        modules.push("br_netfilter");
    }
    let mut now = |what: String, step| planned.push(Planned { what, step, reboot: Reboot::NotNeeded });
    if !modules.is_empty() {
        let lines: Vec<String> = modules.iter().map(|name| (*name).to_owned()).collect();
        let text = own_file(machine, MODULES_FILE, &lines);
        now(
            format!("/{MODULES_FILE}: load {} at each start", modules.join(", ")),
            Step::File { path: MODULES_FILE, text },
        );
        for name in modules {
            now(format!("load the module {name}"), Step::Module { name });
        }
    }
    if !settings.is_empty() {
        let lines: Vec<String> = settings.iter().map(|key| format!("{key} = 1")).collect();
        let text = own_file(machine, SYSCTL_FILE, &lines);
        now(format!("/{SYSCTL_FILE}: {}", lines.join(", ")), Step::File { path: SYSCTL_FILE, text });
        for key in settings {
            now(format!("set {key} to 1"), Step::Setting { key });
        }
    }
    planned
}

fn swap_off<'a>(machine: &Machine, active: &'a [String], planned: &mut Vec<Planned<'a>>) {
    let mut now = |what: String, step| planned.push(Planned { what, step, reboot: Reboot::NotNeeded });
    let fstab = machine.text("etc/fstab").unwrap_or_default();
    let text = without(&fstab, is_swap_line);
    if text != fstab {
        now("/etc/fstab: comment swap out".to_owned(), Step::File { path: "etc/fstab", text });
    }
    if dphys_is_on(machine) {
        let text = without_dphys(&machine.text(DPHYS_FILE).unwrap_or_default());
        now(format!("/{DPHYS_FILE}: {DPHYS_SIZE}=0"), Step::File { path: DPHYS_FILE, text });
    }
    for path in active {
        now(format!("switch swap on {path} off"), Step::Swap { path });
    }
}

/// Mends what can be mended, or tells what would be. A step that fails does not keep the others from being made.
pub fn apply(machine: &Machine, hands: &dyn Hands, findings: &[Finding], mode: Mode) -> Vec<Change> {
    plan(machine, findings)
        .into_iter()
        .filter(|planned| match &planned.step {
            // what is so already is no change
            Step::File { path, text } => machine.text(path).as_ref() != Some(text),
            Step::Setting { key } => machine.word(&sysctl_path(key)).as_deref() != Some("1"),
            Step::Module { name } => !has_module(machine, name),
            Step::Swap { .. } => true,
        })
        .map(|Planned { what, step, reboot }| {
            let outcome = match mode {
                Mode::DryRun => Outcome::Would,
                Mode::Apply => match perform(machine, hands, &step) {
                    Ok(()) => Outcome::Done,
                    Err(error) => Outcome::Failed(error.to_string()),
                },
            };
            Change { what, outcome, reboot }
        })
        .collect()
}

fn perform(machine: &Machine, hands: &dyn Hands, step: &Step<'_>) -> io::Result<()> {
    match step {
        Step::File { path, text } => replace(&machine.path(path), text),
        // the kernel's own file: there is nothing to put in its place
        Step::Setting { key } => {
            OpenOptions::new().write(true).truncate(true).open(machine.path(&sysctl_path(key)))?.write_all(b"1\n")
        }
        Step::Module { name } => hands.load_module(name),
        Step::Swap { path } => hands.swap_off(path),
    }
}

/// Puts a file with `text` in the place of the one at `path`, with its mode and owner, and keeps the first one that was there
/// as a copy. Each step is on the disk before the next one: after a power cut the old file is there or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let named = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        path.with_file_name(name)
    };
    let before = match path.symlink_metadata() {
        Ok(found) if found.file_type().is_file() => Some(found),
        Ok(_) => {
            // a rename would put a file in the place of a link that somebody made on purpose
            return Err(io::Error::other("it is a link or no plain file; change it by hand"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let write = |to: &Path, bytes: &[u8]| -> io::Result<()> {
        match fs::remove_file(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        file.write_all(bytes)?;
        let mode = before.as_ref().map_or(0o644, |found| found.mode() & 0o7777);
        // vfat has neither modes nor owners, and says so when the asked ones are others than its mount's
        let made = file.metadata()?;
        if made.mode() & 0o7777 != mode {
            let changed = file.set_permissions(fs::Permissions::from_mode(mode));
            changed
                .or_else(|error| if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) })?;
        }
        if let Some(found) = before.as_ref().filter(|found| (found.uid(), found.gid()) != (made.uid(), made.gid())) {
            std::os::unix::fs::chown(to, Some(found.uid()), Some(found.gid()))?;
        }
        file.sync_all()
    };
    let (beside, backup) = (named(".beehive-new"), named(BACKUP));
    if before.is_some() && backup.symlink_metadata().is_err() {
        // beside it first: half a copy must not pass for one
        write(&beside, &fs::read(path)?)?;
        fs::rename(&beside, &backup)?;
    }
    write(&beside, text.as_bytes())?;
    fs::rename(&beside, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::RefCell;

    use super::super::trees::{Answers, Tree};
    use super::super::{Subject, Wanted};
    use super::*;
    use beehive_mqtt::node::Role;

    /// Hands that write down what they did and let the tree show it.
    struct Recorded<'a> {
        tree: &'a Tree,
        did: RefCell<Vec<String>>,
    }

    impl Hands for Recorded<'_> {
        fn load_module(&self, name: &str) -> io::Result<()> {
            self.did.borrow_mut().push(format!("load {name}"));
            let loaded = self.tree.text("proc/modules");
            self.tree.put("proc/modules", &format!("{loaded}{name} 32768 0 - Live 0x0\n"));
            if name == "br_netfilter" {
                self.tree.put("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n");
            }
            Ok(())
        }

        fn swap_off(&self, path: &str) -> io::Result<()> {
            self.did.borrow_mut().push(format!("off {path}"));
            self.tree.put("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
            Ok(())
        }
    }

    fn fix(tree: &Tree, hands: &dyn Hands, mode: Mode) -> Vec<Change> {
        let subject = Subject::new(Role::Node, Wanted::Kubeadm, "v1.26.0");
        let findings = tree.examine(&Answers::default(), &subject);
        apply(&tree.machine(), hands, &findings, mode)
    }

    #[test]
    fn everything_safe_is_mended_once_and_then_nothing_is_left_to_do() {
        for tree in [Tree::bookworm(), Tree::bullseye(), Tree::hypriot(), Tree::debian()] {
            let hands = Recorded { tree: &tree, did: RefCell::default() };
            let before = tree.contents();
            let told = fix(&tree, &hands, Mode::DryRun);
            assert!(!told.is_empty() && told.iter().all(|change| change.outcome == Outcome::Would), "{told:?}");
            assert_eq!(tree.contents(), before, "a dry run changes nothing");
            assert!(hands.did.borrow().is_empty());
            let done = fix(&tree, &hands, Mode::Apply);
            assert!(done.iter().all(|change| change.outcome == Outcome::Done), "{done:?}");
            assert_eq!(
                done.iter().map(|change| &change.what).collect::<Vec<_>>(),
                told.iter().map(|change| &change.what).collect::<Vec<_>>()
            );
            let after = tree.contents();
            assert_eq!(fix(&tree, &hands, Mode::Apply), [], "the second time");
            assert_eq!(tree.contents(), after);
            let subject = Subject::new(Role::Node, Wanted::Kubeadm, "v1.26.0");
            let left = tree.examine(&Answers::default(), &subject);
            // the words are on the card, and hold from the next start on
            let fixable = left.iter().filter(|finding| finding.fix.is_some()).collect::<Vec<_>>();
            assert!(fixable.is_empty(), "{fixable:?}");
        }
    }

    #[test]
    fn nothing_else_in_a_file_is_changed_and_what_it_was_is_kept() {
        let tree = Tree::bullseye();
        let fstab = "proc /proc proc defaults 0 0\r\nUUID=1 none swap sw 0 0\n\n# end, without a line break\nUUID=2 / ext4 noatime 0 1";
        tree.put("etc/fstab", fstab);
        let (boot, dphys) = (tree.text("boot/cmdline.txt"), tree.text("etc/dphys-swapfile"));
        let hands = Recorded { tree: &tree, did: RefCell::default() };
        let done = fix(&tree, &hands, Mode::Apply);
        assert_eq!(*hands.did.borrow(), ["off /var/swap", "load overlay", "load br_netfilter"]);
        let reboot: Vec<_> = done.iter().filter(|change| change.reboot == Reboot::Needed).collect();
        assert!(reboot.len() == 1 && reboot[0].what.starts_with("/boot/cmdline.txt"), "{done:?}");
        assert_eq!(
            tree.text("boot/cmdline.txt"),
            format!("{} cgroup_memory=1 cgroup_enable=memory\n", boot.trim_end())
        );
        assert_eq!(tree.text("boot/cmdline.txt.before-beehive"), boot);
        assert_eq!(tree.text("etc/fstab"), fstab.replace("UUID=1 none", "# beehive: UUID=1 none"));
        assert_eq!(tree.text("etc/fstab.before-beehive"), fstab);
        assert_eq!(
            tree.text("etc/dphys-swapfile"),
            format!("{}CONF_SWAPSIZE=0\n", dphys.replace("CONF_SWAPSIZE=100", "# beehive: CONF_SWAPSIZE=100"))
        );
        assert_eq!(tree.text(MODULES_FILE), format!("{OURS}overlay\nbr_netfilter\n"));
        assert_eq!(
            tree.text(SYSCTL_FILE),
            format!("{OURS}net.ipv4.ip_forward = 1\nnet.bridge.bridge-nf-call-iptables = 1\n")
        );
        assert_eq!(tree.text("proc/sys/net/bridge/bridge-nf-call-iptables"), "1\n");
        let stray = tree.contents().into_keys().filter(|path| path.contains("beehive-new")).collect::<Vec<_>>();
        assert!(stray.is_empty(), "{stray:?}");
    }

    #[test]
    fn words_go_to_the_end_of_the_one_line() {
        for (before, after) in [
            ("a b\n", "a b x=1 y=2\n"),
            ("a b", "a b x=1 y=2"),
            ("a b  \r\nc\n", "a b x=1 y=2\r\nc\n"),
            ("a y=2\n", "a y=2 x=1\n"),
            ("x=1 a y=2 \n", "x=1 a y=2 \n"),
            ("", "x=1 y=2"),
        ] {
            let with = with_words(before, &["x=1", "y=2"]);
            assert_eq!(with, after, "{before:?}");
            assert_eq!(with_words(&with, &["x=1", "y=2"]), with);
        }
    }

    #[test]
    fn the_first_copy_is_kept_and_the_mode_stays() {
        let tree = Tree::debian();
        let path = tree.machine().path("etc/x");
        tree.put("etc/x", "one");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, "two").unwrap();
        replace(&path, "three").unwrap();
        assert_eq!((tree.text("etc/x").as_str(), tree.text("etc/x.before-beehive").as_str()), ("three", "one"));
        for file in ["etc/x", "etc/x.before-beehive"] {
            let mode = fs::metadata(tree.machine().path(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o640, "{file}");
        }
    }

    #[test]
    fn what_cannot_be_changed_is_told_and_the_rest_is_done() {
        let tree = Tree::bullseye();
        tree.put("elsewhere", &tree.text("boot/cmdline.txt"));
        tree.remove("boot/cmdline.txt");
        tree.link("boot/cmdline.txt", "../elsewhere");
        let hands = Recorded { tree: &tree, did: RefCell::default() };
        let done = fix(&tree, &hands, Mode::Apply);
        let failed: Vec<_> = done.iter().filter(|change| matches!(change.outcome, Outcome::Failed(_))).collect();
        assert!(failed.len() == 1 && failed[0].what.starts_with("/boot/cmdline.txt"), "{done:?}");
        assert!(done.len() > 4 && tree.machine().link("boot/cmdline.txt").is_some());
    }

    #[test]
    fn what_a_program_of_the_system_says_is_in_the_error() {
        let error = run("/bin/ls", "/no/such/place").unwrap_err().to_string();
        assert!(error.contains("/no/such/place") && error.contains("exit status"), "{error}");
        assert!(run("/no/such/program", "x").is_err());
    }
}
