//! The final hook and the units that arm it, under a real systemd, without the daemon: the test writes the feed record.

use crate::machine::{Card, Hat, Machine, Places, SHUTDOWN};

/// Puts a feed record of this moment into the guest's `/run`.
fn write_feed(machine: &Machine, feed: &str) {
    machine.ctl(&format!(
        "read u _ </proc/uptime; printf 'feed={feed}\\nevidence=by hand\\nboottime_ms=%s\\n' ${{u%.*}}000 \
         >/proc/1/root/run/beehive/feed"
    ));
}

fn boot(card: &Card) -> Machine {
    let machine = Machine::boot(card, Hat::Absent);
    machine.wait_up();
    machine
}

/// Mounts the second disk and keeps a file open on it, so that systemd can neither unmount it nor make it read-only.
fn occupy_second_disk(machine: &Machine) {
    machine.ctl("system mount /dev/vdb /mnt");
    machine.ctl("busy /mnt/file");
    while machine.try_ctl("test -e /proc/1/root/mnt/file").is_none() {}
}

#[test]
fn the_cut_comes_after_the_last_write_and_the_release() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-cut").second_disk());
    write_feed(&machine, "shim");
    occupy_second_disk(&machine);
    machine.ctl("hold");
    machine.ctl("system systemctl poweroff");
    machine.wait_console("beehive-cut: /mnt is still writable: remounting everything read-only", SHUTDOWN);
    machine.wait_console("beehive-cut: the button is held", SHUTDOWN);
    // the outside world still answers, in the last phase of all
    assert_eq!(machine.lows(), 0, "BCM4 went low while the button was held");
    assert_eq!(machine.ctl("level 4"), "1");
    machine.ctl("release");
    machine.wait_off(SHUTDOWN).was_cut().said("beehive-cut: cutting the power");
}

#[test]
fn a_disk_that_stays_writable_forbids_the_cut() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-frozen").second_disk());
    write_feed(&machine, "shim");
    occupy_second_disk(&machine);
    // the kernel makes no frozen file system read-only, not even in an emergency
    machine.ctl("system fsfreeze --freeze /mnt");
    machine.ctl("system systemctl poweroff");
    let off = machine.wait_off(SHUTDOWN);
    off.stayed_high().said("the file system at /mnt is still writable");
}

#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_poe_fed_pi_is_not_cut() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-poe"));
    write_feed(&machine, "poe");
    machine.ctl("system systemctl poweroff");
    machine.wait_off(SHUTDOWN).was_not_cut().said("halted, 5 V still present");
}

#[test]
fn only_a_power_off_arms_the_cut() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-reboot"));
    write_feed(&machine, "shim");
    // nobody arms it by hand
    assert_eq!(machine.try_ctl("system systemctl start beehive-poweroff-flag.service"), None);
    assert_eq!(machine.try_ctl("test -e /proc/1/root/run/beehive/poweroff"), None);
    // a flag that lies there nevertheless does not turn a reboot into a cut
    machine.ctl("cat /proc/sys/kernel/random/boot_id >/proc/1/root/run/beehive/poweroff");
    machine.ctl("system systemctl reboot");
    machine.wait_off(SHUTDOWN).was_not_cut().said("this is not a power-off");
}

/// A loop device on a file of the card and an overlay whose upper layer is on the card, both with a file that a process
/// which systemd spares holds open for writing: neither can be unmounted, and nothing of them is writable at the cut.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_loop_mount_and_an_overlay_are_made_read_only_before_the_cut() {
    let _place = Places::take(1);
    let card = Card::with_hook_only("hook-layers")
        .module("drivers/block/loop.ko")
        .module("fs/overlayfs/overlay.ko")
        .image_within("loop.img");
    let machine = boot(&card);
    write_feed(&machine, "shim");
    machine.ctl("system insmod /loop.ko");
    machine.ctl("system insmod /overlay.ko");
    machine.ctl("system mkdir /lower /upper /work /merged");
    machine.ctl("system mount -o loop /loop.img /mnt");
    machine.ctl("system mount -t overlay overlay -o lowerdir=/lower,upperdir=/upper,workdir=/work /merged");
    for file in ["/mnt/file", "/merged/file"] {
        machine.ctl(&format!("busy {file}"));
        while machine.try_ctl(&format!("test -e /proc/1/root{file}")).is_none() {}
    }
    machine.ctl("system systemctl poweroff");
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut().holds_clean_image("/loop.img").said("is still writable: remounting everything read-only");
}

