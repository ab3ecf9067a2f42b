//! `config.txt`: what the firmware sets up before the kernel runs. Ours is one marked section at the end of the file.
//!
//! A line like `[pi4]` is a filter for all lines below it, so our section begins with `[all]`. The rest of the file is
//! left as it is, byte for byte; but a line that gives BCM4 or BCM17 to somebody else is not left standing beside ours: it
//! is refused by name. BCM4 is the line that cuts the power, and 1-Wire has it by default.
//!
//! Which lines those are: [`crate::doctor::lines`]. Source of the filters: the firmware's documentation.

pub use crate::doctor::lines::{POWEROFF_OVERLAY, SAFE_LEVELS};
use crate::doctor::lines::{SHIM_LINES, Taken, taken};

/// How our section begins.
pub const BEGIN: &str = "# beehive: begin (written by `beehive image prepare`; what is changed here is lost)";
/// How it ends.
pub const END: &str = "# beehive: end";

/// Why the file is not edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigTxtError {
    /// A line has another user.
    #[error(
        "config.txt gives BCM{line} to another user ({text:?}, line {number}); the SHIM has it. Take that line out, or say \
         --without-shim if this Pi has no SHIM"
    )]
    InUse {
        /// Which.
        line: u32,
        /// What says so.
        text: String,
        /// Where.
        number: usize,
    },
    /// The marks do not fit.
    #[error("config.txt has our mark {mark:?} without its other end; take the rest of that section out")]
    Torn {
        /// Which mark.
        mark: &'static str,
    },
    /// It is no text.
    #[error("config.txt is no text")]
    NoText,
}

/// Before our section, what is in it, after it. All of it is the text.
struct Parts<'a> {
    before: &'a str,
    section: Option<&'a str>,
    after: &'a str,
}

/// Where a line that says exactly `mark` begins and ends, from `from` on; what ends the line is part of it.
fn find(text: &str, mark: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    for line in text.get(from..)?.split_inclusive('\n') {
        if line.trim_end() == mark {
            return Some((at, at + line.len()));
        }
        at += line.len();
    }
    None
}

fn parts(text: &str) -> Result<Parts<'_>, ConfigTxtError> {
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    match find(text, BEGIN, 0) {
        None => match find(text, END, 0) {
            None => Ok(Parts { before: text, section: None, after: "" }),
            Some(_) => Err(ConfigTxtError::Torn { mark: END }),
        },
        Some((begin, inside)) => match find(text, END, inside) {
            Some((_, end)) => {
                Ok(Parts { before: part(0, begin), section: Some(part(begin, end)), after: part(end, text.len()) })
            }
            None => Err(ConfigTxtError::Torn { mark: BEGIN }),
        },
    }
}

/// The file with `lines` in our section, which replaces the one that is there. Without lines there is no section.
///
/// # Errors
/// If one mark is there without the other.
pub fn put(text: &str, lines: &[String]) -> Result<String, ConfigTxtError> {
    let Parts { before, section, after } = parts(text)?;
    let ends_with = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut ours = String::new();
    if !lines.is_empty() {
        for line in [BEGIN, "[all]"].into_iter().chain(lines.iter().map(String::as_str)).chain([END]) {
            ours.push_str(line);
            ours.push_str(ends_with);
        }
    }
    let break_before = match section {
        None if !ours.is_empty() && !before.is_empty() && !before.ends_with('\n') => ends_with,
        None | Some(_) => "",
    };
    Ok(format!("{before}{break_before}{ours}{after}"))
}

/// Refuses a file in which, outside our section, one of the SHIM's lines has another user.
///
/// # Errors
/// Names the line of the file.
pub fn refuse_other_users(text: &str) -> Result<(), ConfigTxtError> {
    let Parts { before, section, after } = parts(text)?;
    let lines = |text: &str| text.matches('\n').count();
    let first_after = lines(before) + section.map_or(0, lines);
    let all = (1..).zip(before.lines()).chain((first_after + 1..).zip(after.lines()));
    if let Some(Taken { line, text, number }) = taken(all).first().copied() {
        return Err(ConfigTxtError::InUse { line, text: text.to_owned(), number });
    }
    Ok(())
}

