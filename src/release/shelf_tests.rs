use super::super::memory::MemoryCard;
use super::super::package::Architecture;
use super::super::package::tests::{key, package};
use super::super::trial::{CONFIRM_WITHIN_MS, MAX_STARTS};
use super::*;
use crate::store::Fate;

const ROOT: &str = "/r";

fn version(text: &str) -> ReleaseVersion {
    text.parse().unwrap()
}

fn release(text: &str) -> Package {
    package(text, Architecture::own().unwrap())
}

fn shelf(card: &Arc<MemoryCard>) -> Result<Shelf, ShelfError> {
    Shelf::open_on(Path::new(ROOT), Arc::clone(card))
}

fn install(card: &Arc<MemoryCard>, text: &str) -> Result<Installed, ShelfError> {
    shelf(card)?.install(&release(text), &key().public())
}

fn switch(card: &Arc<MemoryCard>, text: &str) -> Result<Used, ShelfError> {
    shelf(card)?.use_version(&version(text), &key().public(), "b1", 0)
}

fn judge(card: &Arc<MemoryCard>, ms: u64, moment: Moment) -> Result<Judged, ShelfError> {
    shelf(card)?.judge("b1", ms, &moment)
}

/// A card with 1.0.0 and 1.1.0 installed, and 1.1.0 in use, confirmed.
fn card() -> Arc<MemoryCard> {
    let card = Arc::new(MemoryCard::new());
    install(&card, "1.0.0").unwrap();
    assert_eq!(switch(&card, "1.0.0").unwrap(), Used::First);
    install(&card, "1.1.0").unwrap();
    assert_eq!(switch(&card, "1.1.0").unwrap(), Used::OnTrial { back: version("1.0.0") });
    let healthy = judge(&card, 1, Moment::Healthy(version("1.1.0"))).unwrap();
    assert!(matches!(healthy, Judged::Over(Ended { how: How::Confirmed, .. })), "{healthy:?}");
    card
}

fn links(card: &Arc<MemoryCard>) -> (String, String, Option<String>) {
    let shelf = shelf(card).unwrap();
    let trial = shelf.leads_to(TRIAL).unwrap().map(|version| version.to_string());
    (shelf.current().unwrap().unwrap().to_string(), shelf.previous().unwrap().unwrap().to_string(), trial)
}

#[test]
fn a_release_is_used_on_trial_and_confirmed_or_left() {
    let card = card();
    install(&card, "1.2.0").unwrap();
    assert_eq!(links(&card), ("1.1.0".into(), "1.0.0".into(), None));
    assert_eq!(switch(&card, "1.2.0").unwrap(), Used::OnTrial { back: version("1.1.0") });
    assert_eq!(links(&card), ("1.2.0".into(), "1.1.0".into(), Some("1.2.0".into())));
    // asked for again while it is on trial: the same
    assert_eq!(switch(&card, "1.2.0").unwrap(), Used::OnTrial { back: version("1.1.0") });
    let other = switch(&card, "1.1.0").unwrap_err().to_string();
    assert!(other.contains("on-trial"), "{other}");
    for _ in 0..MAX_STARTS {
        assert_eq!(judge(&card, 5, Moment::Starting).unwrap(), Judged::Nothing);
    }
    let Judged::WentBack { to, reason } = judge(&card, 6, Moment::Starting).unwrap() else { panic!() };
    assert!(to == version("1.1.0") && reason.contains("3 times"), "{reason}");
    assert_eq!(links(&card), ("1.1.0".into(), "1.1.0".into(), None));
    let last = shelf(&card).unwrap().record().unwrap().last.unwrap();
    assert_eq!((last.version, last.how), (version("1.2.0"), How::WentBack));
    // and the next try is a trial of its own
    switch(&card, "1.2.0").unwrap();
    judge(&card, 7, Moment::Healthy(version("1.2.0"))).unwrap();
    assert_eq!(links(&card), ("1.2.0".into(), "1.1.0".into(), None));
    assert_eq!(switch(&card, "1.2.0").unwrap(), Used::Unchanged);
    let Judged::WentBack { to, .. } = shelf(&card).unwrap().roll_back("b1", 8).unwrap() else { panic!() };
    assert_eq!(to, version("1.1.0"));
    let none = shelf(&card).unwrap().roll_back("b1", 9).unwrap_err().to_string();
    assert!(none.contains("no-previous"), "{none}");
}

