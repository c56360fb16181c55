// SPDX-License-Identifier: MIT
//! Attacks: by a user of the mount, by whoever can write to the replica's disk, by whoever can talk to
//! the daemon. Nobody gets, changes or holds up what is not his, and the daemon keeps little that
//! would be worth having (docs/decisions/0021). What pulls directories about while the daemon is in
//! them is in `escape`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, RenameFlags, XattrFlags};

use crate::support::compare::{Ignore, differences, report};
use crate::support::ground::{errno, parity};
use crate::support::mount::{TestMount, Wish, alive};
use crate::support::run::{MIRRORFS, mirrorfs, run};
use crate::support::user::{self, ALICE, BOB, NOBODY};
use crate::support::wait_until;
use crate::{need_product, need_programs, need_root};

/// What a user may not do natively he may not do here, by the same errno, and what it leaves behind
/// is the same.
#[test]
fn a_user_gets_what_a_native_directory_gives() {
    need_root!();
    parity(|g| {
        g.umask(0o022);
        g.file("secret", 0o600, "root's");
        g.file("public", 0o644, "root's too");
        g.file("suid", 0o4755, "a program");
        g.mkdir("rooms", 0o755);
        g.file("rooms/plan", 0o644, "a plan");
        g.mkdir("shut", 0o700);
        g.file("shut/in", 0o666, "out of reach");
        g.mkdir("tmp", 0o1777);
        g.chmod("tmp", 0o1777);
        g.file("tmp/bobs", 0o644, "bob's");
        g.chown("tmp/bobs", BOB.uid.into(), BOB.gid.into());
        g.mkdir("own", 0o755);
        g.chown("own", ALICE.uid.into(), ALICE.gid.into());
        user::with(ALICE, || {
            let others = [
                "secret",
                "public",
                "suid",
                "rooms/plan",
                "shut/in",
                "tmp/bobs",
                "rooms",
                "shut",
            ];
            for (n, path) in others.into_iter().enumerate() {
                g.note(path);
                for how in ["r", "w", "rw", "w append", "r noatime", "path"] {
                    drop(g.open(path, how, 0));
                }
                g.truncate(path, 0);
                g.chmod(path, 0o777);
                g.chown(path, ALICE.uid.into(), -1);
                g.chown(path, -1, ALICE.gid.into());
                g.utimens(path, (1, 0), (1, 0));
                for name in [
                    "user.mine",
                    "trusted.mine",
                    "security.mine",
                    "security.capability",
                    "system.posix_acl_access",
                    "trusted.mirrorfs.stamp",
                ] {
                    g.setxattr(path, name, b"x");
                    g.getxattr(path, name);
                    g.removexattr(path, name);
                }
                let link = rustix::fs::link(g.at(path), g.at(format!("own/link-{n}")));
                g.did("link", link);
                g.rename(path, &format!("own/taken-{n}"), RenameFlags::empty());
                g.rename("own", path, RenameFlags::EXCHANGE);
                g.unlink(path);
                g.rmdir(path);
            }
            for place in ["rooms", "shut", "tmp", "own"] {
                g.note(place);
                for (name, mode, rdev) in [
                    ("null", 0o020_666, rustix::fs::makedev(1, 3)),
                    ("disk", 0o060_666, rustix::fs::makedev(8, 0)),
                    ("pipe", 0o010_666, 0),
                ] {
                    g.mknod(&format!("{place}/{name}"), mode, rdev);
                }
                g.mkdir(&format!("{place}/dir"), 0o6777);
                drop(g.open(&format!("{place}/made"), "w creat excl", 0o6777));
                g.chmod(&format!("{place}/made"), 0o6777);
                g.chown(&format!("{place}/made"), 0, -1);
                g.chown(&format!("{place}/made"), -1, BOB.gid.into());
                g.setxattr(
                    &format!("{place}/made"),
                    "security.capability",
                    b"\x01\0\0\x02",
                );
                g.stat(&format!("{place}/made"));
            }
            let out = std::fs::read_link(g.at("own")).map(drop);
            g.did("readlink of a directory", errno(out));
        });
        for path in [
            "secret",
            "public",
            "suid",
            "rooms/plan",
            "shut/in",
            "tmp/bobs",
        ] {
            g.stat(path);
            g.cat(path);
        }
    });
}

