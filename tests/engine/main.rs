//! The engine from above, without FUSE: real pools on simulated disks.

mod catalog;
mod check;
mod pools;
mod volumes;
