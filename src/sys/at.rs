// SPDX-License-Identifier: MIT
//! Metadata by descriptor: calls that take `(fd, "", AT_EMPTY_PATH)`.
//!
//! They act on the very object a descriptor holds, `O_PATH` descriptors and symlinks included, so
//! that no name is looked up again. `fchmodat2` needs Linux 6.6 and the `*xattrat` family 6.13, and
//! that family refuses `O_PATH` descriptors: where a call is not to be had it goes through the
//! magic link `/proc/self/fd/N`, which leads to the same object.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, Uid};

use super::{Errno, Result};

/// Linux 6.6, include/uapi/asm-generic/unistd.h.
const SYS_FCHMODAT2: libc::c_long = 452;
/// Linux 6.13, include/uapi/asm-generic/unistd.h.
const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

/// Cleared at the first ENOSYS, so that an old kernel is asked once only.
static HAS_FCHMODAT2: AtomicBool = AtomicBool::new(true);
static HAS_XATTRAT: AtomicBool = AtomicBool::new(true);

/// `struct xattr_args` of include/uapi/linux/xattr.h.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// The errno left by a system call that returned `code`, or the number it returned.
fn checked(code: libc::c_long) -> Result<usize> {
    usize::try_from(code).map_err(|_| {
        let raw = std::io::Error::last_os_error().raw_os_error();
        Errno::from_raw_os_error(raw.unwrap_or(libc::EIO))
    })
}

/// Runs `call` unless the kernel was found to lack it, then `fallback`.
fn or_by_proc<T>(
    has: &AtomicBool,
    call: impl FnOnce() -> Result<T>,
    fallback: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if has.load(Ordering::Relaxed) {
        match call() {
            Err(Errno::NOSYS) => has.store(false, Ordering::Relaxed),
            // The *xattrat calls take no O_PATH descriptor (fs/xattr.c, path_getxattrat).
            Err(Errno::BADF) => {}
            done => return done,
        }
    }
    fallback()
}

/// Sets the permission bits (`mode & 0o7777`) of the object behind `fd`.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    or_by_proc(
        &HAS_FCHMODAT2,
        || {
            // SAFETY: passes a live descriptor, a static NUL-terminated string and two integers.
            let code = unsafe {
                libc::syscall(
                    SYS_FCHMODAT2,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    mode,
                    libc::AT_EMPTY_PATH,
                )
            };
            checked(code).map(drop)
        },
        || {
            rustix::fs::chmodat(
                rustix::fs::CWD,
                proc_path(fd),
                Mode::from(mode),
                AtFlags::empty(),
            )
        },
    )
}

/// Sets owner and group of the object behind `fd`; `None` leaves one as it is.
pub fn chown(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    rustix::fs::chownat(
        fd,
        c"",
        uid.map(Uid::from_raw),
        gid.map(Gid::from_raw),
        AtFlags::EMPTY_PATH,
    )
}

/// Sets the times of the object behind `fd`.
pub fn utimens(fd: BorrowedFd<'_>, times: &rustix::fs::Timestamps) -> Result<()> {
    rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH)
}

/// Sets one extended attribute of the object behind `fd`.
///
/// `flags` is 0, `XATTR_CREATE` (1) or `XATTR_REPLACE` (2).
pub fn set_xattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: u32) -> Result<()> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let args = XattrArgs {
        value: value.as_ptr().expose_provenance() as u64,
        size,
        flags,
    };
    or_by_proc(
        &HAS_XATTRAT,
        || {
            // SAFETY: `args` names `value`, which outlives the call; the size given is its own.
            let code = unsafe {
                libc::syscall(
                    SYS_SETXATTRAT,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH,
                    name.as_ptr(),
                    &raw const args,
                    size_of::<XattrArgs>(),
                )
            };
            checked(code).map(drop)
        },
        || {
            let flags = rustix::fs::XattrFlags::from_bits_retain(flags);
            rustix::fs::setxattr(proc_path(fd), name, value, flags)
        },
    )
}

