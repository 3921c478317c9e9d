//! Pools on simulated disks, and the keys of headers, for all tests of the engine.

use std::sync::Arc;

use strongroom::base::{ClusterId, PoolId, Timestamp};
use strongroom::catalog::{Catalog, Header, reseal_root};
use strongroom::crypto::{self, ClusterKey, ClusterSecret, EngineKey, HeaderKeys, HeaderSalt};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::{self, CreateOptions, OpenOptions};

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
