#!/bin/sh
# First boot of node @NODE@, written by `beehive image prepare`. Root runs it: because systemd.run= says so, until it has come to its
# end; or from cloud-init at the end of each boot, until everything has ended well. A power cut in the middle lets it run again, and
# every step can be done again. What it did is in the file LOG names.
set -u
BOOT='@BOOT@'
NODE='@NODE@'
LOGIN='@LOGIN@'
KEYS='@KEYS_DIR@'
FIRST_BOOT='@FIRST_BOOT@'
REGENERATED='@REGENERATED@'
MARK='@MARK@'
ROOT=${BEEHIVE_FIRST_BOOT_ROOT:-}
FROM=$ROOT$BOOT/beehive-
STATE=$ROOT/var/lib/beehive-first-boot
LOG=$ROOT/var/log/beehive-first-boot.log
failed=0
ended=no

left() {
    [ "$(cat "$STATE/$1" 2>/dev/null)" = "$MARK" ]
}

# cloud-init asks at each boot. Nothing is left to do for this card, and no secret waits in the boot partition.
if [ "$FIRST_BOOT" = cloud-init ] && left everything; then
    waits=no
    for file in "$FROM"key-* "${FROM}enrolment.toml"; do
        [ ! -f "$file" ] || waits=yes
    done
    [ "$waits" = yes ] || exit 0
fi

exec >>"$LOG" 2>&1
echo "beehive: first boot of $NODE"

try() {
    if "$1"; then echo "done: $1"; else echo "FAILED: $1"; failed=1; return 1; fi
}

# What a step leaves when it ended well: a file with this card's mark. The step's own work is on the disk before that.
leave() {
    sync
    if install -d -m 755 "$STATE" && echo "$MARK" >"$STATE/$1.new" && mv "$STATE/$1.new" "$STATE/$1"; then return 0; fi
    echo "FAILED: the mark of $1"
    failed=1
}

# A step that ended well on this card is not done again: what somebody has changed since stays.
once() {
    if left "$1"; then return; fi
    if try "$1"; then leave "$1"; fi
}

host_name() {
    echo "$NODE" >"$ROOT/etc/hostname" || return
    if grep -q '^127\.0\.1\.1[[:space:]]' "$ROOT/etc/hosts" 2>/dev/null; then
        sed -i "s/^127\.0\.1\.1[[:space:]].*/127.0.1.1\t$NODE/" "$ROOT/etc/hosts" || return
    else
        printf '127.0.1.1\t%s\n' "$NODE" >>"$ROOT/etc/hosts" || return
    fi
    [ -n "$ROOT" ] || hostname "$NODE"
}

# Raspberry Pi OS asks at the screen for a first user until its own tool has been told one. '*' is no password's hash.
login() {
    own=/usr/lib/userconf-pi/userconf
    if [ -x "$own" ] && { ! id "$LOGIN" || [ "$(id -u "$LOGIN")" = 1000 ]; }; then
        "$own" "$LOGIN" '*' || return
    fi
    id "$LOGIN" || useradd -m -s /bin/bash "$LOGIN" || return
    for group in sudo adm gpio i2c; do
        getent group "$group" >/dev/null && usermod -aG "$group" "$LOGIN"
    done
    install -d -m 755 /etc/sudoers.d || return
    echo "$LOGIN ALL=(ALL) NOPASSWD:ALL" >"/etc/sudoers.d/050-beehive-login" || return
    chmod 440 /etc/sudoers.d/050-beehive-login
}

ssh_keys() {
    home=$(getent passwd "$LOGIN" | cut -d: -f6)
    [ -n "$home" ] || return
    install -d -m 700 -o "$LOGIN" -g "$(id -gn "$LOGIN")" "$home/.ssh" || return
    touch "$home/.ssh/authorized_keys" || return
    while IFS= read -r key; do
        [ -z "$key" ] || grep -qxF -- "$key" "$home/.ssh/authorized_keys" ||
            printf '%s\n' "$key" >>"$home/.ssh/authorized_keys" || return
    done <"${FROM}authorized-keys"
    chmod 600 "$home/.ssh/authorized_keys" || return
    chown "$LOGIN:" "$home/.ssh/authorized_keys"
}

configuration() {
    [ -f "${FROM}node.toml" ] || return 0
    install -d -m 755 "$ROOT/etc/beehive" || return
    install -m 644 "${FROM}node.toml" "$ROOT/etc/beehive/beehive.toml"
}

