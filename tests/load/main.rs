// SPDX-License-Identifier: MIT
//! The load generator of `scripts/bench`: one process, one thread, plain system calls, so that the
//! client costs as little as it can.
//!
//! `load ID TREE [TREE]` works in `TREE/wID`; given two trees it does each operation on the first
//! and then on the second, as a program would that keeps two copies itself. A line on stdin names
//! a workload and its settings (`create files=5000 bytes=4096`). What need not be timed is done
//! first, then it says `ready` and waits for a line; then it works and prints one line of JSON:
//! when it began and ended (CLOCK_MONOTONIC, nanoseconds), the CPU time, operations and bytes.
#![allow(
    clippy::disallowed_methods,
    reason = "it stands for an ordinary program, which names files by path"
)]

mod work;

use std::io::{BufRead, Write};
use std::path::PathBuf;

use rustix::time::{ClockId, clock_gettime};

use work::{Failure, Settings, Trees};

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let parts = u64::try_from(time.tv_sec)
        .ok()
        .zip(u64::try_from(time.tv_nsec).ok());
    parts.map_or(0, |(s, ns)| s * 1_000_000_000 + ns)
}

fn serve() -> Result<(), Failure> {
    let mut args = std::env::args_os().skip(1);
    let id = args.next().ok_or("usage: load ID TREE [TREE]")?;
    let home = format!("w{}", id.to_string_lossy());
    let roots: Vec<PathBuf> = args.map(|tree| PathBuf::from(tree).join(&home)).collect();
    let trees = Trees::new(roots)?;
    let mut lines = std::io::stdin().lock().lines();
    let mut out = std::io::stdout().lock();
    while let Some(line) = lines.next() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let Some(name) = words.next() else { continue };
        let mut job = work::prepare(name, &trees, &Settings::parse(words)?)?;
        writeln!(out, "ready")?;
        out.flush()?;
        if lines.next().is_none() {
            break;
        }
        let (began, cpu) = (
            nanoseconds(ClockId::Monotonic),
            nanoseconds(ClockId::ProcessCPUTime),
        );
        let done = job()?;
        let cpu = nanoseconds(ClockId::ProcessCPUTime) - cpu;
        let ended = nanoseconds(ClockId::Monotonic);
        drop(job);
        writeln!(
            out,
            r#"{{"workload":"{name}","began_ns":{began},"ended_ns":{ended},"cpu_ns":{cpu},"ops":{},"bytes":{}}}"#,
            done.ops, done.bytes
        )?;
        out.flush()?;
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    match serve() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("load: {failure}");
            std::process::ExitCode::FAILURE
        }
    }
}
