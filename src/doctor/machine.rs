//! The machine as its files tell it: whatever is read lies below a root, `/` on a Pi and a made tree in tests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Files of the system that are read here are some KiB; Debian's list of packages is the largest, some MiB.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The files of a machine. Paths are given without the leading `/`.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

/// The processor that the user land's programs are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    /// 32-bit ARM.
    Arm,
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit x86.
    X86_64,
    /// Something else.
    Other,
}

impl Processor {
    /// The name that people know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arm => "32-bit ARM",
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
            Self::Other => "another processor",
        }
    }
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        Self::below(Path::new("/"))
    }

    /// The machine whose `/` is `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a file of the machine is for us.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text; none if it is not there, cannot be read or is larger than anything that is read here.
    pub fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path)).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file's text without white space around it, if anything is left of it.
    pub fn word(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Whether something is there. A link counts, wherever it leads.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// The names in a folder, in order; none if there is no such folder.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Where a link leads, as it is written.
    pub fn link(&self, path: &str) -> Option<String> {
        Some(fs::read_link(self.path(path)).ok()?.to_string_lossy().into_owned())
    }

    /// The running processes: number and name. Names have 15 bytes at most (proc(5), `comm`).
    pub fn processes(&self) -> Vec<(u32, String)> {
        let numbers = self.names("proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
        numbers.filter_map(|number| Some((number, self.word(&format!("proc/{number}/comm"))?))).collect()
    }

    /// Which process has which socket, by the socket's inode. Only root sees all of them.
    pub fn sockets(&self) -> BTreeMap<u64, (u32, String)> {
        let mut found = BTreeMap::new();
        for (number, name) in self.processes() {
            let folder = format!("proc/{number}/fd");
            for descriptor in self.names(&folder) {
                let inode = self
                    .link(&format!("{folder}/{descriptor}"))
                    .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
                if let Some(inode) = inode {
                    found.entry(inode).or_insert_with(|| (number, name.clone()));
                }
            }
        }
        found
    }

    /// The version of an installed Debian package.
    pub fn package(&self, name: &str) -> Option<String> {
        let list = self.text("var/lib/dpkg/status")?;
        let wanted = format!("Package: {name}");
        let entry = list.split("\n\n").find(|entry| entry.lines().any(|line| line == wanted))?;
        let field = |field: &str| entry.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
        field("Status:").filter(|status| status.ends_with(" installed"))?;
        field("Version:").map(str::to_owned)
    }

    /// The processor of the user land, by the header of its shell (elf(5)): a Pi may run a 64-bit kernel below 32-bit
    /// programs. None where that cannot be seen.
    pub fn processor(&self) -> Option<Processor> {
        let mut header = [0_u8; 20];
        let shell = ["bin/sh", "usr/bin/dash", "usr/bin/bash"].into_iter();
        // a link such as /bin/sh → dash stays in its tree; an absolute one would leave it
        let mut inside = shell.filter(|path| !self.link(path).is_some_and(|link| link.starts_with('/')));
        inside.find_map(|path| File::open(self.path(path)).ok()?.read_exact(&mut header).ok())?;
        if !header.starts_with(b"\x7fELF") {
            return None;
        }
        // EM_ARM, EM_X86_64, EM_AARCH64 in <elf.h>; all of them little-endian here
        Some(match (header[4], u16::from_le_bytes([header[18], header[19]])) {
            (1, 40) => Processor::Arm,
            (2, 183) => Processor::Aarch64,
            (2, 62) => Processor::X86_64,
            _ => Processor::Other,
        })
    }
}
