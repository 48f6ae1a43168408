# shellcheck shell=sh
# $1 is how many versions stay: 0 in a removal.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now @UNITS@ || :
    systemctl stop 'capwarden-server@*' capwarden.slice 2>/dev/null || :
fi
