//! Strongroom: an encrypted snapshot filesystem for database storage.
//!
//! The rooms, lowest first; each may use those above it in this list that `docs/architecture.md`
//! names, and `tests/tidy.rs` holds every import to that table.

pub mod base; // shared words: ids, units, limits, time, cursors, problem codes
pub mod sys; // the operating system: the only unsafe
pub mod crypto; // the construction: blocks, seals, derivation, key types
pub mod device; // a file, a directory, a block device; simulated, faulty, counted
pub mod keys; // root secret, engine key, customer keys: providers, states, wraps
pub mod block; // pointers, regions and allocation, sealed reads and writes of blocks
pub mod tree; // one copy-on-write B+tree, for cluster trees and for the catalog
pub mod pool; // superblocks, checkpoints, recovery, the space ring; heads and their logs
pub mod catalog; // clusters, snapshots, headers, and who holds which stretch of history
pub mod volume; // POSIX semantics of a head or of a snapshot
pub mod verify; // structure check with its coverage, x-ray of a pool
pub mod service; // the use-cases: clusters, snapshots, restores, keys, mounts
pub mod fuse; // the adapter from fuser to a volume, mount options, sessions
pub mod control; // the wire: typed requests and replies, trait Api, server and client over a Unix socket
pub mod daemon; // the process: settings, log, places, start and stop order, wiring
pub mod cli; // commands, output, exit status
#[cfg(any(test, fuzzing))]
pub mod fuzzing; // what reads bytes from outside, each as a function of bytes
