#!/bin/bash
# What is tried on a machine with systemd. Run at each boot; how far it came is in /trials/at. Each trial is a
# line as Rust's tests print it.
set -u
export LC_ALL=C.UTF-8 TERM=dumb NO_COLOR=1 RUST_BACKTRACE=0 DEBIAN_FRONTEND=noninteractive HOME=/root
here=/trials
passed=0 failed=0
# What is done is on the kernel's console, by the machine's clock: of a machine that is lost, that is all there is.
exec 9>/dev/ttyS0
BASH_XTRACEFD=9 PS4='+ ${EPOCHREALTIME%???} ${FUNCNAME[0]-}: '
set -x
# Trials whose name has no such part are left out, but for those that others stand on.
only=$(cat $here/only 2>/dev/null || true)
BASES=" installs service_runs server_is_named "

# Runs a trial, which is a function: what it prints is shown if it fails.
try() {
    local said status
    if [ -n "$only" ] && [[ $1 != *"$only"* && $BASES != *" $1 "* ]]; then return; fi
    # Not in a condition, where nothing would end it at its first failure.
    said=$(set -e; "$1" 2>&1 </dev/null)
    status=$?
    touch $here/enough # of a trial that has failed, the client waits still
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        echo "test package::$1 ... ok"
    else
        failed=$((failed + 1))
        echo "$said"
        echo "test package::$1 ... FAILED"
    fi
}

begin() { echo "@vm run $1"; }

end() {
    echo
    echo "test result: $passed passed; $failed failed"
    echo "@vm end $((failed > 0 ? 101 : 0))"
    passed=0 failed=0
}

# Asks again and again, for at most so many seconds, until a command succeeds.
wait_for() {
    local most=$1
    shift
    for _ in $(seq $((most * 5))); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    echo "after $most s still not: $*"
    return 1
}

# Fails if a command succeeds: the shell goes on after a plain "! command".
not() {
    if "$@"; then
        echo "but: $*"
        return 1
    fi
}

# Sends datagrams over loopback.
send() {
    local n
    for n in $(seq "$1"); do echo "packet $n" >/dev/udp/127.0.0.1/9; done
}

# How many packets a capture file has; nothing of one that is not whole.
packets() { tcpdump --count -r "$1" 2>/dev/null | sed -n 's/ packets\?$//p'; }

ends() { not pidof "$1"; }

# Every path that a package could have left something at. Tools that make users leave copies of what was before, and
# what Debian does once a day has its own.
files() {
    find / -xdev \( -path '/etc/*-' -o -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path "$here" -o -path /var/lib/dpkg \
        -o -path /var/log/journal -o -path /var/cache -o -path /root -o -path /var/lib/rpm \
        -o -path /var/backups -o -path /var/lib/systemd/timers \
        -o -path '/var/tmp/systemd-private-*-systemd-*' \) -prune -o -print
}

# Names of kernel programs, filters and cgroups, of which a purge must leave no more than there were. What filters
# hang in before Linux 6.6 stays, empty: others may have come to use it since.
kernel() {
    bpftool prog list | sed -n 's/^[0-9]*: \([a-z_]*\)  *name \([^ ]*\).*/\1 \2/p' | sort -u
    tc filter show dev lo egress
    tc qdisc show dev lo | grep -v '^qdisc clsact'
    find /sys/fs/cgroup -type d -name '*capwarden*'
    find /sys/fs/bpf -mindepth 1
}

accounts() { cut -d: -f1 /etc/passwd /etc/group; }

# shellcheck source=faults.sh
. $here/faults.sh
# shellcheck source=rpm.sh
. $here/rpm.sh

### The first boot

installs() {
    dpkg --install $here/1.deb
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' capwarden)" = installed ]
    [ -z "$(dpkg --verify capwarden)" ]
    getent group capwarden
}

documents_are_there() {
    test -s /usr/share/man/man8/capwarden.8.gz
    test -s /usr/share/bash-completion/completions/capwarden
    test -s /usr/share/doc/capwarden/third-party.txt.gz
    capwarden policy check /usr/share/capwarden/policies/sharkmcp.yaml
    capwarden --version
}

host_is_fit() { capwarden doctor; }

service_runs() {
    systemctl is-enabled capwarden.service
    wait_for 20 systemctl is-active capwarden.service
    [ "$(systemctl show --value --property NRestarts capwarden.service)" = 0 ]
    systemctl status --no-pager capwarden.service
    test -S /run/capwarden/agent.sock
}

