// SPDX-License-Identifier: MIT
//! `verify MOUNTPOINT`: whatever somebody did to the replica behind the mount's back is found, named
//! and, when asked, repaired; and what is only under way is never taken for it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, utimensat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::image::Image;
use crate::support::mount::{TestMount, Wish};
use crate::support::rng::{Rng, seed};
use crate::support::run::{Guarded, MIRRORFS, Ran, run};
use crate::support::{setting, wait_until};
use crate::{need_healing, need_product, need_programs, need_root};

/// Exit codes of the verb.
const DIFFERENT: i32 = 1;
const UNKNOWN: i32 = 2;
const INTERRUPTED: i32 = 130;

/// Changes something in a directory of the replica and gives every path in `keep` its mtime back.
fn behind(root: &Path, keep: &[&str], work: impl FnOnce()) {
    let times: Vec<_> = keep
        .iter()
        .map(|path| {
            let stat = std::fs::symlink_metadata(root.join(path)).expect("stat");
            (root.join(path), stat.mtime(), stat.mtime_nsec())
        })
        .collect();
    work();
    for (path, tv_sec, tv_nsec) in times {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
    }
}

/// Turns one byte round; size and mtime stay.
fn flip(root: &Path, path: &str, at: u64) {
    behind(root, &[path], || {
        let options = std::fs::File::options()
            .read(true)
            .write(true)
            .open(root.join(path));
        let file = options.expect("open");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[!byte[0]], at).expect("write");
    });
}

/// What `verify --json` lists: kind, path, offset.
fn listed(ran: &Ran) -> BTreeSet<(String, String, Option<u64>)> {
    let json: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran}"));
    let found = json["differences"].as_array().expect("an array").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let found: BTreeSet<_> = found
        .map(|one| {
            (
                text(&one["kind"]),
                text(&one["path"]),
                one["offset"].as_u64(),
            )
        })
        .collect();
    assert!(
        json["differences_total"].as_u64() >= Some(found.len() as u64),
        "{ran}"
    );
    found
}

fn expected(list: &[(&str, &str, Option<u64>)]) -> BTreeSet<(String, String, Option<u64>)> {
    let own = |&(kind, path, offset): &(&str, &str, _)| (kind.to_owned(), path.to_owned(), offset);
    list.iter().map(own).collect()
}

/// A small world of every kind of object.
fn fill(mount: &TestMount) {
    for dir in ["d", "d/deep", "d/deep/er", "quiet", "going", "going/down"] {
        std::fs::create_dir(mount.at(dir)).expect("mkdir");
    }
    for file in [
        "d/flip",
        "d/cut",
        "d/mode",
        "d/xattr",
        "d/missing",
        "d/kind",
        "quiet/f",
        "going/down/f",
    ] {
        std::fs::write(mount.at(file), vec![7; 300_000]).expect("write");
    }
    for file in ["d/a", "d/deep/er/f"] {
        std::fs::write(mount.at(file), "one inode").expect("write");
    }
    std::fs::hard_link(mount.at("d/a"), mount.at("d/deep/b")).expect("link");
    std::os::unix::fs::symlink("target", mount.at("d/sym")).expect("symlink");
    // More than is held at once.
    let large = std::fs::File::create(mount.at("d/large")).expect("create");
    large
        .write_all_at(&[1; 4096], (20 << 20) - 4096)
        .expect("write");
    large
        .write_all_at(&vec![2; 1 << 20], 36 << 20)
        .expect("write");
    // Nothing is on its way any more, times included.
    mount.product("sync", &[]).ok();
    drop(large);
    mount.product("sync", &[]).ok();
}

