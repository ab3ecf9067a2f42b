use super::*;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A keyed hash instead of a signature: what a log must find does not depend on which.
#[derive(Clone, Copy)]
struct Hashed(&'static str);

impl Hashed {
    fn hash(self, bytes: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0, bytes).hash(&mut hasher);
        hasher.finish()
    }
}

impl Signer for Hashed {
    fn key(&self) -> KeyId {
        KeyId(self.hash(b"").to_be_bytes())
    }

    fn sign(&self, bytes: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature[..8].copy_from_slice(&self.hash(bytes).to_be_bytes());
        Signature(signature)
    }
}

impl Judge for Hashed {
    fn judge(&self, key: KeyId, bytes: &[u8], signature: &Signature) -> Result<(), String> {
        if key != self.key() {
            return Err(format!("{key} may not write this log"));
        }
        if self.sign(bytes) == *signature { Ok(()) } else { Err("the signature does not hold".to_owned()) }
    }
}

const KEY: Hashed = Hashed("coordinator");

fn asked(request: u32) -> What {
    What::Asked {
        who: "andreas \u{1f41d} \"\\ \n".to_owned(),
        key: KeyId([1; 8]),
        request: format!("r{request}"),
        asked: "rebuild".to_owned(),
        status: "started".to_owned(),
        code: String::new(),
        operation: Some("op1".to_owned()),
    }
}

const SMALL: Limits = Limits { segment_bytes: 1_200, segments: 3 };

fn open(dir: &Path, limits: Limits) -> Log {
    Log::open(dir, Arc::new(KEY), limits).unwrap()
}

/// A log of `count` records and the heads that were seen on the way.
fn written(limits: Limits, count: u32) -> (tempfile::TempDir, Vec<Head>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), limits);
    let heads = (0..count).map(|number| *log.append(asked(number)).unwrap()).collect();
    (dir, heads)
}

fn faults(dir: &Path, seen: &[Head]) -> Vec<Fault> {
    verify(dir, &KEY, seen).unwrap().faults
}

fn lines(dir: &Path) -> Vec<String> {
    fs::read_to_string(segment_path(dir, 1)).unwrap().lines().map(str::to_owned).collect()
}

