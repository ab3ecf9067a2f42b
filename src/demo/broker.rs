//! The demo's broker: rumqttd within this process, on a free port of 127.0.0.1.
//!
//! Facts it rests on (rumqttd 0.20, tried): it is fit for a demo and for nothing else. It has no end, so it lives in a
//! thread that ends with the process. It hands one subscriber at most 100 retained messages (200 at quality of service
//! 0), so after a restart of the console the rest of a large crew comes with the next heartbeat.

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings, Strategy};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How often a port is tried: between the moment that it is found free and the broker's bind somebody may take it.
const ATTEMPTS: u32 = 20;

/// How long a broker may take to listen. It takes a few milliseconds.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);

/// The wait between two looks whether it listens.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The most connections: 50 agents, a coordinator, the console, and clients of whoever wants to watch.
const MAX_CONNECTIONS: usize = 200;

/// Starts a broker that lives as long as this process, and gives its address. It blocks until the broker listens.
///
/// # Errors
/// If no port can be had.
pub(super) fn start() -> anyhow::Result<SocketAddr> {
    let mut last = anyhow::anyhow!("it did not start");
    for _ in 0..ATTEMPTS {
        match attempt() {
            Ok(address) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last.context("the embedded broker cannot listen on 127.0.0.1"))
}

fn attempt() -> anyhow::Result<SocketAddr> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = free.local_addr()?;
    drop(free);
    let config = config(address);
    let broker = std::thread::Builder::new().name("demo-broker".to_owned()).spawn(move || {
        // whether it failed is seen by whoever waits for it below
        let _ = Broker::new(config).start();
    })?;
    let deadline = Instant::now() + LISTENS_WITHIN;
    while !broker.is_finished() && Instant::now() < deadline {
        if TcpStream::connect(address).is_ok() {
            return Ok(address);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    anyhow::bail!("nothing listens on {address}")
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        // above the largest message of the protocol
        max_payload_size: 128 * 1024,
        max_inflight_count: 200,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server =
        ServerSettings { name: "demo".to_owned(), listen, tls: None, next_connection_delay_ms: 0, connections };
    let router = RouterConfig {
        max_connections: MAX_CONNECTIONS,
        max_outgoing_packet_count: 200,
        max_segment_size: 1024 * 1024,
        max_segment_count: 10,
        custom_segment: None,
        initialized_filters: None,
        shared_subscriptions_strategy: Strategy::default(),
    };
    Config {
        id: 0,
        router,
        v4: Some(HashMap::from([("demo".to_owned(), server)])),
        v5: None,
        ws: None,
        cluster: None,
        console: None,
        bridge: None,
        prometheus: None,
        metrics: None,
    }
}
