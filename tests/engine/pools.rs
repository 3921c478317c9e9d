//! Pools on simulated disks, and the keys of headers, for all tests of the engine.

use std::sync::Arc;

use strongroom::base::units::BLOCK_SIZE;
use strongroom::base::{ClusterId, ClusterName, PoolId, SnapshotId, Timestamp};
use strongroom::catalog::{
    Catalog, Header, InPlace, NewCluster, NewSnapshot, SnapshotKind, Target, reseal_root,
};
use strongroom::crypto::{
    self, ClusterKey, ClusterSecret, EngineKey, HeaderKeys, HeaderSalt, Wrap,
};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::{self, CreateOptions, OpenOptions};
use strongroom::volume::{Caller, OpenFlags, ROOT_INODE, Volume, VolumeOptions};

pub use crate::model::Dice;

pub fn engine_key() -> EngineKey {
    EngineKey::from_bytes(&[1; 32])
}

pub fn new_device() -> Arc<SimDevice> {
    let sim = SimDevice::new(256 << 20);
    let device: Arc<dyn Device> = sim.clone();
    let options = CreateOptions {
        pool_id: PoolId([3; 16]),
        node_bytes: 16 << 10,
        engine_key: engine_key(),
        wraps: Vec::new(),
        now: Timestamp::default(),
    };
    pool::create(&device, options).unwrap();
    sim
}

pub fn open(sim: &Arc<SimDevice>) -> Arc<Catalog> {
    let device: Arc<dyn Device> = sim.clone();
    let sealed = pool::probe(&device).unwrap();
    let pool = sealed.unlock(engine_key(), OpenOptions::default()).unwrap();
    Catalog::open(pool).unwrap()
}

/// As a check opens it: nothing is replayed or written.
pub fn open_for_reading(sim: &Arc<SimDevice>) -> Arc<pool::Pool> {
    let device: Arc<dyn Device> = sim.clone();
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    pool::probe(&device).unwrap().unlock(engine_key(), options).unwrap()
}

pub fn header_keys(catalog: &Catalog) -> HeaderKeys {
    HeaderKeys {
        wraps: Vec::new(),
        plain: Some(ClusterSecret::random()),
        salt: HeaderSalt(strongroom::sys::random::array()),
        ck_id: catalog.new_ck_id(),
    }
}

/// Puts the cluster's secret under a customer key, which nobody can open here, and hands it out.
pub fn wrap(keys: &mut HeaderKeys) -> ClusterSecret {
    keys.wraps.push(Wrap {
        key_id: "local://k1".parse().unwrap(),
        resolved: "local://k1#1".to_owned(),
        key_version: 1,
        fingerprint: [9; 16],
        wrapped: vec![7; 112],
    });
    keys.plain.take().unwrap()
}

/// What the room above does: unwraps the secret that a header holds.
pub fn key_of(catalog: &Catalog, cluster: ClusterId, keys: &HeaderKeys) -> ClusterKey {
    let secret = keys.plain.as_ref().unwrap();
    crypto::cluster_key(secret, &keys.salt, &catalog.pool().id(), &cluster, keys.ck_id)
}

/// The same tree under other keys, for `to`.
pub fn resealed(
    catalog: &Catalog,
    from: ClusterId,
    header: &Header,
    to: ClusterId,
    keys: HeaderKeys,
) -> Header {
    let mut new = header.dup();
    new.keys = keys;
    new.sealed_root = reseal_root(
        header,
        &key_of(catalog, from, &header.keys),
        &catalog.root_context(from, header),
        &key_of(catalog, to, &new.keys),
        &catalog.root_context(to, &new),
    )
    .unwrap();
    new
}

/// Name of the cluster with that number.
pub fn cluster_name(n: u64) -> ClusterName {
    format!("c{n}").parse().unwrap()
}

/// A cluster yet to be made, with a number for its identity and name.
pub fn new_cluster(catalog: &Catalog, n: u64) -> NewCluster {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let name = cluster_name(n);
    let header = Header::empty(header_keys(catalog));
    NewCluster { id: ClusterId(id), name, created_at: Timestamp::from_secs(1), header }
}

/// A snapshot yet to be taken, with a number for its identity.
pub fn new_snapshot(n: u64, cluster: ClusterId, kind: SnapshotKind) -> NewSnapshot {
    NewSnapshot {
        id: SnapshotId(n),
        cluster,
        created_at: Timestamp::from_secs(n as i64),
        expires_at: None,
        kind,
        description: String::new(),
    }
}

/// Makes a cluster of a snapshot, under keys of its own.
pub fn clone_snapshot(
    catalog: &Catalog,
    snapshot: SnapshotId,
    from: ClusterId,
    n: u64,
) -> ClusterId {
    let header = catalog.header(Target::Snapshot(snapshot)).unwrap();
    let mut new = new_cluster(catalog, n);
    let (id, keys) = (new.id, new.header.keys.dup());
    new.header = resealed(catalog, from, &header, id, keys);
    catalog.clone_snapshot(snapshot, header.keys.ck_id, new).unwrap();
    id
}

/// The cluster becomes its snapshot again; the safety snapshot has the number `n`.
pub fn restore_in_place(
    catalog: &Catalog,
    snapshot: SnapshotId,
    cluster: ClusterId,
    n: u64,
    next_inode_floor: u64,
) -> SnapshotId {
    let header = catalog.header(Target::Snapshot(snapshot)).unwrap();
    let current = catalog.header(Target::Cluster(cluster)).unwrap();
    let replaced = current.root_generation;
    let header = resealed(catalog, cluster, &header, cluster, current.keys);
    let safety = new_snapshot(n, cluster, SnapshotKind::Safety);
    let restore = InPlace { snapshot, safety, header, replaced, next_inode_floor };
    catalog.restore_in_place(restore).unwrap();
    SnapshotId(n)
}

/// The cluster of [`with_two_files`].
pub const CLUSTER: ClusterId = ClusterId([5; 16]);
pub const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022, pid: 1 };

pub fn mounted(catalog: &Catalog) -> (Arc<pool::Head>, Arc<Volume>) {
    let header = catalog.header(Target::Cluster(CLUSTER)).unwrap();
    let key = key_of(catalog, CLUSTER, &header.keys);
    let head = catalog.open_head(&"db".parse().unwrap(), key).unwrap();
    let options = VolumeOptions { background: false, ..VolumeOptions::default() };
    let volume = Volume::open_head(Arc::clone(&head), options).unwrap();
    (head, volume)
}

pub fn write_file(volume: &Volume, name: &str, fill: u8) {
    let flags = OpenFlags { write: true, truncate: false };
    let (entry, handle) = volume.create(ROOT_INODE, name.as_bytes(), 0o644, flags, &ROOT).unwrap();
    volume.write(entry.attr.ino, 0, &vec![fill; 40 * BLOCK_SIZE], true).unwrap();
    volume.release(handle).unwrap();
}

/// Makes [`CLUSTER`], mounted, with the files `a` and `b`.
pub fn with_two_files(catalog: &Catalog) -> (Arc<pool::Head>, Arc<Volume>) {
    let header = Header::empty(header_keys(catalog));
    let (name, created_at) = ("db".parse().unwrap(), Timestamp::from_secs(1));
    catalog.create_cluster(NewCluster { id: CLUSTER, name, created_at, header }).unwrap();
    let (head, volume) = mounted(catalog);
    write_file(&volume, "a", 1);
    write_file(&volume, "b", 2);
    (head, volume)
}
