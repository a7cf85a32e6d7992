#!/bin/sh
# Turns this Linux guest from emulated to synthetic devices, and installs the integration services; README.txt says what
# that is. Runs as root, from the disc: sh install.sh [--check | --uninstall]
set -eu
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" LC_ALL=C
disc=$(cd "$(dirname "$0")" && pwd)

STATE=/var/lib/bodhi-setup
PROGRAM=/usr/local/sbin/bodhi-integration
DOC=/usr/local/share/doc/bodhi-integration/README.txt
RULES=/etc/udev/rules.d/70-bodhi-integration.rules
UNITS=/etc/systemd/system
SERVICES="key-value backup file-copy"
# Without these there is nothing to gain.
NEEDED="hv_vmbus hv_storvsc"
DRIVERS="$NEEDED hv_netvsc hv_utils hv_balloon hyperv_keyboard hid_hyperv hyperv_drm hyperv_fb hv_sock pci_hyperv"
# Those that a system needs before it has its root file system.
EARLY="$NEEDED hv_netvsc hyperv_keyboard"
BEGIN="# bodhi-setup: begin"
END="# bodhi-setup: end"

fail() {
    printf 'install.sh: %s\n' "$@" >&2
    exit 1
}
say() { printf '  %s\n' "$*"; }
warn() { printf '  note: %s\n' "$*"; }
has() { command -v "$1" >/dev/null 2>&1; }

# ---- What is changed can be taken back -------------------------------------------------------------------------------

sum() { sha256sum <"$1" | cut -d' ' -f1; }

# Before FILE is changed or made: keeps what is there.
keep() { # FILE
    grep -qxF "$1" "$STATE/files" 2>/dev/null && return
    if [ -e "$1" ]; then
        mkdir -p "$STATE/before$(dirname "$1")"
        cp -p "$1" "$STATE/before$1"
    fi
    echo "$1" >>"$STATE/files"
}

# After FILE has been changed: so that a later hand on it is noticed.
kept() { # FILE
    mkdir -p "$STATE/after$(dirname "$1")"
    sum "$1" >"$STATE/after$1"
}

place() { # MODE FROM TO
    keep "$3"
    mkdir -p "$(dirname "$3")"
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    mv "$3.new" "$3"
    kept "$3"
}

# Replaces FILE by standard input, if that is something else; true if it was.
replace() { # FILE
    cat >"$work"
    if [ -e "$1" ] && cmp -s "$work" "$1"; then return 1; fi
    [ -z "$check" ] || return 0
    keep "$1"
    mkdir -p "$(dirname "$1")"
    # What has links or rights of its own keeps them.
    cat "$work" >"$1"
    kept "$1"
}

# ---- What this guest is ----------------------------------------------------------------------------------------------

distribution() {
    for file in /etc/os-release /usr/lib/os-release; do
        if [ -r "$file" ]; then
            # shellcheck disable=SC1090
            (. "$file" && echo "${PRETTY_NAME:-${NAME:-Linux}}")
            return
        fi
    done
    echo Linux
}

# Whether a kernel has a driver: yes (as a module), built-in or no.
driver() { # RELEASE DRIVER
    pattern=$(echo "$2" | sed 's/_/[-_]/g')
    if grep -q "/$pattern\.ko" "/lib/modules/$1/modules.builtin" 2>/dev/null; then
        echo built-in
    elif grep -q "/$pattern\.ko[^/:]*:" "/lib/modules/$1/modules.dep" 2>/dev/null; then
        echo yes
    else
        echo no
    fi
}

check_guest() {
    [ "$(id -u)" = 0 ] || fail "only root can do this"
    [ "$(uname -m)" = x86_64 ] || fail "this disc has a program for x86_64, not for $(uname -m)"
    if [ -e "$disc/SHA256SUMS" ]; then
        (cd "$disc" && sha256sum --quiet -c SHA256SUMS) || fail "this disc is damaged"
    fi
    case $( (systemd-detect-virt --vm || true) 2>/dev/null) in
        microsoft | '') ;;
        *) warn "this machine does not call itself a Hyper-V machine; the drivers find nothing to drive here" ;;
    esac
    release=$(uname -r)
    missing=
    for name in $NEEDED; do
        [ "$(driver "$release" "$name")" != no ] || missing="$missing $name"
    done
    [ -z "$missing" ] || fail "the kernel $release has no$missing" \
        "install a kernel with CONFIG_HYPERV and CONFIG_HYPERV_STORAGE; distributions' own kernels for servers have them"
    present=
    for name in $DRIVERS; do
        [ "$(driver "$release" "$name")" = no ] || present="$present $name"
    done
    say "kernel $release has:$present"
}

# ---- What kept the drivers away --------------------------------------------------------------------------------------

names=$(echo "$DRIVERS" | sed 's/_/[-_]/g; s/ /|/g')

