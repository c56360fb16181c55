// SPDX-License-Identifier: MIT
//! The few system calls the tests need and rustix has no safe form of. All `unsafe` of the tests
//! is in this file.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

fn last<T: PartialEq + From<i8>>(value: T) -> Result<T> {
    if value == T::from(-1) {
        let raw = std::io::Error::last_os_error().raw_os_error();
        return Err(Errno::from_raw_os_error(raw.unwrap_or(libc::EIO)));
    }
    Ok(value)
}

/// Gives the calling thread its own umask and working directory.
pub(crate) fn own_fs_state() {
    // SAFETY: CLONE_FS only separates umask, root and working directory; no memory is involved.
    let done = unsafe { libc::unshare(libc::CLONE_FS) };
    assert_eq!(done, 0, "unshare(CLONE_FS)");
}

/// Gives the calling thread a mount namespace of its own, from which nothing comes out, and in which the
/// mounts of other tests are not: they would not go away as long as it is there.
pub(crate) fn own_mounts() {
    use rustix::mount::{MountPropagationFlags as Flags, UnmountFlags, mount_change, unmount};
    // SAFETY: CLONE_NEWNS separates what is mounted, for this thread; no memory is involved.
    let done = unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) };
    assert_eq!(done, 0, "unshare(CLONE_NEWNS)");
    mount_change("/", Flags::PRIVATE | Flags::REC).expect("private");
    let base = super::base();
    let mounts = mirrorfs::sys::mountinfo::read().expect("mountinfo");
    for mount in mounts.iter().rev() {
        let is_a_tests = mount.fstype.starts_with("fuse") || is_loop(&mount.source);
        if is_a_tests && !base.starts_with(&mount.target) {
            // It may have gone meanwhile, by itself or with the one below it.
            _ = unmount(&mount.target, UnmountFlags::DETACH).is_ok();
        }
    }
}

fn is_loop(source: &std::ffi::OsStr) -> bool {
    source.to_string_lossy().starts_with("/dev/loop")
}

/// Length of what the mapping covers, and where it is.
#[derive(Debug)]
pub(crate) struct Map {
    at: *mut libc::c_void,
    len: usize,
}

// SAFETY: the mapping is plain memory; nothing in it is tied to a thread.
unsafe impl Send for Map {}

impl Map {
    /// Maps `len` bytes of `fd` from `offset`.
    pub(crate) fn new(
        fd: impl AsFd,
        offset: u64,
        len: usize,
        write: bool,
        shared: bool,
    ) -> Result<Self> {
        let prot = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let how = if shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, how, fd, offset) };
        if at == libc::MAP_FAILED {
            last(-1_i64)?;
        }
        Ok(Self { at, len })
    }

    /// Copies bytes out.
    pub(crate) fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut out = vec![0; len];
        let from = self.at.cast::<u8>().wrapping_add(offset);
        // SAFETY: the range lies inside the mapping (asserted), and `out` is fresh memory.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), len) };
        out
    }

    /// Copies bytes in.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        let to = self.at.cast::<u8>().wrapping_add(offset);
        // SAFETY: the range lies inside the mapping (asserted), which was made writable by the
        // caller, and `bytes` cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// `msync(MS_SYNC)`.
    pub(crate) fn sync(&self) -> Result<()> {
        // SAFETY: the range is exactly this mapping.
        let done = unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) };
        last(done).map(drop)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this mapping, which nothing else refers to.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// A byte range lock request: `F_RDLCK`, `F_WRLCK` or `F_UNLCK` over `[start, start + len)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) kind: i32,
    pub(crate) start: i64,
    pub(crate) len: i64,
}

/// `fcntl` with a `struct flock`: `command` is one of `F_SETLK`, `F_GETLK`, `F_OFD_SETLK`,
/// `F_OFD_SETLKW`, `F_OFD_GETLK`. Returns the type of lock found (`F_GETLK`) or left.
pub(crate) fn lock(fd: impl AsFd, command: i32, range: Range) -> Result<i32> {
    let kind = libc::c_short::try_from(range.kind).map_err(|_| Errno::INVAL)?;
    let mut request = libc::flock {
        l_type: kind,
        l_whence: 0,
        l_start: range.start,
        l_len: range.len,
        l_pid: 0,
    };
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `request` lives over the call and is what these commands expect.
    let done = unsafe { libc::fcntl(fd, command, &raw mut request) };
    last(done)?;
    Ok(i32::from(request.l_type))
}

/// `name_to_handle_at`: only whether it works.
pub(crate) fn file_handle(path: &std::ffi::CStr) -> Result<()> {
    let mut buffer = [0_u32; 2 + 32];
    buffer[0] = 128;
    let mut mount_id = 0;
    // SAFETY: `buffer` is a `struct file_handle` with room for 128 bytes, as its first word says.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            buffer.as_mut_ptr(),
            &raw mut mount_id,
            0,
        )
    };
    last(done).map(drop)
}
