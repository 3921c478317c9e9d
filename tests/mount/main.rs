//! Real FUSE mounts of a volume in memory: what only the kernel can show.
//!
//! Each test starts a process of its own that serves the mount, because a process must not touch
//! what it serves itself. They need /dev/fuse and root, and say so where they have not got them.

mod attributes;
mod backing;
mod barrier;
mod data;
mod direct;
mod kill9;
mod mapping;
mod names;
mod ordinary_user;
mod server;
mod session;
mod xattr;
