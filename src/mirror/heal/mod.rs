// SPDX-License-Identifier: MIT
//! stub
use super::order::Turn;
use super::replica::Fault;
use crate::journal::Journal;
use crate::store::op::{Claims, Op};
use crate::store::{Ident, Nodes, Source};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
pub trait Ground: Sync {
    fn source(&self) -> &dyn Source;
    fn nodes(&self) -> &Arc<Nodes>;
    fn primary_root(&self) -> BorrowedFd<'_>;
    fn replica_root(&self) -> BorrowedFd<'_>;
    fn hold(&self, claims: Claims) -> Result<Turn<'_>, Fault>;
    fn journal(&self) -> &Journal;
    fn twin_replaced(&self, primary: Ident);
}
#[derive(Debug, Default)]
pub struct Healing;
pub enum Stop {
    Fault(Fault),
    Asked,
}
impl Healing {
    pub fn new() -> Self {
        Self
    }
    pub fn admits(&self, _op: &Op<'_>) -> bool {
        true
    }
    pub fn run(&self, _g: &dyn Ground, _s: &AtomicBool, _t: Option<u64>) -> Result<(), Stop> {
        Ok(())
    }
}
