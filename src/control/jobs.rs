//! Requests whose answer takes longer than a connection should wait: they go on as jobs, and
//! `/v1/jobs/{id}` tells how far they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{ProblemCode, Timestamp};
use crate::control::api::{Progress, Reply};
use crate::control::problem::Problem;
use crate::control::types::{Job, JobState, List};
use crate::sys::sync::{Mutex, Rank};

/// Finished jobs that are remembered; the oldest go first.
const FINISHED_MAX: usize = 256;
/// Jobs that run at once; more are refused as busy.
const RUNNING_MAX: usize = 16;

struct Entry {
    kind: String,
    started_at: Timestamp,
    progress: Arc<Progress>,
    outcome: Option<Reply<serde_json::Value>>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    entries: BTreeMap<u64, Entry>,
}

/// The jobs of one daemon's run.
pub(in crate::control) struct Jobs {
    state: Mutex<State>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { state: Mutex::new(Rank::Jobs, State::default()) }
    }
}

impl Jobs {
    /// Whether one more may begin.
    pub fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.entries.values().filter(|e| e.outcome.is_none()).count() < RUNNING_MAX
    }

    /// Adds a job that runs already; returns its id.
    pub fn adopt(&self, kind: String, started_at: Timestamp, progress: Arc<Progress>) -> u64 {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.entries.insert(id, Entry { kind, started_at, progress, outcome: None });
        id
    }

    /// Keeps a job's outcome.
    pub fn finish(&self, id: u64, outcome: Reply<serde_json::Value>) {
        let mut state = self.state.lock();
        if let Some(entry) = state.entries.get_mut(&id) {
            entry.outcome = Some(outcome);
        }
        let finished: Vec<u64> =
            state.entries.iter().filter(|(_, e)| e.outcome.is_some()).map(|(id, _)| *id).collect();
        let excess = finished.len().saturating_sub(FINISHED_MAX);
        for id in finished.iter().take(excess) {
            state.entries.remove(id);
        }
    }

    /// One job.
    pub fn get(&self, id: u64) -> Reply<Job> {
        let state = self.state.lock();
        let missing = || Problem::new(ProblemCode::NotFound, format!("no job {id}"));
        state.entries.get(&id).map(|entry| describe(id, entry)).ok_or_else(missing)
    }

    /// Every job that is remembered, oldest first.
    pub fn list(&self) -> List<Job> {
        let state = self.state.lock();
        List { results: state.entries.iter().map(|(id, entry)| describe(*id, entry)).collect() }
    }
}

fn describe(id: u64, entry: &Entry) -> Job {
    let (done_steps, total_steps) = entry.progress.get();
    let (state, result, problem) = match &entry.outcome {
        None => (JobState::Running, None, None),
        Some(Ok(value)) => (JobState::Done, Some(value.clone()), None),
        Some(Err(problem)) => (JobState::Failed, None, Some(problem.to_value())),
    };
    Job {
        id,
        kind: entry.kind.clone(),
        state,
        started_at: entry.started_at,
        done_steps,
        total_steps,
        result,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_jobs_are_bounded_and_running_ones_stay() {
        let jobs = Jobs::default();
        let start =
            |n: u64| jobs.adopt(format!("job {n}"), Timestamp::from_secs(0), Arc::default());
        let first = start(0);
        for n in 0..300 {
            let id = start(n);
            jobs.finish(id, Ok(serde_json::Value::Null));
        }
        assert_eq!(jobs.get(first).unwrap().state, JobState::Running);
        assert_eq!(jobs.list().results.len(), FINISHED_MAX + 1);
        assert_eq!(jobs.get(2).unwrap_err().code, ProblemCode::NotFound);
        assert!(jobs.has_room());
        for n in 1..RUNNING_MAX as u64 {
            start(n);
        }
        assert!(!jobs.has_room());
    }
}
