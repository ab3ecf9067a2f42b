//! `beehive run`: the daemon of a real Pi. The agent always; on the master the coordinator too, which starts after the
//! agent and has a link of its own. Either may lose the broker at any moment and finds its way back.

use crate::agent::{self, AgentEnd, AgentParts, AgentSettings};
use crate::config::{Config, DEFAULT_KEYS_DIR, EngineKind, TlsSwitch};
use crate::coordinator::{self, CoordinatorParts};
use crate::crew::keys::{CrewKeys, NewCrew};
use crate::engine::simulated::Settings;
use crate::engine::{Engine, RootEngine, SimulatedEngine};
use crate::hal;
use crate::host::{Doors, Host, LinuxHost};
use crate::keys::{CREDENTIALS, KeyPlace, Standing, Trust};
use crate::kube::{ApiKubernetes, ControlPlane, Kubernetes, SimulatedKubernetes};
use crate::link::{Link, LinkConfig, Network, OwnPresence, Tls};
use crate::release;
use crate::store::Store;
use anyhow::Context;
use beehive_mqtt::node::{BrokerTrust, Role};
use beehive_mqtt::{Audience, Topic};
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// How long a drain of the simulated Kubernetes takes.
const SIMULATED_DRAIN_MS: u64 = 500;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If the state folder cannot be used, or a record in it cannot be read.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let (stop_out, stop) = watch::channel(());
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
            _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        }
        drop(stop_out);
    });

    if config.broker_trust() == BrokerTrust::InsecureTest {
        tracing::warn!(
            host = config.broker.host,
            "insecure_test_broker: this wire is not encrypted; verbs that destroy are refused unless the \
             engine is the simulated one"
        );
    }
    let keys = KeyPlace::of(&config.keys.dir, Path::new(DEFAULT_KEYS_DIR), std::env::var_os(CREDENTIALS));
    let mut network = Network::Up;
    let tls = match config.broker.tls {
        TlsSwitch::On => match keys.tls(&config.crew) {
            Ok(tls) => Some(tls),
            // the button is more than the wire: without certificates this Pi connects to nobody and works alone
            Err(error) => {
                tracing::error!(
                    "tls = \"on\" in [broker], and {error}; this Pi connects to no broker until it has its certificates and \
                     is started again; the button works"
                );
                network = Network::Cut;
                None
            }
        },
        TlsSwitch::Off => None,
    };
    full_speed_on_panic(&config);
    let store = Store::open(&config.state_dir)?;
    let start = store.counter(agent::START)?;
    let host = Arc::new(LinuxHost::new(&config.run_dir)?);
    let plane = match config.role {
        Role::Master => Some(ControlPlane::open(store.clone()).map_err(|error| anyhow::anyhow!("{}", error.reason))?),
        Role::Node => None,
    };
    let engine = engine(&config, &store, plane.clone()).await?;
    let own_engine = Arc::clone(&engine);
    let board = hal::open(&config);
    let (doors, knocks) = Doors::attend(&config.run_dir, config.power.inhibit_ms());
    let presence = OwnPresence { topic: Topic::Presence(config.node.clone()), start };
    let (trust, place) = trust(&config, &keys, &store)?;
    match trust.keyring.standing(&presence.topic, &trust.signer.public()) {
        Standing::Writer | Standing::Vacant => {}
        Standing::Replaced => {
            tracing::error!("{}", agent::replaced(&config.node));
            network = Network::Cut;
        }
    }
    let (link, inbound) = Link::spawn(link_config(
        &config,
        &trust,
        tls.clone(),
        config.node.as_str(),
        Audience::Node(config.node.clone()),
        presence,
    ));
    // before it has had a chance to connect: nothing was awaited since
    link.set_network(network);
    let inbound = match release::watch::on_trial() {
        Some(own) => release::watch::confirm_when_heard(own, &config.run_dir, &link, inbound),
        None => inbound,
    };
    let parts = AgentParts {
        settings: agent_settings(&config, start),
        board,
        engine,
        host: Arc::clone(&host) as Arc<dyn Host>,
        store: store.clone(),
        link,
        inbound,
        doors,
        knocks,
    };
    let agent = agent::run(parts, ended(stop.clone()));

    // a stranger coordinates nothing, and neither does who speaks to nobody
    match plane.filter(|_| place == Place::Member && network == Network::Up) {
        None => ended_well(agent.await?)?,
        Some(plane) => {
            let (link, inbound) = coordinator_link(&config, &trust, tls, start);
            let parts = CoordinatorParts {
                config: config.coordinator(),
                kubernetes: kubernetes(&config, own_engine, plane),
                outside: config.outside(),
                store,
                audit: config.state_dir.join(crate::audit::FOLDER),
                link,
                inbound,
            };
            // the agent's first actions are done before its future waits for the first time
            let over = Notify::new();
            let agent = async {
                let end = agent.await;
                over.notify_one();
                end
            };
            let stopped = async {
                tokio::select! {
                    () = ended(stop.clone()) => {}
                    () = over.notified() => {}
                }
            };
            let coordinator = coordinator::run(parts, stopped);
            let (agent, coordinator) = tokio::join!(biased; agent, coordinator);
            coordinator?;
            ended_well(agent?)?;
        }
    }
    Ok(())
}

