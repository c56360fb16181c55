// SPDX-License-Identifier: MIT
//! The command line as promised: what is refused, with which words and which exit code; what is
//! accepted in which spelling; what `status` says.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::compare::{Ignore, differences, listing, report};
use crate::support::mount::{TestMount, Wish, alive, is_mounted};
use crate::support::run::{Guarded, MIRRORFS, Ran, mirrorfs, run};
use crate::support::user::{self, NOBODY};
use crate::support::{base, temp_in, wait_until};
use crate::{need_product, need_programs, need_root};

/// Exit codes of the mount family.
const USAGE: i32 = 1;
const REFUSED: i32 = 32;

/// Three directories for a mount that is to be refused.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = temp_in(&base());
        for name in ["primary", "replica", "mnt"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&self, primary: &str, mountpoint: &str, replica: &str, more: &[&str]) -> Ran {
        let mut command = Command::new(MIRRORFS);
        command
            .arg("mount")
            .arg(self.at(primary))
            .arg(self.at(mountpoint));
        command.arg("--replica").arg(self.at(replica)).args(more);
        run(&mut command)
    }

    /// Tries to mount; it must be refused in words, with 32, and change nothing.
    #[track_caller]
    fn refused(&self, primary: &str, mountpoint: &str, replica: &str, words: &[&str]) {
        let before = self.everything();
        let ran = self.mount(primary, mountpoint, replica, &[]).code(REFUSED);
        assert!(ran.err.starts_with("mirrorfs: "), "{ran}");
        assert!(ran.out.is_empty(), "messages belong on stderr: {ran}");
        for word in words {
            assert!(ran.err.contains(word), "lacks {word:?}: {ran}");
        }
        assert!(!is_mounted(&self.at(mountpoint)));
        assert_eq!(self.everything(), before, "a refusal changes nothing");
    }

    /// Names and root xattrs of everything.
    fn everything(&self) -> (Vec<(String, rustix::fs::FileType)>, Vec<Vec<u8>>) {
        let stamps = ["primary", "replica"].map(|name| {
            let mut names = vec![0; 4096];
            let len = rustix::fs::listxattr(self.at(name), &mut names[..]).unwrap_or(0);
            names.truncate(len);
            names
        });
        (listing(self.dir.path()), stamps.to_vec())
    }
}

/// A directory that is missing, or is a file, is named in the refusal.
#[test]
fn missing_directories_and_files() {
    need_product!();
    let scene = Scene::new();
    scene.refused("none", "mnt", "replica", &["none"]);
    scene.refused("primary", "none", "replica", &["none"]);
    scene.refused("primary", "mnt", "none", &["none"]);
    std::fs::write(scene.at("file"), "").expect("write");
    scene.refused("file", "mnt", "replica", &["file"]);
    scene.refused("primary", "file", "replica", &["file"]);
    scene.refused("primary", "mnt", "file", &["file"]);
}

/// The same directory twice, in any spelling, and one inside the other, either way round.
#[test]
fn overlapping_trees() {
    need_product!();
    let scene = Scene::new();
    scene.refused("primary", "mnt", "primary", &["primary"]);
    scene.refused("primary", "mnt", "replica/../primary", &["primary"]);
    std::os::unix::fs::symlink("primary", scene.at("alias")).expect("symlink");
    scene.refused("primary", "mnt", "alias", &["primary"]);
    std::fs::create_dir_all(scene.at("primary/in/side")).expect("mkdir");
    std::fs::create_dir_all(scene.at("replica/in/side")).expect("mkdir");
    scene.refused("primary", "mnt", "primary/in/side", &["primary"]);
    scene.refused("replica/in/side", "mnt", "replica", &["replica"]);
    std::fs::create_dir(scene.at("mnt/in")).expect("mkdir");
    scene.refused("primary", "mnt", "mnt/in", &["mnt"]);
}