fn put(dir: &Path, lines: &[String]) {
    fs::write(segment_path(dir, 1), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn a_log_is_whole_and_goes_on_after_a_restart() {
    let (dir, heads) = written(Limits::default(), 3);
    assert_eq!(faults(dir.path(), &heads), []);
    let mut log = open(dir.path(), Limits::default());
    assert_eq!(log.head(), &heads[2]);
    log.append(What::Ended { operation: "op1".into(), detail: "rebuild: done".into() }).unwrap();
    let report = verify(dir.path(), &KEY, &heads).unwrap();
    assert_eq!((report.first, report.records, report.head.number, report.faults.len()), (1, 4, 4, 0));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(segment_path(dir.path(), 1)).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn alteration_removal_and_reordering_are_found() {
    let (dir, heads) = written(Limits::default(), 5);
    let good = lines(dir.path());

    let mut altered = good.clone();
    altered[2] = altered[2].replace("rebuild", "nothing");
    put(dir.path(), &altered);
    let found = faults(dir.path(), &[]);
    assert!(
        matches!(found[0], Fault::Forged { number: 3, .. }) && found[1] == Fault::Broken { number: 4 },
        "{found:?}"
    );

    let mut removed = good.clone();
    removed.remove(1);
    put(dir.path(), &removed);
    assert_eq!(faults(dir.path(), &[]), [Fault::Gap { expected: 2, found: 3 }]);

    let mut swapped = good.clone();
    swapped.swap(1, 2);
    put(dir.path(), &swapped);
    assert_eq!(faults(dir.path(), &[])[0], Fault::Gap { expected: 2, found: 3 });

    put(dir.path(), &good[..3]);
    assert_eq!(faults(dir.path(), &[]), [], "without a head nobody can know");
    assert_eq!(faults(dir.path(), &heads[4..]), [Fault::Truncated { last: 3, seen: 5 }]);

    // the first ones may only go with their file
    put(dir.path(), &good[2..]);
    let report = verify(dir.path(), &KEY, &heads).unwrap();
    assert_eq!((report.first, report.faults.len()), (3, 0));
}

#[test]
fn who_holds_the_key_can_write_another_past_only_after_the_last_head_that_was_seen() {
    let (dir, heads) = written(Limits::default(), 4);
    let other = tempfile::tempdir().unwrap();
    let mut log = open(other.path(), Limits::default());
    for number in [0, 1, 7, 8, 9] {
        log.append(asked(number)).unwrap();
    }
    assert_eq!(faults(other.path(), &[]), [], "it is a good log of its own");
    assert_eq!(faults(other.path(), &heads[..2]), []);
    assert_eq!(faults(other.path(), &heads[2..3]), [Fault::Rewritten { number: 3 }]);
    drop(dir);
    // and a log of another key is forged from the first record on
    let report = verify(other.path(), &Hashed("somebody else"), &[]).unwrap();
    assert_eq!(report.faults.len(), 5);
}

#[test]
fn a_torn_line_is_named_kept_and_survived_wherever_it_tears() {
    let (dir, heads) = written(Limits::default(), 2);
    let good = fs::read(segment_path(dir.path(), 1)).unwrap();
    let first = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in first + 1..good.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(segment_path(dir.path(), 1), &good[..length]).unwrap();
        let found = faults(dir.path(), &heads[..1]);
        assert_eq!(found, [Fault::Torn { file: "audit-000001.jsonl".into(), line: 2 }]);
        assert!(found[0].is_harmless());
        let log = open(dir.path(), Limits::default());
        assert_eq!(log.head().number, 2, "the repair is a record");
        let torn = dir.path().join(format!("audit-000001.torn-at-{first}"));
        assert_eq!(fs::read(torn).unwrap(), &good[first..length]);
        assert_eq!(faults(dir.path(), &heads[..1]), []);
        let last = lines(dir.path()).pop().unwrap();
        assert!(last.contains("mended") && last.contains("torn-at"), "{last}");
    }
}

#[test]
fn it_is_rotated_by_size_and_the_oldest_go() {
    let (dir, heads) = written(SMALL, 30);
    let kept = segments(dir.path()).unwrap();
    assert_eq!(kept.len(), 3);
    for segment in &kept {
        assert!(fs::metadata(segment_path(dir.path(), *segment)).unwrap().len() <= SMALL.segment_bytes);
    }
    let report = verify(dir.path(), &KEY, &heads).unwrap();
    assert_eq!((report.head, report.faults), (heads[29], Vec::new()));
    assert!(report.first > 1);
    // a file from the middle cannot go
    fs::remove_file(segment_path(dir.path(), kept[1])).unwrap();
    assert!(matches!(faults(dir.path(), &heads)[..], [Fault::Gap { .. }]));
}

#[test]
fn a_power_cut_between_two_files_loses_nothing() {
    let (dir, heads) = written(SMALL, 5);
    let next = segments(dir.path()).unwrap().last().unwrap() + 1;
    fs::write(segment_path(dir.path(), next), "").unwrap();
    let mut log = open(dir.path(), SMALL);
    assert_eq!(log.head(), &heads[4]);
    log.append(asked(6)).unwrap();
    assert_eq!(faults(dir.path(), &heads), []);
}

#[test]
fn damage_in_the_middle_of_the_last_line_is_no_power_cut() {
    let (dir, _) = written(Limits::default(), 2);
    let mut text = lines(dir.path());
    text[1] = "nonsense".to_owned();
    put(dir.path(), &text);
    let Err(error) = Log::open(dir.path(), Arc::new(KEY), Limits::default()) else { panic!("it opened") };
    assert!(error.to_string().contains("line 2") && error.to_string().contains("beehive audit verify"), "{error}");
    assert!(matches!(faults(dir.path(), &[])[..], [Fault::Unreadable { line: 2, .. }]));
}

#[test]
fn a_head_is_read_back_from_its_text() {
    let (_dir, heads) = written(Limits::default(), 1);
    assert_eq!(heads[0].to_string().parse(), Ok(heads[0]));
    for text in ["", "1", "1:", "1:abc", "x:0000000000000000000000000000000000000000000000000000000000000000"] {
        assert!(text.parse::<Head>().is_err(), "{text}");
    }
}
