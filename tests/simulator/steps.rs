//! What can be done to a pool, chosen by the dice from what is there, and what must come of it.

use std::rc::Rc;
use std::time::Duration;

use strongroom::base::ids::SnapshotPrefix;
use strongroom::base::{ClusterName, EncryptionKeyId, KeyAnswer, KeyState, ProblemCode};
use strongroom::service::{UmountWhat, Which};
use strongroom::sys::{clock, simulation};

use crate::expected::{Mark, Snapshot};
use crate::model::files::Tree;
use crate::model::volume;
use crate::mounter::{OWNER, place_of, request};
use crate::world::{World, refused_for_its_key};

const CLUSTERS_MAX: usize = 4;
const SNAPSHOTS_MAX: usize = 8;
/// From a change to the checkpoint that is made of it, and a little more.
const UNTIL_CHECKPOINT: Duration = Duration::from_secs(11);

type Key = Option<EncryptionKeyId>;

#[derive(Clone, Debug)]
pub enum Step {
    Create(Key),
    Mount(String),
    Unmount(String),
    Work(String, usize),
    Sync(String),
    Snapshot(Vec<String>),
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
    Minute,
    Grow,
    Reopen,
    Crash,
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
        let dice = &mut world.dice;
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
            24..36 if mounted => Self::Sync(cluster),
            36..44 if !full => Self::Snapshot(vec![cluster]),
            44..47 if !full => Self::Snapshot(names),
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
            88..90 => Self::Minute,
            90 => Self::Grow,
            91..94 if mounted => Self::Unmount(cluster),
            94..96 => Self::Reopen,
            96..100 => Self::Crash,
            _ => return None,
        })
    }

    /// Does it, and says so to the model.
    pub fn perform(&self, world: &mut World) {
        match self {
            Self::Create(key) => create(world, key),
            Self::Mount(cluster) => mount(world, cluster),
            Self::Unmount(cluster) => unmount(world, cluster),
            Self::Work(cluster, count) => work(world, cluster, *count),
            Self::Sync(cluster) => {
                world.volume(cluster).sync().unwrap();
                world.cluster(cluster).settle();
            }
            Self::Snapshot(clusters) => snapshot(world, clusters),
            Self::Clone(mark) => clone(world, mark),
            Self::InPlace(mark) => in_place(world, mark),
            Self::DeleteSnapshots(marks) => delete_snapshots(world, marks),
            Self::DeleteCluster(cluster) => delete_cluster(world, cluster),
            Self::Hold(mark) => hold(world, mark),
            Self::SetKey(cluster, key, snapshots) => set_key(world, cluster, key, *snapshots),
            Self::Rewrap(marks, key) => rewrap(world, marks, key),
            Self::Disable(key) => {
                world.service().disable_key(key).unwrap();
                world.expected.keys.insert(key.clone(), KeyState::Disabled);
            }
            Self::Enable(key) => {
                world.service().enable_key(key).unwrap();
                world.expected.keys.insert(key.clone(), KeyState::Enabled);
            }
            Self::DeleteKey(key) => delete_key(world, key),
            Self::CancelDelete(key) => {
                world.service().cancel_delete_key(key).unwrap();
                world.expected.keys.insert(key.clone(), KeyState::Disabled);
            }
            Self::Checkpoint => checkpoint(world),
            Self::Background(steps) => background(world, *steps),
            Self::Minute => minute(world),
            Self::Grow => grow(world),
            Self::Reopen => world.reopen(),
            Self::Crash => {
                // Something to be in the middle of.
                let mounted = world.expected.clusters.iter().find(|(_, c)| c.mounted);
                if let Some(cluster) = mounted.map(|(name, _)| name.clone()) {
                    work(world, &cluster, 3);
                    world.volume(&cluster).sync().unwrap();
                }
            }
        }
    }
}

fn prefix(world: &World, mark: &Mark) -> SnapshotPrefix {
    world.expected.snapshots[mark].id.to_string().parse().unwrap()
}