/// A replica that holds something and was never ours is refused, and the way on is named.
#[test]
fn unstamped_replica_with_content() {
    need_product!();
    let scene = Scene::new();
    std::fs::write(scene.at("primary/ours"), "ours").expect("write");
    std::fs::write(scene.at("replica/theirs"), "theirs").expect("write");
    scene.refused("primary", "mnt", "replica", &["replica", "--adopt"]);
    // --adopt lists what differs and still refuses: nothing of theirs is destroyed.
    let ran = scene
        .mount("primary", "mnt", "replica", &["--adopt"])
        .code(REFUSED);
    assert!(
        ran.err.contains("theirs") && ran.err.contains("ours"),
        "{ran}"
    );
    assert_eq!(
        std::fs::read(scene.at("replica/theirs")).expect("still there"),
        b"theirs"
    );
    assert!(!is_mounted(&scene.at("mnt")));
}

/// A faithful copy that was never ours is taken over with --adopt.
#[test]
fn adopting_a_faithful_copy() {
    need_root!();
    need_product!();
    need_programs!("cp");
    let mut mount = Wish::default().prepare();
    std::fs::create_dir(mount.primary.join("d")).expect("mkdir");
    std::fs::write(mount.primary.join("d/f"), "content").expect("write");
    std::fs::remove_dir(&mount.replica).expect("rmdir");
    run(Command::new("cp")
        .arg("-a")
        .arg(&mount.primary)
        .arg(&mount.replica))
    .ok();
    mount.try_mount(&[]).code(REFUSED).says("--adopt");
    mount.try_mount(&["--adopt"]).ok();
    assert_eq!(mount.state(), "in-sync");
    std::fs::write(mount.at("d/g"), "more").expect("write");
    mount.umount();
    mount.mount();
    mount.finish();
}

/// An empty replica is seeded with everything the primary has, and the mount is in-sync.
#[test]
fn seeding() {
    need_root!();
    need_product!();
    let mut mount = Wish::default().prepare();
    crate::support::run::shell(
        &mount.primary,
        "
        mkdir -p a/b/c; echo hello > a/f; ln a/f a/b/g; ln -s f a/s; mkfifo a/p; mknod a/n c 1 3
        dd if=/dev/zero of=a/sparse bs=1 count=1 seek=10G status=none; sync a/sparse
        touch -d '1950-01-01 00:00:00.123456789' a/f; chmod 6751 a/b; chown 12:34 a/s -h
        for i in $(seq 1000); do echo $i > a/b/c/$i; done; touch -d 1999-01-01 a a/b .",
    );
    let ran = mount.try_mount(&[]).ok();
    assert!(ran.out.is_empty(), "{ran}");
    assert_eq!(mount.state(), "in-sync");
    mount.assert_equal();
    std::fs::write(mount.at("a/b/c/5"), "changed").expect("write");
    mount.finish();
}

/// Copies that belong to other mirrors, and the two of one mirror swapped, are told apart.
#[test]
fn foreign_and_swapped_stamps() {
    need_product!();
    let scene = Scene::new();
    for name in ["primary2", "replica2", "empty"] {
        std::fs::create_dir(scene.at(name)).expect("mkdir");
    }
    for (primary, replica) in [("primary", "replica"), ("primary2", "replica2")] {
        scene.mount(primary, "mnt", replica, &[]).ok();
        std::fs::write(scene.at("mnt/f"), primary).expect("write");
        mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
    }
    scene.refused("primary", "mnt", "replica2", &["replica2"]);
    scene.refused("primary2", "mnt", "replica", &["replica"]);
    scene.refused("replica", "mnt", "primary", &["replica", "primary"]);
    scene.refused("primary", "mnt", "primary2", &["primary2"]);
    // The replica's disk is not mounted: its directory is blank.
    scene.refused(
        "primary",
        "mnt",
        "empty",
        &["empty", "no mirrorfs stamp", "degraded", "[MF-0011]"],
    );
    // The primary's disk is not mounted: nothing may be deleted from the replica.
    scene.refused("empty", "mnt", "replica", &["replica"]);
    assert_eq!(
        std::fs::read(scene.at("replica/f")).expect("still there"),
        b"primary"
    );
    // --adopt does not override identity.
    scene
        .mount("primary", "mnt", "replica2", &["--adopt"])
        .code(REFUSED);
    // Those that belong together still do.
    scene.mount("primary", "mnt", "replica", &[]).ok();
    mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
}

