//! `beehive crew enrol`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use beehive_mqtt::NodeName;
use beehive_mqtt::manifest::Manifest;
use beehive_mqtt::sign::{Digest, PublicKey};
use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::register::{Alarm, Entry, Register};
use super::{Outcome, certify, speaks, taken};
use crate::cli::{ConsoleOptions, CrewFolder};
use crate::console::enrolled::{self, Heard, Wish};
use crate::console::exit::{ExitCode, Trouble};
use crate::crew::broker;
use crate::crew::command::dir_of;
use crate::crew::file::{CREW_FILE, CrewFile, JoinWhen};
use crate::crew::folder::Folder;
use crate::crew::keys::KeyFolder;
use crate::discover;
use crate::enrol::wire::{self, Ask, Kind, Reply, Request, Signed, about};

/// How long Pis are waited for unless --timeout says otherwise: an old Pi's first boot, with a file system that grows, takes some
/// minutes.
const WAIT_S: u32 = 600;

/// How often a Pi that is not there is asked again.
const ROUND: Duration = Duration::from_secs(2);

/// How long a connection may take to be made: these Pis are on the local network.
const CONNECT: Duration = Duration::from_secs(3);

/// How long the crew is given to take note of the new manifest, at least.
const TELL: Duration = Duration::from_secs(20);

/// How long the local network is listened to before what was heard counts.
const LISTEN: Duration = Duration::from_secs(2);

/// The most announced addresses that are tried for one node: anybody on the network may announce some, and each may take its time.
const MAX_CANDIDATES: usize = 8;

/// `beehive crew enrol`.
#[derive(Debug, Clone, Args)]
pub struct CrewEnrolArgs {
    /// Which nodes [default: all whose cards wait, or have not said that they have their keys]
    #[arg(value_name = "NODE")]
    pub nodes: Vec<NodeName>,
    /// Where the Pi is, if not where the crew's file says; for one node
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// On which port it listens [default: the one that its card was prepared with]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Look for them on the local network too (mDNS), where the crew's file does not say where they are
    #[arg(long, conflicts_with = "host")]
    pub discover: bool,
    /// Take note of the alarms of these nodes, and do nothing else
    #[arg(long, requires = "nodes", conflicts_with_all = ["host", "port", "discover"])]
    pub acknowledge: bool,
    /// The crew's folder.
    #[command(flatten)]
    pub of: CrewFolder,
}

/// Where a Pi that waits may be found. Discovery on the network is another one.
pub trait Candidates {
    /// Hosts and ports, the likeliest first. `card` is the public key that the Pi's card has.
    fn candidates(&self, node: &NodeName, card: &PublicKey) -> Vec<(String, u16)>;
}

/// By what the operator or the crew's file says.
#[derive(Debug)]
pub struct Written<'a> {
    file: Option<&'a CrewFile>,
    host: Option<&'a str>,
    ports: BTreeMap<NodeName, u16>,
}

impl Candidates for Written<'_> {
    fn candidates(&self, node: &NodeName, _card: &PublicKey) -> Vec<(String, u16)> {
        let by_file = || {
            let found = self.file.and_then(|file| Some((file, file.nodes.iter().find(|known| known.name == *node)?)));
            found.map_or_else(|| node.to_string(), |(file, found)| file.network.host_of(found))
        };
        let port = self.ports.get(node).copied().unwrap_or(crate::enrol::PORT);
        vec![(self.host.map_or_else(by_file, str::to_owned), port)]
    }
}

/// What the Pis say of themselves on the local network, after what is written. Anybody may say anything there: it tells whom to
/// ask, and who answers is believed by the card's key alone.
struct Discovered<'a> {
    written: Written<'a>,
    heard: Arc<Mutex<Vec<discover::Heard>>>,
}

impl Candidates for Discovered<'_> {
    fn candidates(&self, node: &NodeName, card: &PublicKey) -> Vec<(String, u16)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let shows_the_card = |pi: &&discover::Heard| pi.key == Some(card.id());
        let bears_the_name = |pi: &&discover::Heard| pi.key.is_none() && pi.node.as_ref() == Some(node);
        let mut found: Vec<_> =
            heard.iter().filter(shows_the_card).chain(heard.iter().filter(bears_the_name)).collect();
        found.truncate(MAX_CANDIDATES);
        let addresses = found.into_iter().flat_map(|pi| &pi.addresses);
        // the address' own text holds what an IPv6 one needs to be reached on its link
        let announced = addresses.map(|at| (host_of(*at), at.port()));
        self.written.candidates(node, card).into_iter().chain(announced.take(MAX_CANDIDATES)).collect()
    }
}

