// SPDX-License-Identifier: MIT
//! `mount-helper/install`, and the units that it installs.

use std::path::Path;
use std::process::Command;

use crate::support::run::run;
use crate::support::{base, temp_in};
use crate::{need_product, need_programs};

fn install(words: &[&str], dest: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("mount-helper/install"));
    run(command.args(words).arg(dest)).ok();
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = run(Command::new("find").arg(dir).args(["!", "-type", "d"])).ok();
    found.out = found.out.replace(&format!("{}/", dir.display()), "");
    let mut found: Vec<_> = found.out.lines().map(str::to_owned).collect();
    found.sort_unstable();
    found
}

#[test]
fn what_is_installed_goes_away_whole() {
    need_product!();
    let dest = temp_in(&base());
    install(&[], dest.path());
    let units = "usr/local/lib/systemd/system";
    let expected = [
        "sbin/mount.fuse.mirrorfs".to_owned(),
        "sbin/mount.mirrorfs".to_owned(),
        "sbin/umount.fuse.mirrorfs".to_owned(),
        "sbin/umount.mirrorfs".to_owned(),
        format!("{units}/mirrorfs-verify@.service"),
        format!("{units}/mirrorfs-verify@.timer"),
        format!("{units}/mirrorfs@.service"),
    ];
    assert_eq!(files_below(dest.path()), expected);
    install(&["--uninstall"], dest.path());
    assert_eq!(files_below(dest.path()), Vec::<String>::new());
}

/// As systemd reads them: no word that it does not know, no unit that is not there.
#[test]
fn systemd_understands_the_units() {
    need_product!();
    need_programs!("systemd-analyze");
    let dest = temp_in(&base());
    install(&[], dest.path());
    let units = dest.path().join("usr/local/lib/systemd/system");
    for entry in std::fs::read_dir(&units).expect("list") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("read");
        // The program need not be installed here.
        let there = text.replace("/usr/bin/mirrorfs", "/bin/true");
        std::fs::write(&path, there).expect("write");
    }
    for unit in [
        "mirrorfs@srv-data.service",
        "mirrorfs-verify@srv-data.service",
        "mirrorfs-verify@srv-data.timer",
    ] {
        let mut command = Command::new("systemd-analyze");
        // The colon: and where units are usually.
        let path = format!("{}:", units.display());
        let ran = run(command
            .args(["verify", "--man=no", unit])
            .env("SYSTEMD_UNIT_PATH", path))
        .ok();
        assert!(ran.err.is_empty(), "{ran}");
    }
}
