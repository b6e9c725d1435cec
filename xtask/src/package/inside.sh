#!/bin/bash
# Tries boxmeter's package in a clean Debian root where no service runs. Prints as `cargo test` does.
export DEBIAN_FRONTEND=noninteractive
# What is printed whether a test passes or not.
exec 3>&1
passed=0
failed=0
STATE=/var/lib/boxmeter
CONFIG=/etc/boxmeter/config.toml

# Runs a test; what it says is shown when it fails.
try() {
    local log=/tmp/log
    if ("$1") > "$log" 2>&1; then
        echo "test package::$1 ... ok"
        passed=$((passed + 1))
    else
        echo "test package::$1 ... FAILED"
        tail -n 40 "$log"
        failed=$((failed + 1))
    fi
}

# Fails with the line that did not hold.
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
        echo "line ${BASH_LINENO[0]}: $1 is not $2"
        exit 1
    }
}

version() {
    dpkg-query -W -f '${db:Status-Status} ${Version}' boxmeter
}

# Everything of the file system that is not the package manager's own or a cache.
listing() {
    find / -xdev \( -path /proc -o -path /run -o -path /packages -o -path /tmp -o -path /var/lib/dpkg -o -path /var/lib/apt \
        -o -path /var/cache -o -path /var/log \) -prune -o -printf '%p %y %m %u:%g %l\n' | sort
}

# The header of a ledger whose schema is $2.
ledger_of() {
    mkdir -p "$(dirname "$1")"
    {
        printf 'SQLite format 3\0'
        head -c 44 /dev/zero
        printf '\0\0\3\347'
        head -c 4032 /dev/zero
    } > "$1"
}

install_brings_everything() {
    listing > /tmp/before
    must apt-get install -y -q /packages/first.deb
    is "$(version | cut -d- -f2)" 1
    must boxmeter --version
    is "$(stat -c '%a %U:%G' "$CONFIG")" "640 root:boxmeter-panel"
    must getent passwd boxmeter-panel
    must getent group boxmeter
    is "$(getent passwd boxmeter-panel | cut -d: -f7)" /usr/sbin/nologin
    for unit in boxmeter boxmeter-panel; do
        must test -L "/etc/systemd/system/multi-user.target.wants/$unit.service"
        must systemd-analyze verify --man=no "/lib/systemd/system/$unit.service"
    done
    zcat /usr/share/man/man1/boxmeter.1.gz | grep -q SYNOPSIS || exit 1
    must test -s /usr/share/man/man1/boxmeter-users.1.gz
    must bash -c '. /usr/share/bash-completion/completions/boxmeter && complete -p boxmeter'
    grep -q '#compdef boxmeter' /usr/share/zsh/vendor-completions/_boxmeter || exit 1
    must test -s /usr/share/fish/vendor_completions.d/boxmeter.fish
    must test -s /usr/share/doc/boxmeter/examples/boxmeter.rules.yml
    # The configuration that is shipped is one, and says nothing but the defaults.
    must boxmeter detach --dry-run
    must dpkg --verify boxmeter
    mustnt test -e /run/boxmeter/boxmeter.sock
}

units_are_locked_down() {
    # What `systemd-analyze security` finds may get better, not worse.
    for limit in boxmeter:35 boxmeter-panel:15; do
        unit=${limit%:*}.service
        systemd-analyze security --offline=true --no-pager --threshold="${limit#*:}" \
            "/lib/systemd/system/$unit" > /tmp/rated || {
            cat /tmp/rated
            exit 1
        }
        must grep 'Overall exposure level' /tmp/rated >&3
    done
}

upgrade_keeps_the_configuration() {
    printf '[panel]\nlisten = "127.0.0.1:8999"\n' > "$CONFIG"
    must apt-get install -y -q /packages/second.deb
    is "$(version | cut -d- -f2)" 2
    must grep -q 8999 "$CONFIG"
    is "$(stat -c '%a %U:%G' "$CONFIG")" "640 root:boxmeter-panel"
}

