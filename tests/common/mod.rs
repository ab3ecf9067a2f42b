//! What tests of the whole program share: a real mosquitto, and a client that knows nothing of beehive.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
use std::fs::{self, File};
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub mod proxy;

/// How long anything may take that happens at once on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The largest message that the broker takes, as our documentation asks for: below the client's packet limit.
pub const MESSAGE_SIZE_LIMIT: usize = 120 * 1024;

/// A mosquitto of the test's own, on loopback, without persistence: a restart forgets everything. It ends with the value.
pub struct Mosquitto {
    pub port: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
    limits: String,
}

impl Mosquitto {
    /// Starts one on a free port. To ask the kernel for a free port and hand it to mosquitto is a race, so it counts only
    /// when mosquitto itself says that it listens; if somebody was faster, it takes another port.
    pub fn start() -> Self {
        Self::with_limits(10_000, MESSAGE_SIZE_LIMIT)
    }

    /// As [`Mosquitto::start`], with other limits than our documentation asks for: how many messages it queues for a
    /// client, and how large a message may be (0: no limit).
    pub fn with_limits(queued: usize, message_bytes: usize) -> Self {
        let limits = format!("max_queued_messages {queued}\nmessage_size_limit {message_bytes}\n");
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if let Some(child) = spawn(dir.path(), port, &limits) {
                return Self { port, dir, child: Some(child), limits };
            }
        }
        panic!("mosquitto finds no free port; its last words: {}", log(dir.path()));
    }

    /// Ends it as a power cut would (SIGKILL, by its own pid).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills it if it runs, and starts it on the same port.
    pub fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + PATIENCE;
        while self.child.is_none() {
            self.child = spawn(self.dir.path(), self.port, &self.limits);
            assert!(Instant::now() < deadline, "mosquitto does not come back: {}", log(self.dir.path()));
        }
    }

    /// Its process, to freeze and thaw it.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map(Child::id).expect("mosquitto does not run")
    }

    /// What it logged since its last start.
    pub fn log(&self) -> String {
        log(self.dir.path())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

pub fn mosquitto() -> PathBuf {
    // Debian has it in a folder that is not in everybody's path
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|place| place.join("mosquitto"))
        .find(|path| path.is_file())
        .expect("mosquitto is not installed: apt-get install mosquitto")
}

/// `None` if it ends instead of listening.
fn spawn(dir: &Path, port: u16, limits: &str) -> Option<Child> {
    let config = dir.join("mosquitto.conf");
    // "user" only matters to root, whose folder the user "mosquitto" could not read; no delay, as `beehive broker config`
    // has it: small messages that are answered would wait 40 ms each
    let text = format!(
        "user root\nset_tcp_nodelay true\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n{limits}\
         log_dest stderr\nlog_type all\n"
    );
    fs::write(&config, text).unwrap();
    let output = File::create(dir.join("log")).unwrap();
    let mut child = Command::new(mosquitto())
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        // its last words before the main loop; the listeners are open by then
        if log(dir).contains(" running") {
            return Some(child);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("mosquitto does not start: {}", log(dir));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for `future`, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// A plain MQTT client, as mosquitto_pub and mosquitto_sub together.
pub struct Plain {
    client: AsyncClient,
    messages: mpsc::UnboundedReceiver<Publish>,
    acknowledged: mpsc::UnboundedReceiver<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Plain {
    /// Connects, and subscribes to `filters`.
    pub async fn connect(port: u16, id: &str, filters: &[&str]) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_keep_alive(Duration::from_secs(10));
        let (client, mut event_loop) = AsyncClient::new(options, 100);
        let (messages_out, messages) = mpsc::unbounded_channel();
        let (acknowledged_out, acknowledged) = mpsc::unbounded_channel();
        let (ready_out, mut ready) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok(event) = event_loop.poll().await {
                let _ = match event {
                    Event::Incoming(Packet::ConnAck(_) | Packet::SubAck(_)) => ready_out.send(()).is_ok(),
                    Event::Incoming(Packet::Publish(publish)) => messages_out.send(publish).is_ok(),
                    Event::Incoming(Packet::PubAck(_)) => acknowledged_out.send(()).is_ok(),
                    Event::Incoming(_) | Event::Outgoing(_) => true,
                };
            }
        });
        soon("the plain client's connection", ready.recv()).await.expect("the plain client cannot connect");
        for filter in filters {
            client.subscribe(*filter, QoS::AtLeastOnce).await.unwrap();
            soon("the plain client's subscription", ready.recv()).await.unwrap();
        }
        Self { client, messages, acknowledged, task }
    }

    /// Publishes and waits until the broker has it.
    pub async fn publish(&mut self, topic: &str, retain: Retain, payload: &[u8]) {
        self.publish_carelessly(topic, retain, payload).await;
        soon("the broker's acknowledgement", self.acknowledged.recv()).await.expect("the plain client lost the broker");
    }

    /// Publishes.
    pub async fn publish_carelessly(&self, topic: &str, retain: Retain, payload: &[u8]) {
        let retain = matches!(retain, Retain::Yes);
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).await.unwrap();
    }

    /// Publishes at quality of service 0.
    pub async fn publish_at_most_once(&self, topic: &str, payload: &[u8]) {
        self.client.publish(topic, QoS::AtMostOnce, false, payload).await.unwrap();
    }

    /// The next message.
    pub async fn next(&mut self, what: &str) -> Publish {
        soon(what, self.messages.recv()).await.expect("the plain client lost the broker")
    }

    /// The next message, however long it takes.
    pub async fn next_or_end(&mut self) -> Publish {
        self.messages.recv().await.expect("the plain client lost the broker")
    }

    /// The next message that `wanted` holds for.
    pub async fn find(&mut self, what: &str, wanted: impl Fn(&Publish) -> bool) -> Publish {
        soon(what, async {
            loop {
                let publish = self.messages.recv().await.expect("the plain client lost the broker");
                if wanted(&publish) {
                    return publish;
                }
            }
        })
        .await
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The retain flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    Yes,
    No,
}