/// An address as a host: a link-local one with the number of its link.
fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip().to_string(),
    }
}

/// Listens until it is dropped.
fn listen(heard: Arc<Mutex<Vec<discover::Heard>>>) -> JoinSet<()> {
    let mut listening = JoinSet::new();
    listening.spawn(async move {
        loop {
            let search = tokio::task::spawn_blocking(|| discover::everybody(LISTEN, &mut |text| note(text))).await;
            match search {
                Ok(Ok(found)) => *heard.lock().unwrap_or_else(PoisonError::into_inner) = found,
                Ok(Err(error)) => return note(&format!("the local network cannot be asked: {error}")),
                Err(_) => return,
            }
        }
    });
    listening
}

/// How far a node is.
#[derive(Debug, Clone)]
enum State {
    /// Not heard yet, and why.
    Waiting(String),
    /// It has its identity.
    Enrolled { address: IpAddr, about: (Option<String>, Option<String>) },
    /// Its secret was used by another one.
    Alarm(Alarm),
}

impl State {
    fn word(&self) -> &'static str {
        match self {
            Self::Waiting(_) => "waiting",
            Self::Enrolled { .. } => "enrolled",
            Self::Alarm(_) => "alarm",
        }
    }
}

/// A Pi that has asked: the connection is still open.
struct Asked {
    stream: TcpStream,
    request: Request,
    address: IpAddr,
}

fn nonce() -> Result<Digest, String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| format!("this system has no randomness: {error}"))?;
    Ok(Digest(bits))
}

/// Asks whoever is there, and believes nobody but the card.
async fn ask(host: &str, port: u16, node: &NodeName, card: &PublicKey) -> Result<Asked, String> {
    let stream = timeout(CONNECT, TcpStream::connect((host, port))).await;
    let mut stream = stream
        .map_err(|_| format!("{host}:{port} does not answer"))?
        .map_err(|error| format!("{host}:{port}: {error}"))?;
    let address = stream.peer_addr().map_err(|error| error.to_string())?.ip();
    let nonce = nonce()?;
    let wrong = |error: &dyn std::fmt::Display| format!("{host}:{port}: {error}");
    wire::send(&mut stream, &Ask::Who { nonce }).await.map_err(|error| wrong(&error))?;
    let signed = match wire::receive(&mut stream, wire::MAX_REPLY_BYTES).await.map_err(|error| wrong(&error))? {
        Reply::Request(signed) => signed,
        Reply::Taken(_) => return Err(wrong(&"it answers what was not asked")),
        Reply::Refused { why } => return Err(wrong(&about(&why).unwrap_or_default())),
    };
    let mut request: Request = signed
        .open(Kind::Request, card)
        .map_err(|error| wrong(&format_args!("not the card that was prepared for {node} last: {error}")))?;
    if request.nonce != nonce {
        return Err(wrong(&"it plays an older request again"));
    }
    if request.node != *node {
        return Err(wrong(&"it says that it is another node"));
    }
    // it goes into files and onto terminals
    request.serial = request.serial.as_deref().and_then(about);
    request.model = request.model.as_deref().and_then(about);
    Ok(Asked { stream, request, address })
}

/// Certifies, answers, and hears whether it has arrived.
async fn answer(folder: &Path, asked: &mut Asked) -> Result<State, String> {
    let Asked { stream, request, address } = asked;
    let signed = match certify(folder, request, *address).map_err(|error| format!("{error:#}"))? {
        Outcome::Answer(signed) => signed,
        Outcome::Alarm(alarm) => return Ok(State::Alarm(alarm)),
    };
    send_answer(stream, *signed).await.and_then(|receipt| {
        taken(folder, &request.node, &receipt).map_err(|error| format!("its receipt is not believed: {error:#}"))
    })?;
    Ok(State::Enrolled { address: *address, about: (request.serial.clone(), request.model.clone()) })
}

