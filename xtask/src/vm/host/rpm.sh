# The .rpm, by rpm itself, on a host that has never had the .deb. Part of trials.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2086 # names are those of trials.sh, and have no spaces in them

# What it needs has other names in Debian's packages.
by_rpm() { rpm --force-debian --nodeps "$@"; }

rpm_installs() {
    for what in files accounts kernel; do $what | sort >$here/$what.before; done
    by_rpm --install $here/1.rpm
    [ "$(rpm --query --queryformat '%{VERSION}-%{RELEASE}' capwarden)" = "$(rpm --query --queryformat '%{VERSION}-%{RELEASE}' --package $here/1.rpm)" ]
    # All files are there, as they were packed.
    rpm --verify --nodeps capwarden
    getent group capwarden
    getent passwd capwarden-server
    capwarden doctor
    # As on other hosts of that kind, whoever installs it starts it; what the presets say is for the next boot.
    systemctl is-enabled capwarden.service capwarden.socket
    not systemctl is-active capwarden.service
}

rpm_serves() {
    systemctl start capwarden.service capwarden.socket capwarden-server@capwarden-server.socket
    service_runs
    server_is_named
    service_governs_a_capture
}

rpm_upgrades() {
    local before lines
    echo '# changed by the administrator' >>/etc/capwarden/agent.yaml
    before=$(sha256sum /etc/capwarden/agent.yaml)
    lines=$(wc -l </var/log/capwarden/audit.jsonl)
    by_rpm --upgrade $here/2.rpm
    [ "$(rpm --query --queryformat '%{RELEASE}' capwarden)" = 2 ]
    [ "$(sha256sum /etc/capwarden/agent.yaml)" = "$before" ]
    systemctl is-active capwarden.service
    systemctl is-enabled capwarden.service capwarden.socket
    [ "$(wc -l </var/log/capwarden/audit.jsonl)" -gt "$lines" ]
    service_governs_a_capture
}

# rpm knows no purge: the record, the state, what was configured and the users stay.
rpm_goes() {
    by_rpm --erase capwarden
    not rpm --query capwarden
    not test -e /usr/bin/capwarden
    not pgrep capwarden
    systemctl list-units --no-legend --all 'capwarden*' | not grep .
    systemctl list-unit-files --no-legend 'capwarden*' | not grep .
    test -s /var/log/capwarden/audit.jsonl
    grep -q administrator /etc/capwarden/agent.yaml.rpmsave
    kernel | sort >$here/kernel.after
    comm -13 $here/kernel.before $here/kernel.after | not grep .
    # Nothing else: what is left is below four directories, and the trials'.
    userdel client 2>/dev/null || true
    rm -rf /etc/capwarden /var/lib/capwarden /var/lib/capwarden-servers /var/log/capwarden /usr/local/bin/trial-server
    userdel capwarden-server
    groupdel capwarden
    for what in files accounts; do
        $what | sort >$here/$what.after
        comm -13 $here/$what.before $here/$what.after | not grep .
    done
}
