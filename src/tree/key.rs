//! The key of an item: what it belongs to, what kind it is, and where within that.

/// Bytes of a key on disk.
pub const KEY_BYTES: usize = 17;

/// Key of an item. Ordered by object, then kind, then offset; its bytes are big-endian, so that
/// they compare as the key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    /// What the item belongs to: an inode number, a cluster, a region.
    pub object: u64,
    /// Kind of the item; its meaning is given by the room above.
    pub kind: u8,
    /// Where within object and kind: a file offset, a hash, an index.
    pub offset: u64,
}

impl Key {
    /// The smallest key.
    pub const MIN: Self = Self { object: 0, kind: 0, offset: 0 };
    /// The greatest key.
    pub const MAX: Self = Self { object: u64::MAX, kind: u8::MAX, offset: u64::MAX };

    /// The key of these three parts.
    #[must_use]
    pub const fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self { object, kind, offset }
    }

    /// The greatest key below this one; `None` for [`Key::MIN`].
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self {
            Self { object: 0, kind: 0, offset: 0 } => None,
            Self { object, kind: 0, offset: 0 } => {
                Some(Self { object: object - 1, kind: u8::MAX, offset: u64::MAX })
            }
            Self { object, kind, offset: 0 } => {
                Some(Self { object, kind: kind - 1, offset: u64::MAX })
            }
            Self { object, kind, offset } => Some(Self { object, kind, offset: offset - 1 }),
        }
    }

    /// The smallest key above this one; `None` for [`Key::MAX`].
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self {
            Self { object: u64::MAX, kind: u8::MAX, offset: u64::MAX } => None,
            Self { object, kind: u8::MAX, offset: u64::MAX } => {
                Some(Self { object: object + 1, kind: 0, offset: 0 })
            }
            Self { object, kind, offset: u64::MAX } => {
                Some(Self { object, kind: kind + 1, offset: 0 })
            }
            Self { object, kind, offset } => Some(Self { object, kind, offset: offset + 1 }),
        }
    }

    /// Whether both belong to the same object and are of the same kind.
    pub(in crate::tree) const fn same_run(self, other: Self) -> bool {
        self.object == other.object && self.kind == other.kind
    }

    /// The bytes on disk.
    #[must_use]
    pub fn to_bytes(self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&self.object.to_be_bytes());
        bytes[8] = self.kind;
        bytes[9..].copy_from_slice(&self.offset.to_be_bytes());
        bytes
    }

    /// The key that these bytes hold; any bytes hold one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let [o @ .., _, _, _, _, _, _, _, _, _] = bytes;
        let [_, _, _, _, _, _, _, _, kind, offset @ ..] = bytes;
        Self { object: u64::from_be_bytes(*o), kind: *kind, offset: u64::from_be_bytes(*offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        let edge = prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()];
        let kind = prop_oneof![Just(0), Just(u8::MAX), any::<u8>()];
        (edge.clone(), kind, edge).prop_map(|(o, k, f)| Key::new(o, k, f))
    }

    proptest! {
        #[test]
        fn bytes_order_as_keys_do_and_come_back(a in any_key(), b in any_key()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(Key::from_bytes(&a.to_bytes()), a);
        }

        #[test]
        fn previous_and_next_are_neighbours(a in any_key()) {
            match a.next() {
                Some(n) => prop_assert!(n > a && n.previous() == Some(a)),
                None => prop_assert_eq!(a, Key::MAX),
            }
            match a.previous() {
                Some(p) => prop_assert!(p < a && p.next() == Some(a)),
                None => prop_assert_eq!(a, Key::MIN),
            }
        }
    }
}
