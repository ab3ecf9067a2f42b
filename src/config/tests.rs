use super::*;

const HOST: &str = "bee42-crew-01-002";
const NODE: &str = "crew = \"bee42-crew-01\"\nrole = \"node\"\n";
const MASTER: &str = "crew = \"bee42-crew-01\"\nrole = \"master\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse_on(text, "b.toml", HOST)
}

/// The whole text of the error, with `head` before the lines of `rest`.
#[track_caller]
fn refused(head: &str, rest: &str, expected: &[&str]) {
    let error = parse(&format!("{head}{rest}")).unwrap_err();
    assert_eq!(error.to_string().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_shortest_node_gets_the_defaults() {
    let config = parse(NODE).unwrap();
    assert_eq!(config.node.as_str(), HOST);
    assert_eq!(
        config,
        Config {
            crew: "bee42-crew-01".parse().unwrap(),
            node: HOST.parse().unwrap(),
            role: Role::Node,
            state_dir: "/var/lib/beehive".into(),
            run_dir: "/run/beehive".into(),
            broker: BrokerConfig {
                host: "127.0.0.1".to_owned(),
                port: 1883,
                tls: TlsSwitch::Off,
                insecure_test_broker: false
            },
            keys: KeysConfig { dir: "/etc/beehive/identity".into() },
            engine: EngineConfig {
                kind: EngineKind::Simulated,
                step_ms: 0,
                step_program: None,
                version: Text::new(),
                daemon_user: "beehive".to_owned(),
                settings: EngineSettings::default(),
            },
            pins: PinsConfig {
                backend: PinBackend::CharacterDevice,
                chips: vec!["pinctrl-bcm2835".to_owned(), "pinctrl-bcm2711".to_owned()],
                button: Switch::Auto,
            },
            poe_hat: PoeHatConfig { bus: HatBus::Auto, poll_ms: 1000 },
            feed: None,
            leds: Switch::Auto,
            button: Thresholds::default(),
            power: Deadlines::default(),
            cluster: None,
        }
    );
    assert_eq!(config.broker_trust(), BrokerTrust::Loopback);
    assert_eq!(config.destruction(), Destruction::Allowed);
}

#[test]
fn everything_can_be_set() {
    let config = parse(
        r#"
crew = "c1"
node = "c1-001"
role = "master"
state_dir = "/srv/state"
run_dir = "/tmp/run"
feed = "poe"
leds = "off"
[broker]
host = "10.0.0.7"
port = 1884
insecure_test_broker = true
[engine]
kind = "simulated"
step_ms = 250
step_program = "/opt/step"
version = "v1.30.2"
[pins]
backend = "rppal"
chips = ["gpio-sim"]
button = "off"
[poe_hat]
bus = "/dev/i2c-1"
poll_ms = 500
[button]
hold_ms = 4000
[power]
grace_ms = 2000
[cluster]
nodes = ["c1-001", "c1-002", "c1-003"]
max_unavailable = 2
max_parallel = 3
server = "10.0.0.7"
"#,
    )
    .unwrap();
    assert_eq!(config.role, Role::Master);
    assert_eq!(config.feed, Some(Feed::Poe));
    assert_eq!(config.leds, Switch::Off);
    assert_eq!(config.broker_trust(), BrokerTrust::InsecureTest);
    assert_eq!(config.engine.step_ms, 250);
    assert_eq!(config.engine.step_program, Some("/opt/step".into()));
    assert_eq!(config.engine.version.as_str(), "v1.30.2");
    assert_eq!(config.pins.backend, PinBackend::Rppal);
    assert_eq!(config.poe_hat, PoeHatConfig { bus: HatBus::Path("/dev/i2c-1".into()), poll_ms: 500 });
    assert_eq!((config.button.hold_ms, config.button.debounce_ms), (4000, Thresholds::default().debounce_ms));
    assert_eq!((config.power.grace_ms, config.power.stop_ms), (2000, Deadlines::default().stop_ms));
    let coordinator = config.coordinator();
    assert_eq!((coordinator.drain_ms, coordinator.max_parallel), (u64::from(config.power.prepare_ms), 3));
    assert_eq!((&coordinator.master, coordinator.expected.len()), (&config.node, 2));
    let cluster = config.cluster.unwrap();
    // the master is a member anyway
    assert_eq!(cluster.nodes, ["c1-002".parse().unwrap(), "c1-003".parse().unwrap()]);
    assert_eq!((cluster.max_unavailable, cluster.max_parallel, cluster.server.as_str()), (2, 3, "10.0.0.7"));
}

#[test]
fn what_is_missing_is_named() {
    refused(
        "",
        "",
        &[
            "b.toml:1:1: crew is missing",
            "  add the crew's name at the top, such as crew = \"bee42-crew-01\"",
            "b.toml:1:1: role is missing",
            "  add role = \"master\" on the Pi that runs the coordinator, role = \"node\" on the others",
        ],
    );
    refused(
        MASTER,
        "",
        &[
            "b.toml:2:8: the role is \"master\", but there is no section [cluster]",
            "  add [cluster] with nodes = [\"bee42-crew-01-002\", …], the nodes beside the master",
        ],
    );
    assert_eq!(
        Config::parse_on(NODE, "b.toml", "Raspberry").unwrap_err().to_string(),
        "b.toml:1:1: node is missing, and this host's name cannot stand in: \"Raspberry\" contains 'R'; only a-z, 0-9 and \
         '-' are allowed\n  add this Pi's name at the top, such as node = \"bee42-crew-01-001\", or rename the host"
    );
}

#[test]
fn unknown_keys_are_refused_in_every_section() {
    refused(
        NODE,
        "[broker]\nhots = \"x\"",
        &[
            "b.toml:4:1: unknown key `hots`, expected one of `host`, `port`, `tls`, `insecure_test_broker`",
            "  correct its name, or move it to the section that it belongs to; `beehive config example` prints all keys",
        ],
    );
    for section in ["", "[broker]", "[engine]", "[pins]", "[poe_hat]", "[button]", "[power]", "[cluster]"] {
        let error = parse(&format!("{MASTER}{section}\n  unheard_of = 1")).unwrap_err();
        assert_eq!(error.problems[0].at, Some((4, 3)), "{error}");
        assert!(error.problems[0].message.starts_with("unknown key `unheard_of`, expected "), "{error}");
    }
    assert_eq!(parse(&format!("{NODE}[brokr]")).unwrap_err().problems[0].at, Some((3, 2)));
}

#[test]
fn no_toml_and_wrong_types() {
    let hint = "  correct it; `beehive config example` prints every key with a value of the right type";
    refused(NODE, "[broker\nport = 1", &["b.toml:3:8: unclosed table, expected `]`", hint]);
    refused(NODE, "crew = \"x\"", &["b.toml:3:1: duplicate key", hint]);
    refused(NODE, "node = 5", &["b.toml:3:8: invalid type: integer `5`, expected a string", hint]);
    refused(
        NODE,
        "[broker]\nport = 99999",
        &["b.toml:4:8: invalid value: integer `99999`, expected a whole number from 0 to 65535", hint],
    );
    refused(
        NODE,
        "[engine]\nstep_ms = -1",
        &["b.toml:4:11: invalid value: integer `-1`, expected a whole number from 0 on", hint],
    );
    // the column counts characters
    refused(NODE, "leds = \"ü\" x", &["b.toml:3:12: unexpected key or value, expected newline, `#`", hint]);
}

#[test]
fn names_and_words() {
    refused(
        "",
        "crew = \"Bee\"\nnode = \"a_b\"\nrole = \"king\"\nfeed = \"mains\"\nleds = \"on\"\n[cluster]",
        &[
            "b.toml:1:8: crew: \"Bee\" contains 'B'; only a-z, 0-9 and '-' are allowed",
            "  write the crew's name, such as \"bee42-crew-01\"",
            "b.toml:2:8: node: \"a_b\" contains '_'; only a-z, 0-9 and '-' are allowed",
            "  write this Pi's name, such as \"bee42-crew-01-001\"",
            "b.toml:3:8: role is \"king\", which is none of its values",
            "  write one of \"master\", \"node\"",
            "b.toml:4:8: feed is \"mains\", which is none of its values",
            "  write one of \"auto\", \"shim\", \"poe\", \"unknown\"",
            "b.toml:5:8: leds is \"on\", which is none of its values",
            "  write one of \"auto\", \"off\"",
        ],
    );
}

#[test]
fn folders() {
    refused(
        NODE,
        "state_dir = \"state\"\nrun_dir = \"/run/beehive\"",
        &[
            "b.toml:3:13: state_dir is \"state\", which is not an absolute path",
            "  write a path that begins with '/', such as \"/var/lib/beehive\"",
        ],
    );
    refused(
        NODE,
        "state_dir = \"/run/beehive\"",
        &[
            "b.toml:3:13: state_dir and run_dir are both \"/run/beehive\"",
            "  give state_dir a folder on the SD card: run_dir is emptied at each boot",
        ],
    );
}

#[test]
fn a_broker_elsewhere_has_to_be_asked_for() {
    refused(
        NODE,
        "[broker]\nhost = \"bee42-crew-01-001\"",
        &[
            "b.toml:4:8: host in [broker] is \"bee42-crew-01-001\", which is not this machine's loopback, and without TLS \
             anybody on the way reads and changes what is sent there",
            "  add tls = \"on\" to [broker]; on a network of your own and for tests only, insecure_test_broker = true allows \
             it without",
        ],
    );
    for host in ["10.0.0.1", "0.0.0.0", "127.0.0.1.example.org", "localhost.example.org", "::"] {
        let text = format!("{NODE}[broker]\nhost = \"{host}\"\n");
        assert_eq!(parse(&text).unwrap_err().problems[0].kind, "insecure", "{host}");
        let config = parse(&format!("{text}insecure_test_broker = true")).unwrap();
        assert_eq!(config.broker_trust(), BrokerTrust::InsecureTest, "{host}");
    }
    for host in ["127.0.0.1", "127.9.9.9", "localhost", "::1"] {
        let config = parse(&format!("{NODE}[broker]\nhost = \"{host}\"\ninsecure_test_broker = true")).unwrap();
        assert_eq!(config.broker_trust(), BrokerTrust::Loopback, "{host}");
    }
}

#[test]
fn with_tls_the_broker_may_be_anywhere() {
    let config =
        parse(&format!("{NODE}[broker]\nhost = \"10.0.0.1\"\ntls = \"on\"\n[keys]\ndir = \"/srv/keys\"")).unwrap();
    assert_eq!((config.broker.port, config.broker_trust()), (8883, BrokerTrust::Tls));
    assert_eq!(config.keys.dir, std::path::Path::new("/srv/keys"));
    let config = parse(&format!("{NODE}[broker]\ntls = \"on\"\nport = 1")).unwrap();
    assert_eq!((config.broker.port, config.broker_trust()), (1, BrokerTrust::Tls));
    assert_eq!(parse(&format!("{NODE}[broker]\ntls = true")).unwrap_err().problems[0].kind, "syntax");
    let error = parse(&format!("{NODE}[broker]\nhost = \"fe80::1\"\ntls = \"on\"")).unwrap_err();
    assert!(error.to_string().contains("write the broker's name instead"), "{error}");
}

#[test]
fn what_is_no_address() {
    refused(
        NODE,
        "[broker]\nhost = \"mqtt://10.0.0.1:1883\"\nport = 0",
        &[
            "b.toml:4:8: host in [broker] is \"mqtt://10.0.0.1:1883\", which is neither a host's name nor an IP address",
            "  write the name or address alone: no \"mqtt://\" before it, and the port in its own key, port = 1883",
            "b.toml:5:8: port in [broker] is 0",
            "  write the broker's port, usually 1883",
        ],
    );
}

#[test]
fn an_engine_that_does_not_exist() {
    refused(
        NODE,
        "[engine]\nkind = \"k0s\"\nstep_ms = 600001\nversion = \"1234567890123456789012345678901234567890\"\n\
         step_program = \"step\"",
        &[
            "b.toml:4:8: kind in [engine] is \"k0s\", which is none of its values",
            "  write one of \"k3s\", \"kubeadm\", \"simulated\"",
            "b.toml:5:11: step_ms in [engine] is 600001, which is not from 0 to 600000",
            "  choose one in that range: a step that takes longer than its command may take can only fail",
            "b.toml:7:16: step_program in [engine] is \"step\", which is not an absolute path",
            "  write a path that begins with '/', such as \"/usr/local/bin/step\"",
            "b.toml:6:11: version in [engine] has 40 bytes, more than 32",
            "  shorten it",
        ],
    );
}

#[test]
fn the_real_engines_take_their_settings() {
    let config = parse(&format!(
        r#"{NODE}
[engine]
kind = "k3s"
version = "v1.30.2+k3s1"
artefacts = "/srv/releases"
add_ons = "/srv/add-ons"
pre_pull = ["docker.io/library/nginx:1.27.0"]
labels = ["disk=ssd", "example.com/rack=3", "empty="]
taints = ["dedicated=db:NoSchedule", "old:NoExecute"]
interface = "eth0"
advertise_address = "10.0.0.7"
tls_sans = ["crew.local", "10.0.0.8"]
kubelet_args = ["max-pods=40", "eviction-hard=memory.available<100Mi"]
pod_cidr = "10.42.0.0/16"
service_cidr = "fd00:43::/112"
disable = ["traefik", "servicelb"]
snapshots = 5
[engine.mirrors]
"docker.io" = ["https://mirror.local:5000", "http://10.0.0.9:5000/v2"]
"#
    ))
    .unwrap();
    assert_eq!((config.engine.kind, config.engine.version.as_str()), (EngineKind::K3s, "v1.30.2+k3s1"));
    let settings = &config.engine.settings;
    assert_eq!((settings.artefacts.to_str(), settings.add_ons.to_str()), (Some("/srv/releases"), Some("/srv/add-ons")));
    assert_eq!(
        settings.labels.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["disk=ssd", "example.com/rack=3", "empty="]
    );
    assert_eq!(
        settings.taints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["dedicated=db:NoSchedule", "old=:NoExecute"]
    );
    assert_eq!(settings.kubelet_args[1], Pair { name: "eviction-hard".into(), value: "memory.available<100Mi".into() });
    assert_eq!(
        (settings.interface.as_deref(), settings.advertise_address),
        (Some("eth0"), Some("10.0.0.7".parse().unwrap()))
    );
    assert_eq!(
        (settings.pod_cidr.as_deref(), settings.service_cidr.as_deref()),
        (Some("10.42.0.0/16"), Some("fd00:43::/112"))
    );
    assert_eq!(
        (settings.tls_sans.len(), settings.disable.len(), settings.pre_pull.len(), settings.snapshots),
        (2, 2, 1, 5)
    );
    assert_eq!(settings.mirrors["docker.io"], ["https://mirror.local:5000", "http://10.0.0.9:5000/v2"]);

    // what is empty is as if it were not there
    let empty = parse(&format!(
        "{NODE}[engine]\ninterface = \"\"\nadvertise_address = \"\"\npod_cidr = \"\"\nservice_cidr = \"\""
    ))
    .unwrap();
    assert_eq!(empty.engine.settings, EngineSettings::default());
}

#[test]
fn a_real_engine_is_not_told_over_an_insecure_wire_to_destroy() {
    for kind in ["k3s", "kubeadm"] {
        let on = |broker: &str| parse(&format!("{NODE}[engine]\nkind = \"{kind}\"\n{broker}")).unwrap().destruction();
        assert_eq!(on(""), Destruction::Allowed, "{kind}");
        assert_eq!(on("[broker]\nhost = \"m\"\ntls = \"on\""), Destruction::Allowed, "{kind}");
        assert_eq!(
            on("[broker]\nhost = \"m\"\ninsecure_test_broker = true"),
            Destruction::RefusedInsecureWire,
            "{kind}"
        );
    }
}

#[test]
fn what_a_real_engine_cannot_take_is_refused() {
    let wrong = |line: &str| {
        let error = parse(&format!("{NODE}[engine]\nkind = \"k3s\"\n{line}")).unwrap_err();
        assert_eq!((error.problems.len(), error.problems[0].at.unwrap().0), (1, 5), "{line}: {error}");
        error.to_string()
    };
    for (line, words) in [
        ("version = \"1.30;reboot\"", "which is no version"),
        ("version = \"../../etc\"", "which is no version"),
        ("artefacts = \"releases\"", "not an absolute path"),
        ("artefacts = \"/srv/../etc\"", "no plain path"),
        ("artefacts = \"/srv/a b\"", "no plain path"),
        ("artefacts = \"/var/lib/rancher/k3s/images\"", "a reset removes \"/var/lib/rancher\""),
        ("add_ons = \"/var/lib\"", "a reset removes"),
        ("add_ons = \"/\"", "a reset removes"),
        ("pre_pull = [\"nginx; reboot\"]", "pre_pull in [engine] names"),
        ("pre_pull = [\"--all\"]", "pre_pull in [engine] names"),
        ("labels = [\"disk\"]", "write a label such as"),
        ("labels = [\"a=b c\"]", "write a label such as"),
        ("labels = [\"-a=b\"]", "write a label such as"),
        ("labels = [\"a=b,c=d\"]", "write a label such as"),
        (
            "labels = [\"node-role.kubernetes.io/worker=yes\"]",
            "may not give itself labels below node-role.kubernetes.io",
        ),
        ("labels = [\"k8s.io/x=y\"]", "may not give itself"),
        ("taints = [\"a=b\"]", "write a taint such as"),
        ("taints = [\"a=b:Sometimes\"]", "write a taint such as"),
        ("interface = \"eth0 up\"", "an interface's name"),
        ("interface = \"-all\"", "an interface's name"),
        ("interface = \"a123456789012345\"", "an interface's name"),
        ("advertise_address = \"eth0\"", "this node's IP address"),
        ("tls_sans = [\"https://x\"]", "a host's name or an IP address"),
        ("kubelet_args = [\"--max-pods=4\"]", "without dashes"),
        ("kubelet_args = [\"max-pods\"]", "without dashes"),
        ("kubelet_args = [\"max-pods=4 --x\"]", "without dashes"),
        ("kubelet_args = [\"max-pods=4\\nx\"]", "without dashes"),
        ("kubelet_args = [\"node-ip=10.0.0.1\"]", "the engine sets node-ip itself"),
        ("pod_cidr = \"10.42.0.0\"", "a range of addresses"),
        ("pod_cidr = \"10.42.0.0/33\"", "a range of addresses"),
        ("service_cidr = \"10.43.0.0/+16\"", "a range of addresses"),
        ("disable = [\"etcd\"]", "parts of k3s"),
        ("snapshots = 0", "which is not from 1 to 32"),
        ("mirrors = { \"docker.io\" = [\"mirror\"] }", "no address of a registry"),
        ("mirrors = { \"docker.io\" = [\"https://a\\\"b\"] }", "no address of a registry"),
        ("mirrors = { \"docker io\" = [] }", "no registry"),
    ] {
        let error = wrong(line);
        assert!(error.contains(words), "{line}: {error}");
    }
    let many = format!("labels = [{}]", "\"a=b\",".repeat(65));
    assert!(wrong(&many).contains("lists 65, more than 64"));
    let both = parse(&format!("{NODE}[engine]\nkind = \"kubeadm\"\ndisable = [\"traefik\"]\npod_cidr = \"10.0.0.0/16\"\nservice_cidr = \"10.0.0.0/16\"")).unwrap_err().to_string();
    assert!(both.contains("names parts of k3s") && both.contains("are the same range"), "{both}");
    let text = parse(&format!("{NODE}[engine]\nkind = \"k3s\"\nlabels = 1")).unwrap_err().to_string();
    assert!(text.contains("invalid type"), "{text}");
}

#[test]
fn pins_and_hat() {
    refused(
        NODE,
        "[pins]\nbackend = \"sysfs\"\nchips = []\nbutton = \"on\"\n[poe_hat]\nbus = \"i2c-1\"\npoll_ms = 99",
        &[
            "b.toml:4:11: backend in [pins] is \"sysfs\", which is none of its values",
            "  write one of \"character-device\", \"rppal\", \"linux-embedded-hal\", \"simulated\", \"none\"",
            "b.toml:6:10: button in [pins] is \"on\", which is none of its values",
            "  write one of \"auto\", \"off\"",
            "b.toml:5:9: chips in [pins] names no GPIO chip",
            "  write the chips' labels as gpiodetect shows them, or leave the key out; without a button, write button = \
             \"off\"",
            "b.toml:8:7: bus in [poe_hat] is \"i2c-1\", which is none of its values",
            "  write \"auto\", \"off\", or an I2C device such as \"/dev/i2c-1\"",
            "b.toml:9:11: poll_ms in [poe_hat] is 99, which is not from 100 to 60000",
            "  choose one in that range: more often the bus is busy for nothing, more rarely an over-current is told too \
             late",
        ],
    );
}

#[test]
fn the_rules_of_the_board_are_told_with_their_place() {
    let why = Thresholds { debounce_ms: 0, ..Thresholds::default() }.validate().unwrap_err();
    refused(
        NODE,
        "[button]\n\n  debounce_ms = 0",
        &[&format!("b.toml:5:17: in [button], {why}"), "  change that time, or the other one that it is compared with"],
    );
    // the rule is about a time that the file leaves out: the section is named
    let why = Thresholds { hold_ms: 12_000, ..Thresholds::default() }.validate().unwrap_err();
    assert!(why.to_string().contains("hold_ms = 12000 ms"), "{why}");
    refused(
        NODE,
        "[button]\nhold_ms = 12000",
        &[&format!("b.toml:3:2: in [button], {why}"), "  change that time, or the other one that it is compared with"],
    );
    let why = Deadlines { grace_ms: 0, ..Deadlines::default() }.validate().unwrap_err();
    refused(
        NODE,
        "[power]\ngrace_ms = 0",
        &[&format!("b.toml:4:12: in [power], {why}"), "  choose a time in that range"],
    );
}

#[test]
fn the_cluster_is_the_masters() {
    refused(
        NODE,
        "[cluster]\nnodes = []",
        &[
            "b.toml:3:2: there is a section [cluster], but the role is not \"master\"",
            "  remove the section; only the master's coordinator reads it",
        ],
    );
    refused(
        MASTER,
        "[cluster]\nnodes = [\"a\", \"b\", \"a\", \"B\"]\nmax_unavailable = 0\nmax_parallel = 65\nserver = \"\"",
        &[
            "b.toml:4:9: nodes in [cluster] names \"a\" twice",
            "  remove one of them",
            "b.toml:4:9: nodes in [cluster]: \"B\" contains 'B'; only a-z, 0-9 and '-' are allowed",
            "  write the nodes' names, such as \"bee42-crew-01-002\"",
            "b.toml:5:19: max_unavailable in [cluster] is 0, which is not from 1 to 64",
            "  choose one in that range: with none, rolling work could not begin; a crew has no more",
            "b.toml:6:16: max_parallel in [cluster] is 65, which is not from 1 to 64",
            "  choose one in that range: with none, nothing could begin; a crew has no more",
            "b.toml:7:10: server in [cluster] is empty",
            "  write the address at which the nodes reach the control plane, or leave the key out",
        ],
    );
    let crew = |others: usize| {
        let names: Vec<String> = (0..others).map(|number| format!("\"n{number}\"")).collect();
        parse(&format!("{MASTER}[cluster]\nnodes = [{}]", names.join(", ")))
    };
    assert_eq!(crew(MAX_NODES - 1).unwrap().cluster.unwrap().nodes.len(), MAX_NODES - 1);
    assert_eq!(
        crew(MAX_NODES).unwrap_err().to_string(),
        "b.toml:4:9: nodes in [cluster] names 64 nodes beside the master, more than the 63 that a crew may have\n  make a \
         second crew"
    );
    // by default the nodes reach the control plane under the master's name
    assert_eq!(crew(1).unwrap().cluster.unwrap().server.as_str(), HOST);
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.toml");
    let shown = path.display();
    assert_eq!(
        Config::load(&path).unwrap_err().to_string(),
        format!(
            "{shown}: cannot read the configuration: No such file or directory (os error 2)\n  write one (`beehive config \
             example` prints all there is to set), or name another file with --config"
        )
    );
    std::fs::write(&path, b"crew = \"x\"\nrole = \"\xff\"").unwrap();
    assert_eq!(
        Config::load(&path).unwrap_err().to_string(),
        format!("{shown}:2:9: is not UTF-8 text here\n  save the file as UTF-8")
    );
    std::fs::write(&path, vec![b'#'; 300 * 1024]).unwrap();
    assert_eq!(
        Config::load(&path).unwrap_err().to_string(),
        format!("{shown}: has more than 262144 bytes, so it is no configuration\n  name the right file with --config")
    );
    std::fs::write(&path, format!("{NODE}node = \"n1\"")).unwrap();
    assert_eq!(Config::load(&path).unwrap().node.as_str(), "n1");
}

#[test]
fn the_example_is_complete_and_shows_the_defaults() {
    let crew: CrewName = "bee42-crew-01".parse().unwrap();
    let node: NodeName = "bee42-crew-01-001".parse().unwrap();
    for role in [Role::Master, Role::Node] {
        let example = Config::to_toml_default(&crew, &node, role);
        let config = Config::parse_on(&example, "example", "Unusable Host Name").unwrap();
        assert_eq!((&config.crew, &config.node, config.role), (&crew, &node, role));
        // with each default written out it says the same
        let is_setting = |line: &str| {
            line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        };
        let written_out: Vec<&str> = example
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line))
            .collect();
        assert_eq!(Config::parse_on(&written_out.join("\n"), "example", HOST).unwrap(), config);
        // and it leaves no key out: the parser tells which there are
        let sections = [
            "",
            "broker",
            "engine",
            "pins",
            "poe_hat",
            "button",
            "power",
            "cluster",
            "cluster.blockers",
            "cluster.drain",
        ];
        for section in sections.iter().filter(|section| role == Role::Master || !section.starts_with("cluster")) {
            let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
            let error = parse(&format!("{header}unheard_of = 1")).unwrap_err();
            let (_, keys) = error.problems[0].message.split_once(", expected ").unwrap();
            for key in keys.split('`').skip(1).step_by(2) {
                let there = written_out.iter().any(|line| {
                    line.starts_with(&format!("{key} = "))
                        || *line == format!("[{key}]")
                        || *line == format!("[{section}.{key}]")
                        || (section.is_empty() && key == "cluster")
                });
                assert!(there, "[{section}] {key} is not in the example");
            }
        }
    }
}