/// A mirror whose replica's disk is not mounted can be mounted on one copy, and says so.
#[test]
fn degraded_on_request() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "content").expect("write");
    mount.umount();
    let away = mount.dir().join("away");
    std::fs::rename(&mount.replica, &away).expect("rename");
    std::fs::create_dir(&mount.replica).expect("mkdir");
    mount.try_mount(&[]).code(REFUSED).says("[MF-0011]");
    mount.try_mount(&["-o", "degraded"]).ok();
    assert_eq!(mount.state(), "degraded");
    let status = mount.status().code(1);
    assert!(status.out.contains("DEGRADED"), "{status}");
    std::fs::write(mount.at("g"), "alone").expect("write");
    mount.umount();
    assert!(
        listing(&mount.replica).is_empty(),
        "the blank directory is never filled"
    );
    std::fs::remove_dir(&mount.replica).expect("rmdir");
    std::fs::rename(&away, &mount.replica).expect("rename");
    // It missed something: nothing may call it in-sync before it was compared.
    mount.try_mount(&[]).code(REFUSED).says("--adopt");
    mount.try_mount(&["--adopt"]).ok();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// A second daemon on either tree, or on the mount point, is refused while the first runs.
#[test]
fn second_daemon() {
    need_product!();
    let mount = TestMount::new();
    std::fs::create_dir_all(mount.scratch.join("mnt2")).expect("mkdir");
    std::fs::create_dir_all(mount.scratch.join("other")).expect("mkdir");
    let try_mount = |primary: &Path, at: &str, replica: &Path| {
        let at = mount.scratch.join(at);
        let args = [
            "mount".as_ref(),
            primary.as_os_str(),
            at.as_os_str(),
            "--replica".as_ref(),
            replica.as_os_str(),
        ];
        let ran = mirrorfs(args).code(REFUSED);
        assert!(ran.err.starts_with("mirrorfs: "), "{ran}");
    };
    let other = mount.scratch.join("other");
    try_mount(&mount.primary, "mnt2", &mount.replica);
    try_mount(&mount.primary, "mnt2", &other);
    try_mount(&other, "mnt2", &mount.replica);
    try_mount(&mount.replica, "mnt2", &mount.primary);
    // A mirror of the mirror's own view is no second copy.
    try_mount(&mount.mountpoint, "mnt2", &other);
    // Nor can a replica be inside the mount.
    std::fs::create_dir(mount.at("inside")).expect("mkdir");
    try_mount(&other, "mnt2", &mount.at("inside"));
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// Every --long=x is also -o long=x, `_` is `-`, several -o add up, a comma can be escaped, and
/// what only fstab knows is accepted and dropped.
#[test]
fn fstab_grammar() {
    need_product!();
    let scene = Scene::new();
    std::fs::create_dir(scene.at("with,comma")).expect("mkdir");
    let replica = scene.at("with,comma");
    let replica = replica.to_str().expect("text").replace(',', "\\,");
    let spellings: [&[&str]; 4] = [
        &[
            "-o",
            "replica=REPLICA,nofail,_netdev,auto,user,x-systemd.automount,rw,noatime",
        ],
        &[
            "-oreplica=REPLICA",
            "-o",
            "on_replica_error=degrade,replica_timeout=5s",
        ],
        &[
            "-o",
            "replica=REPLICA,mode=sync",
            "-o",
            "on-replica-error=degrade,users,X-own",
        ],
        &["-o", "noauto,nouser", "-o", "replica=REPLICA,dev,suid"],
    ];
    for words in spellings {
        let words: Vec<_> = words
            .iter()
            .map(|w| w.replace("REPLICA", &replica))
            .collect();
        let mut command = Command::new(MIRRORFS);
        command
            .arg("mount")
            .arg(scene.at("primary"))
            .arg(scene.at("mnt"))
            .args(&words);
        run(&mut command).ok();
        std::fs::write(scene.at("mnt/f"), words.join(" ")).expect("write");
        mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
        assert_eq!(
            std::fs::read(scene.at("with,comma/f")).expect("read"),
            words.join(" ").as_bytes()
        );
    }
}

/// What is not an option is refused by its name, as usage.
#[test]
fn wrong_options() {
    need_product!();
    let scene = Scene::new();
    for wrong in [
        "nonsense",
        "mode=backwards",
        "replica-timeout=soon",
        "on-replica-error",
        "modus=sync",
    ] {
        let ran = scene
            .mount("primary", "mnt", "replica", &["-o", wrong])
            .code(USAGE);
        let word = wrong.split('=').next().expect("a word");
        assert!(ran.err.contains(word), "{ran}");
        assert!(!is_mounted(&scene.at("mnt")));
    }
    let none = [("mount", ""), ("mount", "only-one"), ("umount", "")];
    for (verb, arg) in none {
        let args: Vec<_> = [verb, arg].into_iter().filter(|w| !w.is_empty()).collect();
        mirrorfs(args).code(USAGE);
    }
    mirrorfs(["mount", "--nonsense"]).code(USAGE);
    mirrorfs(["status", "--nonsense"]).code(2);
    let ran = scene
        .mount("primary", "mnt", "replica", &["-o", "replicas=x"])
        .code(USAGE);
    assert!(ran.err.contains("replica"), "did you mean: {ran}");
}

/// `mount -o ro` refuses every change, and the flags of the mount are those asked for.
#[test]
fn mount_flags() {
    need_root!();
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "content").expect("write");
    let flags = |mount: &TestMount| {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let at = mount.mountpoint.to_str().expect("text").to_owned();
        let mut lines = table.lines();
        lines
            .find(|l| l.split(' ').nth(4) == Some(&at))
            .expect("mounted")
            .to_owned()
    };
    let line = flags(&mount);
    assert!(
        line.contains("default_permissions") && line.contains("allow_other"),
        "{line}"
    );
    assert!(
        !line.contains("nosuid") && !line.contains("nodev"),
        "{line}"
    );
    mount.umount();
    mount
        .try_mount(&["-o", "ro,nosuid,nodev,noexec,noatime"])
        .ok();
    let line = flags(&mount);
    for word in ["ro,", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(line.contains(word), "{word} not in {line}");
    }
    assert_eq!(std::fs::read(mount.at("f")).expect("read"), b"content");
    let refused = std::fs::write(mount.at("f"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    mount.finish();
}

/// findmnt and df show the primary as it was typed, and the type fuse.mirrorfs.
#[test]
fn findmnt_shows_what_was_typed() {
    need_product!();
    need_programs!("findmnt");
    let scene = Scene::new();
    let mut command = Command::new(MIRRORFS);
    command.current_dir(scene.dir.path()).args([
        "mount",
        "./primary",
        "mnt",
        "--replica",
        "replica",
    ]);
    run(&mut command).ok();
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let at = scene.at("mnt").to_str().expect("text").to_owned();
    let line = table
        .lines()
        .find(|l| l.split(' ').nth(4) == Some(&at))
        .expect("mounted");
    let after: Vec<_> = line
        .split(" - ")
        .nth(1)
        .expect("a separator")
        .split(' ')
        .collect();
    assert_eq!(after[..2], ["fuse.mirrorfs", "./primary"], "{line}");
    let ran = run(Command::new("findmnt")
        .args(["-n", "-o", "FSTYPE"])
        .arg(scene.at("mnt")))
    .ok();
    assert_eq!(ran.out.trim(), "fuse.mirrorfs");
    mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
}

/// A healthy status: nothing to read but the facts, and exit 0.
#[test]
fn status_text() {
    need_product!();
    let mount = TestMount::new();
    let ran = mount.status().ok();
    let has = |words: &str| assert!(ran.out.contains(words), "lacks {words:?}: {ran}");
    let at = mount.mountpoint.to_str().expect("text");
    has(&format!("mirror: {at}"));
    has("state: in-sync");
    has("mode: sync");
    has("mounted:");
    has("ROLE");
    has(mount.primary.to_str().expect("text"));
    has(mount.replica.to_str().expect("text"));
    assert!(
        !ran.out.contains("action:") && !ran.out.contains("status:"),
        "silence is good news: {ran}"
    );
    assert!(ran.err.is_empty(), "{ran}");
    let quiet = mirrorfs([
        "status".as_ref(),
        "--quiet".as_ref(),
        mount.mountpoint.as_os_str(),
    ])
    .ok();
    assert!(quiet.out.is_empty() && quiet.err.is_empty(), "{quiet}");
    let all = mirrorfs(["status"]);
    assert!(
        all.out.contains(at),
        "status without a name shows every mirror: {all}"
    );
    mount.finish();
}

/// Every field of the JSON, with its type.
#[test]
fn status_json() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), vec![b'x'; 100_000]).expect("write");
    let json = mount.status_json();
    let text = |p: &Path| p.to_str().expect("text").to_owned();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["mirror"], text(&mount.mountpoint));
    assert_eq!(json["state"], "in-sync");
    assert_eq!(json["mode"], "sync");
    assert!(
        json["id"].as_str().is_some_and(|id| id.len() == 8),
        "{json}"
    );
    assert!(json["epoch"].is_u64(), "{json}");
    assert!(json["reason"].is_null(), "{json}");
    assert!(
        json.as_object().expect("an object").contains_key("scan"),
        "{json}"
    );
    let pid = u32::try_from(json["pid"].as_u64().expect("pid")).expect("a pid");
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("the daemon");
    assert_eq!(exe, Path::new(MIRRORFS).canonicalize().expect("the binary"));
    let argv = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the daemon");
    let argv0 = argv.split(|&b| b == 0).next().expect("argv[0]");
    assert_eq!(
        argv0,
        exe.as_os_str().as_encoded_bytes(),
        "argv[0] is the resolved path"
    );
    let primary = &json["primary"];
    assert_eq!(primary["path"], text(&mount.primary));
    assert_eq!(primary["state"], "online");
    assert!(
        primary["written_bytes"]
            .as_u64()
            .is_some_and(|n| n >= 100_000),
        "{json}"
    );
    assert_eq!(primary["errors"], 0);
    let replica = &json["replicas"][0];
    assert_eq!(json["replicas"].as_array().expect("an array").len(), 1);
    assert_eq!(replica["path"], text(&mount.replica));
    assert_eq!(replica["state"], "in-sync");
    assert_eq!(replica["carrier"], "inline");
    assert!(
        replica["written_bytes"]
            .as_u64()
            .is_some_and(|n| n >= 100_000),
        "{json}"
    );
    for field in [
        "lag_ops",
        "lag_bytes",
        "lag_ms",
        "dirty_files",
        "dirty_bytes",
        "resync_files_opened",
        "errors",
    ] {
        assert_eq!(replica[field], 0, "{field} in {json}");
    }
    mount.finish();
}

