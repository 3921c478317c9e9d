//! The kernel's side of a mount: requests of the FUSE protocol, translated to a volume and back.
//!
//! Every request is decoded, carried out by one call of the volume, and encoded; a panic in that
//! call is caught. One place turns an error into errno, log line and counter. It promises that no
//! request ends the session, and that nothing here touches the mounted directory. It must not know
//! encryption, disks or key providers.

pub mod options;

pub use options::{Capability, MountOptions, OptionsError};
