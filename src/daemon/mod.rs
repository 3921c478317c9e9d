//! The process that serves a pool: its sockets, signals, threads and mounts, wired together.
//!
//! It starts and stops everything in one written order ([`run`]), turns requests of the control
//! socket into uses of the service, and mounts through `fuse`. It promises that a pool has one
//! daemon, that an end by SIGTERM or `shutdown` loses nothing, and that one by SIGKILL loses
//! nothing that was acknowledged as durable. It must not know how anything is stored.

pub mod barrier;
pub mod barrier_child;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod handshake;
pub mod logging;
pub mod mount_words;
pub mod places;
pub mod told_check;
pub mod unmount;

mod api;
mod audit;
mod ending;
mod helper;
mod helper_wire;
mod mounter;
mod next_steps;
mod run;
mod told;
mod workers;

pub use handshake::{Passphrase, Starter};
pub use helper::{HelperError, HelperProgram};
pub use places::Places;
pub use run::{Front, Options, run};
