// SPDX-License-Identifier: MIT
//! `--shared-primary`: what changes on PRIMARY behind the mount is seen on the mount, soon.
//!
//! Each story looks first, so that the kernel knows what is about to become wrong. The replica
//! does not follow what happens behind the mount; `--adopt` brings it back at the end.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::support::image::Image;
use crate::support::mount::{TestMount, Wish};
use crate::support::wait_until;
use crate::{need_product, need_programs, need_root};

fn shared() -> TestMount {
    Wish::default().arg("--shared-primary").mount()
}

/// Unmounts; what the replica missed is found and repaired.
fn finish(mut mount: TestMount) {
    mount.umount();
    mount.try_mount(&["--adopt"]).ok();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// The names in a directory, in order.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| e.to_string())
}

/// Files made, changed, replaced, removed and renamed; attributes; symlinks; listings.
#[test]
fn changes_behind_the_mount_are_seen() {
    need_root!();
    need_product!();
    let mount = shared();
    let (here, behind) = (
        |name: &str| mount.at(name),
        |name: &str| mount.primary.join(name),
    );
    let shows = |name: &str, wanted: &str| {
        wait_until(format_args!("{name} to show {wanted:?}"), || {
            text(&here(name)) == wanted
        });
    };
    for name in ["changed", "longer", "replaced", "removed", "old"] {
        fs::write(here(name), "as it was").expect("write");
    }
    symlink("changed", here("link")).expect("symlink");
    fs::create_dir(here("dir")).expect("mkdir");
    let look = || {
        let all = names(&mount.mountpoint);
        for name in &all {
            drop((fs::read(here(name)), fs::read_link(here(name))));
        }
        (all, here("made").exists(), names(&here("dir")))
    };
    let (all, made, below) = look();
    assert_eq!((all, made, below.len()), (names(&mount.primary), false, 0));

    fs::write(behind("made"), "new").expect("write");
    shows("made", "new");
    // In place and as long as before: only the time tells.
    let file = File::options().write(true).open(behind("changed"));
    file.expect("open").write_all_at(b"NOW", 0).expect("write");
    shows("changed", "NOWit was");
    let file = File::options().append(true).open(behind("longer"));
    file.expect("open").write_all(b", and more").expect("write");
    shows("longer", "as it was, and more");
    fs::write(behind("tmp"), "another").expect("write");
    fs::rename(behind("tmp"), behind("replaced")).expect("rename");
    shows("replaced", "another");
    fs::remove_file(behind("removed")).expect("unlink");
    wait_until("a removed name to go", || !here("removed").exists());
    fs::rename(behind("old"), behind("new")).expect("rename");
    shows("new", "as it was");
    wait_until("the old name to go", || !here("old").exists());
    fs::remove_file(behind("link")).expect("unlink");
    symlink("new", behind("link")).expect("symlink");
    let led = || fs::read_link(here("link")).is_ok_and(|to| to == Path::new("new"));
    wait_until("the link to lead elsewhere", led);
    fs::write(behind("dir/inside"), "").expect("write");
    wait_until("a listing", || names(&here("dir")) == ["inside"]);
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(behind("changed"), private).expect("chmod");
    let mode = || fs::metadata(here("changed")).map_or(0, |m| m.mode() & 0o777);
    wait_until("a mode", || mode() == 0o600);
    wait_until("everything to be as it is", || {
        names(&mount.mountpoint) == names(&mount.primary)
    });
    assert_eq!(
        mount.state(),
        "in-sync",
        "nobody asked the replica for any of it"
    );
    finish(mount);
}

/// Directories that are moved, into each other too, while the daemon has no room to hold on to them.
#[test]
fn directories_move_behind_the_mount() {
    need_root!();
    need_product!();
    let wish = Wish::default().arg("--shared-primary").descriptors(64);
    let mount = wish.mount();
    let (at, behind) = (
        |name: &str| mount.at(name),
        |name: &str| mount.primary.join(name),
    );
    fs::create_dir_all(at("a/b/c")).expect("mkdir");
    fs::write(at("a/b/c/file"), "content").expect("write");
    // The kernel must not forget what it knows of them.
    let held = ["a", "a/b", "a/b/c"].map(|dir| File::open(at(dir)).expect("open"));
    fs::create_dir(at("many")).expect("mkdir");
    let crowd = || {
        for n in 0..200 {
            let path = at(&format!("many/{n}"));
            fs::write(&path, "x")
                .and_then(|()| fs::read(&path))
                .expect("a crowd");
        }
    };
    for (from, to, file) in [
        ("a/b", "b", "b/c/file"),
        ("a", "b/c/a", "b/c/file"),
        ("b/c", "c", "c/file"),
        ("b", "c/a/b", "c/file"),
        ("c/a", "a", "c/file"),
    ] {
        drop(names(&at(from)));
        fs::rename(behind(from), behind(to)).expect("rename");
        crowd();
        wait_until(format_args!("{file} after {from} became {to}"), || {
            text(&at(file)) == "content" && at(to).is_dir() && !at(from).exists()
        });
    }
    drop(held);
    finish(mount);
}

