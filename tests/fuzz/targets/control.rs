// SPDX-License-Identifier: MIT
//! The control socket: what a daemon reads, and what a client hears and shows.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrorfs::fuzzing::control(data));
