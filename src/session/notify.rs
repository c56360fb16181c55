// SPDX-License-Identifier: MIT
//! sd_notify: READY, STATUS, STOPPING, EXTEND_TIMEOUT_USEC, when systemd started us.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Whether a service manager listens.
pub fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How long the service manager may take to make room for one: nothing is held up by one that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends one message to the service manager, if there is one; it is never worth failing for.
pub fn notify(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.send_to_addr(message.as_bytes(), &address)
    });
    if let Err(e) = sent {
        tracing::debug!("sd_notify failed: {e}");
    }
}
