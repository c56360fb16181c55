// SPDX-License-Identifier: MIT
//! Real programs on the mount: each does its day's work, then the mirror is unmounted and the two
//! copies compared completely.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, OFlags, fallocate, ftruncate};
use rustix::io::{pread, pwrite};

use crate::support::mount::TestMount;
use crate::support::rng::{Rng, seed};
use crate::support::run::{find, run, shell};
use crate::support::setting;
use crate::support::sys::Map;
use crate::{need_programs, need_root};

/// fsx: one file, random reads, writes, maps, truncates and holes, against a buffer in memory.
struct Fsx {
    fd: OwnedFd,
    direct: OwnedFd,
    model: Vec<u8>,
    rng: Rng,
    done: Vec<String>,
}

const LARGEST: usize = 256 * 1024;

impl Fsx {
    fn range(&mut self, limit: usize) -> (usize, usize) {
        let offset = self.rng.below(limit.max(1));
        (
            offset,
            1 + self.rng.below((limit - offset).clamp(1, 60_000)),
        )
    }

    fn step(&mut self) {
        let size = self.model.len();
        match self.rng.below(12) {
            0..=2 => {
                let (at, len) = self.range(LARGEST - 1);
                let len = len.min(LARGEST - at);
                let data = self.rng.bytes(len);
                self.done.push(format!("pwrite {at} {len}"));
                assert_eq!(pwrite(&self.fd, &data, offset(at)), Ok(len));
                self.model.resize(size.max(at + len), 0);
                self.model[at..at + len].copy_from_slice(&data);
            }
            3..=4 => {
                let (at, len) = self.range(LARGEST);
                self.done.push(format!("pread {at} {len}"));
                let mut back = vec![0; len];
                let got = pread(&self.fd, &mut back[..], offset(at)).expect("pread");
                let expected = &self.model[at.min(size)..(at + len).min(size)];
                self.same(&back[..got], expected);
            }
            5 if size > 0 => {
                let (at, len) = self.range(size);
                let len = len.min(size - at);
                self.done.push(format!("mmap write {at} {len}"));
                let data = self.rng.bytes(len);
                let map = Map::new(&self.fd, 0, size, true, true).expect("mmap");
                map.put(at, &data);
                self.model[at..at + len].copy_from_slice(&data);
                if self.rng.below(2) == 0 {
                    map.sync().expect("msync");
                }
            }
            6 if size > 0 => {
                let (at, len) = self.range(size);
                let len = len.min(size - at);
                self.done.push(format!("mmap read {at} {len}"));
                let map = Map::new(&self.fd, 0, size, false, true).expect("mmap");
                self.same(&map.get(at, len), &self.model[at..at + len]);
            }
            7 => {
                let to = self.rng.below(LARGEST);
                self.done.push(format!("truncate {to}"));
                ftruncate(&self.fd, offset(to)).expect("ftruncate");
                self.model.resize(to, 0);
            }
            8 if size > 0 => {
                let (at, len) = self.range(size);
                self.done.push(format!("punch {at} {len}"));
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&self.fd, mode, offset(at), offset(len)).expect("punch");
                let end = (at + len).min(size);
                self.model[at..end].fill(0);
            }
            9 => {
                let (at, len) = self.range(LARGEST - 1);
                let len = len.min(LARGEST - at);
                self.done.push(format!("zero {at} {len}"));
                fallocate(
                    &self.fd,
                    FallocateFlags::ZERO_RANGE,
                    offset(at),
                    offset(len),
                )
                .expect("zero range");
                self.model.resize(size.max(at + len), 0);
                self.model[at..at + len].fill(0);
            }
            10 => {
                let at = self.rng.below(LARGEST / 4096 - 4) * 4096;
                let len = (1 + self.rng.below(4)) * 4096;
                self.done.push(format!("direct write {at} {len}"));
                let data = self.rng.bytes(len + 4096);
                let start = data.as_ptr().align_offset(4096);
                let data = &data[start..start + len];
                assert_eq!(pwrite(&self.direct, data, offset(at)), Ok(len));
                self.model.resize(size.max(at + len), 0);
                self.model[at..at + len].copy_from_slice(data);
            }
            _ => {
                self.done.push("fsync".into());
                rustix::fs::fsync(&self.fd).expect("fsync");
            }
        }
        let stat = rustix::fs::fstat(&self.fd).expect("fstat");
        assert_eq!(
            stat.st_size,
            i64::try_from(self.model.len()).expect("small"),
            "size after {}",
            self.last()
        );
    }

    fn last(&self) -> String {
        self.done[self.done.len().saturating_sub(20)..].join("\n")
    }

    #[track_caller]
    fn same(&self, got: &[u8], expected: &[u8]) {
        if got != expected {
            let at = got.iter().zip(expected).position(|(a, b)| a != b);
            panic!(
                "{} bytes for {}, first wrong {at:?}, after\n{}",
                got.len(),
                expected.len(),
                self.last()
            );
        }
    }
}

