use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    (dir, store)
}

/// The file that the last of `saves` saves went to.
fn newest(store: &Store, saves: u32) -> PathBuf {
    store.dir().join(if saves % 2 == 1 { "x.a" } else { "x.b" })
}

fn saved(store: &Store, values: &[u32]) {
    for value in values {
        store.save("x", value).unwrap();
    }
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(&[b"12345", b"6789"]), 0xCBF4_3926);
    assert_eq!(crc32(&[]), 0);
}

#[test]
fn what_is_saved_is_loaded_also_by_the_next_start() {
    let (_dir, store) = store();
    assert_eq!(store.load::<u32>("x").unwrap(), None);
    for value in 1..=5u32 {
        store.save("x", &value).unwrap();
        assert_eq!(Store::open(store.dir()).unwrap().load::<u32>("x").unwrap(), Some(value));
    }
    assert_eq!(store.load::<u32>("other").unwrap(), None);
}

#[test]
fn a_counter_grows_with_each_start() {
    let (_dir, store) = store();
    assert_eq!(store.counter("start").unwrap(), 1);
    assert_eq!(Store::open(store.dir()).unwrap().counter("start").unwrap(), 2);
    store.save("start", &u32::MAX).unwrap();
    assert_eq!(store.counter("start").unwrap(), u32::MAX);
}

#[test]
fn only_the_owner_reads() {
    let (_dir, store) = store();
    saved(&store, &[1, 2]);
    assert_eq!(fs::metadata(store.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    for file in ["x.a", "x.b"] {
        assert_eq!(fs::metadata(store.dir().join(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(!store.dir().join("x.new").exists());
}

#[test]
fn a_torn_newest_generation_gives_the_one_before_it() {
    for saves in [2, 3] {
        let (_dir, store) = store();
        saved(&store, &(1..=saves).collect::<Vec<_>>());
        let path = newest(&store, saves);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.load::<u32>("x").unwrap(), Some(saves - 1), "the first {length} bytes");
        }
        // and it is the damaged one that the next save replaces
        store.save("x", &77u32).unwrap();
        assert_eq!(store.load::<u32>("x").unwrap(), Some(77));
        fs::remove_file(&path).unwrap();
        assert_eq!(store.load::<u32>("x").unwrap(), Some(saves - 1));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_never_taken_for_another_document() {
    let (_dir, store) = store();
    saved(&store, &[1111, 2222]);
    let path = newest(&store, 2);
    let whole = fs::read(&path).unwrap();
    for index in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[index] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            match store.load::<u32>("x") {
                // the case of a letter in the checksum says nothing
                Ok(Some(value)) => assert!(value == 1111 || value == 2222, "byte {index} bit {bit}: {value}"),
                Err(StoreError::Format { .. }) => {}
                other => panic!("byte {index} bit {bit}: {other:?}"),
            }
        }
    }
}

#[test]
fn with_both_generations_damaged_it_says_so() {
    let (_dir, store) = store();
    saved(&store, &[1, 2]);
    let (a, b) = (store.dir().join("x.a"), store.dir().join("x.b"));
    fs::write(&a, "").unwrap();
    let mut bytes = fs::read(&b).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&b, &bytes).unwrap();
    assert_eq!(
        store.load::<u32>("x").unwrap_err().to_string(),
        format!(
            "{} is damaged (it is empty) and so is, or was never written, its other generation; move both away to start \
             without this state, and check the SD card",
            a.display()
        )
    );
    fs::remove_file(&a).unwrap();
    let error = store.load::<u32>("x").unwrap_err();
    assert_eq!(error.kind(), "damaged");
    assert!(error.to_string().contains("x.b is damaged (its checksum is wrong)"), "{error}");
    // a save does not paper over it
    assert_eq!(store.save("x", &3u32).unwrap_err().kind(), "damaged");
}

#[test]
fn another_format_is_an_error_even_beside_one_of_ours() {
    let (_dir, store) = store();
    saved(&store, &[1]);
    let path = store.dir().join("x.b");
    fs::write(&path, "beehive-store 2 whatever\n{}").unwrap();
    let error = store.load::<u32>("x").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} is of store format 2, and this program knows format 1; install the version of beehive that wrote it, or \
             move the file away to start without this state",
            path.display()
        )
    );
    assert_eq!(store.save("x", &2u32).unwrap_err().kind(), "format");
}

#[test]
fn another_document_is_an_error() {
    let (_dir, store) = store();
    store.save("x", &"text").unwrap();
    let error = store.load::<u32>("x").unwrap_err();
    assert_eq!(error.kind(), "content");
    assert!(error.to_string().contains("x.a is whole, but cannot be read: invalid type: string"), "{error}");
}

#[test]
fn a_missing_parent_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not-mounted/state");
    let error = Store::open(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot make the folder {}: No such file or directory (os error 2); make its parent and let the user that \
             runs beehive write there, or set state_dir in the configuration",
            path.display()
        )
    );
}

#[test]
fn a_file_in_the_folders_place_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    fs::write(&path, "").unwrap();
    assert!(Store::open(&path).unwrap_err().to_string().contains("File exists"));
}

#[test]
fn a_folder_that_cannot_be_written_says_what_to_do() {
    let (dir, store) = store();
    // root may write anywhere, so the folder goes instead of the permission
    fs::rename(store.dir(), dir.path().join("moved")).unwrap();
    let error = store.save("x", &1u32).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot write {}: No such file or directory (os error 2); let the user that runs beehive write in that \
             folder, and check that the disk is neither full nor read-only",
            store.dir().join("x.new").display()
        )
    );
}

#[test]
fn a_name_is_no_path() {
    let (_dir, store) = store();
    for name in ["", "../x", "a/b", "A", "a.b"] {
        assert_eq!(store.save(name, &1u32).unwrap_err().kind(), "document", "{name:?}");
        assert_eq!(store.load::<u32>(name).unwrap_err().kind(), "document", "{name:?}");
    }
}

#[test]
fn too_large_a_document_is_refused_and_the_old_one_stays() {
    let (_dir, store) = store();
    store.save("x", &"small").unwrap();
    let error = store.save("x", &"x".repeat(MAX_DOCUMENT_BYTES)).unwrap_err();
    assert_eq!(error.kind(), "document");
    assert_eq!(store.load::<String>("x").unwrap().as_deref(), Some("small"));
}

/// The promise of the module: whatever change fails and however, the next start finds the document before the failed save
/// or the new one; and what a save confirmed, it finds.
#[test]
fn whichever_change_fails_one_whole_generation_is_there() {
    for fault in [Fault::Refused, Fault::PowerCut, Fault::PowerCutHalfDone] {
        for change in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state");
            let disk = Arc::new(FaultyDisk::new());
            disk.fail_at(change, fault);
            let mut confirmed = None;
            let mut tried = Vec::new();
            if let Ok(store) = Store::open_on(&path, Arc::clone(&disk) as Arc<dyn Disk>) {
                for value in 1..=6u32 {
                    tried.push(value);
                    if store.save("x", &value).is_ok() {
                        confirmed = Some(value);
                        tried.clear();
                    }
                }
            }
            let found = Store::open(&path).unwrap().load::<u32>("x").unwrap();
            assert!(
                found == confirmed || found.is_some_and(|found| tried.contains(&found)),
                "change {change}, {fault:?}: confirmed {confirmed:?}, tried {tried:?}, found {found:?}"
            );
            if disk.changes() <= change {
                // the whole run has no change of this number: all are covered
                assert_eq!(found, Some(6));
                break;
            }
            assert!(change < 25, "more changes than expected");
        }
    }
}
