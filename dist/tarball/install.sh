#!/bin/sh
# Installs boxmeter below /usr/local (or PREFIX=…) with systemd units, or removes it with --uninstall. On Debian and
# its derivatives the .deb does the same and more.
set -e

PREFIX=${PREFIX:-/usr/local}
UNITS=/etc/systemd/system
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
FILES=$HERE/files

die() {
    echo "install.sh: $*" >&2
    exit 1
}

managed() {
    [ -d /run/systemd/system ]
}

people() {
    if command -v systemd-sysusers > /dev/null; then
        install -D -m 0644 "$FILES/usr/lib/sysusers.d/boxmeter.conf" /etc/sysusers.d/boxmeter.conf
        systemd-sysusers boxmeter.conf
        return
    fi
    getent group boxmeter > /dev/null || groupadd --system boxmeter
    getent passwd boxmeter-panel > /dev/null \
        || useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin boxmeter-panel
}

put() {
    people
    # A new file under the name of one that runs: the running program keeps its own.
    install -D -m 0755 "$FILES/usr/bin/boxmeter" "$PREFIX/bin/.boxmeter.new"
    mv -f "$PREFIX/bin/.boxmeter.new" "$PREFIX/bin/boxmeter"
    mkdir -p "$PREFIX/share" "$UNITS" /etc/boxmeter
    cp -R "$FILES/usr/share/." "$PREFIX/share/"
    for unit in boxmeter.service boxmeter-panel.service; do
        sed "s,/usr/bin/boxmeter,$PREFIX/bin/boxmeter," "$FILES/lib/systemd/system/$unit" > "$UNITS/$unit"
        chmod 0644 "$UNITS/$unit"
    done
    if [ ! -e /etc/boxmeter/config.toml ]; then
        install -m 0640 -g boxmeter-panel "$FILES/etc/boxmeter/config.toml" /etc/boxmeter/config.toml
    fi
    if managed; then
        systemctl daemon-reload
        systemctl enable boxmeter.service boxmeter-panel.service
        systemctl restart boxmeter.service boxmeter-panel.service
    fi
    echo "boxmeter is installed and limits nobody. Two steps are left:"
    echo "  $PREFIX/bin/boxmeter doctor --fix"
    echo "  $PREFIX/bin/boxmeter panel password"
}

# Runs detach without asking; that there is nothing to do is no failure.
detach() {
    if said=$("$PREFIX/bin/boxmeter" --lang en detach --yes 2>&1); then
        echo "$said"
        return 0
    fi
    case "$said" in
        *"nothing is attached"*) return 0 ;;
    esac
    echo "$said" >&2
    return 1
}

# Takes boxmeter out of the kernel and what it added out of sing-box's files. Asks where a limit stops holding or
# somebody is out; with YES=1 it does not, and puts those users back.
leave() {
    would=$("$PREFIX/bin/boxmeter" --json detach --dry-run) || return 1
    would=$(printf '%s' "$would" | tr -d ' \n')
    case "$would" in
        *'"attached":false'*'"ledger":false'*) return 0 ;;
        *'"attached":false'*'"out":[]'*) detach ;;
        *) "$PREFIX/bin/boxmeter" detach ${YES:+--yes} ;;
    esac
}

drop() {
    if managed; then
        systemctl disable --now boxmeter-panel.service boxmeter.service || true
    fi
    leave || [ -n "$FORCE" ] \
        || die "boxmeter could not be taken out in order; FORCE=1 removes its files all the same"
    rm -f "$PREFIX/bin/boxmeter" "$UNITS/boxmeter.service" "$UNITS/boxmeter-panel.service" \
        /etc/sysusers.d/boxmeter.conf
    (cd "$FILES/usr/share" && find . -type f -print) | while IFS= read -r file; do
        rm -f "$PREFIX/share/$file"
    done
    rmdir "$PREFIX/share/doc/boxmeter/examples" "$PREFIX/share/doc/boxmeter" 2> /dev/null || true
    if managed; then
        systemctl daemon-reload
    fi
    echo "Removed. /etc/boxmeter and /var/lib/boxmeter, with the ledger, stay until you delete them."
}

[ "$(id -u)" = 0 ] || die "run it as root"
case "$1" in
    '') put ;;
    --uninstall) drop ;;
    *) die "usage: install.sh [--uninstall]" ;;
esac
