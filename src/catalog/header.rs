//! What the catalog keeps of a cluster's head and of a snapshot: fixed layouts with extension
//! fields (docs/format.md, "Header"). A header is self-contained: with the customer's key and the
//! root secret, nothing else is needed to open what it leads to.
//!
//! Times, holds and descriptions are authenticated by the engine layer only.

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::limits::{CLUSTER_NAME_BYTES_MAX, DESCRIPTION_BYTES_MAX};
use crate::base::{ClusterId, ClusterName, Generation, SegmentId, SnapshotId, Timestamp};
use crate::crypto::HeaderKeys;

/// Bytes of a sealed root, at most.
const SEALED_ROOT_BYTES_MAX: usize = 1024;
/// Bytes of one header inside a record, at most.
const HEADER_BYTES_MAX: usize = 128 * 1024;
const VERSION: u16 = 1;

/// Extension: the head is a clone.
const EXT_ORIGIN: u16 = 1;
/// Extension: a header that replaces this one once it is proven.
const EXT_STAGED: u16 = 2;

/// What opens a tree: keys, and the root sealed under them.
pub struct Header {
    /// Wraps of the cluster secret or the secret itself, salt, version.
    pub keys: HeaderKeys,
    /// The root pointer, sealed under the cluster key; `None`: nothing was ever written.
    pub sealed_root: Option<Vec<u8>>,
    /// The checkpoint that wrote the root; part of what seals it.
    pub root_generation: Generation,
    /// Blocks that the tree references.
    pub referenced_blocks: u64,
}

impl Header {
    /// The header of a tree that has nothing in it yet.
    #[must_use]
    pub const fn empty(keys: HeaderKeys) -> Self {
        Self { keys, sealed_root: None, root_generation: Generation(0), referenced_blocks: 0 }
    }

    /// A copy, for a record of its own.
    #[must_use]
    pub fn dup(&self) -> Self {
        Self {
            keys: self.keys.dup(),
            sealed_root: self.sealed_root.clone(),
            root_generation: self.root_generation,
            referenced_blocks: self.referenced_blocks,
        }
    }

    /// Version u16, flags u16 (1: a root), root generation u64, referenced blocks u64, sealed root
    /// (with its length), keys, extension fields.
    fn encode(&self, out: &mut Writer) {
        let mut w = Writer::new();
        w.u16(VERSION).u16(u16::from(self.sealed_root.is_some()));
        w.u64(self.root_generation.0).u64(self.referenced_blocks);
        w.sized(self.sealed_root.as_deref().unwrap_or_default());
        self.keys.encode(&mut w);
        out.sized(&w.into_secret());
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut r = Reader::new(from.sized(HEADER_BYTES_MAX)?);
        version(&mut r)?;
        let flags = r.u16()?;
        let root_generation = r.generation()?;
        let referenced_blocks = r.u64()?;
        let root = r.sized(SEALED_ROOT_BYTES_MAX)?;
        let sealed_root = match (flags, root.is_empty()) {
            (0, true) => None,
            (1, false) => Some(root.to_vec()),
            _ => return Err(DecodeError::Field("sealed root")),
        };
        let keys = HeaderKeys::decode(&mut r)?;
        r.extensions(|_, _| Ok(false))?;
        Ok(Self { keys, sealed_root, root_generation, referenced_blocks })
    }

    /// Whether both hold the very same bytes.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let bytes = |header: &Self| {
            let mut w = Writer::new();
            header.encode(&mut w);
            w.into_secret()
        };
        *bytes(self) == *bytes(other)
    }
}

/// Where a clone comes from. It may be gone by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// That cluster's name.
    pub cluster_name: ClusterName,
}

/// A cluster's head.
pub struct ClusterRecord {
    /// Identity.
    pub id: ClusterId,
    /// Name.
    pub name: ClusterName,
    /// The first cluster of this family: clones share it, and share blocks.
    pub lineage: ClusterId,
    /// When it was created.
    pub created_at: Timestamp,
    /// The snapshot that it is a clone of.
    pub origin: Option<Origin>,
    /// Inode numbers below this one were given out before, on whatever line of history.
    pub next_inode_floor: u64,
    /// What opens its tree.
    pub header: Header,
    /// What is to replace the header once it is proven.
    pub staged: Option<Header>,
}

/// Who asked for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SnapshotKind {
    /// Somebody.
    OnDemand,
    /// A policy, at this frequency.
    Scheduled(Frequency),
    /// An in-place restore, of what it replaced.
    Safety,
}

