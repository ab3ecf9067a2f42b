// SPDX-License-Identifier: GPL-2.0
// An I2C bus for tests with one device on it: a register file. The first byte written sets the register pointer, it
// advances with every byte after that. One register behaves: the PoE+ HAT's flags at 0xF4 are read-only but for bit 1
// (over-current, latched), which is cleared by writing 1 to it; `stuck` holds bits of a condition that persists: they are
// set again as often as they are cleared. Takes I2C_RDWR as well as SMBus (the kernel's i2c-stub takes SMBus only).
#include <linux/i2c.h>
#include <linux/module.h>

static int bus = 1;
module_param(bus, int, 0444);
static unsigned short chip_addr = 0x51;
module_param(chip_addr, ushort, 0444);
static int nak; /* 0: answer, n: leave the next n transfers unanswered, -1: leave all unanswered */
module_param(nak, int, 0644);
static unsigned int xfers;
module_param(xfers, uint, 0444);

#define FLAGS 0xf4
#define FLAGS_W1C 0x02

static u8 regs[256], stuck[256], ptr;

static int regs_get(char *buf, const struct kernel_param *kp)
{
	int i, n = 0;

	for (i = 0; i < 256; i++)
		n += sysfs_emit_at(buf, n, "%02x%c", regs[i], i % 16 == 15 ? '\n' : ' ');
	return n;
}

static int regs_set(const char *val, const struct kernel_param *kp) /* "ADDRESS VALUE", hexadecimal */
{
	unsigned int a, v;

	if (sscanf(val, "%x %x", &a, &v) != 2 || a > 255 || v > 255)
		return -EINVAL;
	regs[a] = v;
	return 0;
}

static const struct kernel_param_ops regs_ops = { .get = regs_get, .set = regs_set };
module_param_cb(regs, &regs_ops, NULL, 0644);

static int stuck_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%02x\n", stuck[FLAGS]);
}

static int stuck_set(const char *val, const struct kernel_param *kp) /* "ADDRESS BITS", hexadecimal */
{
	unsigned int a, v;

	if (sscanf(val, "%x %x", &a, &v) != 2 || a > 255 || v > 255)
		return -EINVAL;
	stuck[a] = v;
	regs[a] |= v;
	return 0;
}

static const struct kernel_param_ops stuck_ops = { .get = stuck_get, .set = stuck_set };
module_param_cb(stuck, &stuck_ops, NULL, 0644);

static void regsim_write(u8 a, u8 v)
{
	if (a == FLAGS)
		v = regs[a] & ~(v & FLAGS_W1C);
	regs[a] = v | stuck[a];
}

static int regsim_xfer(struct i2c_adapter *a, struct i2c_msg *m, int n)
{
	int i, j;

	if (nak) {
		if (nak > 0)
			nak--;
		return -EREMOTEIO; /* what i2c-bcm2835 returns when nothing acknowledges */
	}
	for (i = 0; i < n; i++) {
		if (m[i].addr != chip_addr)
			return -EREMOTEIO;
		for (j = 0; j < m[i].len; j++) {
			if (m[i].flags & I2C_M_RD)
				m[i].buf[j] = regs[ptr++];
			else if (j == 0)
				ptr = m[i].buf[0];
			else
				regsim_write(ptr++, m[i].buf[j]);
		}
	}
	xfers++;
	return n;
}

static u32 regsim_func(struct i2c_adapter *a)
{
	return I2C_FUNC_I2C | I2C_FUNC_SMBUS_EMUL;
}

static const struct i2c_algorithm regsim_algo = { .master_xfer = regsim_xfer, .functionality = regsim_func };
static struct i2c_adapter regsim_adapter = { .owner = THIS_MODULE, .algo = &regsim_algo, .name = "i2c-regsim" };

static int __init regsim_init(void)
{
	regsim_adapter.nr = bus;
	return i2c_add_numbered_adapter(&regsim_adapter);
}

static void __exit regsim_exit(void)
{
	i2c_del_adapter(&regsim_adapter);
}
module_init(regsim_init);
module_exit(regsim_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("register-file I2C device for tests");
