// SPDX-License-Identifier: MIT
//! Random bytes from the kernel, for identities that must never collide.

use super::{Errno, Result};

/// 128 random bits (`getrandom(2)`); waits for the pool only during early boot.
///
/// # Errors
/// Whatever `getrandom` answers; an interrupted call is repeated.
pub fn u128() -> Result<u128> {
    let mut bytes = [0u8; 16];
    loop {
        // SAFETY: the kernel writes at most 16 bytes into `bytes`, which is that long.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(got) {
            Ok(16) => return Ok(u128::from_le_bytes(bytes)),
            Ok(_) => {}
            Err(_) => {
                let raw = std::io::Error::last_os_error().raw_os_error();
                match Errno::from_raw_os_error(raw.unwrap_or(libc::EIO)) {
                    Errno::INTR => {}
                    errno => return Err(errno),
                }
            }
        }
    }
}
