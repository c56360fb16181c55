// SPDX-License-Identifier: MIT
//! Lines of mountinfo.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrorfs::fuzzing::mountinfo(data));