/// How often a policy takes snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frequency {
    /// Every hour.
    Hourly,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
    /// Every month.
    Monthly,
    /// Every year.
    Yearly,
}

/// A snapshot.
pub struct SnapshotRecord {
    /// Identity.
    pub id: SnapshotId,
    /// Its cluster, alive or deleted.
    pub cluster: ClusterId,
    /// That cluster's name, kept for when it is deleted.
    pub cluster_name: ClusterName,
    /// As in the cluster.
    pub lineage: ClusterId,
    /// The segment whose end it holds.
    pub segment: SegmentId,
    /// The checkpoint at which it was cut.
    pub generation: Generation,
    /// When it was taken.
    pub created_at: Timestamp,
    /// When retention may delete it; `None`: never by itself.
    pub expires_at: Option<Timestamp>,
    /// Who asked for it.
    pub kind: SnapshotKind,
    /// Kept past its retention until released.
    pub held: bool,
    /// For people.
    pub description: String,
    /// As in the cluster.
    pub next_inode_floor: u64,
    /// What opens its tree.
    pub header: Header,
    /// What is to replace the header once it is proven.
    pub staged: Option<Header>,
}

fn version(r: &mut Reader<'_>) -> Result<(), DecodeError> {
    if r.u16()? == VERSION { Ok(()) } else { Err(DecodeError::Field("version")) }
}

fn name(r: &mut Reader<'_>) -> Result<ClusterName, DecodeError> {
    r.text(CLUSTER_NAME_BYTES_MAX)?.parse().map_err(|_| DecodeError::Field("cluster name"))
}

fn put_staged(w: &mut Writer, staged: Option<&Header>) {
    if let Some(header) = staged {
        let mut body = Writer::new();
        header.encode(&mut body);
        w.extension(EXT_STAGED, &body.into_secret());
    }
}

fn staged_from(body: &[u8]) -> Result<Header, DecodeError> {
    let mut r = Reader::new(body);
    let header = Header::decode(&mut r)?;
    r.finish()?;
    Ok(header)
}

impl Origin {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.snapshot.0).bytes(self.cluster.as_bytes());
        w.sized(self.cluster_name.as_str().as_bytes());
        w.into_bytes()
    }
    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let origin = Self {
            snapshot: SnapshotId(r.u64()?),
            cluster: ClusterId(r.array()?),
            cluster_name: name(&mut r)?,
        };
        r.finish()?;
        Ok(origin)
    }
}

