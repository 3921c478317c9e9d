//! `mount`, `umount`

use serde::Serialize;

use crate::cli::args;
use crate::cli::context::{Context, Outcome, wire_path};
use crate::cli::dead_mounts;
use crate::cli::words::Target;
use crate::control::Problem;
use crate::control::client::segment;
use crate::control::types::{List, Mount, MountCluster, Umount, UmountAny};
use crate::daemon::mount_words;

pub(in crate::cli) fn mount(context: &Context, mount: &args::Mount) -> Outcome {
    let pool = mount.options.iter().rev().find_map(|list| mount_words::pool_of(list));
    match pool {
        Some(pool) => mount_in(&context.for_pool(&pool)?, mount),
        None => mount_in(context, mount),
    }
}

fn mount_in(context: &Context, mount: &args::Mount) -> Outcome {
    let request = MountCluster {
        mountpoint: wire_path(&mount.mountpoint)?,
        options: mount_words::options_of(&mount.options),
    };
    let path = format!("/v1/clusters/{}/mount", segment(mount.name.as_str()));
    let mounted: Mount = context.post(&path, &request)?;
    context.out.reply(&mounted, mounted_text)
}

/// What a mount did.
pub(in crate::cli) fn mounted_text(mount: &Mount) -> String {
    let what = match mount.snapshot_id {
        Some(id) => format!("{id} of {}", mount.cluster_name),
        None => mount.cluster_name.to_string(),
    };
    let place = &mount.mountpoint;
    let mut how = if mount.read_only { ", read-only".to_owned() } else { String::new() };
    if mount.locked {
        how.push_str(", locked until its key is enabled and can be had");
    }
    if mount.already_mounted {
        format!("{what} is already mounted at {place}{how}")
    } else {
        format!("{what} mounted at {place}{how}")
    }
}

pub(in crate::cli) fn umount(context: &Context, umount: args::Umount) -> Outcome {
    let force = umount.force;
    let at_place = matches!(umount.target, Some(Target::Path(_)));
    let gone: List<Mount> = match umount.target {
        None => return umount_all(context, force),
        Some(Target::Path(path)) => {
            let mountpoint = Some(wire_path(&path)?);
            context.post("/v1/umount", &UmountAny { mountpoint, all: false, force })?
        }
        Some(Target::Cluster(name)) => {
            let path = format!("/v1/clusters/{}/umount", segment(name.as_str()));
            context.post(&path, &Umount { force })?
        }
        Some(Target::Snapshot(id)) => {
            let path = format!("/v1/snapshots/{}/umount", segment(&id.to_string()));
            context.post(&path, &Umount { force })?
        }
    };
    let dead_mounts = Vec::new();
    context.out.reply(&Unmounted { results: gone.results, dead_mounts }, |unmounted| {
        let nothing = if at_place { "a dead mount was taken away" } else { "nothing is mounted" };
        unmounted.text(nothing)
    })
}

/// What `umount` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unmounted {
    results: Vec<Mount>,
    /// Where mounts stood that nobody served any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dead_mounts: Vec<String>,
}

impl Unmounted {
    fn text(&self, nothing: &str) -> String {
        let ended = self.results.iter().map(|m| format!("{} unmounted", m.mountpoint));
        let dead = self.dead_mounts.iter().map(|at| format!("{at}: a dead mount was taken away"));
        let lines: Vec<String> = ended.chain(dead).collect();
        if lines.is_empty() { nothing.to_owned() } else { lines.join("\n") }
    }
}

/// Everything of the pool, and what daemons that are gone left behind: also where something is busy.
fn umount_all(context: &Context, force: bool) -> Outcome {
    let request = UmountAny { mountpoint: None, all: true, force };
    let gone: Result<List<Mount>, Problem> = context.post("/v1/umount", &request);
    let dead_mounts = dead_mounts::take_away(context);
    let unmounted = Unmounted { results: gone?.results, dead_mounts };
    context.out.reply(&unmounted, |unmounted| unmounted.text("nothing is mounted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_waits_for_its_key_says_so() {
        let told = serde_json::json!({
            "mountpoint": "/srv/pg", "clusterName": "db", "snapshotId": null, "readOnly": false,
            "options": ["key_wait"], "barrier": null, "waitingRequests": null, "oldestRequestMs": 0,
            "locked": true
        });
        let mut mount: Mount = serde_json::from_value(told).unwrap();
        assert!(mounted_text(&mount).contains("locked until its key"), "{}", mounted_text(&mount));
        mount.locked = false;
        assert_eq!(mounted_text(&mount), "db mounted at /srv/pg");
    }
}
