# shellcheck shell=sh
# $1 is how many versions are installed now: 1 after an installation, 2 in an upgrade.
# @HAND_OVER@

systemd-sysusers capwarden.conf || :
systemd-tmpfiles --create capwarden.conf || :
if [ "$1" -eq 1 ] && [ -x /usr/bin/systemctl ]; then
    # Whether they are enabled is what the distribution's presets say.
    systemctl --no-reload preset @UNITS@ || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 2 ] && ! hand_over; then
        echo "capwarden: the earlier version cannot hand over, and is restarted: captures of its clients end, with whole files"
        systemctl try-restart @RESTART@ 'capwarden-server@*.service' || :
    fi
fi
