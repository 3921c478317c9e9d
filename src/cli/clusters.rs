//! `cluster ...`

use crate::base::size::format_size;
use crate::cli::args::ClusterCommand;
use crate::cli::confirm::confirm;
use crate::cli::context::{Context, Outcome};
use crate::cli::keys::usage_rows;
use crate::cli::output::{facts, or_dash, table};
use crate::control::client::segment;
use crate::control::types::{
    Cluster, ClusterChanged, ClusterDeleted, CreateCluster, Empty, List, NOT_ENABLED, SetKey,
    UsageEntry,
};

pub(in crate::cli) fn run(context: &Context, command: ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Create { name, key } => {
            let request = CreateCluster { name, encryption_key_id: key };
            let cluster: Cluster = context.post("/v1/clusters", &request)?;
            context.out.reply(&cluster, |c| {
                let key = key_of(c.encryption_key_id.as_ref());
                format!("cluster {} created, encryption key: {key}", c.name)
            })?;
        }
        ClusterCommand::List(refresh) => {
            let path = format!("/v1/clusters?refresh={}", refresh.refresh);
            let clusters: List<Cluster> = context.get(&path)?;
            context.out.reply(&clusters, |list| cluster_table(&list.results))?;
        }
        ClusterCommand::Show { name, refresh } => {
            let name = segment(name.as_str());
            let path = format!("/v1/clusters/{name}?refresh={}", refresh.refresh);
            let cluster: Cluster = context.get(&path)?;
            context.out.reply(&cluster, show)?;
        }
        ClusterCommand::Delete { name, yes } => {
            let path = format!("/v1/clusters/{}", segment(name.as_str()));
            let cluster: Cluster = context.get(&path)?;
            let kept = cluster.snapshot_count;
            let question = format!("delete cluster {name}? its {kept} snapshots stay");
            confirm(&question, yes.yes)?;
            let deleted: ClusterDeleted = context.send("DELETE", &path, &Empty {})?;
            context.out.reply(&deleted, |d| {
                format!("cluster {} deleted, {} snapshots kept", d.name, d.snapshots_kept)
            })?;
        }
        ClusterCommand::SetKey { name, key, snapshots } => {
            let path = format!("/v1/clusters/{}/set-key", segment(name.as_str()));
            let request = SetKey { encryption_key_id: key.0, snapshots };
            let changed: ClusterChanged = context.post(&path, &request)?;
            context.out.reply(&changed, changed_text)?;
            if let Some(relatives) = relatives(&changed.cluster.also_reachable_via) {
                context.out.warn_of(&[relatives]);
            }
        }
        ClusterCommand::AcceptLogLoss { name, yes } => {
            let question = format!(
                "give up what was acknowledged to writers of {name} behind the damage in its log?"
            );
            confirm(&question, yes.yes)?;
            let path = format!("/v1/clusters/{}/accept-log-loss", segment(name.as_str()));
            let cluster: Cluster = context.post(&path, &Empty {})?;
            context.out.reply(&cluster, |c| {
                let name = &c.name;
                format!("cluster {name} goes on: strongroom mount {name} MOUNTPOINT")
            })?;
        }
    }
    Ok(())
}

/// A key's id, or that there is none.
pub(in crate::cli) fn key_of<T: ToString>(id: Option<&T>) -> String {
    id.map_or_else(|| NOT_ENABLED.to_owned(), ToString::to_string)
}

pub(in crate::cli) fn cluster_table(clusters: &[Cluster]) -> String {
    let head = [
        "name",
        "state",
        "mounted at",
        "encryption key id",
        "key state",
        "snapshots",
        "size",
        "unique",
    ];
    let rows = clusters.iter().map(|c| {
        vec![
            c.name.to_string(),
            c.state.as_str().to_owned(),
            or_dash(c.mountpoint.clone()),
            key_of(c.encryption_key_id.as_ref()),
            c.encryption_key_id.as_ref().map_or("-", |_| c.encryption_status.as_str()).to_owned(),
            c.snapshot_count.to_string(),
            format_size(c.referenced_bytes),
            format_size(c.unique_bytes),
        ]
    });
    table(&head, rows.collect())
}

fn show(c: &Cluster) -> String {
    let mut text = facts(vec![
        ("name", c.name.to_string()),
        ("id", c.id.to_string()),
        ("state", c.state.as_str().to_owned()),
        ("mounted at", c.mountpoint.clone().unwrap_or_default()),
        ("created", c.created_at.to_string()),
        ("origin", c.origin.map(|o| o.to_string()).unwrap_or_default()),
        ("encryption key id", key_of(c.encryption_key_id.as_ref())),
        ("key state", c.encryption_status.clone()),
        ("key state as of", c.encryption_status_at.map(|t| t.to_string()).unwrap_or_default()),
        ("size", format_size(c.referenced_bytes)),
        ("unique", format_size(c.unique_bytes)),
        ("snapshots", c.snapshot_count.to_string()),
        ("read-only", if c.read_only { "yes".to_owned() } else { String::new() }),
    ]);
    if let Some(relatives) = relatives(&c.also_reachable_via) {
        text.push_str("\n\n");
        text.push_str(&relatives);
    }
    text
}

fn changed_text(changed: &ClusterChanged) -> String {
    let c = &changed.cluster;
    let mut text =
        format!("cluster {}: encryption key {}", c.name, key_of(c.encryption_key_id.as_ref()));
    if !changed.rewrapped_snapshots.is_empty() {
        text.push_str(&format!(", {} snapshots rewrapped", changed.rewrapped_snapshots.len()));
    }
    if let Some(scope) = &changed.shredded {
        text.push_str(&format!("\nits header of before is gone from the pool ({scope})"));
    }
    text
}

/// What a key does not protect, because something else reaches the same blocks.
pub(in crate::cli) fn relatives(entries: &[UsageEntry]) -> Option<String> {
    (!entries.is_empty()).then(|| {
        let rows = usage_rows(entries);
        format!(
            "the same blocks are also reachable via:\n{}",
            table(&["kind", "what", "cluster", "encryption key id"], rows)
        )
    })
}
