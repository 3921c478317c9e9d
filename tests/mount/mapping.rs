//! A shared mapping whose descriptor is closed.
#![allow(unsafe_code)] // mmap(2) has no safe form

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// A file mapped shared and writable.
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

// SAFETY: the address is that of the whole process; only `&mut self` stores through it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which must have them. The file may be closed then.
    pub fn new(file: &File, len: usize) -> std::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nobody.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self { at: at.cast(), len })
    }

    /// Stores bytes through the mapping.
    pub fn store(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: the range lies within the mapping (asserted), which lives as long as `self`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(at), bytes.len()) }
    }

    /// Loads bytes through the mapping.
    pub fn load(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; self.len];
        // SAFETY: the whole mapping is readable for as long as `self` lives; the copy is our own.
        unsafe { std::ptr::copy_nonoverlapping(self.at, bytes.as_mut_ptr(), self.len) }
        bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it.
        unsafe {
            libc::munmap(self.at.cast(), self.len);
        }
    }
}
