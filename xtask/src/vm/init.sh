#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a machine: makes it look like a host, runs what /vm/list names, and ends it.
# The kernel speaks on ttyS0; all that is said here, a line that begins with @vm among it, is on ttyS1.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root TERM=dumb NO_COLOR=1 LANG=C.UTF-8
export RUST_BACKTRACE=0 CAPWARDEN_BIN=/usr/bin/capwarden CAPWARDEN_SKIPS=/run/skips

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
hostname machine
ip link set lo up
exec </dev/null >/dev/ttyS1 2>&1

if grep -q vm.shell /proc/cmdline; then
    echo "What would be run is in /vm/list; exit ends the machine."
    setsid sh -c 'exec sh </dev/ttyS1 >/dev/ttyS1 2>&1'
    poweroff -f
fi

echo "@vm up $(uname -r) $(cat /sys/kernel/security/lsm)"
# The layers that must work here: without one, the attack table would call residual what it lets through.
required=$(sed -n 's/.*vm\.require=\([^ ]*\).*/\1/p' /proc/cmdline)
cd /vm || poweroff -f
while read -r name most when command; do
    [ "$when" = always ] || grep -qw "$when" /sys/kernel/security/lsm || continue
    [ "$name" != attacks ] || command="$command --require $required"
    : >"$CAPWARDEN_SKIPS"
    echo "@vm run $name"
    # shellcheck disable=SC2086 # words
    timeout -k 5 "$most" "./$name" $command </dev/null
    printf '\n@vm end %s\n' "$?"
    sed 's/^/@vm skip /' "$CAPWARDEN_SKIPS"
done </vm/list
echo "@vm done"
poweroff -f
