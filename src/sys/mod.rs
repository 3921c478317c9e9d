//! The operating system, behind one narrow door: the only room with `unsafe` code.
//!
//! Clock, randomness, threads and locks; secret memory and aligned buffers; file and device I/O by
//! descriptor; what a process says about itself; who is at the other end of a socket. Everything
//! above asks here, so that a test can stand in for time and a reader can find every system call.
//!
//! It promises that each function does one thing of the kernel's and reports the kernel's answer.
//! It must not know pools, keys' meaning or file formats.

#![allow(clippy::disallowed_methods)] // what the others may not call is called here
#![allow(unsafe_code)] // the one place: system calls and mappings; each block says why it is sound

pub mod aligned;
pub mod clock;
pub mod file_handle;
pub mod file_io;
pub mod fuse_mount;
pub mod heap;
pub mod helper_process;
#[cfg(test)]
pub mod memory_scan;
pub mod mount_point;
pub mod mount_table;
pub mod mounted_place;
pub mod new_tree;
pub mod own_directory;
pub mod peer;
pub mod process;
pub mod random;
pub mod secret_memory;
pub mod signals;
#[cfg(debug_assertions)]
pub mod simulation;
pub mod sync;
pub mod threads;

pub use aligned::AlignedBuf;
pub use secret_memory::SecretBytes;
