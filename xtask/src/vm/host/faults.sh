# What a service manager and a host do to the agent while clients capture. Part of trials.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2086 # names are those of trials.sh, and have no spaces in them

main_process() { systemctl show --value --property MainPID capwarden.service; }

# Whether the agent is there again, as another process than it was.
is_anew() {
    systemctl is-active capwarden.service
    [ "$(main_process)" != "$1" ]
}

# The last record of a kind, of this agent where one is named.
last_record() { grep "\"kind\":\"$1\"" /var/log/capwarden/audit.jsonl | grep "\"agent\":\"${2:-}" | tail -n 1; }

# What a record says of a name: a word or a number, the first of that name.
of() { grep --only-matching "\"$1\":\"\?[^\",}]*" | head -n 1 | sed "s/^\"$1\":\"\?//"; }

# systemd's own measure of the units as they run, which drop-ins of a distribution count in.
service_is_confined() {
    local unit most exposure
    systemctl start capwarden-server@capwarden-server.service
    while read -r unit most; do
        exposure=$(systemd-analyze security --no-pager "$unit" | sed -n 's/.*Overall exposure level for .*: \([0-9.]*\) .*/\1/p')
        echo "$unit: $exposure, at most $most"
        [ "${exposure/./}" -le "${most/./}" ]
    done <<'UNITS'
capwarden.service 4.0
capwarden-cgroup.service 2.0
capwarden-server@capwarden-server.service 2.0
UNITS
}

restart_ends_captures_whole() {
    local before
    begin_capture
    before=$(main_process)
    send 3
    systemctl restart capwarden.service
    is_anew "$before"
    wait_for 30 ends tcpdump
    end_capture
    [ "$(packets $captured)" = 3 ]
    [ "$(last_record session-ended | of reason)" = client-closed ] ||
        [ "$(last_record session-ended | of reason)" = revoked ]
    [ "$(last_record session-ended | of packets)" = 3 ]
    [ -n "$(last_record agent-stopped "$(last_record session-ended | of agent)")" ]
    capwarden audit verify
    service_governs_a_capture
}

# Of an agent that has gone without a word: its capture gets what it was granted and no more, and nobody without a
# guard has a capture socket.
capture_stays_capped() {
    local packets
    send 20
    sleep 3
    tcpdump --count -r $captured || true
    packets=$(tcpdump --count -r $captured 2>/dev/null | of_packets)
    [ "$packets" -ge 2 ]
    [ "$packets" -le 5 ]
    pkill -x tcpdump || true
    end_capture
    capwarden audit verify
    service_governs_a_capture
}

of_packets() { sed -n 's/ packets\?$//p'; }

killed_daemon_leaves_captures_capped() {
    local before
    begin_capture
    before=$(main_process)
    send 2
    systemctl kill --signal=KILL --kill-whom=main capwarden.service
    wait_for 30 is_anew "$before"
    capture_stays_capped
}

# Whoever is stopped feeds no watchdog.
stuck_daemon_is_started_anew() {
    local before from
    begin_capture
    before=$(main_process)
    from=$(uptime)
    kill -STOP "$before"
    send 2
    wait_for 40 is_anew "$before"
    echo "anew after $(($(uptime) - from)) hundredths of a second"
    journalctl --unit capwarden.service --lines 40 --no-pager
    [ "$(journalctl --unit capwarden.service --grep 'Watchdog timeout' --output cat | wc -l)" = 1 ]
    capture_stays_capped
}

# Hundredths of a second that the host is up, which no step of the clock changes.
uptime() {
    local up
    read -r up _ </proc/uptime
    echo "${up/./}"
}

# Sets the wall's clock so many seconds on, or back.
step() { date --set "@$(($(date +%s) + $1))"; }

# A capture over a step of the clock: the packets that it has say when they were sent, by a clock that has none.
capture_over_a_step() {
    local file=/var/tmp/stepped.pcap from running agent
    install -o nobody /dev/null $file
    from=$(uptime)
    capwarden exec --interface lo --filter 'udp port 9' --seconds 15 -- \
        tcpdump --immediate-mode -U -ni lo -w $file >/dev/null 2>$here/said &
    wait_for 30 pidof tcpdump
    running=$(uptime)
    sleep 2
    step "$1"
    while pidof tcpdump >/dev/null && [ "$(uptime)" -lt $((from + 6000)) ]; do
        echo "sent at $(uptime)." >/dev/udp/127.0.0.1/9
    done
    wait $! || true
    cat $here/said
    tcpdump -A -r $file 2>/dev/null | sed -n 's/.*sent at \([0-9]*\)\..*/\1/p' >$here/sent
    echo "opened between $from and $running; sent from $(head -n 1 $here/sent) to $(tail -n 1 $here/sent)"
    # To the last of its 15 seconds, and not beyond.
    [ "$(tail -n 1 $here/sent)" -ge $((from + 1500 - 100)) ]
    [ "$(tail -n 1 $here/sent)" -le $((running + 1500)) ]

    agent=$(last_record session-ended | of agent)
    last_record session-ended "$agent"
    [ "$(last_record session-ended "$agent" | of reason)" = deadline ]
    [ "$(last_record session-ended "$agent" | of milliseconds)" -ge 15000 ]
    [ "$(last_record session-ended "$agent" | of milliseconds)" -lt 25000 ]
    [ "$(last_record session-ended "$agent" | of packets)" = "$(packets $file)" ]
    capwarden audit verify
    # The file says when packets came by the clock that was set.
    capwarden audit verify --pcap $file --session s1 --agent "$agent" >$here/said 2>&1 || { tail $here/said; return 1; }
    grep -q 'clock was set' $here/said
    rm $file
}

clock_step_moves_no_deadline() {
    local before
    not systemctl is-active systemd-timesyncd.service chrony.service
    before=$(main_process)
    capture_over_a_step 86400
    capture_over_a_step -86400
    # The agent has seen the same.
    [ "$(main_process)" = "$before" ]
    service_governs_a_capture
}

# Asks for what there is once in two hours.
rare() {
    client rare lo 5 || true
    cat $here/said
    grep -q '"id":2,.*done' $here/said
}

clock_step_opens_no_window_twice() {
    rare
    not rare
    # Who sets the clock on has a window pass; who sets it back has none.
    step 10800
    rare
    not rare
    step -10800
    not rare
    capwarden audit verify
}
