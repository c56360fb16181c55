// SPDX-License-Identifier: MIT
//! Giving up, for good, what this process has no use for: capabilities, new privileges through
//! programs it starts, system calls.
//!
//! The system calls are a list of what is forbidden, not of what is allowed: a list of all that a
//! file system may ever need, in each branch of each libc, would one day lack one, and the call
//! would fail in the middle of somebody's write (docs/decisions/0021).

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::{Errno, Result};

/// Programs: none is started.
const PROGRAMS: &[i64] = &[libc::SYS_execve, libc::SYS_execveat];

/// Other processes: they are not looked into, steered or signalled.
const OTHERS: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
];

/// The kernel itself: its code, its clock, its name, its power switch.
const KERNEL: &[i64] = &[
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_fanotify_init,
];

/// Where files are: once it is mounted it only unmounts. `open_tree` stays, which gives a replica
/// that comes back its private view (`one-file-system`) and attaches nothing anywhere.
const MOUNTS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
];

/// What only this architecture has: its ports and segments, and the numbers under which a 64 bit
/// process may call the x32 ABI, where that differs.
#[cfg(target_arch = "x86_64")]
const OF_THE_ARCHITECTURE: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    // arch/x86/entry/syscalls/syscall_64.tbl: execve, ptrace, rt_sigqueueinfo, kexec_load,
    // rt_tgsigqueueinfo, process_vm_readv, process_vm_writev, execveat of x32.
    520 | X32,
    521 | X32,
    524 | X32,
    528 | X32,
    536 | X32,
    539 | X32,
    540 | X32,
    545 | X32,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_THE_ARCHITECTURE: &[i64] = &[];

/// `__X32_SYSCALL_BIT`.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Keeps of this process' capabilities those in `kept`: nothing else can come back, whatever is
/// done later.
///
/// Called while there is one thread; threads inherit it.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn keep_only(kept: CapabilitySet) -> Result<()> {
    for capability in CapabilitySet::all().iter() {
        let is_known = rustix::thread::capability_is_in_bounding_set(capability);
        if !kept.contains(capability) && is_known == Ok(true) {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    // A kernel before 4.3 has none.
    _ = rustix::thread::clear_ambient_capability_set().is_ok();
    let now = rustix::thread::capabilities(None)?;
    let sets = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}

/// No program started from here on gains anything by being set-user-ID.
///
/// # Errors
/// None are known.
pub fn gain_nothing() -> Result<()> {
    rustix::thread::set_no_new_privs(true)
}

/// What the calling thread, and those it starts, may name from here on, for good: everything in
/// `trees` with what is mounted below them, and what is read in `read`. Nothing can be mounted or
/// unmounted either. What is open stays open.
///
/// What is not handled by this kernel's Landlock stays possible; a kernel before 5.19 could not
/// rename from one directory into another under it, and nothing is done there.
///
/// # Errors
/// Why it could not be done; everything is as it was then.
pub fn stay_below(trees: &[BorrowedFd<'_>], read: &[&Path]) -> std::result::Result<(), String> {
    let all = AccessFs::from_all(ABI::V5);
    let confine = || -> std::result::Result<(), RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V2))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .create()?;
        for tree in trees {
            rules = rules.add_rule(PathBeneath::new(tree, all))?;
        }
        for path in read.iter().filter_map(|path| PathFd::new(path).ok()) {
            let rights = AccessFs::ReadFile | AccessFs::ReadDir;
            rules = rules.add_rule(PathBeneath::new(path, rights))?;
        }
        rules.restrict_self().map(drop)
    };
    confine().map_err(|e| format!("landlock: {e}"))
}

