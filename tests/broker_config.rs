//! The broker's configuration, rules and certificates, against a real mosquitto.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/secure.rs"]
mod secure;

use beehive::crew::broker::{Part, Plan, file};
use beehive::crew::tls::{Anchor, Identity, Pair, PrivateKey, identity, new_key};
use beehive::link::{Link, LinkConfig, LinkEvent, OwnPresence, Tls};
use beehive_mqtt::{Audience, Topic};
use common::soon;
use keys::Keys;
use rumqttc::{TlsConfiguration, Transport};
use secure::{Broker, Client, Kept, crew, free_port, up};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new("c1", &["n0", "n1", "n2"], &["ann", "bob", "eve", "door"]));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_reaches_his_own_subtree_and_no_other() {
    let broker = Broker::start();
    // the coordinator reads all that nodes and users write; the watcher what nodes and coordinator write
    let mut coordinator = broker.client("n0", &["beehive/v1/c1/n/#", "beehive/v1/c1/q/#"]).await;
    let mut eve = broker.client("user:eve", &["beehive/v1/c1/c/#", "beehive/v1/c1/n/#"]).await;
    let mut n1 = broker.client("n1", &[]).await;
    for topic in ["n/n2/state", "n/n2/result", "n/n0/state", "c/state", "c/manifest", "q/ann/request"] {
        n1.publish(&format!("beehive/v1/c1/{topic}"), "forged").await;
    }
    n1.publish("beehive/v1/c1/n/n1/state", "own").await;
    n1.publish("beehive/v1/c1/n/n1/state", "end").await;
    assert_eq!(coordinator.until("end").await, ["beehive/v1/c1/n/n1/state own"]);
    assert_eq!(eve.until("end").await, ["beehive/v1/c1/n/n1/state own"]);

    let mut ann = broker.client("user:ann", &[]).await;
    // not among them: c/manifest, which the crew's own key signs
    for topic in ["c/state", "c/event", "n/n1/state", "q/bob/request", "q/bob/direct/n1"] {
        ann.publish(&format!("beehive/v1/c1/{topic}"), "forged").await;
    }
    eve.publish("beehive/v1/c1/q/eve/request", "forged").await;
    ann.publish("beehive/v1/c1/q/ann/request", "end").await;
    assert_eq!(coordinator.until("end").await, Vec::<String>::new());
    coordinator.publish("beehive/v1/c1/c/state", "end").await;
    assert_eq!(eve.until("end").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_their_credentials_reach_their_node_alone_and_come_from_the_coordinator_alone() {
    let broker = Broker::start();
    let everything = ["#", "beehive/v1/c1/d/#", "beehive/v1/c1/d/n1/command", "beehive/v1/c1/p/#"];
    let mut others = Vec::new();
    for name in ["n2", "user:ann", "user:eve", "user:door", "tool:ha"] {
        others.push((name, broker.client(name, &everything).await));
    }
    let mut n1 = broker.client("n1", &["beehive/v1/c1/d/n1/command"]).await;
    for (_, other) in &mut others {
        other.publish("beehive/v1/c1/d/n1/command", "forged").await;
    }
    let mut coordinator = broker.client("n0", &[]).await;
    coordinator.publish("beehive/v1/c1/d/n1/command", "secret").await;
    coordinator.publish("beehive/v1/c1/p/bob/response", "secret").await;
    coordinator.publish("beehive/v1/c1/d/n1/command", "end").await;
    assert_eq!(n1.until("end").await, ["beehive/v1/c1/d/n1/command secret"]);
    // all of them may read this, and it comes after the secrets
    coordinator.publish("beehive/v1/c1/c/presence", "end").await;
    for (name, other) in &mut others {
        assert_eq!(other.until("end").await, Vec::<String>::new(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_the_anonymous_and_strangers_are_refused() {
    let broker = Broker::start();
    let plain = Client::connect(broker.plan.port, "x", Transport::Tcp, &["#"]).await;
    assert!(plain.is_err(), "plain text is let in");
    let ca = broker.authority.certificate.clone().into_bytes();
    let anonymous = TlsConfiguration::Simple { ca, alpn: None, client_auth: None };
    let anonymous = Client::connect(broker.plan.port, "x", Transport::tls_with_config(anonymous), &["#"]).await;
    assert!(anonymous.is_err(), "the anonymous is let in");
    // the same name with a key of his own
    let forged = identity(&Identity::Node("n1".parse().unwrap())).unwrap();
    assert!(broker.try_client(&forged, "n1", &["#"]).await.is_err(), "a stranger with a node's name is let in");
    // the crew's authority vouches for the broker alone: even its own signature lets nobody in
    let server = fs::read_to_string(broker.dir.path().join(file::CERTIFICATE)).unwrap();
    let key = fs::read_to_string(broker.dir.path().join(file::KEY)).unwrap();
    let server = Pair { certificate: server, key: beehive::crew::tls::PrivateKey::new(key) };
    assert!(broker.try_client(&server, "x", &["#"]).await.is_err(), "the broker's certificate lets one in");
    assert!(broker.try_client(broker.pair("n1"), "n1", &["#"]).await.is_ok(), "{}", broker.log());
}

/// A node in the list signs a certificate with another's name, and brings its own along as the authority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_is_let_in_cannot_vouch_for_another() {
    let broker = Broker::start();
    let node = broker.pair("n1");
    let key = rcgen::KeyPair::from_pem(node.key.expose()).unwrap();
    // once as it stands in the list, once as an authority of the same name and key
    for with_authority in [None, Some(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained))] {
        let mut parent = rcgen::CertificateParams::default();
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CommonName, "n1");
        parent.distinguished_name = name;
        let chain = match with_authority {
            None => node.certificate.clone(),
            Some(is_ca) => {
                parent.is_ca = is_ca;
                parent.self_signed(&key).unwrap().pem()
            }
        };
        let mut child = rcgen::CertificateParams::default();
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CommonName, "n0");
        child.distinguished_name = name;
        child.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let child_key = rcgen::KeyPair::generate().unwrap();
        let forged = child.signed_by(&child_key, &rcgen::Issuer::new(parent, &key)).unwrap().pem();
        let forged =
            Pair { certificate: forged + &chain, key: beehive::crew::tls::PrivateKey::new(child_key.serialize_pem()) };
        assert!(broker.try_client(&forged, "n0", &["#"]).await.is_err(), "n1 passes for n0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_identity_is_put_out_and_stays_out_and_the_others_are_back() {
    let mut broker = Broker::start();
    let mut watcher = broker.client("user:eve", &["beehive/v1/c1/n/#"]).await;
    let mut n1 = broker.client("n1", &["beehive/v1/c1/n/n1/presence"]).await;
    n1.publish_as("beehive/v1/c1/n/n1/state", "kept", Kept::Yes).await;
    n1.publish("beehive/v1/c1/n/n1/state", "end").await;
    watcher.until("end").await;
    let (link, mut events) = Link::spawn(LinkConfig {
        host: "127.0.0.1".to_owned(),
        port: broker.plan.port,
        tls: Some(broker.tls(broker.pair("n2"))),
        client_id: "n2".to_owned(),
        crew: crew(),
        trust: KEYS.node("n2"),
        audience: Audience::Node("n2".parse().unwrap()),
        presence: Some(OwnPresence { topic: Topic::Presence("n2".parse().unwrap()), start: 1 }),
    });
    up(&mut events).await;

    broker.plan.parts.retain(|part| *part != Part::Node("n1".parse().unwrap()));
    broker.restart();
    let last = soon("the end of the revoked connection", &mut n1.ended).await.unwrap();
    assert!(!last.is_empty());
    for _ in 0..3 {
        assert!(broker.try_client(broker.pair("n1"), "n1", &["#"]).await.is_err(), "a revoked one is let in");
    }
    // the others come back by themselves, and what was kept is kept
    up(&mut events).await;
    let mut watcher = broker.client("user:eve", &["beehive/v1/c1/n/n1/state"]).await;
    let mut master = broker.client("n0", &[]).await;
    let kept = soon("what was kept", watcher.messages.recv()).await.unwrap();
    assert_eq!((kept.payload.as_ref(), kept.retain), (b"kept".as_slice(), true));
    master.publish("beehive/v1/c1/c/state", "end").await;
    drop(link);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_certificate_is_let_in_and_the_old_one_of_the_same_name_is_not() {
    let mut broker = Broker::start();
    let old = broker.pair("n1").clone();
    let new = identity(&Identity::Node("n1".parse().unwrap())).unwrap();
    assert!(broker.try_client(&new, "n1", &["#"]).await.is_err());
    broker.pairs.insert("n1".to_owned(), new.clone());
    broker.restart();
    assert!(broker.try_client(&old, "n1", &["#"]).await.is_err(), "the old certificate is let in");
    assert!(broker.try_client(&new, "n1", &["#"]).await.is_ok(), "{}", broker.log());
}

/// What stands in the list for a node is its anchor; the node's key was made elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_under_its_anchor_is_let_in_and_nobody_else_is() {
    let mut broker = Broker::prepared("");
    let (anchor, listed) = Anchor::generate(&"n1".parse().unwrap()).unwrap();
    broker.pairs.insert("n1".to_owned(), listed.clone());
    broker.run();
    let (key, public) = new_key("n1").unwrap();
    let leaf = |certificate: String, key: &PrivateKey| Pair { certificate, key: key.clone() };
    let node = leaf(anchor.node_with(&public).unwrap(), &key);
    // it is n1 to the rules: it reaches its own subtree
    let mut coordinator = broker.client("n0", &["beehive/v1/c1/n/#"]).await;
    let mut n1 = broker.try_client(&node, "n1", &[]).await.unwrap_or_else(|error| panic!("{error}: {}", broker.log()));
    n1.publish("beehive/v1/c1/n/n2/state", "forged").await;
    n1.publish("beehive/v1/c1/n/n1/state", "end").await;
    assert_eq!(coordinator.until("end").await, Vec::<String>::new());
    // another key needs no change of the list
    let (other, public) = new_key("n1").unwrap();
    let rekeyed = leaf(anchor.node_with(&public).unwrap(), &other);
    assert!(broker.try_client(&rekeyed, "n1", &["#"]).await.is_ok(), "{}", broker.log());
    // the certificate with somebody else's key
    let stolen = leaf(node.certificate.clone(), &other);
    assert!(broker.try_client(&stolen, "n1", &["#"]).await.is_err(), "a certificate without its key is let in");
    // an anchor of the same name that is not in the list
    let (forger, _) = Anchor::generate(&"n1".parse().unwrap()).unwrap();
    let forged = forger.node().unwrap();
    assert!(broker.try_client(&forged, "n1", &["#"]).await.is_err(), "a stranger's anchor vouches");

    // left out of the list: refused, and so is what is renewed under the old one
    let (_, renewed) = Anchor::generate(&"n1".parse().unwrap()).unwrap();
    broker.pairs.insert("n1".to_owned(), renewed);
    broker.restart();
    for old in [&node, &rekeyed] {
        assert!(broker.try_client(old, "n1", &["#"]).await.is_err(), "one of a removed anchor is let in");
    }
}

/// Even whoever had the key of an anchor, which stays with the crew's owner, could pass for that node alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_vouches_for_its_own_node_alone() {
    let mut broker = Broker::prepared("");
    let (_, listed) = Anchor::generate(&"n1".parse().unwrap()).unwrap();
    broker.pairs.insert("n1".to_owned(), listed.clone());
    broker.run();
    let key = rcgen::KeyPair::from_pem(listed.key.expose()).unwrap();
    let signed = |name: &str, is_ca: rcgen::IsCa| {
        let mut parent = rcgen::CertificateParams::default();
        parent.distinguished_name = rcgen::DistinguishedName::new();
        parent.distinguished_name.push(rcgen::DnType::CommonName, "beehive anchor");
        parent.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "n1");
        let mut child = rcgen::CertificateParams::default();
        child.distinguished_name = rcgen::DistinguishedName::new();
        child.distinguished_name.push(rcgen::DnType::CommonName, name);
        child.is_ca = is_ca;
        child.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let child_key = rcgen::KeyPair::generate().unwrap();
        let certificate = child.signed_by(&child_key, &rcgen::Issuer::new(parent, &key)).unwrap().pem();
        Pair { certificate, key: PrivateKey::new(child_key.serialize_pem()) }
    };
    let own = signed("n1", rcgen::IsCa::NoCa);
    assert!(broker.try_client(&own, "n1", &["#"]).await.is_ok(), "this way of forging works: {}", broker.log());
    for name in ["n0", "n2", "user:ann", "n1.x", "beehive anchor"] {
        let forged = signed(name, rcgen::IsCa::NoCa);
        assert!(broker.try_client(&forged, name, &["#"]).await.is_err(), "n1's anchor vouches for {name}");
    }
    // the anchor itself is nobody
    assert!(
        broker.try_client(&listed, "n1", &["#"]).await.map(drop).is_err() || {
            let mut anchor = broker.try_client(&listed, "n1", &["#"]).await.unwrap();
            let mut coordinator = broker.client("n0", &["beehive/v1/c1/n/#"]).await;
            anchor.publish("beehive/v1/c1/n/n1/state", "forged").await;
            broker.client("n2", &[]).await.publish("beehive/v1/c1/n/n2/state", "end").await;
            coordinator.until("end").await.is_empty()
        }
    );
}

/// The way not taken: with a revocation list of the crew's authority that has run out, mosquitto refuses everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_revocation_list_would_lock_everybody_out_and_ours_has_none() {
    let with_list = |not_after| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let certificate = authority.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, &key);
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: not_after,
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&issuer).unwrap().pem().unwrap();
        let mut client = rcgen::CertificateParams::default();
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CommonName, "n1");
        client.distinguished_name = name;
        let client_key = rcgen::KeyPair::generate().unwrap();
        let client = client.signed_by(&client_key, &issuer).unwrap().pem();
        let pair = Pair { certificate: client, key: beehive::crew::tls::PrivateKey::new(client_key.serialize_pem()) };
        (certificate, list, pair)
    };
    for (until, let_in) in [(rcgen::date_time_ymd(2020, 1, 2), false), (rcgen::date_time_ymd(9999, 1, 1), true)] {
        let (authority, list, pair) = with_list(until);
        let mut broker = Broker::prepared("");
        let path = broker.dir.path().join("revoked.crl");
        fs::write(&path, list).unwrap();
        broker.more = format!("crlfile {}\n", path.display());
        // an authority that vouches for clients, as others do it
        broker.pairs.get_mut("n1").unwrap().certificate = authority;
        broker.plan.parts = vec![Part::Node("n1".parse().unwrap())];
        broker.run();
        let end = broker.try_client(&pair, "n1", &["#"]).await.map(drop);
        assert_eq!(end.is_ok(), let_in, "{end:?} {}", broker.log());
    }
    assert!(!Broker::prepared("").plan.config().contains("crlfile"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_key_is_readable_by_its_owner_alone_and_in_no_log() {
    let broker = Broker::start();
    let _client = broker.client("n1", &["beehive/v1/c1/c/state"]).await;
    let path = broker.dir.path().join(file::KEY);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs::read_to_string(path).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!broker.log().contains(secret));
}

/// The whole way of an operator, by the program itself: the files are made, put in place, and somebody is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sets_the_broker_up_and_leaves_somebody_out() {
    let work = tempfile::tempdir().unwrap();
    let (folder, into, conf_d) = (work.path().join("crew"), work.path().join("etc"), work.path().join("conf.d"));
    for dir in [&folder, &conf_d, &work.path().join("store")] {
        fs::create_dir(dir).unwrap();
    }
    let manifest = |nodes: &[&str]| {
        let nodes: Vec<_> = nodes.iter().map(|name| serde_json::json!({ "name": name })).collect();
        let users = [serde_json::json!({ "name": "ann", "role": "operator" })];
        let body = serde_json::json!({ "crew": "c1", "coordinator": "n0", "nodes": nodes, "users": users });
        let text = serde_json::json!({ "v": 1, "key": "", "body": body.to_string(), "sig": "" });
        fs::write(folder.join("manifest.json"), text.to_string()).unwrap();
    };
    // restarts as systemd would: the old one is ended by its pid, the new one started
    let pid = work.path().join("pid");
    let main = work.path().join("main.conf");
    fs::write(
        &main,
        format!(
            "user root\nlog_dest file {}\npid_file {}\npersistence_location {}/\ninclude_dir {}\n",
            work.path().join("log").display(),
            pid.display(),
            work.path().join("store").display(),
            conf_d.display()
        ),
    )
    .unwrap();
    let script = work.path().join("restart");
    let text = format!(
        "#!/bin/sh\nif [ -f {pid} ]; then old=$(cat {pid}); kill $old; while kill -0 $old 2>/dev/null; do :; done; fi\n\
         rm -f {pid}\n{} -d -c {}\n",
        common::mosquitto().display(),
        main.display(),
        pid = pid.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let _end = EndsByPid(pid.clone());
    let port = free_port();
    let beehive = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_beehive")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("PRIVATE KEY"), "{text}");
        (output.status.success(), text)
    };
    let (crew_folder, place) = (folder.to_str().unwrap().to_owned(), into.to_str().unwrap().to_owned());
    let port_text = port.to_string();
    let config = ["broker", "config", &crew_folder, "--dir", &place, "--port", &port_text, "--tool", "ha"];
    let made = folder.join("broker").to_str().unwrap().to_owned();
    let (conf_d, script) = (conf_d.to_str().unwrap().to_owned(), script.to_str().unwrap().to_owned());
    let apply = ["broker", "apply", &made, "--dir", &place, "--conf-d", &conf_d, "--restart", &script];

    manifest(&["n0", "n1", "n2"]);
    let (done, text) = beehive(&config);
    assert!(done && text.starts_with("5 may connect to the broker of crew c1."), "{text}");
    // a unit's umask: mosquitto, which is another user, reads all the same what it has to
    let mut masked = Command::new("sh");
    masked.args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_beehive")]).args(apply);
    let output = masked.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("has been restarted"), "{text}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&into), 0o755);
    for name in [file::CLIENTS, file::CERTIFICATE] {
        assert_eq!(mode(&into.join(name)), 0o644, "{name}");
    }
    assert_eq!(mode(&Path::new(&conf_d).join(file::CONFIG)), 0o644);
    let (done, text) = beehive(&apply);
    assert!(done && text.contains("nothing is new"), "{text}");
    assert_eq!(mode(&into.join(file::KEY)), 0o600);

    let tls = |name: &str| Tls::load(&folder.join(name), &crew()).unwrap();
    let node = |name: &str| {
        Link::spawn(LinkConfig {
            host: "localhost".to_owned(),
            port,
            tls: Some(tls(&format!("nodes/{name}"))),
            client_id: name.to_owned(),
            crew: crew(),
            trust: KEYS.node(name),
            audience: Audience::Node(name.parse().unwrap()),
            presence: None,
        })
    };
    let (_n1, mut n1) = node("n1");
    let (_n2, mut n2) = node("n2");
    up(&mut n1).await;
    up(&mut n2).await;

    manifest(&["n0", "n2"]);
    let (done, text) = beehive(&config);
    assert!(done && text.starts_with("4 may connect"), "{text}");
    let (done, text) = beehive(&apply);
    assert!(done && text.contains("has been restarted"), "{text}");
    up(&mut n2).await;
    // the connection that was there, and the attempt after it; each reason is told once
    let mut told = 0;
    while told < 2 {
        match soon("a refusal", n1.recv()).await.unwrap() {
            LinkEvent::Down { .. } => told += 1,
            LinkEvent::Up { .. } => panic!("one who was left out is let in"),
            LinkEvent::Message(_) | LinkEvent::Refused { .. } => {}
        }
    }
    let (done, text) = beehive(&["broker", "config", &crew_folder, "--renew-node", "n1"]);
    assert!(!done && text.contains("n1 is not in the crew"), "{text}");
}