async fn send_answer(stream: &mut TcpStream, answer: Signed) -> Result<Signed, String> {
    let wrong = |error: wire::WireError| format!("it was certified, and did not say that it has its keys: {error}");
    wire::send(stream, &Ask::Take { answer }).await.map_err(wrong)?;
    match wire::receive(stream, wire::MAX_REPLY_BYTES).await.map_err(wrong)? {
        Reply::Taken(receipt) => Ok(receipt),
        Reply::Request(_) => Err("it answers what was not asked".to_owned()),
        Reply::Refused { why } => Err(format!("it does not take the answer: {}", about(&why).unwrap_or_default())),
    }
}

fn failed(error: &anyhow::Error) -> Trouble {
    Trouble::new(ExitCode::Failed, "nobody was enrolled", format!("{error:#}"), "")
}

fn note(text: &str) {
    eprintln!("{text}");
}

/// The commands that put a stranger out who came first with a card's secret, and let the rightful Pi in. Three things let him in:
/// his keys in the manifest, the node's anchor at the broker (a new certificate under the old one would leave him his), and the
/// card. A revocation alone is no way: a node that is not in the manifest gets no card.
fn way_out(folder: &Path, node: &NodeName, master: &NodeName) -> [String; 4] {
    let dir = folder.display();
    let site = Folder::new(folder).site(crate::cli::BROKER_DIR.as_ref());
    let site = site.ok().filter(|site| (site.dir.to_str(), site.port) != (Some(crate::cli::BROKER_DIR), broker::PORT));
    let site = site.map_or(String::new(), |site| format!(" --dir {} --port {}", site.dir.display(), site.port));
    let other_keys = if node == master {
        // a new term, so that what the stranger coordinates is believed no more
        format!("beehive crew master replace {node} --dir {dir}")
    } else {
        format!("beehive crew add-node {node} --dir {dir}")
    };
    [
        other_keys,
        format!("beehive broker config {dir} --renew-node {node}{site}"),
        format!("beehive image prepare --renew --node {node} --dir {dir} --image STOCK.img --out CARD.img"),
        format!("beehive crew enrol {node} --dir {dir}"),
    ]
}

fn cry(folder: &Path, master: &NodeName, node: &NodeName, alarm: &Alarm) {
    let [other_keys, list, card, enrol] = way_out(folder, node, master);
    let put_out = if node == master {
        "take his Pi off the network; where the broker is on another machine, `beehive broker apply` there"
    } else {
        "copy broker/ to the broker's machine, and `beehive broker apply` there: he is put out"
    };
    note(&format!(
        "ALARM: the secret of {node}'s card was used a second time: {alarm}. Nothing was certified. Somebody has a copy of that card \
         or its image. If the Pi that is in the crew as {node} is not yours:\n  {other_keys}\n  {list}\n  ({put_out})\n  {card}\n  \
         (the new card in your Pi; then, and the crew hears of it)\n  {enrol}\nWhen you have looked into it: `beehive crew enrol \
         --acknowledge {node}`"
    ));
}

/// Carries the command out. What there is to say of each node comes back as text and document.
///
/// # Errors
/// If it cannot begin.
pub async fn run(arguments: &CrewEnrolArgs, options: &ConsoleOptions) -> Result<(String, Value, ExitCode), Trouble> {
    let folder = dir_of(&arguments.of, options)
        .map_err(|error| Trouble::new(ExitCode::Usage, "nobody was enrolled", format!("{error:#}"), ""))?;
    let register = Register::of(&folder);
    if arguments.acknowledge {
        return acknowledge(arguments, &register);
    }
    let manifest = KeyFolder::new(&folder).manifest().map_err(|error| failed(&error.into()))?;
    let path = folder.join(CREW_FILE);
    let file = if path.exists() { Some(CrewFile::load(&path).map_err(|error| failed(&error.into()))?) } else { None };
    let (mut wanted, others) = wanted(arguments, &register).map_err(|error| failed(&error))?;
    if arguments.host.is_some() && wanted.len() != 1 {
        return Err(Trouble::new(
            ExitCode::Usage,
            "nobody was enrolled",
            format!("--host is where one Pi is, and {} are meant", wanted.len()),
            "name the one node",
        ));
    }
    let port_of = |entry: &Entry| arguments.port.unwrap_or(entry.port);
    let ports = wanted.iter().chain(&others).map(|(node, entry)| (node.clone(), port_of(entry))).collect();
    let written = Written { file: file.as_ref(), host: arguments.host.as_deref(), ports };
    let heard = Arc::default();
    let (places, _listening): (Box<dyn Candidates>, _) = if arguments.discover {
        let listening = listen(Arc::clone(&heard));
        (Box::new(Discovered { written, heard }), Some(listening))
    } else {
        (Box::new(written), None)
    };
    let limit = Instant::now() + Duration::from_secs(u64::from(options.timeout.unwrap_or(WAIT_S)));
    let console = console_of(arguments, options, &folder, file.as_ref());
    if arguments.host.is_none() {
        settle(&console, &folder, &manifest, &mut wanted).await;
    }
    let states = rounds(&folder, &manifest.coordinator, wanted, others, places.as_ref(), limit).await;

    let enrolled: Vec<NodeName> = states
        .iter()
        .filter(|(_, state)| matches!(state, State::Enrolled { .. }))
        .map(|(node, _)| node.clone())
        .collect();
    let told = tell(&console, file.as_ref(), enrolled, limit).await;
    for (node, alarm) in register.open_alarms().map_err(|error| failed(&error))? {
        cry(&folder, &manifest.coordinator, &node, &alarm);
    }
    report(&folder, &states, &told).map_err(|error| failed(&error))
}

