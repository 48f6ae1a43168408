#!/bin/busybox sh
# shellcheck shell=dash
# Before the disk: puts what is tried onto it, and goes on from there.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t securityfs securityfs /sys/kernel/security
echo "@vm up $(uname -r) $(cat /sys/kernel/security/lsm)" >/dev/ttyS1
umount /sys/kernel/security

mkdir -p /disk
mount -t ext4 -o rw /dev/nvme0n1 /disk || { echo "@vm done" >/dev/ttyS1; poweroff -f; }
if ! [ -d /disk/trials ]; then
    cp -a /trials /disk/trials
    mkdir -p /disk/lib/modules
    cp -a /lib/modules/* /disk/lib/modules/
    cp /trials/trials.service /disk/etc/systemd/system/
    mkdir -p /disk/etc/systemd/system/multi-user.target.wants
    ln -s ../trials.service /disk/etc/systemd/system/multi-user.target.wants/
    echo machine >/disk/etc/hostname
    : >/disk/etc/machine-id
fi
umount /proc /sys
mount --move /dev /disk/dev
exec switch_root /disk /sbin/init