/// Whether a line that goes into our section gives one of the SHIM's lines to somebody else.
pub fn takes_a_shim_line(line: &str) -> Option<u32> {
    let ours = SAFE_LEVELS.iter().position(|level| *level == line).and_then(|at| SHIM_LINES.get(at).copied());
    ours.or_else(|| taken([(1, line)]).first().map(|taken| taken.line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ours() -> Vec<String> {
        SAFE_LEVELS.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn our_section_holds_for_every_pi_and_is_replaced_where_it_stands() {
        let stock = "dtparam=audio=on\n[pi4]\narm_boost=1\n";
        let once = put(stock, &ours()).unwrap();
        assert_eq!(once, format!("{stock}{BEGIN}\n[all]\ngpio=4=op,dh\ngpio=17=ip,pu\n{END}\n"));
        let more = format!("{once}# mine\ngpu_mem=16\n");
        let two = put(&more, &["dtparam=i2c_arm=on".to_owned()]).unwrap();
        assert_eq!(two, format!("{stock}{BEGIN}\n[all]\ndtparam=i2c_arm=on\n{END}\n# mine\ngpu_mem=16\n"));
        assert_eq!(put(&two, &[]).unwrap(), format!("{stock}# mine\ngpu_mem=16\n"));
        assert!(put("a=1", &ours()).unwrap().starts_with("a=1\n# beehive"));
        assert!(put("a=1\r\n", &ours()).unwrap().ends_with("end\r\n"));
        for (torn, mark) in [(format!("{BEGIN}\ngpio=4=op,dh\n"), BEGIN), (format!("a=1\n{END}\n"), END)] {
            assert_eq!(put(&torn, &ours()), Err(ConfigTxtError::Torn { mark }));
        }
    }

    #[test]
    fn other_users_of_the_shims_lines_are_refused_by_name() {
        for (text, line) in [
            ("dtoverlay=w1-gpio", 4),
            ("dtoverlay=w1-gpio-pullup,pullup=1", 4),
            ("dtoverlay=w1-gpio,gpiopin=17", 17),
            ("dtoverlay = gpio-shutdown , gpio_pin = 17", 17),
            ("dtoverlay=gpio-poweroff,gpiopin=4,active_low", 4),
            ("dtoverlay=gpio-poweroff:gpiopin=4", 4),
            ("gpio=4=op,dl", 4),
            ("gpio=0-8=ip", 4),
            ("gpio=2,16-18=op # mine", 17),
        ] {
            let file = format!("[pi4]\n# first\n{text}\n");
            match refuse_other_users(&file) {
                Err(ConfigTxtError::InUse { line: found, number, .. }) => assert_eq!((found, number), (line, 3)),
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in [
            "#dtoverlay=w1-gpio",
            "dtoverlay=w1-gpio,gpiopin=5",
            "dtoverlay=gpio-shutdown",
            "dtoverlay=gpio-poweroff",
            "dtoverlay=vc4-kms-v3d",
            "gpio=18-20=op",
            "gpio=4=op,dh",
            "dtoverlay=",
            "",
        ] {
            assert_eq!(refuse_other_users(text), Ok(()), "{text}");
        }
        // our own section is not another user, and what follows it is counted rightly
        let file = format!("{}dtoverlay=w1-gpio\n", put("a=1\n", &[POWEROFF_OVERLAY.to_owned()]).unwrap());
        assert_eq!(refuse_other_users(&file).unwrap_err().to_string().matches("line 6").count(), 1);
    }

    #[test]
    fn the_overlay_is_the_one_that_the_hardware_folder_describes() {
        let file = include_str!("../../hardware/gpio-poweroff/config.txt");
        for line in SAFE_LEVELS.into_iter().chain([POWEROFF_OVERLAY]) {
            assert!(file.lines().any(|there| there == line), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_second_time_changes_nothing_and_everything_else_stays(
            text in "([a-z=,0-9#\\[\\] ]{0,12}\r?\n){0,12}[a-z=]{0,5}",
            lines in proptest::collection::vec("[a-z=,0-9]{1,12}", 0..4),
            other in proptest::collection::vec("[a-z=,0-9]{1,12}", 0..4),
        ) {
            let once = put(&text, &lines).unwrap();
            prop_assert_eq!(&put(&once, &lines).unwrap(), &once);
            // another section in its place, or none, and then the first one again
            if !lines.is_empty() {
                let changed = put(&once, &other).unwrap();
                prop_assert_eq!(&put(&changed, &lines).unwrap(), &once);
            }
            let none = put(&once, &[]).unwrap();
            let ended = ["", "\n", "\r\n"].map(|end| format!("{text}{end}"));
            prop_assert!(ended.contains(&none), "{none:?}");
        }
    }
}
