// SPDX-License-Identifier: MIT
//! How many system calls things take (`scripts/syscalls`): within what `scripts/syscalls.budget` allows,
//! and that a call too many, or one by a path, is noticed.

use std::path::Path;
use std::process::Command;

use crate::support::run::{MIRRORFS, Ran, run, script};
use crate::support::{base, temp_in};
use crate::{need_product, need_programs, need_root};

fn counted(program: &Path, files: u32) -> Ran {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/syscalls"));
    command.arg("--check").env("MIRRORFS", program);
    command
        .env("FILES", files.to_string())
        .env("LARGE", "16")
        .env("TMPDIR", base());
    run(&mut command)
}

#[test]
fn within_the_budget() {
    need_root!();
    need_product!();
    need_programs!("strace");
    let ran = counted(Path::new(MIRRORFS), 1000).ok();
    eprintln!("{}", ran.out);
}

/// The product with `after` done by its side for each of the two trees it is given.
fn with(after: &str, scratch: &Path) -> Ran {
    let text = format!(
        r#"{MIRRORFS:?} "$@" || exit
case $1 in sync | verify) ;; *) exit ;; esac
for file in "${{@: -2:1}}"/*/*; do {after}; done
exit 0
"#
    );
    let program = scratch.join("mirrorfs");
    script(&program, &text);
    counted(&program, 100)
}

#[test]
fn what_is_too_much_is_noticed() {
    need_root!();
    need_product!();
    need_programs!("strace");
    let scratch = temp_in(&base());
    // One call by a path per file: `test` of the shell.
    let ran = with(r#"[ -r "$file" ]"#, scratch.path()).code(1);
    assert!(
        ran.out
            .contains("paths, and scripts/syscalls.budget allows 0"),
        "{ran}"
    );
    // Several more calls, none of them by a path of the trees.
    let ran = with("(cd /)", scratch.path()).code(1);
    assert!(
        ran.out
            .contains("calls, and scripts/syscalls.budget allows"),
        "{ran}"
    );
}
