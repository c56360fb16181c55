// SPDX-License-Identifier: MIT
//! `sync` and `verify` of two directories that no daemon has: their options, what they leave alone, and
//! what they write where.

use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags, utimensat};
use rustix::process::{Pid, Signal, kill_process};

use super::Scene;
use crate::support::compare::{Ignore, differences};
use crate::support::image::Image;
use crate::support::rng::{Rng, seed};
use crate::support::run::{Guarded, MIRRORFS, Ran, run};
use crate::support::user::{self, NOBODY};
use crate::support::{base, temp_in, wait_until};
use crate::{need_product, need_programs, need_root};

/// Exit codes.
const NO: i32 = 1;
const UNKNOWN: i32 = 2;
const INTERRUPTED: i32 = 130;

fn product(verb: &str, words: &[&str], [primary, replica]: [&Path; 2]) -> Ran {
    let mut command = Command::new(MIRRORFS);
    run(command.arg(verb).args(words).args([primary, replica]))
}

fn trees(scene: &Scene) -> [PathBuf; 2] {
    ["primary", "replica"].map(|name| scene.at(name))
}

/// The words of a command, for a shell.
fn typed(verb: &str, words: &str, [primary, replica]: [&Path; 2]) -> String {
    let (primary, replica) = (primary.display(), replica.display());
    format!("{MIRRORFS} {verb} {words} {primary} {replica}")
}

/// What a command writes to a terminal.
fn on_a_terminal(command: &str) -> String {
    let mut script = Command::new("script");
    let ran = run(script.args(["-qec", command, "/dev/null"]));
    ran.out
}

/// Something mounted, until the value goes.
struct Mounted(PathBuf);

impl Mounted {
    fn new(words: &[&str], what: &Path, at: PathBuf) -> Self {
        run(Command::new("mount").args(words).arg(what).arg(&at)).ok();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("-l").arg(&self.0)));
    }
}

/// A directory and a file that are mounted upon: refused, or left out, as a mount leaves them out.
#[test]
fn what_is_mounted_below() {
    need_root!();
    need_product!();
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    for path in ["f", "g"] {
        std::fs::write(p.join(path), path).expect("write");
    }
    std::fs::create_dir(p.join("d")).expect("mkdir");
    std::fs::write(p.join("d/below"), "below").expect("write");
    let dir = Mounted::new(&["-t", "tmpfs"], Path::new("none"), p.join("d"));
    std::fs::write(p.join("d/elsewhere"), "elsewhere").expect("write");
    let both = [&*p, &*r];
    product("sync", &[], both).code(UNKNOWN).says("(EXDEV)");
    product("verify", &[], both).code(UNKNOWN).says("(EXDEV)");
    let file = Mounted::new(&["--bind"], &p.join("f"), p.join("g"));
    product("sync", &["--one-file-system"], both).ok();
    product("verify", &["--one-file-system"], both).ok();
    // Who may not look below a mount leaves out what is there.
    let mut verify = user::command(NOBODY, MIRRORFS);
    verify.args(["verify", "--one-file-system"]).args(both);
    for dir in [scene.dir.path(), &p, &r] {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("chmod");
    }
    if user::with(NOBODY, || std::fs::read_dir(&r).is_ok()) {
        let ran = run(&mut verify).ok();
        assert!(ran.out.starts_with("No differences"), "{ran}");
    }
    drop((dir, file));
    let found = differences(&p, &r, Ignore::default());
    assert!(found.is_empty(), "{found:?}");
}

