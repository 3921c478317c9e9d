//! Threads for what goes on by itself: checkpoints, freeing, expiry, keys that are waited for.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::audit::Audit;
use crate::service::{Service, ServiceError};
use crate::sys::clock;
use crate::sys::sync::{Condvar, Mutex, Rank};
use crate::sys::threads::{self, JoinHandle};

/// How long the checkpointer waits at a time, so that it notices the end.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(250);
/// After a failure, so that a pool that takes no changes costs nothing.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Between looks for background work where there was none.
const BACKGROUND_REST: Duration = Duration::from_secs(2);
/// Between steps where there is more, so that others get the device.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(10);
const KEYS_EVERY: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// Tells every worker to end.
struct Stop {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Default for Stop {
    fn default() -> Self {
        Self { stopped: Mutex::new(Rank::WorkersStop, false), wake: Condvar::new() }
    }
}

impl Stop {
    /// Waits; whether it is time to end.
    fn rest(&self, duration: Duration) -> bool {
        let (stopped, _) =
            self.wake.wait_timeout_while(self.stopped.lock(), duration, |stopped| !*stopped);
        *stopped
    }
}

/// The workers of a daemon.
pub(in crate::daemon) struct Workers {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them.
    pub fn start(service: &Arc<Service>, audit: &Arc<Audit>) -> Self {
        let stop = Arc::new(Stop::default());
        let spawn = |name: &str, work: fn(&Service, &Stop)| {
            let (service, stop) = (Arc::clone(service), Arc::clone(&stop));
            threads::spawn(name, move || work(&service, &stop))
        };
        let threads = vec![
            spawn("checkpoint", checkpoints),
            spawn("background", background),
            threads::spawn("minute", {
                let (service, stop, audit) =
                    (Arc::clone(service), Arc::clone(&stop), Arc::clone(audit));
                move || minutes(&service, &stop, &audit)
            }),
        ];
        Self { stop, threads }
    }

    /// Ends them, after the step that each is in.
    pub fn stop(self) {
        *self.stop.stopped.lock() = true;
        self.stop.wake.notify_all();
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!("a worker had ended in a defect");
            }
        }
    }
}

/// Logs an error once, until it changes or is over.
fn note(what: &str, error: &ServiceError, last: &mut String) {
    let text = error.to_string();
    if *last != text {
        log::error!("{what}: {text}");
        *last = text;
    }
}

fn checkpoints(service: &Service, stop: &Stop) {
    let mut last = String::new();
    while !stop.rest(Duration::ZERO) {
        match service.tick_checkpoint(CHECKPOINT_WAIT) {
            Ok(_) => last.clear(),
            Err(error) => {
                note("a checkpoint failed", &error, &mut last);
                if stop.rest(AFTER_FAILURE) {
                    return;
                }
            }
        }
    }
}

fn background(service: &Service, stop: &Stop) {
    let mut last = String::new();
    let mut rest = BACKGROUND_PAUSE;
    let _attended = service.attend_background();
    while !stop.rest(rest) {
        rest = match service.tick_background() {
            Ok(more) => {
                last.clear();
                if more { BACKGROUND_PAUSE } else { BACKGROUND_REST }
            }
            Err(error) => {
                note("freeing what deletions left", &error, &mut last);
                AFTER_FAILURE
            }
        };
    }
}

fn minutes(service: &Service, stop: &Stop, audit: &Audit) {
    let mut next_minute = clock::monotonic();
    while !stop.rest(KEYS_EVERY) {
        service.tick_keys();
        if clock::monotonic() >= next_minute {
            next_minute = clock::monotonic() + MINUTE;
            let report = service.tick_minute();
            for id in &report.expired {
                log::info!("{id} expired and was deleted");
                audit.by_itself("snapshot.expire", &id.to_string());
            }
            for id in &report.deleted_keys {
                log::warn!("the waiting period of {id} is over: it was deleted");
                audit.by_itself("key.deleted", id.as_str());
            }
        }
    }
}
