// SPDX-License-Identifier: MIT
//! `scripts/bench` works, on a tiny tree, and does not praise a copy that is none. How fast anything is
//! is not looked at here.

use std::path::Path;
use std::process::Command;

use crate::support::run::{MIRRORFS, Ran, run, script};
use crate::support::{base, temp_in};
use crate::{need_product, need_programs, need_root};

fn seeding(program: &Path, contestants: &str) -> Ran {
    let scratch = temp_in(&base());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/bench"));
    command
        .args(["--seeding", "--size", "tiny", "--rounds", "1"])
        .args(["--contestants", contestants])
        .env("BENCH_BINARY", program)
        .env("CARGO_TARGET_DIR", scratch.path());
    run(&mut command)
}

#[test]
fn seeding_is_measured() {
    need_root!();
    need_product!();
    need_programs!("python3", "rsync", "losetup");
    let ran = seeding(Path::new(MIRRORFS), "mirrorfs,mirrorfs-live,cp,rsync").ok();
    for (row, contestants) in [
        (
            "seed-warm",
            &["mirrorfs", "mirrorfs-live", "cp", "rsync"][..],
        ),
        ("again-warm", &["mirrorfs", "rsync"]),
        ("verify-warm", &["mirrorfs", "rsync"]),
    ] {
        for contestant in contestants {
            let cells = format!("(`{row}`) | `{contestant}` | ");
            assert!(ran.out.contains(&cells), "{row}, {contestant}: {ran}");
        }
    }
    for required in [
        "| `seed-warm` | `mirrorfs` | ",
        "| `again-warm` | `mirrorfs` | ",
    ] {
        assert!(ran.out.contains(required), "{required}: {ran}");
    }
}

#[test]
fn a_copy_that_is_none_is_noticed() {
    need_root!();
    need_product!();
    need_programs!("python3", "losetup");
    for (damage, complaint) in [
        // One byte, and nothing else to see it by.
        (
            r#"touch -r "$copy/large0" "$0.times"
            printf x | dd of="$copy/large0" bs=1 seek=2000000 conv=notrunc status=none
            touch -r "$0.times" "$copy/large0""#,
            "large0: content differs",
        ),
        (
            r#"setfattr -n user.other -v 1 "$copy/large0""#,
            "large0: xattrs differ",
        ),
    ] {
        let scratch = temp_in(&base());
        let text = format!(
            r#"{MIRRORFS:?} "$@" || exit
[ "$1 ${{2-}}" = "sync --init" ] || exit 0
copy=${{@: -1}}
{damage}
"#
        );
        let program = scratch.path().join("mirrorfs");
        script(&program, &text);
        let ran = seeding(&program, "mirrorfs").code(1);
        assert!(ran.err.contains(complaint), "{complaint}: {ran}");
        assert!(ran.err.contains("it is no copy"), "{ran}");
    }
}
