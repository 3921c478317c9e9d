//! A pool, the service over it, and beside them what they should be.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use strongroom::base::{ClusterName, PoolId};
use strongroom::crypto::{EngineKey, EngineWrapKind};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::keys::{ConfigDir, root_secret, wrap_engine_key};
use strongroom::pool::{self, CreateOptions};
use strongroom::service::{Service, ServiceError};
use strongroom::sys::simulation::{self, Simulation};
use strongroom::sys::sync::{Mutex, Rank};
use strongroom::sys::{clock, random};
use strongroom::volume::Volume;

use crate::disk::{CrashPoint, Disk, Watch, put_files};
use crate::expected::{Cluster, Expected};
use crate::judge::{START, judge, open};
use crate::model::Dice;
use crate::mounter::{Mounts, place_of};
use crate::steps::Step;

const POOL_BYTES: u64 = 256 << 20;
/// Customer keys in a pool.
const KEYS: usize = 3;

/// How a history goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub steps: usize,
    /// Before which requests of a step the power is imagined to go.
    pub watch: Watch,
}

/// What a history came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub steps: u64,
    pub requests: u64,
    pub crash_points: u64,
    pub crashes: u64,
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
        self.digest = self.digest.rotate_left(1) ^ other.digest;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steps, requests, crash_points, crashes, digest } = self;
        write!(f, "{steps} steps, {requests} requests, {crash_points} crash points judged, ")?;
        write!(f, "{crashes} crashes gone on from; {digest:08x}")
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
    told: Told,
    pub number: u64,
    plan: Plan,
    summary: Summary,
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
        let dir = tempfile::tempdir().unwrap();
        let device: Arc<dyn Device> = sim.clone();
        make_pool(&device, &ConfigDir::new(dir.path()));
        let disk = Disk::new(sim, dir.path(), dice.roll(1 << 30) as u64);
        let mounts = Arc::new(Mounts::default());
        let service = open(disk.clone(), dir.path(), &mounts).unwrap();
        let mut world = Self {
            dice,
            disk,
            dir,
            mounts,
            service: Some(service),
            expected: Expected::default(),
            told: Told::new(Mutex::new(Rank::Test, Vec::new())),
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

    /// Whether a log of a cluster awaits its key.
    pub fn is_outstanding(&self, cluster: &str) -> bool {
        let name: ClusterName = cluster.parse().unwrap();
        let id = self.service().catalog().cluster(&name).unwrap().id;
        self.service().pool().is_outstanding(id).unwrap()
    }

    /// Does a step, and judges what a loss of power within or after it leaves. Sometimes it does
    /// go then, and the history goes on from there.
    pub fn step(&mut self) {
        simulation::pass(Duration::from_secs(1));
        let step = Step::choose(self);
        self.tell(format!("{step:?}"));
        self.summary.steps += 1;
        let before = self.expected.clone();
        self.disk.watch(self.plan.watch);
        step.perform(self);
        self.disk.watch(Watch::Nothing);
        let mut points = self.disk.take_points();
        let after = self.expected.clone();
        let fatal = match step {
            Step::Crash if points.is_empty() || self.dice.roll(2) == 0 => {
                points.push(self.disk.point("after the step"));
                Some(points.len() - 1)
            }
            Step::Crash => Some(self.dice.roll(points.len())),
            _ => None,
        };
        for (index, point) in points.into_iter().enumerate() {
            let after_it = point.place == "after the step";
            let allowed = if after_it { vec![&after] } else { vec![&after, &before] };
            let becomes = (fatal == Some(index)).then(|| point.device.copy());
            let found = self.judged(&point, &allowed);
            if let Some(device) = becomes {
                let mut expected = allowed[found.0].clone();
                expected.become_found(found.1);
                self.crash(point, device, expected);
            }
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

    /// The power went at a point that was judged; a new service opens what is left.
    fn crash(&mut self, point: CrashPoint, device: Arc<SimDevice>, expected: Expected) {
        self.tell(format!("  (the power goes {})", point.place));
        self.summary.crashes += 1;
        self.add_requests();
        self.mounts = Arc::default();
        self.service = None;
        self.dir = tempfile::tempdir().unwrap();
        put_files(self.dir.path(), &point.config);
        self.disk = Disk::new(device, self.dir.path(), self.dice.roll(1 << 30) as u64);
        self.expected = expected;
        self.open_again();
    }

    fn add_requests(&mut self) {
        let (requests, digest) = self.disk.digest();
        self.summary.requests += requests;
        self.summary.digest = self.summary.digest.rotate_left(1) ^ digest;
    }

    /// Opens the pool on the disk as it is; recorded mounts are made again, or not.
    fn open_again(&mut self) {
        self.disk.watch(self.plan.watch);
        let service = open(self.disk.clone(), self.dir.path(), &self.mounts).unwrap();
        if self.dice.roll(3) > 0 {
            for (place, error) in service.remount() {
                assert_eq!(error.code.exit_status(), 3, "{}: {error}", place.display());
            }
        }
        self.service = Some(service);
        self.disk.watch(Watch::Nothing);
        for (name, cluster) in &mut self.expected.clusters {
            cluster.mounted = self.mounts.volume(&place_of(name)).is_some();
        }
        let expected = self.expected.clone();
        for point in self.disk.take_points() {
            self.judged(&point, &[&expected]);
        }
    }

    /// The service ends as by a signal, and a new one opens the pool.
    pub fn reopen(&mut self) {
        self.service().close(true, false).unwrap();
        let before = self.expected.clone();
        for point in self.disk.take_points() {
            self.judged(&point, &[&before]);
        }
        self.expected.settle();
        self.mounts = Arc::default();
        self.service = None;
        self.open_again();
    }

    /// Runs the whole history of a seed.
    pub fn history(mut self) -> Summary {
        for _ in 0..self.plan.steps {
            self.step();
        }
        let point = self.disk.point("at the end");
        let expected = self.expected.clone();
        self.judged(&point, &[&expected]);
        self.add_requests();
        self.summary
    }

    /// A new cluster's model.
    pub fn add_cluster(
        &mut self,
        name: String,
        tree: &Rc<crate::model::files::Tree>,
        key: Option<strongroom::base::EncryptionKeyId>,
    ) {
        self.expected.clusters.insert(name, Cluster::new(tree, key));
    }
}

/// That an operation was refused because of a key.
pub fn refused_for_its_key<T: std::fmt::Debug>(result: Result<T, ServiceError>) {
    let status = result.as_ref().err().map(|error| error.code.exit_status());
    assert_eq!(status, Some(3), "{result:?}");
}
