//! Randomness from the kernel (getrandom(2)) and from nowhere else.
//!
//! There is no generator in userspace: its state would be key material, and a virtual machine
//! resumed twice would repeat it. (In a build with assertions a test may ask for numbers that a
//! seed decides, for its own thread: `sys::simulation`.)

/// Fills `out` with random bytes.
///
/// # Panics
/// Where the kernel has no randomness to give: nothing that needs keys can go on then.
pub fn fill(out: &mut [u8]) {
    #[cfg(debug_assertions)]
    if crate::sys::simulation::fill(out) {
        return;
    }
    if let Err(error) = getrandom::fill(out) {
        panic!("the kernel gives no randomness: {error}");
    }
}

/// `N` random bytes.
#[must_use]
pub fn array<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    out
}

/// A random number.
#[must_use]
pub fn u64() -> u64 {
    u64::from_le_bytes(array())
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        assert_ne!(super::array::<32>(), super::array::<32>());
        assert_ne!(super::u64(), super::u64());
    }
}