/// Ends a mosquitto that has made itself a daemon.
struct EndsByPid(std::path::PathBuf);

impl Drop for EndsByPid {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// An interruption between the files and the restart is made good by the next `apply`.
#[test]
fn a_restart_that_failed_is_not_forgotten() {
    use beehive::crew::apply::{ApplyError, Places, apply};
    let broker = Broker::prepared("");
    let work = tempfile::tempdir().unwrap();
    let (into, conf_d) = (work.path().join("etc"), work.path().join("conf.d"));
    fs::create_dir(&conf_d).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plan = Plan { dir: into.clone(), port: listener.local_addr().unwrap().port(), ..broker.plan.clone() };
    let write = |name: &str, text: String| fs::write(broker.dir.path().join(name), text).unwrap();
    write(file::CONFIG, plan.config());
    write(file::ACL, plan.acl());
    write(file::CLIENTS, broker.pair("n1").certificate.clone());
    let places = |restart: &str| Places {
        from: broker.dir.path().to_owned(),
        into: into.clone(),
        conf_d: conf_d.clone(),
        restart: vec![restart.to_owned()],
    };
    assert!(matches!(apply(&places("/bin/false")), Err(ApplyError::Restart(_))));
    assert!(matches!(apply(&places("/bin/false")), Err(ApplyError::Restart(_))), "still due");
    assert_eq!(apply(&places("/bin/true")).unwrap(), beehive::crew::apply::Applied::Restarted);
    assert_eq!(apply(&places("/bin/false")).unwrap(), beehive::crew::apply::Applied::Unchanged);
    write(file::CLIENTS, String::new());
    assert!(matches!(apply(&places("/bin/true")), Err(ApplyError::Content { .. })), "nobody could connect");
}