#[test]
fn the_only_way_down_leads_to_the_version_before() {
    let card = card();
    install(&card, "1.0.5").unwrap();
    let error = switch(&card, "1.0.5").unwrap_err().to_string();
    assert!(error.contains("downgrade"), "{error}");
    assert!(matches!(switch(&card, "1.0.0").unwrap(), Used::OnTrial { .. }));
    let error = switch(&card, "9.9.9").unwrap_err().to_string();
    assert!(error.contains("not-installed"), "{error}");
}

#[test]
fn three_are_kept_and_those_in_use_among_them() {
    let card = card();
    for text in ["1.2.0", "1.3.0", "0.9.0", "1.4.0"] {
        install(&card, text).unwrap();
        let kept: Vec<String> = shelf(&card).unwrap().versions().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(kept.len(), MAX_RELEASES, "{kept:?}");
        for needed in ["1.0.0", "1.1.0", text] {
            assert!(kept.iter().any(|kept| kept == needed), "{needed}: {kept:?}");
        }
    }
}

#[test]
fn what_has_rotted_is_not_used_and_is_repaired_by_installing_it_again() {
    let card = card();
    install(&card, "1.2.0").unwrap();
    assert_eq!(install(&card, "1.2.0").unwrap(), Installed::Unchanged);
    card.rot("/r/1.2.0/beehive-cut");
    let error = switch(&card, "1.2.0").unwrap_err().to_string();
    assert!(error.contains("beehive-cut") && error.contains("SHA-256"), "{error}");
    let fault = |list: &[Listed]| list.iter().filter(|listed| listed.fault.is_some()).count();
    assert_eq!(fault(&shelf(&card).unwrap().list(&key().public()).unwrap()), 1);
    assert_eq!(install(&card, "1.2.0").unwrap(), Installed::Repaired);
    assert_eq!(fault(&shelf(&card).unwrap().list(&key().public()).unwrap()), 0);
    switch(&card, "1.2.0").unwrap();
    card.rot("/r/1.2.0/manifest");
    let error = shelf(&card).unwrap().verify(&version("1.2.0"), &key().public()).unwrap_err().to_string();
    assert!(error.contains("manifest"), "{error}");
}

#[test]
fn a_release_of_another_processor_or_content_takes_no_place() {
    let card = card();
    let other = Architecture::ALL.into_iter().find(|kind| Some(*kind) != Architecture::own()).unwrap();
    shelf(&card).unwrap().install(&package("1.2.0", other), &key().public()).unwrap();
    let error = switch(&card, "1.2.0").unwrap_err().to_string();
    assert!(error.contains("other-processor"), "{error}");
    // it was not in use: another build of the same version takes its place
    assert_eq!(install(&card, "1.2.0").unwrap(), Installed::New);
    let error = shelf(&card).unwrap().install(&package("1.1.0", other), &key().public()).unwrap_err().to_string();
    assert!(error.contains("other-content"), "{error}");
}

