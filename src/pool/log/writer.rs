//! Appending to a cluster's log: pending groups, group commit, the switch at a cut.
//!
//! One leader at a time writes what all waiting callers asked for: one record, then one flush. What
//! does not fit in one becomes a checkpoint: after a crash a part of it might be there and not the rest,
//! and nothing but its end is a moment at which files are as somebody left them (rule 4). Callers
//! that came too late for it wait apart from those that it serves: at its end it wakes all of these,
//! and of the others one, which leads for the rest of them. While
//! a checkpoint is under way the log of the interval it closes stays open: the first commit after
//! the cut writes what was still pending there, then a switch record, then the new interval's
//! records, so that they can be found from the superblock before (rule 2).

use std::collections::VecDeque;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::item::half_run;
use super::record::{Claim, FRAME_BYTES, Frame, Image, NO_PREVIOUS, Outer, RecordPlace, Switch};
use crate::base::counters;
use crate::base::ids::ClusterId;
use crate::base::limits::LOG_RECORD_BYTES_MAX;
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64, Generation};
use crate::block::{IMAGE_BYTES_MAX, Prepared, Run};
use crate::crypto::{self, LogOuterKey, LogSeed};
use crate::pool::core::Core;
use crate::pool::due::DueReason;
use crate::pool::{Kill, PoolError};
use crate::sys::aligned::AlignedBuf;
use crate::sys::sync::{Condvar, Mutex, Rank};

/// Pending edits above this become a checkpoint instead of a log write (rule 4).
const BACKLOG_BYTES_MAX: usize = 8 << 20;
/// Ciphertext up to this much in one commit rides in the records.
const RIDING_BYTES_MAX: usize = 64 << 10;

/// One operation's results, in the order in which the tree took them.
pub(in crate::pool) struct Group {
    /// Its place in the order of appending, from 1; given by the log.
    pub number: u64,
    /// The interval in which they were applied.
    pub generation: Generation,
    /// Encoded edits.
    pub edits: Vec<u8>,
    /// How many edits.
    pub edit_count: u64,
    /// Claimed data that was in its place before.
    pub claims: Vec<Claim>,
    /// Claimed data whose write to its place is outstanding.
    pub images: Vec<Arc<Prepared>>,
    /// Blocks let go.
    pub kills: Vec<Kill>,
}

impl Group {
    fn bytes(&self) -> usize {
        let claims: usize = self.claims.iter().map(|c| 16 + 4 * c.crcs.len()).sum();
        self.edits.len() + claims + 20 * self.kills.len() + self.image_bytes()
    }
    fn image_bytes(&self) -> usize {
        self.images.iter().map(|p| 32 + p.ciphertext.len()).sum()
    }
    /// Its share of a record.
    fn record_bytes(&self, riding: bool) -> usize {
        let claims: usize = self.images.iter().map(|p| 16 + 4 * p.crcs.len()).sum();
        let images = self.image_bytes();
        self.bytes() - images + claims + if riding { images } else { 0 }
    }
}

/// The open end of one interval's log.
#[derive(Clone)]
struct Cursor {
    generation: Generation,
    lo: Arc<LogOuterKey>,
    seed: Arc<LogSeed>,
    half: u8,
    /// Bytes written in the half.
    offset: u64,
    sequence: u64,
    previous: [u8; 32],
    flushed_mark: u64,
    switched: bool,
}

impl Cursor {
    fn new(generation: Generation, lo: Arc<LogOuterKey>, seed: Arc<LogSeed>, half: u8) -> Self {
        Self {
            generation,
            lo,
            seed,
            half,
            offset: 0,
            sequence: 0,
            previous: NO_PREVIOUS,
            flushed_mark: 0,
            switched: false,
        }
    }
}