another_shape_of_counters_is_handed_over() {
    # The version that is there is asked, and what it says is told.
    mv /usr/bin/boxmeter /usr/bin/boxmeter.kept
    printf '#!/bin/sh\necho "$@" >> /tmp/asked\necho "no disk" >&2\nexit 1\n' > /usr/bin/boxmeter
    chmod 755 /usr/bin/boxmeter
    mustnt dpkg -i /packages/other.deb 2> /tmp/said
    must grep -q 'no disk' /tmp/said
    must grep -q 'Nothing was changed' /tmp/said
    is "$(cat /tmp/asked)" "--lang en detach --yes --programs-only"
    is "$(version | cut -d- -f2)" 2
    # The same shape asks nobody.
    rm /tmp/asked
    must dpkg -i /packages/second.deb
    mustnt test -e /tmp/asked
    # Nothing is attached here: there is nothing to hand over.
    must dpkg -i /packages/other.deb
    is "$(version | cut -d- -f2)" 3
    rm /usr/bin/boxmeter.kept
    must dpkg -i /packages/second.deb
}

an_older_package_is_refused_by_a_newer_ledger() {
    ledger_of "$STATE/ledger.db"
    before=$(sha256sum "$STATE/ledger.db")
    mustnt dpkg -i /packages/first.deb 2> /tmp/said
    must grep -q 'schema 999' /tmp/said
    must grep -q 'Nothing was changed' /tmp/said
    is "$(version | cut -d- -f2)" 2
    must boxmeter --version
    is "$(sha256sum "$STATE/ledger.db")" "$before"
    # Also where the configuration has it elsewhere.
    mv "$STATE/ledger.db" /srv/ledger.db
    printf '[api]\n[ledger]\npath = "/srv/ledger.db"\n' >> "$CONFIG"
    mustnt dpkg -i /packages/first.deb 2> /tmp/said
    must grep -q '/srv/ledger.db' /tmp/said
    rm /srv/ledger.db
    must dpkg -i --force-confold /packages/first.deb
    is "$(version | cut -d- -f2)" 1
    printf '[panel]\nlisten = "127.0.0.1:8999"\n' > "$CONFIG"
}

a_removal_that_cannot_leave_in_order_is_refused() {
    mkdir -p "$STATE"
    echo "no ledger" > "$STATE/ledger.db"
    mustnt apt-get remove -y -q boxmeter 2> /tmp/said
    must grep -q BOXMETER_REMOVE_ANYWAY /tmp/said
    must boxmeter --version
    is "$(version | cut -d' ' -f1)" installed
    BOXMETER_REMOVE_ANYWAY=yes must apt-get remove -y -q boxmeter
    mustnt test -e /usr/bin/boxmeter
    must test -s "$STATE/ledger.db"
    must grep -q 8999 "$CONFIG"
    is "$(version | cut -d' ' -f1)" config-files
}

reinstalled_it_finds_its_own() {
    must apt-get install -y -q -o Dpkg::Options::=--force-confold /packages/second.deb
    must grep -q 8999 "$CONFIG"
    must test -s "$STATE/ledger.db"
    rm "$STATE/ledger.db"
}

purge_leaves_nothing() {
    must apt-get purge -y -q boxmeter
    listing > /tmp/after
    # What adding and removing a user writes anew, and the copies that it keeps.
    diff <(grep -vE '^/(etc|etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|run|tmp)? ' /tmp/before) \
        <(grep -vE '^/(etc|etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|run|tmp)? ' /tmp/after) || exit 1
    mustnt getent passwd boxmeter-panel
    mustnt getent group boxmeter
    mustnt getent group boxmeter-panel
}

