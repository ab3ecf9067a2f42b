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