type Entries = BTreeMap<NodeName, Entry>;

/// Whom it is about, and who is asked once besides, so that a second use is seen.
fn wanted(arguments: &CrewEnrolArgs, register: &Register) -> anyhow::Result<(Entries, Entries)> {
    let (mut wanted, mut others) = (BTreeMap::new(), BTreeMap::new());
    for node in register.nodes()? {
        let Some(entry) = register.load(&node)? else { continue };
        let settled = entry.used.as_ref().is_some_and(|used| used.taken.is_some());
        let meant = if arguments.nodes.is_empty() { !settled } else { arguments.nodes.contains(&node) };
        if meant && !(settled && arguments.nodes.is_empty()) {
            wanted.insert(node, entry);
        } else if settled && arguments.host.is_none() {
            others.insert(node, entry);
        }
    }
    if let Some(stranger) = arguments.nodes.iter().find(|node| !wanted.contains_key(*node)) {
        anyhow::bail!(
            "{stranger} has no enrolment here: `beehive image prepare --node {stranger} …` makes its card first"
        );
    }
    Ok((wanted, others))
}

async fn rounds(
    folder: &Path,
    master: &NodeName,
    wanted: Entries,
    others: Entries,
    places: &dyn Candidates,
    limit: Instant,
) -> BTreeMap<NodeName, State> {
    let mut states: BTreeMap<NodeName, State> =
        wanted.keys().map(|node| (node.clone(), State::Waiting("not asked yet".to_owned()))).collect();
    let mut first = true;
    loop {
        let begun = Instant::now();
        let mut asking = JoinSet::new();
        let waiting = |node: &NodeName| matches!(states.get(node), Some(State::Waiting(_)));
        for (node, entry) in wanted.iter().filter(|(node, _)| waiting(node)).chain(others.iter().filter(|_| first)) {
            let (node, card) = (node.clone(), entry.card);
            let hosts = places.candidates(&node, &card);
            asking.spawn(async move {
                let mut why = "nobody says where it is".to_owned();
                for (host, port) in hosts {
                    match ask(&host, port, &node, &card).await {
                        Ok(asked) => return (node, Ok(asked)),
                        Err(error) => why = error,
                    }
                }
                (node, Err(why))
            });
        }
        first = false;
        let mut asked = Vec::new();
        let mut heard = |node: NodeName, state: State| {
            let (known, wanted) = (states.get(&node), wanted.contains_key(&node));
            match &state {
                // who is settled and silent is as it should be
                State::Waiting(_) if !wanted => return,
                State::Waiting(why) if matches!(known, Some(State::Waiting(before)) if before == why) => return,
                State::Waiting(why) => note(&format!("{node}: waiting ({why})")),
                State::Enrolled { address, .. } => note(&format!("{node}: enrolled, at {address}")),
                State::Alarm(_) => {}
            }
            states.insert(node, state);
        };
        while let Some(Ok((node, answered))) = asking.join_next().await {
            match answered {
                Ok(found) => asked.push(found),
                Err(why) => heard(node, State::Waiting(why)),
            }
        }
        // the master first: its broker is where the others go
        asked.sort_by_key(|asked| asked.request.node != *master);
        for mut asked in asked {
            let state = answer(folder, &mut asked).await.unwrap_or_else(State::Waiting);
            heard(asked.request.node, state);
        }
        let left = states.values().any(|state| matches!(state, State::Waiting(_)));
        if !left || Instant::now() >= limit {
            return states;
        }
        sleep_until((begun + ROUND).min(limit)).await;
    }
}

