//! What outlives the daemon, under a real systemd: the watchdog's bite at a loop that does not come round, the fan, the
//! Pi's LEDs, the power line. `/sys/class/thermal` and `hwmon` are covered with files of the test's, because the emulated board
//! has no sensor; the fan is the register of the device on the I2C bus, the LEDs are in the kernel's class.

use beehive_mqtt::node::{NodeEventKind, PartStatus, PowerPhase};

use crate::daemon::short_press;
use crate::machine::{Card, Hat, Machine, Places};
use crate::wire::Wire;

const ONE: &str = "bee42-crew-01-001";

/// The card's watchdog bites sooner than the shipped one, so that the test is no longer than it must be; and the next daemon
/// waits while the test looks at what the last one left.
const UNIT: (&str, &str) = (
    "etc/systemd/system/beehive.service.d/test.conf",
    "[Service]\nWatchdogSec=8\nExecStartPre=/bin/sh -c 'while test -e /run/hold; do sleep 0.1; done'\n",
);

/// The HAT's bus; thresholds so close together that a test can pass them all.
const REST: &str = "[poe_hat]\nbus = \"/dev/i2c-1\"\npoll_ms = 250\n\n[cluster]\nnodes = []\n\n[button]\n\
                    short_max_ms = 1500\nhold_ms = 2000\nreset_from_ms = 4000\nreset_until_ms = 6000\nstuck_after_ms = 8000\n";

/// Covers two folders of the kernel's with the test's, and starts the daemon anew.
fn cover(machine: &Machine) {
    machine.ctl("system systemctl stop beehive");
    machine.ctl(
        "cd /proc/1/root/run && mkdir -p fake/thermal/thermal_zone0 fake/hwmon/hwmon0 && \
         echo cpu-thermal >fake/thermal/thermal_zone0/type && echo 46000 >fake/thermal/thermal_zone0/temp && \
         echo rpi_volt >fake/hwmon/hwmon0/name && echo 0 >fake/hwmon/hwmon0/in0_lcrit_alarm",
    );
    for class in ["thermal", "hwmon"] {
        machine.ctl(&format!("system mount --bind /run/fake/{class} /sys/class/{class}"));
    }
    machine.ctl("system systemctl start beehive");
}

/// The trigger of an LED, as the kernel shows it.
fn trigger(machine: &Machine, led: &str) -> String {
    machine.ctl(&format!("sed -n 's/.*\\[\\(.*\\)\\].*/\\1/p' /sys/class/leds/{led}/trigger"))
}

fn fan(machine: &Machine) -> String {
    machine.ctl("reg f0")
}

fn set_temperature(machine: &Machine, milli_c: u32) {
    machine.ctl(&format!("echo {milli_c} >/proc/1/root/run/fake/thermal/thermal_zone0/temp"));
}

/// Waits until the fan has this duty, in hexadecimal.
fn wait_fan(machine: &Machine, duty: &str) {
    // each question takes the guest a while; so many are more than a minute
    for _ in 0..600 {
        if fan(machine) == duty {
            return;
        }
    }
    machine.fail(&format!("the fan is at {}, not at {duty}", fan(machine)));
}