capture_is_capped() {
    local file=/var/tmp/capped.pcap
    install -o nobody /dev/null $file
    capwarden exec --interface lo --filter 'udp port 9' --packets 5 --seconds 60 -- \
        tcpdump --immediate-mode -U -ni lo -w $file &
    wait_for 30 pidof tcpdump
    sleep 2
    send 20
    wait $! || echo "exec ended with $?"
    [ "$(packets $file)" = 5 ]
}

# A server that a client comes to by the service, as a user who is nobody but a member of the group.
server_is_named() {
    useradd --no-create-home --gid capwarden client
    mkdir -p /etc/capwarden/agent.d
    cat >/etc/capwarden/policy.yaml <<'POLICY'
version: 1
tools:
  capture:
    capture: { from: { interface: interface }, interfaces: [lo], within: "udp port 9", packets: 5, seconds: 120 }
  rare: { limits: [ { max: 1, window: 2 h } ] }
POLICY
    cat >/etc/capwarden/agent.d/10-trial.yaml <<'SERVERS'
servers:
  trial:
    command: [/usr/local/bin/trial-server]
    policy: /etc/capwarden/policy.yaml
    user: capwarden-server
    environment: { CAPTURES: /var/lib/capwarden/captures }
SERVERS
    install $here/server.pl /usr/local/bin/trial-server
    capwarden agent --check
    systemctl reload capwarden.service
    wait_for 20 systemctl is-active capwarden.service
}

# Says to a server what a client says, and calls a tool of it with an interface; stays until it is told that this is
# enough, or for so many seconds.
converse() {
    echo '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"trial","version":"1"}}}'
    sleep 3
    echo '{"jsonrpc":"2.0","method":"notifications/initialized"}'
    echo '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"'"$1"'","arguments":{"interface":"'"$2"'"}}}'
    wait_for "$3" test -e $here/enough >/dev/null || true
}

# A client, as a user who is nobody but a member of the group; what it is answered is in said.
client() {
    rm -f $here/enough
    (cd / && converse "$@" | setpriv --reuid client --regid capwarden --clear-groups capwarden connect trial) \
        >$here/said 2>&1
}

# Begins a capture through the service, which its client stays for.
captured=/var/lib/capwarden/captures/trial.pcap
begin_capture() {
    rm -f $captured $here/said
    client capture lo 200 >/dev/null 2>&1 &
    wait_for 30 pidof tcpdump || { cat $here/said; return 1; }
    sleep 2
}

# Waits for the client to go, and for the capture to end.
end_capture() {
    touch $here/enough
    wait
    cat $here/said
    wait_for 30 ends tcpdump
}

service_governs_a_capture() {
    begin_capture
    send 20
    wait_for 30 ends tcpdump
    end_capture
    grep -q '"id":2,.*started' $here/said
    [ "$(packets $captured)" = 5 ]
    capwarden audit verify
}

service_refuses_another_interface() {
    client capture any 3 || true
    cat $here/said
    not grep -q started $here/said
    grep -q '"id":2' $here/said
}

stranger_may_not_connect() {
    converse capture lo 1 >$here/asked
    not setpriv --reuid 4242 --regid 4242 --clear-groups capwarden connect trial <$here/asked
}

through_the_service() {
    try service_governs_a_capture
    try service_refuses_another_interface
    try stranger_may_not_connect
}

chain_holds() { capwarden audit verify; }

### After a reboot

chain_outlasts_a_reboot() {
    capwarden audit verify
    [ "$(wc -l </var/log/capwarden/audit.jsonl)" -ge "$(cat $here/lines)" ]
}

upgrade_keeps_a_capture() {
    local file=/var/tmp/kept.pcap pid before
    install -o nobody /dev/null $file
    systemd-run --quiet --unit=trial-capture --setenv=HOME=/root \
        capwarden exec --interface lo --filter 'udp port 9' --packets 8 --seconds 120 -- \
        tcpdump --immediate-mode -U -ni lo -w $file
    wait_for 30 pidof tcpdump
    sleep 2
    pid=$(pidof tcpdump)
    send 3
    sed -i '$ a # changed by the administrator' /etc/capwarden/agent.yaml
    before=$(sha256sum /etc/capwarden/agent.yaml)

    dpkg --install $here/2.deb
    [ "$(dpkg-query --show --showformat='${Version}' capwarden)" != "$(dpkg-deb --field $here/1.deb Version)" ]
    [ "$(sha256sum /etc/capwarden/agent.yaml)" = "$before" ]
    [ "$(pidof tcpdump)" = "$pid" ]
    send 20
    wait_for 30 sh -c '! pidof tcpdump'
    [ "$(packets $file)" = 8 ]
    capwarden audit verify
}

