#!/bin/bash
# The drill of a server that runs sing-box and gets boxmeter's package, in a virtual machine with systemd: what an
# admin does and what happens to a machine, one phase per boot. Prints as `cargo test` does; `drill:` lines are for
# whoever started the machine.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin HOME=/root
PLACE=/var/lib/drill
CONFIG=/etc/sing-box/config.json
LEDGER=/var/lib/boxmeter/ledger.db
DEADLINE=120

# Words of the kernel's command line: drill.NAME=VALUE.
told() {
    tr ' ' '\n' < /proc/cmdline | sed -n "s/^drill\.$1=//p"
}

passed=0
failed=0

try() {
    local log=$PLACE/log
    local began=$SECONDS
    if ("$1") > "$log" 2>&1; then
        echo "test server::$1 ... ok"
        passed=$((passed + 1))
    else
        echo "test server::$1 ... FAILED"
        tail -n 60 "$log"
        for unit in boxmeter boxmeter-panel sing-box; do
            echo "-- $unit: $(systemctl is-active $unit)"
            journalctl -b -o cat --no-pager -u $unit | tail -n 25
        done
        failed=$((failed + 1))
    fi
    echo "drill: $1 took $((SECONDS - began)) s"
}

must() {
    "$@" || {
        echo "line ${BASH_LINENO[0]}: not so: $*"
        exit 1
    }
}

mustnt() {
    if "$@"; then
        echo "line ${BASH_LINENO[0]}: so: $*"
        exit 1
    fi
}

is() {
    [ "$1" = "$2" ] || {
        echo "line ${BASH_LINENO[0]}: '$1' is not '$2'"
        exit 1
    }
}

# Waits until a command says yes.
until_so() {
    local end=$((SECONDS + DEADLINE))
    until "$@"; do
        if [ $SECONDS -gt $end ]; then
            echo "line ${BASH_LINENO[0]}: never: $*"
            exit 1
        fi
        sleep 0.3
    done
}

ask() {
    boxmeter --json "$@"
}

# A user's downloaded payload.
used() {
    ask usage | jq "[.rows[] | select(.user == \"$1\") | .download_payload_bytes] | add // 0"
}

used_is() {
    local now
    now=$(used "$1")
    echo "used by $1: $now of $2"
    [ "$now" = "$2" ]
}

grows() {
    [ "$(used "$1")" -gt "$2" ]
}

state_of() {
    ask users show "$1" | jq -r .user.state
}

limited() {
    [ "$(state_of "$1")" = limited ]
}

heard() {
    [ "$(ask status | jq .source.connected)" = true ]
}

main_pid() {
    systemctl show -P MainPID boxmeter
}

in_service() {
    until_so systemctl is-active --quiet boxmeter
    until_so systemctl is-active --quiet boxmeter-panel
    until_so heard
}

# Downloads as a user; says how many bytes curl saw, headers included. Fails when it was cut off.
fetch() {
    local user=$1 file=$2
    shift 2
    curl -s -S -o /dev/null --max-time 900 --socks5 127.0.0.1:1080 --proxy-user "$user:secret-of-$user" \
        -w '%{size_download} %{size_header}\n' "$@" "http://127.0.0.1:8000/$file" | awk '{ print $1 + $2 }'
    [ "${PIPESTATUS[0]}" = 0 ]
}

# SOCKS answers with so many bytes before the first of HTTP: method, password, connected.
SOCKS=14

# A download is on the books to the byte.
counts() {
    local before got
    before=$(used "$1")
    got=$(fetch "$1" "$2") || exit 1
    until_so used_is "$1" $((before + got + SOCKS))
}

# Two files, and a stream on one connection that ends when somebody says so.
serve() {
    if ! [ -e /srv/big ]; then
        head -c 2M /dev/urandom > /srv/small
        head -c 12M /dev/urandom > /srv/big
        mkdir -p /srv/cgi-bin
        printf '#!/bin/sh\nprintf "Content-Type: application/octet-stream\\r\\n\\r\\n"\n%s\n' \
            'until [ -e /run/stop-stream ]; do head -c 131072 /dev/zero; sleep 0.1; done' > /srv/cgi-bin/stream
        chmod +x /srv/cgi-bin/stream
    fi
    busybox httpd -p 127.0.0.1:8000 -h /srv
}

balanced() {
    [ "$(ask audit | jq .difference_bytes)" = 0 ]
}

# ---- first boot

installed_it_counts_and_limits_nobody() {
    until_so systemctl is-active --quiet sing-box
    sha256sum $CONFIG > $PLACE/original
    must apt-get install -y -q /packages/first.deb
    for unit in boxmeter boxmeter-panel; do
        must systemctl is-active $unit
        must systemctl is-enabled $unit
    done
    must sha256sum --check --status $PLACE/original
    must fetch alice small
}

two_commands_put_it_in_service() {
    must boxmeter doctor --fix --yes
    boxmeter panel password --generate > $PLACE/password || exit 1
    in_service
    is "$(curl -s -o /dev/null -w '%{http_code}' -L http://127.0.0.1:8790/)" 200
    # The panel has no rights, the agent has those that its unit names.
    panel=$(systemctl show -P MainPID boxmeter-panel)
    is "$(awk '/^CapEff/ { print $2 }' "/proc/$panel/status")" 0000000000000000
    is "$(stat -c %U "/proc/$panel")" boxmeter-panel
    is "$(awk '/^NoNewPrivs/ { print $2 }' "/proc/$(main_pid)/status")" 1
}

each_byte_is_its_users() {
    counts alice small
    counts bob small
    until_so balanced
}

