//! `beehive discover`: which Pis there are, without nmap. The network is asked over mDNS, where each Pi announces itself
//! ([`crate::announce`]), and the crew's broker for what it knows; nothing is changed anywhere.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`txt`] | what a Pi says, taken apart; pure |
//! | [`mdns`] | the asking |
//! | [`picture`] | all of it put together, and what to look at; pure |
//!
//! Nothing that is announced is signed. An address from here is where to try; who answers there is proven by keys.

pub mod mdns;
pub mod picture;
pub mod txt;

use std::collections::BTreeMap;
use std::time::Duration;

use self::mdns::MdnsError;
use self::picture::{Card, Context, InFolder, Known, Used};
pub use self::txt::Heard;
use crate::cli::{self, ConsoleOptions};
use crate::console::{self, ExitCode};
use crate::crew::folder::Folder;
use crate::enrol::owner::register::Register;

/// `beehive discover`.
#[derive(Debug, clap::Args)]
pub struct DiscoverArgs {
    /// How long to listen
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub seconds: u32,
}

/// Who announces itself on the network. Blocks for `time`.
///
/// # Errors
/// If the network cannot be asked.
pub fn everybody(time: Duration, note: &mut dyn FnMut(&str)) -> Result<Vec<Heard>, MdnsError> {
    mdns::search(time, note)
}

fn say(text: &str) {
    eprintln!("beehive: {text}");
}

/// Looks around, and says what was found.
pub async fn run(options: &ConsoleOptions, arguments: &DiscoverArgs) -> ExitCode {
    let time = Duration::from_secs(u64::from(arguments.seconds));
    let network = tokio::task::spawn_blocking(move || mdns::search(time, &mut |note| say(note)));
    let broker = async {
        match options.crew {
            Some(_) => console::look(options, time).await.map_err(|trouble| trouble.to_string()),
            None => Err("which crew? none is named (--crew), and none is the default (`beehive crew use`)".to_owned()),
        }
    };
    let (network, broker) = tokio::join!(network, broker);
    let network = match network {
        Ok(heard) => heard.map_err(|error| error.to_string()),
        Err(error) => Err(format!("the search over mDNS ended early: {error}; report this")),
    };
    let mut context = Context { crew: options.crew.clone(), ..Context::default() };
    let mut asked = 0;
    match broker {
        Ok((view, now_ms)) => {
            asked += 1;
            context.known = view
                .nodes()
                .into_iter()
                .map(|node| Known {
                    node: node.node.clone(),
                    seen: node.seen(now_ms),
                    model: node.info.as_ref().map(|info| info.model.as_str().to_owned()),
                    version: node.info.as_ref().map(|info| info.version.as_str().to_owned()),
                })
                .collect();
        }
        Err(why) => say(&format!("the broker was not asked: {why}")),
    }
    let heard = match network {
        Ok(heard) => {
            asked += 1;
            heard
        }
        Err(why) => {
            say(&why);
            Vec::new()
        }
    };
    if asked == 0 {
        return ExitCode::Failed;
    }
    context.folder = in_folder(options);
    let pis = picture::picture(heard, &context);
    let written = if options.json {
        cli::print(format!("{}\n", picture::document(&pis, &context)).as_bytes())
    } else if pis.is_empty() {
        say(
            "no Pi was found; see that they have power and network, that avahi-daemon runs on them, and try a longer --seconds",
        );
        Ok(())
    } else {
        cli::print(picture::text(&pis).as_bytes())
    };
    if let Err(error) = written {
        say(&format!("cannot write: {error}"));
        return ExitCode::Failed;
    }
    let alarm = pis.iter().flat_map(|pi| &pi.remarks).any(picture::Remark::is_alarm);
    if alarm { ExitCode::Alarm } else { ExitCode::Done }
}

/// The crew, by its folder on this machine: who is in it, and which cards were made to enrol (`enrolments/NODE.toml`).
fn in_folder(options: &ConsoleOptions) -> Option<InFolder> {
    let folder = cli::crews_dir().join(options.crew.as_ref()?.as_str());
    if !folder.join("manifest.json").exists() {
        return None;
    }
    let nodes = match Folder::new(&folder).nodes() {
        Ok(nodes) => nodes,
        Err(error) => {
            say(&format!("what the crew's folder says is not compared: {error}"));
            return None;
        }
    };
    let mut cards = BTreeMap::new();
    let register = Register::of(&folder);
    for node in &nodes {
        match register.load(node) {
            Ok(None) => {}
            Ok(Some(entry)) => {
                let used = if entry.used.is_some() { Used::Yes } else { Used::NotYet };
                cards.insert(node.clone(), Card { key: Some(entry.card.id()), used });
            }
            Err(error) => say(&format!("whether {node} is enrolled is not known: {error:#}")),
        }
    }
    Some(InFolder { nodes: nodes.into_iter().collect(), cards })
}