/// Whoever owns the root directory, and root himself, neither sees nor changes what says that these
/// trees are a mirror.
#[test]
fn stamps_are_out_of_reach() {
    need_root!();
    need_product!();
    let mut mount = TestMount::new();
    let root = mount.mountpoint.clone();
    let (uid, gid) = (ALICE.uid, ALICE.gid);
    std::os::unix::fs::chown(&root, Some(uid), Some(gid)).expect("chown");
    let tries = || {
        for name in ["trusted.mirrorfs.stamp", "user.mirrorfs.stamp"] {
            let mut value = [0_u8; 4096];
            rustix::fs::getxattr(&root, name, &mut value[..]).expect_err("read it");
            rustix::fs::setxattr(&root, name, b"mine", XattrFlags::empty()).expect_err("wrote it");
            rustix::fs::removexattr(&root, name).expect_err("removed it");
        }
        let mut names = vec![0_u8; 65536];
        let length = rustix::fs::listxattr(&root, &mut names[..]).expect("names");
        let names = names[..length].escape_ascii().to_string();
        assert!(!names.contains("mirrorfs"), "{names}");
    };
    tries();
    user::with(ALICE, tries);
    assert_eq!(mount.state(), "in-sync");
    mount.umount();
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// A replica's disk in bad hands: links that lead out, pipes and devices where files belong, a file
/// that is also somebody's elsewhere. Making it equal changes the replica and nothing else.
#[test]
fn a_hostile_replica_leads_nowhere() {
    need_root!();
    need_product!();
    for how in [&["--full"][..], &[]] {
        let mut mount = TestMount::new();
        let outside = mount.scratch.join("outside");
        let copy = mount.scratch.join("copy");
        std::fs::create_dir(&outside).expect("mkdir");
        std::fs::write(outside.join("f"), "precious").expect("write");
        std::fs::write(outside.join("g"), "precious too").expect("write");
        std::fs::set_permissions(outside.join("g"), PermissionsExt::from_mode(0o600))
            .expect("chmod");
        run(Command::new("cp").arg("-a").args([&outside, &copy])).ok();
        for n in 0..8 {
            std::fs::create_dir(mount.at(format!("d{n}"))).expect("mkdir");
            std::fs::write(mount.at(format!("d{n}/f")), format!("number {n}")).expect("write");
        }
        mount.umount();
        let at = |path: &str| mount.replica.join(path);
        // A directory that is a link to one outside, a file that is a link to one outside.
        std::fs::remove_dir_all(at("d0")).expect("remove");
        symlink(&outside, at("d0")).expect("symlink");
        for (n, target) in [
            (1, "../../outside/f"),
            (2, "/proc/self/mem"),
            (3, "/dev/zero"),
        ] {
            std::fs::remove_file(at(&format!("d{n}/f"))).expect("remove");
            let target = if n == 1 {
                outside.join("f")
            } else {
                PathBuf::from(target)
            };
            symlink(target, at(&format!("d{n}/f"))).expect("symlink");
        }
        // What hangs or spends when it is opened.
        std::fs::remove_file(at("d4/f")).expect("remove");
        rustix::fs::mknodat(CWD, at("d4/f"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
            .expect("mkfifo");
        std::fs::remove_file(at("d5/f")).expect("remove");
        let zero = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(
            CWD,
            at("d5/f"),
            rustix::fs::FileType::CharacterDevice,
            0o644.into(),
            zero,
        )
        .expect("mknod");
        // A name here of a file elsewhere.
        std::fs::remove_file(at("d6/f")).expect("remove");
        std::fs::hard_link(outside.join("g"), at("d6/f")).expect("link");
        // Set-user-ID, and more than is in the primary.
        std::fs::write(at("d7/backdoor"), "a program").expect("write");
        std::fs::set_permissions(at("d7/backdoor"), PermissionsExt::from_mode(0o4777))
            .expect("chmod");
        let copies = [&mount.primary, &mount.replica].map(|path| path.as_os_str());
        let words = ["sync".as_ref()]
            .into_iter()
            .chain(how.iter().map(AsRef::as_ref));
        mirrorfs(words.chain(copies)).ok();
        let found = differences(&copy, &outside, Ignore::default());
        assert!(
            found.is_empty(),
            "something outside changed: {}",
            report(&copy, &outside, &found)
        );
        mount.assert_equal();
    }
}

/// The control socket of a mount.
fn socket(mount: &TestMount) -> PathBuf {
    let device = std::fs::metadata(&mount.mountpoint)
        .expect("metadata")
        .dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/run/mirrorfs/{major}-{minor}.sock"))
}

/// Says a line and hears one.
fn says(path: &Path, line: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("connect");
    stream.write_all(line).expect("write");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("read");
    answer
}

/// Whoever may not, may ask how it is; he may not do anything, and he may not keep others from it.
#[test]
fn a_stranger_on_the_control_socket() {
    need_root!();
    need_product!();
    let mount = TestMount::new();
    let socket = socket(&mount);
    let kept = user::with(ALICE, || {
        let report = says(&socket, b"{\"request\":\"status\",\"protocol\":1}\n");
        assert!(report.contains("in-sync"), "{report}");
        for request in [
            "\"umount\",\"lazy\":true",
            "\"dirty\",\"max\":10",
            "\"sync\",\"full\":true",
            "\"pause\"",
            "\"resume\"",
            "\"events\"",
            "\"verify\",\"repair\":true",
        ] {
            let line = format!("{{\"protocol\":2,\"request\":{request}}}\n");
            let answer = says(&socket, line.as_bytes());
            assert!(
                answer.contains("only root or the user who mounted it"),
                "{answer}"
            );
        }
        // Lines that never end, one byte at a time; and all that a listen queue takes.
        let mut kept = Vec::new();
        for _ in 0..200 {
            let Ok(mut stream) = UnixStream::connect(&socket) else {
                break;
            };
            _ = stream.write_all(b"{").is_ok();
            kept.push(stream);
        }
        kept
    });
    assert_eq!(mount.state(), "in-sync");
    // Nor another stranger, for longer than a line may take.
    wait_until("Bob is heard", || {
        user::with(BOB, || {
            says(&socket, b"{\"request\":\"status\",\"protocol\":1}\n").contains("in-sync")
        })
    });
    mount.finish();
    drop(kept);
}

/// A user's daemon is the user's: root, who asks how it is, is told lies at most.
#[test]
fn a_hostile_daemon_only_lies() {
    need_root!();
    need_product!();
    need_programs!("fusermount3", "setpriv", "script");
    crate::need_fuse_for_users!();
    let mut mount = Wish::default().user(NOBODY).prepare();
    mount.try_mount(&[]).ok();
    let device = std::fs::metadata(mount.dir()).expect("metadata").dev();
    let place = mount.mountpoint.clone();
    let device = user::with(NOBODY, || {
        std::fs::metadata(&place).map_or(device, |m| m.dev())
    });
    let name = format!(
        "{}-{}.sock",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let socket = [
        format!("/run/user/{}/mirrorfs", NOBODY.uid),
        format!("/tmp/mirrorfs-{}", NOBODY.uid),
    ]
    .map(|dir| PathBuf::from(dir).join(&name))
    .into_iter()
    .find(|path| path.exists())
    .expect("its control socket");
    let report = says(&socket, b"{\"request\":\"status\",\"protocol\":1}\n");
    let evil = "\\u001b]0;owned\\u0007\\u009b31m\\nstate: in-sync";
    let evil = report
        .replace(mount.mountpoint.to_str().expect("text"), evil)
        .replace(mount.replica.to_str().expect("text"), evil);
    assert_ne!(report, evil);
    let endless = vec![b'['; 1 << 20];
    let lies: [(&str, Vec<u8>); 5] = [
        ("nothing", Vec::new()),
        ("garbage", b"\xff\xfe{}\n".to_vec()),
        ("deep", [&endless[..], b"\n"].concat()),
        ("another answer", b"{\"answer\":\"done\"}\n".to_vec()),
        ("evil", evil.into_bytes()),
    ];
    let aside = socket.with_extension("aside");
    std::fs::rename(&socket, &aside).expect("rename");
    for (what, lie) in lies {
        let listener = user::with(NOBODY, || std::os::unix::net::UnixListener::bind(&socket));
        let listener = listener.expect("bind");
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for stream in listener.incoming() {
                    if over.load(std::sync::atomic::Ordering::Acquire) {
                        break;
                    }
                    let mut stream = stream.expect("accept");
                    // It may have hung up already.
                    _ = stream.write_all(&lie).is_ok();
                }
            });
            for verb in ["status", "pause", "sync", "verify"] {
                let line = format!("{MIRRORFS} {verb} {}", mount.mountpoint.display());
                let ran = run(Command::new("script")
                    .arg("-qec")
                    .arg(line)
                    .arg("/dev/null"));
                let shown = ran.out.escape_debug().to_string();
                assert!(ran.code.is_some_and(|code| code < 100), "{what}: {ran}");
                assert!(!ran.out.contains("\x1b]0;"), "{what}: {shown}");
                assert!(!ran.out.contains("\u{9b}31m"), "{what}: {shown}");
                assert!(!ran.out.contains("\nstate: in-sync"), "{what}: {shown}");
            }
            over.store(true, std::sync::atomic::Ordering::Release);
            drop(UnixStream::connect(&socket).expect("connect"));
        });
        std::fs::remove_file(&socket).expect("remove");
    }
    std::fs::rename(&aside, &socket).expect("rename");
    mount.finish();
}

