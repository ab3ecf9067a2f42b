//! `beehive enrol`, on a Pi.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use clap::Args;

use super::machine::{self, Looked};
use super::pi::{self, Places, Settings};

/// `beehive enrol`.
#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// Only look whether this card was first used in another Pi; for beehive-card.service
    #[arg(long, conflicts_with = "keep_keys")]
    pub look: bool,
    /// This card was moved here on purpose, and the Pi that it was in is out of use: bring the node's keys back
    #[arg(long)]
    pub keep_keys: bool,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED), hide = true)]
    pub bind: IpAddr,
    /// What is taken for /
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    pub root: PathBuf,
    /// The program that restarts services
    #[arg(long, value_name = "PROGRAM", default_value = "/usr/bin/systemctl", hide = true)]
    pub systemctl: PathBuf,
}

/// Does what is asked, and says what there is to say on standard output.
///
/// # Errors
/// Says what could not be done.
pub async fn run(arguments: &EnrolArgs) -> anyhow::Result<String> {
    let EnrolArgs { look, keep_keys, bind, root, systemctl } = arguments;
    if *keep_keys {
        return machine::keep_keys(root).map(|said| said + "Next: systemctl restart beehive.service\n");
    }
    if *look {
        match machine::look(root)? {
            Looked::NoSerial => {
                tracing::info!("this machine has no serial number: whether the card was copied cannot be told")
            }
            Looked::First => tracing::info!("this card is in its first Pi, and belongs to it from now on"),
            Looked::Same => {}
            Looked::Other { before, now } => tracing::error!(
                "THIS CARD WAS COPIED OR MOVED: it was first used in the Pi {before}, and this is the Pi {now}. Two Pis must not \
                 be one: machine-id and SSH host keys were made anew, and the node's keys are set aside and not used. If it is a \
                 copy, prepare a card of its own for this Pi: `beehive image prepare`. If it was moved on purpose and the other \
                 Pi is out of use: `beehive enrol --keep-keys`"
            ),
        }
        return Ok(String::new());
    }
    let settings = Settings { places: Places::below(root), bind: *bind, systemctl: systemctl.clone() };
    pi::run(&settings).await?;
    Ok(String::new())
}
