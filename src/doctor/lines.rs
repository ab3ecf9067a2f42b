//! Who else uses the lines of the OnOff SHIM, by what is configured on this machine. BCM4 cuts the power, and 1-Wire has it
//! by default: beside another user of either line beehive does not cut (the feed is `unknown` then, which the final hook
//! leaves alone), and says who it is.
//!
//! What is not configured but holds a line all the same is met when the line is asked for: the kernel gives it to one alone. An
//! overlay whose default lines its README does not name (screens such as `piscreen`) is not known here.
//!
//! Sources: raspberrypi/linux `arch/arm/boot/dts/overlays/README` for the overlays and their default pins; the firmware's
//! documentation for `gpio=`; pimoroni/clean-shutdown for the files that its `setup.sh` puts down.

use std::fmt;
use std::io::ErrorKind;

use super::kernel::firmware_file;
use super::{Finding, Id, Machine, Patient, Severity};

/// Safe levels a few seconds after power-on, until the kernel has the lines: the power is held, the button has its pull-up.
pub const SAFE_LEVELS: [&str; 2] = ["gpio=4=op,dh", "gpio=17=ip,pu"];

/// The kernel's own cut of the power as its last act (hardware/gpio-poweroff says when to take it).
pub const POWEROFF_OVERLAY: &str = "dtoverlay=gpio-poweroff,gpiopin=4,active_low=1,active_delay_ms=2000";

/// The SHIM's lines.
pub const SHIM_LINES: [u32; 2] = [4, 17];

/// What Pimoroni's own daemon for the SHIM puts down, and which line it takes with that.
const CLEAN_SHUTDOWN: [(&str, u32); 3] =
    [("lib/systemd/system-shutdown/gpio-poweroff", 4), ("usr/bin/cleanshutd", 17), ("etc/init.d/cleanshutd", 17)];

/// What takes a line: an overlay, by which parameter, which line without that, and the word that frees the line.
type Taker = (&'static str, &'static str, u32, &'static str);

/// A parameter, or a word, that an overlay does not have.
const NONE: &str = "";

/// One row for each parameter. Of the overlays of the Pi 5 and the Compute Modules only 1-Wire is here.
const TAKERS: &[Taker] = &[
    ("w1-gpio", "gpiopin", 4, NONE),
    ("w1-gpio-pi5", "gpiopin", 4, NONE),
    ("w1-gpio-pullup", "gpiopin", 4, NONE),
    ("w1-gpio-pullup", "extpullup", 5, NONE),
    ("w1-gpio-pullup-pi5", "gpiopin", 4, NONE),
    ("w1-gpio-pullup-pi5", "extpullup", 5, NONE),
    // sensors and expanders, and what touches
    ("apds9960", "gpiopin", 4, "noints"),
    ("dht11", "gpiopin", 4, NONE),
    ("exc3000", "interrupt", 4, NONE),
    ("goodix", "interrupt", 4, NONE),
    ("goodix", "reset", 17, NONE),
    ("ilitek251x", "interrupt", 4, NONE),
    ("iqs550", "interrupt", 4, NONE),
    ("mcp23017", "gpiopin", 4, "noints"),
    ("rotary-encoder", "pin_a", 4, NONE),
    ("rotary-encoder", "pin_b", 17, NONE),
    ("si446x-spi0", "int_pin", 17, NONE),
    // single lines
    ("gpio-charger", "gpio", 4, NONE),
    ("gpio-fan", "gpiopin", 12, NONE),
    ("gpio-hog", "gpio", 26, NONE),
    ("gpio-ir", "gpio_pin", 18, NONE),
    ("gpio-ir-tx", "gpio_pin", 18, NONE),
    ("gpio-key", "gpio", 3, NONE),
    ("gpio-led", "gpio", 19, NONE),
    ("gpio-poweroff", "gpiopin", 26, NONE),
    ("gpio-shutdown", "gpio_pin", 3, NONE),
    ("hdmi-backlight-hwhack-gpio", "gpio_pin", 17, NONE),
    ("max98357a", "sdmode-pin", 4, "no-sdmode"),
    ("pps-gpio", "gpiopin", 18, NONE),
    ("pwm-gpio", "gpio", 4, NONE),
    ("pwm-gpio-fan", "fan_gpio", 18, NONE),
    ("wittypi", "led_gpio", 17, NONE),
    // buses: the kernel gives their pins another function, and the line itself stays free for whoever asks
    ("i2c-gpio", "i2c_gpio_sda", 23, NONE),
    ("i2c-gpio", "i2c_gpio_scl", 24, NONE),
    ("i2c3", NONE, 4, "pins_2_3"),
    ("spi1-2cs", "cs0_pin", 18, NONE),
    ("spi1-2cs", "cs1_pin", 17, NONE),
    ("spi1-3cs", "cs0_pin", 18, NONE),
    ("spi1-3cs", "cs1_pin", 17, NONE),
    ("spi1-3cs", "cs2_pin", 16, NONE),
    ("spi4-1cs", "cs0_pin", 4, NONE),
    ("spi4-2cs", "cs0_pin", 4, NONE),
    ("spi4-2cs", "cs1_pin", 25, NONE),
    ("uart3", NONE, 4, NONE),
    // screens and memory that use nearly all lines of the header
    ("dpi18", NONE, 4, NONE),
    ("dpi18", NONE, 17, NONE),
    ("dpi18cpadhi", NONE, 4, NONE),
    ("dpi18cpadhi", NONE, 17, NONE),
    ("dpi24", NONE, 4, NONE),
    ("dpi24", NONE, 17, NONE),
    ("smi", NONE, 4, NONE),
    ("smi", NONE, 17, NONE),
    ("vc4-kms-dpi-generic", NONE, 4, NONE),
    ("vc4-kms-dpi-generic", NONE, 17, NONE),
    ("vga666", NONE, 4, NONE),
    ("vga666", NONE, 17, NONE),
];

/// A line of `config.txt` that gives one of the SHIM's lines to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken<'a> {
    /// Which.
    pub line: u32,
    /// What says so.
    pub text: &'a str,
    /// Where, from 1.
    pub number: usize,
}

