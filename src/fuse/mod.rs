//! The kernel's side of a mount: requests of the FUSE protocol, translated to a volume and back.
//!
//! Every request is decoded, carried out by one call of the volume, and encoded; a panic in that
//! call is caught. One place turns an error into errno, log line and counter. It promises that no
//! request ends the session, that the end of a session is noticed however it comes about, and that
//! nothing here touches the mounted directory. It must not know encryption, disks or key providers.

pub mod options;
pub mod session;

mod adapter;
mod convert;
mod dispatch;
mod errno;
mod invalidate;
mod negotiate;
mod open_modes;
mod requests;

#[cfg(test)]
mod raw_tests;

pub use options::{Capability, MountOptions, OptionsError};
pub use session::{BarrierKind, OnEnd, Session, SessionConfig, SessionError, barrier_kind};