free_modules() {
    for file in /etc/modprobe.d/*.conf; do
        [ -e "$file" ] || continue
        # ata_piix leaves disks to the drivers unless it is told not to.
        if sed -E "s/^[[:space:]]*((blacklist|install)[[:space:]]+($names)([[:space:]].*)?)\$/# bodhi-setup: \\1/
            /^[[:space:]]*options[[:space:]]+ata_piix[[:space:]]/s/[[:space:]]+prefer_ms_hyperv=[^[:space:]]*//
            s/^[[:space:]]*options[[:space:]]+ata_piix[[:space:]]*\$/# bodhi-setup: options ata_piix/" \
            "$file" | replace "$file"; then
            say "$file: no driver is kept away any more"
        fi
    done
    for file in /usr/lib/modprobe.d/*.conf /lib/modprobe.d/*.conf /run/modprobe.d/*.conf; do
        if grep -qE "^[[:space:]]*(blacklist|install)[[:space:]]+($names)([[:space:]]|\$)" "$file" 2>/dev/null &&
            [ ! -e "/etc/modprobe.d/$(basename "$file")" ]; then
            warn "$file keeps a driver away; a file of that name in /etc/modprobe.d would be used instead of it"
        fi
    done
}

# A text without the words of a kernel's command line that keep drivers away. Quotes may follow a word.
free_words() {
    awk -v names="^($names)\$" '
        function freed(text, key, parts, count, i, rest, begin, list, tail, done) {
            done = ""
            while (match(text, "(^|[ \t\"'\''=])(modprobe\\.blacklist|module_blacklist|rd\\.driver\\.blacklist)=[^ \t\"'\'']*")) {
                begin = substr(text, 1, RSTART - 1)
                list = substr(text, RSTART, RLENGTH)
                tail = substr(text, RSTART + RLENGTH)
                match(list, "=[^=]*$")
                key = substr(list, 1, RSTART)
                count = split(substr(list, RSTART + 1), parts, ",")
                rest = ""
                for (i = 1; i <= count; i++)
                    if (parts[i] !~ names) rest = rest (rest == "" ? "" : ",") parts[i]
                if (rest != "") list = key rest
                else list = key ~ /^[ \t"'\''=]/ ? substr(key, 1, 1) : ""
                done = done begin list
                text = tail
            }
            return done text
        }
        { line = freed($0); gsub("ata_piix\\.prefer_ms_hyperv=[^ \t\"'\'']*", "", line); print line }' "$1"
}

free_command_line() {
    changed=
    for file in /etc/default/grub /etc/default/grub.d/*.cfg /etc/kernel/cmdline; do
        if [ -e "$file" ] && free_words "$file" | replace "$file"; then
            say "$file: the kernel is not told to keep drivers away any more"
            changed=yes
        fi
    done
    for file in /boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/loader/entries/*.conf; do
        # What is made from the files above comes out the same; what an owner has written by hand is changed here.
        if [ -e "$file" ] && free_words "$file" | replace "$file"; then
            say "$file: the kernel is not told to keep drivers away any more"
        fi
    done
    [ -z "$changed" ] || refresh_boot
}

refresh_boot() {
    if has update-grub; then
        step "the boot menu" update-grub
    elif has grub2-mkconfig && [ -e /boot/grub2/grub.cfg ]; then
        step "the boot menu" grub2-mkconfig -o /boot/grub2/grub.cfg
    fi
}

# ---- The initramfs ---------------------------------------------------------------------------------------------------

modules_for_initramfs() {
    for name in $EARLY; do
        [ "$(driver "$release" "$name")" != yes ] || echo "$name"
    done
}

step() { # WHAT COMMAND...
    what=$1
    shift
    say "making $what anew"
    [ -z "$check" ] || return 0
    "$@" >"$work" 2>&1 || {
        tail -n 5 "$work" >&2
        fail "$1 failed"
    }
}

add_to_initramfs() {
    modules=$(modules_for_initramfs)
    [ -n "$modules" ] || return 0
    words=$(echo "$modules" | tr '\n' ' ')
    if has update-initramfs; then
        file=/etc/initramfs-tools/modules
        { [ ! -e $file ] || sed "/^$BEGIN\$/,/^$END\$/d" $file; printf '%s\n%s\n%s\n' "$BEGIN" "$modules" "$END"; } |
            replace $file || true
    elif has dracut; then
        file=/etc/dracut.conf.d/bodhi-setup.conf
        echo "add_drivers+=\" $words\"" | replace $file || true
    elif has mkinitcpio; then
        file=/etc/mkinitcpio.conf.d/bodhi-setup.conf
        echo "MODULES+=($words)" | replace $file || true
    else
        warn "no initramfs-tools, dracut or mkinitcpio: see to it that the initramfs has $words"
        return 0
    fi
    say "$file: the initramfs gets $words"
    refresh_initramfs
}

refresh_initramfs() {
    if has update-initramfs; then
        step "the initramfs" update-initramfs -u -k all
    elif has dracut; then
        step "the initramfs" dracut --force --regenerate-all
    elif has mkinitcpio; then
        step "the initramfs" mkinitcpio -P
    fi
}

# ---- Services --------------------------------------------------------------------------------------------------------

# The distribution's own unit for a service, if it is there and enabled.
other_unit() { # SERVICE
    case $1 in
        key-value) units="hv-kvp-daemon hypervkvpd hv_kvp_daemon" ;;
        backup) units="hv-vss-daemon hypervvssd hv_vss_daemon" ;;
        file-copy) units="hv-fcopy-daemon hypervfcopyd hv_fcopy_daemon" ;;
    esac
    for unit in $units; do
        case $(systemctl is-enabled "$unit.service" 2>/dev/null) in
            enabled | static | indirect)
                echo "$unit"
                return
                ;;
        esac
    done
}

install_services() {
    say "$PROGRAM: the services' program"
    if [ -z "$check" ]; then
        place 755 "$disc/bodhi-integration" $PROGRAM
        place 644 "$disc/README.txt" $DOC
        place 755 "$disc/install.sh" /usr/local/share/doc/bodhi-integration/install.sh
    fi
    if ! has systemctl; then
        warn "no systemd: have $PROGRAM key-value, backup and file-copy started at boot"
        return
    fi
    rules='-e SUBSYSTEM=="memory"'
    for service in $SERVICES; do
        other=$(other_unit "$service")
        if [ -n "$other" ]; then
            say "$service: served by this distribution's own $other"
            continue
        fi
        say "$service: bodhi-$service.service"
        rules="$rules -e bodhi-$service.service"
        [ -n "$check" ] || place 644 "$disc/bodhi-$service.service" "$UNITS/bodhi-$service.service"
    done
    [ -z "$check" ] || return 0
    # shellcheck disable=SC2086  # several words
    grep -F -e '# ' $rules "$disc/70-bodhi-integration.rules" | replace $RULES || true
    # In a system that is not running, such as in a chroot, there is nobody to be told.
    [ -d /run/systemd/system ] || return 0
    systemctl daemon-reload
    udevadm control --reload 2>/dev/null || true
    # Where the drivers are at work already, the services need no restart of the system.
    udevadm trigger --action=change --subsystem-match=misc --subsystem-match=vmbus 2>/dev/null || true
}

# ---- Back ------------------------------------------------------------------------------------------------------------

uninstall() {
    [ -e "$STATE/files" ] || fail "nothing to take back: $STATE has no record of an installation"
    for service in $SERVICES; do
        [ ! -e "$UNITS/bodhi-$service.service" ] || systemctl stop "bodhi-$service.service" 2>/dev/null || true
    done
    boot='' initramfs=''
    while read -r file; do
        case $file in
            /etc/default/grub* | /etc/kernel/cmdline) boot=yes ;;
            /etc/modprobe.d/* | /etc/initramfs-tools/* | /etc/dracut.conf.d/* | /etc/mkinitcpio.conf.d/*) initramfs=yes ;;
        esac
        if [ -e "$file" ] && [ "$(sum "$file")" != "$(cat "$STATE/after$file" 2>/dev/null)" ]; then
            case $file in
                # Made anew by others all the time, from files that are taken back.
                */grub.cfg) continue ;;
            esac
            warn "$file has been changed since; it stays, and what was there before is kept as $file.before-bodhi"
            [ ! -e "$STATE/before$file" ] || cp -p "$STATE/before$file" "$file.before-bodhi"
        elif [ -e "$STATE/before$file" ]; then
            cat "$STATE/before$file" >"$file"
            say "$file: as it was"
        elif [ -e "$file" ]; then
            rm "$file"
            say "$file: removed"
        fi
    done <"$STATE/files"
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    udevadm control --reload 2>/dev/null || true
    [ -z "$initramfs" ] || refresh_initramfs
    [ -z "$boot" ] || refresh_boot
    rm -r "$STATE"
    rmdir "$(dirname $DOC)" 2>/dev/null || true
}

# ----------------------------------------------------------------------------------------------------------------------

check='' wish=install
case ${1-} in
    '') ;;
    --check) check=yes ;;
    --uninstall) wish=uninstall ;;
    *) fail "usage: sh install.sh [--check | --uninstall]" ;;
esac
[ $# -le 1 ] || fail "usage: sh install.sh [--check | --uninstall]"
work=$(mktemp)
trap 'rm -f "$work"' EXIT

if [ $wish = uninstall ]; then
    [ "$(id -u)" = 0 ] || fail "only root can do this"
    echo "Taking the integration services away from $(distribution):"
    uninstall
    echo "Done. Restart to have the system as it was before."
    exit
fi
echo "Integration services for $(distribution):"
check_guest
[ -n "$check" ] || mkdir -p "$STATE"
free_modules
free_command_line
add_to_initramfs
install_services
if [ -n "$check" ]; then
    echo "Nothing has been changed."
else
    sync
    echo "Done. Restart to have the synthetic devices; $DOC says how to undo this."
fi
