//! What is installed from without a network: files of a release on the card, in a folder for its engine and version, each named
//! with its SHA-256 in the list that the release brings along. Nothing is installed that the list does not name.

use std::collections::BTreeMap;

use super::site::{Failure, Files, Site};

/// A folder of a release on the card.
#[derive(Debug, Clone)]
pub(super) struct Release {
    pub(super) folder: String,
    /// The lists' names.
    pub(super) lists: &'static [&'static str],
}

impl Release {
    /// That of `version`, for the engine `kind`.
    pub(super) fn of(site: &Site, kind: &str, version: &str, lists: &'static [&'static str]) -> Self {
        Self { folder: format!("{}/{kind}/{version}", site.settings.artefacts.display()), lists }
    }

    /// The path of one of its files.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// Its files and their hashes.
    pub(super) fn hashes(&self, files: &Files) -> Result<BTreeMap<String, String>, Failure> {
        let mut hashes = BTreeMap::new();
        for list in self.lists {
            let text = files.text(self.path(list))?;
            for line in text.lines() {
                // as sha256sum writes it: the hash, two characters, the name
                let Some((hash, name)) = line.split_once(' ') else { continue };
                let name = name.trim_start_matches([' ', '*']).trim_end();
                if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && !name.contains('/') {
                    hashes.insert(name.to_owned(), hash.to_ascii_lowercase());
                }
            }
        }
        Ok(hashes)
    }

    /// The hash that the list has for `name`.
    pub(super) fn hash(&self, files: &Files, name: &str) -> Result<String, Failure> {
        self.hashes(files)?.remove(name).ok_or_else(|| {
            let (path, lists) = (self.path(name), self.lists.join(" or "));
            Failure::new(
                "bad-artefact",
                format!("{path} is in no list of hashes; copy the release's {lists} beside it"),
            )
        })
    }

    /// Checks a file that is used where it lies.
    pub(super) fn check(&self, files: &Files, name: &str) -> Result<(), Failure> {
        let wanted = self.hash(files, name)?;
        if files.sha256(self.path(name))?.as_deref() == Some(wanted.as_str()) {
            Ok(())
        } else {
            let path = self.path(name);
            Err(Failure::new(
                "bad-artefact",
                format!("{path} has another hash than the list beside it says; copy it to the card anew"),
            ))
        }
    }
}

/// The versions of the engine `kind` on the card.
pub(super) fn versions(files: &Files, artefacts: &str, kind: &str) -> Result<Vec<String>, Failure> {
    let mut versions = files.list(format!("{artefacts}/{kind}"))?;
    versions.retain(|name| crate::config::engine::is_version(name));
    Ok(versions)
}
