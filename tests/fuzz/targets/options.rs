// SPDX-License-Identifier: MIT
//! Options, as fstab and mount(8) hand them over.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrorfs::fuzzing::options(data));
