// SPDX-License-Identifier: MIT
//! The write-intent log: records, frames and headers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrorfs::fuzzing::log(data));
