//! Finding the GPIO chip by its label, and saying who holds the button's line. Numbers move between kernels and boards
//! (`gpiochip0`, `gpiochip4`, a base of 512); the label names the SoC's pin controller.

use std::path::PathBuf;

use beehive_board::cut::BUTTON_LINE;
use beehive_mqtt::node::PartStatus;
use gpiocdev::chip::Chip;

use super::Unusable;

/// The chip that was found.
#[derive(Debug)]
pub(super) struct FoundChip {
    pub(super) path: PathBuf,
    pub(super) label: String,
}

impl FoundChip {
    /// The button's line, for people.
    pub(super) fn line_name(&self) -> String {
        format!("line {BUTTON_LINE} of {} ({})", self.label, self.path.display())
    }

    /// Whether somebody holds the button's line, and who.
    pub(super) fn holder(&self) -> Result<Option<String>, gpiocdev::Error> {
        let info = Chip::from_path(&self.path)?.line_info(BUTTON_LINE)?;
        Ok(match (info.used, info.consumer.as_str()) {
            (false, _) => None,
            (true, "") => Some("the kernel".to_owned()),
            (true, consumer) => Some(format!("{consumer:?}")),
        })
    }

    /// The chip, if nobody holds the button's line.
    pub(super) fn if_free(self) -> Result<Self, Unusable> {
        match self.holder() {
            Ok(None) => Ok(self),
            Ok(Some(holder)) => Err(self.busy(&holder)),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// The line is held by somebody else.
    pub(super) fn busy(&self, holder: &str) -> Unusable {
        Unusable { status: PartStatus::Busy, detail: format!("{} is held by {holder}", self.line_name()) }
    }

    /// The line cannot be used.
    pub(super) fn failed(&self, error: &dyn std::fmt::Display) -> Unusable {
        Unusable { status: PartStatus::Failed, detail: format!("{}: {error}", self.line_name()) }
    }

    /// The line could not be taken: by whom it is held, else why.
    pub(super) fn not_taken(&self, error: &dyn std::fmt::Display) -> Unusable {
        match self.holder() {
            Ok(Some(holder)) => self.busy(&holder),
            Ok(None) | Err(_) => self.failed(error),
        }
    }
}

/// The first chip with one of these labels.
pub(super) fn find(labels: &[String]) -> Result<FoundChip, Unusable> {
    let wanted = labels.join(" or ");
    let missing = |found: &str| Unusable {
        status: PartStatus::Missing,
        detail: format!("no GPIO chip is labelled {wanted}; {found}"),
    };
    let paths = gpiocdev::chip::chips().map_err(|error| missing(&error.to_string()))?;
    let mut others = Vec::new();
    let mut refused = None;
    for path in paths {
        match Chip::from_path(&path).and_then(|chip| chip.info()) {
            Ok(info) if labels.contains(&info.label) => return Ok(FoundChip { path, label: info.label }),
            Ok(info) => others.push(info.label),
            Err(error) => refused = Some(format!("{error}")),
        }
    }
    match (refused, others.is_empty()) {
        // one that could not be asked may have been the right one
        (Some(error), _) => {
            Err(Unusable { status: PartStatus::Failed, detail: format!("{error} Is the user in the group gpio?") })
        }
        (None, true) => Err(missing("there is none at all")),
        (None, false) => Err(missing(&format!("found: {}", others.join(", ")))),
    }
}