fn create(world: &mut World, key: &Key) {
    world.number += 1;
    let text = format!("c{}", world.number);
    let usable = world.expected.usable(key.as_ref());
    let created = world.service().create_cluster(&name(&text), key.as_ref(), OWNER);
    if !usable {
        return refused_for_its_key(created);
    }
    created.unwrap();
    world.expected.settle();
    world.add_cluster(text, &Rc::new(Tree::new()), key.clone());
}

fn mount(world: &mut World, cluster: &str) {
    let usable = world.expected.usable(world.expected.clusters[cluster].key.as_ref());
    let mounted = world.service().mount(&name(cluster), request(place_of(cluster)));
    if !usable {
        return refused_for_its_key(mounted);
    }
    mounted.unwrap();
    world.cluster(cluster).mounted = true;
}

fn unmount(world: &mut World, cluster: &str) {
    if world.cluster(cluster).mounted {
        world.service().umount(&UmountWhat::Cluster(&name(cluster)), false).unwrap();
        world.cluster(cluster).mounted = false;
        world.expected.settle();
    }
}

fn work(world: &mut World, cluster: &str, count: usize) {
    let volume = world.volume(cluster);
    for _ in 0..count {
        let op = world.expected.clusters[cluster].files.choose(&mut world.dice);
        world.tell(format!("  {op:?}"));
        volume::apply(&volume, &op).unwrap();
        let cluster = world.cluster(cluster);
        cluster.files.apply(&op);
        let tree = Rc::new(cluster.files.seen());
        cluster.since.push(tree);
    }
}

fn snapshot(world: &mut World, clusters: &[String]) {
    let names: Vec<ClusterName> = clusters.iter().map(|c| name(c)).collect();
    let outstanding = clusters.iter().any(|cluster| world.is_outstanding(cluster));
    let taken = world.service().create_snapshots(&Which::Named(names), None, "");
    if outstanding {
        assert_eq!(taken.unwrap_err().code, ProblemCode::LogOutstanding);
        return;
    }
    for snapshot in taken.unwrap() {
        let name = snapshot.cluster_name.as_str().to_owned();
        let cluster = &world.expected.clusters[&name];
        let (tree, key) = (Rc::clone(cluster.now()), cluster.key.clone());
        let taken = Snapshot { id: snapshot.id, tree, key, held: false };
        world.expected.snapshots.insert((clock::now().secs(), name), taken);
    }
    world.expected.settle();
}

fn clone(world: &mut World, mark: &Mark) {
    world.number += 1;
    let text = format!("c{}", world.number);
    let cloned = world.service().restore_to_cluster(&prefix(world, mark), &name(&text));
    let Snapshot { tree, key, .. } = world.expected.snapshots[mark].clone();
    if !world.expected.usable(key.as_ref()) {
        return refused_for_its_key(cloned);
    }
    cloned.unwrap();
    world.expected.settle();
    world.add_cluster(text, &tree, key);
}

fn in_place(world: &mut World, mark: &Mark) {
    let cluster = &mark.1;
    if world.expected.clusters.contains_key(cluster) {
        unmount(world, cluster);
    }
    let restored = world.service().restore_in_place(&prefix(world, mark), None);
    let Some(now) = world.expected.clusters.get(cluster).cloned() else {
        assert_eq!(restored.unwrap_err().code, ProblemCode::ClusterNotFound);
        return;
    };
    let Snapshot { tree, key, .. } = world.expected.snapshots[mark].clone();
    if !world.expected.usable(key.as_ref()) || !world.expected.usable(now.key.as_ref()) {
        return refused_for_its_key(restored);
    }
    if world.is_outstanding(cluster) {
        assert_eq!(restored.unwrap_err().code, ProblemCode::LogOutstanding);
        return;
    }
    let id = restored.unwrap().safety_snapshot.id;
    world.expected.settle();
    let safety = Snapshot { id, tree: Rc::clone(now.now()), key: now.key.clone(), held: false };
    world.expected.snapshots.insert((clock::now().secs(), cluster.clone()), safety);
    world.add_cluster(cluster.clone(), &tree, now.key);
}