/// Another user of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherUser {
    /// Which line.
    pub line: u32,
    /// Who, and where that stands; short enough for the feed's evidence.
    pub who: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for OtherUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BCM{} has another user: {}", self.line, self.who)
    }
}

/// An overlay, and what it takes as far as its words were heard.
struct Overlay<'a> {
    text: &'a str,
    number: usize,
    pins: Vec<Pin>,
}

/// A line that an overlay takes; none where a word has freed it, or its number is none.
struct Pin {
    parameter: &'static str,
    free: &'static str,
    line: Option<u32>,
}

impl<'a> Overlay<'a> {
    /// `NAME,a=1` and `NAME:a=1` are the same.
    fn parse(value: &str, text: &'a str, number: usize) -> Self {
        let mut words = value.split([',', ':']).map(str::trim);
        let name = words.next().unwrap_or_default();
        let pins = (TAKERS.iter().filter(|(overlay, ..)| *overlay == name))
            .map(|&(_, parameter, line, free)| Pin { parameter, free, line: Some(line) })
            .collect();
        let mut overlay = Self { text, number, pins };
        words.for_each(|word| overlay.hear(word));
        overlay
    }

    fn hear(&mut self, word: &str) {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim())),
            None => (word.trim(), None),
        };
        if key == NONE {
            return;
        }
        for pin in &mut self.pins {
            match value {
                Some(value) if key == pin.parameter => pin.line = value.parse().ok(),
                None if key == pin.free => pin.line = None,
                Some(_) | None => {}
            }
        }
    }

    /// What it takes of the SHIM's lines.
    fn taken(self) -> Vec<Taken<'a>> {
        if self.text == POWEROFF_OVERLAY {
            return Vec::new();
        }
        let takes = |line: &u32| self.pins.iter().any(|pin| pin.line == Some(*line));
        let lines = SHIM_LINES.into_iter().filter(takes);
        lines.map(|line| Taken { line, text: self.text, number: self.number }).collect()
    }
}

/// The pins of `gpio=4,17-20=…`.
fn names(pins: &str, line: u32) -> bool {
    pins.split(',').any(|range| match range.split_once('-') {
        None => range.trim().parse() == Ok(line),
        Some((from, to)) => match (from.trim().parse::<u32>(), to.trim().parse::<u32>()) {
            (Ok(from), Ok(to)) => (from..=to).contains(&line),
            _ => false,
        },
    })
}

