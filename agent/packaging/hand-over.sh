# Part of the scripts that packages run when they have been installed: see xtask/src/package/scripts.rs.
# shellcheck shell=sh

# Has the running agent hand over to the version that is installed now: it starts that beside itself, and keeps the
# clients that it has, with their captures, until they leave. Fails if it is a version that cannot.
hand_over() {
    before=$(systemctl show --value --property=MainPID capwarden.service)
    if [ "${before:-0}" = 0 ]; then return 0; fi
    systemctl reload capwarden.service || return 1
    looked=0 begun=
    while [ $looked -lt 250 ]; do
        now=$(systemctl show --value --property=MainPID capwarden.service)
        if [ "$now" != "$before" ]; then
            echo "capwarden: process $now serves from now on. What the earlier one, $before, says of that:"
            journalctl --quiet --unit=capwarden.service --output=cat --lines=5 "_PID=$before" || true
            return 0
        fi
        case "$(systemctl show --value --property=StatusText capwarden.service)" in
        'Handing over'*) begun=yes ;;
        *'not replaced: '*)
            # It may be of the time before.
            if [ -n "$begun" ] || [ $looked -ge 25 ]; then
                echo "capwarden: the new version does not serve, and the earlier one goes on:" >&2
                systemctl show --value --property=StatusText capwarden.service >&2
                echo "Next: journalctl -u capwarden; when it is put right, systemctl reload capwarden" >&2
                return 0
            fi
            ;;
        *) if [ -z "$begun" ] && [ $looked -ge 25 ]; then return 1; fi ;;
        esac
        sleep 0.2
        looked=$((looked + 1))
    done
    echo "capwarden: the earlier version has not handed over yet; systemctl status capwarden shows what it does" >&2
}
