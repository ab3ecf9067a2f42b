//! The command line: every command and option of the program `beehive`, and what `--help`, the shell completions and the
//! man pages say of them.

use std::io::Write;
#[cfg(feature = "pages")]
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

use beehive_mqtt::coordinator::AuditHead;
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::node::Role;
use beehive_mqtt::sign::PublicKey;
use beehive_mqtt::{CrewName, NodeName, UserName};
#[cfg(any(feature = "pages", test))]
use clap::CommandFactory;
use clap::{Args, Parser, Subcommand, ValueEnum};
#[cfg(feature = "pages")]
use clap_complete::Shell;

use crate::config::TlsSwitch;
use crate::console::exit::ExitCode;
use crate::link::is_loopback;
use crate::release::version::ReleaseVersion;

/// Controller for small Kubernetes clusters of Raspberry Pis.
///
/// On each Pi `beehive run` is the agent (button, power, PoE HAT, LEDs, join and leave); on the master it is the
/// coordinator too. On any other machine the other commands are the ops console: they speak to the crew over MQTT.
#[derive(Debug, Parser)]
#[command(name = "beehive", version, max_term_width = 100, after_help = ExitCode::help())]
pub struct Cli {
    /// Options of the console's commands.
    #[command(flatten)]
    pub options: ConsoleOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the agent of this Pi, and the coordinator where the configuration says role = "master"
    Run(RunArgs),
    /// Empties this node and stops its engine because the system is stopping; for beehive-drain.service
    ///
    /// It asks the agent on this Pi and waits until systemd may go on, for as long as the configuration's deadlines allow.
    /// While the system is not stopping it does nothing.
    Drain(RunArgs),
    /// Gives back what a daemon that has ended left behind: the triggers of the Pi's LEDs, the PoE HAT's fan at full speed
    ///
    /// systemd runs it after each end of the daemon, so that a killed one harms nobody. Beside a daemon that runs it must
    /// not be used.
    GiveBack(RunArgs),
    /// Says what keeps this Pi from being a good member of a cluster, and mends what is safe to mend
    ///
    /// An engine looks at the same before it makes or joins a cluster, and an error refuses that. Exit code 0: no error
    /// (warnings do not count); 5: an error; 1: a change could not be made. Some checks see more as root.
    #[command(after_help = ExitCode::help())]
    Doctor(DoctorArgs),
    /// Tells avahi what this Pi says of itself on the local network; for beehive-announce.service
    ///
    /// Without avahi it says so and does nothing. `beehive discover` finds what is announced.
    Announce(AnnounceArgs),
    /// Waits until this Pi has keys of its own that its crew's owner has certified; for beehive-enrol.service
    ///
    /// It makes the keys, once, and shows their public halves to whoever asks; the owner's `beehive crew enrol` answers. On a Pi
    /// that has its identity it does nothing.
    Enrol(crate::enrol::command::EnrolArgs),
    /// Does the steps that need root, for the agent on this Pi; for beehive-engine.service
    #[command(subcommand)]
    Engine(EngineCommand),
    /// Checks a configuration, or prints the example
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes a crew's keys and its manifest, and changes who is in it
    ///
    /// For the crew's owner. The folder holds the crew's own key: keep it off the Pis, and keep a copy.
    #[command(subcommand)]
    Crew(CrewCommand),
    /// Makes the broker's configuration, and puts it in place on the broker's machine
    #[command(subcommand)]
    Broker(BrokerCommand),
    /// Installs and uses beehive's own releases on this Pi, and goes back to the one before; as root
    ///
    /// `beehive crew upgrade` does it for a whole crew. Nothing is installed that the crew's own key did not sign.
    #[command(subcommand, after_help = ExitCode::help())]
    Release(ReleaseCommand),
    /// Reads the coordinator's audit log: who asked what, and what came of it
    ///
    /// verify and show read the log itself, on the master; head says what this console saw of it last.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Lets Home Assistant and other tools ask for what destroys nothing, and shows them the crew
    ///
    /// It signs for them, with a key whose role is bridge. Tools write one word to beehive/v1/CREW/b/TOOL/node/NODE
    /// (identify, drain, uncordon, reboot, shutdown) or beehive/v1/CREW/b/TOOL/crew (reboot, shutdown, abort).
    Bridge(BridgeArgs),
    /// Commands of the ops console.
    #[command(flatten)]
    Console(ConsoleCommand),
    /// Shows a whole crew on this machine: real agents and coordinator on simulated boards and a simulated engine
    ///
    /// In a terminal it draws the crew and takes keys; elsewhere, or with --script, it plays a scenario.
    #[cfg(feature = "demo")]
    #[command(after_help = crate::demo::HELP)]
    Demo(DemoArgs),
    /// Plays simulated crews with faults and people by seed, and walks through what broke a rule
    ///
    /// The cores and the protocol are the real ones; broker, engines, boards, power and Kubernetes are simulated, and so is
    /// time. A seed is the whole of a run: it replays exactly.
    #[cfg(feature = "sim")]
    #[command(subcommand)]
    Sim(SimCommand),
    /// Finds Pis: those that announce themselves on the local network, and those that the crew's broker knows
    ///
    /// It changes nothing. What a Pi says of itself over mDNS is a hint: nobody signs it. Exit code 9: an alarm, a Pi waits with an
    /// enrolment for a node that is enrolled already; 1: neither network nor broker could be asked.
    #[cfg(feature = "workstation")]
    #[command(after_help = ExitCode::help())]
    Discover(crate::discover::DiscoverArgs),
    /// Makes the card of a node from a stock image, and writes it
    #[cfg(feature = "workstation")]
    #[command(subcommand, after_help = ExitCode::help())]
    Image(crate::image::args::ImageCommand),
    /// Prints the completions for a shell
    // The program of the packages for the Pi has no such command: its pages are made when it is packed, and do not tell of it.
    #[cfg(feature = "pages")]
    #[command(hide = cfg!(not(feature = "workstation")))]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Prints the man page, or writes the pages of all commands into a folder
    #[cfg(feature = "pages")]
    #[command(hide = cfg!(not(feature = "workstation")))]
    Man {
        /// The folder; it is made if it is not there
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
    /// Prints the version
    Version,
}

/// `beehive announce`.
#[derive(Debug, Args)]
pub struct AnnounceArgs {
    /// This Pi's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/beehive/beehive.toml")]
    pub config: PathBuf,
    /// Where its file system is; another one than / is for tests
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    pub root: PathBuf,
}

/// `beehive doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// This Pi's configuration [default: /etc/beehive/beehive.toml, where it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its part in the crew [default: the configuration's]
    #[arg(long, value_enum)]
    pub role: Option<RoleArg>,
    /// What it is to run [default: the configuration's; k3s where that names none]
    #[arg(long, value_enum)]
    pub engine: Option<EngineArg>,
    /// The engine version that is wanted.
    #[command(flatten)]
    pub version: EngineVersion,
    /// On a node: the API server, HOST or HOST:PORT; without it nothing is asked whether it answers
    #[arg(long, value_name = "SERVER")]
    pub server: Option<String>,
    /// The registry, HOST or HOST:PORT [default: the engine's own, unless images or a mirror are here]
    #[arg(long, value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// Only look who else uses the lines of the OnOff SHIM; needs no configuration. Exit code 5 if somebody does
    #[arg(long, conflicts_with_all = ["fix", "dry_run"])]
    pub shim_lines: bool,
    /// Mend what is safe to mend, without asking; files are kept as NAME.before-beehive
    #[arg(long)]
    pub fix: bool,
    /// List what --fix would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// An engine that needs something of the machine, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// k3s
    K3s,
    /// kubeadm
    Kubeadm,
}

