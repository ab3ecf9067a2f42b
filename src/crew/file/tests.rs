use super::*;
use crate::config::{EngineKind, TlsSwitch};
use proptest::prelude::*;

const SHORT: &str = "crew = \"bee\"\n[[node]]\nname = \"pi-1\"\n[[node]]\nname = \"pi-2\"\n";

const LONG: &str = r#"
crew = "bee"
operators = ["ann", "bob"]
feed = "poe"

[network]
domain = "local"

[broker]
port = 8884

[engine]
kind = "k3s"
version = "v1.31.4+k3s1"
pre_pull = ["docker.io/library/nginx:1.27.0"]
labels = ["crew=bee"]
interface = "eth0"
pod_cidr = "10.42.0.0/16"

[engine.mirrors]
"docker.io" = ["https://mirror.local:5000"]

[power]
prepare_ms = 60000

[cluster]
max_unavailable = 2

[cluster.blockers]
windows = ["mon-fri 01:00-05:00"]

[[node]]
name = "pi-2"
feed = "shim"
labels = ["disk=ssd"]
taints = ["dedicated=db:NoSchedule"]
advertise_address = "10.0.0.8"

[[node]]
name = "pi-1"
role = "master"
address = "10.0.0.7"
"#;

fn parse(text: &str) -> CrewFile {
    CrewFile::parse(text, "crew.toml").unwrap()
}

