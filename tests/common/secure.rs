//! A crew's broker with TLS, certificates and rules as beehive makes them: a real mosquitto, and a client that knows nothing
//! of beehive.

#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{PATIENCE, mosquitto, soon};
use beehive::crew::broker::{Part, Plan, file};
use beehive::crew::files::{self, Access};
use beehive::crew::tls::{Authority, Pair, identity};
use beehive::link::{LinkEvent, Tls};
use beehive_mqtt::CrewName;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS, TlsConfiguration, Transport};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub fn crew() -> CrewName {
    "c1".parse().unwrap()
}

/// A crew's certificates and its broker.
pub struct Broker {
    pub authority: Pair,
    pub pairs: BTreeMap<String, Pair>,
    pub plan: Plan,
    pub dir: tempfile::TempDir,
    pub child: Option<Child>,
    /// What a test adds to the configuration.
    pub more: String,
}

pub fn parts() -> Vec<Part> {
    let node = |name: &str| name.parse().unwrap();
    let user = |name: &str| name.parse().unwrap();
    vec![
        Part::Master(node("n0")),
        Part::Node(node("n1")),
        Part::Node(node("n2")),
        Part::Operator(user("ann")),
        Part::Operator(user("bob")),
        Part::Watcher(user("eve")),
        Part::Bridge(user("door")),
        Part::Tool(user("ha")),
    ]
}

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Broker {
    pub fn start() -> Self {
        let mut broker = Self::prepared("");
        broker.run();
        broker
    }

    pub fn prepared(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (authority, pair) = Authority::generate(&crew()).unwrap();
        let server = authority.broker(&["127.0.0.1".to_owned()]).unwrap();
        let pairs =
            parts().iter().map(|part| (part.identity().common_name(), identity(&part.identity()).unwrap())).collect();
        let plan = Plan { crew: crew(), port: 0, dir: dir.path().to_owned(), parts: parts() };
        files::write(&dir.path().join(file::CERTIFICATE), Access::Public, server.certificate.as_bytes()).unwrap();
        files::write(&dir.path().join(file::KEY), Access::Private, server.key.expose().as_bytes()).unwrap();
        Self { authority: pair, pairs, plan, dir, child: None, more: more.to_owned() }
    }

    /// Writes what the plan says and starts mosquitto, on its port if it has one, else on a free one.
    pub fn run(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let fixed = self.plan.port != 0;
        while self.child.is_none() {
            assert!(Instant::now() < deadline, "mosquitto does not start: {}", log(self.dir.path()));
            if !fixed {
                self.plan.port = free_port();
            }
            self.write();
            self.child = spawn(self.dir.path());
        }
    }

    pub fn write(&self) {
        let dir = self.dir.path();
        let clients: String = self
            .plan
            .parts
            .iter()
            .map(|part| self.pairs[&part.identity().common_name()].certificate.as_str())
            .collect();
        files::write(&dir.join(file::CONFIG), Access::Public, (self.plan.config() + &self.more).as_bytes()).unwrap();
        files::write(&dir.join(file::ACL), Access::Private, self.plan.acl().as_bytes()).unwrap();
        files::write(&dir.join(file::CLIENTS), Access::Public, clients.as_bytes()).unwrap();
        // what the system's own mosquitto.conf says
        let main = format!(
            "user root\nlog_dest stderr\nlog_type all\npersistence_location {}/\ninclude_dir {}\n",
            dir.join("store").display(),
            dir.join("conf.d").display()
        );
        fs::create_dir_all(dir.join("store")).unwrap();
        fs::create_dir_all(dir.join("conf.d")).unwrap();
        fs::copy(dir.join(file::CONFIG), dir.join("conf.d").join(file::CONFIG)).unwrap();
        fs::write(dir.join("main.conf"), main).unwrap();
    }

    /// Ends mosquitto as systemd does.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    pub fn pair(&self, name: &str) -> &Pair {
        &self.pairs[name]
    }

    pub fn tls(&self, pair: &Pair) -> Tls {
        Tls::new(&crew(), &self.authority.certificate, &pair.certificate, &pair.key).unwrap()
    }

    /// A client with the certificate of `name`.
    pub async fn client(&self, name: &str, filters: &[&str]) -> Client {
        let client = self.try_client(self.pair(name), name, filters).await;
        client.unwrap_or_else(|error| panic!("{name} is refused: {error}; {}", self.log()))
    }

    pub async fn try_client(&self, pair: &Pair, id: &str, filters: &[&str]) -> Result<Client, String> {
        let transport = Transport::tls_with_config(TlsConfiguration::Simple {
            ca: self.authority.certificate.clone().into_bytes(),
            alpn: None,
            client_auth: Some((pair.certificate.clone().into_bytes(), pair.key.expose().as_bytes().to_vec())),
        });
        Client::connect(self.plan.port, id, transport, filters).await
    }

    pub fn log(&self) -> String {
        log(self.dir.path())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

pub fn spawn(dir: &Path) -> Option<Child> {
    let mut child = Command::new(mosquitto())
        .arg("-c")
        .arg(dir.join("main.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if log(dir).contains(" running") {
            return Some(child);
        }
        assert!(Instant::now() < deadline, "mosquitto does not start: {}", log(dir));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client that knows nothing of beehive.
pub struct Client {
    pub client: AsyncClient,
    pub messages: mpsc::UnboundedReceiver<Publish>,
    pub acknowledged: mpsc::UnboundedReceiver<()>,
    pub ended: tokio::task::JoinHandle<String>,
}

impl Client {
    pub async fn connect(port: u16, id: &str, transport: Transport, filters: &[&str]) -> Result<Self, String> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_transport(transport);
        options.set_keep_alive(Duration::from_secs(10));
        let (client, mut event_loop) = AsyncClient::new(options, 100);
        let (messages_out, messages) = mpsc::unbounded_channel();
        let (acknowledged_out, acknowledged) = mpsc::unbounded_channel();
        match soon("the handshake", event_loop.poll()).await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {}
            Ok(other) => return Err(format!("{other:?}")),
            Err(error) => return Err(error.to_string()),
        }
        for filter in filters {
            client.subscribe(*filter, QoS::AtLeastOnce).await.unwrap();
        }
        let mut confirmed = 0;
        while confirmed < filters.len() {
            match soon("the subscription", event_loop.poll()).await {
                Ok(Event::Incoming(Packet::SubAck(_))) => confirmed += 1,
                Ok(Event::Incoming(Packet::Publish(publish))) => messages_out.send(publish).unwrap(),
                Ok(_) => {}
                // TLS 1.3 lets a client believe that it is in before its certificate has been looked at
                Err(error) => return Err(error.to_string()),
            }
        }
        let ended = tokio::spawn(async move {
            loop {
                match event_loop.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => drop(messages_out.send(publish)),
                    Ok(Event::Incoming(Packet::PubAck(_))) => drop(acknowledged_out.send(())),
                    Ok(_) => {}
                    Err(error) => return error.to_string(),
                }
            }
        });
        Ok(Self { client, messages, acknowledged, ended })
    }

    /// Publishes and waits for the acknowledgement, which comes for a refused one, too.
    pub async fn publish(&mut self, topic: &str, payload: &str) {
        self.publish_as(topic, payload, Kept::No).await;
    }

    pub async fn publish_as(&mut self, topic: &str, payload: &str, kept: Kept) {
        self.client.publish(topic, QoS::AtLeastOnce, kept == Kept::Yes, payload).await.unwrap();
        soon("the acknowledgement", self.acknowledged.recv()).await.expect("the connection is lost");
    }

    /// What came until the message `last`.
    pub async fn until(&mut self, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let publish = soon("the last message", self.messages.recv()).await.expect("the connection is lost");
            let text = format!("{} {}", publish.topic, String::from_utf8_lossy(&publish.payload));
            if publish.payload == last {
                return all;
            }
            all.push(text);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Yes,
    No,
}

pub async fn up(events: &mut mpsc::Receiver<LinkEvent>) {
    soon("the link to come up", async {
        loop {
            match events.recv().await.expect("the link has ended") {
                LinkEvent::Up { .. } => return,
                LinkEvent::Down { .. } | LinkEvent::Message(_) | LinkEvent::Refused { .. } => {}
            }
        }
    })
    .await;
}
