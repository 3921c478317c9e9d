//! Locks without poisoning in their signatures, and with a place in one order.
//!
//! A panic in one request is caught and counted where requests are served; what it leaves behind
//! is judged there. A lock that it held is entered all the same, so that one defect does not turn
//! every later request into a panic of its own.
//!
//! Every lock is made with its [`Rank`]. Where debug assertions are on, a thread that takes a lock
//! panics unless the lock comes after all those that it holds: an order that could deadlock is found
//! by any run that takes it, whether or not another thread was in the way. Elsewhere ranks cost
//! nothing: locks and guards are those of the standard library in size and in code.

mod held;
mod rank;

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError, TryLockError};
use std::time::Duration;

use held::{Held, Place};
pub use rank::Rank;

/// Mutual exclusion.
#[derive(Debug)]
pub struct Mutex<T: ?Sized> {
    place: Place,
    lock: sync::Mutex<T>,
}

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self::numbered(rank, 0, value)
    }
    /// One of several locks of a rank, of which a thread takes several by rising number.
    pub const fn numbered(rank: Rank, number: u64, value: T) -> Self {
        Self { place: Place::new(rank, number), lock: sync::Mutex::new(value) }
    }
    /// What was inside.
    pub fn into_inner(self) -> T {
        self.lock.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.place.take();
        MutexGuard { guard: self.lock.lock().unwrap_or_else(PoisonError::into_inner), held }
    }
    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = had(self.lock.try_lock())?;
        Some(MutexGuard { guard, held: self.place.taken() })
    }
    /// What is inside, by the exclusive reference that proves nobody else looks.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Many readers or one writer.
#[derive(Debug)]
pub struct RwLock<T: ?Sized> {
    place: Place,
    lock: sync::RwLock<T>,
}

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { place: Place::new(rank, 0), lock: sync::RwLock::new(value) }
    }
    /// What was inside.
    pub fn into_inner(self) -> T {
        self.lock.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits to read. Never twice in one thread: a writer waiting between the two is a deadlock.
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let held = self.place.take();
        RwLockReadGuard { guard: self.lock.read().unwrap_or_else(PoisonError::into_inner), held }
    }
    /// Waits to write.
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let held = self.place.take();
        RwLockWriteGuard { guard: self.lock.write().unwrap_or_else(PoisonError::into_inner), held }
    }
    /// The read side, if no writer has it.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        let guard = had(self.lock.try_read())?;
        Some(RwLockReadGuard { guard, held: self.place.taken() })
    }
    /// The write side, if nobody has the lock.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let guard = had(self.lock.try_write())?;
        Some(RwLockWriteGuard { guard, held: self.place.taken() })
    }
    /// What is inside, by the exclusive reference that proves nobody else looks.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guard, unless somebody else has the lock.
fn had<G>(tried: Result<G, TryLockError<G>>) -> Option<G> {
    match tried {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A [`Mutex`], held. Unlocks first, and is forgotten then.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    guard: sync::MutexGuard<'a, T>,
    held: Held,
}

/// A [`RwLock`], held to read.
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    guard: sync::RwLockReadGuard<'a, T>,
    #[expect(dead_code, reason = "dropped with the guard")]
    held: Held,
}