impl From<EngineArg> for crate::doctor::Wanted {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::K3s => Self::K3s,
            EngineArg::Kubeadm => Self::Kubeadm,
        }
    }
}

/// `beehive bridge`.
#[derive(Debug, Args)]
pub struct BridgeArgs {
    /// The tool that Home Assistant is at the broker
    #[arg(long, value_name = "NAME", default_value = crate::bridge::DEFAULT_ASSISTANT)]
    pub assistant: UserName,
}

/// `beehive crew …`.
#[derive(Debug, Subcommand)]
pub enum CrewCommand {
    /// Makes a new crew: its own key, keys and certificates for each node and user, the signed manifest, the broker's files
    Init {
        /// The crew's name
        #[arg(value_name = "NAME")]
        crew: CrewName,
        /// The folder; it must not hold a crew yet [default: ~/.config/beehive/crews/NAME]
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
        /// A node; may be repeated. The first one is the master
        #[arg(long = "node", value_name = "NODE", required = !cfg!(feature = "workstation"))]
        nodes: Vec<NodeName>,
        /// An operator; may be repeated [default: who runs this]
        #[arg(long = "operator", value_name = "USER")]
        operators: Vec<UserName>,
        /// What its file says.
        #[cfg(feature = "workstation")]
        #[command(flatten)]
        wanted: NewCrewFile,
    },
    /// Prints the configuration of one Pi, made of the crew's file
    ///
    /// The crew's folder is --dir, else that of --crew, else the default's.
    #[cfg(feature = "workstation")]
    Config {
        /// Which Pi
        node: NodeName,
        /// Write beehive.toml into this folder instead; a file that is there is not overwritten
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
    /// Certifies the keys of nodes whose cards `image prepare` made, once for each card, and tells the crew
    ///
    /// It waits for Pis that are not up yet, and may be run again at any time: the same Pi gets the same answer. Where a card's
    /// secret is used a second time nothing is certified: that is an alarm, with an exit code of its own.
    #[cfg(feature = "workstation")]
    #[command(after_help = ExitCode::help())]
    Enrol(crate::enrol::owner::command::CrewEnrolArgs),
    /// Lists the crews that have a folder on this machine, and says which one is meant where none is named
    #[cfg(feature = "workstation")]
    List,
    /// Makes a crew the one that is meant where neither --crew nor BEEHIVE_CREW names one
    #[cfg(feature = "workstation")]
    Use {
        /// Which
        #[arg(value_name = "NAME")]
        default: CrewName,
    },
    /// Makes a crew's file of an Ansible inventory with [crew-master] and [crew-nodes]; `crew init` then makes its keys
    ///
    /// Ranges, children and vars are understood. Variables of Ansible's own, passwords among them, are left out.
    #[cfg(feature = "workstation")]
    Import {
        /// The inventory, in its INI form
        #[arg(value_name = "INVENTORY")]
        inventory: PathBuf,
        /// The crew's name [default: that of the group whose children hold crew-master]
        #[arg(long, value_name = "NAME")]
        name: Option<CrewName>,
        /// The file; one that is there is not overwritten [default: crew.toml in ~/.config/beehive/crews/NAME]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Prints the crew's file as something that other programs read
    ///
    /// The crew's folder is --dir, else that of --crew, else the default's. No key is in it.
    #[cfg(feature = "workstation")]
    Export {
        /// As what
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// Write it into this file instead; one that is there is not overwritten
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
    /// Adds a node, or gives a known one new keys
    AddNode {
        /// Which
        node: NodeName,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
    /// Adds a user, or gives a known one another role and a new key
    AddUser {
        /// Who
        user: UserName,
        /// What the user may do
        #[arg(long, value_enum, default_value_t = RoleOfUser::Operator)]
        role: RoleOfUser,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
    /// Leaves a node or a user out; its messages are refused from the moment that the others have the new manifest
    Revoke {
        /// Whom
        name: String,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
    /// Grants the coordination to a node, for a new term: the one before is believed no more
    GrantCoordinator {
        /// To which
        node: NodeName,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
    /// On the master: writes what the coordinator knows into a file, to be put back onto another card
    ///
    /// The coordinator's record, its audit log, and what the simulated engine keeps; no key is in it. The daemon may run. A
    /// file that is there is not overwritten.
    Backup {
        /// The master's configuration
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// The file; keep it off the master
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// On the master's new card, before its daemon starts: puts back what `crew backup` wrote
    ///
    /// Only into a state folder that is empty or not there, and only a backup of this crew and node. Nothing that was under
    /// way when the backup was made goes on.
    Restore {
        /// The file that `beehive crew backup` wrote
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// The new card's configuration
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Handles the crew's master
    #[command(subcommand)]
    Master(MasterCommand),
    /// Signs a release of beehive with the crew's own key, so that the crew's Pis run it
    ///
    /// RELEASE has a folder armv7, aarch64 or x86_64 for each kind of machine in the crew, with the programs beehive and
    /// beehive-cut. Version and protocol are read from the program itself.
    SignRelease {
        /// The folder
        #[arg(value_name = "RELEASE")]
        release: PathBuf,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
    /// Brings beehive itself to another version, one Pi after the other, the master first
    ///
    /// Each Pi keeps its version, has the new one on trial, and goes back by itself if that does not work. It stops at the
    /// first failure; run again it goes on where it stopped.
    #[command(after_help = ExitCode::help())]
    Upgrade(UpgradeArgs),
}

/// `beehive crew upgrade`.
#[derive(Debug, Clone, Args)]
pub struct UpgradeArgs {
    /// The release: a folder that `beehive crew sign-release` signed
    #[arg(long, value_name = "FOLDER", required_unless_present = "rollback", conflicts_with = "rollback")]
    pub release: Option<PathBuf>,
    /// Bring every Pi back to the version before: nodes first, the master last
    #[arg(long)]
    pub rollback: bool,
    /// Only this node; may be repeated [default: all]
    #[arg(long = "node", value_name = "NODE")]
    pub nodes: Vec<NodeName>,
    /// Print the numbered plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go on although a node is not ready, or cannot be asked; the answer names it
    #[arg(long)]
    pub force: bool,
    /// What runs a command on a Pi as root: a program and its arguments, with {host} for where the crew's file says that the Pi
    /// is, else the node's name. The default is for cards of `beehive image prepare` without --login
    #[arg(long, value_name = "PROGRAM", default_value = DEFAULT_VIA, value_parser = Via::from_str)]
    pub via: Via,
}

/// As the login of a card that `beehive image prepare` made, who may become root without a password; root itself gets no SSH key
/// there.
const DEFAULT_VIA: &str = "ssh -o BatchMode=yes pi@{host} sudo -n";

/// A program and its arguments, split at spaces; no shell of this machine reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via(Vec<String>);

/// What stands for a Pi's host in a [`Via`].
const HOST: &str = "{host}";

impl Via {
    /// The program and its arguments for the Pi at `host`.
    pub fn for_host(&self, host: &str) -> Vec<String> {
        self.0.iter().map(|word| word.replace(HOST, host)).collect()
    }
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        if words.first().is_none_or(|program| program.contains(HOST)) {
            return Err("a program is needed first, as in 'ssh pi@{host} sudo -n'".to_owned());
        }
        if !words.iter().any(|word| word.contains(HOST)) {
            return Err("{host} is missing: every Pi would be the same one; as in 'ssh pi@{host} sudo -n'".to_owned());
        }
        Ok(Self(words))
    }
}

/// `beehive release …`.
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Puts a release onto this Pi; it is not used by that
    ///
    /// The signature, the checksums and the kind of processor are checked before anything is written. Three releases are
    /// kept, those in use among them.
    Install {
        /// A folder with manifest, beehive and beehive-cut; or '-' for what `crew upgrade` sends
        #[arg(value_name = "FOLDER")]
        from: PathBuf,
        /// Where.
        #[command(flatten)]
        places: ReleasePlaces,
    },
    /// Uses an installed release from now on, on trial, and restarts the daemon
    ///
    /// It has five minutes to connect and hear the coordinator, and three starts; then this Pi goes back by itself. The
    /// first release on a Pi has nothing to go back to and is used without a trial.
    Use {
        /// Which
        version: ReleaseVersion,
        /// The program that restarts the daemon [default: systemctl --no-block restart beehive.service]
        #[arg(long, value_name = "PROGRAM")]
        restart: Option<PathBuf>,
        /// Where.
        #[command(flatten)]
        places: ReleasePlaces,
    },
    /// Goes back to the version before, on trial or not, and restarts the daemon
    Rollback {
        /// The program that restarts the daemon [default: systemctl --no-block restart beehive.service]
        #[arg(long, value_name = "PROGRAM")]
        restart: Option<PathBuf>,
        /// Where.
        #[command(flatten)]
        places: ReleasePlaces,
    },
    /// Lists the releases on this Pi: which is in use, which is on trial, and how the last change ended
    List {
        /// Where.
        #[command(flatten)]
        places: ReleasePlaces,
    },
    /// Ends the trial: the release in use stays. The daemon does that by itself when it hears the coordinator
    Confirm {
        /// Where.
        #[command(flatten)]
        places: ReleasePlaces,
    },
    /// Judges the trial; for beehive.service and beehive-release.service, which run it from the version before
    Guard {
        /// When
        #[arg(long, value_enum)]
        at: GuardMoment,
        /// The program that restarts the daemon [default: systemctl --no-block restart beehive.service]
        #[arg(long, value_name = "PROGRAM")]
        restart: Option<PathBuf>,
        /// Where.
        #[command(flatten)]
        places: ReleasePlaces,
    },
}

/// When the trial is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuardMoment {
    /// The daemon is about to be started
    Starting,
    /// Some time has passed
    Tick,
}

/// Where releases and the crew's public key are.
#[derive(Debug, Clone, Args)]
pub struct ReleasePlaces {
    /// The folder of the releases
    #[arg(long, value_name = "FOLDER", default_value = crate::release::shelf::ROOT)]
    pub releases: PathBuf,
    /// This Pi's configuration, which says where the crew's public key is
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// `beehive crew master …`.
#[derive(Debug, Subcommand)]
pub enum MasterCommand {
    /// The master's card is lost: NODE coordinates in a new term, and the lost card's keys count no more
    ///
    /// NODE is the master's own name where its Pi gets a new card. It makes new keys for the lost card's node each time;
    /// with --term it is done once, however often it is run.
    Replace {
        /// Who coordinates from now on
        node: NodeName,
        /// The term that is to be granted; if NODE coordinates in it already, nothing is changed [default: the next one]
        #[arg(long, value_name = "N")]
        term: Option<u64>,
        /// The crew's folder.
        #[command(flatten)]
        of: CrewFolder,
    },
}

/// A crew's folder.
#[derive(Debug, Clone, Args)]
pub struct CrewFolder {
    /// The crew's folder [default: that of the crew, below ~/.config/beehive/crews]
    #[arg(long = "dir", value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

/// What the file of a new crew says.
#[cfg(feature = "workstation")]
#[derive(Debug, Clone, Default, Args)]
pub struct NewCrewFile {
    /// How many Pis, by the naming scheme: NAME-001 is the master, then NAME-002 and so on [default: 3, unless --node or a
    /// crew.toml names them]
    #[arg(long = "nodes", value_name = "N", conflicts_with = "nodes", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub count: Option<u8>,
    /// What the crew runs [default: k3s]
    #[arg(long, value_enum)]
    pub engine: Option<CrewEngine>,
    /// The engine version that is wanted.
    #[command(flatten)]
    pub version: EngineVersion,
    /// What follows the Pis' names on this network, such as local
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
}

/// An engine, on the command line.
#[cfg(feature = "workstation")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CrewEngine {
    /// k3s
    K3s,
    /// kubeadm
    Kubeadm,
    /// none: it behaves like one
    Simulated,
}

#[cfg(feature = "workstation")]
impl From<CrewEngine> for crate::config::EngineKind {
    fn from(engine: CrewEngine) -> Self {
        match engine {
            CrewEngine::K3s => Self::K3s,
            CrewEngine::Kubeadm => Self::Kubeadm,
            CrewEngine::Simulated => Self::Simulated,
        }
    }
}

/// What a crew's file is exported as.
#[cfg(feature = "workstation")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// An Ansible inventory, in its INI form
    Ansible,
}

/// What a user may do, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleOfUser {
    /// Everything
    Operator,
    /// What destroys nothing, for tools
    Bridge,
    /// Nothing but to watch
    ReadOnly,
}

impl From<RoleOfUser> for UserRole {
    fn from(role: RoleOfUser) -> Self {
        match role {
            RoleOfUser::Operator => Self::Operator,
            RoleOfUser::Bridge => Self::Bridge,
            RoleOfUser::ReadOnly => Self::ReadOnly,
        }
    }
}

/// Where the crews' folders are unless somebody says otherwise.
pub fn crews_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let named = std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty());
    let configuration = named.map(PathBuf::from).or_else(home);
    configuration.unwrap_or_default().join("beehive/crews")
}

/// `beehive broker …`.
#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// Makes missing certificates and mosquitto's configuration, rules and list of clients in FOLDER/broker
    ///
    /// Who is not in the manifest is left out. Copy FOLDER/broker to the broker's machine and run `beehive broker apply`
    /// there.
    Config(BrokerConfigArgs),
    /// Puts the files in place on the broker's machine and restarts mosquitto if anything is new
    ///
    /// The restart ends the connections of those who have been left out; the others are back within seconds.
    Apply(BrokerApplyArgs),
}

/// `beehive broker config`.
#[derive(Debug, Args)]
pub struct BrokerConfigArgs {
    /// The crew's folder, which `beehive crew init` made
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Where the files will lie on the broker's machine
    #[arg(long, value_name = "PLACE", default_value = BROKER_DIR, value_parser = plain_path)]
    pub dir: PathBuf,
    /// The port
    #[arg(long, default_value_t = crate::crew::broker::PORT)]
    pub port: u16,
    /// A name or address by which other programs than beehive reach the broker; may be repeated. The broker gets a new
    /// certificate with these names
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Lets a program that signs nothing, such as Home Assistant, speak to the bridge; may be repeated
    #[arg(long = "tool", value_name = "NAME")]
    pub tools: Vec<UserName>,
    /// Makes a new certificate for this node; the old one is refused from then on; may be repeated
    #[arg(long = "renew-node", value_name = "NODE")]
    pub renew_nodes: Vec<NodeName>,
    /// The same for an operator or a bridge
    #[arg(long = "renew-user", value_name = "USER")]
    pub renew_users: Vec<UserName>,
    /// The same for a tool
    #[arg(long = "renew-tool", value_name = "NAME")]
    pub renew_tools: Vec<UserName>,
}

/// `beehive broker apply`.
#[derive(Debug, Args)]
pub struct BrokerApplyArgs {
    /// The folder `broker` of the crew's folder, copied to this machine
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Where the files lie; as it was given to `beehive broker config`
    #[arg(long, value_name = "PLACE", default_value = BROKER_DIR, value_parser = plain_path)]
    pub dir: PathBuf,
    /// Where mosquitto looks for further configuration
    #[arg(long, value_name = "PLACE", default_value = "/etc/mosquitto/conf.d")]
    pub conf_d: PathBuf,
    /// The program that restarts the broker [default: systemctl restart mosquitto.service]
    #[arg(long, value_name = "PROGRAM")]
    pub restart: Option<PathBuf>,
}

/// Where the broker's files lie.
pub const BROKER_DIR: &str = "/etc/mosquitto/beehive";

/// A place that can stand in mosquitto's configuration, which knows no quotes.
fn plain_path(text: &str) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if !text.starts_with('/') || !text.chars().all(plain) {
        return Err("a place begins with '/' and has only letters, digits, '/', '.', '-' and '_'".to_owned());
    }
    Ok(text.into())
}

/// `beehive run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// `beehive engine …`.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Waits at a local socket for what the agent asks, and does it; as root
    ///
    /// systemd listens for it (beehive-engine.socket) and starts it when it is needed. Only root and daemon_user of the
    /// configuration's [engine] are listened to. It ends by itself after three minutes without a question.
    Serve(EngineServeArgs),
}

/// `beehive engine serve`.
#[derive(Debug, Args)]
pub struct EngineServeArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Listens here, instead of taking the socket that systemd listens on
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Runs programs below this folder as children; for tests
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub tools_below: Option<PathBuf>,
    /// Ends after so many seconds without a question
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub idle: u64,
}