/// Everything that can be wrong is found where it is, nothing else is, and a repair makes it right.
#[test]
fn what_was_changed_behind_the_mount_is_found_and_repaired() {
    need_product!();
    need_healing!();
    for mode in ["mode=sync", "mode=async"] {
        let mount = Wish::default().arg("-o").arg(mode).mount();
        fill(&mount);
        let ran = mount.product("verify", &[]).ok();
        assert!(ran.out.starts_with("No differences in "), "{ran}");
        let root = mount.replica.clone();
        let at = |path: &str| root.join(path);
        flip(&root, "d/flip", 70_000);
        flip(&root, "d/large", (36 << 20) + 5000);
        behind(&root, &["d", "d/deep", "d/deep/er"], || {
            behind(&root, &["d/cut"], || {
                std::fs::File::options()
                    .write(true)
                    .open(at("d/cut"))
                    .expect("open")
                    .set_len(1000)
                    .expect("truncate");
            });
            std::fs::set_permissions(at("d/mode"), std::fs::Permissions::from_mode(0o600))
                .expect("chmod");
            rustix::fs::setxattr(at("d/xattr"), c"user.odd", b"x", XattrFlags::empty())
                .expect("setxattr");
            std::fs::remove_file(at("d/missing")).expect("unlink");
            std::fs::create_dir_all(at("d/extra/tree")).expect("mkdir");
            std::fs::write(at("d/extra/tree/f"), "extra").expect("write");
            std::fs::remove_file(at("d/kind")).expect("unlink");
            std::fs::create_dir(at("d/kind")).expect("mkdir");
            behind(&root, &["d/sym"], || {
                std::fs::remove_file(at("d/sym")).expect("unlink");
                std::os::unix::fs::symlink("tarpit", at("d/sym")).expect("symlink");
            });
            behind(&root, &["d/deep/b"], || {
                std::fs::remove_file(at("d/deep/b")).expect("unlink");
                std::fs::write(at("d/deep/b"), "one inode").expect("write");
            });
            std::fs::remove_dir_all(at("d/deep/er")).expect("rmdir");
            // Only so that its time can be given back.
            std::fs::create_dir(at("d/deep/er")).expect("mkdir");
        });
        std::fs::remove_dir_all(at("going")).expect("rmdir");
        let all = expected(&[
            ("data", "d/flip", Some(69_632)),
            ("data", "d/large", Some((36 << 20) + 4096)),
            ("data", "d/cut", None),
            ("metadata", "d/mode", None),
            ("metadata", "d/xattr", None),
            ("entry", "d/missing", None),
            ("entry", "d/extra", None),
            ("entry", "d/kind", None),
            ("entry", "d/sym", None),
            ("entry", "d/deep/b", None),
            ("entry", "d/deep/er/f", None),
            ("entry", "going", None),
            ("metadata", "", None),
        ]);
        let ran = mount.product("verify", &["--json"]).code(DIFFERENT);
        assert_eq!(listed(&ran), all, "{ran}");
        let ran = mount.product("verify", &[]).code(DIFFERENT);
        assert!(ran.out.contains("4 KiB differ at 69632"), "{ran}");
        let repair = format!(
            "To repair: mirrorfs verify --repair {}",
            mount.mountpoint.display()
        );
        assert!(ran.out.trim_end().ends_with(&repair), "{ran}");
        assert!(
            at("d/extra").exists() && !at("d/missing").exists(),
            "a report changes nothing"
        );
        let json = mount.status_json();
        assert_eq!(json["state"], "unverified", "{json}");
        let scan = &json["scan"];
        assert_eq!(scan["kind"], "verify", "{json}");
        assert!(
            scan["differences"].as_u64() >= Some(13) && scan["bytes"].as_u64() > Some(0),
            "{json}"
        );

        let ran = mount.product("verify", &["--repair", "--json"]).ok();
        assert_eq!(listed(&ran), all, "{ran}");
        let json: Value = serde_json::from_str(&ran.out).expect("json");
        assert_eq!(json["repaired"], true);
        assert_eq!(mount.state(), "in-sync");
        mount.assert_equal();
        let ran = mount.product("verify", &[]).ok();
        assert!(ran.out.starts_with("No differences in "), "{ran}");
        assert_eq!(mount.status_json()["scan"]["differences"], 0);
        // The mount goes on with what was repaired.
        for file in ["d/missing", "d/kind", "d/deep/b", "going/down/f"] {
            std::fs::write(mount.at(file), "after the repair").expect("write");
        }
        std::fs::write(mount.at("d/deep/er/new"), "new").expect("write");
        assert_eq!(mount.state(), "in-sync", "{}", mount.log_text());
        mount.finish();
    }
}

