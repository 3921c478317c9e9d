//! The use-cases over a simulated device, with a mounter and a key provider that do what they are
//! told.

mod data;
mod keys;
mod losses;
mod mounts;
mod restore;
mod salvage;
mod scrub;
mod secrets;
mod snapshots;
mod world;
