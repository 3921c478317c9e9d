//! `restore`: mount a snapshot, make a cluster of it, or put it back.

use crate::cli::args::Restore;
use crate::cli::clusters::{key_of, relatives};
use crate::cli::confirm::confirm;
use crate::cli::context::{Context, Outcome, wire_path};
use crate::cli::mounts::mounted_text;
use crate::control::client::segment;
use crate::control::types::{RestoreRequest, Restored, Snapshot};
use crate::daemon::mount_words;

pub(in crate::cli) fn run(context: &Context, restore: Restore) -> Outcome {
    let path = format!("/v1/snapshots/{}", segment(&restore.id.to_string()));
    if restore.in_place {
        let snapshot: Snapshot = context.get(&path)?;
        let question = format!(
            "replace the contents of cluster {} by {} of {}? what it holds now is kept as a snapshot",
            snapshot.cluster_name, snapshot.id, snapshot.created_at
        );
        confirm(&question, restore.yes.yes)?;
    }
    let request = RestoreRequest {
        mountpoint: restore.mountpoint.as_deref().map(wire_path).transpose()?,
        options: mount_words::options_of(&restore.options),
        to_cluster: restore.to_cluster,
        in_place: restore.in_place,
        retain: restore.retain,
    };
    let restored: Restored = context.post(&format!("{path}/restore"), &request)?;
    context.out.reply(&restored, text)?;
    if let Restored::Cluster(cluster) = &restored
        && let Some(relatives) = relatives(&cluster.also_reachable_via)
    {
        context.out.note(&relatives);
    }
    Ok(())
}

fn text(restored: &Restored) -> String {
    match restored {
        Restored::Mount(mount) => mounted_text(mount),
        Restored::Cluster(cluster) => {
            let key = key_of(cluster.encryption_key_id.as_ref());
            format!("cluster {} created from the snapshot, encryption key: {key}", cluster.name)
        }
        Restored::InPlace(done) => {
            let (name, safety) = (&done.cluster.name, done.safety_snapshot.id);
            format!(
                "cluster {name} is the snapshot now; what it was before is {safety}\n\
                 undo: strongroom restore {safety} --in-place"
            )
        }
    }
}
