// SPDX-License-Identifier: MIT
//! What a service manager is told, as `systemctl status` shows it.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::Scene;
use crate::need_product;
use crate::support::PATIENCE;
use crate::support::run::{Guarded, MIRRORFS};

/// It was told the state at mount and never again: `systemctl status` said in-sync of a mirror that
/// had been degraded for weeks, and draining of one that an umount had found busy.
#[test]
fn the_service_manager_knows_the_state() {
    need_product!();
    let scene = Scene::new();
    let socket = UnixDatagram::bind(scene.at("notify")).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let said = || {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    };
    // A state may be told twice: it is asked for when a change is heard of.
    let until = |wanted: &str| while said() != wanted {};
    let mountpoint = scene.at("mnt");
    let mut command = scene.foreground();
    command.env("NOTIFY_SOCKET", scene.at("notify"));
    let mut child = Guarded(command.spawn().expect("spawn"));
    let tell = |verb: &str| {
        let mut command = Command::new(MIRRORFS);
        let status = command.arg(verb).arg(&mountpoint).status().expect(verb);
        status.success()
    };
    assert_eq!(said(), "READY=1\nSTATUS=in-sync");
    assert!(tell("pause"));
    until("STATUS=paused");
    assert!(tell("resume"));
    until("STATUS=in-sync");
    let held = std::fs::File::create(mountpoint.join("held")).expect("create");
    assert!(!tell("umount"), "it is busy");
    until("STATUS=draining\nEXTEND_TIMEOUT_USEC=300000000");
    until("STATUS=in-sync");
    drop(held);
    kill_process(Pid::from_child(&child.0), Signal::TERM).expect("kill");
    assert!(child.0.wait().expect("wait").success());
    until("STOPPING=1\nEXTEND_TIMEOUT_USEC=300000000");
}
