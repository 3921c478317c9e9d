//! Mount points whose daemon is gone: nobody serves them, and each access gives `ENOTCONN`.
//!
//! The commands look for them, not the daemon: it takes asking whoever serves a mount, and the
//! daemon would ask itself.

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::output::table;
use crate::control::types::{DeadMount, List, Mount, UmountAny};
use crate::sys;

/// Who serves a mount and does not answer for that long is busy, not gone.
const PATIENCE: Duration = Duration::from_millis(500);

/// Every dead mount that this user may see.
pub(in crate::cli) fn find() -> Vec<DeadMount> {
    let Ok(dead) = sys::mount_point::dead_mounts(PATIENCE) else { return Vec::new() };
    let told = |entry: sys::mount_table::MountEntry| {
        // A daemon could not be asked to take away what JSON cannot name.
        let mountpoint = entry.mount_point.into_os_string().into_string().ok()?;
        Some(DeadMount { mountpoint, source: entry.source })
    };
    dead.into_iter().filter_map(told).collect()
}

/// Takes all of them away, but for those that are somebody else's; where they were.
pub(in crate::cli) fn take_away(context: &Context) -> Vec<String> {
    let mut taken = Vec::new();
    for DeadMount { mountpoint, .. } in find() {
        let request = UmountAny { mountpoint: Some(mountpoint.clone()), all: false, force: false };
        match context.post::<_, List<Mount>>("/v1/umount", &request) {
            Ok(_) => taken.push(mountpoint),
            Err(problem) => {
                context.out.warn(&format!("the dead mount at {mountpoint} stays: {problem}"));
            }
        }
    }
    taken
}

/// What to do about them.
pub(in crate::cli) fn next_steps(dead: &[DeadMount]) -> impl Iterator<Item = String> {
    dead.iter().map(|d| {
        let (place, name) = (&d.mountpoint, d.source.strip_prefix("strongroom:"));
        let again = match name {
            Some(id) if id.starts_with("snap-") => format!("strongroom restore {id} {place}"),
            name => format!("strongroom mount {} {place}", name.unwrap_or("NAME")),
        };
        format!("nobody serves {place}; take it away: strongroom umount {place}; or: {again}")
    })
}

pub(in crate::cli) fn dead_table(dead: &[DeadMount]) -> String {
    let rows = dead.iter().map(|d| vec![d.mountpoint.clone(), d.source.clone()]);
    table(&["dead mount", "what it was"], rows.collect())
}