struct State {
    /// The seed of the inner keys of logs that begin from now on.
    seed: Arc<LogSeed>,
    /// The open logs, oldest first: one, or two while a checkpoint is under way.
    cursors: Vec<Cursor>,
    pending: VecDeque<Group>,
    pending_bytes: usize,
    /// Groups ever appended.
    appended: u64,
    /// Groups that a commit may write: up to the last instant at which no write was buffered that
    /// came before one of them.
    marked: u64,
    /// Groups durable, by the log or by a checkpoint.
    committed: u64,
    /// How many groups had been appended at each cut not yet durable.
    cuts: Vec<(Generation, u64)>,
    /// Groups up to this interval are not logged; a commit waits for its checkpoint.
    floor: Option<Generation>,
    /// An interval whose log is full while its checkpoint is under way.
    awaited: Option<Generation>,
    leader: bool,
    /// How many leaders there have been.
    round: u64,
    /// How far the last of them reaches, in groups.
    reaches: u64,
}

/// The log of one mounted cluster.
pub(in crate::pool) struct LogWriter {
    core: Arc<Core>,
    cluster: ClusterId,
    area: Run,
    state: Mutex<State>,
    /// For callers whom the leader of an even round serves, and of an odd one.
    turns: [Condvar; 2],
}

/// What one leader writes.
struct Work {
    cursors: Vec<Cursor>,
    groups: Vec<Group>,
    /// `appended` as far as these groups reach.
    reaches: u64,
}

/// What came of it.
enum Written {
    /// All of it is durable; the work's cursors stand behind it.
    Durable,
    /// It does not fit: this interval's checkpoint has to serve.
    NeedsCheckpoint(Generation),
}

impl LogWriter {
    /// A log in `area` whose first record will belong to the interval after the next cut; until
    /// that cut nothing can be committed but by a checkpoint.
    pub fn new(
        core: Arc<Core>,
        cluster: ClusterId,
        area: Run,
        seed: LogSeed,
        half: u8,
        interval: (Generation, Arc<LogOuterKey>),
    ) -> Self {
        let seed = Arc::new(seed);
        let state = State {
            seed: Arc::clone(&seed),
            cursors: vec![Cursor::new(interval.0, interval.1, Arc::clone(&seed), 1 - half)],
            pending: VecDeque::new(),
            pending_bytes: 0,
            appended: 0,
            marked: 0,
            committed: 0,
            cuts: Vec::new(),
            floor: Some(interval.0),
            awaited: None,
            leader: false,
            round: 0,
            reaches: 0,
        };
        let turns = [Condvar::new(), Condvar::new()];
        Self { core, cluster, area, state: Mutex::new(Rank::HeadLog, state), turns }
    }

    /// Takes an operation's results. Called under the tree's lock, so that the log's order is the
    /// tree's.
    pub fn append(&self, mut group: Group) {
        let mut state = self.state.lock();
        state.appended += 1;
        if state.floor.is_some_and(|floor| group.generation <= floor) {
            return;
        }
        state.pending_bytes += group.bytes();
        let generation = group.generation;
        group.number = state.appended;
        state.pending.push_back(group);
        if state.pending_bytes > BACKLOG_BYTES_MAX {
            state.give_up_until(generation);
            drop(state);
            self.core.due.request(DueReason::Log);
        }
    }

    /// The cut, with the gate closed: the next interval's log begins in the other half. Returns
    /// that half.
    pub fn cut(&self, next: Generation, lo: Arc<LogOuterKey>) -> u8 {
        let mut state = self.state.lock();
        let (generation, half) = state.cursors.last().map_or((next, 1), |c| (c.generation, c.half));
        let appended = state.appended;
        // The cut drained every buffer: all that was appended stands for itself.
        state.marked = appended;
        state.cuts.push((generation, appended));
        let seed = Arc::clone(&state.seed);
        state.cursors.push(Cursor::new(next, lo, seed, 1 - half));
        1 - half
    }