/// Asked about something that is no mirror: could not tell, exit 2.
#[test]
fn status_of_nothing() {
    need_product!();
    let scene = Scene::new();
    for place in ["mnt", "none"] {
        let ran = mirrorfs(["status".as_ref(), scene.at(place).as_os_str()]).code(2);
        assert!(
            ran.out.is_empty() && ran.err.starts_with("mirrorfs: "),
            "{ran}"
        );
    }
}

/// Mounted over the primary: everything there is seen, changed, and still there afterwards.
#[test]
fn over_the_primary() {
    need_root!();
    need_product!();
    let mut mount = Wish::default().over_primary().prepare();
    std::fs::write(mount.primary.join("before"), "was here").expect("write");
    mount.mount();
    assert_eq!(
        std::fs::read(mount.at("before")).expect("read"),
        b"was here"
    );
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/f"), "made").expect("write");
    std::fs::rename(mount.at("before"), mount.at("d/after")).expect("rename");
    assert_eq!(mount.state(), "in-sync");
    mount.umount();
    assert_eq!(
        std::fs::read(mount.primary.join("d/after")).expect("read"),
        b"was here"
    );
    mount.mount();
    std::fs::remove_file(mount.at("d/f")).expect("unlink");
    mount.finish();
}

/// The command returns when the mount is there, every time, and lets go of its pipes.
#[test]
fn background_returns_when_mounted() {
    need_product!();
    let mut mount = Wish::default().prepare();
    for round in 0..10 {
        let mut command = mount.command(&[]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().expect("spawn");
        // With pipes, this only ends when nobody holds their other ends any more.
        let (send, receive) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || send.send(child.wait_with_output()));
        let limit = crate::support::PATIENCE;
        let output = receive
            .recv_timeout(limit)
            .expect("the daemon keeps the pipes open");
        waiter.join().expect("join").expect("sent");
        let output = output.expect("output");
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
        assert!(
            is_mounted(&mount.mountpoint),
            "round {round}: not mounted yet"
        );
        std::fs::write(mount.at(format!("f{round}")), "x").expect("usable at once");
        mirrorfs(["umount".as_ref(), mount.mountpoint.as_os_str()]).ok();
        assert!(!is_mounted(&mount.mountpoint));
    }
    mount.mount();
    mount.finish();
}