/// Where the packages put the configuration.
pub const DEFAULT_CONFIG: &str = "/etc/beehive/beehive.toml";

/// `beehive audit …`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Checks that nothing was altered, removed, put into another order, cut off or written anew
    ///
    /// Ends with 1 if something was. A torn last line, as after a power cut, is named and is no fault.
    Verify(AuditArgs),
    /// Prints the records, one a line
    Show {
        /// Which log.
        #[command(flatten)]
        log: AuditArgs,
        /// Only the last so many
        #[arg(long, value_name = "N")]
        last: Option<usize>,
    },
    /// Prints the last head that this user saw, as NUMBER:HASH for --head; ends with 1 if there is none
    Head,
}

/// Which log, and how to check it.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// The master's configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The folder of the log [default: audit in the state folder]
    #[arg(long, value_name = "FOLDER")]
    pub log: Option<PathBuf>,
    /// A head that somebody saw, which has to be in the log; may be named more than once
    #[arg(long = "head", value_name = "NUMBER:HASH")]
    pub heads: Vec<AuditHead>,
    /// A public key that the coordinator had before
    #[arg(long = "key", value_name = "HEX")]
    pub keys: Vec<PublicKey>,
}

/// `beehive config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Reads a configuration as `run` would, and says what is wrong with it, with line and column
    Check {
        /// The configuration
        #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
        file: PathBuf,
    },
    /// Prints a configuration with every setting, its default and what it means
    Example {
        /// The crew
        #[arg(long, default_value = "bee42-crew-01")]
        crew: CrewName,
        /// The node's host name
        #[arg(long, default_value = "bee42-crew-01-001")]
        node: NodeName,
        /// Its part in the crew
        #[arg(long, value_enum, default_value_t = RoleArg::Master)]
        role: RoleArg,
    },
}