    /// Superblock `generation` is durable: what was cut there needs no log any more.
    pub fn durable(&self, generation: Generation) {
        let mut state = self.state.lock();
        let reached =
            state.cuts.iter().filter(|c| c.0 <= generation).map(|c| c.1).max().unwrap_or(0);
        state.cuts.retain(|c| c.0 > generation);
        state.committed = state.committed.max(reached);
        state.cursors.retain(|c| c.generation > generation);
        while state.pending.front().is_some_and(|g| g.generation <= generation) {
            if let Some(group) = state.pending.pop_front() {
                state.pending_bytes -= group.bytes();
            }
        }
        if state.floor.is_some_and(|floor| floor <= generation) {
            state.floor = None;
        }
        if state.awaited.is_some_and(|awaited| awaited <= generation) {
            state.awaited = None;
        }
        drop(state);
        self.wake_all();
    }

    /// Another seed, with the gate's read side held. Records under it can be opened only once the
    /// checkpoint that seals it is durable, so until then commits wait for that checkpoint.
    pub fn rekey(&self, seed: LogSeed, now: Generation) {
        let mut state = self.state.lock();
        state.seed = Arc::new(seed);
        state.give_up_until(now);
    }

    /// Everything appended so far may be committed: no write that came before it is buffered.
    pub fn mark(&self) {
        let mut state = self.state.lock();
        state.marked = state.appended;
    }

    /// Makes durable all that was marked before the call.
    ///
    /// # Errors
    /// Device errors, after which the pool is read-only; they stay for every later caller.
    pub fn commit(&self) -> Result<(), PoolError> {
        // Whoever leaves with an error may have been the one that was woken to lead.
        self.commit_marked().inspect_err(|_| self.wake_all())
    }

    fn commit_marked(&self) -> Result<(), PoolError> {
        let mut state = self.state.lock();
        let target = state.marked;
        loop {
            if state.committed >= target {
                return Ok(());
            }
            self.core.check_writable()?;
            if state.leader {
                let round = if target <= state.reaches { state.round } else { state.round + 1 };
                state = self.turn(round).wait(state);
                continue;
            }
            if let Some(generation) = state.awaited.or(state.floor) {
                drop(state);
                self.core.wait_durable(generation)?;
                self.durable(generation);
                state = self.state.lock();
                continue;
            }
            let work = state.lead();
            drop(state);
            self.lead(work)?;
            state = self.state.lock();
        }
    }

    /// Writes, and tells those who wait for it.
    fn lead(&self, mut work: Work) -> Result<(), PoolError> {
        let leading = Leading(self);
        let written = self.write(&mut work);
        drop(leading);
        let mut state = self.state.lock();
        state.leader = false;
        match written {
            Ok(Written::Durable) => {
                state.wrote(&work);
                let round = state.round;
                // Awake they want the lock.
                drop(state);
                self.turn(round + 1).notify_one();
                self.turn(round).notify_all();
                Ok(())
            }
            Ok(Written::NeedsCheckpoint(generation)) => {
                state.no_room(work, generation);
                drop(state);
                self.wake_all();
                Ok(())
            }
            Err(error) => {
                self.core.fail(&format!("the intent log could not be written: {error}"));
                Err(error)
            }
        }
    }

    fn turn(&self, round: u64) -> &Condvar {
        let [even, odd] = &self.turns;
        if round.is_multiple_of(2) { even } else { odd }
    }

    fn wake_all(&self) {
        self.turns.iter().for_each(Condvar::notify_all);
    }