/// SIGTERM and SIGINT: drain, unmount, exit 0, two equal copies.
#[test]
fn signals_end_it_gently() {
    need_product!();
    for signal in [Signal::TERM, Signal::INT] {
        let mut mount = TestMount::new();
        for n in 0..200 {
            std::fs::write(mount.at(format!("f{n}")), vec![b'x'; n * 100]).expect("write");
        }
        let pid = mount.pid();
        mount.signal(signal);
        wait_until("the daemon's end", || !alive(pid));
        assert!(!is_mounted(&mount.mountpoint), "a gentle end unmounts");
        mount.ended();
        let found = differences(&mount.primary, &mount.replica, Ignore::default());
        assert!(
            found.is_empty(),
            "{}",
            report(&mount.primary, &mount.replica, &found)
        );
        // It was an orderly end: the next mount needs no comparison.
        mount.mount();
        assert_eq!(mount.state(), "in-sync");
        mount.finish();
    }
}

/// --foreground stays, logs to stderr, and exits 0 when told to stop.
#[test]
fn foreground() {
    need_product!();
    let mut mount = Wish::default().prepare();
    let mut command = Command::new(MIRRORFS);
    command
        .args(["mount", "--foreground"])
        .arg(&mount.primary)
        .arg(&mount.mountpoint);
    command.arg("--replica").arg(&mount.replica);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = Guarded(command.spawn().expect("spawn"));
    wait_until("the mount", || is_mounted(&mount.mountpoint));
    wait_until("status", || mount.status().code == Some(0));
    std::fs::write(mount.at("f"), "x").expect("write");
    let json = mount.status_json();
    assert_eq!(json["pid"].as_u64(), Some(child.0.id().into()));
    let pid = i32::try_from(child.0.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), Signal::TERM).expect("kill");
    let mut status = None;
    wait_until("its end", || {
        status = child.0.try_wait().expect("wait");
        status.is_some()
    });
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    assert!(!is_mounted(&mount.mountpoint));
    mount.mount();
    mount.finish();
}