/// The configuration of one node, read back by what reads it on the Pi.
fn config(file: &CrewFile, node: &str) -> Config {
    let text = file.node_config(&node.parse().unwrap()).unwrap();
    Config::parse_on(&text, "beehive.toml", "another-host").unwrap()
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let error = CrewFile::parse(text, "crew.toml").unwrap_err();
    assert_eq!(error.to_string().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_first_node_of_a_short_file_is_the_master_and_the_rest_are_defaults() {
    let file = parse(SHORT);
    let (master, node) = (config(&file, "pi-1"), config(&file, "pi-2"));
    assert_eq!((master.role, node.role), (Role::Master, Role::Node));
    let cluster = master.cluster.as_ref().unwrap();
    assert_eq!((cluster.nodes.as_slice(), cluster.server.as_str()), (&["pi-2".parse().unwrap()][..], "pi-1"));
    assert_eq!(
        (master.broker.host.as_str(), master.broker.port, master.broker.tls),
        ("127.0.0.1", 8883, TlsSwitch::On)
    );
    assert_eq!((node.broker.host.as_str(), node.broker.port, node.broker.tls), ("pi-1", 8883, TlsSwitch::On));
    assert_eq!(file.console_broker().to_string(), "tls://pi-1:8883");
    assert_eq!(node.engine.kind, EngineKind::Simulated, "nothing is installed unasked");
}

#[test]
fn every_pi_gets_what_is_the_same_for_all_and_what_is_its_own() {
    let file = parse(LONG);
    let (master, node) = (config(&file, "pi-1"), config(&file, "pi-2"));
    for config in [&master, &node] {
        assert_eq!((config.crew.as_str(), config.engine.kind), ("bee", EngineKind::K3s));
        assert_eq!(config.engine.version.as_str(), "v1.31.4+k3s1");
        assert_eq!(config.engine.settings.mirrors["docker.io"], ["https://mirror.local:5000"]);
        assert_eq!(config.engine.settings.interface.as_deref(), Some("eth0"));
        assert_eq!(config.power.prepare_ms, 60_000);
    }
    let labels = |config: &Config| config.engine.settings.labels.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(labels(&master), ["crew=bee"]);
    assert_eq!(labels(&node), ["crew=bee", "disk=ssd"]);
    assert_eq!(node.engine.settings.taints[0].to_string(), "dedicated=db:NoSchedule");
    assert_eq!(node.engine.settings.advertise_address, Some("10.0.0.8".parse().unwrap()));
    assert_eq!((master.feed, node.feed), (Some(beehive_board::cut::Feed::Poe), Some(beehive_board::cut::Feed::Shim)));
    let cluster = master.cluster.as_ref().unwrap();
    assert_eq!((cluster.max_unavailable, cluster.server.as_str()), (2, "10.0.0.7"));
    assert_eq!(cluster.blockers.windows.len(), 1);
    assert!(node.cluster.is_none());
    assert_eq!((node.broker.host.as_str(), node.broker.port), ("10.0.0.7", 8884));
    assert_eq!(file.names().iter().map(NodeName::as_str).collect::<Vec<_>>(), ["pi-1", "pi-2"]);
}

#[test]
fn a_broker_elsewhere_is_elsewhere_for_the_master_too() {
    let file = parse(&format!("{SHORT}\n[broker]\nhost = \"mqtt.example.org\"\n"));
    for node in ["pi-1", "pi-2"] {
        assert_eq!(config(&file, node).broker.host, "mqtt.example.org");
    }
    // over TLS an IPv6 address cannot be used, so that the name stands in
    let file =
        parse("crew = \"bee\"\n[network]\ndomain = \"local\"\n[[node]]\nname = \"pi-1\"\naddress = \"fd00::7\"\n");
    assert_eq!(file.console_broker().to_string(), "tls://pi-1.local:8883");
}

#[test]
fn an_unknown_node_is_named_with_those_that_are_known() {
    let error = parse(SHORT).node_config(&"pi-9".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("pi-9") && error.contains("pi-1, pi-2"), "{error}");
}

#[test]
fn what_only_one_pi_cannot_have_is_told_of_that_pi() {
    let many: Vec<String> = (0..64).map(|index| format!("\"l{index}=x\"")).collect();
    let text = format!("{SHORT}labels = [\"one=more\"]\n[engine]\nlabels = [{}]\n", many.join(", "));
    let file = parse(&text);
    config(&file, "pi-1");
    let error = file.node_config(&"pi-2".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("the configuration of pi-2") && error.contains("more than 64"), "{error}");
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_with_their_line() {
    refused(
        "crew = \"bee\"\n[engine]\nkidn = \"k3s\"\n[[node]]\nname = \"pi-1\"\n",
        &[
            "crew.toml:3:1: unknown key `kidn`, expected one of `kind`, `step_ms`, `step_program`, `version`, `daemon_user`, \
             `artefacts`, `add_ons`, `mirrors`, `pre_pull`, `labels`, `taints`, `interface`, `advertise_address`, `tls_sans`, \
             `kubelet_args`, `pod_cidr`, `service_cidr`, `disable`, `snapshots`",
            "  correct it, or move it to the section that it belongs to; docs/crew-files.md says what may stand in a crew file, \
             and `beehive config example` prints what its sections hold",
        ],
    );
    for (text, at, why) in [
        ("crew = 1\n", "1:8", "invalid type"),
        ("state_dir = \"/x\"\n", "1:1", "unknown key `state_dir`"),
        ("[[node]]\nnam = \"pi-1\"\n", "2:1", "unknown key `nam`"),
        ("crew = \"a\"\ncrew = \"b\"\n", "2:1", "duplicate key"),
    ] {
        let error = CrewFile::parse(text, "crew.toml").unwrap_err().to_string();
        assert!(error.starts_with(&format!("crew.toml:{at}: ")) && error.contains(why), "{error}");
    }
}

#[test]
fn the_rules_of_beehive_toml_hold_and_lines_are_those_of_the_crew_file() {
    refused(
        "crew = \"Bee\"\n\n[engine]\nkind = \"k8s\"\npod_cidr = \"10.0.0.0\"\n[[node]]\nname = \"pi-1\"\n",
        &[
            "crew.toml:1:8: crew: \"Bee\" contains 'B'; only a-z, 0-9 and '-' are allowed",
            "  write the crew's name, such as \"bee42-crew-01\"",
            "crew.toml:4:8: kind in [engine] is \"k8s\", which is none of its values",
            "  write one of \"k3s\", \"kubeadm\", \"simulated\"",
            "crew.toml:5:12: pod_cidr in [engine] is \"10.0.0.0\", which is not what belongs there",
            "  write a range of addresses such as \"10.42.0.0/16\"",
        ],
    );
    refused(
        "crew = \"bee\"\n[broker]\ntls = \"off\"\n[[node]]\nname = \"pi-1\"\naddress = \"10.0.0.7\"\n",
        &[
            "crew.toml:2:2: host in [broker] is \"10.0.0.7\", which is not this machine's loopback, and without TLS anybody on \
             the way reads and changes what is sent there",
            "  add tls = \"on\" to [broker]; on a network of your own and for tests only, insecure_test_broker = true allows it \
             without",
        ],
    );
}

#[test]
fn what_is_one_pis_does_not_stand_with_all() {
    refused(
        "crew = \"bee\"\n[engine]\nadvertise_address = \"10.0.0.7\"\n[cluster]\nnodes = [\"pi-2\"]\nserver = \"x\"\n[[node]]\nname \
         = \"pi-1\"\n",
        &[
            "crew.toml:3:21: advertise_address in [engine] would be the address of every node",
            "  move it to the [[node]] that has it; interface in [engine] names the interface of all",
            "crew.toml:5:9: nodes in [cluster] stands in a crew file, which lists its nodes in another place",
            "  remove the key, and write a [[node]] for each one",
            "crew.toml:6:10: server in [cluster] stands in a crew file, which has it in another place",
            "  move it to [network]",
        ],
    );
}

#[test]
fn each_node_is_checked_and_named() {
    refused(
        r#"crew = "bee"
operators = ["ann", "ann"]
[[node]]
name = "pi-1"
address = "a b"
labels = ["kubernetes.io/x=y"]
[[node]]
name = "pi-1"
[[node]]
role = "boss"
[[node]]
name = "pi-3"
role = "boss"
feed = "sun"
advertise_address = "pi"
"#,
        &[
            "crew.toml:2:13: operators names \"ann\" twice",
            "  remove one of them",
            "crew.toml:5:11: address of pi-1 is \"a b\", which is neither a host's name nor an IP address",
            "  write where this Pi is found, such as \"10.0.0.7\"",
            "crew.toml:6:10: labels of pi-1 names \"kubernetes.io/x=y\", which cannot stand there",
            "  use another prefix: a node may not give itself labels below kubernetes.io",
            "crew.toml:8:8: there are two nodes pi-1",
            "  remove one of them, or correct its name",
            "crew.toml:9:1: the 3. [[node]] has no name",
            "  add name = \"bee42-crew-01-001\", its host name",
            "crew.toml:13:8: role of pi-3 is \"boss\", which is none of its values",
            "  write one of \"master\", \"node\"",
            "crew.toml:14:8: feed of pi-3 is \"sun\", which is none of its values",
            "  write one of \"auto\", \"shim\", \"poe\", \"unknown\"",
            "crew.toml:15:21: advertise_address of pi-3: \"pi\": invalid IP address syntax",
            "  write this node's IP address, such as \"10.0.0.7\"",
        ],
    );
}

#[test]
fn a_crew_has_nodes_and_one_master() {
    let first = |text: &str| CrewFile::parse(text, "c").unwrap_err().problems[0].message.clone();
    assert_eq!(first("crew = \"bee\"\n"), "the crew has no nodes");
    let two = "crew = \"bee\"\n[[node]]\nname = \"a\"\nrole = \"master\"\n[[node]]\nname = \"b\"\nrole = \"master\"\n";
    assert_eq!(first(two), "a and b are both the master");
    assert_eq!(first("crew = \"bee\"\n[[node]]\nname = \"a\"\nrole = \"node\"\n"), "no node is the master");
    let many: String = (0..65).map(|index| format!("[[node]]\nname = \"n{index}\"\n")).collect();
    assert!(first(&format!("crew = \"bee\"\n{many}")).contains("more than the 64"));
}

#[test]
fn the_written_file_shows_everything_and_is_read_back_the_same() {
    for text in [SHORT, LONG] {
        let file = parse(text);
        let written = file.to_toml();
        assert_eq!(parse(&written), file, "{written}");
        for shown in ["domain", "server", "host", "port", "tls", "kind", "version", "add_ons", "pre_pull", "mirrors"] {
            assert!(written.contains(shown), "{shown} is in\n{written}");
        }
        assert!(
            !written.contains("advertise_address; empty") && written.lines().all(|line| line.len() <= 132),
            "{written}"
        );
    }
}

#[test]
fn differences_from_the_manifest_are_told() {
    let keys = crate::crew::keys::CrewKeys::generate(&crate::crew::keys::NewCrew {
        crew: "bee".parse().unwrap(),
        nodes: vec!["pi-2".parse().unwrap(), "pi-3".parse().unwrap()],
        users: vec![],
    });
    let keys = keys.unwrap();
    let found = parse(SHORT).differences(keys.manifest());
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("pi-2 coordinates") && found[1].contains("pi-3") && found[2].contains("[[node]] pi-1"));
}

fn words(from: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(from, 0..=from.len())
}

/// Crews of every shape that a crew file may have, as its text.
fn crew_texts() -> impl Strategy<Value = String> {
    let labels = || words(&["disk=ssd", "example.com/rack=3", "empty="]);
    let taints = || words(&["dedicated=db:NoSchedule", "x:NoExecute"]);
    let address = prop::option::of(prop::sample::select(&["10.0.0.7", "host.example.org", "fd00::7"][..]));
    let feed = prop::option::of(prop::sample::select(&["shim", "poe", "auto"][..]));
    let node = (address, feed, labels(), taints());
    let engine = words(&[
        "version = \"v1.31.4+k3s1\"",
        "daemon_user = \"bee\"",
        "add_ons = \"/srv/add-ons\"",
        "interface = \"eth0\"",
        "tls_sans = [\"bee.example.org\"]",
        "kubelet_args = [\"max-pods=40\", \"eviction-hard=memory.available<5%\"]",
        "pod_cidr = \"10.42.0.0/16\"",
        "service_cidr = \"10.43.0.0/16\"",
        "disable = [\"traefik\"]",
        "snapshots = 5",
        "mirrors = { \"docker.io\" = [\"https://a:5000\", \"http://b/c\"], \"ghcr.io\" = [] }",
        "pre_pull = [\"docker.io/library/nginx:1.27.0\"]",
        "labels = [\"crew=bee\"]",
        "taints = [\"y=z:PreferNoSchedule\"]",
    ]);
    let broker = words(&["host = \"mqtt.example.org\"", "port = 99", "tls = \"on\""]);
    let network = words(&["domain = \"local\"", "server = \"10.0.0.9:6443\""]);
    let cluster = words(&["max_unavailable = 2", "max_parallel = 3"]);
    let name = prop::sample::select(&["bee42-crew-01", "all", "crew-master", "crew-nodes", "beehive"][..]);
    (name, words(&["ann", "bob"]), network, broker, engine, cluster, prop::collection::vec(node, 1..6)).prop_map(
        |(name, operators, network, broker, engine, cluster, nodes)| {
            let mut text = format!("crew = \"{name}\"\noperators = {operators:?}\n");
            for (section, lines) in [("network", network), ("broker", broker), ("engine", engine), ("cluster", cluster)]
            {
                text.push_str(&format!("[{section}]\n{}\n", lines.join("\n")));
                if section == "engine" {
                    text.push_str("kind = \"k3s\"\n");
                }
            }
            for (index, (address, feed, labels, taints)) in nodes.iter().enumerate() {
                text.push_str(&format!("[[node]]\nname = \"pi-{index}\"\nlabels = {labels:?}\ntaints = {taints:?}\n"));
                if let Some(address) = address {
                    text.push_str(&format!("address = \"{address}\"\n"));
                }
                if let Some(feed) = feed {
                    text.push_str(&format!("feed = \"{feed}\"\n"));
                }
            }
            text
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_crew_is_read_back_and_gives_each_pi_a_valid_configuration(text in crew_texts()) {
        let file = parse(&text);
        prop_assert_eq!(&parse(&file.to_toml()), &file);
        for node in &file.nodes {
            let config = config(&file, node.name.as_str());
            prop_assert_eq!(config.role, node.role);
            prop_assert_eq!(config.engine.kind, EngineKind::K3s);
        }
    }

    #[test]
    fn an_inventory_carries_a_crew_there_and_back(text in crew_texts()) {
        let file = parse(&text);
        let inventory = ansible::export(&file);
        let imported = ansible::import(&inventory, "i.ini", None).unwrap();
        prop_assert_eq!(&imported.file, &file, "{}", inventory);
        prop_assert!(imported.left_out.is_empty());
        prop_assert_eq!(ansible::export(&imported.file), inventory);
    }

    #[test]
    fn no_text_brings_the_readers_down(text in "[\\[\\]a-z:=#\"'\\\\ \n0-9-]{0,200}") {
        let _ = ansible::import(&text, "i.ini", None);
        let _ = CrewFile::parse(&text, "c.toml");
    }
}
