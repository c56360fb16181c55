// SPDX-License-Identifier: MIT
//! What each example is to do: the documents' lines, with what must have happened before and must be
//! true afterwards.

use super::{Step, fails, fstab, not, printed, typed};

/// Makes the scene: this machine under an overlay, with file systems for the copies, and mirrorfs
/// installed as `scripts/install` does it. `$1` is a directory of the test's own, `$2` the repository.
pub(super) const SCENE: &str = r#"
set -euo pipefail
mount -t tmpfs -o mode=755 top "$1/top"
mkdir "$1"/top/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$1/top/upper,workdir=$1/top/work" overlay "$1/top/root"
root=$1/top/root
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir -p "$root"/{srv,backup,data,net/nas,new/disk,home/me,media/stick,var/lib/mirrorfs,repository,built}
for name in srv net/nas new/disk home/me media/stick var/lib/mirrorfs; do
    mount -t tmpfs -o mode=755 "${name##*/}" "$root/$name"
done
mount --bind "$2" "$root/repository"
mount --bind "$1/built" "$root/built"
cp "$1/story" "$root/tmp/story"
truncate -s 24M "$root/tmp/backup.img"
mkfs.ext4 -q -F "$root/tmp/backup.img"
echo "/tmp/backup.img /backup ext4 loop 0 0" >"$root/etc/fstab"
chmod 666 "$root/etc/fstab"
exec chroot "$root" bash /tmp/story
"#;

/// What the scripts of the stories are made of.
pub(super) const TOOLS: &str = r#"
set -u
export PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export CARGO_TARGET_DIR=/built
cd /repository || exit 1
fail() { printf 'FAILED %s\n' "$*"; cat /tmp/said; mirrorfs status; exit 1; }
till() { local n; for n in $(seq 600); do ! eval "$1" >/tmp/till 2>&1 || return 0; sleep 0.1; done; return 1; }
first() { eval "$1" >/tmp/before 2>&1 || { cat /tmp/before; fail "before: $1"; }; }
then_() { eval "$1" >/tmp/after 2>&1 || { cat /tmp/after; fail "afterwards: $1"; }; }
typed() {
    local code=0
    (eval "$1") >/tmp/said 2>&1 </dev/null || code=$?
    [ "$code" = "$2" ] || fail "$1: ended with $code"
}
fstab() {
    echo "$1" >>/etc/fstab
    typed "mount '$2'" 0
    mirrorfs status --quiet "$2" || till "mirrorfs status --quiet '$2'" || fail "$1: not in-sync"
}
# Without what is another one each time: numbers, sizes, times, how long and how it is mounted.
plain() { sed -E 's/^( mounted:).*/\1/; s/[0-9][0-9:.-]*( [KMGT]?i?B)?/0/g; s/ +/ /g; s/^ //; s/ $//'; }
printed() { plain </tmp/said | grep -qxF -- "$(plain <<<"$1")" || fail "not printed: $1"; }

sudo() { "$@"; }
# A primary with something in it, the replica's disk, and nothing mounted.
fresh() {
    ! mountpoint -q /srv/data || mirrorfs umount /srv/data || return 1
    ! mountpoint -q /data || mirrorfs umount /data || return 1
    mountpoint -q /srv || mount -t tmpfs srv /srv || return 1
    mountpoint -q /backup || mount /backup || return 1
    rm -rf /srv/* /backup/data /net/nas/* /new/disk/* /var/lib/mirrorfs/*
    mkdir -p /srv/data/letters /backup/data /net/nas/data /new/disk/data
    echo 'Dear reader' >/srv/data/letters/one
    grep -v mirrorfs /etc/fstab >/tmp/fstab
    cat /tmp/fstab >/etc/fstab
}
mounted() { fresh && mirrorfs mount /srv/data /srv/data --replica /backup/data; }
equal() { mirrorfs status --quiet "$1" && mirrorfs verify "$1" && diff -r "$1" "$2"; }
killed() {
    kill -KILL "$(mirrorfs status --json /srv/data | sed 's/.*"pid":\([0-9]*\).*/\1/')" &&
        till "mirrorfs status /srv/data 2>&1 | grep 'is gone'"
}
# Changes of state, for who listens, until it has heard one.
stir() { (until [ -e /tmp/heard ]; do mirrorfs pause /srv/data; mirrorfs resume /srv/data; done) >/dev/null 2>&1 & }
finish() {
    local at
    for at in $(findmnt -rno TARGET -t fuse.mirrorfs); do mirrorfs umount "$at" || fail "umount $at"; done
    echo done
}
/repository/scripts/install --prefix /usr >/tmp/said 2>&1 || fail "scripts/install"
fresh || fail "the scene"
"#;

const STARTED: &str =
    "what it does is done by others: it builds for minutes, and scripts/check runs the tests";
