# SPDX-License-Identifier: MIT
# What the scripts share: telling what goes on, installing what is missing, loop images, cleaning
# up. Sourced, never run; the sourcing script has set -euo pipefail.

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }

# Administrators' programs are not in every PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# ------------------------------------------------------------- a place of our own, left clean

WORK=
# Makes WORK, a directory of our own that every user can pass through.
make_work() {
    WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/mirrorfs-$1.XXXXXX")
    chmod 755 "$WORK"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Ends our daemons, by their own ids, unmounts what is mounted below WORK, and removes it.
clean_up() {
    local status=$? pid at
    [ -n "$WORK" ] || return "$status"
    set +e
    for pid in $(daemons_below "$WORK"); do kill -TERM "$pid" 2>/dev/null; done
    for _ in $(seq 100); do
        [ -n "$(daemons_below "$WORK")" ] || break
        sleep 0.1
    done
    for pid in $(daemons_below "$WORK"); do kill -KILL "$pid" 2>/dev/null; done
    awk -v top="$WORK/" 'index($5, top) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
        while read -r at; do umount "$at" 2>/dev/null || umount -l "$at" 2>/dev/null || fusermount3 -uz "$at" 2>/dev/null; done
    if awk -v top="$WORK/" 'index($5, top) == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo; then
        note "still mounted below $WORK: left as it is" >&2
    else
        rm -rf --one-file-system "$WORK"
    fi
    return "$status"
}

# Process ids of mirrorfs daemons that were given a directory below $1.
daemons_below() {
    local file pid words
    for file in /proc/[0-9]*/cmdline; do
        pid=${file#/proc/}
        pid=${pid%/cmdline}
        [ "$pid" != "$$" ] || continue
        words=$(tr '\0' '\n' 2>/dev/null <"$file") || continue
        case ${words%%$'\n'*} in *mirrorfs) ;; *) continue ;; esac
        if grep -qF -- "$1/" <<<"$words"; then echo "$pid"; fi
    done
}

# ------------------------------------------------------------------------------- what is needed

# program:package, as Debian names them
NEEDS="mkfs.ext4:e2fsprogs chattr:e2fsprogs mkfs.xfs:xfsprogs xfs_io:xfsprogs mkfs.btrfs:btrfs-progs
    btrfs:btrfs-progs setfacl:acl getfacl:acl getfattr:attr setfattr:attr setcap:libcap2-bin getcap:libcap2-bin
    fusermount3:fuse3 fio:fio time:time sqlite3:sqlite3 strace:strace git:git gcc:build-essential make:build-essential ar:binutils tar:tar
    diff:diffutils findmnt:util-linux setpriv:util-linux setsid:util-linux unshare:util-linux chroot:coreutils fsfreeze:util-linux
    prlimit:util-linux flock:util-linux fincore:util-linux-extra script:bsdutils getent:libc-bin
    systemd-analyze:systemd curl:curl rsync:rsync python3:python3 cmp:diffutils cp:coreutils
    losetup:mount mandoc:mandoc groff:groff-base"

missing_packages() {
    local need
    for need in $NEEDS; do
        # A file: bash has words of its own for some.
        type -P "${need%%:*}" >/dev/null || echo "${need##*:}"
    done
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || echo postgresql
    compgen -G '/usr/include/sys/acl.h' >/dev/null || echo libacl1-dev
}

# Installs what is missing, given the right and the means; otherwise says what it is.
install_missing() {
    local packages
    packages=$(missing_packages | sort -u | tr '\n' ' ')
    [ -n "${packages// /}" ] || return 0
    if is_root && command -v apt-get >/dev/null; then
        note "installing: $packages"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086
        apt-get install -qq -y --no-install-recommends $packages >/dev/null ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages >/dev/null; } ||
            note "could not install all of: $packages"
    else
        note "not installed, and not root: $packages"
    fi
}

need_cargo() {
    [ ! -d "$HOME/.cargo/bin" ] || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null ||
        die "cargo is not installed. Get Rust from https://rustup.rs, then run this again."
}

need_fuse() {
    [ -e /dev/fuse ] || { is_root && modprobe fuse 2>/dev/null; } || true
    [ -e /dev/fuse ] || die "there is no /dev/fuse on this machine: nothing can be mounted."
}

# A journaled ext4 of $2 MiB in an image $1.img, mounted at $1.
loop_ext4() {
    mkdir "$1"
    truncate -s "$2M" "$1.img"
    mkfs.ext4 -q -F "$1.img"
    mount -o loop "$1.img" "$1"
    chmod 755 "$1"
}

# Where cargo puts the product ($1 is the profile's directory).
built() {
    echo "${CARGO_TARGET_DIR:-target}/$1/mirrorfs"
}

# What a tree holds, in words.
describe() {
    (cd "$1" && find . -printf '%P|%y|%m|%U:%G|%l|%T@|%n|' \( -type f -printf '%s' -o -true \) -printf '\n' | sort &&
        find . -type f -print0 | sort -z | xargs -0r sha256sum)
}