/// `--quick` believes size and time, says so, and does not call well what it has not read.
#[test]
fn quick_believes_size_and_time() {
    need_product!();
    need_healing!();
    let mount = TestMount::new();
    fill(&mount);
    flip(&mount.replica, "quiet/f", 5000);
    let ran = mount.product("verify", &["--quick"]).ok();
    assert!(
        ran.out
            .contains("Content was not read where size and time agree."),
        "{ran}"
    );
    let json = mount.status_json();
    assert_eq!(
        (&json["scan"]["kind"], &json["state"]),
        (&"verify --quick".into(), &"in-sync".into())
    );
    let found = expected(&[("data", "quiet/f", Some(4096))]);
    let ran = mount.product("verify", &["--json"]).code(DIFFERENT);
    assert_eq!(listed(&ran), found);
    assert_eq!(mount.state(), "unverified");
    // What reading has shown is not believed away.
    mount.product("verify", &["--quick"]).ok();
    assert_eq!(mount.state(), "unverified");
    let ran = mount.status();
    assert!(
        ran.out.contains("quiet/f") && ran.out.contains("--repair"),
        "{ran}"
    );
    // Put right by hand.
    flip(&mount.replica, "quiet/f", 5000);
    mount.product("verify", &[]).ok();
    assert_eq!(mount.state(), "in-sync");

    // Where the time differs quick reads, and repairs what it finds.
    let file = std::fs::File::options()
        .write(true)
        .open(mount.replica.join("quiet/f"));
    file.expect("open")
        .write_all_at(b"odd", 9000)
        .expect("write");
    let ran = mount
        .product("verify", &["--quick", "--json"])
        .code(DIFFERENT);
    let found = expected(&[
        ("data", "quiet/f", Some(8192)),
        ("metadata", "quiet/f", None),
    ]);
    assert_eq!(listed(&ran), found);
    mount.product("verify", &["--quick", "--repair"]).ok();
    mount.finish();
}

/// What a working mount does, for ever.
fn work(dir: &Path, seed: u64, round: u64) {
    let at = |name: String| dir.join(name);
    let n = (seed * 7 + round) % 13;
    let file = at(format!("f{n}"));
    std::fs::write(
        &file,
        vec![round as u8; 1 + (round as usize * 4099) % 60_000],
    )
    .expect("write");
    let append = std::fs::File::options()
        .append(true)
        .create(true)
        .open(at("log".into()));
    std::io::Write::write_all(&mut append.expect("open"), &[round as u8; 3000]).expect("append");
    std::fs::set_permissions(
        &file,
        std::fs::Permissions::from_mode(0o600 + (round % 64) as u32),
    )
    .expect("chmod");
    std::fs::create_dir_all(at(format!("sub{}/deep", round % 3))).expect("mkdir");
    std::fs::rename(&file, at(format!("sub{}/deep/g{n}", round % 3))).expect("rename");
    std::fs::remove_dir_all(at("moved".into())).ok();
    std::fs::rename(at(format!("sub{}", round % 3)), at("moved".into())).expect("rename");
    let link = at(format!("link{}", round % 4));
    std::fs::remove_file(&link).ok();
    std::fs::hard_link(at("log".into()), link).expect("link");
    rustix::fs::setxattr(
        at("log".into()),
        c"user.round",
        &round.to_le_bytes(),
        XattrFlags::empty(),
    )
    .expect("setxattr");
    let large = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(at("large".into()));
    large
        .expect("open")
        .write_all_at(&[round as u8; 9000], (round * 1_234_567) % (40 << 20))
        .expect("write");
}

/// Threads at work until they are told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn new(mount: &TestMount, threads: u64) -> Self {
        let (stop, rounds) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let begin = |seed: u64| {
            let dir: PathBuf = mount.at(format!("busy{seed}"));
            std::fs::create_dir(&dir).expect("mkdir");
            let (stop, rounds) = (stop.clone(), rounds.clone());
            std::thread::spawn(move || {
                for round in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    work(&dir, seed, round);
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let threads = (0..threads).map(begin).collect();
        Self {
            stop,
            rounds,
            threads,
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("work");
        }
    }
}

/// Too many names to look at before they are served: what was changed behind the back of the mount is
/// found while programs go on, and nothing else is.
#[test]
fn a_large_tree_is_looked_at_while_it_is_served() {
    need_root!();
    need_product!();
    need_programs!("cp");
    let image = Image::new("ext4", 512, &["-b", "4096", "-N", "50000"]);
    let mut mount = Wish::default().base(&image.path()).prepare();
    for number in 0..20_500 {
        let path = mount.primary.join(format!("{}/{number}", number / 1000));
        if number % 1000 == 0 {
            std::fs::create_dir(path.parent().expect("a parent")).expect("mkdir");
        }
        std::fs::write(path, "").expect("write");
    }
    std::fs::remove_dir(&mount.replica).expect("rmdir");
    let mut copy = Command::new("cp");
    run(copy.arg("-a").args([&mount.primary, &mount.replica])).ok();
    mount.try_mount(&["--adopt"]).ok();
    mount.umount();
    behind(&mount.replica, &["7/7123"], || {
        std::fs::write(mount.replica.join("7/7123"), "tampered with").expect("write");
    });
    mount.mount();
    assert_eq!(mount.state(), "unverified");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                let path = mount.at(format!("{}/new", number % 20));
                std::fs::write(&path, "new").expect("write");
                std::fs::remove_file(path).expect("unlink");
                number += 1;
            }
        });
        wait_until("it was found", || mount.status().out.contains("7/7123"));
        over.store(true, Ordering::Relaxed);
    });
    let status = mount.status();
    assert!(
        status.out.contains("Differences: 1, such as 7/7123: "),
        "{status}"
    );
    mount.product("verify", &["--repair"]).ok();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// Comparing a busy mirror: nothing under way is a difference, and what is one is found all the same,