/// Reads one extended attribute into `buf`; with an empty `buf`, returns the size it has.
///
/// # Errors
/// `ERANGE` when `buf` is too small, `ENODATA` when there is no such attribute.
pub fn get_xattr(fd: BorrowedFd<'_>, name: &CStr, buf: &mut [u8]) -> Result<usize> {
    let size = u32::try_from(buf.len()).map_err(|_| Errno::TOOBIG)?;
    let args = XattrArgs {
        value: buf.as_mut_ptr().expose_provenance() as u64,
        size,
        flags: 0,
    };
    let (buf_ptr, buf_len) = (buf.as_mut_ptr(), buf.len());
    or_by_proc(
        &HAS_XATTRAT,
        || {
            // SAFETY: the kernel writes at most `size` bytes into `buf`, borrowed for the call.
            let code = unsafe {
                libc::syscall(
                    SYS_GETXATTRAT,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH,
                    name.as_ptr(),
                    &raw const args,
                    size_of::<XattrArgs>(),
                )
            };
            checked(code)
        },
        || {
            let path = proc_path(fd);
            // SAFETY: the kernel writes at most `buf_len` bytes at `buf_ptr`, borrowed here.
            let code =
                unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buf_ptr.cast(), buf_len) };
            checked(code as libc::c_long)
        },
    )
}

/// Reads the NUL-separated names of all extended attributes; with an empty `buf`, their length.
pub fn list_xattr(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    let (buf_ptr, buf_len) = (buf.as_mut_ptr(), buf.len());
    or_by_proc(
        &HAS_XATTRAT,
        || {
            // SAFETY: the kernel writes at most `buf_len` bytes at `buf_ptr`, borrowed here.
            let code = unsafe {
                libc::syscall(
                    SYS_LISTXATTRAT,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH,
                    buf_ptr,
                    buf_len,
                )
            };
            checked(code)
        },
        || {
            let path = proc_path(fd);
            // SAFETY: the kernel writes at most `buf_len` bytes at `buf_ptr`, borrowed here.
            let code = unsafe { libc::listxattr(path.as_ptr(), buf_ptr.cast(), buf_len) };
            checked(code as libc::c_long)
        },
    )
}

/// Removes one extended attribute of the object behind `fd`.
pub fn remove_xattr(fd: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    or_by_proc(
        &HAS_XATTRAT,
        || {
            // SAFETY: passes a live descriptor and two NUL-terminated strings.
            let code = unsafe {
                libc::syscall(
                    SYS_REMOVEXATTRAT,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH,
                    name.as_ptr(),
                )
            };
            checked(code).map(drop)
        },
        || rustix::fs::removexattr(proc_path(fd), name),
    )
}

/// Reads a whole extended attribute, however often it grows meanwhile.
pub fn get_xattr_vec(fd: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>> {
    grow(|buf| get_xattr(fd, name, buf))
}

/// The names of all extended attributes of the object behind `fd`.
///
/// A file system without extended attributes has none: `EOPNOTSUPP` becomes an empty list.
pub fn xattr_names(fd: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let list = match grow(|buf| list_xattr(fd, buf)) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        other => other?,
    };
    Ok(list
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| CString::new(name).ok())
        .collect())
}

fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buf = vec![0; 512];
    loop {
        match read(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            Err(Errno::RANGE) => {
                let need = read(&mut [])?;
                buf.resize(need.max(buf.len() * 2), 0);
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// `ioctl` with one pointer-sized argument in and out, for the inode flag calls.
fn ioctl_u32(fd: BorrowedFd<'_>, request: u64, value: &mut u32) -> Result<()> {
    // The kernel reads and writes an int, whatever the size encoded in the request says
    // (fs/ioctl.c, ioctl_getflags): room for a long is kept all the same.
    let mut word = [*value, 0];
    // SAFETY: `word` is at least as large as anything the two requests used here transfer.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, word.as_mut_ptr()) };
    checked(libc::c_long::from(code))?;
    *value = word[0];
    Ok(())
}

/// `FS_IOC_GETFLAGS` (chattr flags) of an open file or directory.
pub fn get_flags(fd: BorrowedFd<'_>) -> Result<u32> {
    let mut flags = 0;
    ioctl_u32(fd, 0x8008_6601, &mut flags)?;
    Ok(flags)
}

/// `FS_IOC_SETFLAGS` on an open file or directory.
pub fn set_flags(fd: BorrowedFd<'_>, mut flags: u32) -> Result<()> {
    ioctl_u32(fd, 0x4008_6602, &mut flags)
}

/// `struct fsxattr` of include/uapi/linux/fs.h, as bytes: flags, extent size hints, project.
pub type ExtendedFlags = [u8; 28];

/// `FS_IOC_FSGETXATTR`: what [`get_flags`] tells and more, on an open file or directory.
pub fn get_extended_flags(fd: BorrowedFd<'_>) -> Result<ExtendedFlags> {
    let mut flags = [0; 28];
    // SAFETY: the request writes exactly the 28 bytes of `flags`.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), 0x801c_581f_u64 as _, flags.as_mut_ptr()) };
    checked(libc::c_long::from(code)).map(|_| flags)
}

/// `FS_IOC_FSSETXATTR` on an open file or directory.
pub fn set_extended_flags(fd: BorrowedFd<'_>, flags: &ExtendedFlags) -> Result<()> {
    // SAFETY: the request reads exactly the 28 bytes of `flags`.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), 0x401c_5820_u64 as _, flags.as_ptr()) };
    checked(libc::c_long::from(code)).map(drop)
}

/// The UUID of the file system that holds `fd` (`FS_IOC_GETFSUUID`, Linux 6.9), if it has one.
pub fn fs_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
    // struct fsuuid2 { __u8 len; __u8 uuid[16]; } of include/uapi/linux/fs.h.
    let mut answer = [0u8; 17];
    // SAFETY: the request transfers exactly the 17 bytes of `answer`.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), 0x8011_1500_u64 as _, answer.as_mut_ptr()) };
    if code != 0 || answer[0] != 16 {
        return None;
    }
    answer[1..].try_into().ok()
}

/// Bytes of the longest handle any file system gives (`MAX_HANDLE_SZ` of include/linux/exportfs.h).
const HANDLE_MAX: u32 = 128;

/// `struct file_handle` of fcntl.h, with room for the longest one.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; HANDLE_MAX as usize],
}

/// A handle by which the file system knows the object behind `fd` (`O_PATH` will do), whatever its
/// names: its type, then its bytes. Nothing where the file system gives none.
#[must_use]
pub fn file_handle(fd: BorrowedFd<'_>) -> Box<[u8]> {
    let mut found = FileHandle {
        bytes: HANDLE_MAX,
        kind: 0,
        handle: [0; HANDLE_MAX as usize],
    };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is an empty C string, and `found` has room for the number of bytes it says.
    let code = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut found,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    let length = usize::try_from(found.bytes).unwrap_or(0);
    match found.handle.get(..length) {
        Some(bytes) if code == 0 => [&found.kind.to_le_bytes(), bytes].concat().into(),
        _ => Box::default(),
    }
}

/// Opens (`O_PATH`) the object that [`file_handle`] gave `handle` of, on the file system of `root`,
/// which must be really open.
///
/// # Errors
/// `ESTALE` when there is no such object any more, `EPERM` without `CAP_DAC_READ_SEARCH`.
pub fn open_handle(root: BorrowedFd<'_>, handle: &[u8]) -> Result<OwnedFd> {
    let (kind, bytes) = handle.split_first_chunk::<4>().ok_or(Errno::INVAL)?;
    let mut wanted = FileHandle {
        bytes: u32::try_from(bytes.len()).map_err(|_| Errno::INVAL)?,
        kind: i32::from_le_bytes(*kind),
        handle: [0; HANDLE_MAX as usize],
    };
    let room = wanted.handle.get_mut(..bytes.len());
    room.ok_or(Errno::INVAL)?.copy_from_slice(bytes);
    // SAFETY: `wanted` holds as many bytes of a handle as it says.
    let code = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            root.as_raw_fd(),
            &raw mut wanted,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    let fd = checked(code)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