/// `sync --dry-run` writes names as `verify` does: raw bytes in a pipe, escaped on a terminal.
#[test]
fn names_of_any_bytes() {
    need_product!();
    need_programs!("script");
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9\x1b[31m");
    std::fs::write(p.join(odd), "odd").expect("write");
    let mut command = Command::new(MIRRORFS);
    let out = command.args(["sync", "--dry-run"]).args([&p, &r]).output();
    let out = out.expect("run").stdout;
    let line = b"entry     caf\xe9\x1b[31m  on primary only\n";
    assert!(out.windows(line.len()).any(|part| part == line), "{out:?}");
    for verb in ["sync", "verify"] {
        let words = if verb == "sync" { "--dry-run" } else { "" };
        let shown = on_a_terminal(&typed(verb, words, [&p, &r]));
        assert!(shown.contains(r"caf\xe9\x1b[31m"), "{verb}: {shown:?}");
        assert!(!shown.contains('\x1b'), "{verb}: {shown:?}");
    }
}

/// On a terminal one line that rewrites itself and ends before the answer; in a pipe nothing as long as
/// it is short.
#[test]
fn progress_on_a_terminal_and_in_a_pipe() {
    need_product!();
    need_programs!("script");
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    std::fs::write(p.join("f"), vec![7; 3 << 20]).expect("write");
    let shown = on_a_terminal(&typed("sync", "--bwlimit 2M", [&p, &r]));
    let lines: Vec<_> = shown.lines().collect();
    let [progress, answer] = lines[..] else {
        panic!("{shown:?}");
    };
    assert!(progress.matches("\rseed  ").count() > 1, "{shown:?}");
    assert!(answer.starts_with("Replica "), "{shown:?}");
    let shown = on_a_terminal(&typed("verify", "--bwlimit 2M", [&p, &r]));
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].matches("\rverify  ").count() > 1, "{shown:?}");
    assert_eq!(lines[1..], ["No differences in 1 file."], "{shown:?}");
    let ran = product("verify", &["--bwlimit=2M"], [&p, &r]).ok();
    assert!(ran.err.is_empty(), "{ran}");
}

/// What the replica cannot hold is said, with a command that does without; and what that did without.
#[test]
fn metadata_that_is_lost() {
    need_root!();
    need_product!();
    need_programs!("setpriv");
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    std::fs::write(p.join("roots"), "").expect("write");
    let id = Some(NOBODY.uid);
    for path in [scene.dir.path(), &p, &r] {
        std::os::unix::fs::chown(path, id, id).expect("chown");
    }
    let sync = |words: &[&str]| {
        let mut command = user::command(NOBODY, MIRRORFS);
        run(command.arg("sync").args(words).args([&p, &r]))
    };
    if !user::with(NOBODY, || std::fs::read_dir(&p).is_ok()) {
        return crate::support::skip("an ordinary user does not get to the test's directory");
    }
    let ran = sync(&[]).code(NO).says("[MF-0024]");
    assert!(
        ran.err.contains("sync") && ran.err.contains(" --metadata-loss=warn"),
        "{ran}"
    );
    let ran = sync(&["--metadata-loss=warn"]).ok();
    ran.says("loss: roots: owner 0:0");
    product("verify", &[], [&p, &r]).ok();
}

/// `--quick` reads content where size or time differ, and nowhere else.
#[test]
fn quick_says_where_it_differs() {
    need_product!();
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    for name in ["same", "other"] {
        std::fs::write(p.join(name), vec![7; 100_000]).expect("write");
    }
    let both = [&*p, &*r];
    product("sync", &[], both).ok();
    for name in ["same", "other"] {
        let file = std::fs::File::options().write(true).open(r.join(name));
        let file = file.expect("open");
        let before = file.metadata().and_then(|stat| stat.modified());
        file.write_all_at(b"x", 50_000).expect("write");
        if name == "same" {
            file.set_modified(before.expect("stat")).expect("utimens");
        }
    }
    for (verb, words) in [("verify", "--quick"), ("sync", "--dry-run")] {
        let ran = product(verb, &[words], both).code(NO);
        let data: Vec<_> = ran.out.lines().filter(|l| l.starts_with("data")).collect();
        let [line] = data[..] else { panic!("{ran}") };
        assert!(line.contains(" other  "), "{ran}");
        assert!(line.ends_with("4 KiB differ at 49152"), "{ran}");
    }
}

