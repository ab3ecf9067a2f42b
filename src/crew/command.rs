//! `beehive broker …`: from the command line to the folder.

use super::apply::{Applied, Places, apply};
use super::folder::{Folder, Site};
use super::tls::Identity;
use crate::cli::{BrokerApplyArgs, BrokerCommand, BrokerConfigArgs};

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
