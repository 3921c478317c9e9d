//! A pool, the service over it, and beside them what they should be.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use strongroom::base::{BlockAddr, ClusterName, EncryptionKeyId, Generation, PoolId, ProblemCode};
use strongroom::crypto::{EngineKey, EngineWrapKind};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::keys::{ConfigDir, root_secret, wrap_engine_key};
use strongroom::pool::{self, CreateOptions, PoolState};
use strongroom::service::{Service, ServiceError, Which};
use strongroom::sys::simulation::{self, Simulation};
use strongroom::sys::sync::{Mutex, Rank};
use strongroom::sys::{clock, random};
use strongroom::volume::Volume;

use crate::disk::{CrashPoint, Disk, Watch, put_files};
use crate::expected::{Cluster, Expected};
use crate::faults::{Fault, Faults};
use crate::judge::{START, judge, judge_damage, open};
use crate::meanwhile::Midway;
use crate::model::Dice;
use crate::mounter::{Mounts, OWNER, place_of};
use crate::outcome::Outcome;
use crate::scarce;
use crate::steps::Step;

const POOL_BYTES: u64 = 256 << 20;
/// A loss of power between two steps.
const AFTER: &str = "after the step";
/// Blocks damaged at the end of a history.
const DAMAGES: usize = 2;
/// Customer keys in a pool.
const KEYS: usize = 3;

/// How a history goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub steps: usize,
    /// Before which requests of a step the power is imagined to go.
    pub watch: Watch,
    /// There is little room beneath the pool.
    pub scarce: bool,
}

impl Plan {
    /// Where two things happen at once, it is looked at more closely.
    fn watch_in(self, step: &Step) -> Watch {
        match (step, self.watch) {
            (Step::Beside(..) | Step::BesideEnd(..), Watch::OneIn(n)) => {
                Watch::OneIn(n.div_ceil(6))
            }
            (_, watch) => watch,
        }
    }
}

/// What a history came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub steps: u64,
    pub requests: u64,
    pub crash_points: u64,
    pub crashes: u64,
    /// The disk failed, and somebody was told.
    pub failures: u64,
    /// What was refused because there was no room.
    pub refused: u64,
    /// Blocks that were damaged, and of how many that was told.
    pub damage: u64,
    pub damage_told: u64,
    /// Of everything that was written to the disk, in order.
    pub digest: u32,
}

/// What was done, for whoever looks for the cause of a failure.
pub type Told = Arc<Mutex<Vec<String>>>;

impl Summary {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.requests += other.requests;
        self.crash_points += other.crash_points;
        self.crashes += other.crashes;
        self.failures += other.failures;
        self.refused += other.refused;
        self.damage += other.damage;
        self.damage_told += other.damage_told;
        self.digest = self.digest.rotate_left(1) ^ other.digest;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steps, requests, crash_points, crashes, failures, refused, .. } = self;
        let Self { damage, damage_told, digest, .. } = self;
        write!(f, "{steps} steps, {requests} requests, {crash_points} crash points judged, ")?;
        write!(f, "{crashes} ends gone on from, {failures} failures of the disk, ")?;
        write!(f, "{refused} refused for want of room, {damage} blocks damaged ")?;
        write!(f, "({damage_told} told); {digest:08x}")
    }
}

pub struct World {
    pub dice: Dice,
    pub disk: Arc<Disk>,
    pub dir: tempfile::TempDir,
    pub mounts: Arc<Mounts>,
    /// Missing while it is being opened again.
    service: Option<Arc<Service>>,
    pub expected: Expected,
    pub faults: Faults,
    /// Why an operation failed, once the disk did: the pool is opened again after such a step.
    pub failed: Option<String>,
    /// Of a step in which something was acknowledged before its end.
    pub midway: Option<Midway>,
    /// What a step may have come to on its way, beside nothing and all of it; one that failed, at
    /// its end too.
    pub perhaps: Vec<Expected>,
    told: Told,
    /// The newest interval that was ever open.
    opened: Generation,
    pub number: u64,
    plan: Plan,
    pub summary: Summary,
    _time: Simulation,
}