/// Neither seeding nor comparing moves the times of access of what it reads.
#[test]
fn access_times_stay() {
    need_product!();
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    std::fs::create_dir(p.join("d")).expect("mkdir");
    std::fs::write(p.join("d/f"), vec![7; 100_000]).expect("write");
    // So long ago that even relatime would move them.
    let time = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 7,
    };
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: omit,
    };
    let all = ["d/f", "d", ""].map(|path| p.join(path));
    for path in &all {
        utimensat(CWD, path, &times, AtFlags::empty()).expect("utimensat");
    }
    let both = [&*p, &*r];
    product("sync", &[], both).ok();
    product("verify", &[], both).ok();
    product("sync", &["--full"], both).ok();
    scene.mount("primary", "mnt", "replica", &[]).ok();
    let mountpoint = scene.at("mnt");
    run(Command::new(MIRRORFS).arg("verify").arg(&mountpoint)).ok();
    run(Command::new(MIRRORFS).arg("umount").arg(&mountpoint)).ok();
    for path in &all {
        let stat = std::fs::metadata(path).expect("stat");
        let atime = (stat.atime(), stat.atime_nsec());
        assert_eq!(atime, (1_000_000_000, 7), "{}", path.display());
    }
    assert_eq!(
        std::fs::metadata(r.join("d/f")).expect("stat").atime(),
        1_000_000_000,
        "the copy has that of the primary"
    );
}

/// Copies on one file system that can share blocks share them; attributes are as large as they may be.
#[test]
fn on_one_file_system_blocks_are_shared() {
    need_root!();
    need_product!();
    need_programs!("mkfs.xfs");
    let image = Image::new("xfs", 512, &["-m", "reflink=1"]);
    let [p, r] = ["p", "r"].map(|name| {
        let dir = image.path().join(name);
        std::fs::create_dir(&dir).expect("mkdir");
        dir
    });
    std::fs::write(p.join("f"), vec![7; 64 << 20]).expect("write");
    let value = vec![b'v'; 65_536];
    rustix::fs::setxattr(p.join("f"), c"user.large", &value, XattrFlags::empty()).expect("xattr");
    let used = || {
        let root = rustix::fs::open(image.path(), OFlags::RDONLY, Mode::empty()).expect("open");
        rustix::fs::syncfs(&root).expect("syncfs");
        let fs = rustix::fs::fstatvfs(&root).expect("statvfs");
        (fs.f_blocks - fs.f_bfree) * fs.f_frsize
    };
    let before = used();
    product("sync", &[], [&p, &r]).ok();
    let more = used() - before;
    assert!(more < 8 << 20, "{more} bytes more");
    let found = differences(&p, &r, Ignore::default());
    assert!(found.is_empty(), "{found:?}");
}

/// What applications have read stays in memory, and what only the comparison reads does not get there.
#[test]
fn the_page_cache_is_left_alone() {
    need_root!();
    need_product!();
    need_programs!("fincore");
    // `RWF_DONTCACHE` is for ext4, xfs and a few others.
    let image = Image::new("ext4", 256, &[]);
    let [p, r] = ["p", "r"].map(|name| image.path().join(name));
    for dir in [&p, &r] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    for name in ["hot", "cold"] {
        std::fs::write(p.join(name), vec![7; 32 << 20]).expect("write");
    }
    product("sync", &[], [&p, &r]).ok();
    let all = [p.join("hot"), p.join("cold"), r.join("hot"), r.join("cold")];
    let forget = || {
        for path in &all {
            let file = std::fs::File::open(path).expect("open");
            file.sync_all().expect("fsync");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
        }
    };
    let resident = || {
        let mut fincore = Command::new("fincore");
        let ran = run(fincore
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .args(&all))
        .ok();
        let bytes = ran.out.lines().map(|line| line.trim().parse::<u64>());
        bytes.collect::<Result<Vec<_>, _>>().expect("numbers")
    };
    forget();
    if resident() != [0; 4] {
        return crate::support::skip("this kernel keeps pages that it was told to forget");
    }
    // A page that the kernel is moving counts as absent for a moment.
    let is_hot = || resident()[0] == 32 << 20;
    assert_eq!(std::fs::read(&all[0]).expect("read").len(), 32 << 20);
    wait_until("it is in memory", is_hot);
    assert_eq!(resident()[1], 0);
    product("verify", &[], [&p, &r]).ok();
    wait_until("what was read before is still there", is_hot);
    let after = resident();
    // A page under way when another reader came is kept.
    for (path, bytes) in all.iter().zip(after).skip(1) {
        assert!(bytes <= 1 << 20, "{bytes} bytes of {}", path.display());
    }
}

