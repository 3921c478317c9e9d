//! `key ...`

use serde::Serialize;

use crate::base::{EncryptionKeyId, KeyState};
use crate::cli::args::KeyCommand;
use crate::cli::clusters::relatives;
use crate::cli::confirm::{confirm, confirm_by_naming, somebody_is_there};
use crate::cli::context::{Context, Outcome};
use crate::cli::output::{facts, or_dash, table};
use crate::control::Problem;
use crate::control::client::segment;
use crate::control::types::{
    CreateKey, DeleteKey, Empty, Key, KeyTest, KeyUsage, List, UsageEntry, UsageKind,
};

pub(in crate::cli) fn run(context: &Context, command: KeyCommand) -> Outcome {
    match command {
        KeyCommand::Create { name, deletion_wait } => {
            let key: Key = context.post("/v1/keys", &CreateKey { name, deletion_wait })?;
            context.out.reply(&key, |k| k.encryption_key_id.to_string())?;
            if let Some(count) = key.keys_not_backed_up.filter(|c| *c > 0) {
                context.out.aside(&not_backed_up(count));
            }
            Ok(())
        }
        KeyCommand::List(refresh) => {
            let list: List<Key> = context.get(&format!("/v1/keys?refresh={}", refresh.refresh))?;
            context.out.reply(&list, |list| key_table(&list.results))
        }
        KeyCommand::Show { id, refresh } => {
            let key: Key = context.get(&format!("{}?refresh={}", path(&id), refresh.refresh))?;
            context.out.reply(&key, show)
        }
        KeyCommand::Test { id } => {
            let test: KeyTest = context.post(&format!("{}/test", path(&id)), &Empty {})?;
            context.out.reply(&test, |t| {
                format!(
                    "{} is {}, wrapped and unwrapped in {} ms",
                    t.encryption_key_id, t.state, t.elapsed_ms
                )
            })
        }
        KeyCommand::Usage { id } => {
            let usage: KeyUsage = context.get(&format!("{}/usage", path(&id)))?;
            context.out.reply(&usage, |u| usage_text(&id, u))
        }
        KeyCommand::Enable { id } => {
            context.out.reply(&change(context, &id, "enable")?, state_text)
        }
        KeyCommand::CancelDelete { id } => {
            context.out.reply(&change(context, &id, "cancel-delete")?, state_text)
        }
        KeyCommand::Disable { id, yes } => {
            let usage = shown_usage(context, &id)?;
            if !usage.safe_to_delete {
                confirm(&format!("disable {id}?"), yes.yes)?;
            }
            let key = change(context, &id, "disable")?;
            context.out.reply(&Changed { key: &key, usage: &usage }, |c| state_text(c.key))?;
            if key.used_by > 0 {
                context
                    .out
                    .aside("what is mounted under it goes on; mount and restore are refused");
            }
            Ok(())
        }
        KeyCommand::Delete { id, after, force, yes } => {
            let usage = shown_usage(context, &id)?;
            let force = force_of(&id, force, &usage, yes.yes)?;
            let request = DeleteKey { after, force };
            let key: Key = context.post(&format!("{}/delete", path(&id)), &request)?;
            context.out.reply(&Changed { key: &key, usage: &usage }, |c| state_text(c.key))
        }
    }
}

/// What `key disable|delete --json` prints: the key, and what needs it.
#[derive(Serialize)]
struct Changed<'a> {
    #[serde(flatten)]
    key: &'a Key,
    usage: &'a KeyUsage,
}

/// Whether, and by which name, the deletion of a key that is needed is forced.
fn force_of(
    id: &EncryptionKeyId,
    force: Option<EncryptionKeyId>,
    usage: &KeyUsage,
    yes: bool,
) -> Result<Option<EncryptionKeyId>, Problem> {
    if usage.safe_to_delete || yes || !somebody_is_there() {
        return Ok(force);
    }
    let count = usage.results.len();
    let question = format!("delete {id}? {count} clusters and snapshots need it and will be lost");
    if force.is_some() {
        confirm(&question, false)?;
        return Ok(force);
    }
    confirm_by_naming(&question, id.as_str())?;
    Ok(Some(id.clone()))
}

