// What a program does with the lines and the bus, as small as it can be, for the kit's own checks:
//   probe get LINE up|down      requests the line as an input with that bias, prints its level
//   probe edges LINE N          the same with pull-up; prints "ready", then the next N edges: "rising" or "falling"
//   probe led LINE              drives the line low, prints its level, makes it an input with pull-up, prints its level
//   probe i2c REGISTER [VALUE]  reads or writes a register of the device at 0x51 on bus 1 (hexadecimal, I2C_RDWR)
#include <fcntl.h>
#include <linux/gpio.h>
#include <linux/i2c-dev.h>
#include <linux/i2c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int chip(void)
{
	for (int n = 0; n < 8; n++) {
		struct gpiochip_info info;
		char path[32];
		snprintf(path, sizeof path, "/dev/gpiochip%d", n);
		int fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && !ioctl(fd, GPIO_GET_CHIPINFO_IOCTL, &info) && !strcmp(info.label, "pinctrl-bcm2835"))
			return fd;
	}
	fprintf(stderr, "no chip\n");
	exit(1);
}

static int request(int line, unsigned long long flags)
{
	struct gpio_v2_line_request r = { .offsets = { line }, .num_lines = 1, .consumer = "probe", .config.flags = flags };
	if (ioctl(chip(), GPIO_V2_GET_LINE_IOCTL, &r))
		fail("request");
	return r.fd;
}

static int level(int fd)
{
	struct gpio_v2_line_values v = { .mask = 1 };
	if (ioctl(fd, GPIO_V2_LINE_GET_VALUES_IOCTL, &v))
		fail("get");
	return v.bits & 1;
}

int main(int argc, char **argv)
{
	const unsigned long long up = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_BIAS_PULL_UP;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 4 && !strcmp(argv[1], "get")) {
		unsigned long long down = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN;
		printf("%d\n", level(request(atoi(argv[2]), strcmp(argv[3], "up") ? down : up)));
	} else if (argc == 4 && !strcmp(argv[1], "edges")) {
		int fd = request(atoi(argv[2]), up | GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING);
		printf("ready\n");
		for (int n = atoi(argv[3]); n > 0; n--) {
			struct gpio_v2_line_event e;
			if (read(fd, &e, sizeof e) != sizeof e)
				fail("event");
			printf("%s\n", e.id == GPIO_V2_LINE_EVENT_RISING_EDGE ? "rising" : "falling");
		}
	} else if (argc == 3 && !strcmp(argv[1], "led")) {
		int fd = request(atoi(argv[2]), GPIO_V2_LINE_FLAG_OUTPUT);
		struct gpio_v2_line_config c = { .flags = up };
		printf("%d\n", level(fd));
		if (ioctl(fd, GPIO_V2_LINE_SET_CONFIG_IOCTL, &c))
			fail("config");
		printf("%d\n", level(fd));
	} else if (argc >= 3 && !strcmp(argv[1], "i2c")) {
		unsigned char b[2] = { strtoul(argv[2], NULL, 16), argc > 3 ? strtoul(argv[3], NULL, 16) : 0 };
		struct i2c_msg m[2] = { { 0x51, 0, argc > 3 ? 2 : 1, b }, { 0x51, I2C_M_RD, 1, b + 1 } };
		struct i2c_rdwr_ioctl_data d = { m, argc > 3 ? 1 : 2 };
		if (ioctl(open("/dev/i2c-1", O_RDWR), I2C_RDWR, &d) < 0)
			fail("i2c");
		if (argc == 3)
			printf("%02x\n", b[1]);
	} else {
		return 2;
	}
	return 0;
}
