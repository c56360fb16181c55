// SPDX-License-Identifier: MIT
//! Running programs from the mount: ETXTBSY both ways, interpreters, permissions.

use std::process::Command;

use crate::need_root;
use crate::support::ground::{Ground, errno, parity};
use crate::support::run::{Guarded, run};
use crate::support::user::{self, ALICE};

fn install(g: &Ground, program: &str, name: &str) {
    let done = std::fs::copy(program, g.at(name)).map(drop);
    g.did(format_args!("install {name}"), errno(done));
    g.chmod(name, 0o755);
    // Another test's fork may hold our writing descriptor for a moment, until its exec.
    crate::support::wait_until(
        "no writer is left",
        || !matches!(Command::new(g.at(name)).arg("0").output(), Err(e) if e.raw_os_error() == Some(libc::ETXTBSY)),
    );
}

/// Programs and scripts run; what is not executable does not.
#[test]
fn programs_run() {
    parity(|g| {
        install(g, "/bin/echo", "echo");
        let ran = run(Command::new(g.at("echo")).arg("hello"));
        g.note(format_args!("{:?} {}", ran.code, ran.out));
        g.file(
            "script",
            0o755,
            "#!/bin/sh\necho \"$0 $1\" | sed 's,.*/,,'\n",
        );
        crate::support::wait_until(
            "no writer is left",
            || !matches!(Command::new(g.at("script")).output(), Err(e) if e.raw_os_error() == Some(libc::ETXTBSY)),
        );
        let ran = run(Command::new(g.at("script")).arg("argument"));
        g.note(format_args!("{:?} {}", ran.code, ran.out));
        g.chmod("echo", 0o644);
        g.did(
            "not executable",
            errno(Command::new(g.at("echo")).output().map(drop)),
        );
        g.file("rubbish", 0o755, "\x7fELF rubbish");
        g.did("none", errno(Command::new(g.at("none")).output().map(drop)));
    });
}

/// A running program cannot be written, a file open for writing cannot be run.
#[test]
fn text_file_busy() {
    parity(|g| {
        install(g, "/bin/sleep", "sleep");
        let writer = g.fd("sleep", "w");
        g.did(
            "run while written",
            errno(Command::new(g.at("sleep")).arg("0").output().map(drop)),
        );
        drop(writer);
        crate::support::wait_until(
            "no writer is left",
            || !matches!(Command::new(g.at("sleep")).arg("0").output(), Err(e) if e.raw_os_error() == Some(libc::ETXTBSY)),
        );
        let mut sleeper = Guarded(
            Command::new(g.at("sleep"))
                .arg("600")
                .spawn()
                .expect("spawn"),
        );
        drop(g.open("sleep", "w", 0));
        drop(g.open("sleep", "r", 0));
        g.truncate("sleep", 0);
        g.unlink("sleep");
        g.note(format_args!(
            "still running: {}",
            sleeper.0.try_wait().expect("wait").is_none()
        ));
    });
}

/// A set-uid program from a root mount runs as its owner, as the primary's mount allows.
#[test]
fn set_uid_programs() {
    need_root!();
    crate::need_programs!("setpriv");
    parity(|g| {
        install(g, "/usr/bin/id", "id");
        g.chown("id", 12_345, 12_346);
        g.chmod("id", 0o6755);
        let ran = run(user::command(ALICE, g.at("id").to_str().expect("text")).arg("-u"));
        g.note(format_args!("{:?} {}", ran.code, ran.out));
        g.chmod("id", 0o700);
        let ran = run(&mut user::command(
            ALICE,
            g.at("id").to_str().expect("text"),
        ));
        g.note(format_args!("{:?}", ran.code));
    });
}
