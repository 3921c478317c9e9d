//! `snapshot ...`

use crate::base::size::format_size;
use crate::cli::args::SnapshotCommand;
use crate::cli::clusters::key_of;
use crate::cli::context::{Context, Outcome};
use crate::cli::output::{facts, or_dash, table};
use crate::control::client::segment;
use crate::control::types::{
    CreateSnapshots, DeleteSnapshots, List, Snapshot, SnapshotKind, SnapshotsDeleted,
    SnapshotsRewrapped,
};

pub(in crate::cli) fn run(context: &Context, command: SnapshotCommand) -> Outcome {
    match command {
        SnapshotCommand::Create { names, all, retain, description } => {
            let request = CreateSnapshots { clusters: names, all, retain, description };
            let made: List<Snapshot> = context.post("/v1/snapshots", &request)?;
            context.out.reply(&made, |list| ids(&list.results))?;
        }
        SnapshotCommand::List { name, refresh } => {
            let mut path = format!("/v1/snapshots?refresh={}", refresh.refresh);
            if let Some(name) = name {
                path.push_str(&format!("&cluster={}", segment(name.as_str())));
            }
            let list: List<Snapshot> = context.get(&path)?;
            context.out.reply(&list, |list| snapshot_table(&list.results))?;
        }
        SnapshotCommand::Show { id, refresh } => {
            let id = segment(&id.to_string());
            let path = format!("/v1/snapshots/{id}?refresh={}", refresh.refresh);
            let snapshot: Snapshot = context.get(&path)?;
            context.out.reply(&snapshot, show)?;
        }
        SnapshotCommand::Delete { ids, dry_run } => {
            let request = DeleteSnapshots { ids, dry_run };
            let deleted: SnapshotsDeleted = context.post("/v1/snapshots/delete", &request)?;
            context.out.reply(&deleted, deleted_text)?;
        }
        SnapshotCommand::Rewrap { ids, key } => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let request = serde_json::json!({ "ids": ids, "encryptionKeyId": key.as_str() });
            let rewrapped: SnapshotsRewrapped = context.post("/v1/snapshots/rewrap", &request)?;
            context.out.reply(&rewrapped, |r| {
                format!("{} snapshots are under {key} now", r.results.len())
            })?;
        }
    }
    Ok(())
}

fn ids(snapshots: &[Snapshot]) -> String {
    let ids: Vec<String> = snapshots.iter().map(|s| s.id.to_string()).collect();
    ids.join("\n")
}

fn snapshot_table(snapshots: &[Snapshot]) -> String {
    let head = [
        "id",
        "cluster",
        "created",
        "expires",
        "type",
        "status",
        "size",
        "unique",
        "encryption key id",
        "key state",
    ];
    let rows = snapshots.iter().map(|s| {
        let deleted = if s.cluster_deleted { " (deleted)" } else { "" };
        let held = if s.held { ", held" } else { "" };
        vec![
            s.id.to_string(),
            format!("{}{deleted}", s.cluster_name),
            s.created_at.to_string(),
            or_dash(s.expires_at),
            kind(s),
            format!("{}{held}", s.status.as_str()),
            format_size(s.referenced_bytes),
            format_size(s.unique_bytes),
            key_of(s.encryption_key_id.as_ref()),
            s.encryption_key_id.as_ref().map_or("-", |_| s.encryption_status.as_str()).to_owned(),
        ]
    });
    table(&head, rows.collect())
}

fn kind(s: &Snapshot) -> String {
    match (s.snapshot_type, &s.frequency_type) {
        (SnapshotKind::OnDemand, _) => "on-demand".to_owned(),
        (SnapshotKind::Safety, _) => "safety".to_owned(),
        (SnapshotKind::Scheduled, Some(frequency)) => frequency.clone(),
        (SnapshotKind::Scheduled, None) => "scheduled".to_owned(),
    }
}

pub(in crate::cli) fn show(s: &Snapshot) -> String {
    let deleted = if s.cluster_deleted { " (deleted)" } else { "" };
    facts(vec![
        ("id", s.id.to_string()),
        ("cluster", format!("{}{deleted}", s.cluster_name)),
        ("cluster id", s.cluster_id.to_string()),
        ("created", s.created_at.to_string()),
        ("expires", or_dash(s.expires_at)),
        ("type", kind(s)),
        ("status", s.status.as_str().to_owned()),
        ("description", s.description.clone()),
        ("held", if s.held { "yes".to_owned() } else { String::new() }),
        ("mounted at", s.mountpoints.join(", ")),
        ("size", format_size(s.referenced_bytes)),
        ("unique", format_size(s.unique_bytes)),
        ("encryption key id", key_of(s.encryption_key_id.as_ref())),
        ("key version", s.key_version.map(|v| v.to_string()).unwrap_or_default()),
        ("key fingerprint", s.key_fingerprint.clone().unwrap_or_default()),
        ("key state", s.encryption_status.clone()),
        ("key state as of", s.encryption_status_at.map(|t| t.to_string()).unwrap_or_default()),
    ])
}

fn deleted_text(deleted: &SnapshotsDeleted) -> String {
    let (count, bytes) = (deleted.results.len(), format_size(deleted.frees_bytes));
    if deleted.dry_run {
        let rows = deleted.results.iter().map(|s| {
            vec![s.id.to_string(), s.cluster_name.to_string(), format_size(s.unique_bytes)]
        });
        let listed = table(&["id", "cluster", "unique"], rows.collect());
        let ids = deleted.results.iter().map(|s| s.id.to_string()).collect::<Vec<_>>().join(" ");
        return format!(
            "{listed}\n\nnothing was deleted; deleting {count} would free {bytes}\n\
             do it: strongroom snapshot delete {ids}"
        );
    }
    match &deleted.shredded {
        Some(scope) => format!("{count} snapshots deleted, freeing {bytes} ({scope})"),
        None => format!("{count} snapshots deleted, freeing {bytes}"),
    }
}
