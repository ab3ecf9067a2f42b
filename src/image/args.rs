//! The command line of `beehive image`.

use std::path::PathBuf;

use beehive_mqtt::NodeName;
use clap::{Args, Subcommand};

use super::card::Login;
use crate::cli::CrewFolder;

/// `beehive image …`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Makes the image of one node's card from a stock image, without root and without mounting it
    ///
    /// Known are Raspberry Pi OS (bullseye to trixie, 32 and 64 bit), Debian's images for the Pi, HypriotOS, and our own, unpacked.
    /// Only the boot partition is changed, and what was changed is listed. A second run with the same card changes nothing.
    /// Configuration and a single-use secret come from the crew's folder (--dir, else that of --crew, else the default's), unless
    /// --config or --keys says otherwise; with the secret `beehive crew enrol` then lets the Pi in.
    Prepare(PrepareArgs),
    /// Writes an image to a card, and reads it back
    ///
    /// A disk that is neither a card nor removable is refused, and one of which anything is mounted or in use.
    Flash(FlashArgs),
}

/// `beehive image prepare`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The stock image, unpacked
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// Whose card it is; the Pi gets this host name
    #[arg(long, value_name = "NODE")]
    pub node: NodeName,
    /// The prepared image; a new file
    #[arg(long, value_name = "FILE", conflicts_with = "in_place")]
    pub out: Option<PathBuf>,
    /// Change the image itself
    #[arg(long)]
    pub in_place: bool,
    /// List what would be changed, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The system's user who logs in, by SSH key alone (--user is who asks the crew)
    #[arg(long, value_name = "USER", default_value = "pi")]
    pub login: Login,
    /// A file with SSH public keys; may be repeated
    #[arg(long = "ssh-key", value_name = "FILE")]
    pub ssh_keys: Vec<PathBuf>,
    /// The node's beehive.toml, instead of what the crew's folder says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The node's key folder, as `beehive crew init` made it (nodes/NODE); its files go onto the card, instead of a secret
    #[arg(long, value_name = "FOLDER")]
    pub keys: Option<PathBuf>,
    /// The Debian package of beehive for this Pi's architecture; HypriotOS is too old for it
    #[arg(long, value_name = "FILE")]
    pub package: Option<PathBuf>,
    /// An overlay for config.txt, NAME or NAME,PARAMETER=VALUE; may be repeated
    #[arg(long = "overlay", value_name = "OVERLAY")]
    pub overlays: Vec<String>,
    /// Let the kernel cut the power instead of the hook; only with feed = "shim" in the configuration
    #[arg(long)]
    pub power_off_overlay: bool,
    /// This Pi has no OnOff SHIM: BCM4 and BCM17 are left alone
    #[arg(long)]
    pub without_shim: bool,
    /// Make another secret although the node is enrolled, or its card has one: the node's present keys count no more as soon as
    /// the new card is enrolled
    #[arg(long, conflicts_with_all = ["config", "keys"])]
    pub renew: bool,
    /// Where the Pi listens until it is enrolled
    #[arg(long, value_name = "PORT", default_value_t = crate::enrol::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub enrol_port: u16,
    /// The crew's folder.
    #[command(flatten)]
    pub of: CrewFolder,
}

/// `beehive image flash`.
#[derive(Debug, Args)]
pub struct FlashArgs {
    /// The image, unpacked
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// The card, as a whole disk: /dev/sdX or /dev/mmcblkN
    #[arg(long, value_name = "DEVICE")]
    pub to: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}