/// Names are anyone's to choose; what is printed of them does not steer a terminal or forge a line.
#[test]
fn names_do_not_speak_to_the_terminal() {
    need_root!();
    need_product!();
    need_programs!("script");
    let evil = "\x1b]0;owned\x07\x1b[2J\nmirrorfs: all is well\r\u{9b}31m";
    let mut mount = TestMount::new();
    mount.umount();
    let (primary, replica, mountpoint) = (
        mount.scratch.join(format!("p{evil}")),
        mount.scratch.join(format!("r{evil}")),
        mount.scratch.join(format!("m{evil}")),
    );
    for dir in [&primary, &replica, &mountpoint] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    let log = mount.scratch.join("evil.log");
    let mut heard = Vec::new();
    // What people read: messages in a pipe, everything on a terminal. Names on standard output are
    // as they are in a pipe, for programs.
    let mut ask = |words: &[&OsStr]| {
        heard.push(mirrorfs(words).err);
        let mut command = OsString::from(MIRRORFS);
        for word in words {
            command.push(" ");
            command.push(quoted(word));
        }
        let mut script = Command::new("script");
        script.arg("-qec").arg(command).arg("/dev/null");
        heard.push(run(&mut script).out);
    };
    let [p, r, m] = [&primary, &replica, &mountpoint].map(|path| path.as_os_str());
    let word = OsStr::new;
    let logged = OsString::from(format!("--log={}", log.display()));
    ask(&[
        word("mount"),
        p,
        m,
        word("--replica"),
        r,
        word("--verbose"),
        &logged,
    ]);
    std::fs::write(mountpoint.join(format!("f{evil}")), "content").expect("write");
    ask(&[word("sync"), m]);
    std::fs::write(replica.join(format!("f{evil}")), "another").expect("write");
    std::fs::write(replica.join(format!("g{evil}")), "more").expect("write");
    ask(&[word("verify"), m]);
    ask(&[word("status"), m]);
    ask(&[word("status"), word("--dirty"), m]);
    ask(&[word("verify"), word("--repair"), m]);
    ask(&[word("sync"), p, r]);
    ask(&[word("pause"), m]);
    ask(&[word("status"), m]);
    ask(&[word("resume"), m]);
    ask(&[word("umount"), m]);
    std::fs::write(replica.join(format!("g{evil}")), "more").expect("write");
    ask(&[word("verify"), p, r]);
    ask(&[word("sync"), word("--dry-run"), p, r]);
    ask(&[word("sync"), word("--discard"), m, p, r]);
    ask(&[word("promote"), r]);
    ask(&[word("mount"), p, m, word("--replica"), r]);
    ask(&[word("status"), m]);
    ask(&[word("umount"), m]);
    heard.push(std::fs::read_to_string(&log).expect("the log"));
    for text in &heard {
        for words in ["\x1b]0;", "\x1b[2J", "\u{9b}31m", "\nmirrorfs: all is well"] {
            let shown = text.escape_debug();
            assert!(!text.contains(words), "{words:?} in: {shown}");
        }
    }
    assert!(heard.iter().any(|text| text.contains("all is well")));
}