# The agent's client and its capture stay with the earlier process, and who comes then is served by the other.
upgrade_keeps_a_clients_capture() {
    local pid before after
    before=$(systemctl show --value --property MainPID capwarden.service)
    begin_capture
    pid=$(pidof tcpdump)
    send 2

    dpkg --install $here/2.deb
    after=$(systemctl show --value --property MainPID capwarden.service)
    [ "$after" != "$before" ]
    [ "$(readlink "/proc/$after/exe")" = /usr/bin/capwarden ]
    [ "$(systemctl show --value --property NRestarts capwarden.service)" = 0 ]
    systemctl is-active capwarden.service
    test -d "/proc/$before"
    [ "$(pidof tcpdump)" = "$pid" ]
    capwarden sessions | grep "replaced by process $after"
    send 20
    wait_for 30 ends tcpdump
    end_capture
    [ "$(packets $captured)" = 5 ]
    # It ends when its client has left, and nobody takes that for an end of the service.
    wait_for 30 not test -d "/proc/$before"
    systemctl is-active capwarden.service
    [ "$(systemctl show --value --property MainPID capwarden.service)" = "$after" ]
    capwarden audit verify
    service_governs_a_capture
}

removal_stops_and_keeps() {
    dpkg --remove capwarden
    not test -e /usr/bin/capwarden
    test -s /var/log/capwarden/audit.jsonl
    test -s /etc/capwarden/agent.yaml
    systemctl list-units --no-legend --state=active 'capwarden*' | not grep .
    not pgrep capwarden
}

comes_again() {
    dpkg --install $here/2.deb
    capwarden audit verify
}

purge_leaves_nothing() {
    # What the trials made themselves.
    userdel client 2>/dev/null || true
    dpkg --purge capwarden
    rm -f /usr/local/bin/trial-server /var/tmp/{capped,kept,stepped}.pcap
    local left=0
    for what in files accounts kernel; do
        $what | sort >$here/$what.after
        # What is gone is no leftover.
        comm -13 $here/$what.before $here/$what.after | not grep . || left=1
    done
    systemctl list-unit-files --no-legend 'capwarden*' | not grep . || left=1
    systemctl list-units --no-legend --all 'capwarden*' | not grep . || left=1
    not dpkg-query --show capwarden || left=1
    return $left
}

# What was there before the package is not its to take.
purge_keeps_what_was_there() {
    groupadd --system capwarden
    dpkg --install $here/2.deb
    getent passwd capwarden-server
    dpkg --purge capwarden
    getent group capwarden
    not getent passwd capwarden-server
    groupdel capwarden
}

systemctl is-system-running --wait >/dev/null
case "$(cat $here/at 2>/dev/null)" in
"")
    # The index that kmod wants, of modules that were put here without it.
    depmod
    # What the first boot and the shell that runs this leave is not the package's.
    for what in files accounts kernel; do $what | sort >$here/$what.before; done
    begin first-boot
    try installs
    try documents_are_there
    try host_is_fit
    try service_runs
    try service_is_confined
    try server_is_named
    through_the_service
    try capture_is_capped
    try restart_ends_captures_whole
    try killed_daemon_leaves_captures_capped
    try stuck_daemon_is_started_anew
    try clock_step_moves_no_deadline
    try clock_step_opens_no_window_twice
    try chain_holds
    wc -l </var/log/capwarden/audit.jsonl >$here/lines
    end
    echo rebooted >$here/at
    echo "@vm done"
    systemctl reboot
    ;;
rebooted)
    begin rebooted
    try service_runs
    through_the_service
    try chain_outlasts_a_reboot
    try upgrade_keeps_a_clients_capture
    try upgrade_keeps_a_capture
    try service_runs
    try service_governs_a_capture
    try removal_stops_and_keeps
    try comes_again
    try purge_leaves_nothing
    try purge_keeps_what_was_there
    end
    begin rpm
    try rpm_installs
    try rpm_serves
    try rpm_upgrades
    try rpm_goes
    end
    echo "@vm done"
    echo 'all done' >$here/at
    systemctl poweroff
    ;;
esac