/// wherever it is moved meanwhile.
#[test]
fn a_busy_mirror_gives_no_false_alarm() {
    need_product!();
    need_healing!();
    for mode in ["mode=sync", "mode=async"] {
        let mount = Wish::default().arg("-o").arg(mode).mount();
        fill(&mount);
        let busy = Busy::new(&mount, 3);
        let verifies = setting("MIRRORFS_VERIFIES", 4);
        for n in 0..verifies {
            let before = busy.rounds.load(Ordering::SeqCst);
            wait_until("work", || busy.rounds.load(Ordering::SeqCst) > before);
            let quick: &[&str] = if n % 3 == 2 { &["--quick"] } else { &[] };
            let ran = mount.product("verify", quick).ok();
            assert!(ran.out.starts_with("No differences in "), "{ran}");
        }
        assert_eq!(mount.status_json()["scan"]["differences"], 0);
        flip(&mount.replica, "quiet/f", 200_000);
        flip(&mount.replica, "d/large", (36 << 20) + 5000);
        let stop = Arc::new(AtomicBool::new(false));
        let swinging = {
            let (stop, at) = (stop.clone(), mount.at("quiet"));
            let there = mount.at("z-quiet");
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    std::fs::rename(&at, &there).expect("rename");
                    std::fs::rename(&there, &at).expect("rename");
                }
            })
        };
        for _ in 0..verifies {
            let ran = mount.product("verify", &["--json"]).code(DIFFERENT);
            let found = listed(&ran);
            let of = |path: &str| {
                let is_it = |one: &&(String, String, Option<u64>)| one.1 == path;
                found.iter().find(is_it).map(|one| (one.0.as_str(), one.2))
            };
            assert_eq!(
                of("d/large"),
                Some(("data", Some((36 << 20) + 4096))),
                "{ran}"
            );
            // It may be moved past the walk.
            let moved = of("quiet/f").or_else(|| of("z-quiet/f"));
            assert_eq!(
                moved.unwrap_or(("data", Some(196_608))),
                ("data", Some(196_608)),
                "{ran}"
            );
            assert_eq!(found.len(), 1 + usize::from(moved.is_some()), "{ran}");
        }
        stop.store(true, Ordering::SeqCst);
        swinging.join().expect("renames");
        busy.end();
        mount.product("verify", &["--repair"]).ok();
        assert!(
            mount
                .product("verify", &[])
                .ok()
                .out
                .starts_with("No differences")
        );
        mount.finish();
    }
}

/// A replica that is set aside, or away, is not compared: the answer says what to do.
#[test]
fn what_is_known_to_differ_is_not_compared() {
    need_product!();
    need_healing!();
    let mut mount = TestMount::new();
    fill(&mount);
    mount.product("pause", &[]).ok();
    let ran = mount.product("verify", &[]).code(DIFFERENT);
    ran.says("mirrorfs resume ");
    mount.product("resume", &[]).ok();
    mount.product("sync", &[]).ok();
    mount.product("verify", &[]).ok();
    mount.umount();
    let aside = mount.scratch.join("aside");
    std::fs::rename(&mount.replica, &aside).expect("rename");
    mount.try_mount(&["-o", "degraded"]).ok();
    let ran = mount.product("verify", &["--repair"]).code(DIFFERENT);
    ran.says("mirrorfs sync ");
    assert_eq!(mount.state(), "degraded");
    mount.umount();
    std::fs::rename(&aside, &mount.replica).expect("rename");
    mount.mount();
    mount.product("sync", &[]).ok();
    mount.finish();
}