/// A word as the shell takes it.
fn quoted(word: &OsStr) -> OsString {
    let mut out = b"'".to_vec();
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            byte => out.push(byte),
        }
    }
    out.push(b'\'');
    OsString::from_vec(out)
}

/// The words of `/proc/PID/task/TID/status` that say what a thread may do.
fn rights(status: &str) -> BTreeSet<(String, String)> {
    let names = [
        "CapPrm",
        "CapBnd",
        "CapInh",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    ];
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| names.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Every thread of the daemon has what docs/decisions/0021 lists, and can never have more.
#[test]
fn the_daemon_keeps_little() {
    need_root!();
    need_product!();
    let mount = TestMount::new();
    // A replica that failed and came back has threads of its own.
    mount.product("pause", &[]).ok();
    std::fs::write(mount.at("f"), "content").expect("write");
    mount.product("resume", &[]).ok();
    mount.product("sync", &[]).ok();
    mount.product("verify", &[]).ok();
    // include/uapi/linux/capability.h: chown, dac_override, dac_read_search, fowner, fsetid, setgid,
    // setuid, linux_immutable, ipc_lock, sys_admin, sys_resource, mknod, setfcap.
    let kept: u64 = [0, 1, 2, 3, 4, 6, 7, 9, 14, 21, 24, 27, 31]
        .into_iter()
        .map(|number| 1_u64 << number)
        .sum();
    let own = std::fs::read_to_string("/proc/self/status").expect("status");
    let had = rights(&own)
        .into_iter()
        .find(|(name, _)| name == "CapPrm")
        .map(|(_, value)| u64::from_str_radix(&value, 16).expect("a set"))
        .expect("CapPrm");
    let set = |bits: u64| format!("{bits:016x}");
    let expected: BTreeSet<_> = [
        ("CapPrm", set(kept & had)),
        ("CapBnd", set(kept & had)),
        ("CapInh", set(0)),
        ("CapAmb", set(0)),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let tasks = format!("/proc/{}/task", mount.pid());
    let mut seen = 0;
    for task in std::fs::read_dir(&tasks).expect("threads") {
        let task = task.expect("a thread").path();
        // It may have ended meanwhile.
        let Ok(status) = std::fs::read_to_string(task.join("status")) else {
            continue;
        };
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        assert_eq!(rights(&status), expected, "thread {name}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen} threads in {tasks}");
    assert!(alive(mount.pid()));
    mount.finish();
}