const SYSTEMD: &str = "no systemd runs here; scripts/package --boot boots one, cli::units and cli::metrics read and run what the units do";

pub(super) const README: [Step; 25] = [
    typed("mirrorfs mount /srv/data /srv/data --replica /backup/data").after("equal /srv/data /backup/data"),
    typed("mirrorfs status /srv/data").after("grep -q 'state: in-sync' /tmp/said"),
    not("scripts/demo", STARTED),
    not("scripts/package", "scripts/package --check builds one and tries it in a fresh Debian"),
    not("apt install ./target/package/mirrorfs_*.deb", "scripts/package --check does it in a fresh Debian"),
    not("cargo build --profile dist", "a build of minutes; what it makes is what the other tests run"),
    typed("sudo scripts/install").after("[ -x /usr/local/bin/mirrorfs ] && man -w 7 mirrorfs || [ -e /usr/local/share/man/man7/mirrorfs.7 ]"),
    typed("mirrorfs mount /srv/data /srv/data --replica /backup/data")
        .before("fresh")
        .after("equal /srv/data /backup/data && [ -e /srv/data/letters/one ]"),
    fstab(
        "/srv/data  /srv/data  mirrorfs  replica=/backup/data,x-systemd.requires-mounts-for=/backup/data  0 0",
        "/srv/data",
    )
    .before("fresh")
    .after("equal /srv/data /backup/data"),
    printed("  mirror: /srv/data").before("mirrorfs status /srv/data >/tmp/said"),
    printed("   state: in-sync"),
    printed("    mode: sync"),
    printed("    scan: none since mount").before("mounted && mirrorfs status /srv/data >/tmp/said"),
    printed(" mounted: 4 days 02:11, epoch 1, threads, 6f2c91ab"),
    printed("   ROLE     PATH          STATE      LAG                        WRITTEN   ERRORS"),
    printed("   primary  /srv/data     online     -                          1.31 TiB       0"),
    printed("   replica  /backup/data  in-sync    -                          1.31 TiB       0"),
    printed("  mirror: /srv/data").before(
        "mounted && dd if=/dev/zero of=/srv/data/film bs=1M count=40 && \
         till 'mirrorfs status /srv/data | grep DEGRADED' && cp /tmp/till /tmp/said; \
         mirrorfs status /srv/data >/tmp/said; [ $? = 1 ]",
    ),
    printed("   state: DEGRADED"),
    printed("  status: The replica stopped taking writes at 14:02:11: No space left on device (ENOSPC)."),
    printed("          Files stay readable and writable. Changes since then are on the primary only,"),
    printed("          and are remembered. It happened during: write film"),
    printed("  action: Free space under /backup/data, then run: mirrorfs sync /srv/data"),
    printed("     see: mirrorfs help MF-0003").after("mirrorfs help MF-0003 && rm /srv/data/film && mirrorfs sync /srv/data"),
    not("scripts/check", STARTED),
];

