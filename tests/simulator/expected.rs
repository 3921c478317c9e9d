//! What a pool should be: plain values, without blocks, keys or logs.

use std::collections::BTreeMap;
use std::rc::Rc;

use strongroom::base::{EncryptionKeyId, KeyState, SnapshotId, Timestamp};

use crate::model::differences;
use crate::model::files::{Model, Tree};

/// A snapshot, by when and of which cluster it was taken: the clock goes on with every step, and no
/// name is given twice.
pub type Mark = (i64, String);

#[derive(Clone)]
pub struct Cluster {
    pub files: Model,
    /// What it looked like when it was last made durable, and after every operation since.
    pub since: Vec<Rc<Tree>>,
    pub key: Option<EncryptionKeyId>,
    pub mounted: bool,
}

#[derive(Clone)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub tree: Rc<Tree>,
    pub key: Option<EncryptionKeyId>,
    pub held: bool,
    pub expires: Option<Timestamp>,
}

#[derive(Clone, Default)]
pub struct Expected {
    pub clusters: BTreeMap<String, Cluster>,
    pub snapshots: BTreeMap<Mark, Snapshot>,
    pub keys: BTreeMap<EncryptionKeyId, KeyState>,
}

/// A snapshot that was found.
pub struct FoundSnapshot {
    pub id: SnapshotId,
    pub key: Option<EncryptionKeyId>,
    pub held: bool,
    pub expires: Option<Timestamp>,
    pub tree: Option<Tree>,
}

/// What a pool was found to be. Trees that no key opens any more are missing.
#[derive(Default)]
pub struct Found {
    pub clusters: BTreeMap<String, (Option<EncryptionKeyId>, Option<Tree>)>,
    pub snapshots: BTreeMap<Mark, FoundSnapshot>,
    pub keys: BTreeMap<EncryptionKeyId, KeyState>,
}

impl Cluster {
    pub fn new(tree: &Rc<Tree>, key: Option<EncryptionKeyId>) -> Self {
        Self { files: Model::of(tree), since: vec![Rc::clone(tree)], key, mounted: false }
    }

    pub fn now(&self) -> &Rc<Tree> {
        self.since.last().expect("a cluster looks like something")
    }

    /// It was made durable.
    pub fn settle(&mut self) {
        self.since.drain(..self.since.len() - 1);
    }
}

impl Expected {
    /// A checkpoint was made: every cluster is durable.
    pub fn settle(&mut self) {
        self.clusters.values_mut().for_each(Cluster::settle);
    }

    /// What expires by now: nothing that is held.
    pub fn due(&self, now: Timestamp) -> Vec<Mark> {
        let is_due = |s: &Snapshot| !s.held && s.expires.is_some_and(|at| at <= now);
        let due = self.snapshots.iter().filter(|(_, snapshot)| is_due(snapshot));
        due.map(|(mark, _)| mark.clone()).collect()
    }

    pub fn key_is_usable(&self, cluster: &str) -> bool {
        let key = self.clusters[cluster].key.as_ref();
        key.is_none_or(|key| self.keys[key] == KeyState::Enabled)
    }

    /// Of each cluster the last `moments` are possible.
    pub fn keep_last(&mut self, moments: usize) {
        for cluster in self.clusters.values_mut() {
            cluster.since.drain(..cluster.since.len().saturating_sub(moments));
        }
    }

    /// In what a pool that was found is not this; `None`: it is this, at one moment or another.
    pub fn contradiction(&self, found: &Found) -> Option<String> {
        // A key that is gone is shown only while something needs it.
        let living = |keys: &BTreeMap<EncryptionKeyId, KeyState>| {
            let living = keys.iter().filter(|(_, state)| **state != KeyState::Deleted);
            living.map(|(id, state)| (id.clone(), *state)).collect::<Vec<_>>()
        };
        let (is, should) = (living(&found.keys), living(&self.keys));
        if is != should {
            return Some(format!("the keys are {is:?}, not {should:?}"));
        }
        let names = |all: &mut dyn Iterator<Item = &String>| all.cloned().collect::<Vec<_>>();
        let (is, should) = (names(&mut found.clusters.keys()), names(&mut self.clusters.keys()));
        if is != should {
            return Some(format!("the clusters are {is:?}, not {should:?}"));
        }
        let is: Vec<&Mark> = found.snapshots.keys().collect();
        let should: Vec<&Mark> = self.snapshots.keys().collect();
        if is != should {
            return Some(format!("the snapshots are {is:?}, not {should:?}"));
        }
        let clusters = self.clusters.iter().map(|(name, c)| c.contradiction(name, found));
        let snapshots = self.snapshots.iter().map(|(mark, s)| s.contradiction(mark, found));
        clusters.chain(snapshots).flatten().next()
    }

    /// Takes over at which moments a pool was found, of those that this allows.
    pub fn become_found(&mut self, found: Found) {
        for (name, (_, tree)) in found.clusters {
            let cluster = self.clusters.get_mut(&name).expect("it was compared");
            match tree {
                Some(tree) => *cluster = Cluster::new(&Rc::new(tree), cluster.key.clone()),
                None => cluster.settle(),
            }
        }
        // Of one that was taken while the disk failed, nobody was told the id.
        for (mark, snapshot) in found.snapshots {
            self.snapshots.get_mut(&mark).expect("it was compared").id = snapshot.id;
        }
    }
}

impl Cluster {
    fn contradiction(&self, name: &str, found: &Found) -> Option<String> {
        let (key, tree) = &found.clusters[name];
        if *key != self.key {
            return Some(format!("{name} is under {key:?}, not {:?}", self.key));
        }
        let tree = tree.as_ref()?;
        if self.since.iter().any(|wanted| **wanted == *tree) {
            return None;
        }
        let (moments, last) = (self.since.len(), differences(tree, self.now()));
        Some(format!("{name} is at none of {moments} moments; compared with the last: {last}"))
    }
}

impl Snapshot {
    /// Of what a cluster looks like now.
    pub fn of(cluster: &Cluster, id: SnapshotId, expires: Option<Timestamp>) -> Self {
        let (tree, key) = (Rc::clone(cluster.now()), cluster.key.clone());
        Self { id, tree, key, held: false, expires }
    }

    fn contradiction(&self, mark: &Mark, found: &Found) -> Option<String> {
        let FoundSnapshot { key, held, expires, tree, .. } = &found.snapshots[mark];
        let (is, should) = ((key, held, expires), (&self.key, &self.held, &self.expires));
        if is != should {
            return Some(format!("{mark:?}: {is:?}, not {should:?}"));
        }
        let tree = tree.as_ref()?;
        (*tree != *self.tree).then(|| format!("{mark:?}: {}", differences(tree, &self.tree)))
    }
}
