// SPDX-License-Identifier: GPL-2.0
// Plays the Pi's own LEDs: ACT and PWR in the kernel's LED class, and the trigger mmc0, which the SD card's driver brings on a
// board. Nothing is lit; what is written can be read back.
#include <linux/leds.h>
#include <linux/module.h>

static void leds_sim_set(struct led_classdev *led, enum led_brightness value)
{
}

static struct led_classdev leds[] = {
	{ .name = "ACT", .max_brightness = 255, .default_trigger = "mmc0", .brightness_set = leds_sim_set },
	{ .name = "PWR", .max_brightness = 255, .default_trigger = "default-on", .brightness_set = leds_sim_set },
};

static struct led_trigger *mmc;

static int __init leds_sim_init(void)
{
	int error;

	led_trigger_register_simple("mmc0", &mmc);
	error = led_classdev_register(NULL, &leds[0]);
	if (error)
		return error;
	return led_classdev_register(NULL, &leds[1]);
}
module_init(leds_sim_init);
MODULE_LICENSE("GPL");
