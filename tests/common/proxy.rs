//! A network that fails on demand: a TCP proxy in this process, between MQTT clients and a broker. It knows where an MQTT
//! packet begins and ends, so that it can lose whole packets, or cut a connection in the middle of one.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the network does to connections, those that are there and those that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Fair,
    /// Each packet arrives this much later.
    Slow(Duration),
    /// Packets vanish, in both directions, and nobody learns that the other end has gone: a half-open connection.
    BlackHole,
    /// Packets from clients vanish, those to them arrive.
    Deaf,
    /// Nothing is read from this side any more; it will find its own buffers full.
    StopReading(Side),
    /// Connections are reset, the present ones and the new ones.
    Reset,
}

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Broker,
}

/// The kinds of MQTT packets that a rule can name: the upper half of the first byte (MQTT 3.1.1, table 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    Subscribe = 8,
    SubAck = 9,
    PingReq = 12,
    PingResp = 13,
}

/// What becomes of certain packets.
#[derive(Debug, Clone, Copy)]
struct Rule {
    from: Side,
    kind: Kind,
    /// How many of them pass first.
    after: usize,
    deed: Deed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// This one and all that follow vanish.
    Swallow,
    /// Its first half passes, then the connection is reset. The rule is used up.
    CutInTheMiddle,
}

enum Verdict {
    Pass,
    Swallow,
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sky {
    weather: Weather,
    /// Grows when all connections are to be reset.
    storms: u32,
}

struct Shared {
    rules: Mutex<Vec<Rule>>,
    sky: watch::Receiver<Sky>,
    to: u16,
    accepted: watch::Sender<u32>,
    cuts: watch::Sender<u32>,
    lost: watch::Sender<u32>,
    swallowed: watch::Sender<u32>,
}

impl Shared {
    fn lose(&self, from: Side, packet: &[u8]) {
        if from == Side::Client && packet[0] >> 4 == Kind::Publish as u8 {
            self.lost.send_modify(|count| *count += 1);
        }
    }
}

/// The proxy. It ends with the value.
pub struct Proxy {
    /// Where clients connect.
    pub port: u16,
    sky: watch::Sender<Sky>,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A proxy before the broker at `to`, in fair weather.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sky, sky_in) = watch::channel(Sky { weather: Weather::Fair, storms: 0 });
        let shared = Arc::new(Shared {
            rules: Mutex::new(Vec::new()),
            sky: sky_in,
            to,
            accepted: watch::channel(0).0,
            cuts: watch::channel(0).0,
            lost: watch::channel(0).0,
            swallowed: watch::channel(0).0,
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, sky, shared, task }
    }

    pub fn set(&self, weather: Weather) {
        self.sky.send_modify(|sky| sky.weather = weather);
    }

    /// Resets every connection that is there now, once.
    pub fn reset_all(&self) {
        self.sky.send_modify(|sky| sky.storms += 1);
    }

    /// After `after` more packets of this kind, the next goes through by half, and its connection is reset.
    pub fn cut_in_the_middle(&self, from: Side, kind: Kind, after: usize) {
        self.rule(Rule { from, kind, after, deed: Deed::CutInTheMiddle });
    }

    /// After `after` more packets of this kind, all of them vanish, until [`Proxy::clear`].
    pub fn swallow(&self, from: Side, kind: Kind, after: usize) {
        self.rule(Rule { from, kind, after, deed: Deed::Swallow });
    }

