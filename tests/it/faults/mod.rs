// SPDX-License-Identifier: MIT
//! Faults, from outside: daemons killed, power cut, disks full, hung, gone and swapped, under a load
//! that an oracle looks over. After each: what was acknowledged is there, the mirror becomes in-sync
//! by healing, and then both copies are equal.
//!
//! For longer runs (`scripts/soak`): `MIRRORFS_SEED`, `MIRRORFS_KILLS` (rounds), `MIRRORFS_CUTS`
//! (power cuts), `MIRRORFS_NTH` (how many calls), `MIRRORFS_FROZEN` (seconds), `MIRRORFS_MILLION` (files in
//! the tree), `MIRRORFS_CALM` (ops). `MIRRORFS_KEEP_NOTES=1` keeps what the load of a failed test noted.

mod calm;
mod disk;
mod every;
mod kill;
mod matrix;
mod million;
mod oracle;
mod power;
mod rig;
mod seed;
