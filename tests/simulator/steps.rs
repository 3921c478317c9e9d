//! What can be done to a pool, chosen by the dice from what is there, and what must come of it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use strongroom::base::ids::SnapshotPrefix;
use strongroom::base::{
    ClusterName, EncryptionKeyId, KeyAnswer, KeyState, ProblemCode, SnapshotId,
};
use strongroom::service::{Service, ServiceError, UmountWhat, Which, types};
use strongroom::sys::{clock, simulation};

use crate::at_once::{mount_beside_a_deletion, work_beside_an_end};
use crate::expected::{Cluster, Mark, Snapshot};
use crate::faults::Fault;
use crate::meanwhile::beside_a_commit;
use crate::model::Dice;
use crate::model::files::Tree;
use crate::model::volume;
use crate::mounter::{OWNER, place_of, request};
use crate::outcome::{Outcome, Refusal};
use crate::scarce::Scarcity;
use crate::world::World;

const CLUSTERS_MAX: usize = 4;
const SNAPSHOTS_MAX: usize = 8;
/// From a change to the checkpoint that is made of it, and a little more.
const UNTIL_CHECKPOINT: Duration = Duration::from_secs(11);

const HOUR: Duration = Duration::from_secs(3600);

/// Of a snapshot that may have been taken, whose id nobody was told.
pub const UNKNOWN: SnapshotId = SnapshotId(0);

type Key = Option<EncryptionKeyId>;

#[derive(Clone, Debug)]
pub enum Step {
    Create(Key),
    Mount(String),
    Unmount(String),
    Work(String, usize),
    Sync(String),
    /// Files are worked on and made durable in the middle of a checkpoint, or of a snapshot.
    Beside(String, u64, bool),
    /// For so many hours, or for good.
    Snapshot(Vec<String>, Option<u64>),
    /// Files are worked on while the cluster is being unmounted.
    BesideEnd(String, u64),
    /// A snapshot is mounted while it is being deleted.
    BesideDeletion(Mark, u64),
    Clone(Mark),
    InPlace(Mark),
    DeleteSnapshots(Vec<Mark>),
    DeleteCluster(String),
    Hold(Mark),
    SetKey(String, Key, bool),
    Rewrap(Vec<Mark>, EncryptionKeyId),
    Disable(EncryptionKeyId),
    Enable(EncryptionKeyId),
    DeleteKey(EncryptionKeyId),
    CancelDelete(EncryptionKeyId),
    Checkpoint,
    Background(usize),
    /// A minute, after so many hours.
    Minute(u64),
    Grow,
    Reopen,
    Crash,
    Fault(Fault),
    Scarce(Scarcity),
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

impl Step {
    /// A step that can be taken, or is to be refused.
    pub fn choose(world: &mut World) -> Self {
        loop {
            if let Some(step) = Self::try_choose(world) {
                return step;
            }
        }
    }

