//! Reads a log from its oldest file on and says what is wrong with it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use super::record::{Line, Record};
use super::{Head, Judge, segment_path, segments};
use beehive_mqtt::sign::RecordHash;

/// What is wrong, at which record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A line cannot be read.
    Unreadable {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// The last line is torn, as after a power cut. The next start of the coordinator moves it aside.
    Torn {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// A signature does not hold: the record was altered, or somebody else wrote it.
    Forged {
        /// The record's number.
        number: u64,
        /// Why.
        reason: String,
    },
    /// Records are missing, or in another order.
    Gap {
        /// The number that was to come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// A record does not follow the one before it: that one was replaced.
    Broken {
        /// The record's number.
        number: u64,
    },
    /// The log ends before a record that was seen.
    Truncated {
        /// The last record that is there.
        last: u64,
        /// The one that was seen.
        seen: u64,
    },
    /// A record is another one than was seen: the past was written anew.
    Rewritten {
        /// Its number.
        number: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, line, reason } => write!(f, "{file}, line {line}: cannot be read: {reason}"),
            Self::Torn { file, line } => {
                write!(f, "{file}, line {line}: torn, as after a power cut; nobody was told of what it held")
            }
            Self::Forged { number, reason } => write!(f, "record {number} was altered or forged: {reason}"),
            Self::Gap { expected, found } => {
                write!(f, "record {expected} was to come and {found} came: removed or put into another order")
            }
            Self::Broken { number } => {
                write!(f, "record {number} does not follow the one before it: that was replaced")
            }
            Self::Truncated { last, seen } => {
                write!(f, "the log ends with record {last}, and record {seen} was seen: its end was cut off")
            }
            Self::Rewritten { number } => {
                write!(f, "record {number} is not the one that was seen: the past was written anew")
            }
        }
    }
}

impl Fault {
    /// Whether a power cut explains it.
    pub fn is_harmless(&self) -> bool {
        match self {
            Self::Torn { .. } => true,
            Self::Unreadable { .. }
            | Self::Forged { .. }
            | Self::Gap { .. }
            | Self::Broken { .. }
            | Self::Truncated { .. }
            | Self::Rewritten { .. } => false,
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The oldest record that is still there; what came before went with its file.
    pub first: u64,
    /// The last record.
    pub head: Head,
    /// How many records were read.
    pub records: u64,
    /// What is wrong, in the order of the log.
    pub faults: Vec<Fault>,
}

/// Reads the whole log in `dir`. Each of the heads in `seen` has to be in it, unless it went with its file.
///
/// # Errors
/// If a file cannot be read at all.
pub fn verify(dir: &Path, judge: &dyn Judge, seen: &[Head]) -> io::Result<Report> {
    read(dir, judge, seen, |_| {})
}

/// As [`verify`], and hands out each record that can be read.
///
/// # Errors
/// As [`verify`].
pub fn read(dir: &Path, judge: &dyn Judge, seen: &[Head], mut each: impl FnMut(&Record)) -> io::Result<Report> {
    let mut report = Report { first: 0, head: Head::NONE, records: 0, faults: Vec::new() };
    let all = segments(dir)?;
    for (index, segment) in all.iter().enumerate() {
        let path = segment_path(dir, *segment);
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let text = fs::read(&path)?;
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        // what follows the last line's end
        let rest = lines.pop().unwrap_or_default();
        for (line, bytes) in lines.iter().enumerate() {
            let read = std::str::from_utf8(bytes).map_err(|error| error.to_string());
            match read.and_then(|text| Line::read(text).map(|read| (text, read))) {
                Ok((text, read)) => {
                    if let Err(reason) = judge.judge(read.key, &read.signed, &read.signature) {
                        report.faults.push(Fault::Forged { number: read.record.number, reason });
                    }
                    let head = Head { number: read.record.number, hash: RecordHash::of(text.as_bytes()) };
                    follow(&mut report, read.record.before, head, seen);
                    each(&read.record);
                }
                Err(reason) => report.faults.push(Fault::Unreadable { file: file.clone(), line: line + 1, reason }),
            }
        }
        if !rest.is_empty() {
            let line = lines.len() + 1;
            report.faults.push(if index + 1 == all.len() {
                Fault::Torn { file, line }
            } else {
                Fault::Unreadable { file, line, reason: "it has no end, and other files follow".to_owned() }
            });
        }
    }
    for head in seen {
        if head.number > report.head.number {
            report.faults.push(Fault::Truncated { last: report.head.number, seen: head.number });
        }
    }
    Ok(report)
}

fn follow(report: &mut Report, before: RecordHash, head: Head, seen: &[Head]) {
    if report.records == 0 {
        // of the oldest file that is left nobody can say what came before, unless it is the beginning
        if head.number == 1 && before != Head::NONE.hash {
            report.faults.push(Fault::Broken { number: head.number });
        }
        report.first = head.number;
    } else if head.number != report.head.number + 1 {
        report.faults.push(Fault::Gap { expected: report.head.number + 1, found: head.number });
    } else if before != report.head.hash {
        report.faults.push(Fault::Broken { number: head.number });
    }
    if seen.iter().any(|seen| seen.number == head.number && seen.hash != head.hash) {
        report.faults.push(Fault::Rewritten { number: head.number });
    }
    report.records += 1;
    report.head = head;
}
