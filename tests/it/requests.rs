// SPDX-License-Identifier: MIT
//! How often the kernel has to come to us, per operation: what FUSE costs is mostly this number.
//! A request more than today is a regression, seen as a number before it is felt.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use crate::support::mount::TestMount;
use crate::{need_product, need_root};

type Counts = BTreeMap<String, u64>;

/// What was asked since the mount, without what is asked for its own sake.
fn counts(mount: &TestMount) -> Counts {
    let json = mount.status_json();
    let all = json["requests"]
        .as_object()
        .expect("requests in status --json");
    all.iter()
        .map(|(name, count)| (name.clone(), count.as_u64().expect("a count")))
        // FORGET comes when the kernel is short of memory or an inode dies: not ours to steer.
        .filter(|(name, _)| name != "forget")
        .collect()
}

/// Does `work` and tells what it made the kernel ask.
fn asked(mount: &TestMount, work: impl FnOnce()) -> Counts {
    let before = counts(mount);
    work();
    let mut after = counts(mount);
    for (name, count) in before {
        *after.get_mut(&name).expect("counters never vanish") -= count;
    }
    after.retain(|_, count| *count > 0);
    after
}

#[track_caller]
fn expect(what: &str, asked: &Counts, wanted: &[(&str, u64)]) {
    let wanted: Counts = wanted
        .iter()
        .map(|(name, n)| ((*name).to_owned(), *n))
        .collect();
    assert_eq!(*asked, wanted, "{what}");
}

const N: u64 = 10;

fn each(dir: &Path, mut work: impl FnMut(&Path)) {
    (0..N).for_each(|n| work(&dir.join(format!("f{n}"))));
}

/// One after the other, each on what the ones before have left in the kernel's caches.
#[test]
fn per_operation() {
    need_root!();
    need_product!();
    let mount = TestMount::new();
    let dir = mount.at("d");
    fs::create_dir(&dir).expect("mkdir");
    // The first of each kind teaches the kernel that OPEN, OPENDIR and FLUSH are not answered.
    drop(fs::write(dir.join("first"), "x"));
    drop(fs::read(dir.join("first")));
    drop(fs::read_dir(&dir).map(Iterator::count));
    drop(fs::remove_file(dir.join("first")));
    drop(fs::metadata(&dir));

    let create = asked(&mount, || {
        each(&dir, |path| fs::write(path, "0123456789").expect("create"));
    });
    // GETATTR: default_permissions looks at the directory that the CREATE before has changed.
    expect(
        "create, write and close",
        &create,
        &[
            ("create", N),
            ("getattr", N - 1),
            ("lookup", N),
            ("write", N),
        ],
    );

    each(&dir, |path| drop(fs::metadata(path)));
    let stat = asked(&mount, || {
        each(&dir, |path| _ = fs::metadata(path).expect("stat"));
    });
    expect("stat, warm", &stat, &[]);

    // Twice: what was read for the first time has a new atime, which the next fstat asks for.
    each(&dir, |path| drop(fs::read(path)));
    each(&dir, |path| drop(fs::read(path)));
    let read = asked(&mount, || {
        each(&dir, |path| drop(fs::read(path).expect("read")));
    });
    expect("open, read and close, warm", &read, &[]);

    let missing = dir.join("missing");
    assert!(!missing.exists());
    let negative = asked(&mount, || assert!(!missing.exists()));
    expect("stat of what is not there, warm", &negative, &[]);

    drop(fs::read_dir(&dir).map(Iterator::count));
    drop(fs::read_dir(&dir).map(Iterator::count));
    let list = asked(&mount, || {
        let entries = fs::read_dir(&dir).expect("readdir");
        entries.for_each(|e| _ = e.expect("entry").metadata().expect("stat"));
    });
    expect("ls -l, warm", &list, &[]);

    let chmod = asked(&mount, || {
        each(&dir, |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
        });
    });
    expect("chmod", &chmod, &[("setattr", N)]);

    let append = asked(&mount, || {
        let mut file = File::options()
            .append(true)
            .open(dir.join("f0"))
            .expect("open");
        (0..N).for_each(|_| file.write_all(b"a line\n").expect("append"));
    });
    expect("append", &append, &[("write", N), ("getxattr", 1)]);

    let overwrite = asked(&mount, || {
        let file = File::options()
            .write(true)
            .open(dir.join("f0"))
            .expect("open");
        (0..N).for_each(|n| file.write_all_at(b"over", n).expect("write"));
    });
    expect("overwrite", &overwrite, &[("write", N)]);

    let rename = asked(&mount, || {
        each(&dir, |path| {
            fs::rename(path, path.with_extension("new")).expect("rename");
        });
    });
    expect(
        "rename",
        &rename,
        &[("rename", N), ("lookup", N), ("getattr", N - 1)],
    );

    let unlink = asked(&mount, || {
        each(&dir, |path| {
            fs::remove_file(path.with_extension("new")).expect("unlink");
        });
    });
    expect("unlink", &unlink, &[("unlink", N), ("getattr", N)]);
    mount.finish();
}

/// From the start to the end the kernel reads ahead, further than the 128 KiB it begins with: 4 MiB
/// took 32 requests.
#[test]
fn reading_from_start_to_end() {
    need_root!();
    need_product!();
    let mount = TestMount::new();
    let path = mount.at("large");
    // Created O_WRONLY, so nothing of it stays in the mount's page cache.
    fs::write(&path, vec![7; 4 << 20]).expect("write");
    let asked = asked(&mount, || {
        assert_eq!(fs::read(&path).expect("read").len(), 4 << 20);
    });
    let reads = asked.get("read").copied().unwrap_or_default();
    assert!((1..=20).contains(&reads), "{reads} READs for 4 MiB");
    mount.finish();
}
