//! Little room beneath the pool: the filesystem that holds it is all but full. What adds may be
//! refused then, and is refused before it is accepted; what was accepted is stored, and what takes
//! away, ends or makes durable works.

use std::fmt::Debug;
use std::rc::Rc;

use strongroom::base::ProblemCode;
use strongroom::base::units::BLOCK_SIZE;
use strongroom::service::ServiceError;

use crate::disk::Watch;
use crate::model::files::{Model, Op, Seen, Tree};
use crate::model::{differences, volume};
use crate::outcome::{Outcome, Refusal};
use crate::steps::sync;
use crate::world::World;

const MIB: u64 = 1 << 20;
/// Header, ring, and a region for each class.
pub const ROOM: u64 = (8 + 2 * 64 + 1) * MIB;
/// The file that takes what is left; the last by name, because it is long to compare.
const FILLER: &str = "z";
const FILLER_CHUNK: usize = 4 << 20;

/// What there is beneath from now on.
#[derive(Clone, Copy, Debug)]
pub enum Beneath {
    /// So much more than is used.
    More(u64),
    /// What there was at the beginning, and so much more.
    AtFirst(u64),
}

/// One of these happens.
#[derive(Clone, Debug)]
pub enum Scarcity {
    /// A file of the cluster takes what is left.
    Fill(String),
    Beneath(Beneath),
}

impl Scarcity {
    pub fn choose(world: &mut World, cluster: String) -> Option<Self> {
        let mounted = world.expected.clusters[&cluster].mounted;
        Some(match world.dice.roll(6) {
            0..3 if mounted && !world.faults.are_armed() => Self::Fill(cluster),
            3 => Self::Beneath(Beneath::More(world.dice.pick(&[0, MIB, 8 * MIB]))),
            4 => Self::Beneath(Beneath::AtFirst(world.dice.pick(&[0, 64 * MIB]))),
            _ => return None,
        })
    }

    pub fn happen(&self, world: &mut World) {
        match self {
            Self::Fill(cluster) => fill(world, cluster),
            Self::Beneath(Beneath::More(bytes)) => {
                world.disk.sim().limit_backing(Some(world.disk.sim().used_bytes() + bytes));
            }
            Self::Beneath(Beneath::AtFirst(bytes)) => {
                world.disk.sim().limit_backing(Some(ROOM + bytes));
            }
        }
    }
}

fn is_full(error: &ServiceError) -> bool {
    error.code == ProblemCode::PoolFull
}

/// Writes to a file until not even a block is accepted, and makes it durable.
fn fill(world: &mut World, cluster: &str) {
    world.disk.watch(Watch::Nothing);
    let volume = world.volume(cluster);
    let mut files = world.expected.clusters[cluster].files.clone();
    let mut accepts = |op: Op| match volume::apply(&volume, &op).map_err(ServiceError::from) {
        Ok(()) => {
            files.apply(&op);
            Some(files.names.get(FILLER).map_or(0, |_| files.data(FILLER).len()))
        }
        Err(error) if is_full(&error) => None,
        Err(error) => panic!("{op:?}: {error}"),
    };
    let is_new = !world.expected.clusters[cluster].files.names.contains_key(FILLER);
    let there = match is_new {
        true => accepts(Op::Create(FILLER.to_owned())),
        false => Some(world.expected.clusters[cluster].files.data(FILLER).len()),
    };
    let (mut chunk, mut len) = (FILLER_CHUNK, there.unwrap_or(0));
    while there.is_some() && chunk >= BLOCK_SIZE {
        match accepts(Op::Write(FILLER.to_owned(), len, chunk, len as u64 % 250)) {
            Some(now) => len = now,
            None => chunk /= 4,
        }
    }
    let state = world.cluster(cluster);
    state.since.push(Rc::new(files.seen()));
    state.files = files;
    sync(world, cluster);
}

/// Whether an operation may be refused for want of room. A block that is cut in two is written anew.
fn adds(op: &Op, files: &Model) -> bool {
    let cuts = |at: usize| !at.is_multiple_of(BLOCK_SIZE);
    match op {
        Op::Unlink(_) | Op::Rmdir(_) | Op::RemoveXattr(..) => false,
        Op::Truncate(path, size) => *size > files.data(path).len() || cuts(*size),
        Op::Punch(_, at, len) => cuts(*at) || cuts(at + len),
        _ => true,
    }
}

/// Whether each name is as before or as after, or a file of which some bytes are.
fn is_between(found: &Tree, before: &Tree, after: &Tree) -> bool {
    let within = |path: &String| match (found.get(path), before.get(path), after.get(path)) {
        (found, before, after) if found == before || found == after => true,
        (
            Some(Seen::File { file: found, .. }),
            Some(Seen::File { file: before, .. }),
            Some(Seen::File { file: after, .. }),
        ) => {
            let byte = |data: &[u8], at: usize| data.get(at).copied().unwrap_or(0);
            let either = |at: usize| [byte(&before.data, at), byte(&after.data, at)];
            let sizes = [before.data.len(), after.data.len()];
            let (least, most) = (sizes[0].min(sizes[1]), sizes[0].max(sizes[1]));
            let same = found.xattrs == before.xattrs || found.xattrs == after.xattrs;
            same && (least..=most).contains(&found.data.len())
                && (0..found.data.len()).all(|at| either(at).contains(&found.data[at]))
        }
        _ => false,
    };
    found.keys().chain(before.keys()).chain(after.keys()).all(within)
}

impl World {
    /// As [`World::outcome`], of what adds to the pool: where there is little room, it may be told
    /// so; then nothing changed.
    pub fn outcome_of_adding<T: Debug>(
        &mut self,
        result: Result<T, ServiceError>,
        refusal: Option<Refusal>,
    ) -> Outcome<T> {
        match result {
            Err(error) if is_full(&error) && self.is_scarce() && !self.faults.have_fired() => {
                self.tell("  (no room)".to_owned());
                self.summary.refused += 1;
                Outcome::Refused
            }
            result => self.outcome(result, refusal),
        }
    }

    /// An operation on files was done, or refused for want of room: then nothing of it is there, or
    /// a part.
    pub fn outcome_of_work(
        &mut self,
        cluster: &str,
        op: &Op,
        done: Result<(), ServiceError>,
    ) -> Outcome<()> {
        let before = self.expected.clusters[cluster].files.clone();
        let mut after = before.clone();
        after.apply(op);
        let outcome = match adds(op, &before) {
            true => self.outcome_of_adding(done, None),
            false => self.outcome(done, None),
        };
        if matches!(outcome, Outcome::Refused) {
            // A failure that is still to come is none of this look's.
            self.faults.heal();
            let found = volume::look(&self.volume(cluster));
            let (before, wanted) = (before.seen(), after.seen());
            let whole = is_between(&found, &before, &wanted);
            assert!(whole, "{op:?} was refused: {}", differences(&found, &before));
            after = Model::of(&found);
        }
        let state = self.cluster(cluster);
        state.since.push(Rc::new(after.seen()));
        state.files = after;
        outcome
    }
}