fn offset(at: usize) -> u64 {
    u64::try_from(at).expect("small")
}

/// Thousands of random operations on one file; every byte as the model has it, on all sides.
#[test]
fn fsx() {
    fsx_on(TestMount::new);
}

/// The same on any mount.
pub(crate) fn fsx_on(mount: impl FnOnce() -> TestMount) {
    let mount = mount();
    let seed = seed("fsx");
    for round in 0..4 {
        let path = mount.at(format!("f{round}"));
        // Every other file existed before it is opened: the kernel treats the two differently.
        if round % 2 == 0 {
            std::fs::write(&path, "").expect("write");
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let open = |more| rustix::fs::open(&path, flags | more, 0o644.into()).expect("open");
        let mut fsx = Fsx {
            fd: open(OFlags::empty()),
            direct: open(OFlags::DIRECT),
            model: Vec::new(),
            rng: Rng::new(seed.wrapping_add(round)),
            done: Vec::new(),
        };
        for _ in 0..setting("MIRRORFS_FSX", 3000) {
            fsx.step();
        }
        fsx.same(&std::fs::read(&path).expect("read"), &fsx.model);
        fsx.same(
            &std::fs::read(mount.primary.join(format!("f{round}"))).expect("read"),
            &fsx.model,
        );
    }
    mount.finish();
}

/// fio writes blocks that know their own place and reads all of them back.
#[test]
fn fio_verify() {
    need_programs!("fio");
    let mount = TestMount::new();
    let jobs = [
        "--rw=randwrite --bs=4k --ioengine=psync",
        "--rw=randwrite --bsrange=512-128k --ioengine=psync",
        "--rw=write --bs=1M --ioengine=psync --end_fsync=1",
        "--rw=randwrite --bs=4k --ioengine=libaio --direct=1 --iodepth=16",
        "--rw=randrw --bs=16k --ioengine=mmap",
    ];
    for (n, job) in jobs.into_iter().enumerate() {
        shell(
            &mount.mountpoint,
            &format!(
                "fio --name=job{n} --size=24m --numjobs=2 --verify=crc32c --do_verify=1 --verify_fatal=1 \
             --randseed={n} --fallocate=none --output-format=terse {job}"
            ),
        );
    }
    mount.finish();
}

/// SQLite in both journal modes: two writers, a reader, a killed writer's journal, a vacuum.
#[test]
fn sqlite() {
    sqlite_on(TestMount::new);
}

/// The same on any mount.
pub(crate) fn sqlite_on(mount: impl FnOnce() -> TestMount) {
    need_programs!("sqlite3");
    let mount = mount();
    for mode in ["wal", "delete", "truncate", "persist"] {
        let out = shell(
            &mount.mountpoint,
            &format!(
                r#"
            db={mode}.db
            sqlite3 $db 'pragma journal_mode={mode}; create table t(id integer primary key, who, text)' >/dev/null
            write() {{
                for i in $(seq 40); do
                    sqlite3 -cmd '.timeout 60000' $db "begin immediate; with recursive n(i) as (select 1 union all select i+1 from n limit 20)
                        insert into t(who, text) select '$1', hex(randomblob(i * 10)) from n; commit"
                done
            }}
            write one & one=$!; write two & two=$!
            for i in $(seq 10); do sqlite3 -cmd '.timeout 60000' $db 'select count(*) from t' >/dev/null; done
            wait $one; wait $two
            sqlite3 -cmd '.timeout 60000' $db 'update t set text = lower(text) where id % 3 = 0; delete from t where id % 5 = 0; vacuum'
            sqlite3 $db 'pragma integrity_check; select count(*) from t'"#
            ),
        );
        assert_eq!(out, "ok\n1280\n", "{mode}");
    }
    mount.finish();
}

/// git: commits, branches, merges, clones both ways, gc, fsck.
#[test]
fn git() {
    git_on(TestMount::new);
}

/// The same on any mount.
pub(crate) fn git_on(mount: impl FnOnce() -> TestMount) {
    need_programs!("git");
    let mount = mount();
    shell(
        &mount.mountpoint,
        r#"
        export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        export GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0
        git init -q -b main repo; cd repo; git config gc.auto 0
        for i in $(seq 30); do
            mkdir -p dir$((i % 5)); for j in $(seq 10); do seq $i $((i * j + 50)) > dir$((i % 5))/file$j; done
            git add -A; git commit -qm "commit $i"
        done
        git checkout -qb side HEAD~10; echo side > side; git add side; git commit -qm side
        git checkout -q main; git merge -q -m merge side; git tag v1
        git status --porcelain | (! grep .)
        cd ..; git clone -q repo clone; git clone -q --bare repo bare; git -C clone fsck --strict
        git -C clone commit -q --allow-empty -m more; git -C clone push -q ../bare main
        git -C repo gc -q --prune=now; git -C repo fsck --full --strict; git -C bare repack -adq; git -C bare fsck --full
        git -C repo pull -q ../bare main; git -C repo stash list; git -C repo log --oneline | wc -l
        rm -rf clone; git clone -q bare clone; diff -r --exclude=.git repo clone"#,
    );
    mount.finish();
}

/// A C project of a few dozen files: built in parallel, run from the mount, rebuilt, cleaned.
#[test]
fn a_c_build() {
    need_programs!("make", "gcc", "ar");
    let mount = TestMount::new();
    let dir = mount.at("project");
    std::fs::create_dir_all(dir.join("src")).expect("mkdir");
    let (mut main, mut sum) = (String::from("#include <stdio.h>\n"), String::from("0"));
    for n in 0..40 {
        std::fs::write(
            dir.join(format!("src/m{n}.h")),
            format!("int f{n}(int x);\n"),
        )
        .expect("write");
        let mut code = format!("#include \"m{n}.h\"\n#include <stdlib.h>\n#include <string.h>\n");
        let body =
            format!("int a[64]; memset(a, 0, sizeof a); a[x % 64] = {n}; return a[abs(x) % 64];");
        writeln!(code, "int f{n}(int x) {{ {body} }}").expect("text");
        std::fs::write(dir.join(format!("src/m{n}.c")), code).expect("write");
        writeln!(main, "#include \"m{n}.h\"").expect("text");
        write!(sum, " + f{n}({n})").expect("text");
    }
    writeln!(
        main,
        "int main(void) {{ printf(\"%d\\n\", {sum}); return 0; }}"
    )
    .expect("text");
    std::fs::write(dir.join("src/main.c"), main).expect("write");
    let make = "OBJS := $(patsubst src/%.c,obj/%.o,$(wildcard src/m[0-9]*.c))\n\
        prog: obj/main.o libm.a\n\tgcc -o $@ obj/main.o libm.a\n\
        libm.a: $(OBJS)\n\tar rcs $@ $^\n\
        obj/%.o: src/%.c\n\t@mkdir -p obj\n\tgcc -O1 -g -MMD -c -o $@ $<\n\
        clean:\n\trm -rf obj prog libm.a\n-include obj/*.d\n";
    std::fs::write(dir.join("Makefile"), make).expect("write");
    let script = "make -s -j4 2>&1; ./prog; make -q; touch src/m7.h; ! make -q; make -s; ./prog; make -s clean; make -s -j2; ./prog";
    assert_eq!(shell(&dir, script), "780\n780\n780\n");
    mount.finish();
}

/// A tree of 20,000 files through tar, compared, and half of it removed.
#[test]
fn tar_of_a_large_tree() {
    need_programs!("tar", "diff");
    let mount = TestMount::new();
    let tree = mount.scratch.join("tree");
    let mut rng = Rng::new(20_000);
    for n in 0..20_000 {
        let dir = tree.join(format!("d{}/e{}", n % 40, n % 200));
        if n < 200 {
            std::fs::create_dir_all(&dir).expect("mkdir");
        }
        let len = rng.below(3000);
        std::fs::write(dir.join(format!("f{n}")), rng.bytes(len)).expect("write");
        if n % 50 == 0 {
            std::fs::hard_link(dir.join(format!("f{n}")), dir.join(format!("l{n}"))).expect("link");
            std::os::unix::fs::symlink(format!("f{n}"), dir.join(format!("s{n}")))
                .expect("symlink");
        }
    }
    shell(&mount.scratch, "tar --format=posix -cf tree.tar tree");
    let tar = mount.scratch.join("tree.tar");
    shell(&mount.mountpoint, &format!("tar -xf {}", tar.display()));
    let ignore = crate::support::compare::Ignore::default();
    let found = crate::support::compare::differences(&tree, &mount.at("tree"), ignore);
    assert!(
        found.is_empty(),
        "unpacked: {}",
        crate::support::compare::report(&tree, &mount.at("tree"), &found)
    );
    shell(
        &mount.mountpoint,
        "tar -cf again.tar tree; mkdir x; tar -C x -xf again.tar; diff -r tree x/tree; rm -rf x again.tar",
    );
    shell(
        &mount.mountpoint,
        "rm -rf tree/d[0-9] tree/d1[0-9]; find tree -type f | wc -l",
    );
    mount.finish();
}

/// PostgreSQL as its own user: initdb, pgbench, an unclean stop and recovery, a restart, a dump.
#[test]
fn postgresql() {
    need_root!();
    need_programs!("setpriv", "getent");
    let Some(bin) = postgres_bin() else {
        return crate::support::skip("PostgreSQL is not installed");
    };
    let account = run(Command::new("getent").args(["passwd", "postgres"]));
    if account.code != Some(0) {
        return crate::support::skip("there is no user postgres");
    }
    let mount = TestMount::new();
    let (data, run_dir) = (mount.at("data"), mount.scratch.join("run"));
    std::fs::create_dir(&data).expect("mkdir");
    std::fs::create_dir(&run_dir).expect("mkdir");
    let script = format!(
        r#"
        chown postgres {data} {run}; chmod 700 {data}
        as() {{ setpriv --reuid=postgres --regid=postgres --init-groups env -i PATH={bin}:/usr/bin:/bin LC_ALL=C PGHOST={run} PGDATABASE=postgres "$@"; }}
        stop() {{ as pg_ctl -D {data} -m fast -w stop >/dev/null 2>&1 || true; }}
        trap stop EXIT
        cd {run}
        as initdb -D {data} -E UTF8 --locale=C >/dev/null
        printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '{run}'" "shared_buffers = 16MB" "max_wal_size = 64MB" >> {data}/postgresql.conf
        start() {{ as pg_ctl -D {data} -l {run}/log -w -t 120 start >/dev/null; }}
        start
        as pgbench -i -s 2 -q 2>/dev/null
        as pgbench -n -c 4 -j 2 -t 200 2>/dev/null | grep -q 'transactions actually processed: 800/800'
        as psql -Atc 'checkpoint' >/dev/null
        as pgbench -n -c 2 -t 100 2>/dev/null >/dev/null
        as pg_ctl -D {data} -m immediate -w stop >/dev/null
        start
        as psql -Atc 'select count(*), sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts'
        as psql -qAt -c 'create table t as select g, md5(g::text) from generate_series(1, 20000) g' -c 'create index on t(md5)' -c 'vacuum full pgbench_accounts' -c 'select count(*) from t'
        as pg_dumpall > {run}/dump
        as pg_ctl -D {data} -m fast -w restart -l {run}/log >/dev/null
        as psql -Atc 'select count(*) from pgbench_history'
        stop"#,
        data = data.display(),
        run = run_dir.display(),
        bin = bin.display()
    );
    let out = shell(&mount.scratch, &script);
    let lines: Vec<_> = out
        .lines()
        .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert_eq!(lines, ["200000|t", "20000", "1000"], "{out}");
    mount.finish();
}

/// Debian keeps the server's programs out of PATH.
fn postgres_bin() -> Option<std::path::PathBuf> {
    let found = find("initdb").and_then(|p| p.canonicalize().ok());
    let found = found.and_then(|p| p.parent().map(Path::to_path_buf));
    found.or_else(|| {
        let mut all: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .filter_map(|e| Some(e.ok()?.path().join("bin")))
            .filter(|p| p.join("initdb").is_file())
            .collect();
        all.sort();
        all.pop()
    })
}

/// An ordinary user's mirror carries ordinary work as well.
#[test]
fn as_an_ordinary_user() {
    need_root!();
    crate::need_product!();
    need_programs!("git", "sqlite3", "tar", "fusermount3", "setpriv");
    crate::need_fuse_for_users!();
    let nobody = crate::support::user::NOBODY;
    let mount = crate::support::mount::Wish::default().user(nobody).mount();
    let script = r#"set -euo pipefail; cd "$0"
        export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        git init -q repo; cd repo; for i in $(seq 20); do echo $i > f$i; git add -A; git commit -qm $i; done
        git gc -q; git fsck --full; cd ..; git clone -q repo clone; diff -r --exclude=.git repo clone
        sqlite3 db 'pragma journal_mode=wal; create table t(a); insert into t values(1); insert into t select a + 1 from t; pragma integrity_check' >/dev/null
        tar -cf t.tar repo; mkdir x; tar -C x -xf t.tar; diff -r repo x/repo; chmod -R u+w x; rm -rf x; ln repo/f1 hard; chmod 640 hard"#;
    let mut command = crate::support::user::command(nobody, "bash");
    run(command.args(["-c", script]).arg(&mount.mountpoint)).ok();
    mount.finish();
}
