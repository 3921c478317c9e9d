//! The calls behind extended attributes.
#![allow(unsafe_code)] // neither std nor nix has them

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn result(value: isize) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::last_os_error())
}

/// setxattr(2)
pub fn set(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: both strings end in NUL, and the value is as long as is said.
    let done = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    };
    result(done as isize).map(drop)
}

/// getxattr(2) into a buffer of `room` bytes; with 0 the answer is the length alone.
pub fn get(path: &Path, name: &str, room: usize) -> io::Result<(usize, Vec<u8>)> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    let mut value = vec![0u8; room];
    // SAFETY: both strings end in NUL, and the buffer is as long as is said.
    let got =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), room) };
    let length = result(got)?;
    value.truncate(length);
    Ok((length, value))
}

/// listxattr(2): the names.
pub fn list(path: &Path) -> io::Result<Vec<String>> {
    let path = c(path);
    let mut names = vec![0u8; 65_536];
    // SAFETY: the path ends in NUL, and the buffer is as long as is said.
    let got = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(result(got)?);
    let names = names.split(|b| *b == 0).filter(|n| !n.is_empty());
    Ok(names.map(|n| String::from_utf8_lossy(n).into_owned()).collect())
}

/// removexattr(2)
pub fn remove(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: both strings end in NUL.
    let done = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    result(done as isize).map(drop)
}