/// Control-C ends a comparison soon, and the next one can begin.
#[test]
fn a_comparison_can_be_stopped() {
    need_product!();
    need_healing!();
    let mount = Wish::default().arg("-o").arg("bwlimit=1M").mount();
    std::fs::write(mount.at("large"), vec![7; 64 << 20]).expect("write");
    mount.product("sync", &[]).ok();
    let spawn = || {
        let mut command = Command::new(MIRRORFS);
        command.arg("verify").arg(&mount.mountpoint);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Guarded(command.spawn().expect("spawn"))
    };
    let mut child = spawn();
    // Once the daemon is at it, another is turned away; or ours is, by this one.
    wait_until("the comparison", || {
        if child.0.try_wait().expect("wait").is_some() {
            child = spawn();
        }
        let other = mount.product("verify", &["--quick"]);
        other.err.contains("being compared already") && child.0.try_wait().expect("wait").is_none()
    });
    let pid = i32::try_from(child.0.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), Signal::INT).expect("kill");
    assert_eq!(child.0.wait().expect("wait").code(), Some(INTERRUPTED));
    wait_until("its end", || {
        mount.product("verify", &["--quick"]).code == Some(0)
    });
    mount.finish();
}

/// Unmounted: a mirror's own replica is made equal; what is not known to be one is not touched.
#[test]
fn repair_of_an_unmounted_mirror() {
    need_product!();
    need_healing!();
    let mut mount = TestMount::new();
    fill(&mount);
    mount.umount();
    let (primary, replica) = (mount.primary.clone(), mount.replica.clone());
    let verify = |primary: &Path, replica: &Path, more: &[&str]| {
        let mut command = Command::new(MIRRORFS);
        crate::support::run::run(command.arg("verify").arg(primary).arg(replica).args(more))
    };
    flip(&replica, "quiet/f", 5000);
    behind(&replica, &[""], || {
        std::fs::write(replica.join("extra"), "").expect("write");
    });
    let all = expected(&[("data", "quiet/f", Some(4096)), ("entry", "extra", None)]);
    let ran = verify(&primary, &replica, &["--repair", "--json"]).ok();
    assert_eq!(listed(&ran), all, "{ran}");
    assert_eq!(
        verify(&primary, &replica, &[]).ok().out,
        "No differences in 12 files.\n"
    );

    // Two directories that are no mirror.
    let (a, b) = (mount.scratch.join("a"), mount.scratch.join("b"));
    for dir in [&a, &b] {
        std::fs::create_dir(dir).expect("mkdir");
        std::fs::write(dir.join("f"), dir.as_os_str().as_bytes()).expect("write");
    }
    verify(&a, &b, &["--repair"]).code(DIFFERENT);
    assert_eq!(
        std::fs::read(b.join("f")).expect("read"),
        b.as_os_str().as_bytes()
    );
    verify(&a, &a, &["--repair"]).code(UNKNOWN);
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// An ordinary user's mirror is compared by its daemon too.
#[test]
fn a_users_mirror_is_compared() {
    need_root!();
    need_product!();
    need_healing!();
    crate::need_programs!("fusermount3", "setpriv");
    crate::need_fuse_for_users!();
    let mut mount = Wish::default().user(crate::support::user::NOBODY).prepare();
    std::fs::write(mount.primary.join("f"), vec![7; 9000]).expect("write");
    let user = crate::support::user::NOBODY;
    std::os::unix::fs::chown(mount.primary.join("f"), Some(user.uid), Some(user.gid))
        .expect("chown");
    mount.try_mount(&[]).ok();
    assert!(
        mount
            .product("verify", &[])
            .ok()
            .out
            .starts_with("No differences")
    );
    flip(&mount.replica, "f", 5000);
    let ran = mount.product("verify", &["--json"]).code(DIFFERENT);
    assert_eq!(listed(&ran), expected(&[("data", "f", Some(4096))]));
    mount.product("verify", &["--repair"]).ok();
    mount.finish();
}

/// One difference as `verify` lists it; of a flipped bit with its place.
type Injury = (String, String, Option<u64>);

/// Does something to a file of the replica, and leaves no trace of that elsewhere.
fn injure(root: &Path, path: &str, size: usize, rng: &mut Rng) -> Injury {
    let at = root.join(path);
    let dir = path.rsplit_once('/').expect("a directory").0;
    let open = || {
        let mut options = std::fs::File::options();
        options.read(true).write(true).open(&at).expect("open")
    };
    let (kind, other, offset) = match rng.below(12) {
        0 => {
            behind(root, &[path], || {
                open().set_len(rng.below(size) as u64).expect("truncate");
            });
            ("data", path.to_owned(), None)
        }
        1 => {
            behind(root, &[path], || {
                open().set_len(size as u64 + 1).expect("truncate");
            });
            ("data", path.to_owned(), None)
        }
        2 => {
            let mode = 0o600 + u32::try_from(rng.below(0o44)).expect("small");
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).expect("chmod");
            ("metadata", path.to_owned(), None)
        }
        3 => {
            let time = Timespec {
                tv_sec: i64::try_from(rng.below(1 << 33)).expect("small") - (1 << 31),
                tv_nsec: i64::try_from(rng.below(1_000_000_000)).expect("small"),
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            utimensat(CWD, &at, &times, AtFlags::empty()).expect("utimensat");
            ("metadata", path.to_owned(), None)
        }
        4 => {
            let value = rng.bytes(20);
            rustix::fs::setxattr(&at, "user.injury", &value, XattrFlags::empty())
                .expect("setxattr");
            ("metadata", path.to_owned(), None)
        }
        5 => {
            behind(root, &[dir], || std::fs::remove_file(&at).expect("unlink"));
            ("entry", path.to_owned(), None)
        }
        6 => {
            let extra = format!("{path}.extra");
            behind(root, &[dir], || {
                std::fs::write(root.join(&extra), "x").expect("write");
            });
            ("entry", extra, None)
        }
        7 => {
            behind(root, &[dir], || {
                std::fs::remove_file(&at).expect("unlink");
                std::fs::create_dir(&at).expect("mkdir");
            });
            ("entry", path.to_owned(), None)
        }
        _ => {
            let (at, bit) = (rng.below(size) as u64, 1 << rng.below(8));
            behind(root, &[path], || {
                let (file, mut byte) = (open(), [0]);
                file.read_exact_at(&mut byte, at).expect("read");
                file.write_all_at(&[byte[0] ^ bit], at).expect("write");
            });
            ("data", path.to_owned(), Some(at - at % 4096))
        }
    };
    (kind.to_owned(), other, offset)
}

/// docs/SAFETY.md: every flipped bit is found, at its place, and every other injury, and nothing else;
/// mounted and not. `MIRRORFS_FLIPS`: more.
#[test]
fn every_injury_is_found() {
    need_product!();
    need_healing!();
    let mut mount = TestMount::new();
    let mut rng = Rng::new(seed("injuries"));
    let injuries = setting("MIRRORFS_FLIPS", 300);
    let mut sizes = Vec::new();
    for n in 0..2 * injuries {
        if n % 50 == 0 {
            std::fs::create_dir(mount.at(format!("d{}", n / 50))).expect("mkdir");
        }
        let path = format!("d{}/{n}", n / 50);
        let size = 1 + rng.below(30_000);
        std::fs::write(mount.at(&path), rng.bytes(size)).expect("write");
        std::fs::set_permissions(mount.at(&path), std::fs::Permissions::from_mode(0o644))
            .expect("chmod");
        sizes.push((path, size));
    }
    mount.product("sync", &[]).ok();
    // A size says enough; where it differs no place is named.
    let plain = |found: BTreeSet<Injury>, like: &BTreeSet<Injury>| -> BTreeSet<Injury> {
        let sized = |path: &str| like.iter().any(|one| one.1 == path && one.2.is_none());
        found
            .into_iter()
            .map(|(kind, path, offset)| {
                let offset = offset.filter(|_| !sized(&path));
                (kind, path, offset)
            })
            .collect()
    };
    for is_mounted in [true, false] {
        if !is_mounted {
            mount.umount();
        }
        let (mut injured, mut paths) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..injuries {
            let (path, size) = &sizes[rng.below(sizes.len())];
            // Twice in one file could put it right again.
            if paths.insert(path) {
                injured.insert(injure(&mount.replica, path, *size, &mut rng));
            }
        }
        let verify = |words: &[&str]| {
            if is_mounted {
                return mount.product("verify", words);
            }
            let mut command = Command::new(MIRRORFS);
            let copies = [&mount.primary, &mount.replica];
            run(command.arg("verify").args(copies).args(words))
        };
        let ran = verify(&["--json"]).code(DIFFERENT);
        assert_eq!(plain(listed(&ran), &injured), injured);
        verify(&["--repair"]).ok();
        let ran = verify(&[]).ok();
        assert!(ran.out.starts_with("No differences"), "{ran}");
        mount.assert_equal();
    }
    mount.mount();
    mount.finish();
}