purge_keeps_the_entries_of_who_is_out() {
    must apt-get install -y -q /packages/first.deb
    must apt-get remove -y -q boxmeter
    mkdir -p "$STATE/backups"
    echo ledger > "$STATE/ledger.db"
    echo "1 users are out of sing-box's configuration: alice" > "$STATE/left-out"
    must apt-get purge -y -q boxmeter 2> /tmp/said
    must grep -q alice /tmp/said
    mustnt test -e "$STATE"
    is "$(cat /var/backups/boxmeter/*/ledger.db)" ledger
    is "$(stat -c %a /var/backups/boxmeter)" 700
    rm -r /var/backups/boxmeter
}

only_a_removal_in_order_gives_the_ledger_up() {
    must apt-get install -y -q /packages/first.deb
    mkdir -p "$STATE"
    echo "no ledger" > "$STATE/ledger.db"
    BOXMETER_REMOVE_ANYWAY=yes must apt-get remove -y -q boxmeter
    mustnt test -e "$STATE/nobody-out"
    must apt-get purge -y -q boxmeter
    is "$(cat /var/backups/boxmeter/*/ledger.db)" "no ledger"
    rm -r /var/backups/boxmeter
    must apt-get install -y -q /packages/first.deb
    mkdir -p "$STATE"
    must apt-get remove -y -q boxmeter
    must test -e "$STATE/nobody-out"
    echo ledger > "$STATE/ledger.db"
    must apt-get purge -y -q boxmeter
    mustnt test -e "$STATE"
    mustnt test -e /var/backups/boxmeter
}

the_tarball_installs_and_leaves() {
    listing > /tmp/before
    mkdir /tmp/tarball
    must tar -xzf /packages/boxmeter.tar.gz -C /tmp/tarball
    must sh /tmp/tarball/*/install.sh
    must /usr/local/bin/boxmeter --version
    must grep -q 'ExecStart=/usr/local/bin/boxmeter run' /etc/systemd/system/boxmeter.service
    must systemd-analyze verify --man=no /etc/systemd/system/boxmeter.service
    is "$(stat -c '%a %U:%G' "$CONFIG")" "640 root:boxmeter-panel"
    must getent passwd boxmeter-panel
    echo '# mine' >> "$CONFIG"
    must sh /tmp/tarball/*/install.sh
    must grep -q '# mine' "$CONFIG"
    # A ledger that cannot be read keeps it from leaving in order.
    mkdir -p "$STATE"
    echo "no ledger" > "$STATE/ledger.db"
    mustnt sh /tmp/tarball/*/install.sh --uninstall < /dev/null 2> /tmp/said
    must grep -q FORCE=1 /tmp/said
    must /usr/local/bin/boxmeter --version
    FORCE=1 must sh /tmp/tarball/*/install.sh --uninstall < /dev/null
    mustnt test -e /usr/local/bin/boxmeter
    rm -r "$STATE"
    # Where nothing is attached there is nothing to ask and nothing in the way.
    must sh /tmp/tarball/*/install.sh
    must sh /tmp/tarball/*/install.sh --uninstall < /dev/null
    mustnt test -e /usr/local/bin/boxmeter
    must grep -q '# mine' "$CONFIG"
    rm -r /etc/boxmeter
    userdel boxmeter-panel
    groupdel boxmeter
    listing > /tmp/after
    left=$(comm -13 <(cut -d' ' -f1,2 /tmp/before | sort) <(cut -d' ' -f1,2 /tmp/after | sort) | grep -v ' d$')
    is "$(grep -vE '^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-' <<< "$left")" ""
}

try install_brings_everything
try units_are_locked_down
try upgrade_keeps_the_configuration
try another_shape_of_counters_is_handed_over
try an_older_package_is_refused_by_a_newer_ledger
try a_removal_that_cannot_leave_in_order_is_refused
try reinstalled_it_finds_its_own
try purge_leaves_nothing
try purge_keeps_the_entries_of_who_is_out
try only_a_removal_in_order_gives_the_ledger_up
try the_tarball_installs_and_leaves
verdict=ok
[ "$failed" = 0 ] || verdict=FAILED
echo "test result: $verdict. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
[ "$failed" = 0 ]