/// What each thing that changes the shelf is called, and how it is done.
type Deed = (&'static str, fn(&Arc<MemoryCard>) -> Result<(), ShelfError>);

const DEEDS: [Deed; 6] = [
    ("install", |card| install(card, "1.2.0").map(drop)),
    ("use", |card| switch(card, "1.2.0").map(drop)),
    ("start", |card| judge(card, 1, Moment::Starting).map(drop)),
    ("confirm", |card| judge(card, 2, Moment::Healthy(version("1.2.0"))).map(drop)),
    ("roll back", |card| shelf(card)?.roll_back("b1", 3).map(drop)),
    ("too late", |card| judge(card, CONFIRM_WITHIN_MS, Moment::Tick).map(drop)),
];

/// Which deeds come one after the other.
const STORIES: [&[usize]; 5] = [&[0, 1, 2, 3], &[0, 1, 2, 4], &[0, 1, 2, 5], &[0, 1, 2, 3, 4], &[0, 1, 5]];

/// The power goes at every change of every story, in every way. What is left must be a whole release in use, the old one or
/// the new one, with a way back that leads to a confirmed one; and the story can be told to its end afterwards.
#[test]
fn a_power_cut_at_any_step_leaves_a_whole_release_in_use() {
    let mut cuts = 0;
    for story in STORIES {
        for fate in [Fate::Clean, Fate::Torn, Fate::Lost] {
            for change in 0.. {
                let card = card();
                card.cut_at(card.changes() + change, fate);
                let mut told = 0;
                while told < story.len() && (DEEDS[story[told]].1)(&card).is_ok() {
                    told += 1;
                }
                if !card.power_on() {
                    assert_eq!(told, story.len(), "a deed failed although the power was there");
                    break;
                }
                cuts += 1;
                let at = format!("{} of {story:?}, change {change}, {fate:?}", DEEDS[story[told]].0);
                check(&card, &at);
                // the Pi starts again, as systemd does it
                judge(&card, 1, Moment::Starting).unwrap_or_else(|error| panic!("{at}: {error}"));
                check(&card, &at);
                for deed in &story[told..] {
                    match (DEEDS[*deed].1)(&card) {
                        Ok(()) => {}
                        // it had been done to its end when the power went
                        Err(ShelfError::Refused { rule: "no-previous", .. }) if *deed == 4 => {}
                        Err(error) => panic!("{at}: then {}: {error}", DEEDS[*deed].0),
                    }
                    check(&card, &at);
                }
            }
        }
    }
    // each story has some twenty changes, each cut in three ways
    assert!(cuts > 200, "only {cuts} cuts");
}

fn check(card: &Arc<MemoryCard>, at: &str) {
    let shelf = shelf(card).unwrap_or_else(|error| panic!("{at}: {error}"));
    let (current, previous) = (shelf.current().unwrap().unwrap(), shelf.previous().unwrap().unwrap());
    for (name, version) in [("current", &current), ("previous", &previous)] {
        shelf.verify(version, &key().public()).unwrap_or_else(|error| panic!("{at}: {name}: {error}"));
    }
    assert!(current == version("1.1.0") || current == version("1.2.0"), "{at}: {current}");
    assert_ne!(previous, version("1.2.0"), "{at}: the way back leads to what was not confirmed before");
    let record = shelf.record().unwrap_or_else(|error| panic!("{at}: {error}"));
    if current == version("1.2.0") {
        // in use, it is either on trial or was confirmed
        let confirmed = record.last.as_ref().is_some_and(|last| last.how == How::Confirmed && last.version == current);
        assert!(record.trial.is_some() || confirmed, "{at}: {record:?}");
        assert_eq!(previous, version("1.1.0"), "{at}");
    }
}

#[test]
fn a_link_that_leads_out_of_the_shelf_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("releases");
    let shelf = Shelf::open(&root).unwrap();
    std::os::unix::fs::symlink("../../etc", root.join(CURRENT)).unwrap();
    let error = shelf.current().unwrap_err().to_string();
    assert!(error.contains("leads elsewhere"), "{error}");
}

#[test]
fn on_a_real_disk_programs_can_be_run_by_everybody_and_one_at_a_time_changes_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("releases");
    let first = Shelf::open(&root).unwrap();
    first.install(&release("1.0.0"), &key().public()).unwrap();
    first.use_version(&version("1.0.0"), &key().public(), "b1", 0).unwrap();
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("current/beehive"), mode("1.0.0/manifest")), (0o755, 0o644));
    let lock = File::open(root.join(".lock")).unwrap();
    let try_lock = || rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(try_lock().is_err());
    drop(first);
    try_lock().unwrap();
}