    fn write(&self, work: &mut Work) -> Result<Written, PoolError> {
        let durable = self.core.durable_generation();
        work.cursors.retain(|c| c.generation > durable);
        work.groups.retain(|g| g.generation > durable);
        let riding = self.settle_images(&work.groups)?;
        let newest = work.groups.iter().map(|g| g.generation).max();
        let next = work.cursors.get(1).cloned();
        for cursor in &mut work.cursors {
            let groups: Vec<&Group> =
                work.groups.iter().filter(|g| g.generation == cursor.generation).collect();
            let is_needed = newest.is_some_and(|n| n > cursor.generation);
            let switch = next
                .as_ref()
                .filter(|n| n.generation > cursor.generation && is_needed && !cursor.switched);
            if groups.is_empty() && switch.is_none() {
                continue;
            }
            if !self.write_interval(cursor, &groups, riding, switch)? {
                return Ok(Written::NeedsCheckpoint(cursor.generation));
            }
        }
        self.core.flush()?;
        counters::LOG_COMMITS.increment();
        for cursor in &mut work.cursors {
            cursor.flushed_mark = cursor.sequence;
        }
        Ok(Written::Durable)
    }

    /// Whether images ride in the records. Where they are too many they go to their places now;
    /// the flush that follows covers them.
    fn settle_images(&self, groups: &[Group]) -> Result<bool, PoolError> {
        let bytes: usize = groups.iter().map(Group::image_bytes).sum();
        let kept = self.core.data.image_bytes();
        if bytes <= RIDING_BYTES_MAX && kept <= IMAGE_BYTES_MAX / 2 {
            return Ok(true);
        }
        self.core.data.write_images()?;
        Ok(false)
    }

    /// Writes the groups of one interval, and its switch record where one is due. `false`: they do
    /// not fit in one record, or in what is left of the half.
    fn write_interval(
        &self,
        cursor: &mut Cursor,
        groups: &[&Group],
        riding: bool,
        switch: Option<&Cursor>,
    ) -> Result<bool, PoolError> {
        let half = half_run(self.area, cursor.half);
        let half_bytes = u64::from(half.blocks) * BLOCK_SIZE_U64;
        let bytes: usize = groups.iter().map(|group| group.record_bytes(riding)).sum();
        if bytes > LOG_RECORD_BYTES_MAX {
            return Ok(false);
        }
        let mut ahead = cursor.clone();
        let mut out = Vec::new();
        if !groups.is_empty() {
            out.extend_from_slice(&self.record(&mut ahead, groups, riding, None));
        }
        if let Some(next) = switch {
            out.extend_from_slice(&self.record(&mut ahead, &[], false, Some(next)));
            ahead.switched = true;
        }
        // One block stays free for the switch record.
        let room = half_bytes - cursor.offset - if ahead.switched { 0 } else { BLOCK_SIZE_U64 };
        if out.len() as u64 > room {
            return Ok(false);
        }
        let buf = AlignedBuf::from_slice(&out);
        self.core.device.write(half.addr.offset_bytes() + cursor.offset, &buf)?;
        counters::LOG_BYTES.add(buf.len() as u64);
        ahead.offset += buf.len() as u64;
        if ahead.offset > half_bytes / 2 {
            self.core.due.request(DueReason::Log);
        }
        *cursor = ahead;
        Ok(true)
    }

    /// One sealed record, padded; moves the cursor's sequence and chain on.
    fn record(
        &self,
        cursor: &mut Cursor,
        groups: &[&Group],
        riding: bool,
        switch: Option<&Cursor>,
    ) -> Vec<u8> {
        let place = RecordPlace {
            pool: self.core.pool_id,
            incarnation: self.core.incarnation,
            generation: cursor.generation,
            cluster: self.cluster,
            sequence: cursor.sequence,
            previous: cursor.previous,
        };
        let mut outer = Outer {
            flushed_mark: cursor.flushed_mark,
            durable: self.core.durable_generation(),
            switch: switch.map(|next| Switch {
                generation: next.generation,
                half: next.half,
                lo: zeroize::Zeroizing::new(*next.lo.bytes()),
            }),
            ..Outer::default()
        };
        let mut edits = zeroize::Zeroizing::new(Vec::new());
        for group in groups {
            edits.extend_from_slice(&group.edits);
            outer.need_blocks += self.core.node_blocks() * group.edit_count;
            outer.claims.extend(group.claims.iter().cloned());
            outer.kills.extend(group.kills.iter().copied());
            for p in &group.images {
                outer.claims.push(Claim { run: p.run, crcs: p.crcs.clone() });
                if riding {
                    let ciphertext = p.ciphertext.to_vec();
                    outer.images.push(Image { run: p.run, ciphertext });
                }
            }
        }
        let bytes = self.seal_record(cursor, &place, outer, &edits);
        cursor.sequence += 1;
        bytes
    }

