// SPDX-License-Identifier: MIT
//! The stamps of two roots, and what is decided from them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrorfs::fuzzing::stamp(data));