/// Forbids every thread of this process, for good, the system calls that a mounted file system has
/// no use for: they fail with `EPERM`. What goes through an io_uring is not seen here.
///
/// # Errors
/// Why it could not be done; nothing, or only a part, is forbidden then.
pub fn forbid_calls() -> std::result::Result<(), String> {
    for filter in filters()? {
        seccompiler::apply_filter_all_threads(&filter).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// What is forbidden, and what is said not to exist.
fn filters() -> std::result::Result<[BpfProgram; 2], String> {
    // The C library takes clone, whose flags can be looked at, where there is no clone3.
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([
        compile(forbidden()?, Errno::PERM)?,
        compile(absent, Errno::NOSYS)?,
    ])
}

fn compile(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    errno: Errno,
) -> std::result::Result<BpfProgram, String> {
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|e| format!("seccomp: {e}"))?;
    let refuse = SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
    SeccompFilter::new(calls, SeccompAction::Allow, refuse, architecture)
        .and_then(TryInto::try_into)
        .map_err(|e| format!("seccomp: {e}"))
}

fn forbidden() -> std::result::Result<BTreeMap<i64, Vec<SeccompRule>>, String> {
    let argument = |number, op, value| {
        SeccompCondition::new(number, SeccompCmpArgLen::Qword, op, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|e| format!("seccomp: {e}"))
    };
    let flag = |flag: libc::c_int| u64::from(flag.unsigned_abs());
    let own = u64::from(
        rustix::process::getpid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs(),
    );
    let sometimes = [
        // Threads, not processes.
        (
            libc::SYS_clone,
            argument(0, SeccompCmpOp::MaskedEq(flag(libc::CLONE_THREAD)), 0)?,
        ),
        // A thread's own umask (`creds`), no namespaces.
        (
            libc::SYS_unshare,
            argument(0, SeccompCmpOp::Ne, flag(libc::CLONE_FS))?,
        ),
        // Sockets of this machine: control, systemd, syslog.
        (
            libc::SYS_socket,
            argument(0, SeccompCmpOp::Ne, flag(libc::AF_UNIX))?,
        ),
        // Abort is a signal to oneself.
        (libc::SYS_tgkill, argument(0, SeccompCmpOp::Ne, own)?),
    ];
    let mut calls = BTreeMap::new();
    for &number in [PROGRAMS, OTHERS, KERNEL, MOUNTS].concat().iter() {
        calls.insert(number, Vec::new());
    }
    for (number, rule) in sometimes {
        calls.insert(number, vec![rule]);
    }
    #[cfg(target_arch = "x86_64")]
    for (number, rules) in calls.clone() {
        calls.insert(number | X32, rules);
    }
    for &number in OF_THE_ARCHITECTURE {
        calls.insert(number, Vec::new());
    }
    Ok(calls)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    fn call(number: i64, first: u64) -> Errno {
        // SAFETY: every call here is forbidden, or fails on its arguments: all others are 0.
        let done = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
        assert_eq!(done, -1, "call {number} went through");
        Errno::from_io_error(&std::io::Error::last_os_error()).expect("an errno")
    }

    /// On a thread of its own: a filter stays as long as its thread does.
    fn confined(then: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            gain_nothing().expect("no new privileges");
            for filter in filters().expect("filters") {
                seccompiler::apply_filter(&filter).expect("applied");
            }
            then();
        });
        thread.join().expect("no panic");
    }

    #[test]
    fn what_is_forbidden_fails() {
        confined(|| {
            for number in [PROGRAMS, OTHERS, KERNEL, MOUNTS].concat() {
                assert_eq!(call(number, 0), Errno::PERM, "call {number}");
            }
            assert_eq!(call(libc::SYS_clone3, 0), Errno::NOSYS);
            // A process, a namespace, the network, a signal to the first process.
            assert_eq!(call(libc::SYS_clone, 17), Errno::PERM);
            assert_eq!(call(libc::SYS_unshare, 0x2000_0000), Errno::PERM);
            assert_eq!(call(libc::SYS_socket, 2), Errno::PERM);
            assert_eq!(call(libc::SYS_tgkill, 1), Errno::PERM);
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn there_is_no_way_around_by_another_abi() {
        confined(|| {
            // EPERM by the filter, before the kernel says that it has no x32 (ENOSYS).
            for number in [libc::SYS_mount | X32, 520 | X32, libc::SYS_socket | X32] {
                assert_eq!(call(number, 0), Errno::PERM, "call {number:#x}");
            }
        });
    }

    #[test]
    fn what_is_needed_still_works() {
        confined(|| {
            let answer = std::thread::spawn(|| {
                super::super::creds::wear(super::super::creds::Needs {
                    caller: super::super::creds::Caller::DAEMON,
                    umask: None,
                    fsetid: true,
                })
            });
            answer
                .join()
                .expect("threads begin")
                .expect("their own umask");
            std::os::unix::net::UnixDatagram::unbound().expect("local sockets");
            // Its arguments are looked at by the kernel, not by a filter.
            assert_eq!(call(libc::SYS_umount2, 0), Errno::FAULT);
        });
    }

    #[test]
    fn only_the_trees_are_within_reach() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "a/b", "out"] {
            std::fs::create_dir(at(name)).expect("mkdir");
        }
        for name in ["a/f", "out/f"] {
            std::fs::write(at(name), "content").expect("write");
        }
        let thread = std::thread::spawn(move || {
            let at = |name: &str| dir.path().join(name);
            let tree = std::fs::File::open(at("a")).expect("open");
            let out = std::fs::File::open(at("out")).expect("open");
            let trees = [std::os::fd::AsFd::as_fd(&tree)];
            if let Err(why) = stay_below(&trees, &[Path::new("/proc")]) {
                // Not built in, not switched on, too old.
                return eprintln!("not tested: {why}");
            }
            let no = |e: std::io::Error| assert_eq!(e.raw_os_error(), Some(libc::EACCES));
            std::fs::read(at("out/f")).map_err(no).expect_err("read");
            std::fs::write(at("out/g"), "")
                .map_err(no)
                .expect_err("made");
            std::fs::remove_file(at("out/f"))
                .map_err(no)
                .expect_err("removed");
            std::fs::read("/etc/passwd").map_err(no).expect_err("read");
            std::fs::write("/proc/self/comm", "x")
                .map_err(no)
                .expect_err("written");
            // Also from a directory that was open before.
            let flags = rustix::fs::OFlags::RDONLY;
            let got = rustix::fs::openat(&out, "f", flags, rustix::fs::Mode::empty());
            assert_eq!(got.map(drop), Err(Errno::ACCESS));

            std::fs::read("/proc/self/comm").expect("read");
            std::fs::write(at("a/b/g"), "new").expect("made");
            std::fs::rename(at("a/b/g"), at("a/g")).expect("moved");
            std::fs::hard_link(at("a/g"), at("a/b/h")).expect("linked");
            std::fs::remove_file(at("a/f")).expect("removed");
        });
        thread.join().expect("no panic");
    }

    /// In a thread of its own: capabilities are each thread's.
    #[test]
    fn capabilities_do_not_come_back() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let thread = std::thread::spawn(|| {
            let kept = CapabilitySet::CHOWN | CapabilitySet::FOWNER;
            keep_only(kept).expect("given up");
            let now = rustix::thread::capabilities(None).expect("capabilities");
            assert_eq!((now.permitted, now.effective), (kept, kept));
            assert!(now.inheritable.is_empty());
            let more = CapabilitySets {
                effective: kept | CapabilitySet::KILL,
                permitted: kept | CapabilitySet::KILL,
                inheritable: CapabilitySet::empty(),
            };
            assert_eq!(
                rustix::thread::set_capabilities(None, more),
                Err(Errno::PERM)
            );
            let bound = |one| rustix::thread::capability_is_in_bounding_set(one);
            assert_eq!(bound(CapabilitySet::CHOWN), Ok(true));
            assert_eq!(bound(CapabilitySet::KILL), Ok(false));
        });
        thread.join().expect("no panic");
    }
}