/// A node's part in its crew, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Runs the coordinator
    Master,
    /// Runs work
    Node,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Master => Self::Master,
            RoleArg::Node => Self::Node,
        }
    }
}

/// `beehive demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many Pis, the master included
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub nodes: u8,
    /// Play this scenario instead of the built-in one, and end with 1 if an expectation in it fails
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// How long each step of the simulated engine takes, in milliseconds [default: 400 in a terminal, else 0]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub step_ms: Option<u64>,
}

/// `beehive sim …`.
#[cfg(feature = "sim")]
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Plays seeds on every processor, and says what they came to
    ///
    /// A violation ends the run with 1. It is made as small as it gets and kept in a file for `sim replay`.
    Run(SimRunArgs),
    /// Plays a violation again, line by line of what happened
    Replay {
        /// The file that `sim run` wrote
        file: PathBuf,
        /// Wait for Enter before each line, in a terminal
        #[arg(long)]
        step: bool,
    },
}

/// `beehive sim run`.
#[cfg(feature = "sim")]
#[derive(Debug, Args)]
pub struct SimRunArgs {
    /// The first seed, and how many
    #[arg(long, value_name = "FROM:COUNT", default_value = "1:100")]
    pub seeds: Seeds,
    /// At least so many events in each: delivered messages, completed actions, faults, acts of people
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub events: u64,
    /// Sign and check every message with Ed25519 instead of a fast hash
    #[arg(long)]
    pub real_signatures: bool,
    /// Where a violation is kept [default: seed-SEED.json in this folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Which seeds.
#[cfg(feature = "sim")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
}