impl ClusterRecord {
    /// Version u16, zero u16, id, lineage, created i64 (ns), inode floor u64, name, header,
    /// extension fields.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(VERSION).u16(0).bytes(self.id.as_bytes()).bytes(self.lineage.as_bytes());
        w.i64(self.created_at.ns).u64(self.next_inode_floor);
        w.sized(self.name.as_str().as_bytes());
        self.header.encode(&mut w);
        if let Some(origin) = &self.origin {
            w.extension(EXT_ORIGIN, &origin.encode());
        }
        put_staged(&mut w, self.staged.as_ref());
        w.into_bytes()
    }

    /// Decodes a cluster's record.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(value);
        version(&mut r)?;
        if r.u16()? != 0 {
            return Err(DecodeError::Reserved);
        }
        let id = ClusterId(r.array()?);
        let lineage = ClusterId(r.array()?);
        let created_at = Timestamp { ns: r.i64()? };
        let next_inode_floor = r.u64()?;
        let name = name(&mut r)?;
        let header = Header::decode(&mut r)?;
        let (mut origin, mut staged) = (None, None);
        r.extensions(|tag, body| {
            match tag {
                EXT_ORIGIN => origin = Some(Origin::decode(body)?),
                EXT_STAGED => staged = Some(staged_from(body)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { id, name, lineage, created_at, origin, next_inode_floor, header, staged })
    }
}

impl SnapshotKind {
    const fn to_bytes(self) -> [u8; 2] {
        match self {
            Self::OnDemand => [1, 0],
            Self::Safety => [3, 0],
            Self::Scheduled(Frequency::Hourly) => [2, 1],
            Self::Scheduled(Frequency::Daily) => [2, 2],
            Self::Scheduled(Frequency::Weekly) => [2, 3],
            Self::Scheduled(Frequency::Monthly) => [2, 4],
            Self::Scheduled(Frequency::Yearly) => [2, 5],
        }
    }
    const fn from_bytes(bytes: [u8; 2]) -> Result<Self, DecodeError> {
        match bytes {
            [1, 0] => Ok(Self::OnDemand),
            [3, 0] => Ok(Self::Safety),
            [2, 1] => Ok(Self::Scheduled(Frequency::Hourly)),
            [2, 2] => Ok(Self::Scheduled(Frequency::Daily)),
            [2, 3] => Ok(Self::Scheduled(Frequency::Weekly)),
            [2, 4] => Ok(Self::Scheduled(Frequency::Monthly)),
            [2, 5] => Ok(Self::Scheduled(Frequency::Yearly)),
            _ => Err(DecodeError::Field("snapshot type")),
        }
    }
}

const FLAG_HELD: u16 = 1;
const FLAG_EXPIRES: u16 = 2;

impl SnapshotRecord {
    /// Version u16, flags u16 (1 held, 2 expires), id u64, cluster, lineage, segment u32, type u8,
    /// frequency u8, zero u16, generation u64, created i64, expires i64 (0: never), inode floor
    /// u64, cluster name, description, header, extension fields.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let held = if self.held { FLAG_HELD } else { 0 };
        let expires = if self.expires_at.is_some() { FLAG_EXPIRES } else { 0 };
        let mut w = Writer::new();
        w.u16(VERSION).u16(held | expires).u64(self.id.0);
        w.bytes(self.cluster.as_bytes()).bytes(self.lineage.as_bytes());
        w.u32(self.segment.0).bytes(&self.kind.to_bytes()).u16(0).u64(self.generation.0);
        w.i64(self.created_at.ns).i64(self.expires_at.map_or(0, |t| t.ns));
        w.u64(self.next_inode_floor);
        w.sized(self.cluster_name.as_str().as_bytes()).sized(self.description.as_bytes());
        self.header.encode(&mut w);
        put_staged(&mut w, self.staged.as_ref());
        w.into_bytes()
    }

    /// Decodes a snapshot's record.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(value);
        version(&mut r)?;
        let flags = r.u16()?;
        if flags & !(FLAG_HELD | FLAG_EXPIRES) != 0 {
            return Err(DecodeError::Field("snapshot flags"));
        }
        let id = SnapshotId(r.u64()?);
        let cluster = ClusterId(r.array()?);
        let lineage = ClusterId(r.array()?);
        let segment = r.segment()?;
        let kind = SnapshotKind::from_bytes(r.array()?)?;
        if r.u16()? != 0 {
            return Err(DecodeError::Reserved);
        }
        let generation = r.generation()?;
        let created_at = Timestamp { ns: r.i64()? };
        let expires = Timestamp { ns: r.i64()? };
        let expires_at = (flags & FLAG_EXPIRES != 0).then_some(expires);
        if expires_at.is_none() && expires.ns != 0 {
            return Err(DecodeError::Reserved);
        }
        let next_inode_floor = r.u64()?;
        let cluster_name = name(&mut r)?;
        let description = r.text(DESCRIPTION_BYTES_MAX)?.to_owned();
        let header = Header::decode(&mut r)?;
        let mut staged = None;
        r.extensions(|tag, body| {
            if tag == EXT_STAGED {
                staged = Some(staged_from(body)?);
            }
            Ok(tag == EXT_STAGED)
        })?;
        let held = flags & FLAG_HELD != 0;
        Ok(Self {
            id,
            cluster,
            cluster_name,
            lineage,
            segment,
            generation,
            created_at,
            expires_at,
            kind,
            held,
            description,
            next_inode_floor,
            header,
            staged,
        })
    }
}

/// A customer key that was deleted: a new key of the same name is not it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The key's fingerprint.
    pub fingerprint: [u8; 16],
    /// When it was deleted.
    pub deleted_at: Timestamp,
}

