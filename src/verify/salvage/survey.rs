//! Which trees a damaged pool has: what the catalogs of its states say, as far as they can be read.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::ids::SnapshotPrefix;
use crate::base::{ClusterId, ClusterName, Generation, SnapshotId, Timestamp};
use crate::catalog::{Header, Item, Tombstone, tombstones_left, visit_items};
use crate::pool::{Pool, Remains};
use crate::verify::findings::Owner;
use crate::verify::salvage::report::State;

/// The header of a tree, and the state of the pool in which it stands.
pub(super) struct Found {
    pub owner: Owner,
    pub cluster: ClusterId,
    pub cluster_name: ClusterName,
    pub header: Header,
    /// Index of the state.
    pub state: usize,
    created_at: Timestamp,
}

impl Found {
    pub const fn snapshot(&self) -> Option<SnapshotId> {
        match &self.owner {
            Owner::Snapshot(id, _) => Some(*id),
            _ => None,
        }
    }
}

/// What the catalogs say.
pub struct Survey {
    states: Vec<Arc<Pool>>,
    /// Heads and snapshots: of each state those that no newer one has.
    pub(super) heads: Vec<Found>,
    pub(super) snapshots: Vec<Found>,
    /// Heads as older states have them, for those whose own tree cannot be read.
    pub(super) older: Vec<Found>,
    pub(super) facts: Vec<State>,
    /// Superblock slots that lead nowhere any more.
    pub(super) lost_slots: Vec<u8>,
    /// A checkpoint that was durable, and whose superblock is gone.
    pub(super) later: Option<Generation>,
    tombstones: Vec<Tombstone>,
    /// Whether those are all that the newest state has.
    pub(super) tombstones_whole: bool,
}

/// One state's catalog.
#[derive(Default)]
struct Catalog {
    heads: Vec<Found>,
    snapshots: Vec<Found>,
    bad_items: u64,
    whole: bool,
}

impl Catalog {
    fn read(pool: &Arc<Pool>, state: usize) -> Self {
        let mut found = Self::default();
        let whole = visit_items(pool.read_catalog(), &mut |item| match item {
            Ok(Item::Cluster(record)) => found.heads.push(Found {
                owner: Owner::Cluster(record.id, record.name.clone()),
                cluster: record.id,
                cluster_name: record.name,
                header: record.header,
                state,
                created_at: record.created_at,
            }),
            Ok(Item::Snapshot(record)) => found.snapshots.push(Found {
                owner: Owner::Snapshot(record.id, record.cluster_name.clone()),
                cluster: record.cluster,
                cluster_name: record.cluster_name,
                header: record.header,
                state,
                created_at: record.created_at,
            }),
            Ok(_) => {}
            Err(_) => found.bad_items += 1,
        });
        found.whole = whole && found.bad_items == 0;
        found
    }
}

impl Survey {
    /// Reads the catalogs of what is left of a pool ([`crate::pool::Sealed::remains`]).
    #[must_use]
    pub fn of(remains: Remains) -> Self {
        let Remains { states, lost_slots, later } = remains;
        let mut survey = Self {
            states: Vec::new(),
            heads: Vec::new(),
            snapshots: Vec::new(),
            older: Vec::new(),
            facts: Vec::new(),
            lost_slots,
            later,
            tombstones: Vec::new(),
            tombstones_whole: false,
        };
        for (index, pool) in states.iter().enumerate() {
            survey.take(pool, index);
        }
        survey.heads.sort_by(|a, b| a.cluster_name.cmp(&b.cluster_name));
        // The newest first: where a head cannot be read, its last snapshot stands in.
        survey.snapshots.sort_by_key(|s| (std::cmp::Reverse(s.created_at), s.snapshot()));
        survey.states = states;
        survey
    }

    /// Takes what a state has and no newer one shows.
    fn take(&mut self, pool: &Arc<Pool>, index: usize) {
        let catalog = Catalog::read(pool, index);
        // What a whole catalog does not list was deleted, whatever an older one says.
        let lists_all = self.facts.iter().any(|newer| newer.catalog_whole);
        let checkpoint = pool.generation().get();
        self.facts.push(State { checkpoint, catalog_whole: catalog.whole });
        if index == 0 || !self.tombstones_whole {
            let (deleted, whole) = tombstones_left(&pool.read_catalog());
            self.tombstones.extend(deleted);
            self.tombstones_whole = index == 0 && whole;
        }
        for head in catalog.heads {
            let known = self.heads.iter().any(|newer| newer.cluster == head.cluster);
            match (known, lists_all) {
                (true, _) => self.older.push(head),
                (false, true) => {}
                (false, false) => self.heads.push(head),
            }
        }
        let known: BTreeSet<_> = self.snapshots.iter().map(Found::snapshot).collect();
        let new = catalog.snapshots.into_iter().filter(|s| !known.contains(&s.snapshot()));
        self.snapshots.extend(new.filter(|_| !lists_all));
    }

    pub(super) fn pool(&self, state: usize) -> Option<&Arc<Pool>> {
        self.states.get(state)
    }

    /// The newest state.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Pool>> {
        self.states.first()
    }

    /// The customer keys that the pool knows to be deleted, whatever a keyring says.
    #[must_use]
    pub fn tombstones(&self) -> &[Tombstone] {
        &self.tombstones
    }

    /// Whether all of the newest catalog could be read: what it does not list is not there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.facts.first().is_some_and(|newest| newest.catalog_whole)
    }

    /// Whether there is a cluster of that name.
    #[must_use]
    pub fn has_cluster(&self, name: &ClusterName) -> bool {
        let lost = || !self.is_whole() && self.headless().iter().any(|(_, lost)| lost == name);
        self.heads.iter().any(|head| head.cluster_name == *name) || lost()
    }

    /// The snapshots that a prefix names.
    #[must_use]
    pub fn matching(&self, prefix: &SnapshotPrefix) -> Vec<SnapshotId> {
        let ids = self.snapshots.iter().filter_map(Found::snapshot);
        ids.filter(|id| prefix.matches(*id)).collect()
    }

    /// Snapshots of clusters of which no head is known: deleted, or lost with their part of the
    /// catalog.
    pub(super) fn headless(&self) -> Vec<(ClusterId, ClusterName)> {
        let heads: BTreeSet<_> = self.heads.iter().map(|head| head.cluster).collect();
        let mut found: Vec<(ClusterId, ClusterName)> = Vec::new();
        for snapshot in self.snapshots.iter().filter(|s| !heads.contains(&s.cluster)) {
            if !found.iter().any(|(id, _)| *id == snapshot.cluster) {
                found.push((snapshot.cluster, snapshot.cluster_name.clone()));
            }
        }
        found
    }
}