#[test]
fn what_the_packages_ship_is_a_node_with_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware/rootfs/etc/beehive/beehive.toml");
    // a node is called as its host is, unless somebody says otherwise
    let crew = "bee42-crew-01".parse().unwrap();
    let wanted =
        Config::to_toml_default(&crew, &HOST.parse().unwrap(), Role::Node).replacen("\nnode = ", "\n# node = ", 1);
    if std::env::var_os("BEEHIVE_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, wanted, "BEEHIVE_BLESS=1 writes it anew");
    let config = Config::parse_on(&text, &path.display().to_string(), HOST).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config, parse(NODE).unwrap());
}

#[test]
fn what_keeps_work_away_is_read_and_what_is_wrong_with_it_is_named() {
    let master =
        |rest: &str| Config::parse(&format!("crew = \"c\"\nnode = \"m\"\nrole = \"master\"\n[cluster]\n{rest}"), "f");
    let config = master(
        "switch_on = [\"/bin/on\", \"x\"]\n[cluster.blockers]\nnodes = [\"a\"]\nlabels = [\"keep\"]\n\
         pods = [\"data: app=db\", \"app=web\"]\nwindows = [\"mon-fri 01:00-05:00\"]\ncommand = [\"/bin/may\"]",
    )
    .unwrap();
    let coordinator = config.coordinator();
    let blockers = &coordinator.blockers;
    assert_eq!((blockers.nodes.len(), blockers.labels.len(), blockers.windows.len()), (1, 1, 1));
    let pods: Vec<_> = blockers.pods.iter().map(ToString::to_string).collect();
    assert_eq!(pods, ["data: app=db", "app=web"]);
    assert_eq!((blockers.command, coordinator.switch), (AsksCommand::Yes, PowerSwitch::Present));
    assert_eq!(config.outside().switch_on.unwrap().arguments, ["x"]);
    for (wrong, word) in [
        ("switch_on = [\"poe\"]", "absolute"),
        ("[cluster.blockers]\ncommand = [\"may\"]", "absolute"),
        ("[cluster.blockers]\nlabels = [\"a b\"]", "no label has"),
        ("[cluster.blockers]\npods = [\"data: \"]", "a key is missing"),
        ("[cluster.blockers]\nwindows = [\"noon\"]", "a beginning and an end"),
        ("[cluster.blockers]\nnodes = [\"A\"]", "blockers.nodes in [cluster]"),
        ("[cluster.blockers]\nother = 1", "unknown key"),
        ("[cluster.drain]\nbare_pods = \"maybe\"", "write one of \"refuse\", \"delete\""),
        ("[cluster.drain]\nempty_dir = true", "string"),
        ("[cluster.drain]\non_deadline = \"wait\"", "\"give-up\", \"delete\""),
        ("[cluster.drain]\nbypass_budget_after_ms = 500", "from 1000 to 1800000"),
        ("[cluster.drain]\ngrace_period_s = 3601", "from 1 to 3600"),
        ("[cluster.drain]\nother = 1", "unknown key"),
    ] {
        let error = master(wrong).unwrap_err().to_string();
        assert!(error.contains(word), "{wrong}: {error}");
    }
}

#[test]
fn how_a_node_is_drained_can_be_set() {
    let drain = |text: &str| {
        let text = format!("crew = \"c\"\nnode = \"m\"\nrole = \"master\"\n[cluster]\n[cluster.drain]\n{text}");
        Config::parse(&text, "f").unwrap().drain()
    };
    assert_eq!(drain(""), DrainSettings::default());
    assert_eq!(drain("bypass_budget_after_ms = 0\ngrace_period_s = 0"), DrainSettings::default());
    let all = "bare_pods = \"delete\"\nempty_dir = \"delete\"\non_deadline = \"delete\"\nbypass_budget_after_ms = 60000\n\
               grace_period_s = 30";
    let expected = DrainSettings {
        bare_pods: OnLoss::Delete,
        empty_dir: OnLoss::Delete,
        on_deadline: OnDeadline::Delete,
        bypass_budget_after_ms: Some(60_000),
        grace_period_s: Some(30),
    };
    assert_eq!(drain(all), expected);
    assert_eq!(
        drain("empty_dir = \"delete\""),
        DrainSettings { empty_dir: OnLoss::Delete, ..DrainSettings::default() }
    );
}
