//! Copies of a control plane's state, in numbered folders of which the newest few are kept. A folder is filled under another
//! name and gets its own when it is whole and on the card; a list in it names each file with its hash, and the cluster that
//! it is of.
//!
//! A copy is put back only into the cluster that it is of, by the hash of the authority's certificate: another cluster's
//! nodes, certificates and service accounts would know nothing of what is in it.

use std::collections::BTreeMap;

use beehive_mqtt::{ClusterId, Text};
use serde::{Deserialize, Serialize};

use super::lifecycle::{Distribution, Membership, snapshots_dir};
use super::site::{Failure, Files, Mode, Site};

/// The store's counter of copies; a number never comes twice.
const COUNTER: &str = "snapshots";
const LIST: &str = "list.json";
const UNFINISHED: &str = ".unfinished";
/// A list of some dozens of files.
const LIST_BYTES: u64 = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct List {
    engine: String,
    cluster: ClusterId,
    version: Text<32>,
    /// The SHA-256 of the authority's certificate.
    authority: String,
    /// The files, and their SHA-256.
    files: BTreeMap<String, String>,
}

/// Takes one; its number, and its size.
pub(super) async fn take(site: &Site, how: &dyn Distribution, member: &Membership) -> Result<(u32, u64), Failure> {
    let store = site.store.clone();
    let number = site.disk(move |_| Ok(store.counter(COUNTER)?)).await?;
    let (folder, unfinished) = (format!("{}/{number}", snapshots_dir()), format!("{}/{UNFINISHED}", snapshots_dir()));
    let into = unfinished.clone();
    site.disk(move |files| {
        files.remove_tree(&into)?;
        files.folder(&into, Mode::Secret)
    })
    .await?;
    how.snapshot(site, unfinished.clone()).await?;
    let (engine, authority, member) = (how.kind().to_owned(), how.authority(), member.clone());
    let keep = site.settings.snapshots;
    let bytes = site
        .disk(move |files| {
            let authority = authority_of(files, authority)?;
            let mut list =
                List { engine, cluster: member.cluster, version: member.version, authority, files: BTreeMap::new() };
            let mut bytes = 0;
            for name in names(files, &unfinished, "")? {
                let path = format!("{unfinished}/{name}");
                bytes += files.at(&path).metadata().map(|found| found.len()).unwrap_or(0);
                let hash = files.sha256(&path)?.ok_or_else(|| Failure::new("disk", format!("{path} vanished")))?;
                list.files.insert(name, hash);
            }
            if list.files.is_empty() {
                return Err(Failure::new("no-state", "the engine has no state to copy"));
            }
            let text = serde_json::to_vec(&list).map_err(|error| Failure::new("internal", error.to_string()))?;
            files.write(format!("{unfinished}/{LIST}"), &text, Mode::Secret)?;
            files.rename(&unfinished, &folder)?;
            let mut numbers = numbers(files)?;
            while numbers.len() as u64 > keep {
                files.remove_tree(format!("{}/{}", snapshots_dir(), numbers.remove(0)))?;
            }
            Ok(bytes)
        })
        .await?;
    Ok((number, bytes))
}

/// The folder of one that may be put back: that `generation`, or the newest. Every file is looked at.
pub(super) async fn find(
    site: &Site,
    how: &dyn Distribution,
    member: &Membership,
    generation: Option<u32>,
) -> Result<String, Failure> {
    let (engine, authority, member) = (how.kind(), how.authority(), member.clone());
    site.disk(move |files| {
        let numbers = numbers(files)?;
        let number = match generation {
            Some(number) => numbers.contains(&number).then_some(number),
            None => numbers.last().copied(),
        };
        let number = number.ok_or_else(|| {
            let have = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            let have = if have.is_empty() { "none".to_owned() } else { have };
            Failure::new("no-snapshot", format!("there is no such copy of the cluster's state; there are: {have}"))
        })?;
        let folder = format!("{}/{number}", snapshots_dir());
        let list: List = files
            .read(format!("{folder}/{LIST}"), LIST_BYTES)?
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| Failure::new("damaged", format!("{folder} has no readable list; take another number")))?;
        let same = list.engine == engine
            && list.cluster == member.cluster
            && list.authority == authority_of(files, authority)?;
        if !same {
            let (of, by) = (list.cluster, list.engine);
            return Err(Failure::new(
                "other-cluster",
                format!("{folder} is of the cluster {of} by {by}, not of this one; a rebuilt cluster is another one"),
            ));
        }
        for (name, hash) in &list.files {
            if files.sha256(format!("{folder}/{name}"))?.as_ref() != Some(hash) {
                return Err(Failure::new(
                    "damaged",
                    format!("{name} in {folder} is damaged; take another number, and check the SD card"),
                ));
            }
        }
        Ok(folder)
    })
    .await
}

fn authority_of(files: &Files, path: &str) -> Result<String, Failure> {
    files
        .sha256(path)?
        .ok_or_else(|| Failure::new("no-state", format!("{path} is missing: the control plane has no authority")))
}

/// The numbers that are there, the oldest first.
fn numbers(files: &Files) -> Result<Vec<u32>, Failure> {
    let mut numbers: Vec<u32> = files.list(snapshots_dir())?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The files below a folder, with their folders before their names.
pub(super) fn names(files: &Files, folder: &str, before: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for name in files.list(format!("{folder}/{before}"))? {
        let name = if before.is_empty() { name } else { format!("{before}/{name}") };
        if files.at(format!("{folder}/{name}")).is_dir() {
            found.extend(names(files, folder, &name)?);
        } else {
            found.push(name);
        }
    }
    Ok(found)
}

/// Copies every file below `from` to `to`.
pub(super) fn copy_tree(files: &Files, from: &str, to: &str) -> Result<(), Failure> {
    files.folder(to, Mode::Secret)?;
    for name in names(files, from, "")? {
        files.copy(format!("{from}/{name}"), format!("{to}/{name}"), Mode::Secret, None)?;
    }
    Ok(())
}
