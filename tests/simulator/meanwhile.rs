//! Two things at once, in an order that the seed decides: one runs in a thread of its own, stops
//! before one of its requests to the disk, and goes on when the other is done. Never do both run.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use strongroom::pool::CutPlan;
use strongroom::service::types::Snapshot as Taken;
use strongroom::service::{Service, ServiceError, UmountWhat, Which};
use strongroom::sys::simulation::Simulation;
use strongroom::sys::{clock, threads};

use crate::expected::{Expected, Snapshot};
use crate::model::volume::look;
use crate::mounter::{place_of, request};
use crate::outcome::Outcome;
use crate::steps::{UNKNOWN, sync, work};
use crate::world::World;

/// Who stops for longer is waited for: it holds a lock that the other needs, and goes on.
const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    static STOPS: Cell<bool> = const { Cell::new(false) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It runs: stops after so many requests.
    Runs(u64),
    Stopped,
    /// It goes on, or has ended.
    Free,
}

/// Where the thread beside stops. It holds whatever it holds then, which the order of locks would
/// refuse it; so these are not the locks that have places in it.
pub struct Stop {
    state: Mutex<State>,
    changed: Condvar,
}

impl Default for Stop {
    fn default() -> Self {
        Self { state: Mutex::new(State::Free), changed: Condvar::new() }
    }
}

impl Stop {
    /// Before a request of the calling thread.
    pub fn before_request(&self) {
        if !STOPS.get() {
            return;
        }
        let mut state = self.state.lock().unwrap();
        match *state {
            State::Runs(0) => {
                *state = State::Stopped;
                self.changed.notify_all();
                let waits = |state: &mut State| *state == State::Stopped;
                let (mut state, _) =
                    self.changed.wait_timeout_while(state, PATIENCE, waits).unwrap();
                *state = State::Free;
            }
            State::Runs(left) => *state = State::Runs(left - 1),
            State::Stopped | State::Free => {}
        }
    }

    /// Waits until the thread beside has stopped, or ended.
    fn wait_until_stopped(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| matches!(state, State::Runs(_))).unwrap());
    }

    fn set(&self, to: State) {
        *self.state.lock().unwrap() = to;
        self.changed.notify_all();
    }
}

/// What is allowed while something goes on beside a commit.
pub struct Midway {
    /// So many crash points were before the commit was answered.
    pub points: usize,
    /// One of these is true of those,
    pub loose: Vec<Expected>,
    /// and of those after it one of these.
    pub firm: Vec<Expected>,
}

/// Something that goes on in a thread of its own, and has stopped on its way, or ended.
pub struct Beside<T> {
    stop: Arc<Stop>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Beside<T> {
    /// Begins it, and waits until it stops before its request number `after`.
    pub fn begin(
        world: &mut World,
        after: u64,
        run: impl FnOnce(&Service) -> T + Send + 'static,
    ) -> Self {
        let stop = Arc::clone(world.disk.stop());
        stop.set(State::Runs(after));
        let (service, told) = (Arc::clone(world.service()), Arc::clone(&stop));
        let (seed, now) = (world.dice.roll(1 << 30) as u64, clock::now());
        let thread = threads::spawn("beside", move || {
            let _time = Simulation::begin(seed, now);
            STOPS.set(true);
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&service)));
            told.set(State::Free);
            done.unwrap_or_else(|failure| std::panic::resume_unwind(failure))
        });
        stop.wait_until_stopped();
        Self { stop, thread }
    }

    /// It goes on to its end.
    pub fn end(self) -> T {
        self.stop.set(State::Free);
        self.thread.join().expect("its message is above")
    }
}

/// What comes of a snapshot that is taken beside; `None`: of a checkpoint.
fn run_beside(service: &Service, which: Option<Which>) -> Result<Option<Vec<Taken>>, ServiceError> {
    match which {
        Some(which) => service.create_snapshots(&which, None, "").map(Some),
        None => Ok(service.pool().checkpoint(CutPlan::default()).map(|_| None)?),
    }
}

/// A checkpoint, or a snapshot of the cluster, stops before its request number `after`; meanwhile
/// files are worked on and made durable; then it goes on to its end.
pub fn beside_a_commit(world: &mut World, cluster: &str, after: u64, snapshot: bool) {
    let which = snapshot.then(|| Which::Named(vec![cluster.parse().unwrap()]));
    let moments = world.expected.clusters[cluster].since.len();
    let beside = Beside::begin(world, after, move |service| run_beside(service, which));
    let count = 1 + world.dice.roll(3);
    work(world, cluster, count);
    let loose = world.expected.clone();
    if world.failed.is_none() {
        sync(world, cluster);
    }
    if world.failed.is_none() {
        let (points, firm) = (world.disk.points(), world.expected.clone());
        world.midway = Some(Midway { points, loose: vec![loose.clone()], firm: vec![firm] });
    }
    let done = beside.end();
    let Outcome::Done(done) = world.outcome(done, None) else {
        if snapshot {
            perhaps_snapshot(world, cluster, &loose, moments);
        }
        return;
    };
    if let Some([taken]) = done.as_deref() {
        add_snapshot(world, cluster, taken, &loose, moments);
    }
    if world.failed.is_none() {
        world.expected.settle();
    }
}

/// A snapshot that failed may be there all the same, of any moment from before the work to its end.
fn perhaps_snapshot(world: &mut World, cluster: &str, loose: &Expected, moments: usize) {
    for moment in &loose.clusters[cluster].since[moments - 1..] {
        let mut with = world.expected.clone();
        let key = with.clusters[cluster].key.clone();
        let tree = Rc::clone(moment);
        let taken = Snapshot { id: UNKNOWN, tree, key, held: false, expires: None };
        with.snapshots.insert((clock::now().secs(), cluster.to_owned()), taken);
        world.perhaps.push(with);
    }
}

/// The snapshot is of one moment from before the work to its end; which, only it knows.
fn add_snapshot(world: &mut World, cluster: &str, taken: &Taken, loose: &Expected, moments: usize) {
    // Looking must not fail.
    world.faults.disarm();
    let prefix = taken.id.to_string().parse().expect("an id is a prefix of itself");
    let place = place_of(&taken.id.to_string());
    let mounted = world.service().restore_mount(&prefix, request(place.clone()));
    mounted.expect("its key is usable");
    let tree = look(&world.mounts.volume(&place).expect("it is mounted"));
    world.service().umount(&UmountWhat::Snapshot(&prefix), false).expect("it is mounted");
    let possible = &loose.clusters[cluster].since[moments - 1..];
    assert!(possible.iter().any(|moment| **moment == tree), "a snapshot of no moment");
    let key = world.expected.clusters[cluster].key.clone();
    let taken = Snapshot { id: taken.id, tree: Rc::new(tree), key, held: false, expires: None };
    let mark = (clock::now().secs(), cluster.to_owned());
    world.expected.snapshots.insert(mark.clone(), taken.clone());
    // It was there before it was told.
    for either in world.midway.iter_mut().flat_map(|m| [&mut m.loose, &mut m.firm]) {
        let mut with = either[0].clone();
        with.snapshots.insert(mark.clone(), taken.clone());
        either.push(with);
    }
}