    fn rule(&self, rule: Rule) {
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// Forgets all rules.
    pub fn clear(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// How many connections have been accepted so far.
    pub fn accepted(&self) -> watch::Receiver<u32> {
        self.shared.accepted.subscribe()
    }

    /// How many publishes have vanished on their way from a client.
    pub fn lost(&self) -> watch::Receiver<u32> {
        self.shared.lost.subscribe()
    }

    /// How many packets [`Proxy::swallow`] has made vanish.
    pub fn swallowed(&self) -> watch::Receiver<u32> {
        self.shared.swallowed.subscribe()
    }

    /// How many connections were cut in the middle of a packet.
    pub fn cuts(&self) -> watch::Receiver<u32> {
        self.shared.cuts.subscribe()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut all = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        shared.accepted.send_modify(|count| *count += 1);
        all.spawn(carry(client, Arc::clone(&shared)));
        while all.try_join_next().is_some() {}
    }
}

/// How a connection ends for the two ends that the proxy talks to.
enum End {
    /// As one of them wanted.
    Orderly,
    Reset,
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let mut sky = shared.sky.clone();
    let storms = sky.borrow().storms;
    if sky.borrow().weather == Weather::Reset {
        let _ = client.set_zero_linger();
        return;
    }
    let Ok(broker) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, shared.to))).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (mut client_in, mut client_out) = client.into_split();
    let (mut broker_in, mut broker_out) = broker.into_split();
    let end = tokio::select! {
        end = pump(Side::Client, &mut client_in, &mut broker_out, &shared) => end,
        end = pump(Side::Broker, &mut broker_in, &mut client_out, &shared) => end,
        _ = sky.wait_for(|sky| sky.weather == Weather::Reset || sky.storms != storms) => End::Reset,
    };
    match end {
        End::Orderly => {}
        End::Reset => {
            let _ = client_out.as_ref().set_zero_linger();
            let _ = broker_out.as_ref().set_zero_linger();
        }
    }
}

async fn pump(from: Side, source: &mut OwnedReadHalf, sink: &mut OwnedWriteHalf, shared: &Shared) -> End {
    let mut sky = shared.sky.clone();
    let mut held = Vec::new();
    loop {
        if sky.wait_for(|sky| sky.weather != Weather::StopReading(from)).await.is_err() {
            return End::Orderly;
        }
        let before = held.len();
        tokio::select! {
            biased;
            // a new weather: look again
            changed = sky.changed() => if changed.is_err() { return End::Orderly } else { continue },
            read = source.read_buf(&mut held) => match read {
                Ok(_) if held.len() > before => {}
                ended => {
                    // in a black hole nobody hears of it
                    let _ = sky.wait_for(|sky| sky.weather != Weather::BlackHole).await;
                    return if ended.is_ok() { End::Orderly } else { End::Reset };
                }
            },
        }
        while let Some(length) = packet_length(&held) {
            let packet: Vec<u8> = held.drain(..length).collect();
            let weather = sky.borrow().weather;
            match weather {
                Weather::BlackHole => {
                    shared.lose(from, &packet);
                    continue;
                }
                Weather::Deaf if from == Side::Client => {
                    shared.lose(from, &packet);
                    continue;
                }
                // the network's own time, not the test's
                Weather::Slow(by) => tokio::time::sleep(by).await,
                Weather::Fair | Weather::Deaf | Weather::StopReading(_) | Weather::Reset => {}
            }
            let (part, end) = match judge(from, &packet, shared) {
                Verdict::Swallow => {
                    shared.swallowed.send_modify(|count| *count += 1);
                    continue;
                }
                Verdict::Pass => (packet.as_slice(), None),
                Verdict::Cut => (&packet[..packet.len() / 2], Some(End::Reset)),
            };
            if sink.write_all(part).await.is_err() {
                return End::Reset;
            }
            if let Some(end) = end {
                shared.cuts.send_modify(|count| *count += 1);
                return end;
            }
        }
    }
}

fn judge(from: Side, packet: &[u8], shared: &Shared) -> Verdict {
    let mut rules = shared.rules.lock().unwrap();
    let fits = |rule: &Rule| rule.from == from && rule.kind as u8 == packet[0] >> 4;
    let Some(index) = rules.iter().position(fits) else { return Verdict::Pass };
    if rules[index].after > 0 {
        rules[index].after -= 1;
        return Verdict::Pass;
    }
    match rules[index].deed {
        Deed::Swallow => Verdict::Swallow,
        Deed::CutInTheMiddle => {
            rules.remove(index);
            Verdict::Cut
        }
    }
}

/// The length of the first packet, once all of it is here: one byte, the remaining length in one to four bytes of seven
/// bits each, lowest first, and the rest (MQTT 3.1.1, 2.2.3).
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut remaining = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let length = 2 + index + remaining;
            return (bytes.len() >= length).then_some(length);
        }
    }
    None
}