pub(super) const OPERATIONS: [Step; 36] = [
    fstab(
        "/srv/data  /srv/data  mirrorfs  replica=/backup/data,x-systemd.requires-mounts-for=/backup/data  0 0",
        "/srv/data",
    )
    .after("equal /srv/data /backup/data"),
    not("systemctl edit mirrorfs@srv-data.service", SYSTEMD),
    not("    [Unit]", SYSTEMD),
    not("    RequiresMountsFor=/backup/data", SYSTEMD),
    not("    [Service]", SYSTEMD),
    not("    Environment=REPLICA=/backup/data", SYSTEMD),
    not("systemctl enable --now mirrorfs@srv-data.service", SYSTEMD),
    typed("mirrorfs status --quiet /srv/data || mail -s 'look at the mirror' root  # 0 in-sync, 1 not, 2 cannot tell")
        .before("mounted; mail() { touch /tmp/mailed; }")
        .after(
            "[ ! -e /tmp/mailed ] && mirrorfs pause /srv/data && ! mirrorfs status --quiet /srv/data && \
             mirrorfs sync /srv/data; mirrorfs resume /srv/data && mirrorfs sync /srv/data",
        ),
    typed("mirrorfs status --json                             # one line for each mirror")
        .after("[ $(wc -l </tmp/said) = 1 ] && grep -q '\"state\":\"in-sync\"' /tmp/said"),
    typed("mirrorfs events --json | logger                    # one line for each change of state, as it happens")
        .before("logger() { head -n 1; touch /tmp/heard; }; stir")
        .after("wait; grep -q '\"event\":\"change\"' /tmp/said && mirrorfs resume /srv/data && mirrorfs sync /srv/data"),
    not("systemctl enable --now mirrorfs-metrics.timer", SYSTEMD),
    typed("ls /var/lib/prometheus/node-exporter/mirrorfs.prom").before(
        "export DIRECTORY=/var/lib/prometheus/node-exporter; mkdir -p $DIRECTORY && \
         eval \"$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/mirrorfs-metrics.service)\" && \
         grep -q '^mirrorfs_up.* 1$' $DIRECTORY/mirrorfs.prom",
    ),
    typed("mirrorfs status --watch /srv/data")
        .before("mirrorfs() { /usr/bin/mirrorfs \"$@\" | head -n 1; }")
        .after("unset -f mirrorfs; grep -q in-sync /tmp/said"),
    typed("mirrorfs events /srv/data")
        .before("rm -f /tmp/heard; stir; mirrorfs() { /usr/bin/mirrorfs \"$@\" | head -n 1; touch /tmp/heard; }")
        .after("unset -f mirrorfs; wait; grep -q 'change replica path:/backup/data' /tmp/said"),
    printed("   state: DEGRADED").before(
        "mounted && dd if=/dev/zero of=/srv/data/film bs=1M count=40 && \
         till 'mirrorfs status /srv/data | grep DEGRADED'; mirrorfs status /srv/data >/tmp/said; [ $? = 1 ]",
    ),
    printed("  status: The replica stopped taking writes at 14:02:11: No space left on device (ENOSPC).")
        .after("rm /srv/data/film && mirrorfs sync /srv/data && equal /srv/data /backup/data"),
    typed("mirrorfs pause /srv/data").after("mirrorfs status /srv/data | grep 'state: paused'"),
    typed("umount /backup                    # nothing of mirrorfs holds it any more")
        .after("! mountpoint -q /backup && echo paused >/srv/data/meanwhile"),
    not("fsck /dev/sdb1", "a disk that there is on another machine"),
    typed("mount /backup"),
    typed("mirrorfs resume /srv/data"),
    typed("mirrorfs sync /srv/data           # returns when the copies are equal")
        .after("equal /srv/data /backup/data && [ -e /backup/data/meanwhile ]"),
    not("systemctl enable --now mirrorfs-verify@srv-data.timer", SYSTEMD),
    typed("mirrorfs umount /srv/data").after("! mountpoint -q /srv/data && diff -r /srv/data /backup/data"),
    typed("# put the new disk in, make a file system, mount it at /backup, mkdir /backup/data").after(
        "umount /backup && mkfs.ext4 -q -F /tmp/backup.img && mount /backup && mkdir /backup/data && \
         ! mirrorfs mount /srv/data /srv/data --replica /backup/data",
    ),
    typed("mirrorfs mount /srv/data /srv/data --replica /backup/data --init")
        .after("mirrorfs sync /srv/data && equal /srv/data /backup/data"),
    fails("mirrorfs promote /backup/data", 1).before("killed && umount -l /srv/data && umount -l /srv"),
    printed("the primary /srv/data cannot be seen, and what /backup/data lacks cannot be told without it. Not promoted."),
    printed("The mirror was last mounted at 2026-11-19 14:02 UTC, and did not end in order."),
    printed("If the primary is lost for good:    mirrorfs promote --primary-lost /backup/data  [MF-0028]"),
    typed("mirrorfs promote --primary-lost /backup/data"),
    typed("mirrorfs mount /backup/data /srv/data --replica /new/disk/data")
        .before("mount -t tmpfs srv /srv && mkdir /srv/data")
        .after("mirrorfs sync /srv/data && equal /srv/data /new/disk/data && [ -e /srv/data/meanwhile ]"),
    typed("mirrorfs mount /srv/data /srv/data --replica /backup/data")
        .before("mounted && echo acknowledged >/srv/data/last && killed")
        .after("[ -e /srv/data/last ]"),
    typed("mirrorfs sync /srv/data           # returns when what was in flight is equal")
        .after("equal /srv/data /backup/data && [ -e /backup/data/last ]"),
    not(
        "    echo Y >/sys/module/fuse/parameters/enable_uring",
        "the whole machine's switch; scripts/check sets it and runs all tests",
    ),
    not(
        "    echo 200000 >/sys/module/haltpoll/parameters/guest_halt_poll_ns",
        "the whole machine's setting, and not every machine's; scripts/bench says what it was",
    ),
];