# The keys leave the boot partition, which everybody may read, once they are where they belong. Their bytes stay on the
# flash: nothing that a file system does removes them from there.
keys() {
    for file in "$FROM"key-*; do
        [ -f "$file" ] || continue
        (umask 077 && mkdir -p "$ROOT$KEYS") || return
        chmod 700 "$ROOT$KEYS" || return
        name=${file##*/beehive-key-}
        install -m 600 "$file" "$ROOT$KEYS/$name" || return
        cmp -s "$file" "$ROOT$KEYS/$name" || return
    done
    sync
    rm -f "$FROM"key-*
}

# A secret that lets this Pi have its own keys certified, once. It leaves the boot partition as keys do.
enrolment() {
    [ -f "${FROM}enrolment.toml" ] || return 0
    install -d -m 755 "$ROOT/etc/beehive" || return
    install -m 600 "${FROM}enrolment.toml" "$ROOT/etc/beehive/enrolment.toml" || return
    cmp -s "${FROM}enrolment.toml" "$ROOT/etc/beehive/enrolment.toml" || return
    sync
    rm -f "${FROM}enrolment.toml"
}

# Two cards from one image must not be one machine. A stock image has no machine-id, and systemd has just made one (and says
# so); an image that came with one gives every card the same. What runs already has the old one until the next boot.
machine_id() {
    [ ! -e "$ROOT/run/systemd/first-boot" ] || return 0
    tr -d - </proc/sys/kernel/random/uuid >"$ROOT/etc/machine-id.new" || return
    mv "$ROOT/etc/machine-id.new" "$ROOT/etc/machine-id" || return
    bus=$ROOT/var/lib/dbus/machine-id
    [ ! -f "$bus" ] || [ -L "$bus" ] || cp "$ROOT/etc/machine-id" "$bus"
}

# Host keys that came with the image would be every card's. No time is compared: a Pi without a clock starts in the past, and then
# the image's files are newer than this boot. The new ones are made beside the old ones, so that at no moment there are none.
host_keys() {
    there=$ROOT/etc/ssh
    new=$there/beehive.new
    [ -d "$there" ] || return 0
    kinds=
    for kind in rsa ecdsa ed25519; do
        [ ! -f "$there/ssh_host_${kind}_key" ] || kinds="$kinds $kind"
    done
    if [ -z "$kinds" ]; then
        # an image without any makes them itself; but cloud-init does so once, and a power cut in it would leave none for ever
        [ "$FIRST_BOOT" = cloud-init ] && [ -x "$ROOT/usr/sbin/sshd" ] || return 0
        kinds='ecdsa ed25519'
    fi
    rm -rf "$new"
    mkdir -m 700 "$new" || return
    for kind in $kinds; do
        ssh-keygen -q -t "$kind" -N '' -C "root@$NODE" -f "$new/ssh_host_${kind}_key" || return
    done
    sync
    mv -f "$new"/ssh_host_* "$there/" || return
    # a kind that is not made any more
    rm -f "$there"/ssh_host_dsa_key "$there"/ssh_host_dsa_key.pub
    rm -rf "$new"
    [ -z "$ROOT" ] || return 0
    # without keys it had failed
    if systemctl is-failed --quiet ssh.service; then set -- restart; else set -- try-restart; fi
    systemctl --no-block "$1" ssh.service
}

# The configuration that was just put there is the newer one.
package() {
    [ -f "${FROM}package.deb" ] || return 0
    DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "${FROM}package.deb"
}

# Where a package writes config.txt and cmdline.txt anew with each kernel, what was edited there has to stand in its sources.
regenerated() {
    [ "$REGENERATED" = yes ] || return 0
    extra=$ROOT/etc/default/raspi-extra-cmdline
    # shellcheck disable=SC2043 # one word until it is filled in
    for word in @WORDS@; do
        grep -qwF -- "$word" "$extra" 2>/dev/null || printf '%s ' "$word" >>"$extra" || return
    done
    [ -f "${FROM}config-lines.txt" ] || return 0
    custom=$ROOT/etc/default/raspi-firmware-custom
    while IFS= read -r line; do
        grep -qxF -- "$line" "$custom" 2>/dev/null || printf '%s\n' "$line" >>"$custom" || return
    done <"${FROM}config-lines.txt"
}

# Where beehive came with the image its units were asked to start before this script brought what they wait for, so they stayed
# down; and the daemon may run with a configuration that it found.
services() {
    [ "$FIRST_BOOT" = cloud-init ] || return 0
    systemctl cat beehive.service >/dev/null 2>&1 || return 0
    systemctl --no-block restart beehive.service || return
    # older packages have none
    ! systemctl cat beehive-enrol.service >/dev/null 2>&1 || systemctl --no-block restart beehive-enrol.service
}

# Whatever happened, the next boot is an ordinary one: a script that fails must not keep the Pi from coming up.
finish() {
    if [ "$FIRST_BOOT" = systemd-run ]; then
        # shellcheck disable=SC2043
        for word in @RUN_WORDS@; do
            sed -i "1s| $word||" "$ROOT$BOOT/cmdline.txt"
        done
        rm -f "$ROOT$BOOT/firstrun.sh"
    fi
    sync
    if [ "$failed" = 0 ] && [ "$ended" = yes ]; then
        echo "beehive: done"
        # the line is on the disk before the mark: our own image switches cloud-init off when it finds the line
        [ "$FIRST_BOOT" = systemd-run ] || leave everything
        sync
    elif [ "$FIRST_BOOT" = cloud-init ]; then
        echo "beehive: NOT everything is done; the next boot goes on with it"
    else
        echo "beehive: NOT everything is done"
    fi
    exit 0
}
trap finish EXIT

once host_name
[ -n "$ROOT" ] || once login
[ -n "$ROOT" ] || once ssh_keys
once configuration
try keys
try enrolment
once machine_id
once host_keys
[ -n "$ROOT" ] || once package
once regenerated
[ -n "$ROOT" ] || try services
ended=yes