/// The lines of a `config.txt`, numbered, that give one of the SHIM's lines to another user. Filters such as `[pi4]` are not
/// looked at: a line counts for every Pi. A `dtparam=` belongs to the overlay before it, as the firmware has it.
pub fn taken<'a>(lines: impl IntoIterator<Item = (usize, &'a str)>) -> Vec<Taken<'a>> {
    let mut found = Vec::new();
    let mut overlay: Option<Overlay<'a>> = None;
    for (number, whole) in lines {
        let text = whole.split('#').next().unwrap_or_default().trim();
        let Some((key, value)) = text.split_once('=') else { continue };
        match key.trim() {
            "gpio" if !SAFE_LEVELS.contains(&text) => {
                let pins = value.split('=').next().unwrap_or_default();
                let lines = SHIM_LINES.into_iter().filter(|line| names(pins, *line));
                found.extend(lines.map(|line| Taken { line, text, number }));
            }
            "dtoverlay" | "device_tree_overlay" => {
                found.extend(overlay.take().map(Overlay::taken).unwrap_or_default());
                overlay = Some(Overlay::parse(value, text, number));
            }
            "dtparam" | "device_tree_param" => {
                if let Some(overlay) = &mut overlay {
                    value.split(',').for_each(|word| overlay.hear(word));
                }
            }
            _ => {}
        }
    }
    found.extend(overlay.map(Overlay::taken).unwrap_or_default());
    found.sort_by_key(|taken| taken.number);
    found
}

