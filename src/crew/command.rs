//! `beehive broker …`: from the command line to the folder.

use super::apply::{Applied, Places, apply};
use super::backup;
use super::folder::{Folder, Site};
use super::keys::{Change, KeyFolder, NewCrew};
use super::tls::Identity;
use crate::cli::{
    BROKER_DIR, BrokerApplyArgs, BrokerCommand, BrokerConfigArgs, ConsoleOptions, CrewCommand, CrewFolder,
    MasterCommand, crews_dir,
};
use crate::config::Config;
use beehive_mqtt::NodeName;
use beehive_mqtt::manifest::UserRole;
use std::path::{Path, PathBuf};

/// Carries `command` out, and says what it did and what is to be done next.
///
/// # Errors
/// Says what could not be done; then nothing was changed.
pub fn crew(command: &CrewCommand, options: &ConsoleOptions) -> anyhow::Result<String> {
    let (folder, change) = match command {
        #[cfg(feature = "workstation")]
        CrewCommand::Config { .. }
        | CrewCommand::List
        | CrewCommand::Use { .. }
        | CrewCommand::Import { .. }
        | CrewCommand::Export { .. } => return super::file::command::run(command, options),
        CrewCommand::Init {
            crew,
            dir,
            nodes,
            operators,
            #[cfg(feature = "workstation")]
            wanted,
        } => {
            let dir = dir.clone().unwrap_or_else(|| crews_dir().join(crew.as_str()));
            #[cfg(not(feature = "workstation"))]
            let (nodes, operators, port) = (nodes.clone(), operators.clone(), super::broker::PORT);
            #[cfg(feature = "workstation")]
            let described = super::file::command::describe(&dir, crew, nodes, operators, wanted)?;
            #[cfg(feature = "workstation")]
            let (nodes, operators, port) = described.members(operators.clone());
            let operators = if operators.is_empty() { vec![options.user()] } else { operators };
            let users = operators.iter().map(|user| (user.clone(), UserRole::Operator)).collect();
            KeyFolder::new(&dir).init(&NewCrew { crew: crew.clone(), nodes: nodes.clone(), users })?;
            #[cfg(feature = "workstation")]
            described.write(&dir, &operators)?;
            let site = Site { dir: BROKER_DIR.into(), port, hosts: Vec::new() };
            let folder = Folder::new(&dir);
            folder.write(&site, &[])?;
            let said = format!(
                "crew {crew}: {} nodes; {} coordinates. {} holds its keys and certificates.\nKeep {} off the Pis, and keep a \
                 copy of it.\nNext: `beehive image prepare` makes the card of each Pi, and `beehive crew enrol` lets them in. Or \
                 copy nodes/NODE to /etc/beehive/identity on each Pi, and {} to the broker's machine; run there, as root:\n  \
                 beehive broker apply broker\n(`beehive broker config {}` makes it for another port, place or name, and lets \
                 tools in)\n",
                nodes.len(),
                nodes.first().map_or("nobody", NodeName::as_str),
                dir.display(),
                dir.join("crew.key").display(),
                folder.broker().display(),
                dir.display()
            );
            #[cfg(feature = "workstation")]
            let said = said + &super::file::command::next(&dir);
            return Ok(said);
        }
        CrewCommand::AddNode { node, of } => (of, Change::Node(node.clone())),
        CrewCommand::AddUser { user, role, of } => (of, Change::User(user.clone(), (*role).into())),
        CrewCommand::Revoke { name, of } => (of, Change::Revoke(name.clone())),
        CrewCommand::GrantCoordinator { node, of } => (of, Change::Grant(node.clone())),
        CrewCommand::Backup { config, to } => return Ok(backup::back_up(&Config::load(config)?, to)?),
        CrewCommand::Restore { from, config } => return Ok(backup::restore(&Config::load(config)?, from)?),
        CrewCommand::Master(MasterCommand::Replace { node, term, of }) => {
            return replace_master(node, *term, &dir_of(of, options)?);
        }
        CrewCommand::SignRelease { release, of } => {
            return crate::release::command::sign(release, &dir_of(of, options)?);
        }
        #[cfg(feature = "workstation")]
        CrewCommand::Enrol(_) => anyhow::bail!("an enrolment speaks to the Pis; the program's main sees to it"),
        CrewCommand::Upgrade(_) => anyhow::bail!("an upgrade speaks to the crew; the program's main sees to it"),
    };
    let dir = dir_of(folder, options)?;
    let manifest = KeyFolder::new(&dir).change(&change)?;
    let said = format!(
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
        dir.display()
    );
    #[cfg(feature = "workstation")]
    let said = said + &super::file::command::differences(&dir, &manifest);
    Ok(said)
}

/// The crew's folder: the one that is named, else that of the crew which is meant.
pub(crate) fn dir_of(folder: &CrewFolder, options: &ConsoleOptions) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &folder.dir {
        return Ok(dir.clone());
    }
    let crew = options.crew.clone();
    #[cfg(feature = "workstation")]
    let crew = super::file::crews::Crews::of_this_user().meant(crew.as_ref())?;
    let crew =
        crew.ok_or_else(|| anyhow::anyhow!("which crew? add --crew NAME or --dir FOLDER, or set BEEHIVE_CREW"))?;
    Ok(crews_dir().join(crew.as_str()))
}

/// Gives the coordination to `node` because the coordinator's card is lost, and says what is to be done next.
fn replace_master(node: &NodeName, term: Option<u64>, dir: &Path) -> anyhow::Result<String> {
    let folder = KeyFolder::new(dir);
    let before = folder.manifest()?;
    let lost = &before.coordinator;
    if let Some(term) = term {
        if before.term == term && lost == node {
            return Ok(format!(
                "{node} coordinates crew {} in term {term} already (revision {}): nothing was changed\n",
                before.crew, before.revision
            ));
        }
        if before.term.checked_add(1) != Some(term) {
            anyhow::bail!(
                "crew {} is in term {} with {lost} as coordinator, and the next term is the one after it, not {term}; \
                 nothing was changed",
                before.crew,
                before.term
            );
        }
    }
    let after = folder.change(&Change::Replace(node.clone()))?;
    let mut text = format!(
        "revision {} of the manifest of crew {}: {node} coordinates in term {}. The keys of {lost}'s lost card count no more \
         as soon as the others have this manifest.\n",
        after.revision, after.crew, after.term,
    );
    if let Some(key) = before.node(lost) {
        text.push_str(&format!("The lost card's public key, for `beehive audit verify --key`:\n  {}\n", key.sign));
    }
    let dir = dir.display();
    text.push_str(&format!("Next:\n  beehive broker config {dir} --renew-node {lost}\n"));
    if lost == node {
        text.push_str(&format!(
            "then prepare the new card of {node}: {dir}/nodes/{node} to /etc/beehive/identity, its configuration, the broker's \
             files (`beehive broker apply`); and on it, before the daemon starts,\n  beehive crew restore FILE\nif there is a \
             backup. Without one `beehive cluster rebuild` makes the cluster anew.\n"
        ));
    } else {
        text.push_str(&format!(
            "then copy {dir}/nodes/{node} to /etc/beehive/identity on {node}, set role = \"master\" and [cluster] in its \
             configuration, put the broker's files in place where the broker is to run, and start it again. It knows nothing \
             of the cluster: `beehive cluster rebuild` makes it anew. A new card for {lost} gets {dir}/nodes/{lost}.\n"
        ));
    }
    Ok(text)
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