/// An inode number that passes to another object: the old one is gone, not turned into the new.
#[test]
fn a_number_passes_to_another_object() {
    need_root!();
    need_product!();
    need_programs!("mkfs.ext4");
    // A journaled ext4 gives a number away at once.
    let image = Image::new("ext4", 64, &["-O", "has_journal"]);
    let mount = Wish::default()
        .arg("--shared-primary")
        .base(&image.path())
        .mount();
    let (at, behind) = (
        |name: &str| mount.at(name),
        |name: &str| mount.primary.join(name),
    );
    fs::write(behind("old"), "private").expect("write");
    let mut held = File::options()
        .read(true)
        .append(true)
        .open(at("old"))
        .expect("open");
    let number = fs::metadata(at("old")).expect("stat").ino();
    fs::remove_file(behind("old")).expect("unlink");
    fs::write(behind("new"), "another").expect("write");
    assert_eq!(
        fs::metadata(behind("new")).expect("stat").ino(),
        number,
        "given away at once"
    );
    wait_until("the new one", || text(&at("new")) == "another");
    // Whoever still holds the old one must not write into the new.
    let wrote = held.write_all(b"!").and_then(|()| held.sync_all());
    assert!(wrote.is_err(), "it is gone");
    let mut read = String::new();
    drop(held.rewind().and_then(|()| held.read_to_string(&mut read)));
    assert!(!read.contains("another"), "{read}");
    assert_eq!(text(&behind("new")), "another");
    drop(held);
    // And as something else altogether; the kernel has no more than heard of it.
    fs::write(behind("file"), "").expect("write");
    let number = fs::metadata(at("file")).expect("stat").ino();
    fs::remove_file(behind("file")).expect("unlink");
    fs::create_dir(behind("dir")).expect("mkdir");
    assert_eq!(
        fs::metadata(behind("dir")).expect("stat").ino(),
        number,
        "given away at once"
    );
    fs::write(behind("dir/inside"), "deep").expect("write");
    wait_until("a directory in its place", || {
        text(&at("dir/inside")) == "deep"
    });
    finish(mount);
}

/// Writes through the mount to what changed behind it: nothing of either is lost, and the mirror
/// goes on.
#[test]
fn writes_meet_what_changed_behind_the_mount() {
    need_root!();
    need_product!();
    let mount = shared();
    let (here, behind) = (mount.at("log"), mount.primary.join("log"));
    fs::write(mount.at("other"), "stays").expect("write");
    fs::write(&here, "one\n").expect("write");
    let mut ours = File::options().append(true).open(&here).expect("open");
    let mut theirs = File::options().append(true).open(&behind).expect("open");
    ours.write_all(b"two\n").expect("write");
    // The kernel does not know of this one when the next comes.
    theirs.write_all(b"three\n").expect("write");
    ours.write_all(b"four\n").expect("write");
    ours.sync_all().expect("fsync");
    assert_eq!(text(&behind), "one\ntwo\nthree\nfour\n");
    wait_until("all lines", || text(&here) == text(&behind));
    // Removed under the hands of a writer: it is told, and nobody else.
    fs::remove_file(&behind).expect("unlink");
    drop(ours.write_all(b"five\n").and_then(|()| ours.sync_all()));
    drop(ours);
    wait_until("it to be gone", || !here.exists());
    assert_eq!(mount.state(), "in-sync");
    finish(mount);
}

/// A change through the mount that needs what the replica lacks: nobody calls that replica in-sync
/// until it was compared.
#[test]
fn what_the_replica_lacks_degrades() {
    need_root!();
    need_product!();
    let mount = shared();
    fs::write(mount.at("known"), "known").expect("write");
    fs::write(mount.primary.join("made"), "behind").expect("write");
    wait_until("the new file", || text(&mount.at("made")) == "behind");
    assert_eq!(mount.state(), "in-sync");
    let file = File::options().append(true).open(mount.at("made"));
    file.expect("open")
        .write_all(b" and before")
        .expect("write");
    assert_eq!(text(&mount.at("made")), "behind and before");
    assert_eq!(mount.state(), "degraded");
    finish(mount);
}

/// It is said in status; and that without the option none of this is seen.
#[test]
fn only_on_request() {
    need_product!();
    let mount = shared();
    assert_eq!(mount.status_json()["shared_primary"], true);
    let status = mount.status().ok();
    assert!(
        status.out.contains("mode: sync, shared primary\n"),
        "{status}"
    );
    mount.finish();

    let mut mount = TestMount::new();
    assert!(mount.status_json().get("shared_primary").is_none());
    let status = mount.status().ok();
    assert!(status.out.contains("mode: sync\n"), "{status}");
    fs::write(mount.at("f"), "1234").expect("write");
    assert_eq!(
        (text(&mount.at("f")), mount.at("g").exists()),
        ("1234".into(), false)
    );
    assert_eq!(fs::metadata(mount.at("f")).expect("stat").len(), 4);
    fs::write(mount.primary.join("f"), "1").expect("write");
    fs::write(mount.primary.join("g"), "1").expect("write");
    assert_eq!(
        fs::metadata(mount.at("f")).expect("stat").len(),
        4,
        "as it was told"
    );
    assert!(!mount.at("g").exists(), "as it was told");
    mount.umount();
    mount.try_mount(&["--adopt"]).ok();
    mount.finish();
}