#[cfg(feature = "sim")]
impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "seeds are FROM:COUNT, such as 1:1000, or one seed alone".to_owned();
        let (from, count) = text.split_once(':').unwrap_or((text, "1"));
        let (from, count): (u64, u64) = (from.parse().map_err(|_| wrong())?, count.parse().map_err(|_| wrong())?);
        if count == 0 || from.checked_add(count).is_none() {
            return Err(wrong());
        }
        Ok(Self { from, count })
    }
}

/// What the console's commands have in common. They may stand before or after the command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Console options")]
pub struct ConsoleOptions {
    /// The MQTT broker: HOST:PORT, or tls://HOST:PORT with the certificates of --identity [default: the one in the crew's
    /// file, else 127.0.0.1:1883]
    #[arg(long, global = true, env = "BEEHIVE_BROKER", value_name = "BROKER")]
    pub broker: Option<Broker>,
    /// The crew [default: that of `beehive crew use`, else the only one that has a folder here]
    #[arg(long, global = true, env = "BEEHIVE_CREW", value_name = "NAME")]
    pub crew: Option<CrewName>,
    /// Who asks [default: $USER, with '-' for what may not be in a name]
    #[arg(long, global = true, env = "BEEHIVE_USER", value_name = "NAME")]
    pub user: Option<UserName>,
    /// The folder with this user's keys [default: ~/.config/beehive/crews/CREW/operators/USER]
    #[arg(long, global = true, env = "BEEHIVE_IDENTITY", value_name = "FOLDER")]
    pub identity: Option<PathBuf>,
    /// Data as JSON: one document, or one a line for what goes on (events -f, status --watch)
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for the answer, and with --wait for the end [default: 30, with --wait 1800]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub timeout: Option<u32>,
    /// Speak, without encryption, to a broker that is not on this machine
    #[arg(long, global = true)]
    pub insecure_test_broker: bool,
}