    fn seal_record(
        &self,
        cursor: &mut Cursor,
        place: &RecordPlace,
        mut outer: Outer,
        edits: &[u8],
    ) -> Vec<u8> {
        // The inner part binds the outer one's commitment, the outer part the inner one's hash.
        // A commitment depends on salt, key and associated data, not on the plaintext, so it is
        // fixed first and the outer part sealed under that same salt.
        let outer_seal = crypto::Seal::begin(cursor.lo.bytes(), "log-outer", &place.outer_ad());
        let commitment = outer_seal.commitment();
        let inner = if edits.is_empty() {
            Vec::new()
        } else {
            let li = crypto::log_inner_key(&cursor.seed, &cursor.lo, &self.cluster);
            crypto::seal(li.bytes(), "log-inner", &place.inner_ad(&commitment), edits)
        };
        outer.inner_hash = Sha256::digest(&inner).into();
        let sealed = outer_seal.finish(&outer.encode());
        let frame = Frame {
            outer_len: u32::try_from(sealed.len()).expect("a record is bounded"),
            inner_len: u32::try_from(inner.len()).expect("a record is bounded"),
            sequence: place.sequence,
            previous: place.previous,
        };
        let mut out = frame.encode();
        debug_assert_eq!(out.len(), FRAME_BYTES);
        out.extend_from_slice(&sealed);
        out.extend_from_slice(&inner);
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
        cursor.previous = commitment;
        out
    }
}

/// A leader at work. Where it panics the pool is read-only, and nobody waits for it any more.
struct Leading<'a>(&'a LogWriter);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.core.fail("a defect: a log record was left half written");
            self.0.state.lock().leader = false;
            self.0.wake_all();
        }
    }
}

impl State {
    fn lead(&mut self) -> Work {
        (self.leader, self.round, self.reaches) = (true, self.round + 1, self.marked);
        let count = self.pending.iter().take_while(|g| g.number <= self.marked).count();
        let groups: Vec<Group> = self.pending.drain(..count).collect();
        self.pending_bytes -= groups.iter().map(Group::bytes).sum::<usize>();
        Work { cursors: self.cursors.clone(), groups, reaches: self.marked }
    }

    fn wrote(&mut self, work: &Work) {
        self.committed = self.committed.max(work.reaches);
        for written in &work.cursors {
            if let Some(c) = self.cursors.iter_mut().find(|c| c.generation == written.generation) {
                *c = written.clone();
            }
        }
    }

    /// The log of `generation` has no room for what was taken.
    fn no_room(&mut self, work: Work, generation: Generation) {
        let newest = self.cursors.last().map_or(generation, |c| c.generation);
        if generation >= newest {
            self.give_up_until(generation);
            return;
        }
        // Its checkpoint is under way already: once that is durable the rest fits elsewhere.
        for group in work.groups.into_iter().rev() {
            self.pending_bytes += group.bytes();
            self.pending.push_front(group);
        }
        self.awaited = Some(generation);
    }

    /// From here on a checkpoint of `generation` has to make these groups durable.
    fn give_up_until(&mut self, generation: Generation) {
        let newest = self.cursors.last().map_or(generation, |c| c.generation);
        self.floor = Some(self.floor.map_or(newest, |f| f.max(newest)));
        self.awaited = None;
        self.pending.clear();
        self.pending_bytes = 0;
    }
}