impl Tombstone {
    /// The item of those whose fingerprints share their first eight bytes: for each fingerprint 16
    /// bytes, deleted i64.
    #[must_use]
    pub fn encode(list: &[Self]) -> Vec<u8> {
        let mut w = Writer::new();
        for tombstone in list {
            w.bytes(&tombstone.fingerprint).i64(tombstone.deleted_at.ns);
        }
        w.into_bytes()
    }
    /// Decodes such an item.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(value: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let mut r = Reader::new(value);
        let mut list = Vec::new();
        while r.remaining() > 0 {
            let fingerprint = r.array()?;
            list.push(Self { fingerprint, deleted_at: Timestamp { ns: r.i64()? } });
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::{ClusterSecret, HeaderSalt, Wrap};

    fn header(wrapped: bool, root: bool) -> Header {
        let wrap = Wrap {
            key_id: "k1".parse().unwrap(),
            resolved: "local://k1#1".to_owned(),
            key_version: 1,
            fingerprint: [3; 16],
            wrapped: vec![4; 112],
        };
        let keys = HeaderKeys {
            wraps: if wrapped { vec![wrap.clone(), wrap] } else { Vec::new() },
            plain: (!wrapped).then(|| ClusterSecret::from_bytes(&[6; 32])),
            salt: HeaderSalt([5; 32]),
            ck_id: 7,
        };
        Header {
            keys,
            sealed_root: root.then(|| vec![9; 196]),
            root_generation: Generation(11),
            referenced_blocks: 12,
        }
    }

    fn cluster(wrapped: bool) -> ClusterRecord {
        ClusterRecord {
            id: ClusterId([1; 16]),
            name: "db".parse().unwrap(),
            lineage: ClusterId([2; 16]),
            created_at: Timestamp { ns: 77 },
            origin: wrapped.then(|| Origin {
                snapshot: SnapshotId(3),
                cluster: ClusterId([2; 16]),
                cluster_name: "old".parse().unwrap(),
            }),
            next_inode_floor: 99,
            header: header(wrapped, true),
            staged: wrapped.then(|| header(false, false)),
        }
    }

    fn snapshot(wrapped: bool) -> SnapshotRecord {
        SnapshotRecord {
            id: SnapshotId(0xabc),
            cluster: ClusterId([1; 16]),
            cluster_name: "db".parse().unwrap(),
            lineage: ClusterId([2; 16]),
            segment: SegmentId(17),
            generation: Generation(5),
            created_at: Timestamp { ns: 77 },
            expires_at: wrapped.then_some(Timestamp { ns: 0 }),
            kind: SnapshotKind::Scheduled(Frequency::Weekly),
            held: wrapped,
            description: "before the upgrade".to_owned(),
            next_inode_floor: 99,
            header: header(wrapped, wrapped),
            staged: (!wrapped).then(|| header(true, true)),
        }
    }

    #[test]
    fn records_round_trip_and_what_is_cut_short_or_altered_in_reserve_is_refused() {
        for wrapped in [false, true] {
            let bytes = cluster(wrapped).encode();
            let back = ClusterRecord::decode(&bytes).unwrap();
            assert_eq!(back.encode(), bytes);
            assert_eq!(back.origin, cluster(wrapped).origin);
            assert!(back.header.same_as(&header(wrapped, true)));

            let bytes = snapshot(wrapped).encode();
            let back = SnapshotRecord::decode(&bytes).unwrap();
            assert_eq!(back.encode(), bytes);
            assert_eq!(back.expires_at, snapshot(wrapped).expires_at);
            for end in 0..bytes.len() {
                let cut = SnapshotRecord::decode(&bytes[..end]);
                // A record may end before its extension fields, and is then another record.
                assert!(cut.map_or(true, |r| r.staged.is_none() && r.encode() == bytes[..end]));
            }
            let mut reserved = bytes;
            reserved[50] = 1;
            assert!(SnapshotRecord::decode(&reserved).is_err());
        }
    }

    #[test]
    fn every_snapshot_type_comes_back() {
        use Frequency::{Daily, Hourly, Monthly, Weekly, Yearly};
        let scheduled = [Hourly, Daily, Weekly, Monthly, Yearly].map(SnapshotKind::Scheduled);
        for kind in [SnapshotKind::OnDemand, SnapshotKind::Safety].into_iter().chain(scheduled) {
            assert_eq!(SnapshotKind::from_bytes(kind.to_bytes()), Ok(kind));
        }
        assert!(SnapshotKind::from_bytes([2, 0]).is_err());
    }

    #[test]
    fn tombstones_round_trip() {
        let list = [
            Tombstone { fingerprint: [1; 16], deleted_at: Timestamp { ns: 4 } },
            Tombstone { fingerprint: [2; 16], deleted_at: Timestamp { ns: 5 } },
        ];
        assert_eq!(Tombstone::decode(&Tombstone::encode(&list)).unwrap(), list);
        assert!(Tombstone::decode(&[0; 25]).is_err());
    }

    proptest! {
        #[test]
        fn decoders_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..400),
                              at in 0usize..300, to in any::<u8>()) {
            let _ = ClusterRecord::decode(&bytes);
            let _ = SnapshotRecord::decode(&bytes);
            let _ = Tombstone::decode(&bytes);
            for mut good in [cluster(true).encode(), snapshot(false).encode()] {
                let at = at % good.len();
                good[at] = to;
                let _ = ClusterRecord::decode(&good);
                let _ = SnapshotRecord::decode(&good);
            }
        }
    }
}
