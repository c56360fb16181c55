// SPDX-License-Identifier: MIT
//! Limits: more files in use than the daemon may have descriptors, and nothing that grows.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::mount::{TestMount, Wish};
use crate::support::wait_until;
use crate::{need_product, need_programs, need_root};

/// Number of descriptors the daemon has open.
fn descriptors(mount: &TestMount) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", mount.pid()))
        .expect("the daemon")
        .count()
}

/// Resident memory of the daemon in KiB.
fn resident(mount: &TestMount) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", mount.pid())).expect("the daemon");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

/// With 256 descriptors the daemon serves 2,000 open files, 100 of them without a name.
#[test]
fn more_open_files_than_descriptors() {
    need_root!();
    need_product!();
    need_programs!("prlimit");
    // More than a shell allows by default.
    let allowed = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: allowed.maximum,
        ..allowed
    };
    setrlimit(Resource::Nofile, most).expect("as many as may be");
    let mount = Wish::default().descriptors(256).mount();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    let mut files: Vec<_> = (0..2000)
        .map(|n| {
            let path = mount.at(format!("d/f{n}"));
            std::fs::write(&path, format!("content {n}")).expect("write");
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .expect("open")
        })
        .collect();
    for n in (0..2000).step_by(20) {
        std::fs::remove_file(mount.at(format!("d/f{n}"))).expect("unlink");
    }
    for round in 0..3 {
        for (n, file) in files.iter().enumerate() {
            file.write_all_at(format!("round {round}").as_bytes(), 20)
                .expect("write");
            let mut back = vec![0; 7];
            file.read_exact_at(&mut back, 20).expect("read");
            assert_eq!(back, format!("round {round}").as_bytes(), "file {n}");
        }
    }
    for file in files.iter().step_by(7) {
        file.sync_all().expect("fsync");
    }
    assert!(descriptors(&mount) <= 256);
    assert_eq!(mount.state(), "in-sync");
    // The nameless ones keep their content to the last.
    for (n, file) in files.iter().enumerate().step_by(20) {
        let mut back = vec![0; format!("content {n}").len()];
        file.read_exact_at(&mut back, 0).expect("read");
        assert_eq!(back, format!("content {n}").as_bytes());
        assert_eq!(rustix::fs::fstat(file).expect("fstat").st_nlink, 0);
    }
    files.clear();
    mount.finish();
}

/// Directories too: a tree wider and deeper than the descriptors, everything open, everything used.
#[test]
fn more_open_directories_than_descriptors() {
    need_root!();
    need_product!();
    need_programs!("prlimit");
    let mount = Wish::default().descriptors(256).mount();
    let open: Vec<_> = (0..600)
        .map(|n| {
            let dir = mount.at(format!("d{}/e{n}", n % 10));
            std::fs::create_dir_all(&dir).expect("mkdir");
            File::open(dir).expect("open")
        })
        .collect();
    for (n, dir) in open.iter().enumerate() {
        rustix::fs::mkdirat(dir, "below", 0o755.into()).expect("mkdirat");
        rustix::fs::symlinkat(n.to_string(), dir, "link").expect("symlinkat");
        dir.sync_all().expect("fsync");
    }
    assert_eq!(mount.state(), "in-sync");
    drop(open);
    mount.finish();
}

/// Tens of thousands of files later, the daemon has the descriptors and the memory it had.
#[test]
fn nothing_grows() {
    need_product!();
    let mount = TestMount::new();
    let round = |name: &str| {
        let dir = mount.at(name);
        std::fs::create_dir(&dir).expect("mkdir");
        for n in 0..5000 {
            std::fs::write(dir.join(format!("f{n}")), "x").expect("write");
        }
        for n in 0..5000 {
            assert_eq!(
                std::fs::read(dir.join(format!("f{n}"))).expect("read"),
                b"x"
            );
        }
        std::fs::remove_dir_all(&dir).expect("rm -rf");
    };
    round("warm-up");
    let (fds, memory) = (descriptors(&mount), resident(&mount));
    for n in 0..4 {
        round(&n.to_string());
    }
    // FORGETs arrive in their own time.
    wait_until("descriptors are given back", || {
        descriptors(&mount) <= fds + 64
    });
    let grown = resident(&mount).saturating_sub(memory);
    assert!(
        grown < 32 * 1024,
        "{grown} KiB more after 20,000 files that are gone"
    );
    mount.finish();
}