impl ConsoleOptions {
    /// The broker: the one that was given or found, else one on this machine.
    pub fn broker(&self) -> Broker {
        let here = || Broker { host: "127.0.0.1".to_owned(), port: DEFAULT_PORT, tls: TlsSwitch::Off };
        self.broker.clone().unwrap_or_else(here)
    }

    /// Who asks: `--user`, or else `$USER` made valid.
    pub fn user(&self) -> UserName {
        self.user.clone().unwrap_or_else(|| valid_user(&std::env::var("USER").unwrap_or_default()))
    }

    /// The file with the last head of the coordinator's audit log that this user saw: beside the user's keys.
    ///
    /// # Errors
    /// If no crew is named.
    pub fn audit_head(&self) -> anyhow::Result<PathBuf> {
        let crew = self.crew.as_ref();
        let crew = crew.ok_or_else(|| anyhow::anyhow!("which crew? add --crew NAME, or set BEEHIVE_CREW"))?;
        Ok(self.identity_dir(crew).join(AUDIT_HEAD))
    }

    /// The folder with this user's keys: `--identity`, or else where `crew init` is meant to have been run.
    pub fn identity_dir(&self, crew: &CrewName) -> PathBuf {
        self.identity
            .clone()
            .unwrap_or_else(|| crews_dir().join(crew.as_str()).join("operators").join(self.user().as_str()))
    }
}

/// The file with the last head of the audit log that was seen, in a user's folder.
pub const AUDIT_HEAD: &str = "audit-head";

/// The nearest user name to what the system calls the user; `operator` where nothing is left of it.
pub fn valid_user(system: &str) -> UserName {
    let lower = system.to_ascii_lowercase();
    let replaced: String =
        lower.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let cut: String = replaced.trim_matches('-').chars().take(UserName::MAX_BYTES).collect();
    let fallback = || UserName::from_str("operator");
    match cut.trim_matches('-').parse().or_else(|_| fallback()) {
        Ok(user) => user,
        Err(_) => unreachable!("'operator' is a name"),
    }
}

/// The broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Whether it is spoken to over TLS.
    pub tls: TlsSwitch,
}

/// MQTT's port without TLS.
const DEFAULT_PORT: u16 = 1883;

/// What stands before an address that is spoken to over TLS.
const TLS_SCHEME: &str = "tls://";