/// The simulated engine lives in this process; a real one needs root and lives in the root unit.
async fn engine(config: &Config, store: &Store, plane: Option<ControlPlane>) -> anyhow::Result<Arc<dyn Engine>> {
    match config.engine.kind {
        EngineKind::Simulated => {
            let settings = Settings {
                step_ms: config.engine.step_ms,
                program: config.engine.step_program.clone(),
                ..Settings::default()
            };
            Ok(Arc::new(SimulatedEngine::new(config.node.clone(), store.clone(), plane, settings)?))
        }
        kind @ (EngineKind::K3s | EngineKind::Kubeadm) => {
            let socket = config.run_dir.join(crate::engine::root::SOCKET);
            Ok(Arc::new(RootEngine::open(kind.as_str(), &socket, store.clone()).await?))
        }
    }
}

/// A real engine has a real API server, which the client is let into by what the engine shows of it.
fn kubernetes(config: &Config, engine: Arc<dyn Engine>, plane: ControlPlane) -> Arc<dyn Kubernetes> {
    match config.engine.kind {
        EngineKind::Simulated => Arc::new(SimulatedKubernetes::new(plane, SIMULATED_DRAIN_MS)),
        EngineKind::K3s | EngineKind::Kubeadm => {
            Arc::new(ApiKubernetes::new(engine, config.drain(), config.node.clone()))
        }
    }
}

fn ended_well(end: AgentEnd) -> anyhow::Result<()> {
    match end {
        AgentEnd::Stopped | AgentEnd::LinkEnded => Ok(()),
        AgentEnd::CalledOff => Err(anyhow::anyhow!(
            "a shutdown was announced and called off after this node was emptied; starting afresh brings its engine back"
        )),
    }
}

/// A panic ends the process at once (profile `pi`), so nothing is dropped: the fan is seen to here.
fn full_speed_on_panic(config: &Config) {
    let config = config.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Err(error) = hal::give_back::fan_to_full_speed(&config) {
            eprintln!("beehive: {error}");
        }
        before(panic);
    }));
}

fn agent_settings(config: &Config, start: u32) -> AgentSettings {
    AgentSettings {
        node: config.node.clone(),
        role: config.role,
        start,
        thresholds: config.button,
        deadlines: config.power,
        feed: config.feed,
        destruction: config.destruction(),
        broker: config.broker_trust(),
        sensors_every_ms: config.poe_hat.poll_ms,
    }
}

/// Whether this machine has keys of the crew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Member,
    Stranger,
}

/// Our keys, and whom we believe. A Pi without keys is a stranger to its crew: nobody believes it, it believes nobody and
/// coordinates nothing, and its button works.
fn trust(config: &Config, keys: &KeyPlace, store: &Store) -> anyhow::Result<(Trust, Place)> {
    let dir = keys.kept();
    let trust = keys.identity().map_err(anyhow::Error::from).and_then(|identity| {
        if identity.crew != config.crew || identity.name != config.node.as_str() {
            let (crew, name) = (&identity.crew, &identity.name);
            anyhow::bail!("the keys in {} are of {name} in crew {crew}", dir.display());
        }
        Ok(identity.trust(Some(store.clone()))?)
    });
    match trust {
        Ok(trust) => Ok((trust, Place::Member)),
        Err(error) => {
            tracing::error!(
                "no keys of {} in crew {}: {error:#}; nobody believes this Pi until it has them, it takes no command and \
                 coordinates nothing; the button works. Copy nodes/{} of the crew's folder to {}, and start beehive.service again",
                config.node,
                config.crew,
                config.node,
                dir.display()
            );
            let alone = NewCrew { crew: config.crew.clone(), nodes: vec![config.node.clone()], users: Vec::new() };
            let identity = CrewKeys::generate(&alone)?.node(&config.node)?;
            Ok((identity.trust(None)?, Place::Stranger))
        }
    }
}

fn coordinator_link(
    config: &Config,
    trust: &Trust,
    tls: Option<Tls>,
    start: u32,
) -> (Link, tokio::sync::mpsc::Receiver<crate::link::LinkEvent>) {
    let presence = OwnPresence { topic: Topic::CoordinatorPresence, start };
    let client = format!("{}-coordinator", config.node);
    Link::spawn(link_config(config, trust, tls, &client, Audience::Coordinator, presence))
}

fn link_config(
    config: &Config,
    trust: &Trust,
    tls: Option<Tls>,
    client_id: &str,
    audience: Audience,
    presence: OwnPresence,
) -> LinkConfig {
    LinkConfig {
        host: config.broker.host.clone(),
        port: config.broker.port,
        tls,
        client_id: client_id.to_owned(),
        crew: config.crew.clone(),
        audience,
        presence: Some(presence),
        trust: trust.clone(),
    }
}

/// Resolves when the sender is dropped.
async fn ended(mut stop: watch::Receiver<()>) {
    while stop.changed().await.is_ok() {}
}