    fn try_choose(world: &mut World) -> Option<Self> {
        let names: Vec<String> = world.expected.clusters.keys().cloned().collect();
        let marks: Vec<Mark> = world.expected.snapshots.keys().cloned().collect();
        let keys: Vec<EncryptionKeyId> = world.expected.keys.keys().cloned().collect();
        if world.is_scarce() && !names.is_empty() && world.dice.roll(6) == 0 {
            let cluster = world.dice.pick(&names);
            return Scarcity::choose(world, cluster).map(Self::Scarce);
        }
        if let Some(step) = Self::choose_at_once(world, &names, &marks) {
            return Some(step);
        }
        let (scarce, dice) = (world.is_scarce(), &mut world.dice);
        let key = dice.pick(&keys);
        let some_key = (dice.roll(3) > 0).then(|| key.clone());
        if names.is_empty() {
            return Some(Self::Create(some_key));
        }
        let cluster = dice.pick(&names);
        let mounted = world.expected.clusters[&cluster].mounted;
        let mark = (!marks.is_empty()).then(|| dice.pick(&marks));
        let full = marks.len() >= SNAPSHOTS_MAX;
        let state = world.expected.keys[&key];
        Some(match dice.roll(100) {
            0..24 if mounted => Self::Work(cluster, 1 + dice.roll(8)),
            0..24 => Self::Mount(cluster),
            24..33 if mounted => Self::Sync(cluster),
            // Who is refused room waits for a checkpoint, and this one stands still.
            33..36 if mounted && !scarce => {
                let usable = world.expected.key_is_usable(&cluster);
                Self::Beside(cluster, dice.roll(20) as u64, usable && !full && dice.roll(2) == 0)
            }
            36..44 if !full => Self::Snapshot(vec![cluster], retention(dice)),
            44..47 if !full => Self::Snapshot(names, retention(dice)),
            47..51 if names.len() < CLUSTERS_MAX => Self::Create(some_key),
            51..56 if names.len() < CLUSTERS_MAX => Self::Clone(mark?),
            56..61 => Self::InPlace(mark?),
            61..66 => {
                let mut marks = vec![mark?, dice.pick(&marks)];
                marks.dedup();
                Self::DeleteSnapshots(marks)
            }
            66..68 => Self::DeleteCluster(cluster),
            68..70 => Self::Hold(mark?),
            70..74 => Self::SetKey(cluster, some_key, dice.roll(2) == 0),
            74..77 => {
                let mut marks = vec![mark?, dice.pick(&marks)];
                marks.dedup();
                Self::Rewrap(marks, key)
            }
            77..80 if state == KeyState::Enabled => Self::Disable(key),
            77..82 if state == KeyState::Disabled => Self::Enable(key),
            80..83 if state == KeyState::PendingDeletion => Self::CancelDelete(key),
            82 if state == KeyState::Enabled => Self::DeleteKey(key),
            83..86 => Self::Checkpoint,
            86..88 => Self::Background(1 + dice.roll(20)),
            88..90 => Self::Minute(dice.pick(&[0, 0, 1, 3])),
            90 => Self::Grow,
            91..94 if mounted => Self::Unmount(cluster),
            94..96 => Self::Reopen,
            96..98 => Self::Crash,
            98.. if !world.faults.are_armed() => Self::Fault(Fault::choose(&mut world.dice)),
            _ => return None,
        })
    }

    /// Something that ends while it is used, once in a while.
    fn choose_at_once(world: &mut World, names: &[String], marks: &[Mark]) -> Option<Self> {
        if world.is_scarce() || world.faults.are_armed() || world.dice.roll(25) > 0 {
            return None;
        }
        let dice = &mut world.dice;
        let (first, second) = (dice.roll(2) == 0, dice.roll(30) as u64);
        if first && !names.is_empty() {
            let cluster = dice.pick(names);
            let mounted = world.expected.clusters[&cluster].mounted;
            return mounted.then_some(Self::BesideEnd(cluster, second));
        }
        let mark = (!marks.is_empty()).then(|| dice.pick(marks))?;
        let held = world.expected.snapshots[&mark].held;
        (!held).then_some(Self::BesideDeletion(mark, second))
    }