/// Whether there is, or may be, a file of that name that cannot be read: its folder may be closed too.
fn is_hidden(machine: &Machine, file: &str) -> bool {
    match machine.path(file).symlink_metadata() {
        Ok(_) => machine.text(file).is_none(),
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

/// Every other user of the SHIM's lines that is configured on `machine`; those of BCM4 first.
pub fn other_users(machine: &Machine) -> Vec<OtherUser> {
    let mut users = Vec::new();
    if let Some(file) = firmware_file(machine, "config.txt") {
        let text = machine.text(&file).unwrap_or_default();
        for Taken { line, text, number } in taken((1..).zip(text.lines())) {
            users.push(OtherUser {
                line,
                who: format!("/{file}, line {number}: {text}"),
                remedy: format!("take that line out of /{file}, or give it another pin, and restart"),
            });
        }
    } else {
        // what is there and cannot be read may say anything
        let hidden = ["boot/firmware/config.txt", "boot/config.txt"];
        users.extend(hidden.into_iter().filter(|file| is_hidden(machine, file)).map(|file| OtherUser {
            line: 4,
            who: format!("/{file} cannot be read, and may name one"),
            remedy: format!("let /{file} be read by everybody"),
        }));
    }
    for (file, line) in CLEAN_SHUTDOWN {
        if machine.has(file) {
            users.push(OtherUser {
                line,
                who: format!("clean-shutdown (/{file})"),
                remedy: "remove Pimoroni's clean-shutdown (its README says how), and restart".to_owned(),
            });
        }
    }
    users.sort_by_key(|user| user.line);
    users
}

/// The check of `beehive doctor`. It is a warning: a cluster can be made and joined beside it, but nothing is cut.
pub fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let finding = |user: OtherUser| {
        let evidence = format!("{user}; beehive does not cut the power beside it");
        Finding::new(Severity::Warning, Id::ShimLine, evidence, user.remedy)
    };
    other_users(patient.machine).into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::doctor::trees::{Answers, Tree};
    use crate::doctor::{Subject, Wanted};
    use beehive_mqtt::node::Role;

    fn lines_of(text: &str) -> Vec<(u32, usize)> {
        taken((1..).zip(text.lines())).iter().map(|taken| (taken.line, taken.number)).collect()
    }

    #[test]
    fn overlays_and_levels_take_lines() {
        for (text, found) in [
            ("dtoverlay=w1-gpio", &[(4, 1)][..]),
            ("dtoverlay=gpio-shutdown,gpio_pin=17\ngpio=4=op,dl", &[(17, 1), (4, 2)]),
            ("gpio=0-20=ip", &[(4, 1), (17, 1)]),
            // the parameters of the lines after it are the overlay's
            ("dtoverlay=gpio-shutdown\ndtparam=gpio_pin=17", &[(17, 1)]),
            ("dtoverlay=w1-gpio\ndtparam=gpiopin=5", &[]),
            ("dtoverlay=w1-gpio\ndtoverlay=\ndtparam=gpiopin=5", &[(4, 1)]),
            ("dtoverlay=w1-gpio\ndtoverlay=vc4-kms-v3d\ndtparam=gpiopin=5", &[(4, 1)]),
            ("dtparam=i2c_arm=on\ngpio=4=op,dh\ngpio=17=ip,pu", &[]),
            (POWEROFF_OVERLAY, &[]),
            ("dtoverlay=gpio-poweroff,gpiopin=4", &[(4, 1)]),
            ("#dtoverlay=w1-gpio", &[]),
            // both lines by default, and each of them may be given away
            ("dtoverlay=rotary-encoder", &[(4, 1), (17, 1)]),
            ("dtoverlay=rotary-encoder,pin_a=23,relative_axis=1", &[(17, 1)]),
            ("dtoverlay=rotary-encoder,pin_a=23\ndtparam=pin_b=24", &[]),
            ("dtoverlay=rotary-encoder,pin_a=17,pin_b=4", &[(4, 1), (17, 1)]),
            ("dtoverlay=goodix,reset=27", &[(4, 1)]),
            ("dtoverlay=dht11", &[(4, 1)]),
            ("dtoverlay=dht11,gpiopin=5", &[]),
            ("dtoverlay=pps-gpio", &[]),
            ("dtoverlay=pps-gpio,gpiopin=4", &[(4, 1)]),
            ("dtoverlay=gpio-fan,gpiopin=17", &[(17, 1)]),
            ("dtoverlay=gpio-ir-tx,gpio_pin=4", &[(4, 1)]),
            ("dtoverlay=w1-gpio-pullup,gpiopin=5,extpullup=4", &[(4, 1)]),
            ("dtoverlay=spi1-2cs", &[(17, 1)]),
            ("dtoverlay=spi1-2cs,cs1_pin=16", &[]),
            ("dtoverlay=mcp23017", &[(4, 1)]),
            ("dtoverlay=mcp23017,noints", &[]),
            // lines that no parameter moves
            ("dtoverlay=vga666", &[(4, 1), (17, 1)]),
            ("dtoverlay=uart3,ctsrts", &[(4, 1)]),
            ("dtoverlay=i2c3", &[(4, 1)]),
            ("dtoverlay=i2c3,pins_2_3", &[]),
            ("dtoverlay=i2c3,=5", &[(4, 1)]),
        ] {
            assert_eq!(lines_of(text), found, "{text:?}");
        }
    }

    #[test]
    fn who_is_configured_on_a_machine_is_named_with_a_remedy() {
        let told = |tree: &Tree| {
            other_users(&tree.machine()).iter().map(|user| format!("{user}; {}", user.remedy)).collect::<Vec<_>>()
        };
        assert_eq!(told(&Tree::bookworm()), [""; 0]);
        let tree = Tree::bookworm();
        tree.put("boot/firmware/config.txt", "[all]\ndtoverlay=w1-gpio\n");
        // nobody reads the old one beside it
        tree.put("boot/config.txt", "DO NOT EDIT THIS FILE\ndtoverlay=gpio-shutdown,gpio_pin=17\n");
        assert_eq!(
            told(&tree),
            ["BCM4 has another user: /boot/firmware/config.txt, line 2: dtoverlay=w1-gpio; take that line out of \
              /boot/firmware/config.txt, or give it another pin, and restart"]
        );
        let tree = Tree::bullseye();
        tree.put("boot/config.txt", "gpio=4=op,dh\n");
        tree.put("usr/bin/cleanshutd", "#!/bin/bash\n");
        tree.put("lib/systemd/system-shutdown/gpio-poweroff", "#!/bin/sh\n");
        let told = told(&tree);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("BCM4 has another user: clean-shutdown (/lib/systemd/"), "{told:?}");
        assert!(told[1].starts_with("BCM17 has another user: clean-shutdown (/usr/bin/cleanshutd)"), "{told:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_counts_as_one_that_names_a_user() {
        let root = tempfile::tempdir().unwrap();
        // a folder is there and has no text
        std::fs::create_dir_all(root.path().join("boot/firmware/config.txt")).unwrap();
        let users = other_users(&Machine::below(root.path()));
        assert_eq!((users.len(), users[0].line), (1, 4));
        // neither the one nor the other can be there
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("boot"), "").unwrap();
        assert_eq!(other_users(&Machine::below(root.path())), []);
        // a link to itself is there, and cannot be read
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("boot")).unwrap();
        std::os::unix::fs::symlink("firmware", root.path().join("boot/firmware")).unwrap();
        assert_eq!(other_users(&Machine::below(root.path())).len(), 1);
    }

    #[test]
    fn the_doctor_warns_of_each() {
        let tree = Tree::bookworm().made_ready();
        tree.put("boot/firmware/config.txt", "gpio=4,17=ip\n");
        let subject = Subject::new(Role::Node, Wanted::K3s, "v1.31.4+k3s1");
        let findings = tree.examine(&Answers::default(), &subject);
        let found = findings.iter().filter(|finding| finding.id == Id::ShimLine).collect::<Vec<_>>();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|finding| finding.severity == Severity::Warning));
        assert!(found[0].evidence.contains("does not cut the power"), "{}", found[0].evidence);
    }
}
