//! Which image this is, told by what lies in its boot partition.
//!
//! | image | told by | where it mounts this partition | what it does at its first boot |
//! | --- | --- | --- | --- |
//! | Raspberry Pi OS bullseye | `issue.txt` of pi-gen; no `user-data`; `config.txt` without `auto_initramfs=1` | `/boot` | runs what `systemd.run=` in `cmdline.txt` names |
//! | Raspberry Pi OS bookworm | `issue.txt` of pi-gen; no `user-data`; `auto_initramfs=1` | `/boot/firmware` | the same |
//! | Raspberry Pi OS trixie | `issue.txt` of pi-gen; `user-data` and `meta-data` | `/boot/firmware` | cloud-init |
//! | Debian for the Pi (raspi.debian.net) | `sysconf.txt` | `/boot/firmware` | reads `sysconf.txt`; `systemd.run=` works as on any systemd |
//! | HypriotOS | `os-release` with HYPRIOT in it; `user-data` | `/boot` | cloud-init |
//! | our own (`hardware/image/build`) | `image-of-beehive.txt` | `/boot/firmware` | cloud-init |
//!
//! The boot partition does not say whether an image of Raspberry Pi OS is the 32- or the 64-bit one: both bring all the
//! kernels. Nothing that is written depends on it but the package, and dpkg refuses one of another architecture.

use std::fmt;

/// A known image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Raspberry Pi OS on Debian 11.
    RaspberryPiOsBullseye,
    /// Raspberry Pi OS on Debian 12.
    RaspberryPiOsBookworm,
    /// Raspberry Pi OS on Debian 13.
    RaspberryPiOsTrixie,
    /// Debian's own images for the Pi.
    DebianRaspi,
    /// HypriotOS.
    HypriotOs,
    /// What `hardware/image/build` makes of Debian's packages.
    Own,
}

/// The file in the boot partition of our own image that says so.
pub const OWN_MARK: &str = "image-of-beehive.txt";

/// What runs our script at the first boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBoot {
    /// systemd, because the kernel's command line names the script.
    SystemdRun,
    /// cloud-init, because `user-data` names it; at each boot, until it has ended well.
    CloudInit,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RaspberryPiOsBullseye,
        Self::RaspberryPiOsBookworm,
        Self::RaspberryPiOsTrixie,
        Self::DebianRaspi,
        Self::HypriotOs,
        Self::Own,
    ];

    /// A stable word for scripts.
    pub fn code(self) -> &'static str {
        match self {
            Self::RaspberryPiOsBullseye => "raspberry-pi-os-bullseye",
            Self::RaspberryPiOsBookworm => "raspberry-pi-os-bookworm",
            Self::RaspberryPiOsTrixie => "raspberry-pi-os-trixie",
            Self::DebianRaspi => "debian-raspi",
            Self::HypriotOs => "hypriotos",
            Self::Own => "beehive",
        }
    }

    /// Where the running system mounts the boot partition.
    pub fn mounted_at(self) -> &'static str {
        match self {
            Self::RaspberryPiOsBullseye | Self::HypriotOs => "/boot",
            Self::RaspberryPiOsBookworm | Self::RaspberryPiOsTrixie | Self::DebianRaspi | Self::Own => "/boot/firmware",
        }
    }

    /// Why our package cannot be installed there, if it cannot.
    pub fn too_old(self) -> Option<&'static str> {
        match self {
            // 1.12.3 is the last of them, of 2020
            Self::HypriotOs => {
                Some("HypriotOS has systemd 241 (Raspbian 10), and beehive's package and its units want 247")
            }
            Self::RaspberryPiOsBullseye
            | Self::RaspberryPiOsBookworm
            | Self::RaspberryPiOsTrixie
            | Self::DebianRaspi
            | Self::Own => None,
        }
    }

    /// What runs our script.
    pub fn first_boot(self) -> FirstBoot {
        match self {
            Self::RaspberryPiOsBullseye | Self::RaspberryPiOsBookworm | Self::DebianRaspi => FirstBoot::SystemdRun,
            Self::RaspberryPiOsTrixie | Self::HypriotOs | Self::Own => FirstBoot::CloudInit,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RaspberryPiOsBullseye => "Raspberry Pi OS bullseye",
            Self::RaspberryPiOsBookworm => "Raspberry Pi OS bookworm",
            Self::RaspberryPiOsTrixie => "Raspberry Pi OS trixie",
            Self::DebianRaspi => "Debian for the Raspberry Pi",
            Self::HypriotOs => "HypriotOS",
            Self::Own => "an image of beehive's own",
        })
    }
}