/// How the crew is reached: by its file and the folder, unless the command line says otherwise.
fn console_of(
    arguments: &CrewEnrolArgs,
    options: &ConsoleOptions,
    folder: &Path,
    file: Option<&CrewFile>,
) -> ConsoleOptions {
    let mut options = options.clone();
    if let Some(file) = file {
        options.crew = Some(file.crew.clone());
        options.broker = options.broker.or_else(|| Some(file.console_broker()));
    }
    if arguments.of.dir.is_some() {
        let user = options.user();
        options.identity = options.identity.or_else(|| Some(folder.join("operators").join(user.as_str())));
    }
    options
}

/// A Pi whose word that it has its keys got lost says so by speaking: its signature holds. Whoever is heard is settled.
async fn settle(console: &ConsoleOptions, folder: &Path, manifest: &Manifest, wanted: &mut Entries) {
    // only where the manifest has the keys that were certified: else it would be the Pi before that is heard
    let certified = |node: &NodeName, entry: &Entry| {
        let used = entry.used.as_ref().map(|used| used.keys.sign);
        used.is_some() && used == manifest.node(node).map(|known| known.sign)
    };
    let unsettled: Vec<NodeName> =
        wanted.iter().filter(|(node, entry)| certified(node, entry)).map(|(node, _)| node.clone()).collect();
    if unsettled.is_empty() {
        return;
    }
    // a crew that is not there cannot be asked; the Pis are, then
    let heard = enrolled::heard_of(console, &unsettled, Instant::now() + TELL).await.unwrap_or_default();
    for node in heard {
        match speaks(folder, &node) {
            Ok(()) => {
                note(&format!("{node}: enrolled, the crew hears it"));
                wanted.remove(&node);
            }
            Err(error) => note(&format!("{node}: {error:#}")),
        }
    }
}

/// What the running crew was told.
enum Told {
    /// Nobody was enrolled, so there was nothing to tell.
    Nothing,
    /// This.
    Heard(Heard),
    /// It was not reached.
    Not(Trouble),
}

async fn tell(options: &ConsoleOptions, file: Option<&CrewFile>, enrolled: Vec<NodeName>, limit: Instant) -> Told {
    if enrolled.is_empty() {
        return Told::Nothing;
    }
    let wish = match file.map(|file| file.join) {
        Some(JoinWhen::AtOnce) => Wish::Join(enrolled),
        Some(JoinWhen::WhenTold) | None => Wish::Know,
    };
    match enrolled::tell(options, &wish, limit.max(Instant::now() + TELL)).await {
        Ok(heard) => Told::Heard(heard),
        Err(trouble) => Told::Not(trouble),
    }
}

fn acknowledge(arguments: &CrewEnrolArgs, register: &Register) -> Result<(String, Value, ExitCode), Trouble> {
    let mut text = String::new();
    let mut documents = Vec::new();
    for node in &arguments.nodes {
        let count = register.acknowledge(node).map_err(|error| failed(&error))?;
        text.push_str(&format!("{node}: {count} alarms taken note of\n"));
        documents.push(json!({ "node": node, "acknowledged": count }));
    }
    Ok((text, json!({ "exit": 0, "nodes": documents }), ExitCode::Done))
}

