//! Real FUSE mounts, of a volume in memory or of a pool: what only the kernel can show.
//!
//! Each test starts a process of its own that serves the mount, because a process must not touch
//! what it serves itself. They need /dev/fuse and root, and say so where they have not got them.

mod attributes;
mod backing;
mod barrier;
mod daemon;
mod data;
mod direct;
mod kill9;
mod mapping;
mod names;
mod no_barrier;
mod ordinary_user;
mod rounds;
mod server;
mod session;
mod unreadable;
mod writer;
mod xattr;