fn path(id: &EncryptionKeyId) -> String {
    format!("/v1/keys/{}", segment(id.as_str()))
}

fn change(context: &Context, id: &EncryptionKeyId, verb: &str) -> Result<Key, Problem> {
    context.post(&format!("{}/{verb}", path(id)), &Empty {})
}

/// What needs a key, printed before something is done to it.
fn shown_usage(context: &Context, id: &EncryptionKeyId) -> Result<KeyUsage, Problem> {
    let usage: KeyUsage = context.get(&format!("{}/usage", path(id)))?;
    if !context.out.json {
        context.out.print(&usage_text(id, &usage))?;
    }
    Ok(usage)
}

pub(in crate::cli) fn key_table(keys: &[Key]) -> String {
    let rows = keys.iter().map(|k| {
        vec![
            k.encryption_key_id.to_string(),
            k.state.clone(),
            or_dash(k.created_at),
            or_dash(k.deletion_at),
            k.used_by.to_string(),
        ]
    });
    table(&["encryption key id", "state", "created", "deletion", "used by"], rows.collect())
}

fn show(k: &Key) -> String {
    facts(vec![
        ("encryption key id", k.encryption_key_id.to_string()),
        ("state", k.state.clone()),
        ("created", k.created_at.map(|t| t.to_string()).unwrap_or_default()),
        ("deletion", k.deletion_at.map(|t| t.to_string()).unwrap_or_default()),
        ("used by", k.used_by.to_string()),
    ])
}

fn state_text(k: &Key) -> String {
    match k.deletion_at.filter(|_| k.state != KeyState::Deleted.as_str()) {
        Some(at) => format!("{} is {}, to be deleted at {at}", k.encryption_key_id, k.state),
        None => format!("{} is {}", k.encryption_key_id, k.state),
    }
}

/// Rows of kind, what, cluster, key.
pub(in crate::cli) fn usage_rows(entries: &[UsageEntry]) -> Vec<Vec<String>> {
    let row = |e: &UsageEntry| {
        let (kind, what) = match e.kind {
            UsageKind::Cluster => ("cluster", or_dash(e.name.as_ref())),
            UsageKind::Snapshot => ("snapshot", or_dash(e.id)),
        };
        let key = crate::cli::clusters::key_of(e.encryption_key_id.as_ref());
        vec![kind.to_owned(), what, e.cluster_name.to_string(), key]
    };
    entries.iter().map(row).collect()
}

fn usage_text(id: &EncryptionKeyId, usage: &KeyUsage) -> String {
    let scope = &usage.scope;
    let looked = format!(
        "looked at pool {}: {} clusters, {} snapshots",
        scope.pool_path, scope.clusters, scope.snapshots
    );
    let head = ["kind", "what", "cluster", "encryption key id"];
    let former = match usage.needing_former_key.len() {
        0 => String::new(),
        n => format!(
            "\n\n{n} clusters and snapshots need another key, deleted or replaced, that was named {id} \
             before; the one of today does not open them\n{}",
            table(&head, usage_rows(&usage.needing_former_key))
        ),
    };
    if usage.safe_to_delete {
        return format!("nothing needs {id}\n{looked}{former}");
    }
    let listed = table(&head, usage_rows(&usage.results));
    let count = usage.results.len();
    let mut text = format!("{listed}\n\n{count} clusters and snapshots need {id}\n{looked}");
    if let Some(relatives) = relatives(&usage.also_reachable_via) {
        text.push_str("\n\n");
        text.push_str(&relatives);
    }
    text.push_str(&former);
    text
}

/// How many keys would be lost with this machine.
pub(in crate::cli) fn not_backed_up(count: u64) -> String {
    let (keys, stand) = if count == 1 { ("key", "stands") } else { ("keys", "stand") };
    format!("{count} {keys} {stand} in no backup yet: strongroom config backup FILE")
}
