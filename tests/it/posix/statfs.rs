// SPDX-License-Identifier: MIT
//! statfs: the room there is, on the tighter of the two copies.

use crate::support::mount::TestMount;

/// The totals are the file system's own, from every place on the mount.
#[test]
fn totals_are_the_file_systems() {
    let mount = TestMount::new();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    let native = rustix::fs::statvfs(&mount.primary).expect("statvfs");
    for place in [".", "d"] {
        let seen = rustix::fs::statvfs(mount.at(place)).expect("statvfs");
        assert_eq!(
            seen.f_frsize * seen.f_blocks,
            native.f_frsize * native.f_blocks
        );
        assert_eq!(seen.f_files, native.f_files);
        assert_eq!(seen.f_namemax, 255);
        // Other tests write at the same time.
        assert!(seen.f_bavail > 0 && seen.f_bavail <= seen.f_blocks);
    }
    mount.finish();
}

/// With a small replica, df shows the replica's room: what does not fit there is not there.
#[test]
fn the_smaller_copy_counts() {
    crate::need_root!();
    crate::need_product!();
    let small = crate::support::image::Image::new("ext4", 64, &[]);
    let replica = small.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let mount = crate::support::mount::Wish::default()
        .replica(&replica)
        .mount();
    let room = |path: &std::path::Path| {
        let s = rustix::fs::statvfs(path).expect("statvfs");
        s.f_bavail * s.f_frsize
    };
    assert!(
        room(&mount.mountpoint) <= room(&replica) + (1 << 20),
        "df shows more than fits"
    );
    mount.finish();
}
