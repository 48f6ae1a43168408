# shellcheck shell=sh
# $1 is how many versions are installed now: 1 after an installation, 2 in an upgrade.
systemd-sysusers capwarden.conf || :
systemd-tmpfiles --create capwarden.conf || :
if [ "$1" -eq 1 ] && [ -x /usr/bin/systemctl ]; then
    # Whether they are enabled is what the distribution's presets say.
    systemctl --no-reload preset @UNITS@ || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
