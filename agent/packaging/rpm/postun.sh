# shellcheck shell=sh
# $1 is how many versions stay: 1 in an upgrade. The state and the audit log stay after a removal, as users do.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        systemctl try-restart @RESTART@ 'capwarden-server@*.service' || :
    fi
fi
