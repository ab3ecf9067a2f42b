//! After nodes were enrolled: the running crew is told its new manifest, and nodes that are to join at once are joined.

use std::collections::{BTreeMap, BTreeSet};

use beehive_mqtt::NodeName;
use beehive_mqtt::console::ResponseStatus;
use beehive_mqtt::coordinator::ClusterPhase;
use beehive_mqtt::node::Lifecycle;
use tokio::time::Instant;

use super::exit::{ExitCode, Trouble};
use super::model::{CrewView, Seen};
use super::order::Order;
use super::session::{Heard as Event, Session, interrupted};
use super::{crew_of, render};
use crate::cli::{Acting, ConsoleOptions, EngineVersion, JoinNode, NodeCommand, OnNode};

/// What is wanted of the crew.
#[derive(Debug, Clone)]
pub enum Wish {
    /// That it knows its manifest.
    Know,
    /// And that these join its cluster, as soon as they are heard and if there is one.
    Join(Vec<NodeName>),
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// What was said of each join.
    pub joins: BTreeMap<NodeName, String>,
}

/// Publishes the manifest that this user's folder has, until the broker has it; and asks for the joins. The manifest is signed by
/// the crew's own key: whoever passes it on need not be believed.
///
/// # Errors
/// If the crew cannot be reached or told until `limit`.
pub async fn tell(options: &ConsoleOptions, wish: &Wish, limit: Instant) -> Result<Heard, Trouble> {
    let mut session = Session::open(options, crew_of(options)?)?;
    let told = told(&mut session, wish, limit).await;
    session.close().await;
    told
}

/// Which of these nodes the crew hears: what they say is signed with the keys that the manifest has for them.
///
/// # Errors
/// If the crew cannot be reached until `limit`.
pub async fn heard_of(options: &ConsoleOptions, nodes: &[NodeName], limit: Instant) -> Result<Vec<NodeName>, Trouble> {
    let mut session = Session::open(options, crew_of(options)?)?;
    let collected = match session.connect(limit).await {
        Ok(()) => session.collect(limit).await,
        Err(trouble) => Err(trouble),
    };
    let speaks = |node: &&NodeName| session.view.node(node).is_some_and(|found| found.state.is_some());
    let heard = nodes.iter().filter(speaks).cloned().collect();
    session.close().await;
    collected.map(|()| heard)
}

async fn told(session: &mut Session, wish: &Wish, limit: Instant) -> Result<Heard, Trouble> {
    // the master of a new crew puts its broker in place at this very moment: there is no haste
    while session.down.is_some() {
        match session.next(limit).await {
            Event::Up | Event::Down | Event::Applied(_) | Event::Response(_) => {}
            Event::Time => {
                let reason = session.down.clone().unwrap_or_default();
                return Err(Trouble::new(
                    ExitCode::Unreachable,
                    "the crew's broker cannot be reached",
                    reason,
                    "when it runs, `beehive crew enrol` again tells the crew",
                ));
            }
            Event::Interrupt => return Err(interrupted()),
        }
    }
    session.publish_manifest();
    while !session.manifest_is_known() {
        match session.next(limit).await {
            // what was not sent on the connection before is sent on this one
            Event::Up | Event::Down | Event::Applied(_) | Event::Response(_) => {}
            Event::Time => {
                return Err(Trouble::new(
                    ExitCode::OutcomeUnknown,
                    "the broker does not hand the new manifest on",
                    "its rules may be of before operators could publish it, or this user is no operator",
                    "`beehive broker config`, and apply it on the broker's machine; or copy manifest.json to the master's identity",
                ));
            }
            Event::Interrupt => return Err(interrupted()),
        }
    }
    let mut heard = Heard::default();
    let Wish::Join(nodes) = wish else { return Ok(heard) };
    let mut left: BTreeSet<NodeName> = nodes.iter().cloned().collect();
    while !left.is_empty() {
        let next = left.iter().map(|node| (node.clone(), may_join(&session.view, node, session.now_ms())));
        let next = next.into_iter().find(|(_, may)| *may != May::Later);
        if let Some((node, may)) = next {
            left.remove(&node);
            let said = match may {
                May::Now => join(session, &node, limit).await?,
                May::NoCluster => {
                    "does not join: there is no cluster yet; `beehive cluster create` takes it in".to_owned()
                }
                May::Later => continue,
            };
            heard.joins.insert(node, said);
            continue;
        }
        match session.next(limit).await {
            Event::Up | Event::Down | Event::Applied(_) | Event::Response(_) => {}
            Event::Time => break,
            Event::Interrupt => return Err(interrupted()),
        }
    }
    for node in left {
        let said = "not asked to join: it was not heard as a blank node of a crew that has a cluster";
        heard.joins.insert(node, said.to_owned());
    }
    Ok(heard)
}

/// Whether a node may be asked to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// It is blank and there, and there is a cluster.
    Now,
    /// Not yet.
    Later,
    /// There is no cluster that it could join.
    NoCluster,
}

fn may_join(view: &CrewView, node: &NodeName, now_ms: u64) -> May {
    let Some(coordinator) = view.coordinator() else { return May::Later };
    let blank = view.node(node).is_some_and(|found| {
        found.seen(now_ms) == Seen::Online
            && found.state.as_ref().is_some_and(|state| state.lifecycle == Lifecycle::Blank)
    });
    match coordinator.phase {
        ClusterPhase::Absent => May::NoCluster,
        ClusterPhase::Ready | ClusterPhase::Degraded if blank && coordinator.operation.is_none() => May::Now,
        ClusterPhase::Ready | ClusterPhase::Degraded | ClusterPhase::Changing => May::Later,
    }
}

async fn join(session: &mut Session, node: &NodeName, limit: Instant) -> Result<String, Trouble> {
    let acting = Acting { dry_run: false, wait: false, force: false, yes: true };
    let command =
        NodeCommand::Join(JoinNode { on: OnNode { node: node.clone(), acting }, engine: EngineVersion::default() });
    let Some((order, _)) = Order::on_node(&command) else { return Ok("no join could be asked for".to_owned()) };
    let response = session.ask(&order, limit).await?;
    Ok(match response.status {
        ResponseStatus::Started | ResponseStatus::Done | ResponseStatus::Planned => "joins the cluster".to_owned(),
        ResponseStatus::Unchanged => "is in the cluster already".to_owned(),
        ResponseStatus::Refused
        | ResponseStatus::UnknownNode
        | ResponseStatus::NotAuthorised
        | ResponseStatus::Invalid
        | ResponseStatus::Failed => {
            format!(
                "does not join: {} ({})",
                render::clean(response.text.as_str()),
                render::clean(response.code.as_str())
            )
        }
    })
}
