# shellcheck shell=sh
# What was installed in its place has taken over already (post). The state and the audit log stay after a removal, as users do.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
