//! The construction of `docs/format.md`: keys, tags, derivation, sealing.

mod block_key;

pub use block_key::{BlockKey, Tag};
