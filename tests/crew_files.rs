//! Crew files from end to end: the program itself, with a folder of its own instead of the user's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use beehive::config::{Config, EngineKind};
use beehive::crew::file::{CREW_FILE, CrewFile};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An operator's machine.
struct Machine {
    home: tempfile::TempDir,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Machine {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn crew(&self, name: &str) -> PathBuf {
        self.home.path().join("beehive/crews").join(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beehive"));
        for variable in ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_USER", "BEEHIVE_IDENTITY", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.env("XDG_CONFIG_HOME", self.home.path()).env("USER", "ann").args(args);
        command
    }

    fn beehive(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }

    #[track_caller]
    fn does(&self, args: &[&str]) -> String {
        let Said { code, out, err } = self.beehive(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out
    }

    #[track_caller]
    fn refuses(&self, args: &[&str]) -> String {
        let Said { code, out, err } = self.beehive(args);
        assert_ne!(code, 0, "{args:?}: {out}");
        err
    }
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Every file below `folder` with what is in it.
fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn one_command_makes_a_crew_and_its_file_makes_each_pis_configuration() {
    let machine = Machine::new();
    let said = machine.does(&["crew", "init", "bee42-crew-01"]);
    assert!(said.contains("crew.toml describes the crew"), "{said}");
    let folder = machine.crew("bee42-crew-01");
    for made in
        ["crew.key", "manifest.json", "ca.crt", "nodes/bee42-crew-01-003/tls.crt", "operators/ann/identity.toml"]
    {
        assert!(folder.join(made).exists(), "{made}");
    }
    let file = CrewFile::load(&folder.join(CREW_FILE)).unwrap();
    assert_eq!((file.nodes.len(), file.engine.kind, file.operators[0].as_str()), (3, EngineKind::K3s, "ann"));

    let card = machine.path("card");
    for (node, others) in [("bee42-crew-01-001", Some(2)), ("bee42-crew-01-002", None)] {
        let text = machine.does(&["crew", "config", node]);
        let out = card.join(node);
        machine.does(&["crew", "config", node, "--out", out.to_str().unwrap()]);
        let written = out.join("beehive.toml");
        assert_eq!(fs::read_to_string(&written).unwrap(), text);
        machine.does(&["config", "check", written.to_str().unwrap()]);
        let config = Config::load(&written).unwrap();
        assert_eq!((config.node.as_str(), config.cluster.map(|cluster| cluster.nodes.len())), (node, others));
        let again = machine.refuses(&["crew", "config", node, "--out", out.to_str().unwrap()]);
        assert!(again.contains("there already"), "{again}");
    }
    let unknown = machine.refuses(&["crew", "config", "pi-9"]);
    assert!(unknown.contains("there is no node pi-9") && unknown.contains("bee42-crew-01-003"), "{unknown}");

    let before = tree(&folder);
    let again = machine.refuses(&["crew", "init", "bee42-crew-01"]);
    assert!(again.contains("nothing was changed"), "{again}");
    assert_eq!(tree(&folder), before);
}

#[test]
fn the_command_line_says_what_the_file_says() {
    let machine = Machine::new();
    let args = ["crew", "init", "bee", "--nodes", "2", "--engine", "kubeadm", "--engine-version", "v1.26.15"];
    machine.does(&[&args[..], &["--domain", "local", "--operator", "bob"]].concat());
    let file = CrewFile::load(&machine.crew("bee").join(CREW_FILE)).unwrap();
    assert_eq!(
        (file.nodes.len(), file.engine.kind, file.engine.version.as_str()),
        (2, EngineKind::Kubeadm, "v1.26.15")
    );
    assert_eq!(
        (file.operators[0].as_str(), file.console_broker().to_string().as_str()),
        ("bob", "tls://bee-001.local:8883")
    );
    let long = machine.refuses(&["crew", "init", "wasp", "--engine-version", "latest"]);
    assert!(long.contains("version in [engine] is \"latest\""), "{long}");
    assert!(!machine.crew("wasp").exists(), "what is not valid makes no keys");
    let both = machine.refuses(&["crew", "init", "wasp", "--nodes", "2", "--node", "pi-1"]);
    assert!(both.contains("cannot be used with"), "{both}");
}

#[test]
fn the_file_keeps_up_with_the_manifest() {
    let machine = Machine::new();
    machine.does(&["crew", "init", "bee", "--node", "pi-1"]);
    let said = machine.does(&["crew", "add-node", "pi-2"]);
    assert!(said.contains("add a [[node]] with name = \"pi-2\""), "{said}");
    let path = machine.crew("bee").join(CREW_FILE);
    let text = fs::read_to_string(&path).unwrap() + "\n[[node]]\nname = \"pi-2\"\n";
    fs::write(&path, text).unwrap();
    let said = machine.does(&["crew", "grant-coordinator", "pi-2", "--crew", "bee"]);
    assert!(said.contains("pi-2 coordinates"), "{said}");
}

#[test]
fn several_crews_stand_side_by_side_and_the_console_finds_the_broker() {
    let machine = Machine::new();
    let none = machine.refuses(&["status"]);
    assert!(none.contains("which crew?"), "{none}");
    assert!(machine.does(&["crew", "list"]).contains("crew init NAME"));
    for crew in ["bee", "wasp"] {
        machine.does(&["crew", "init", crew, "--nodes", "1"]);
        // nobody listens there
        let path = machine.crew(crew).join(CREW_FILE);
        let text = fs::read_to_string(&path).unwrap();
        let port = if crew == "bee" { "1" } else { "2" };
        let text = text
            .replace(&format!("# host = \"{crew}-001\""), "host = \"127.0.0.1\"")
            .replace("# port = 8883", &format!("port = {port}"));
        fs::write(&path, text).unwrap();
    }
    let status = |more: &[&str], variables: &[(&str, &str)]| {
        let mut command = machine.command(&[&["status", "--timeout", "1"][..], more].concat());
        said(command.envs(variables.iter().copied()).output().unwrap()).err
    };
    let undecided = status(&[], &[]);
    assert!(undecided.contains("which crew?"), "{undecided}");
    let broker = |text: &str, broker: &str| assert!(text.contains(&format!("broker at {broker} ")), "{broker}: {text}");
    broker(&status(&["--crew", "wasp"], &[]), "tls://127.0.0.1:2");
    machine.does(&["crew", "use", "bee"]);
    let list = machine.does(&["crew", "list"]);
    assert!(list.contains("* bee   1 node, k3s, broker tls://127.0.0.1:1\n  wasp  1 node"), "{list}");
    broker(&status(&[], &[]), "tls://127.0.0.1:1");
    broker(&status(&[], &[("BEEHIVE_CREW", "wasp")]), "tls://127.0.0.1:2");
    broker(&status(&["--crew", "bee"], &[("BEEHIVE_CREW", "wasp")]), "tls://127.0.0.1:1");
    broker(&status(&[], &[("BEEHIVE_BROKER", "tls://127.0.0.1:3")]), "tls://127.0.0.1:3");
    broker(&status(&["--broker", "127.0.0.1:4"], &[("BEEHIVE_BROKER", "tls://127.0.0.1:3")]), "127.0.0.1:4");
    let unknown = machine.refuses(&["crew", "use", "hornet"]);
    assert!(unknown.contains("there are bee, wasp"), "{unknown}");

    // a file that is not valid is told with its line, and is nothing to who gives the broker
    fs::write(machine.crew("bee").join(CREW_FILE), "crew = \"bee\"\nnods = 1\n").unwrap();
    let wrong = machine.beehive(&["status"]);
    assert!(wrong.code == 2 && wrong.err.contains("crew.toml:2:1: unknown key `nods`"), "{}", wrong.err);
    broker(&status(&["--broker", "127.0.0.1:4"], &[]), "127.0.0.1:4");
    assert!(machine.does(&["crew", "list"]).contains("crew.toml is not valid"));
}

#[test]
fn an_inventory_becomes_a_crew_with_keys_and_goes_back() {
    let machine = Machine::new();
    let inventory = machine.path("inventory.ini");
    let text = "[crew-master]\nbee-001 ansible_host=10.0.0.7\n[crew-nodes]\nbee-[002:004]\n[bee:children]\ncrew-master\n\
                crew-nodes\n[bee:vars]\nansible_ssh_pass=hunter2\nbeehive_engine_kind=k3s\nbeehive_operators=[\"cleo\"]\n";
    fs::write(&inventory, text).unwrap();
    let inventory = inventory.to_str().unwrap();
    let said = machine.does(&["crew", "import", inventory]);
    assert!(
        said.contains("crew bee, 4 nodes") && said.contains("Left out") && said.contains("ansible_ssh_pass"),
        "{said}"
    );
    let again = machine.refuses(&["crew", "import", inventory]);
    assert!(again.contains("nothing is overwritten"), "{again}");
    let other = machine.refuses(&["crew", "init", "bee", "--nodes", "9"]);
    assert!(other.contains("leave --node, --nodes"), "{other}");
    machine.does(&["crew", "init", "bee"]);
    assert!(machine.crew("bee").join("nodes/bee-004/identity.toml").exists());
    assert!(machine.crew("bee").join("operators/cleo").exists());

    let exported = machine.does(&["crew", "export", "--format", "ansible"]);
    for line in ["bee-001 ansible_host=10.0.0.7", "beehive_engine_kind=\"k3s\"", "[bee:children]"] {
        assert!(exported.lines().any(|other| other == line), "{line}: {exported}");
    }
    let key = fs::read_to_string(machine.crew("bee").join("crew.key")).unwrap();
    let file = fs::read_to_string(machine.crew("bee").join(CREW_FILE)).unwrap();
    for text in [&exported, &file, &said] {
        assert!(!text.contains("hunter2") && !text.contains(key.trim()) && !text.contains("PRIVATE"));
    }
    let out = machine.path("out.ini");
    machine.does(&["crew", "export", "--format", "ansible", "--out", out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&out).unwrap(), exported);
    let copy = machine.path("copy.toml");
    machine.does(&["crew", "import", out.to_str().unwrap(), "--out", copy.to_str().unwrap()]);
    assert_eq!(CrewFile::load(&copy).unwrap(), CrewFile::load(&machine.crew("bee").join(CREW_FILE)).unwrap());

    fs::write(machine.path("bad.ini"), "[crew-master]\npi-1\n[crew-nodes]\npi-[2:\n").unwrap();
    let wrong = machine.refuses(&["crew", "import", machine.path("bad.ini").to_str().unwrap()]);
    assert!(wrong.contains("bad.ini:4:1: ") && wrong.contains("write a range"), "{wrong}");
}