fn report(folder: &Path, states: &BTreeMap<NodeName, State>, told: &Told) -> anyhow::Result<(String, Value, ExitCode)> {
    let register = Register::of(folder);
    let (mut text, mut documents) = (String::new(), Vec::new());
    let (mut done, mut waits, mut alarms) = (0, 0, !register.open_alarms()?.is_empty());
    for (node, state) in states {
        let mut document = json!({ "node": node, "state": state.word() });
        match state {
            State::Enrolled { address, about: (serial, model) } => {
                done += 1;
                let serial_text = serial.as_deref().unwrap_or("no serial number");
                text.push_str(&format!("{node}: enrolled, at {address}, {serial_text}\n"));
                document["address"] = json!(address);
                document["serial"] = json!(serial);
                document["model"] = json!(model);
            }
            State::Waiting(why) => {
                waits += 1;
                text.push_str(&format!("{node}: not enrolled ({why})\n"));
                document["why"] = json!(why);
            }
            State::Alarm(alarm) => {
                alarms = true;
                text.push_str(&format!("{node}: ALARM, its card's secret was used a second time\n"));
                document["alarm"] = json!(alarm);
            }
        }
        documents.push(document);
    }
    if states.is_empty() {
        text.push_str("no card waits for its enrolment; `beehive image prepare` makes one\n");
    }
    let revision = KeyFolder::new(folder).manifest()?.revision;
    let mut crew = json!({ "revision": revision, "heard": false });
    match told {
        Told::Nothing => {}
        Told::Heard(heard) => {
            text.push_str(&format!("the crew has heard of it (revision {revision} of the manifest)\n"));
            crew["heard"] = json!(true);
            crew["joins"] = json!(heard.joins);
            for (node, said) in &heard.joins {
                text.push_str(&format!("{node}: {said}\n"));
            }
        }
        Told::Not(trouble) => {
            waits += 1;
            note(&format!("beehive: the crew has not heard of revision {revision} of its manifest: {trouble}"));
            crew["why"] = json!(trouble);
        }
    }
    let exit = match (alarms, done, waits) {
        (true, _, _) => ExitCode::Alarm,
        (false, _, 0) => ExitCode::Done,
        (false, 0, _) => ExitCode::OutcomeUnknown,
        (false, _, _) => ExitCode::PartlyDone,
    };
    let document = json!({ "exit": exit.number(), "nodes": documents, "crew": crew });
    Ok((text, document, exit))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::crew::keys::NewCrew;
    use crate::enrol::owner::register::Renew;
    use crate::enrol::owner::{BrokerPlace, draw};

    /// What the alarm says to do is done here, up to the card: each line is a command, and after them the stranger has nothing left.
    #[test]
    fn the_way_out_of_an_alarm_can_be_gone_for_a_node_and_for_the_master() {
        for (node, term) in [("pi-2", 1), ("pi-1", 2)] {
            let dir = tempfile::tempdir().unwrap();
            let crew = dir.path().join("bee");
            let folder = crew.to_str().unwrap();
            let options = Cli::try_parse_from(["beehive", "version"]).unwrap().options;
            let new = NewCrew {
                crew: "bee".parse().unwrap(),
                nodes: ["pi-1", "pi-2"].map(|name| name.parse().unwrap()).to_vec(),
                users: Vec::new(),
            };
            KeyFolder::new(&crew).init(&new).unwrap();
            let run = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap().command {
                Command::Crew(command) => crate::crew::command::crew(&command, &options),
                Command::Broker(command) => crate::crew::command::broker(&command),
                other => panic!("{other:?}"),
            };
            run(&format!("beehive broker config {folder} --port 8884")).unwrap();
            let name: NodeName = node.parse().unwrap();
            let known = || KeyFolder::new(&crew).manifest().unwrap();
            let anchor = || std::fs::read_to_string(crew.join("anchors").join(node).join("ca.crt")).unwrap();
            let (sign, before) = (known().node(&name).unwrap().sign, anchor());

            let [other_keys, list, card, enrol] = way_out(&crew, &name, &known().coordinator);
            run(&other_keys).unwrap();
            assert_ne!(known().node(&name).unwrap().sign, sign, "his keys count no more");
            assert_eq!(known().term, term);
            run(&list).unwrap();
            let clients = std::fs::read_to_string(crew.join("broker/clients.crt")).unwrap();
            assert!(!clients.contains(&before) && clients.contains(&anchor()), "nor does his certificate");
            let config = std::fs::read_to_string(crew.join("broker/beehive.conf")).unwrap();
            assert!(config.contains("listener 8884"), "as it was made before: {config}");
            assert!(matches!(Cli::try_parse_from(card.split(' ')).unwrap().command, Command::Image(_)));
            assert!(matches!(Cli::try_parse_from(enrol.split(' ')).unwrap().command, Command::Crew(_)));
            let drawn = draw(&crew, &name, 7884, Renew::Yes, BrokerPlace::Master).unwrap();
            drawn.keep().unwrap();
        }
    }
}