pub(super) const MIRRORFS_1: [Step; 10] = [
    fstab(
        "/srv/data  /srv/data  mirrorfs  replica=/backup/data  0 0",
        "/srv/data",
    )
    .after("equal /srv/data /backup/data"),
    typed("mirrorfs mount /srv/data /srv/data --replica /backup/data")
        .before("fresh")
        .after("equal /srv/data /backup/data"),
    typed("mirrorfs mount /srv/data /srv/data --replica /backup/data --mode async --max-lag 64M")
        .before("fresh")
        .after("echo x >/srv/data/x && mirrorfs sync /srv/data && equal /srv/data /backup/data"),
    typed("mirrorfs status /srv/data").after("grep -q 'mode: async' /tmp/said"),
    typed("mirrorfs sync /srv/data")
        .before("echo y >/srv/data/y")
        .after("[ -e /backup/data/y ]"),
    typed("mirrorfs verify /srv/data").after("grep -q 'No differences' /tmp/said"),
    typed("mirrorfs pause /srv/data")
        .after("echo z >/srv/data/z && mirrorfs resume /srv/data && mirrorfs sync /srv/data"),
    typed("mirrorfs umount /srv/data")
        .after("diff -r /srv/data /backup/data && [ -e /backup/data/z ]"),
    typed("mirrorfs promote --primary-lost /backup/data").before("umount /srv"),
    typed("mirrorfs help MF-0003").after("grep -q 'A replica failed' /tmp/said"),
];

pub(super) const MOUNT_8: [Step; 3] = [
    fstab(
        "/srv/data  /srv/data  mirrorfs  replica=/backup/data,x-systemd.requires-mounts-for=/backup/data  0 0",
        "/srv/data",
    )
    .after("equal /srv/data /backup/data && umount /srv/data && ! mountpoint -q /srv/data"),
    fstab(
        "/srv/data  /data  mirrorfs  replica=/net/nas/data,degraded,_netdev,nofail,x-systemd.requires-mounts-for=/net/nas/data  0 0",
        "/data",
    )
    .before("fresh")
    .after(
        "equal /data /net/nas/data && mirrorfs umount /data && rm -r /net/nas/data && mount /data && \
         mirrorfs status /data | grep 'state: DEGRADED'",
    ),
    typed("mount -o degraded /srv/data")
        .before(
            "fresh && echo '/srv/data /srv/data mirrorfs replica=/backup/data 0 0' >>/etc/fstab && \
             mount /srv/data && mirrorfs umount /srv/data && umount /backup && ! mount /srv/data",
        )
        .after("mirrorfs status /srv/data | grep 'state: DEGRADED' && [ -e /srv/data/letters/one ]"),
];

pub(super) const FSTAB: [Step; 5] = [
    fstab(
        "/srv/data  /srv/data  mirrorfs  replica=/backup/data,x-systemd.requires-mounts-for=/backup/data  0 0",
        "/srv/data",
    )
    .after("equal /srv/data /backup/data"),
    fstab(
        "/srv/data  /data  mirrorfs  replica=/backup/data,nofail,x-systemd.requires-mounts-for=/srv/data,x-systemd.requires-mounts-for=/backup/data  0 0",
        "/data",
    )
    .before("fresh")
    .after("equal /data /backup/data"),
    fstab(
        "/srv/data  /data  mirrorfs  replica=/net/nas/data,degraded,_netdev,nofail,x-systemd.requires-mounts-for=/srv/data,x-systemd.requires-mounts-for=/net/nas/data  0 0",
        "/data",
    )
    .before("fresh")
    .after("equal /data /net/nas/data"),
    fstab(
        "/home/me/notes  /home/me/mirror  mirrorfs  replica=/media/stick/notes,noauto,user  0 0",
        "/home/me/mirror",
    )
    .before("mkdir -p /home/me/notes /home/me/mirror /media/stick/notes && echo n >/home/me/notes/n")
    .after("equal /home/me/mirror /media/stick/notes"),
    fstab("/srv/a,b  /mnt/a\\040b  mirrorfs  replica=/backup/a\\,b,noauto  0 0", "/mnt/a b")
        .before("mkdir -p '/srv/a,b' '/mnt/a b' '/backup/a,b' && echo n >'/srv/a,b/n'")
        .after("equal '/mnt/a b' '/backup/a,b' && mirrorfs umount '/mnt/a b'"),
];

const READ: &str = "for systemd, which the next lines stand for";

pub(super) const MOUNT_UNIT: [Step; 11] = [
    not("[Unit]", READ),
    not("Description=Mirror of /srv/data", READ),
    not("RequiresMountsFor=/backup/data /var/lib/mirrorfs", READ),
    not("[Mount]", READ),
    typed("What=/srv/data").after("What=/srv/data"),
    typed("Where=/srv/data").after("Where=/srv/data"),
    typed("Type=mirrorfs").after("Type=mirrorfs"),
    typed("Options=replica=/backup/data").after(
        "Options=replica=/backup/data && mount -t $Type -o $Options $What $Where && equal /srv/data /backup/data && \
         umount -c $Where && ! mountpoint -q /srv/data",
    ),
    not("TimeoutSec=infinity", READ),
    not("[Install]", READ),
    not("WantedBy=multi-user.target", READ),
];