/// What of the boot partition tells the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The names in its uppermost folder.
    pub names: Vec<String>,
    /// `config.txt`, if it is there.
    pub config: Option<String>,
    /// `issue.txt`, if it is there.
    pub issue: Option<String>,
    /// `os-release`, if it is there.
    pub os_release: Option<String>,
}

/// Why an image is not worked with: for each known one what was looked for and not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What is in the partition.
    pub names: Vec<String>,
    /// For each known image what is not as it should be.
    pub not: Vec<(Kind, Vec<&'static str>)>,
}

/// How many names of an unknown partition are shown.
const SHOWN: usize = 12;

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("looked for:")?;
        for (kind, why) in &self.not {
            write!(f, "\n  {kind}: {}", why.join("; "))?;
        }
        let shown: Vec<&str> = self.names.iter().take(SHOWN).map(String::as_str).collect();
        let more = if self.names.len() > SHOWN { ", …" } else { "" };
        write!(f, "\nits boot partition has: {}{more}", shown.join(", "))
    }
}

impl Evidence {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|there| there.eq_ignore_ascii_case(name))
    }

    /// What speaks against `kind`.
    fn against(&self, kind: Kind) -> Vec<&'static str> {
        let contains = |text: &Option<String>, word: &str| text.as_ref().is_some_and(|text| text.contains(word));
        let initramfs =
            self.config.as_ref().is_some_and(|text| text.lines().any(|line| line.trim() == "auto_initramfs=1"));
        let pi_gen =
            (contains(&self.issue, "Raspberry Pi reference"), "no issue.txt that says \"Raspberry Pi reference\"");
        let firmware = [(self.has("config.txt"), "no config.txt"), (self.has("cmdline.txt"), "no cmdline.txt")];
        let user_data = (self.has("user-data"), "no user-data");
        let no_user_data = (!self.has("user-data"), "it has user-data");
        let no_sysconf = (!self.has("sysconf.txt"), "it has sysconf.txt");
        let hypriot = contains(&self.os_release, "HYPRIOT");
        let own: Vec<(bool, &'static str)> = match kind {
            Kind::RaspberryPiOsBullseye => {
                vec![pi_gen, no_user_data, no_sysconf, (!initramfs, "config.txt says auto_initramfs=1")]
            }
            Kind::RaspberryPiOsBookworm => {
                vec![pi_gen, no_user_data, no_sysconf, (initramfs, "config.txt does not say auto_initramfs=1")]
            }
            Kind::RaspberryPiOsTrixie => {
                vec![pi_gen, user_data, (self.has("meta-data"), "no meta-data"), no_sysconf]
            }
            Kind::DebianRaspi => {
                vec![
                    (self.has("sysconf.txt"), "no sysconf.txt"),
                    (self.issue.is_none(), "it has issue.txt"),
                    no_user_data,
                ]
            }
            Kind::HypriotOs => vec![
                (hypriot, "no os-release that says HYPRIOT"),
                user_data,
                (self.issue.is_none(), "it has issue.txt"),
                no_sysconf,
            ],
            Kind::Own => vec![
                (self.has(OWN_MARK), "no image-of-beehive.txt"),
                (self.issue.is_none(), "it has issue.txt"),
                (!hypriot, "os-release says HYPRIOT"),
                no_sysconf,
            ],
        };
        firmware.into_iter().chain(own).filter(|(holds, _)| !holds).map(|(_, why)| why).collect()
    }

    /// Which image it is. The rules exclude each other.
    ///
    /// # Errors
    /// Says what was looked for.
    pub fn kind(&self) -> Result<Kind, Unknown> {
        let not: Vec<(Kind, Vec<&'static str>)> =
            Kind::ALL.into_iter().map(|kind| (kind, self.against(kind))).collect();
        match not.iter().find(|(_, why)| why.is_empty()) {
            Some((kind, _)) => Ok(*kind),
            None => Err(Unknown { names: self.names.clone(), not }),
        }
    }
}