fn delete_snapshots(world: &mut World, marks: &[Mark]) {
    let ids: Vec<SnapshotPrefix> = marks.iter().map(|mark| prefix(world, mark)).collect();
    let held = marks.iter().any(|mark| world.expected.snapshots[mark].held);
    let deleted = world.service().delete_snapshots(&ids, false);
    if held {
        assert_eq!(deleted.unwrap_err().code, ProblemCode::Held);
        return;
    }
    deleted.unwrap();
    marks.iter().for_each(|mark| drop(world.expected.snapshots.remove(mark)));
    world.expected.settle();
}

fn delete_cluster(world: &mut World, cluster: &str) {
    unmount(world, cluster);
    world.service().delete_cluster(&name(cluster)).unwrap();
    world.expected.clusters.remove(cluster);
    world.expected.settle();
}

fn hold(world: &mut World, mark: &Mark) {
    let held = !world.expected.snapshots[mark].held;
    world.service().hold(&prefix(world, mark), held).unwrap();
    world.expected.snapshots.get_mut(mark).unwrap().held = held;
    world.expected.settle();
}

fn set_key(world: &mut World, cluster: &str, key: &Key, snapshots: bool) {
    let of_cluster = |mark: &Mark| snapshots && mark.1 == cluster;
    let old = world.expected.clusters[cluster].key.clone();
    let rewrapped = world.expected.snapshots.iter().filter(|(mark, _)| of_cluster(mark));
    let mut needed: Vec<&Key> = rewrapped.map(|(_, snapshot)| &snapshot.key).collect();
    needed.extend([&old, key]);
    let usable = needed.into_iter().all(|key| world.expected.usable(key.as_ref()));
    let outstanding = world.is_outstanding(cluster);
    let changed = world.service().set_key(&name(cluster), key.as_ref(), snapshots);
    if !usable {
        return refused_for_its_key(changed);
    }
    if outstanding {
        assert_eq!(changed.unwrap_err().code, ProblemCode::LogOutstanding);
        return;
    }
    changed.unwrap();
    world.cluster(cluster).key.clone_from(key);
    let rewrapped = world.expected.snapshots.iter_mut().filter(|(mark, _)| of_cluster(mark));
    rewrapped.for_each(|(_, snapshot)| snapshot.key.clone_from(key));
    world.expected.settle();
}

fn rewrap(world: &mut World, marks: &[Mark], key: &EncryptionKeyId) {
    let ids: Vec<SnapshotPrefix> = marks.iter().map(|mark| prefix(world, mark)).collect();
    let old = |mark| world.expected.snapshots[mark].key.as_ref();
    let usable = world.expected.usable(Some(key))
        && marks.iter().all(|mark| world.expected.usable(old(mark)));
    let rewrapped = world.service().rewrap(&ids, key);
    if !usable {
        return refused_for_its_key(rewrapped);
    }
    rewrapped.unwrap();
    for mark in marks {
        world.expected.snapshots.get_mut(mark).unwrap().key = Some(key.clone());
    }
    world.expected.settle();
}

fn delete_key(world: &mut World, key: &EncryptionKeyId) {
    let state = match world.service().delete_key(key, None, Some(key)).unwrap().state.unwrap() {
        KeyAnswer::State(state) => state,
        other => panic!("{key}: {other:?}"),
    };
    assert!(matches!(state, KeyState::Deleted | KeyState::PendingDeletion), "{state:?}");
    world.expected.keys.insert(key.clone(), state);
}

fn checkpoint(world: &mut World) {
    simulation::pass(UNTIL_CHECKPOINT);
    if world.service().tick_checkpoint(Duration::ZERO).unwrap() {
        world.expected.settle();
    }
}

fn background(world: &mut World, steps: usize) {
    for volume in world.mounts.volumes() {
        volume.background_step().unwrap();
    }
    for _ in 0..steps {
        if !world.service().tick_background().unwrap() {
            break;
        }
    }
}

fn minute(world: &mut World) {
    simulation::pass(Duration::from_secs(60));
    let report = world.service().tick_minute();
    assert!(report.expired.is_empty() && report.deleted_keys.is_empty(), "{report:?}");
}

fn grow(world: &mut World) {
    let size = world.service().pool().device().size_bytes();
    world.service().grow_pool(size + (8 << 20)).unwrap();
    world.expected.settle();
}
