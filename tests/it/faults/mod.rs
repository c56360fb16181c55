// SPDX-License-Identifier: MIT
//! Faults, from outside: daemons killed, power cut, disks full, hung, gone and swapped, under a load
//! that an oracle looks over. After each: what was acknowledged is there, the mirror becomes in-sync
//! by healing, and then both copies are equal.
//!
//! For longer runs (`scripts/soak`): `MIRRORFS_SEED`, `MIRRORFS_KILLS` (rounds), `MIRRORFS_CUTS`
//! (power cuts), `MIRRORFS_MILLION` (files in the tree).

mod disk;
mod kill;
mod matrix;
mod million;
mod oracle;
mod power;
mod rig;
