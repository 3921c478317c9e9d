//! The helper's half: what touches a mount does so here, in a process of its own.
//!
//! A thread of the daemon that waits for a mount waits for the daemon itself; a SIGKILL then leaves
//! the whole process in state D for ever. This process has no copy of the mount's descriptor and
//! no key, and does one thing: it flushes files for a snapshot, unmounts, or stands guard.
//! It has one thread, because the daemon knows it by its process id, and the kernel names threads.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use crate::daemon::helper_wire::{HELPER_ARGUMENT, HelperAnswer, HelperRequest, MountFiles, Stage};
use crate::sys::file_handle::{open_by_handle, open_mount, start_writeback, wait_for_writeback};
use crate::sys::fuse_mount::{FuseMountError, Unmount};
use crate::sys::helper_process::{ParentWatch, close_inherited};
use crate::sys::mount_table::{ConnectionAbort, DeviceNumber, MountEntry, mounts};
use crate::sys::mounted_place::{NotUnmounted, unmount};
use crate::sys::{clock, process};

/// Descriptors that are not for files: the three streams, the mounts, and some to spare.
const DESCRIPTORS_RESERVED: u64 = 32;
/// Files flushed together where the system says nothing about its limit.
const BATCH_DEFAULT: usize = 512;

/// Where this process was started as a helper of the daemon: does what it was started for. To be
/// called first of all, before arguments are looked at; `None` for every other process.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != HELPER_ARGUMENT {
        return None;
    }
    close_inherited();
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads a helper's words: the daemon sees that no answer came.
        Err(_) => ExitCode::FAILURE,
    })
}

fn run() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    match HelperRequest::receive(&mut input)? {
        HelperRequest::Settle(mounts) => {
            let limit = process::raise_nofile().map_or(BATCH_DEFAULT, batch_size);
            let mut open = Vec::new();
            let answer = match settle(&mounts, limit, &mut open) {
                Ok(gone) => HelperAnswer::Settled { gone },
                Err(failed) => failed,
            };
            // The answer first: closing sends a request for each file, and the snapshot waits.
            answer.send(&mut output)?;
            drop(open);
        }
        HelperRequest::Unmount { device, how } => {
            unmount_all(device, how).send(&mut output)?;
        }
        HelperRequest::Guard { device, parent } => guard(device, parent, &mut input, &mut output)?,
    }
    Ok(())
}

fn batch_size(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(usize::MAX).max(1)
}

/// How long a mount that is used is tried again: `status` looks at each for a moment, to see
/// whether somebody serves it, and so do others.
const GLANCE: Duration = Duration::from_secs(1);
const GLANCE_STEP: Duration = Duration::from_millis(10);

/// A file being flushed: the mount's place in the request, its inode number, its descriptor.
type Open = (u32, u64, OwnedFd);

/// Starts writeback of all files, then waits for all of them: on a slow device several times as
/// fast as one after the other. Files are left open in `open`.
fn settle(
    mounts: &[MountFiles],
    batch: usize,
    open: &mut Vec<Open>,
) -> Result<Vec<(u32, u64)>, HelperAnswer> {
    let mut gone = Vec::new();
    for (place, mount) in mounts.iter().enumerate().filter(|(_, m)| !m.files.is_empty()) {
        let place = place as u32;
        let root = find_mount(mount.device).map_err(failed(Stage::Mount, place, 0))?;
        for (inode, generation) in &mount.files {
            if open.len() >= batch {
                wait(open)?;
                open.clear();
            }
            match open_by_handle(root.as_fd(), *inode, *generation) {
                Ok(file) => {
                    start_writeback(file.as_fd()).map_err(failed(Stage::Start, place, *inode))?;
                    open.push((place, *inode, file));
                }
                Err(e) if e.raw_os_error() == Some(libc::ESTALE) => gone.push((place, *inode)),
                Err(e) => return Err(failed(Stage::Open, place, *inode)(e)),
            }
        }
    }
    wait(open)?;
    Ok(gone)
}

/// fdatasync, not sync_file_range: it brings the time stamps along, ends beside a fast appender,
/// and before Linux 6.16 it alone waits for pages that FUSE has copied away.
fn wait(open: &[Open]) -> Result<(), HelperAnswer> {
    for (place, inode, file) in open {
        wait_for_writeback(file.as_fd()).map_err(failed(Stage::Wait, *place, *inode))?;
    }
    Ok(())
}

fn failed(stage: Stage, mount: u32, inode: u64) -> impl Fn(io::Error) -> HelperAnswer {
    move |error| HelperAnswer::Failed {
        stage,
        mount,
        inode,
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// The root of a mounted filesystem, through whichever of its places in the tree is not hidden.
fn find_mount(device: DeviceNumber) -> io::Result<OwnedFd> {
    let mut last = io::Error::from_raw_os_error(libc::ENODEV);
    for entry in mounts()?.into_iter().filter(|m| m.device == device) {
        match open_mount(&entry.mount_point, device) {
            Ok(root) => return Ok(root),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Unmounts every place of the filesystem, the last mounted first.
fn unmount_all(device: DeviceNumber, how: Unmount) -> HelperAnswer {
    let table = match mounts() {
        Ok(table) => table,
        Err(error) => return failed(Stage::Unmount, 0, 0)(error),
    };
    for entry in table.iter().rev().filter(|m| m.device == device) {
        let above = table.iter().rev().find(|m| m.mount_point == entry.mount_point);
        if let Some(above) = above.filter(|above| above.device != device) {
            let (what, at) = (&above.fs_type, entry.mount_point.display());
            return HelperAnswer::Refused(format!("a mount of type {what} lies over it at {at}"));
        }
        match unmount_when_free(entry, how) {
            Ok(()) => {}
            Err(NotUnmounted::Refused(FuseMountError::Busy(path))) => {
                return HelperAnswer::Busy(path);
            }
            Err(NotUnmounted::Refused(FuseMountError::Unmount { source, .. })) => {
                return failed(Stage::Unmount, 0, 0)(source);
            }
            Err(other) => return HelperAnswer::Refused(other.to_string()),
        }
    }
    HelperAnswer::Unmounted
}

fn unmount_when_free(entry: &MountEntry, how: Unmount) -> Result<(), NotUnmounted> {
    let end = clock::monotonic() + GLANCE;
    loop {
        match unmount(entry, how) {
            Err(NotUnmounted::Refused(FuseMountError::Busy(_))) if clock::monotonic() < end => {
                clock::sleep(GLANCE_STEP);
            }
            done => return done,
        }
    }
}

/// Stands by while a thread of the daemon has the kernel forget pages, which waits for the daemon
/// itself. Should the daemon be killed then, its other threads die and that one hangs; the kernel
/// tells us of the death of the thread that started us, and aborting the connection frees it.
fn guard(
    device: DeviceNumber,
    parent: u32,
    input: &mut impl Read,
    output: &mut impl Write,
) -> io::Result<()> {
    let watch = ParentWatch::begin(parent)?;
    // Opened now: after the daemon's death the number may be another mount's.
    let connection = ConnectionAbort::of(device)?;
    HelperAnswer::Armed.send(output)?;
    let mut byte = [0u8; 1];
    if watch.wait_for_input(io::stdin().as_fd())? && input.read(&mut byte)? == 1 {
        return Ok(());
    }
    connection.abort()
}
