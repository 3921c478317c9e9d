//! The sealed root: what the customer layer protects (crypto.md, "root").
//!
//! `root = seal(CK, "root", AD = pool id | cluster id | ck id u32 | root generation u64,
//! { present u32, root pointer 80 bytes (zeros: an empty tree), name-hash key 32 bytes })`

use zeroize::Zeroizing;

use crate::base::cursor::{Reader, Writer};
use crate::base::ids::{ClusterId, PoolId};
use crate::base::units::Generation;
use crate::block::Pointer;
use crate::crypto::{self, ClusterKey, NameHashKey, OpenError};
use crate::pool::PoolError;

/// What binds a sealed root to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootContext {
    /// The pool.
    pub pool: PoolId,
    /// The cluster whose tree it is; a snapshot keeps its cluster's.
    pub cluster: ClusterId,
    /// Version of the cluster key.
    pub ck_id: u32,
    /// The checkpoint that wrote the root.
    pub generation: Generation,
}

impl RootContext {
    fn ad(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(self.pool.as_bytes()).bytes(self.cluster.as_bytes());
        w.u32(self.ck_id).u64(self.generation.get());
        w.into_bytes()
    }
}

/// An opened root.
pub struct Root {
    /// The tree's root node; `None` for an empty tree.
    pub pointer: Option<Pointer>,
    /// Hashes the cluster's file names.
    pub name_key: NameHashKey,
}

/// Seals a root under the cluster key.
#[must_use]
pub fn seal_root(key: &ClusterKey, context: &RootContext, root: &Root) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(u32::from(root.pointer.is_some()));
    match &root.pointer {
        Some(pointer) => pointer.encode(&mut w),
        None => {
            w.bytes(&[0; Pointer::BYTES]);
        }
    }
    w.bytes(root.name_key.bytes());
    let plain = w.into_secret();
    crypto::seal(key.bytes(), "root", &context.ad(), &plain)
}

/// Opens a sealed root.
///
/// # Errors
/// [`PoolError::ClusterKey`] for another key or context, [`PoolError::Corrupt`] for damaged bytes.
pub fn open_root(
    key: &ClusterKey,
    context: &RootContext,
    sealed: &[u8],
) -> Result<Root, PoolError> {
    let plain =
        crypto::open(key.bytes(), "root", &context.ad(), sealed).map_err(|error| match error {
            OpenError::WrongKey => PoolError::ClusterKey("the sealed root"),
            _ => PoolError::Corrupt { what: "sealed root", addr: crate::base::BlockAddr(0) },
        })?;
    let bad = |_| PoolError::Corrupt { what: "sealed root", addr: crate::base::BlockAddr(0) };
    let mut r = Reader::new(&plain);
    let present = r.u32().map_err(bad)?;
    let pointer_bytes = r.bytes(Pointer::BYTES).map_err(bad)?;
    let name_key = NameHashKey::from_bytes(&Zeroizing::new(r.array().map_err(bad)?));
    r.finish().map_err(bad)?;
    let pointer = match present {
        0 => None,
        1 => Some(Pointer::decode(&mut Reader::new(pointer_bytes)).map_err(bad)?),
        _ => {
            return Err(PoolError::Corrupt {
                what: "sealed root",
                addr: crate::base::BlockAddr(0),
            });
        }
    };
    Ok(Root { pointer, name_key })
}