/// Control-C ends it with 130, and the same command goes on.
#[test]
fn interrupted() {
    need_product!();
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    for n in 0..8 {
        std::fs::write(p.join(n.to_string()), vec![n; 1 << 20]).expect("write");
    }
    let begun = |verb: &str| {
        let mut command = Command::new(MIRRORFS);
        command.args([verb, "--bwlimit=1M"]).args([&p, &r]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = Guarded(command.spawn().expect("spawn"));
        let status = format!("/proc/{}/status", child.0.id());
        // Blocked: from then on it is waited for.
        wait_until("it listens", || {
            let status = std::fs::read_to_string(&status).expect("status");
            let mask = status.lines().find_map(|l| l.strip_prefix("SigBlk:\t"));
            let mask = u64::from_str_radix(mask.expect("a mask"), 16).expect("hex");
            mask & 1 << (libc::SIGINT - 1) != 0
        });
        child
    };
    let ends = |mut child: Guarded| {
        let pid = Pid::from_raw(i32::try_from(child.0.id()).expect("a pid")).expect("a pid");
        kill_process(pid, Signal::INT).expect("kill");
        child.0.wait().expect("wait").code()
    };
    let child = begun("sync");
    wait_until("it copies", || r.join("0").exists());
    assert_eq!(ends(child), Some(INTERRUPTED));
    assert!(!r.join("7").exists(), "it was too quick for this test");
    product("verify", &[], [&p, &r]).code(NO);
    product("sync", &[], [&p, &r]).ok();
    assert_eq!(ends(begun("verify")), Some(INTERRUPTED));
    product("verify", &[], [&p, &r]).ok();
}

/// Killed at any moment, and begun again: in the end the copies are equal. Nobody calls equal what is
/// not.
#[test]
fn killed_and_begun_again() {
    need_root!();
    need_product!();
    const DIRS: usize = 60;
    const KILLS: usize = 20;
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    for dir in 0..DIRS {
        let dir = p.join(dir.to_string());
        std::fs::create_dir(&dir).expect("mkdir");
        for n in 0..50_u8 {
            std::fs::write(dir.join(n.to_string()), vec![n; 2000]).expect("write");
        }
        std::fs::hard_link(dir.join("7"), dir.with_extension("link")).expect("link");
        rustix::fs::setxattr(dir.join("8"), c"user.x", &[7; 3000], XattrFlags::empty())
            .expect("setxattr");
        let large = std::fs::File::create(dir.join("large")).expect("create");
        large.write_all_at(&[3; 200_000], 5 << 20).expect("write");
        std::fs::set_permissions(&dir, Permissions::from_mode(0o750)).expect("chmod");
    }
    let complete = names(&p);
    let mut random = Rng::new(seed("offline"));
    let mut caught = 0;
    for _ in 0..KILLS {
        let mut command = Command::new(MIRRORFS);
        command.args(["sync", "--bwlimit=24M"]).args([&p, &r]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Guarded(command.spawn().expect("spawn"));
        let then = names(&r) + random.below(2 * complete / KILLS);
        wait_until("it copies", || {
            names(&r) >= then || child.0.try_wait().expect("wait").is_some()
        });
        child.0.kill().expect("kill");
        if !child.0.wait().expect("wait").success() {
            // Nothing is missing where it was ended between the last copy and its last word.
            let ran = product("verify", &[], [&p, &r]);
            assert!(ran.code == Some(NO) || ran.code == Some(0), "{ran}");
            caught += usize::from(ran.code == Some(NO));
        }
    }
    assert!(caught > KILLS / 2, "{caught} of {KILLS}");
    product("sync", &[], [&p, &r]).ok();
    product("verify", &[], [&p, &r]).ok();
    let found = differences(&p, &r, Ignore::default());
    assert!(found.is_empty(), "{found:?}");
}

/// How many names are below a directory.
fn names(dir: &Path) -> usize {
    let Ok(list) = std::fs::read_dir(dir) else {
        return 0;
    };
    list.flatten()
        .map(|entry| {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            1 + if is_dir { names(&entry.path()) } else { 0 }
        })
        .sum()
}

/// A stranger's directory with names of other types is refused like any other; told to, it is replaced.
#[test]
fn names_of_another_type() {
    need_root!();
    need_product!();
    let make: [(&str, Make); 7] = [
        ("file", |path| std::fs::write(path, "x").expect("write")),
        ("directory", |path| {
            std::fs::create_dir(path).expect("mkdir");
            std::fs::write(path.join("in"), "").expect("write");
        }),
        ("symlink", |path| {
            std::os::unix::fs::symlink("in", path).expect("symlink");
        }),
        ("fifo", |path| node(path, rustix::fs::FileType::Fifo)),
        ("socket", |path| node(path, rustix::fs::FileType::Socket)),
        ("character", |path| {
            node(path, rustix::fs::FileType::CharacterDevice);
        }),
        ("block", |path| {
            node(path, rustix::fs::FileType::BlockDevice);
        }),
    ];
    let scene = Scene::new();
    let [p, r] = trees(&scene);
    for (one, make_one) in make {
        for (other, make_other) in make {
            let name = format!("{one}-{other}");
            make_one(&p.join(&name));
            make_other(&r.join(&name));
        }
    }
    let both = [&*p, &*r];
    let before = crate::support::compare::listing(&r);
    let ran = product("sync", &[], both).code(NO).says("[MF-0022]");
    assert_eq!(crate::support::compare::listing(&r), before);
    for (one, _) in make {
        for (other, _) in make.iter().filter(|(other, _)| *other != one) {
            let line = format!("entry     {one}-{other}  {one}");
            assert!(ran.err.contains(&line), "lacks {line:?}: {ran}");
        }
    }
    product("sync", &["--init"], both).ok();
    let found = differences(&p, &r, Ignore::default());
    assert!(found.is_empty(), "{found:?}");
}

/// Makes an object of some type under a path.
type Make = fn(&Path);

fn node(path: &Path, kind: rustix::fs::FileType) {
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, device).expect("mknod");
}

/// So much memory a name, at most: a million in one directory, that is 190 MiB.
const BYTES_A_NAME: u64 = 200;

#[test]
fn names_take_little_memory() {
    need_product!();
    need_programs!("time");
    const NAMES: u64 = 50_000;
    let dir = temp_in(&base());
    let make = |name: &str| {
        let pair = ["p", "r"].map(|copy| dir.path().join(name).join(copy));
        for dir in &pair {
            std::fs::create_dir_all(dir).expect("mkdir");
        }
        pair
    };
    let (none, many) = (make("none"), make("many"));
    for n in 0..NAMES {
        let name = format!("{n:08}.jpg");
        std::fs::write(many[0].join(name), "").expect("write");
    }
    let peak = |verb: &str, [p, r]: &[PathBuf; 2]| {
        let mut time = Command::new(crate::support::run::find("time").expect("time"));
        time.args(["-q", "-f", "%M", MIRRORFS, verb]).args([p, r]);
        let ran = run(&mut time).ok();
        let kib = ran
            .err
            .lines()
            .next_back()
            .and_then(|l| l.parse::<u64>().ok());
        kib.expect("a number") * 1024
    };
    for verb in ["sync", "verify"] {
        let (base, peak) = (peak(verb, &none), peak(verb, &many));
        let each = peak.saturating_sub(base) / NAMES;
        eprintln!("{verb}: {each} bytes for each of {NAMES} names");
        assert!(each <= BYTES_A_NAME, "{verb}: {each} bytes a name");
    }
}
