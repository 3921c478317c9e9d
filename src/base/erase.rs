//! Overwriting what held a secret.

use std::sync::atomic::{Ordering, compiler_fence};

/// Overwrites every item with its default, zero for numbers, in a way that no optimizer drops.
pub fn erase<T: Copy + Default>(items: &mut [T]) {
    items.fill(T::default());
    // The compiler must believe that somebody reads what was written.
    std::hint::black_box(items.as_mut_ptr());
    compiler_fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_items_is_left() {
        let (mut bytes, mut numbers) = ([7_u8; 33], [u128::MAX; 3]);
        erase(&mut bytes);
        erase(&mut numbers);
        assert_eq!((bytes, numbers), ([0; 33], [0; 3]));
    }
}
