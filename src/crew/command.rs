//! `beehive broker …`: from the command line to the folder.

use super::apply::{Applied, Places, apply};
use super::broker::PORT;
use super::folder::{Folder, Site};
use super::keys::{Change, KeyFolder, NewCrew};
use super::tls::Identity;
use crate::cli::{
    BROKER_DIR, BrokerApplyArgs, BrokerCommand, BrokerConfigArgs, ConsoleOptions, CrewCommand, crews_dir,
};
use beehive_mqtt::NodeName;
use beehive_mqtt::manifest::UserRole;

/// Carries `command` out, and says what it did and what is to be done next.
///
/// # Errors
/// Says what could not be done; then nothing was changed.
pub fn crew(command: &CrewCommand, options: &ConsoleOptions) -> anyhow::Result<String> {
    let (folder, change) = match command {
        CrewCommand::Init { crew, dir, nodes, operators } => {
            let dir = dir.clone().unwrap_or_else(|| crews_dir().join(crew.as_str()));
            let operators = if operators.is_empty() { vec![options.user()] } else { operators.clone() };
            let users = operators.into_iter().map(|user| (user, UserRole::Operator)).collect();
            KeyFolder::new(&dir).init(&NewCrew { crew: crew.clone(), nodes: nodes.clone(), users })?;
            let site = Site { dir: BROKER_DIR.into(), port: PORT, hosts: Vec::new() };
            let folder = Folder::new(&dir);
            folder.write(&site, &[])?;
            return Ok(format!(
                "crew {crew}: {} nodes; {} coordinates. {} holds its keys and certificates.\nKeep {} off the Pis, and keep a \
                 copy of it.\nNext: copy nodes/NODE to /etc/beehive/identity on each Pi, and {} to the broker's machine; run \
                 there, as root:\n  beehive broker apply broker\n(`beehive broker config {}` makes it for another port, place \
                 or name, and lets tools in)\n",
                nodes.len(),
                nodes.first().map_or("nobody", NodeName::as_str),
                dir.display(),
                dir.join("crew.key").display(),
                folder.broker().display(),
                dir.display()
            ));
        }
        CrewCommand::AddNode { node, of } => (of, Change::Node(node.clone())),
        CrewCommand::AddUser { user, role, of } => (of, Change::User(user.clone(), (*role).into())),
        CrewCommand::Revoke { name, of } => (of, Change::Revoke(name.clone())),
        CrewCommand::GrantCoordinator { node, of } => (of, Change::Grant(node.clone())),
    };
    let manifest = KeyFolder::new(&folder.dir).change(&change)?;
    Ok(format!(
        "revision {} of the manifest of crew {}: {} nodes, {} users; {} coordinates in term {}.\nCopy nodes/{} to {}: its \
         coordinator tells the others. Then `beehive broker config {}` for the broker's list\n",
        manifest.revision,
        manifest.crew,
        manifest.nodes.len(),
        manifest.users.len(),
        manifest.coordinator,
        manifest.term,
        manifest.coordinator,
        manifest.coordinator,
        folder.dir.display()
    ))
}

/// Carries `command` out, and says what it did.
///
/// # Errors
/// Says what could not be done.
pub fn broker(command: &BrokerCommand) -> anyhow::Result<String> {
    match command {
        BrokerCommand::Config(arguments) => config(arguments),
        BrokerCommand::Apply(arguments) => put_in_place(arguments),
    }
}

fn config(arguments: &BrokerConfigArgs) -> anyhow::Result<String> {
    let BrokerConfigArgs { folder, dir, port, hosts, tools, renew_nodes, renew_users, renew_tools } = arguments;
    let folder = Folder::new(folder);
    for tool in tools {
        folder.add_tool(tool)?;
    }
    let renew: Vec<Identity> = (renew_nodes.iter().cloned().map(Identity::Node))
        .chain(renew_users.iter().cloned().map(Identity::User))
        .chain(renew_tools.iter().cloned().map(Identity::Tool))
        .collect();
    let site = Site { dir: dir.clone(), port: *port, hosts: hosts.clone() };
    let known = folder.plan(&site)?.parts;
    if let Some(stranger) = renew.iter().find(|who| known.iter().all(|part| part.identity() != **who)) {
        anyhow::bail!("{} is not in the crew, so there is nothing to renew", stranger.common_name());
    }
    let plan = folder.write(&site, &renew)?;
    let mut text = format!(
        "{} may connect to the broker of crew {}. Copy {} to its machine and run there, as root:\n  beehive broker apply \
         broker\n",
        plan.parts.len(),
        plan.crew,
        folder.broker().display(),
    );
    for who in &renew {
        text.push_str(&format!(
            "{} has a new certificate: copy tls.crt and tls.key in {} to it before\n",
            who.common_name(),
            folder.of(who).display()
        ));
    }
    Ok(text)
}

fn put_in_place(arguments: &BrokerApplyArgs) -> anyhow::Result<String> {
    let BrokerApplyArgs { folder, dir, conf_d, restart } = arguments;
    let restart = match restart {
        Some(program) => vec![program.display().to_string()],
        None => ["/usr/bin/systemctl", "restart", "mosquitto.service"].map(str::to_owned).to_vec(),
    };
    let places = Places { from: folder.clone(), into: dir.clone(), conf_d: conf_d.clone(), restart };
    Ok(match apply(&places)? {
        Applied::Unchanged => "nothing is new; the broker goes on\n".to_owned(),
        Applied::Restarted => "in place; the broker has been restarted and listens\n".to_owned(),
    })
}