impl Broker {
    /// Whether it is on this machine, so that nothing crosses a wire.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl std::fmt::Display for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.tls {
            TlsSwitch::On => f.write_str(TLS_SCHEME)?,
            TlsSwitch::Off => {}
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Broker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (tls, text) = match text.strip_prefix(TLS_SCHEME) {
            Some(text) => (TlsSwitch::On, text),
            None => (TlsSwitch::Off, text),
        };
        let default = match tls {
            TlsSwitch::On => crate::crew::broker::PORT,
            TlsSwitch::Off => DEFAULT_PORT,
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or("a ']' is missing after the IPv6 address")?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(format!("{rest:?} stands after the ']'; only :PORT may")),
                }
            }
            None if text.matches(':').count() > 1 => {
                return Err("an IPv6 address stands in brackets, as in [::1]:1883".to_owned());
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '%' | '_');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(format!("{host:?} is no host name and no address; write HOST:PORT, as in 127.0.0.1:1883"));
        }
        let port = match port {
            None => default,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                Ok(_) | Err(_) => return Err(format!("{port:?} is no port; a number from 1 to 65535 is")),
            },
        };
        if tls == TlsSwitch::On && host.contains(':') {
            return Err("over TLS write the broker's name instead of an IPv6 address; any name will do".to_owned());
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

/// The commands of the ops console.
#[derive(Debug, Clone, Subcommand)]
pub enum ConsoleCommand {
    /// Shows the crew: each node, the cluster, the operations that run
    ///
    /// POWER stands in parentheses where the node is not connected: it is the last that it said. "-" is not known.
    #[command(after_help = ExitCode::help())]
    Status {
        /// Go on and show each change, until Ctrl-C or --timeout
        #[arg(long, short = 'w')]
        watch: bool,
    },
    /// Lists, shows and handles single nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Makes, rebuilds and handles the cluster as a whole
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Prints the events of all nodes and of the coordinator, one a line
    ///
    /// The broker keeps no events: only those that happen from now on are seen.
    #[command(after_help = ExitCode::help())]
    Events {
        /// Go on until Ctrl-C; without it the command ends after --timeout (10 s where none is given)
        #[arg(long, short = 'f')]
        follow: bool,
    },
}

/// How an operation is asked for.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "Operation options")]
pub struct Acting {
    /// Wait for the operation's end and show its steps; without it the command ends when the coordinator has answered
    #[arg(long)]
    pub wait: bool,
    /// Print the numbered plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Set a protecting rule aside, where the rule allows it; the answer names it
    #[arg(long)]
    pub force: bool,
    /// Do not ask for a confirmation
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// A node and how to handle it.
#[derive(Debug, Clone, Args)]
pub struct OnNode {
    /// The node's name, as `beehive status` shows it
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// How.
    #[command(flatten)]
    pub acting: Acting,
}

/// As [`OnNode`], or without the coordinator.
#[derive(Debug, Clone, Args)]
pub struct OnNodeOrDirect {
    /// The node and how.
    #[command(flatten)]
    pub on: OnNode,
    /// Ask the node itself. It refuses while a coordinator was heard within 30 s or a command is unfinished. On a master it
    /// concerns that one Pi, not the crew
    #[arg(long, conflicts_with_all = ["dry_run", "force"])]
    pub direct: bool,
}

/// As [`OnNode`], with an engine version.
#[derive(Debug, Clone, Args)]
pub struct JoinNode {
    /// The node and how.
    #[command(flatten)]
    pub on: OnNode,
    /// The engine version that is wanted.
    #[command(flatten)]
    pub engine: EngineVersion,
}

/// Which engine version.
#[derive(Debug, Clone, Default, Args)]
pub struct EngineVersion {
    /// The engine's version [default: the one that is installed]
    #[arg(long = "engine-version", visible_alias = "version", value_name = "VERSION", value_parser = engine_version)]
    pub version: Option<String>,
}

/// The longest engine version on the wire, in bytes.
const ENGINE_VERSION_BYTES: usize = 32;

fn engine_version(text: &str) -> Result<String, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    if text.is_empty() || text.len() > ENGINE_VERSION_BYTES || !text.chars().all(valid) {
        return Err(format!(
            "a version has 1 to {ENGINE_VERSION_BYTES} letters, digits, '.', '-', '+' and '_', as in v1.31.4+k3s1"
        ));
    }
    Ok(text.to_owned())
}

/// `beehive node …`.
#[derive(Debug, Clone, Subcommand)]
pub enum NodeCommand {
    /// Lists the nodes
    #[command(after_help = ExitCode::help())]
    List,
    /// Shows everything that is known of one node
    #[command(after_help = ExitCode::help())]
    Show {
        /// The node's name
        #[arg(value_name = "NODE")]
        node: NodeName,
    },
    /// Lets a node blink, so that it is found
    #[command(after_help = ExitCode::help())]
    Identify(OnNodeOrDirect),
    /// Lets no new work onto a node and evicts what runs there
    #[command(after_help = ExitCode::help())]
    Drain(OnNode),
    /// Lets work onto a node again
    #[command(after_help = ExitCode::help())]
    Uncordon(OnNode),
    /// Brings a node into the cluster
    #[command(after_help = ExitCode::help())]
    Join(JoinNode),
    /// Takes a node out of the cluster and cleans it (destroys: asks for the node's name)
    #[command(after_help = ExitCode::help())]
    Leave(OnNode),
    /// Cleans a node, whatever state it is in (destroys: asks for the node's name)
    #[command(after_help = ExitCode::help())]
    Reset(OnNode),
    /// Empties a node and restarts it
    #[command(after_help = ExitCode::help())]
    Reboot(OnNodeOrDirect),
    /// Empties a node and switches it off; it needs a hand to come back
    #[command(after_help = ExitCode::help())]
    Shutdown(OnNodeOrDirect),
}

/// As [`Acting`], with an engine version.
#[derive(Debug, Clone, Args)]
pub struct MakeCluster {
    /// How.
    #[command(flatten)]
    pub acting: Acting,
    /// The engine version that is wanted.
    #[command(flatten)]
    pub engine: EngineVersion,
}

/// As [`Acting`], with the engine version that every member shall have.
#[derive(Debug, Clone, Args)]
pub struct UpgradeCluster {
    /// How.
    #[command(flatten)]
    pub acting: Acting,
    /// The engine's version
    #[arg(long = "engine-version", visible_alias = "version", value_name = "VERSION", value_parser = engine_version)]
    pub version: String,
}

/// `beehive cluster …`.
#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Makes the cluster: the master first, then every node joins
    #[command(after_help = ExitCode::help())]
    Create(MakeCluster),
    /// Tears the cluster down and makes it anew (destroys: asks for the crew's name)
    #[command(after_help = ExitCode::help())]
    Rebuild(MakeCluster),
    /// Tears the cluster down (destroys: asks for the crew's name)
    #[command(after_help = ExitCode::help())]
    Reset(Acting),
    /// Restarts every Pi, one after the other, each one emptied first
    #[command(after_help = ExitCode::help())]
    Reboot(Acting),
    /// Brings the engine of every member to another version, one after the other, the master first
    ///
    /// Each one is emptied first, and the next one's turn comes when it is ready at that version. A copy of the cluster's
    /// state is kept before. Members that have the version already are left alone.
    #[command(after_help = ExitCode::help())]
    Upgrade(UpgradeCluster),
    /// Switches every Pi off, the master last; says beforehand which will need a hand to come back
    #[command(after_help = ExitCode::help())]
    Shutdown(Acting),
    /// Waits until every Pi is on and every member is ready, for half an hour at most
    ///
    /// Nothing here switches a Pi on: a hand or a PoE switch does. It says who is still missing, and who never came.
    #[command(after_help = ExitCode::help())]
    Start(Acting),
    /// Calls the running operation off at its next safe point
    #[command(after_help = ExitCode::help())]
    Abort(Acting),
    /// Takes up again what failed, was aborted or paused
    #[command(after_help = ExitCode::help())]
    Resume(Acting),
    /// Hands out a kubeconfig with which this operator administers the cluster
    ///
    /// The private key is made here and never travels; the cluster's authority certifies it. What comes back is sealed to this
    /// one request, and that it was asked for is in the audit log. For operators alone.
    #[command(after_help = ExitCode::help())]
    Kubeconfig {
        /// The file, which must not be there; for its owner alone [default: standard output, unless that is a terminal]
        #[arg(long, short = 'o', value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// The completions of `shell`.
#[cfg(feature = "pages")]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "beehive", &mut text);
    text
}

/// Writes `text` to standard output. A reader that has gone away (`beehive man | head`) is no error.
///
/// # Errors
/// If it cannot be written for another reason, such as a full disk.
pub fn print(text: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The main man page.
///
/// # Errors
/// None that is known: it is written into memory.
#[cfg(feature = "pages")]
pub fn man_page() -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    Ok(text)
}

/// Writes the man pages of all commands into `folder`, which is made if it is not there.
///
/// # Errors
/// If the folder or a page cannot be written.
#[cfg(feature = "pages")]
pub fn man_pages(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}

/// What `beehive version` prints.
pub fn version(options: &ConsoleOptions) -> String {
    let (name, version) = (env!("CARGO_PKG_NAME"), crate::release::mark::own().version);
    if options.json {
        let protocol = crate::link::speaks().number();
        format!("{}\n", serde_json::json!({ "name": name, "version": version, "protocol": protocol }))
    } else {
        format!("{name} {version}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn broker_addresses_are_read_and_refused_with_a_reason() {
        for (text, host, port, loopback) in [
            ("127.0.0.1:1883", "127.0.0.1", 1883, true),
            ("127.3.2.1", "127.3.2.1", 1883, true),
            ("localhost:99", "localhost", 99, true),
            ("[::1]:7", "::1", 7, true),
            ("[fe80::1%eth0]", "fe80::1%eth0", 1883, false),
            ("crew-master", "crew-master", 1883, false),
            ("10.0.0.1:1", "10.0.0.1", 1, false),
            ("localhost.example.org", "localhost.example.org", 1883, false),
            ("tls://crew-master", "crew-master", 8883, false),
            ("tls://10.0.0.1:99", "10.0.0.1", 99, false),
        ] {
            let broker: Broker = text.parse().unwrap();
            assert_eq!((broker.host.as_str(), broker.port, broker.is_loopback()), (host, port, loopback), "{text}");
            assert_eq!(broker.to_string().parse::<Broker>().unwrap(), broker);
        }
        for (text, reason) in [
            ("", "no host name"),
            (":1883", "no host name"),
            ("a b:1", "no host name"),
            ("host:0", "no port"),
            ("host:65536", "no port"),
            ("host:", "no port"),
            ("::1", "brackets"),
            ("[::1", "']' is missing"),
            ("[::1]x", "only :PORT"),
            ("tls://[::1]", "instead of an IPv6"),
            ("mqtts://a", "no port"),
        ] {
            let error = text.parse::<Broker>().unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_system_user_becomes_a_valid_name() {
        for (system, user) in [
            ("ann", "ann"),
            ("Ann.Bee", "ann-bee"),
            ("_apt", "apt"),
            ("", "operator"),
            ("---", "operator"),
            ("ä", "operator"),
        ] {
            assert_eq!(valid_user(system).as_str(), user, "{system:?}");
        }
        let long = format!("{}-x", "a".repeat(UserName::MAX_BYTES - 1));
        assert_eq!(valid_user(&long).as_str(), "a".repeat(UserName::MAX_BYTES - 1));
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in [
            ["beehive", "--broker", "[::1]:1", "--crew", "bee", "node", "drain", "pi-2"],
            ["beehive", "node", "drain", "pi-2", "--broker", "[::1]:1", "--crew", "bee"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.options.broker().to_string(), "[::1]:1");
            assert_eq!(cli.options.crew.unwrap().as_str(), "bee");
        }
    }

    #[test]
    fn an_upgrade_reaches_a_prepared_card_by_itself() {
        let cli = Cli::try_parse_from(["beehive", "crew", "upgrade", "--rollback"]).unwrap();
        let Command::Crew(CrewCommand::Upgrade(args)) = cli.command else { panic!("another command") };
        let words = args.via.for_host("bee42-crew-01-002.local");
        assert_eq!(words, ["ssh", "-o", "BatchMode=yes", "pi@bee42-crew-01-002.local", "sudo", "-n"]);
        for (text, reason) in [("", "a program"), ("{host}", "a program"), ("ssh pi@bee-2", "is missing")] {
            assert!(text.parse::<Via>().unwrap_err().contains(reason), "{text:?}");
        }
    }

    #[test]
    fn bad_names_and_versions_are_refused_by_the_command_line() {
        for (line, reason) in [
            (&["beehive", "node", "drain", "Pi_2"][..], "only a-z, 0-9 and '-'"),
            (&["beehive", "--crew", "a/b", "status"], "only a-z, 0-9 and '-'"),
            (&["beehive", "cluster", "create", "--engine-version", "v1;rm"], "letters, digits"),
            (&["beehive", "cluster", "rebuild", "--version", "v1;rm"], "letters, digits"),
            (&["beehive", "status", "--timeout", "0"], "1..=86400"),
        ] {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[cfg(feature = "pages")]
    #[test]
    fn every_command_has_completions_and_a_man_page() {
        let bash = String::from_utf8(completions(Shell::Bash)).unwrap();
        for word in ["rebuild", "uncordon", "events", "--insecure-test-broker", "completions"] {
            assert!(bash.contains(word), "{word}");
        }
        let folder = tempfile::tempdir().unwrap();
        man_pages(folder.path()).unwrap();
        for page in ["beehive.1", "beehive-cluster-rebuild.1", "beehive-node-show.1", "beehive-config-check.1"] {
            assert!(folder.path().join(page).exists(), "{page}");
        }
        let page = String::from_utf8(man_page().unwrap()).unwrap();
        assert!(page.contains("timed out; the outcome is not known"), "the exit codes are in the man page");
    }
}