/// A [`RwLock`], held to write.
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    guard: sync::RwLockWriteGuard<'a, T>,
    #[expect(dead_code, reason = "dropped with the guard")]
    held: Held,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Waiting for a change of what a [`Mutex`] guards. Nothing else may be held meanwhile.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    /// With nobody waiting.
    #[must_use]
    pub const fn new() -> Self {
        Self(sync::Condvar::new())
    }
    /// Gives the lock up, waits to be notified, takes it again. May return without a notification.
    #[track_caller]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { guard, held } = guard;
        held.wait();
        MutexGuard { guard: self.0.wait(guard).unwrap_or_else(PoisonError::into_inner), held }
    }
    /// Waits while `condition` holds.
    #[track_caller]
    pub fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        let MutexGuard { guard, held } = guard;
        held.wait();
        let guard = self.0.wait_while(guard, condition).unwrap_or_else(PoisonError::into_inner);
        MutexGuard { guard, held }
    }
    /// As [`Condvar::wait`], for `timeout` at most. The second value: whether the time ran out.
    #[track_caller]
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let MutexGuard { guard, held } = guard;
        held.wait();
        let (guard, result) =
            self.0.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner);
        (MutexGuard { guard, held }, result.timed_out())
    }
    /// As [`Condvar::wait_while`], for `timeout` at most. The second value: whether the time ran
    /// out with the condition still true.
    #[track_caller]
    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, bool) {
        let MutexGuard { guard, held } = guard;
        held.wait();
        let (guard, result) = self
            .0
            .wait_timeout_while(guard, timeout, condition)
            .unwrap_or_else(PoisonError::into_inner);
        (MutexGuard { guard, held }, result.timed_out())
    }
    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    #[test]
    fn a_lock_whose_holder_panicked_is_entered() {
        let lock = Arc::new((Mutex::new(Rank::Gate, 1), RwLock::new(Rank::StandIn, 2)));
        let theirs = Arc::clone(&lock);
        let result = std::thread::spawn(move || {
            let _a = theirs.0.lock();
            let _b = theirs.1.write();
            panic!("expected by the test");
        })
        .join();
        assert!(result.is_err());
        assert_eq!(*lock.0.lock(), 1);
        assert_eq!(*lock.1.read(), 2);
        assert!(lock.0.try_lock().is_some() && lock.1.try_write().is_some());
    }

    #[test]
    fn a_timeout_says_so() {
        let (lock, condvar) = (Mutex::new(Rank::StandIn, false), Condvar::new());
        let short = Duration::from_millis(1);
        let (guard, timed_out) = condvar.wait_timeout_while(lock.lock(), short, |done| !*done);
        assert!(timed_out && !*guard);
    }

    /// What the checker says of `takes`, if it refuses.
    fn refusal(takes: impl FnOnce()) -> Option<String> {
        let panic = catch_unwind(AssertUnwindSafe(takes)).err()?;
        panic.downcast_ref::<String>().cloned()
    }

    #[test]
    fn a_lock_of_an_outer_rank_is_refused_by_both_names_though_nobody_else_has_it() {
        let (gate, tree) = (RwLock::new(Rank::Gate, ()), Mutex::new(Rank::HeadTree, ()));
        assert_eq!(refusal(|| drop((gate.read(), tree.lock()))), None);
        for refused in [
            refusal(|| drop((tree.lock(), gate.read()))),
            refusal(|| drop((tree.lock(), gate.write()))),
        ] {
            let refused = refused.expect("the order is the wrong one");
            assert!(refused.contains("Gate") && refused.contains("HeadTree"), "{refused}");
        }
        let twice = refusal(|| drop((gate.read(), gate.read())));
        assert!(twice.is_some(), "a writer between the two is a deadlock");
        // What was refused is forgotten with its guards.
        assert_eq!(refusal(|| drop((gate.write(), tree.lock()))), None);
    }

    #[test]
    fn locks_of_one_rank_are_taken_by_rising_number() {
        let [one, two] = [1, 2].map(|n| Mutex::numbered(Rank::InodeState, n, ()));
        assert_eq!(refusal(|| drop((one.lock(), two.lock()))), None);
        assert!(refusal(|| drop((two.lock(), one.lock()))).is_some());
    }

    #[test]
    fn a_lock_that_is_not_waited_for_may_be_taken_in_any_order_and_counts_once_held() {
        let (gate, tree) = (RwLock::new(Rank::Gate, ()), Mutex::new(Rank::HeadTree, ()));
        let inner = tree.try_lock().expect("it is free");
        let outer = gate.try_write().expect("it is free");
        // Out of order as well: what stays held is the tree.
        drop(outer);
        assert!(refusal(|| drop(gate.read())).is_some());
        drop(inner);
        assert_eq!(refusal(|| drop(gate.read())), None);
    }

    #[test]
    fn nobody_waits_for_a_change_while_holding_another_lock() {
        let (gate, state) = (RwLock::new(Rank::Gate, ()), Mutex::new(Rank::Due, ()));
        let (changed, short) = (Condvar::new(), Duration::from_millis(1));
        let wait = || drop(changed.wait_timeout(state.lock(), short));
        assert_eq!(refusal(wait), None);
        let gate = gate.read();
        assert!(refusal(wait).is_some());
        drop(gate);
    }
}