/// A flag of another boot arms nothing: somebody copied `/run`, or wrote it by hand.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_flag_of_another_boot_cuts_nothing() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-stale"));
    write_feed(&machine, "shim");
    machine.ctl("system systemctl mask --runtime --quiet beehive-poweroff-flag.service");
    machine.ctl("echo 00000000-0000-4000-8000-000000000000 >/proc/1/root/run/beehive/poweroff");
    machine.ctl("system systemctl poweroff");
    machine.wait_off(SHUTDOWN).was_not_cut().said("is not of this boot");
}

/// Runs a command in the guest as the daemon's user.
fn as_daemon(machine: &Machine, command: &str) {
    machine.ctl(&format!("system /usr/bin/setpriv --reuid=beehive --regid=beehive --clear-groups sh -c '{command}'"));
}

/// A daemon that somebody took over writes a flag of this boot, to have the power cut by `poweroff -f`, which arms nothing.
#[test]
fn a_flag_that_the_daemon_wrote_cuts_nothing() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-forged"));
    write_feed(&machine, "shim");
    as_daemon(&machine, "cat /proc/sys/kernel/random/boot_id >/run/beehive/poweroff");
    machine.ctl("system systemctl mask --runtime --quiet beehive-poweroff-flag.service");
    machine.ctl("system systemctl poweroff");
    machine.wait_off(SHUTDOWN).was_not_cut().said("/run/beehive/poweroff is not believed: it is not root's");
}

/// What lies in the place of the flag is taken away by the unit that writes it: a daemon cannot keep the power from being cut.
/// Nor does it lead root elsewhere by a link.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_link_in_the_place_of_the_flag_leads_nowhere() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-link"));
    write_feed(&machine, "shim");
    as_daemon(&machine, "ln -s /etc/machine-id /run/beehive/poweroff");
    machine.ctl("system systemctl poweroff");
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut().holds("/etc/machine-id", 33);
}

/// A folder in which everybody may write says nothing, whoever wrote there.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_folder_of_everybodys_is_not_believed() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-open"));
    write_feed(&machine, "shim");
    machine.ctl("chmod 1777 /proc/1/root/run/beehive");
    machine.ctl("system systemctl poweroff");
    machine.wait_off(SHUTDOWN).was_not_cut().said("everybody may write there");
}

/// A button that is never let go keeps the SHIM's switch closed: after 75 s the hook gives up, and says so. And a feed
/// record that is too old says nothing.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_button_that_stays_down_is_not_waited_for_for_ever() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-held"));
    write_feed(&machine, "shim");
    machine.ctl("hold");
    machine.ctl("system systemctl poweroff");
    machine.wait_console("beehive-cut: the button is held", SHUTDOWN);
    let waited = std::time::Instant::now();
    let off = machine.wait_off(2 * SHUTDOWN);
    off.was_not_cut().said("a held button defeats the cut");
    // it waited for most of a minute at least, by any clock
    assert!(waited.elapsed() > std::time::Duration::from_secs(45), "it gave up after {:?}", waited.elapsed());
}

/// Without a record of the feed, or with one that is too old, nobody knows whether the cut would work.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_feed_that_nobody_vouches_for_is_not_cut() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-feed"));
    // of the instant of the boot; it is fresh for ten minutes, so the clock of the record is put into the future
    machine.ctl("printf 'feed=shim\\nevidence=by hand\\nboottime_ms=999999999\\n' >/proc/1/root/run/beehive/feed");
    machine.ctl("system systemctl poweroff");
    machine.wait_off(SHUTDOWN).was_not_cut().said("the power stays on");
}

/// A Pi that is fed past the SHIM although its configuration says `shim`: BCM4 goes low, the power stays. The hook says
/// so, and the Pi halts with everything unmounted; it does not start again by itself.
#[test]
fn a_cut_that_fails_is_reported_and_the_pi_stays_halted() {
    let _place = Places::take(1);
    let machine = boot(&Card::with_hook_only("hook-past"));
    write_feed(&machine, "shim");
    machine.ctl("cut 0");
    machine.ctl("system systemctl poweroff");
    let off = machine.wait_off(SHUTDOWN);
    off.went_low_in_vain().said("the cut failed; halted, 5 V still present").said("reboot: Power down");
}