/// umount waits for the daemon; a busy mount is refused with 32 and stays; --lazy lets go.
#[test]
fn umount() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "x").expect("write");
    let held = std::fs::File::open(mount.at("f")).expect("open");
    let ran = mount.product("umount", &[]).code(REFUSED);
    assert!(ran.err.starts_with("mirrorfs: "), "{ran}");
    assert!(is_mounted(&mount.mountpoint));
    assert_eq!(mount.state(), "in-sync");
    std::fs::write(mount.at("g"), "still serving").expect("write");
    let mut back = [0; 1];
    held.read_exact_at(&mut back, 0).expect("read");
    drop(held);
    mount.umount();
    let ran = mirrorfs(["umount".as_ref(), mount.mountpoint.as_os_str()]);
    assert!(
        matches!(ran.code, Some(USAGE | REFUSED)),
        "not mounted: {ran}"
    );
    mount.mount();
    let held = std::fs::File::open(mount.at("f")).expect("open");
    let pid = mount.pid();
    mount.product("umount", &["--lazy"]).ok();
    assert!(!is_mounted(&mount.mountpoint));
    drop(held);
    wait_until("the daemon's end", || !alive(pid));
    mount.ended();
    mount.mount();
    mount.finish();
}

/// A dead daemon's mount is in nobody's way: the next mount replaces it, and what may differ is
/// not called in-sync before it was compared.
#[test]
fn a_dead_mount_is_replaced() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "x").expect("write");
    mount.kill();
    assert!(is_mounted(&mount.mountpoint), "the kernel still shows it");
    let dead = std::fs::metadata(mount.at("f")).expect_err("nobody answers");
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let ran = mount.try_mount(&[]);
    if ran.code == Some(0) {
        assert_ne!(mount.state(), "in-sync", "nothing was compared yet");
        mount.umount();
    } else {
        ran.code(REFUSED).says("--adopt");
    }
    mount.try_mount(&["--adopt"]).ok();
    assert_eq!(mount.state(), "in-sync");
    assert_eq!(std::fs::read(mount.at("f")).expect("read"), b"x");
    mount.finish();
}

