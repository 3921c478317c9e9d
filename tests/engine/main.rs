//! The engine from above, without FUSE: real pools on simulated disks.

mod at_once;
mod catalog;
mod check;
mod check_files;
mod corrupt;
#[path = "../model/mod.rs"]
mod model;
mod pools;
mod salvage;
mod salvage_remains;
mod storm;
mod unreadable;
mod volumes;