a_quota_cuts_its_user_alone() {
    must boxmeter users set alice --quota 6MiB
    mustnt fetch alice big
    until_so limited alice
    until_so sh -c "! grep -q secret-of-alice $CONFIG"
    is "$(stat -c '%a %U:%G' $CONFIG)" "640 root:sing-box"
    mustnt fetch alice small
    counts bob small
    used alice > $PLACE/alice
    used bob > $PLACE/bob
}

# ---- after a reboot

a_reboot_forgets_nothing() {
    in_service
    until_so used_is alice "$(cat $PLACE/alice)"
    until_so used_is bob "$(cat $PLACE/bob)"
    must limited alice
    mustnt fetch alice small
    counts bob small
    # Its programs are there before sing-box takes a connection.
    ready=$(systemctl show -P ActiveEnterTimestampMonotonic boxmeter)
    began=$(systemctl show -P ExecMainStartTimestampMonotonic sing-box)
    must test "$ready" -le "$began"
    # The shutdown was orderly: nothing is said to be lost.
    mustnt sh -c 'boxmeter --json events | grep -q counts_lost'
}

an_upgrade_misses_no_byte() {
    before=$(used bob)
    was=$(main_pid)
    rm -f /run/stop-stream
    fetch bob cgi-bin/stream > $PLACE/got &
    transfer=$!
    until_so grows bob "$before"
    must dpkg -i /packages/second.deb
    mustnt test "$(main_pid)" = "$was"
    is "$(dpkg-query -W -f '${Version}' boxmeter | cut -d- -f2)" 2
    in_service
    # The connection is the one that was open before, and is still counted.
    must kill -0 $transfer
    until_so grows bob "$(used bob)"
    touch /run/stop-stream
    wait $transfer || exit 1
    until_so used_is bob $((before + $(cat $PLACE/got) + SOCKS))
    must limited alice
    until_so balanced
}

a_stuck_agent_is_started_anew() {
    drop=/run/systemd/system/boxmeter.service.d
    mkdir -p $drop
    printf '[Service]\nWatchdogSec=20s\nEnvironment=BOXMETER_FAULT=watchdog\n' > $drop/drill.conf
    systemctl daemon-reload
    must systemctl restart boxmeter
    stuck=$(main_pid)
    # The next one is well.
    printf '[Service]\nWatchdogSec=20s\n' > $drop/drill.conf
    systemctl daemon-reload
    until_so test "$(systemctl show -P NRestarts boxmeter)" -ge 1 -o "$(main_pid)" != "$stuck"
    mustnt test -d "/proc/$stuck"
    in_service
    must sh -c 'journalctl -b -u boxmeter | grep -q "Watchdog timeout"'
    rm -r $drop
    systemctl daemon-reload
    counts bob small
}

# Traffic and figures until the machine is switched off.
lose_power() {
    rm -f /run/stop-stream
    fetch bob cgi-bin/stream > /dev/null 2>&1 &
    for round in $(seq 1 10000); do
        echo "drill: counted $(used bob)"
        [ "$round" = 5 ] && echo "drill: cut the power"
        sleep 0.2
    done
}

# ---- after the power was cut

a_power_cut_loses_a_tick_at_most() {
    in_service
    had=$(told counted)
    must test "$(used bob)" -ge "$had"
    must limited alice
    must sh -c 'boxmeter --json events | grep -q counts_lost'
    counts bob small
    until_so balanced
}

a_clock_that_jumps_changes_no_sum() {
    for jump in "+2 days" "-2 days" "-3 hours" "+3 hours"; do
        must date -s "$(date -d "$jump" '+%F %T')"
        counts bob small
    done
    must limited alice
    until_so balanced
}

purged_it_was_never_there() {
    BOXMETER_PUT_BACK=yes must apt-get purge -y -q boxmeter
    must sha256sum --check --status $PLACE/original
    is "$(stat -c '%a %U:%G' $CONFIG)" "640 root:sing-box"
    is "$(ls -A /sys/fs/bpf)" ""
    for gone in /var/lib/boxmeter /etc/boxmeter /run/boxmeter /var/backups/boxmeter /usr/bin/boxmeter; do
        mustnt test -e $gone
    done
    mustnt getent passwd boxmeter-panel
    must systemctl is-active sing-box
    until_so fetch alice small
}

# ---- which boot this is

mkdir -p $PLACE
phase=$(cat $PLACE/phase 2> /dev/null || echo install)
echo "drill: phase $phase after $(cut -d. -f1 /proc/uptime) s"
serve
next=
case "$phase" in
    install)
        try installed_it_counts_and_limits_nobody
        try two_commands_put_it_in_service
        try each_byte_is_its_users
        try a_quota_cuts_its_user_alone
        next=reboot
        ;;
    reboot)
        try a_reboot_forgets_nothing
        try an_upgrade_misses_no_byte
        [ -n "$(told long)" ] && try a_stuck_agent_is_started_anew
        next=cut
        ;;
    cut)
        try a_power_cut_loses_a_tick_at_most
        try a_clock_that_jumps_changes_no_sum
        try purged_it_was_never_there
        next=done
        ;;
esac
verdict=ok
[ "$failed" = 0 ] || verdict=FAILED
echo "test result: $verdict. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
if [ "$failed" != 0 ]; then
    next=done
fi
echo $next > $PLACE/phase
sync
case "$next" in
    reboot) systemctl reboot ;;
    cut) lose_power ;;
    done)
        echo "drill: done"
        [ "$failed" = 0 ] && echo "guest ended: well"
        systemctl poweroff
        ;;
esac
