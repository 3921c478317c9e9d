//! Counters that rooms below fill and `control` renders (`/metrics`).

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug)]
pub struct Counter {
    /// Metric name, without the `strongroom_` prefix.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    value: AtomicU64,
}

impl Counter {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, value: AtomicU64::new(0) }
    }
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }
    /// `n` more.
    pub fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
    }
    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($ident:ident, $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub static $ident: Counter = Counter::new($name, $help);)*
        /// Every counter, for rendering.
        #[must_use]
        pub fn all() -> Vec<&'static Counter> {
            vec![$(&$ident),*]
        }
    };
}

counters! {
    DEVICE_READ_BYTES, "device_read_bytes_total", "Bytes read from the pool's device.";
    DEVICE_WRITE_BYTES, "device_write_bytes_total", "Bytes written to the pool's device.";
    DEVICE_FLUSHES, "device_flushes_total", "Flushes of the pool's device.";
    DEVICE_ERRORS, "device_errors_total", "Failed requests to the pool's device.";
    CHECKPOINTS, "checkpoints_total", "Checkpoints that became durable.";
    LOG_COMMITS, "log_commits_total", "Intent log commits.";
    LOG_BYTES, "log_bytes_total", "Bytes written to intent logs.";
    BLOCKS_CORRUPT, "blocks_corrupt_total", "Blocks whose tag or checksum did not match.";
    NODE_CACHE_HITS, "node_cache_hits_total", "Tree nodes found in the cache.";
    NODE_CACHE_MISSES, "node_cache_misses_total", "Tree nodes read from the device.";
    FUSE_REQUESTS, "fuse_requests_total", "Requests from the kernel.";
    FUSE_ERRORS, "fuse_errors_total", "Requests answered with an unexpected error.";
    FUSE_PANICS, "fuse_panics_total", "Requests whose handler panicked.";
    SNAPSHOTS_TAKEN, "snapshots_taken_total", "Snapshots taken.";
    SNAPSHOTS_DELETED, "snapshots_deleted_total", "Snapshots deleted.";
    KEY_CALLS, "key_calls_total", "Calls to customer key providers.";
    KEY_REFUSALS, "key_refusals_total", "Operations refused because a customer key was not usable.";
}