/// A new pool with its configuration directory.
fn make_pool(device: &Arc<dyn Device>, config: &ConfigDir) {
    let pool_id = PoolId(random::array());
    let config = config.pool(&pool_id);
    config.ensure().unwrap();
    let secret = root_secret::create_secret_file(&config.root_key()).unwrap();
    let engine_key = EngineKey::random();
    let kind = EngineWrapKind::File;
    let wrap = wrap_engine_key(&pool_id, kind, "", &secret, None, &engine_key).unwrap();
    let (node_bytes, now) = (pool::NODE_BYTES, clock::now());
    let options = CreateOptions { pool_id, node_bytes, engine_key, wraps: vec![wrap], now };
    pool::create(device, options).unwrap();
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> Self {
        let time = Simulation::begin(seed, START);
        let mut dice = Dice(seed);
        let sim = SimDevice::new(POOL_BYTES);
        sim.limit_backing(plan.scarce.then_some(scarce::ROOM));
        let dir = tempfile::tempdir().unwrap();
        let device: Arc<dyn Device> = sim.clone();
        make_pool(&device, &ConfigDir::new(dir.path()));
        let disk = Disk::new(sim, dir.path(), dice.roll(1 << 30) as u64);
        let mounts = Arc::new(Mounts::default());
        let faults = Faults::around(disk.clone());
        let service = open(faults.device(), dir.path(), &mounts).unwrap();
        let mut world = Self {
            dice,
            disk,
            dir,
            mounts,
            service: Some(service),
            expected: Expected::default(),
            faults,
            failed: None,
            midway: None,
            perhaps: Vec::new(),
            told: Told::new(Mutex::new(Rank::Test, Vec::new())),
            opened: Generation(0),
            number: 0,
            plan,
            summary: Summary::default(),
            _time: time,
        };
        for n in 0..KEYS {
            // The last can be deleted at once.
            let wait = (n == KEYS - 1).then_some(Duration::ZERO);
            let key = world.service().create_key(Some(&format!("k{n}")), wait).unwrap();
            let state = strongroom::base::KeyState::Enabled;
            world.expected.keys.insert(key.encryption_key_id, state);
        }
        world
    }

    /// Where it is told what is done.
    pub fn told_to(&self) -> Told {
        Arc::clone(&self.told)
    }

    pub fn tell(&self, mut what: String) {
        what.truncate(200);
        self.told.lock().push(what);
    }

    pub fn is_scarce(&self) -> bool {
        self.plan.scarce
    }

    pub fn service(&self) -> &Arc<Service> {
        self.service.as_ref().expect("the pool is open between steps")
    }

    /// The volume of a cluster that is mounted.
    pub fn volume(&self, cluster: &str) -> Arc<Volume> {
        self.mounts.volume(&place_of(cluster)).expect("it is mounted")
    }

    pub fn cluster(&mut self, name: &str) -> &mut Cluster {
        self.expected.clusters.get_mut(name).expect("the step was chosen so")
    }

    /// Whether a log of a cluster awaits its key. Where the disk fails, it is not known.
    pub fn is_outstanding(&self, cluster: &str) -> bool {
        let name: ClusterName = cluster.parse().unwrap();
        let service = self.service();
        let known = service.catalog().cluster(&name).map_err(ServiceError::from);
        let known = known.and_then(|c| Ok(service.pool().is_outstanding(c.id)?));
        known.unwrap_or_else(|error| {
            assert!(self.faults.have_fired(), "{error}");
            false
        })
    }

    /// Whether a key has no waiting period.
    pub fn dies_at_once(&self, key: &EncryptionKeyId) -> bool {
        self.expected.keys.last_key_value().is_some_and(|(last, _)| last == key)
    }

    /// Whether the disk failed and somebody was told so, or the pool takes no changes any more.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some() || self.is_read_only()
    }

    fn is_read_only(&self) -> bool {
        matches!(self.service().pool().state(), PoolState::ReadOnly(_))
    }

    /// Does a step, and judges what a loss of power within or after it leaves. Sometimes it does
    /// go then, and the history goes on from there.
    pub fn step(&mut self) {
        simulation::pass(Duration::from_secs(1));
        let step = Step::choose(self);
        self.tell(format!("{step:?}"));
        self.summary.steps += 1;
        let before = self.expected.clone();
        self.disk.watch(self.plan.watch_in(&step));
        step.perform(self);
        self.disk.watch(Watch::Nothing);
        let after = self.expected.clone();
        let mut points = self.disk.take_points();
        let failed = self.has_failed();
        let fatal = if failed { None } else { self.choose_end(&step, &mut points) };
        let midway = self.midway.take();
        let perhaps = std::mem::take(&mut self.perhaps);
        for (index, point) in points.into_iter().enumerate() {
            let mut allowed = match &midway {
                _ if point.place == AFTER => vec![&after],
                Some(midway) if index < midway.points => midway.loose.iter().collect(),
                Some(midway) => midway.firm.iter().collect(),
                None => vec![&after, &before],
            };
            if point.place != AFTER {
                allowed.extend(&perhaps);
            }
            if fatal == Some(index) {
                return self.go_on_from(point, &allowed);
            }
            self.judged(&point, &allowed);
        }
        if failed {
            let firm = midway.and_then(|midway| midway.firm.into_iter().next());
            let before = firm.unwrap_or(before);
            return self.recover(&step, before, after, perhaps);
        }
        if self.faults.have_fired() {
            // Somebody else's copy helped, or nobody needed to know.
            self.faults.disarm();
        }
    }

    /// The crash point, if any, from which the history is to go on.
    fn choose_end(&mut self, step: &Step, points: &mut Vec<CrashPoint>) -> Option<usize> {
        let ends = match step {
            Step::Crash => true,
            Step::Beside(..) | Step::BesideEnd(..) => self.dice.roll(2) == 0,
            _ => false,
        };
        let one_in = if matches!(step, Step::Sync(_) | Step::Crash) { 2 } else { 6 };
        if self.dice.roll(one_in) == 0 || (ends && points.is_empty()) {
            points.push(match self.dice.roll(4) {
                0 => self.disk.killed(AFTER),
                _ => self.disk.point(AFTER),
            });
        }
        ends.then(|| self.dice.roll(points.len()))
    }

    /// The disk failed in a step. Whoever asks for durability is told so from then on, also once the
    /// disk works again; when the pool is opened again, all that was acknowledged is there.
    fn recover(
        &mut self,
        step: &Step,
        mut before: Expected,
        mut after: Expected,
        mut perhaps: Vec<Expected>,
    ) {
        self.summary.failures += 1;
        let read_only = self.is_read_only();
        if read_only {
            self.nothing_is_promised();
        }
        self.faults.heal();
        if read_only {
            self.nothing_is_promised();
        } else if self.dice.roll(2) == 0 {
            self.everything_is_promised();
            after.keep_last(2);
            perhaps.iter_mut().for_each(|expected| expected.keep_last(2));
            before.keep_last(1);
        }
        let point = match self.dice.roll(3) {
            0 => self.disk.point("after a failure"),
            1 => self.disk.killed("the daemon killed after a failure"),
            _ => {
                let closed = self.service().close(true, false);
                self.tell(format!("  (closed: {closed:?})"));
                self.disk.killed("closed after a failure")
            }
        };
        self.failed = None;
        // What was done to files before the failure was in order.
        let of_files = matches!(step, Step::Work(..) | Step::Crash | Step::Beside(_, _, false));
        let mut allowed = if of_files { vec![&after] } else { vec![&after, &before] };
        allowed.extend(&perhaps);
        self.go_on_from(point, &allowed);
    }

    fn mounted(&self) -> Vec<Arc<Volume>> {
        let clusters = self.expected.clusters.keys();
        clusters.filter_map(|name| self.mounts.volume(&place_of(name))).collect()
    }

    fn nothing_is_promised(&self) {
        for volume in self.mounted() {
            assert!(volume.sync().is_err(), "an fsync succeeds on a pool that failed");
        }
        let name: ClusterName = "new".parse().unwrap();
        let created = self.service().create_cluster(&name, None, OWNER);
        assert!(created.is_err(), "{created:?} on a pool that failed");
        let taken = self.service().create_snapshots(&Which::All, None, "");
        assert!(taken.is_err(), "{taken:?} on a pool that failed");
    }

    /// A failure that changed nothing: what is there is made durable.
    fn everything_is_promised(&self) {
        for volume in self.mounted() {
            volume.sync().expect("the pool takes changes");
        }
    }

    fn judged(
        &mut self,
        point: &CrashPoint,
        allowed: &[&Expected],
    ) -> (usize, crate::expected::Found) {
        self.summary.crash_points += 1;
        judge(point, allowed)
            .unwrap_or_else(|wrong| panic!("power lost {}:\n  {wrong}", point.place))
    }

    /// The power goes, or the daemon is killed; what is left is judged, and a new service opens it.
    fn go_on_from(&mut self, point: CrashPoint, allowed: &[&Expected]) {
        self.tell(format!("  (ends {})", point.place));
        self.summary.crashes += 1;
        let device = point.device.clone();
        let (index, found) = self.judged(&point, allowed);
        let mut expected = allowed[index].clone();
        expected.become_found(found);
        self.add_requests();
        self.let_go();
        self.dir = tempfile::tempdir().unwrap();
        put_files(self.dir.path(), &point.config);
        self.disk = Disk::new(device, self.dir.path(), self.dice.roll(1 << 30) as u64);
        self.faults = Faults::around(self.disk.clone());
        self.expected = expected;
        // What a daemon that was killed had not flushed may be lost until the opening flushes.
        let unsure = allowed.iter().map(|expected| (*expected).clone()).collect();
        self.open_again(unsure);
    }

    /// The process ends.
    fn let_go(&mut self) {
        self.opened = self.opened.max(self.service().pool().open_generation());
        self.mounts = Arc::default();
        self.service = None;
    }

    fn add_requests(&mut self) {
        let (requests, digest) = self.disk.digest();
        self.summary.requests += requests;
        self.summary.digest = self.summary.digest.rotate_left(1) ^ digest;
    }

    /// Opens the pool on the disk as it is; recorded mounts are made again, or not. Before its first
    /// request to the disk it may also be as in `unsure`.
    fn open_again(&mut self, unsure: Vec<Expected>) {
        self.disk.watch(self.plan.watch);
        self.faults.disarm();
        if self.dice.roll(6) == 0 {
            self.open_in_vain(&unsure);
        }
        let service = open(self.faults.device(), self.dir.path(), &self.mounts).unwrap();
        if self.dice.roll(3) > 0 {
            for (place, error) in service.remount() {
                // Or it was deleted, and the end came before its mount was forgotten.
                let gone = error.code == ProblemCode::ClusterNotFound;
                // Or others took the room that its log had while nobody served it.
                let no_room = self.plan.scarce && error.code == ProblemCode::PoolFull;
                let known = gone || no_room || error.code.exit_status() == 3;
                assert!(known, "{}: {error}", place.display());
            }
        }
        let generation = service.pool().generation();
        assert!(generation > self.opened, "{generation:?} comes again: {:?} was open", self.opened);
        self.service = Some(service);
        self.disk.watch(Watch::Nothing);
        for (name, cluster) in &mut self.expected.clusters {
            cluster.mounted = self.mounts.volume(&place_of(name)).is_some();
        }
        let expected = self.expected.clone();
        for point in self.disk.take_points() {
            let mut allowed = vec![&expected];
            if point.request == 1 {
                allowed.extend(&unsure);
            }
            self.judged(&point, &allowed);
        }
    }

    /// The disk fails while the pool is being opened, and the daemon ends. Where it did not hand out the
    /// only whole copy of a superblock, which nobody was told of, the pool is as in `unsure` from then on.
    fn open_in_vain(&mut self, unsure: &[Expected]) {
        let fault = Fault::choose(&mut self.dice);
        self.tell(format!("  (opened in vain: {fault:?})"));
        self.faults.arm(fault);
        match open(self.faults.device(), self.dir.path(), &self.mounts) {
            Ok(service) => drop(service.remount()),
            Err(error) => assert!(self.faults.have_fired(), "{error}"),
        }
        let unread = fault.is_of_a_read() && self.faults.have_fired();
        self.faults.disarm();
        self.mounts = Arc::default();
        if unread {
            let expected = self.expected.clone();
            let allowed: Vec<&Expected> = std::iter::once(&expected).chain(unsure).collect();
            let point = self.disk.killed("after it was opened in vain");
            let (index, found) = self.judged(&point, &allowed);
            self.expected = allowed[index].clone();
            self.expected.become_found(found);
        }
    }

    /// The service ends as by a signal, and a new one opens the pool.
    pub fn reopen(&mut self) {
        let closed = self.service().close(true, false);
        if let Outcome::Failed = self.outcome(closed, None) {
            return;
        }
        let before = self.expected.clone();
        for point in self.disk.take_points() {
            self.judged(&point, &[&before]);
        }
        self.expected.settle();
        self.let_go();
        self.open_again(Vec::new());
    }

    /// Runs the whole history of a seed.
    pub fn history(mut self) -> Summary {
        for _ in 0..self.plan.steps {
            self.step();
        }
        let point = self.disk.point("at the end");
        let expected = self.expected.clone();
        self.judged(&point, &[&expected]);
        if !self.is_scarce() {
            self.damage();
        }
        self.add_requests();
        self.summary
    }

    /// Every block that belongs to somebody.
    fn allocated(&self) -> Vec<BlockAddr> {
        let (pool, mut used) = (self.service().pool(), Vec::new());
        for region in pool.regions() {
            let start = pool.geometry().region_start(region);
            let map = pool.region_map(region).expect("the disk works");
            let of_somebody = map.segments().iter().zip(0..).filter(|(owner, _)| **owner != 0);
            used.extend(of_somebody.map(|(_, at)| start.plus(at)));
        }
        used
    }

    /// The pool is closed; then a block of it is damaged, again and again another one.
    fn damage(&mut self) {
        self.faults.disarm();
        self.service().close(true, false).expect("the disk works");
        self.expected.settle();
        let used = self.allocated();
        for _ in 0..DAMAGES.min(used.len()) {
            let block = self.dice.pick(&used);
            let point = self.disk.damaged(block, &mut self.dice);
            let told = judge_damage(&point, &self.expected);
            let told = told.unwrap_or_else(|wrong| panic!("{}:\n  {wrong}", point.place));
            self.summary.damage += 1;
            self.summary.damage_told += u64::from(told);
        }
    }

    /// A new cluster's model.
    pub fn add_cluster(
        &mut self,
        name: String,
        tree: &Rc<crate::model::files::Tree>,
        key: Option<EncryptionKeyId>,
    ) {
        self.expected.clusters.insert(name, Cluster::new(tree, key));
    }
}
