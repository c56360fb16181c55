// SPDX-License-Identifier: MIT
//! `scripts/install`: what it puts where, and the units among that.

use std::path::Path;
use std::process::Command;

use crate::support::run::{MIRRORFS, run};
use crate::support::{base, temp_in};
use crate::{need_product, need_programs};

fn install(words: &[&str], dest: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/install"));
    command.args(["--binary", MIRRORFS, "--destdir"]).arg(dest);
    run(command.args(words)).ok();
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = run(Command::new("find").arg(dir).args(["!", "-type", "d"])).ok();
    found.out = found.out.replace(&format!("{}/", dir.display()), "");
    let mut found: Vec<_> = found.out.lines().map(str::to_owned).collect();
    found.sort_unstable();
    found
}

/// The helpers where mount(8) looks for them, the units where systemd does, the rest below the prefix;
/// all that names the program names it where it is.
#[test]
fn what_is_installed_goes_away_whole() {
    need_product!();
    let dest = temp_in(&base());
    for (prefix, sbin, units, zsh) in [
        (
            "usr/local",
            "sbin",
            "usr/local/lib/systemd/system",
            "site-functions",
        ),
        (
            "usr",
            "usr/sbin",
            "usr/lib/systemd/system",
            "vendor-completions",
        ),
        (
            "opt/mirror",
            "sbin",
            "usr/local/lib/systemd/system",
            "site-functions",
        ),
    ] {
        let words = format!("/{prefix}");
        install(&["--prefix", &words], dest.path());
        let mut expected = vec![
            format!("{prefix}/bin/mirrorfs"),
            format!("{units}/mirrorfs-metrics.service"),
            format!("{units}/mirrorfs-metrics.timer"),
            format!("{units}/mirrorfs-verify@.service"),
            format!("{units}/mirrorfs-verify@.timer"),
            format!("{units}/mirrorfs@.service"),
            format!("{prefix}/share/bash-completion/completions/mirrorfs"),
            format!("{prefix}/share/fish/vendor_completions.d/mirrorfs.fish"),
            format!("{prefix}/share/zsh/{zsh}/_mirrorfs"),
            format!("{prefix}/share/man/man1/mirrorfs.1"),
            format!("{prefix}/share/man/man7/mirrorfs.7"),
        ];
        for name in ["mount", "mount.fuse", "umount", "umount.fuse"] {
            expected.push(format!("{sbin}/{name}.mirrorfs"));
            expected.push(format!("{prefix}/share/man/man8/{name}.mirrorfs.8"));
        }
        expected.sort_unstable();
        assert_eq!(files_below(dest.path()), expected);
        let program = format!("/{prefix}/bin/mirrorfs");
        for (file, verb) in [
            (format!("{sbin}/mount.fuse.mirrorfs"), "mount-helper"),
            (format!("{sbin}/umount.fuse.mirrorfs"), "umount-helper"),
            (format!("{units}/mirrorfs@.service"), "mount"),
            (format!("{units}/mirrorfs@.service"), "umount"),
            (format!("{units}/mirrorfs-verify@.service"), "verify"),
            (format!("{units}/mirrorfs-metrics.service"), "status"),
        ] {
            let text = std::fs::read_to_string(dest.path().join(&file)).expect("read");
            let line = format!("{program} {verb} ");
            let plain = text.replace("ExecStart=", " ").replace("ExecStop=", " ");
            let plain = plain.replace('\'', " ");
            assert!(plain.contains(&format!(" {line}")), "{file}: {text}");
        }
        install(&["--prefix", &words, "--uninstall"], dest.path());
        assert_eq!(files_below(dest.path()), Vec::<String>::new());
    }
}

/// man(1) and mandoc(1) find nothing to complain about in the manual.
#[test]
fn the_manual_is_clean() {
    need_product!();
    need_programs!("groff", "mandoc");
    let dest = temp_in(&base());
    install(&[], dest.path());
    let mut pages = 0;
    for file in files_below(dest.path()) {
        if !file.contains("/share/man/") {
            continue;
        }
        let page = dest.path().join(&file);
        let lint = run(Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(&page));
        assert!(lint.ok().out.is_empty(), "{file}");
        let groff = run(Command::new("groff")
            .args(["-man", "-ww", "-z", "-Tutf8"])
            .arg(&page))
        .ok();
        assert!(groff.err.is_empty(), "{file}: {groff}");
        pages += 1;
    }
    assert_eq!(pages, 6);
}

/// Each shell reads its own completions, and they know the verbs and their options.
#[test]
fn completions_are_read_by_their_shells() {
    need_product!();
    let dest = temp_in(&base());
    install(&[], dest.path());
    let share = dest.path().join("usr/local/share");
    for (file, shell) in [
        ("bash-completion/completions/mirrorfs", "bash"),
        ("zsh/site-functions/_mirrorfs", "zsh"),
        ("fish/vendor_completions.d/mirrorfs.fish", "fish"),
    ] {
        let file = share.join(file);
        let text = std::fs::read_to_string(&file).expect("read");
        for word in ["promote", "verify", "on-replica-error", "primary-lost"] {
            assert!(text.contains(word), "{shell} lacks {word}");
        }
        // zsh and fish are read where they are installed; nothing else depends on them.
        if crate::support::run::find(shell).is_some() {
            run(Command::new(shell).arg("-n").arg(&file)).ok();
        }
    }
    let mut bash = Command::new("bash");
    let line = "COMP_WORDS=(mirrorfs mount --meta); COMP_CWORD=2; \
                _mirrorfs mirrorfs --meta mount; echo \"${COMPREPLY[@]}\"";
    let script = format!(
        ". {}/bash-completion/completions/mirrorfs; {line}",
        share.display()
    );
    let ran = run(bash.args(["-c", &script])).ok();
    assert_eq!(ran.out.trim(), "--metadata-loss", "{ran}");
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
        let there = text.replace("/usr/local/bin/mirrorfs", "/bin/true");
        std::fs::write(&path, there).expect("write");
    }
    for unit in [
        "mirrorfs@srv-data.service",
        "mirrorfs-verify@srv-data.service",
        "mirrorfs-verify@srv-data.timer",
        "mirrorfs-metrics.service",
        "mirrorfs-metrics.timer",
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
