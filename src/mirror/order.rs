// SPDX-License-Identifier: MIT
//! `Order`: overlapping ops take turns, all others pass.
//!
//! Two overlapping writes that reach the two copies in different orders leave them different for
//! ever (docs/SAFETY.md, trap 1):
//!
//! ```text
//!   t1  primary: AAAA                         replica: AAAA
//!   t2            primary: BBBB  replica: BBBB               primary B, replica A
//! ```
//!
//! So an op holds a [`Turn`] on everything it touches, from before the primary to after the
//! replica. Turns are given in order of arrival. An op has at most one claim on each aspect of a
//! node, and takes them in one order common to all: that is why turns cannot deadlock.
//!
//! Lock order: one shard's lock at a time, never across I/O.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::store::op::{Claim, Claims};

const SHARDS: usize = 64;

#[derive(Debug, Default)]
struct Shard {
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Everybody's claims, held and waited for, in order of arrival.
    claims: Vec<(u64, Claim)>,
    next_ticket: u64,
}

impl Queue {
    fn must_wait(&self, ticket: u64, claim: &Claim) -> bool {
        self.claims
            .iter()
            .take_while(|(other, _)| *other != ticket)
            .any(|(_, other)| other.conflicts(claim))
    }
}

/// The table of turns.
#[derive(Debug)]
pub struct Order {
    shards: [Shard; SHARDS],
    #[cfg(test)]
    pub(super) skips: super::tests::sabotage::Switch,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            #[cfg(test)]
            skips: Default::default(),
        }
    }
}

impl Order {
    /// Waits until nothing that came before overlaps, then holds the turn until it is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, claims: &Claims) -> Turn {
        let mut turn = Turn {
            order: self.clone(),
            held: smallvec::SmallVec::new(),
        };
        for claim in claims {
            let shard = self.shard(claim);
            let mut queue = shard.queue.lock();
            let ticket = queue.next_ticket;
            queue.next_ticket += 1;
            queue.claims.push((ticket, *claim));
            while queue.must_wait(ticket, claim) {
                #[cfg(test)]
                if self.skips.goes_wrong() {
                    break;
                }
                shard.moved.wait(&mut queue);
            }
            drop(queue);
            turn.held.push((ticket, *claim));
        }
        turn
    }

    fn shard(&self, claim: &Claim) -> &Shard {
        &self.shards[usize::try_from(claim.node % SHARDS as u64).unwrap_or(0)]
    }
}

/// What an op holds while it runs. It can be handed to another thread, which gives it back when
/// the one that took it hangs.
#[derive(Debug)]
pub struct Turn {
    order: Arc<Order>,
    held: smallvec::SmallVec<[(u64, Claim); 4]>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        for (ticket, claim) in self.held.drain(..) {
            let shard = self.order.shard(&claim);
            let mut queue = shard.queue.lock();
            queue.claims.retain(|(other, _)| *other != ticket);
            let others = !queue.claims.is_empty();
            drop(queue);
            if others {
                shard.moved.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::op::Aspect;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn claim(node: u64, start: u64, last: u64) -> Claim {
        Claim {
            node,
            aspect: Aspect::Data,
            start,
            last,
        }
    }

    fn claims(list: &[Claim]) -> Claims {
        list.iter().copied().collect()
    }

    #[test]
    fn what_does_not_overlap_passes() {
        let order = Arc::new(Order::default());
        let _one = order.enter(&claims(&[claim(1, 0, 9)]));
        let _two = order.enter(&claims(&[claim(1, 10, 19)]));
        let _three = order.enter(&claims(&[claim(2, 0, 9)]));
    }

    /// Many threads claim random pairs of overlapping intervals: at no time do two hold the same
    /// point, and all of them finish.
    #[test]
    fn overlapping_turns_exclude_each_other_and_none_starves() {
        const POINTS: usize = 16;
        let order = Arc::new(Order::default());
        let points: [AtomicU64; POINTS] = std::array::from_fn(|_| AtomicU64::new(0));
        std::thread::scope(|scope| {
            for seed in 1..=8_u64 {
                let (order, points) = (&order, &points);
                scope.spawn(move || {
                    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    for _ in 0..2000 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let (a, b) = (random % 8, (random >> 8) % 7);
                        let all = [claim(1, a, a + b), claim(2, b, 15), claim(3, a, 15)];
                        let turn = order.enter(&claims(&all));
                        let held: Vec<u64> = (a..16).collect();
                        let at = |point: &u64| &points[usize::try_from(*point).expect("small")];
                        for point in &held {
                            assert_eq!(at(point).fetch_add(1, Ordering::SeqCst), 0, "held twice");
                        }
                        for point in &held {
                            at(point).fetch_sub(1, Ordering::SeqCst);
                        }
                        drop(turn);
                    }
                });
            }
        });
        assert!(
            order
                .shards
                .iter()
                .all(|shard| shard.queue.lock().claims.is_empty())
        );
    }
}