/// An ordinary user mounts through fusermount3 and is told what such a mount cannot have.
#[test]
fn an_ordinary_user() {
    need_root!();
    need_product!();
    need_programs!("fusermount3", "setpriv");
    let mut mount = Wish::default().user(NOBODY).prepare();
    let ran = mount.try_mount(&[]).ok();
    assert!(!ran.err.is_empty(), "the note about what is missing: {ran}");
    let at = mount.mountpoint.clone();
    user::with(NOBODY, || {
        std::fs::create_dir(at.join("d")).expect("mkdir");
        std::fs::write(at.join("d/f"), "content").expect("write");
        std::fs::hard_link(at.join("d/f"), at.join("d/g")).expect("link");
        std::os::unix::fs::symlink("f", at.join("d/s")).expect("symlink");
        rustix::fs::setxattr(
            at.join("d/f"),
            "user.x",
            b"1",
            rustix::fs::XattrFlags::empty(),
        )
        .expect("setxattr");
        std::fs::rename(at.join("d/g"), at.join("h")).expect("rename");
    });
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let at = mount.mountpoint.to_str().expect("text").to_owned();
    let line = table
        .lines()
        .find(|l| l.split(' ').nth(4) == Some(&at))
        .expect("mounted");
    assert!(
        line.contains("default_permissions") && !line.contains("allow_other"),
        "{line}"
    );
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// A user without permission on a tree is refused, and told which.
#[test]
fn no_permission() {
    need_root!();
    need_product!();
    need_programs!("fusermount3", "setpriv");
    let mut mount = Wish::default().user(NOBODY).prepare();
    std::os::unix::fs::chown(&mount.replica, Some(0), Some(0)).expect("chown");
    rustix::fs::chmod(&mount.replica, 0o700.into()).expect("chmod");
    let ran = mount.try_mount(&[]);
    assert!(matches!(ran.code, Some(USAGE | REFUSED)), "{ran}");
    assert!(
        ran.err.contains(mount.replica.to_str().expect("text")),
        "{ran}"
    );
}

/// Completions for three shells, help that fits, a version.
#[test]
fn words_on_request() {
    need_product!();
    for shell in ["bash", "zsh", "fish"] {
        let ran = mirrorfs(["completions", shell]).ok();
        assert!(
            ran.out.contains("mirrorfs") && ran.out.contains("replica"),
            "{ran}"
        );
    }
    for args in [
        &["--help"][..],
        &["-h"],
        &["mount", "-h"],
        &["mount", "--help"],
        &["status", "--help"],
        &["--version"],
    ] {
        let ran = mirrorfs(args).ok();
        assert!(!ran.out.is_empty() && ran.err.is_empty(), "{ran}");
    }
}