#[test]
fn what_outlives_the_daemon() {
    let _place = Places::take(1);
    let wire = Wire::start();
    let configuration = wire.configuration(ONE, "master", REST);
    let card = Card::with_daemon(ONE, &configuration).file(UNIT.0, UNIT.1);
    let machine = Machine::boot(&card, Hat::Drawing(0x0a00));
    machine.wait_up();
    wire.wait_phase(ONE, 0, PowerPhase::Running);
    // no sensor at all: full speed
    wait_fan(&machine, "ff");
    cover(&machine);

    // the curve, with its hysteresis
    wait_fan(&machine, "40");
    for (milli_c, duty) in [(51_000, "80"), (47_000, "40"), (39_000, "20"), (37_000, "00"), (41_000, "20")] {
        set_temperature(&machine, milli_c);
        wait_fan(&machine, duty);
    }
    // within the hysteresis the step stays: the telemetry shows that the temperature was seen
    set_temperature(&machine, 38_500);
    wire.wait_telemetry(ONE, "that temperature", wire.now(), |told| told.processor_millicelsius == Some(38_500));
    assert_eq!(fan(&machine), "20");
    machine.ctl("mv /proc/1/root/run/fake/thermal/thermal_zone0/temp /proc/1/root/run/fake/temp");
    wait_fan(&machine, "ff");
    machine.ctl("mv /proc/1/root/run/fake/temp /proc/1/root/run/fake/thermal/thermal_zone0/temp");
    wait_fan(&machine, "20");

    // under-voltage comes and goes
    let from = wire.wait_telemetry(ONE, "the firmware's word", 0, |told| {
        told.throttling.is_some_and(|told| told.under_voltage == Some(false) && told.throttled.is_none())
    });
    machine.ctl("echo 1 >/proc/1/root/run/fake/hwmon/hwmon0/in0_lcrit_alarm");
    let low = wire.wait_event(ONE, from, NodeEventKind::UnderVoltage, "begins");
    machine.ctl("echo 0 >/proc/1/root/run/fake/hwmon/hwmon0/in0_lcrit_alarm");
    wire.wait_event(ONE, low, NodeEventKind::UnderVoltage, "ends");

    // a press is seen whatever the LED shows: while the SHIM's is lit for half of the time, and PWR plays along
    wire.must(&["node", "identify", ONE]);
    let mut from = wire.now();
    for press in ["0.25", "0.31", "0.27", "0.36", "0.29", "0.33"] {
        from = short_press(&wire, &machine, ONE, press) + 1;
    }
    assert_eq!(trigger(&machine, "PWR"), "none");

    // each threshold of a held button is told as it is passed, over MQTT and on PWR; after the last one it means nothing
    machine.ctl("hold");
    let mut from = wire.wait_event(ONE, from, NodeEventKind::ButtonPressed, "");
    for (threshold, led) in [("hold", "press_hold"), ("reset_from", "press_reset"), ("reset_until", "press_short")] {
        let told = wire.wait_event(ONE, from, NodeEventKind::ButtonThreshold, threshold);
        from = wire.wait_led(ONE, told, led);
        assert_eq!(trigger(&machine, "PWR"), "none", "{threshold}");
    }
    let told = wire.wait_event(ONE, from, NodeEventKind::ButtonThreshold, "stuck");
    machine.ctl("release");
    wire.wait_event(ONE, told, NodeEventKind::ButtonReleased, "");

    // each way to die: the fan at full speed until the next one takes it, the LEDs theirs again, BCM4 high
    // above the first trip point, so that a new daemon's curve begins there too
    set_temperature(&machine, 41_000);
    let daemon = machine.ctl("pidof beehive");
    for (how, gone) in [("STOP", "a loop that stands still"), ("KILL", "killed")] {
        machine.ctl("touch /proc/1/root/run/hold");
        let from = wire.now();
        let pid = machine.ctl("pidof beehive");
        machine.ctl(&format!("kill -{how} {pid}"));
        wait_fan(&machine, "ff");
        // the LEDs come before the fan
        assert_eq!(trigger(&machine, "ACT"), "mmc0", "{gone}");
        assert_eq!(trigger(&machine, "PWR"), "default-on", "{gone}");
        assert_eq!((machine.lows(), machine.ctl("level 4").as_str()), (0, "1"), "{gone}");
        machine.ctl("rm /proc/1/root/run/hold");
        wire.wait_info(ONE, "the next daemon", from, |info| info.button.status == PartStatus::Works);
        assert_ne!(machine.ctl("pidof beehive"), pid);
        wait_fan(&machine, "20");
    }
    assert_ne!(machine.ctl("pidof beehive"), daemon);
    assert!(machine.ctl("system journalctl --no-pager -u beehive").contains("Watchdog timeout"));
    assert_eq!(machine.lows(), 0);
}
