// SPDX-License-Identifier: MIT
//! The binary: parse, run, exit. Nothing else.

fn main() -> std::process::ExitCode {
    mirrorfs::cli::main()
}
