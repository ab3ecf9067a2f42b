//! Both sides of an enrolment in folders of a test: the whole way, cut off at every file operation, and by others.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use beehive_mqtt::NodeName;
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::sign::Digest;

use super::card::CardSecret;
use super::owner::register::{Register, Renew};
use super::owner::{self, BrokerPlace, Drawn, Outcome, certify, taken};
use super::pi::{Applicant, NotTaken, Places, Stage};
use super::wire::{Kind, Receipt, Request, Signed};
use crate::crew::files::faults::{Side, cut, mend};
use crate::crew::files::{self, Access};
use crate::crew::folder::{Folder, Site};
use crate::crew::keys::{KeyFolder, NewCrew};
use crate::keys::{Identity, SignKey};
use crate::link::Tls;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

struct Crew(tempfile::TempDir);

impl Crew {
    fn new() -> Self {
        let crew = Self(tempfile::tempdir().unwrap());
        let new = NewCrew {
            crew: "bee".parse().unwrap(),
            nodes: vec![node("pi-1"), node("pi-2")],
            users: vec![("ann".parse().unwrap(), UserRole::Operator)],
        };
        KeyFolder::new(crew.dir()).init(&new).unwrap();
        let site = Site { dir: "/etc/mosquitto/beehive".into(), port: 8883, hosts: Vec::new() };
        Folder::new(crew.dir()).write(&site, &[]).unwrap();
        crew
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn secret(&self, name: &str, renew: Renew) -> anyhow::Result<CardSecret> {
        let drawn = self.draw(name, renew)?;
        drawn.keep()?;
        Ok(drawn.secret)
    }

    fn draw(&self, name: &str, renew: Renew) -> anyhow::Result<Drawn> {
        owner::draw(self.dir(), &node(name), 7884, renew, BrokerPlace::Master)
    }

    fn certify(&self, request: &Request) -> anyhow::Result<Signed> {
        match certify(self.dir(), request, HERE)? {
            Outcome::Answer(answer) => Ok(*answer),
            Outcome::Alarm(alarm) => anyhow::bail!("alarm: {alarm}"),
        }
    }

    fn revision(&self) -> u64 {
        KeyFolder::new(self.dir()).manifest().unwrap().revision
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.dir(), copy.path());
        copy
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

struct Pi(tempfile::TempDir);

impl Pi {
    fn with(secret: &CardSecret) -> Self {
        let pi = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(pi.path("etc/beehive")).unwrap();
        fs::create_dir_all(pi.path("proc/device-tree")).unwrap();
        fs::write(pi.path("proc/device-tree/serial-number"), "1000\0").unwrap();
        files::write(&pi.places().card(), Access::Private, secret.to_toml().as_bytes()).unwrap();
        pi
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn places(&self) -> Places {
        Places::below(self.0.path())
    }

    fn applicant(&self) -> Box<Applicant> {
        match Stage::find(&self.places()).unwrap() {
            Stage::Waiting(applicant) => applicant,
            other => panic!("{other:?}"),
        }
    }

    fn identity(&self) -> Identity {
        let dir = self.places().identity();
        let identity = Identity::load(&dir).unwrap();
        Tls::load(&dir, &identity.crew).unwrap();
        identity
    }
}

fn ask(applicant: &Applicant, secret: &CardSecret) -> Request {
    let signed = applicant.request(Digest([7; 16])).unwrap();
    let request: Request = signed.open(Kind::Request, &secret.key.public()).unwrap();
    assert_eq!(request.nonce, Digest([7; 16]));
    request
}

#[test]
fn a_master_gets_an_identity_and_the_brokers_files_and_its_private_keys_never_leave_it() {
    let crew = Crew::new();
    let secret = crew.secret("pi-1", Renew::No).unwrap();
    assert_eq!(crew.secret("pi-1", Renew::No).unwrap().key.public(), secret.key.public(), "the same card");
    let pi = Pi::with(&secret);
    let mut applicant = pi.applicant();
    let request = ask(&applicant, &secret);
    assert_eq!((request.serial.as_deref(), request.keys.broker.is_some()), (Some("1000"), true));
    assert_eq!(ask(&pi.applicant(), &secret).keys, request.keys, "keys are made once");
    let before = crew.revision();
    let answer = crew.certify(&request).unwrap();
    assert_eq!(crew.revision(), before + 1);
    assert_eq!(crew.certify(&request).unwrap(), answer, "the same keys, the same answer");
    let receipt = applicant.take(&answer).unwrap();
    assert_eq!(applicant.take(&answer).unwrap(), receipt, "a second answer changes nothing");
    taken(crew.dir(), &node("pi-1"), &receipt).unwrap();

    let identity = pi.identity();
    assert_eq!((identity.sign.public(), identity.name.as_str()), (request.keys.sign, "pi-1"));
    let trust = identity.trust(None).unwrap();
    assert_eq!(trust.keyring.manifest().node(&node("pi-1")).unwrap().sign, request.keys.sign);
    assert!(!pi.places().card().exists(), "the secret is gone");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(pi.places().identity()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    for file in ["beehive.conf", "beehive.acl", "clients.crt", "broker.crt", "broker.key"] {
        assert!(pi.path("etc/beehive/enrolment/broker").join(file).exists(), "{file}");
    }
    // the owner has no private key of this node any more, nor the broker's, nor the secret
    for file in ["nodes/pi-1/identity.toml", "nodes/pi-1/tls.key", "broker/broker.key"] {
        assert!(!crew.dir().join(file).exists(), "{file}");
    }
    let entry = fs::read_to_string(crew.dir().join("enrolments/pi-1.toml")).unwrap();
    assert!(!entry.contains("secret =") && entry.contains("1000"), "{entry}");
    let key = files::read(&pi.places().identity().join("tls.key")).unwrap();
    let said = serde_json::to_string(&answer).unwrap() + &entry;
    assert!(!said.contains("PRIVATE KEY") && !said.contains(key.lines().nth(1).unwrap()));
    assert!(matches!(Stage::find(&pi.places()).unwrap(), Stage::Following));
}

#[test]
fn a_second_use_is_an_alarm_and_certifies_nothing() {
    let crew = Crew::new();
    let secret = crew.secret("pi-2", Renew::No).unwrap();
    let (first, copy) = (Pi::with(&secret), Pi::with(&secret));
    let request = ask(&first.applicant(), &secret);
    crew.certify(&request).unwrap();
    let (revision, certificate) = (crew.revision(), fs::read(crew.dir().join("nodes/pi-2/tls.crt")).unwrap());
    let second = ask(&copy.applicant(), &secret);
    for _ in 0..2 {
        match certify(crew.dir(), &second, THERE).unwrap() {
            Outcome::Alarm(alarm) => assert_eq!((alarm.address, alarm.sign), (THERE, second.keys.sign)),
            Outcome::Answer(_) => panic!("the second one is certified"),
        }
    }
    assert_eq!(crew.revision(), revision);
    assert_eq!(fs::read(crew.dir().join("nodes/pi-2/tls.crt")).unwrap(), certificate);
    let register = Register::of(crew.dir());
    assert_eq!(register.open_alarms().unwrap().len(), 1, "one alarm, however often it asks");
    assert_eq!(register.acknowledge(&node("pi-2")).unwrap(), 1);
    assert!(register.open_alarms().unwrap().is_empty());
    crew.certify(&request).unwrap();

    // a card of its own, by the word for it
    let error = crew.secret("pi-2", Renew::No).unwrap_err().to_string();
    assert!(error.contains("--renew") && error.contains("1000"), "{error}");
    let renewed = crew.secret("pi-2", Renew::Yes).unwrap();
    assert_ne!(renewed.key.public(), secret.key.public());
    let pi = Pi::with(&renewed);
    let request = ask(&pi.applicant(), &renewed);
    pi.applicant().take(&crew.certify(&request).unwrap()).unwrap();
    assert_eq!(KeyFolder::new(crew.dir()).manifest().unwrap().node(&node("pi-2")).unwrap().sign, request.keys.sign);
}

#[test]
fn what_is_drawn_is_not_known_before_it_is_kept() {
    let crew = Crew::new();
    let show = |renew| crew.draw("pi-2", renew).unwrap().secret.key.public();
    assert_ne!(show(Renew::No), show(Renew::No));
    assert!(!crew.dir().join("enrolments").exists());
    let secret = crew.secret("pi-2", Renew::No).unwrap();
    assert_eq!(show(Renew::No), secret.key.public());
    assert_ne!(show(Renew::Yes), secret.key.public());
    assert_eq!(show(Renew::No), secret.key.public(), "the one that waits is still there");
    assert!(crew.secret("pi-9", Renew::No).unwrap_err().to_string().contains("add-node pi-9"));
}

/// Between the drawing and the keeping the image is written, which takes its time.
#[test]
fn what_was_drawn_is_not_kept_over_an_enrolment_that_has_changed_meanwhile() {
    let crew = Crew::new();
    let (one, other) = (crew.draw("pi-2", Renew::No).unwrap(), crew.draw("pi-2", Renew::No).unwrap());
    one.keep().unwrap();
    assert!(other.keep().unwrap_err().to_string().contains("has changed meanwhile"));
    assert_eq!(crew.draw("pi-2", Renew::No).unwrap().secret.key.public(), one.secret.key.public());
    // the same card again, and its Pi comes before it is written
    let again = crew.draw("pi-2", Renew::No).unwrap();
    let request = ask(&Pi::with(&one.secret).applicant(), &one.secret);
    crew.certify(&request).unwrap();
    assert!(again.keep().unwrap_err().to_string().contains("has changed meanwhile"), "its secret is used up");
    let entry = Register::of(crew.dir()).load(&node("pi-2")).unwrap().unwrap();
    assert_eq!(entry.used.as_ref().map(|used| used.keys.sign), Some(request.keys.sign));
}

#[test]
fn an_answer_of_another_crew_for_another_node_or_other_keys_is_not_taken() {
    let (crew, stranger) = (Crew::new(), Crew::new());
    let secret = crew.secret("pi-2", Renew::No).unwrap();
    let pi = Pi::with(&secret);
    let mut applicant = pi.applicant();
    let request = ask(&applicant, &secret);
    // a crew of the same name with a key of its own
    stranger.secret("pi-2", Renew::No).unwrap();
    let answer = stranger.certify(&request).unwrap();
    assert!(matches!(applicant.take(&answer), Err(NotTaken::Wire(_))));
    // our crew's answer to another node, and to the same node's other keys
    let master = crew.secret("pi-1", Renew::No).unwrap();
    let other = crew.certify(&ask(&Pi::with(&master).applicant(), &master)).unwrap();
    assert!(matches!(applicant.take(&other), Err(NotTaken::Another("another node"))));
    let copy = crew.certify(&ask(&Pi::with(&secret).applicant(), &secret)).unwrap();
    assert!(matches!(applicant.take(&copy), Err(NotTaken::Another(_))));
    assert!(!pi.places().identity().exists() && pi.places().card().exists());
    // a card of another crew is believed by nobody
    let wrong = Signed::new(Kind::Request, &request, &SignKey::from_seed(&[9; 32])).unwrap();
    assert!(wrong.open::<Request>(Kind::Request, &secret.key.public()).is_err());
    // a receipt that the node's key did not sign
    let receipt = Receipt { node: node("pi-2"), card: secret.key.public() };
    let forged = Signed::new(Kind::Taken, &receipt, &SignKey::from_seed(&[9; 32])).unwrap();
    assert!(taken(crew.dir(), &node("pi-2"), &forged).is_err());
}

/// The power goes at each file operation of the Pi, before it and after it. Afterwards the Pi goes on by itself or with the same
/// answer again, with the same keys.
#[test]
fn a_pi_that_is_cut_off_anywhere_ends_with_the_keys_that_were_certified() {
    let crew = Crew::new();
    let secret = crew.secret("pi-1", Renew::No).unwrap();
    for side in [Side::Before, Side::After] {
        let mut certified = None;
        for nth in 0.. {
            // the first cut decides on the keys
            let pi = Pi::with(&secret);
            fs::create_dir_all(pi.places().identity()).unwrap();
            fs::write(pi.places().identity().join("identity.toml"), "of an older enrolment").unwrap();
            if let Some(keys) = &certified {
                fs::create_dir_all(pi.path("etc/beehive/enrolment")).unwrap();
                fs::write(pi.path("etc/beehive/enrolment/keys.toml"), keys).unwrap();
            } else {
                pi.applicant();
                certified = Some(fs::read(pi.path("etc/beehive/enrolment/keys.toml")).unwrap());
            }
            // each side has other keys; each is the first of its enrolment
            let crew_of_side = crew.copy();
            let answer = match certify(crew_of_side.path(), &ask(&pi.applicant(), &secret), HERE).unwrap() {
                Outcome::Answer(answer) => *answer,
                Outcome::Alarm(alarm) => panic!("{alarm}"),
            };
            let mut applicant = pi.applicant();
            let keys = ask(&applicant, &secret).keys;
            cut(nth, side);
            let ended = applicant.take(&answer).is_ok();
            let was_cut = mend();
            assert_ne!(ended, was_cut, "operation {nth}");
            drop(applicant);
            match Stage::find(&pi.places()).unwrap() {
                Stage::Waiting(mut applicant) => {
                    assert_eq!(ask(&applicant, &secret).keys, keys, "operation {nth}");
                    applicant.take(&answer).unwrap();
                }
                Stage::Following => {}
                Stage::Nothing => panic!("operation {nth}: nothing is left to do"),
            }
            assert_eq!(pi.identity().sign.public(), keys.sign, "operation {nth}");
            assert!(!pi.places().card().exists() && pi.path("etc/beehive/enrolment/broker/broker.key").exists());
            if !was_cut {
                assert!(nth > 12, "{nth}: the operations are seen");
                break;
            }
        }
    }
}

/// The same on the owner's machine: whatever was written, the same Pi gets its answer when it is run again, and another one that
/// comes first after the cut gets none if the secret was used.
#[test]
fn an_owner_who_is_cut_off_anywhere_certifies_one_pi() {
    let crew = Crew::new();
    let secret = crew.secret("pi-1", Renew::No).unwrap();
    let (pi, copy) = (Pi::with(&secret), Pi::with(&secret));
    let (request, second) = (ask(&pi.applicant(), &secret), ask(&copy.applicant(), &secret));
    for side in [Side::Before, Side::After] {
        for nth in 0.. {
            let folder = crew.copy();
            cut(nth, side);
            let ended = certify(folder.path(), &request, HERE);
            let was_cut = mend();
            if !was_cut {
                assert!(matches!(ended, Ok(Outcome::Answer(_))));
                assert!(nth > 8, "{nth}: the operations are seen");
                break;
            }
            assert!(ended.is_err(), "operation {nth}");
            // no answer has left: who comes first now is the one, and there is one
            let used = Register::of(folder.path()).load(&node("pi-1")).unwrap().unwrap().used.is_some();
            let others = certify(folder.path(), &second, THERE).unwrap();
            let own = certify(folder.path(), &request, HERE).unwrap();
            match (used, &others, &own) {
                (true, Outcome::Alarm(_), Outcome::Answer(answer)) => {
                    // it is whole: a Pi with these keys takes it
                    let again = Pi::with(&secret);
                    copy_folder(pi.0.path(), again.0.path());
                    again.applicant().take(answer).unwrap();
                    assert_eq!(again.identity().sign.public(), request.keys.sign);
                }
                (false, Outcome::Answer(_), Outcome::Alarm(_)) => {}
                found => panic!("operation {nth}: {found:?}"),
            }
        }
    }
}
