//! What the calling thread holds, and whether it may take one more.

#[cfg(debug_assertions)]
pub use checked::{Held, Place};
#[cfg(not(debug_assertions))]
pub use unchecked::{Held, Place};

#[cfg(debug_assertions)]
mod checked {
    use std::cell::RefCell;
    use std::marker::PhantomData;

    use crate::sys::sync::Rank;

    thread_local! {
        /// Locks that this thread holds, in the order in which it took them.
        static HELD: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
    }

    /// A lock's place in the order: by rank, and among those of one rank by number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Place {
        rank: Rank,
        number: u64,
    }

    impl Place {
        pub const fn new(rank: Rank, number: u64) -> Self {
            Self { rank, number }
        }

        /// Before the thread waits for this lock: it comes after all that the thread holds.
        #[track_caller]
        pub fn take(self) -> Held {
            self.forbid(|other| other >= self, "takes");
            self.taken()
        }

        /// After the lock was had without waiting. That cannot deadlock, in whatever order.
        pub fn taken(self) -> Held {
            let _ = HELD.try_with(|held| held.borrow_mut().push(self));
            Held { place: self, of_this_thread: PhantomData }
        }

        #[track_caller]
        fn forbid(self, forbidden: impl Fn(Place) -> bool, does: &str) {
            // Without a list the thread is at its end; and while it unwinds, a second panic would
            // hide the first.
            let find = |held: &RefCell<Vec<Self>>| {
                held.borrow().iter().copied().find(|other| forbidden(*other))
            };
            if let Ok(Some(other)) = HELD.try_with(find)
                && !std::thread::panicking()
            {
                panic!("order of locks: a thread that holds {other:?} {does} {self:?}");
            }
        }
    }

    /// A lock that this thread holds, until this is dropped.
    #[derive(Debug)]
    pub struct Held {
        place: Place,
        of_this_thread: PhantomData<*const ()>,
    }

    impl Held {
        /// Before the thread waits for a change of what the lock guards: who makes the change may
        /// need whatever else the thread holds.
        #[track_caller]
        pub fn wait(&self) {
            self.place.forbid(|other| other != self.place, "waits with");
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(at) = held.iter().rposition(|place| *place == self.place) {
                    held.remove(at);
                }
            });
        }
    }
}

#[cfg(not(debug_assertions))]
mod unchecked {
    use crate::sys::sync::Rank;

    #[derive(Clone, Copy, Debug)]
    pub struct Place;

    impl Place {
        pub const fn new(_: Rank, _: u64) -> Self {
            Self
        }
        pub const fn take(self) -> Held {
            Held
        }
        pub const fn taken(self) -> Held {
            Held
        }
    }

    #[derive(Debug)]
    pub struct Held;

    impl Held {
        pub const fn wait(&self) {}
    }

    const _: () = assert!(size_of::<Place>() == 0 && size_of::<Held>() == 0);
}