    /// Does it, and says so to the model.
    pub fn perform(&self, world: &mut World) {
        match self {
            Self::Create(key) => create(world, key),
            Self::Mount(cluster) => mount(world, cluster),
            Self::Unmount(cluster) => unmount(world, cluster),
            Self::Work(cluster, count) => work(world, cluster, *count),
            Self::Sync(cluster) => sync(world, cluster),
            Self::Beside(cluster, after, snapshot) => {
                beside_a_commit(world, cluster, *after, *snapshot);
            }
            Self::BesideEnd(cluster, after) => work_beside_an_end(world, cluster, *after),
            Self::BesideDeletion(mark, after) => mount_beside_a_deletion(world, mark, *after),
            Self::Snapshot(clusters, hours) => snapshot(world, clusters, *hours),
            Self::Clone(mark) => clone(world, mark),
            Self::InPlace(mark) => in_place(world, mark),
            Self::DeleteSnapshots(marks) => delete_snapshots(world, marks),
            Self::DeleteCluster(cluster) => delete_cluster(world, cluster),
            Self::Hold(mark) => hold(world, mark),
            Self::SetKey(cluster, key, snapshots) => set_key(world, cluster, key, *snapshots),
            Self::Rewrap(marks, key) => rewrap(world, marks, key),
            Self::Disable(key) => {
                key_becomes(world, key, KeyState::Disabled, |service, key| service.disable_key(key))
            }
            Self::Enable(key) => {
                key_becomes(world, key, KeyState::Enabled, |service, key| service.enable_key(key))
            }
            Self::DeleteKey(key) => {
                let becomes = match world.dies_at_once(key) {
                    true => KeyState::Deleted,
                    false => KeyState::PendingDeletion,
                };
                key_becomes(world, key, becomes, |service, key| {
                    service.delete_key(key, None, Some(key))
                });
            }
            Self::CancelDelete(key) => {
                key_becomes(world, key, KeyState::Disabled, |service, key| {
                    service.cancel_delete_key(key)
                })
            }
            Self::Checkpoint => checkpoint(world),
            Self::Background(steps) => background(world, *steps),
            Self::Minute(hours) => minute(world, *hours),
            Self::Grow => grow(world),
            Self::Reopen => world.reopen(),
            Self::Crash => {
                // Something to be in the middle of.
                let mounted = world.expected.clusters.iter().find(|(_, c)| c.mounted);
                if let Some(cluster) = mounted.map(|(name, _)| name.clone()) {
                    work(world, &cluster, 3);
                    if !world.has_failed() {
                        sync(world, &cluster);
                    }
                }
            }
            Self::Fault(fault) => world.faults.arm(*fault),
            Self::Scarce(scarcity) => scarcity.happen(world),
        }
    }
}

fn prefix(world: &World, mark: &Mark) -> SnapshotPrefix {
    world.expected.snapshots[mark].id.to_string().parse().unwrap()
}

fn create(world: &mut World, key: &Key) {
    world.number += 1;
    let text = format!("c{}", world.number);
    let refusal = world.key_refusal([key]);
    let created = world.service().create_cluster(&name(&text), key.as_ref(), OWNER);
    if let Outcome::Refused = world.outcome_of_adding(created, refusal) {
        if refusal.is_none() {
            // It is made, finds no room for its first directory, and is deleted again.
            let mut with = world.expected.clone();
            with.clusters.insert(text, Cluster::new(&Rc::new(Tree::new()), key.clone()));
            world.perhaps.push(with);
        }
        return;
    }
    world.expected.settle();
    world.add_cluster(text, &Rc::new(Tree::new()), key.clone());
}

fn mount(world: &mut World, cluster: &str) {
    let refusal = world.key_refusal([&world.expected.clusters[cluster].key]);
    let outstanding = world.is_outstanding(cluster);
    let mounted = world.service().mount(&name(cluster), request(place_of(cluster)));
    // What a replay needs was promised, and its log has its place.
    let outcome = match outstanding {
        true => world.outcome(mounted, refusal),
        false => world.outcome_of_adding(mounted, refusal),
    };
    if let Outcome::Done(_) = outcome {
        world.cluster(cluster).mounted = true;
    }
}

fn unmount(world: &mut World, cluster: &str) {
    if world.cluster(cluster).mounted {
        let ended = world.service().umount(&UmountWhat::Cluster(&name(cluster)), false);
        world.cluster(cluster).mounted = false;
        if let Outcome::Done(_) = world.outcome(ended, None) {
            world.expected.settle();
        }
    }
}

pub fn work(world: &mut World, cluster: &str, count: usize) {
    let volume = world.volume(cluster);
    for _ in 0..count {
        let op = world.expected.clusters[cluster].files.choose(&mut world.dice);
        world.tell(format!("  {op:?}"));
        let done = volume::apply(&volume, &op).map_err(Into::into);
        if let Outcome::Failed = world.outcome_of_work(cluster, &op, done) {
            return;
        }
    }
}

pub fn sync(world: &mut World, cluster: &str) {
    let done = world.volume(cluster).sync().map_err(Into::into);
    if let Outcome::Done(()) = world.outcome(done, None) {
        world.cluster(cluster).settle();
    }
}

fn retention(dice: &mut Dice) -> Option<u64> {
    (dice.roll(3) == 0).then(|| 1 + dice.roll(4) as u64)
}

fn snapshot(world: &mut World, clusters: &[String], hours: Option<u64>) {
    let names: Vec<ClusterName> = clusters.iter().map(|c| name(c)).collect();
    let refusal = world.log_refusal(clusters);
    let retain = hours.map(|hours| HOUR * hours as u32);
    let taken = world.service().create_snapshots(&Which::Named(names), retain, "");
    let mut ids: BTreeMap<String, SnapshotId> = match world.outcome_of_adding(taken, refusal) {
        Outcome::Refused => return,
        Outcome::Done(taken) => {
            taken.into_iter().map(|s| (s.cluster_name.as_str().to_owned(), s.id)).collect()
        }
        Outcome::Failed => BTreeMap::new(),
    };
    for cluster in clusters {
        let id = ids.remove(cluster).unwrap_or(UNKNOWN);
        let expires = retain.map(|retain| clock::now().plus(retain));
        let taken = Snapshot::of(&world.expected.clusters[cluster], id, expires);
        world.expected.snapshots.insert((clock::now().secs(), cluster.clone()), taken);
    }
    world.expected.settle();
}

fn clone(world: &mut World, mark: &Mark) {
    world.number += 1;
    let text = format!("c{}", world.number);
    let Snapshot { tree, key, .. } = world.expected.snapshots[mark].clone();
    let refusal = world.key_refusal([&key]);
    let cloned = world.service().restore_to_cluster(&prefix(world, mark), &name(&text));
    if let Outcome::Refused = world.outcome_of_adding(cloned, refusal) {
        return;
    }
    world.expected.settle();
    world.add_cluster(text, &tree, key);
}

fn in_place(world: &mut World, mark: &Mark) {
    let cluster = &mark.1;
    let Snapshot { tree, key, .. } = world.expected.snapshots[mark].clone();
    let refusal = match world.expected.clusters.get(cluster).cloned() {
        None => Some(Refusal::Code(ProblemCode::ClusterNotFound)),
        Some(now) => {
            unmount(world, cluster);
            let clusters = std::slice::from_ref(cluster);
            world.key_refusal([&key, &now.key]).or_else(|| world.log_refusal(clusters))
        }
    };
    if world.has_failed() {
        return;
    }
    let restored = world.service().restore_in_place(&prefix(world, mark), Some(3 * HOUR));
    let id = match world.outcome_of_adding(restored, refusal) {
        Outcome::Refused => return,
        Outcome::Done(restored) => restored.safety_snapshot.id,
        Outcome::Failed => UNKNOWN,
    };
    world.expected.settle();
    let now = world.expected.clusters[cluster].clone();
    let safety = Snapshot::of(&now, id, Some(clock::now().plus(3 * HOUR)));
    world.expected.snapshots.insert((clock::now().secs(), cluster.clone()), safety);
    world.add_cluster(cluster.clone(), &tree, now.key);
}

fn delete_snapshots(world: &mut World, marks: &[Mark]) {
    let ids: Vec<SnapshotPrefix> = marks.iter().map(|mark| prefix(world, mark)).collect();
    let held = marks.iter().any(|mark| world.expected.snapshots[mark].held);
    let refusal = held.then_some(Refusal::Code(ProblemCode::Held));
    let deleted = world.service().delete_snapshots(&ids, false);
    if let Outcome::Refused = world.outcome(deleted, refusal) {
        return;
    }
    marks.iter().for_each(|mark| drop(world.expected.snapshots.remove(mark)));
    world.expected.settle();
}

fn delete_cluster(world: &mut World, cluster: &str) {
    unmount(world, cluster);
    if world.has_failed() {
        return;
    }
    let deleted = world.service().delete_cluster(&name(cluster));
    world.outcome(deleted, None);
    world.expected.clusters.remove(cluster);
    world.expected.settle();
}

fn hold(world: &mut World, mark: &Mark) {
    let held = !world.expected.snapshots[mark].held;
    let done = world.service().hold(&prefix(world, mark), held);
    world.outcome(done, None);
    world.expected.snapshots.get_mut(mark).unwrap().held = held;
    world.expected.settle();
}

fn set_key(world: &mut World, cluster: &str, key: &Key, snapshots: bool) {
    let of_cluster = |mark: &Mark| snapshots && mark.1 == cluster;
    let old = world.expected.clusters[cluster].key.clone();
    let rewrapped = world.expected.snapshots.iter().filter(|(mark, _)| of_cluster(mark));
    let needed = rewrapped.map(|(_, snapshot)| &snapshot.key).chain([&old, key]);
    let refusal = world.key_refusal(needed).or_else(|| world.log_refusal(&[cluster.to_owned()]));
    let changed = world.service().set_key(&name(cluster), key.as_ref(), snapshots);
    if let Outcome::Refused = world.outcome(changed, refusal) {
        return;
    }
    world.cluster(cluster).key.clone_from(key);
    let rewrapped = world.expected.snapshots.iter_mut().filter(|(mark, _)| of_cluster(mark));
    rewrapped.for_each(|(_, snapshot)| snapshot.key.clone_from(key));
    world.expected.settle();
}

fn rewrap(world: &mut World, marks: &[Mark], key: &EncryptionKeyId) {
    let ids: Vec<SnapshotPrefix> = marks.iter().map(|mark| prefix(world, mark)).collect();
    let new = Some(key.clone());
    let old = marks.iter().map(|mark| &world.expected.snapshots[mark].key);
    let refusal = world.key_refusal(old.chain([&new]));
    let rewrapped = world.service().rewrap(&ids, key);
    if let Outcome::Refused = world.outcome(rewrapped, refusal) {
        return;
    }
    for mark in marks {
        world.expected.snapshots.get_mut(mark).unwrap().key.clone_from(&new);
    }
    world.expected.settle();
}

/// The keyring does not stand in the pool: it has changed whatever becomes of that.
fn key_becomes(
    world: &mut World,
    key: &EncryptionKeyId,
    becomes: KeyState,
    change: impl Fn(&Service, &EncryptionKeyId) -> Result<types::Key, ServiceError>,
) {
    let changed = change(world.service(), key);
    if let Outcome::Done(told) = world.outcome(changed, None) {
        assert_eq!(told.state, Some(KeyAnswer::State(becomes)), "{key}");
    }
    world.expected.keys.insert(key.clone(), becomes);
}

fn checkpoint(world: &mut World) {
    simulation::pass(UNTIL_CHECKPOINT);
    let made = world.service().tick_checkpoint(Duration::ZERO);
    if let Outcome::Done(true) = world.outcome(made, None) {
        world.expected.settle();
    }
}

fn background(world: &mut World, steps: usize) {
    for volume in world.mounts.volumes() {
        let step = volume.background_step().map_err(Into::into);
        world.outcome(step, None);
    }
    for _ in 0..steps {
        let step = world.service().tick_background();
        let Outcome::Done(true) = world.outcome(step, None) else { return };
    }
}

/// What is due expires, but for what is held.
fn minute(world: &mut World, hours: u64) {
    simulation::pass(HOUR * hours as u32 + Duration::from_secs(60));
    let mut report = world.service().tick_minute();
    let due = world.expected.due(clock::now());
    let gone = due.iter().filter_map(|mark| world.expected.snapshots.remove(mark));
    let mut expired: Vec<SnapshotId> = gone.map(|snapshot| snapshot.id).collect();
    if !due.is_empty() {
        world.expected.settle();
    }
    if world.faults.have_fired() {
        // What fails in it is logged, and done in another one.
        world.tell("  (failed, or not)".to_owned());
        world.failed = Some("work of a minute".to_owned());
        return;
    }
    report.expired.sort();
    expired.sort();
    assert_eq!(report.expired, expired, "what expired is not what was due");
    assert!(report.deleted_keys.is_empty(), "{report:?}");
}

fn grow(world: &mut World) {
    let size = world.service().pool().device().size_bytes();
    let grown = world.service().grow_pool(size + (8 << 20));
    if let Outcome::Done(()) = world.outcome_of_adding(grown, None) {
        world.expected.settle();
    }
}
