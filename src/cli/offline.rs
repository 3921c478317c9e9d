//! Commands that work on a pool without a daemon: `init`, `config`, `pool upgrade`, `pool new-id`.

use std::path::Path;

use serde::Serialize;

use crate::base::size::format_size;
use crate::base::{PoolId, ProblemCode};
use crate::cli::args::{ConfigCommand, Init};
use crate::cli::context::{Context, Outcome};
use crate::cli::output::facts;
use crate::cli::passphrase;
use crate::cli::words::{RecoveryTarget, SecretSpec};
use crate::control::Problem;
use crate::control::types::Status;
use crate::keys::ConfigDir;
use crate::service::ServiceError;
use crate::service::offline::{self, NewPool, NewRecovery, NewSecret};

/// A refusal of the service, for whoever typed the command.
pub(in crate::cli) fn problem(error: ServiceError) -> Problem {
    Problem::new(error.code, error.detail).with_hint(error.hint.unwrap_or_default())
}

pub(in crate::cli) fn config_dir() -> Result<ConfigDir, Problem> {
    ConfigDir::from_environment().map_err(|e| problem(e.into()))
}

/// What `init --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    path: String,
    id: String,
    size_bytes: u64,
    back_up: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_key: Option<String>,
    warnings: Vec<String>,
}

pub(in crate::cli) fn init(context: &Context, init: Init) -> Outcome {
    context.places.check_socket()?;
    refuse_beside_a_daemon(context)?;
    let secret = match init.root_secret {
        None => NewSecret::File(None),
        Some(SecretSpec::File(path)) => NewSecret::File(Some(path)),
        Some(SecretSpec::Credential(name)) => NewSecret::Credential(name),
        Some(SecretSpec::Passphrase) => {
            let file = context.globals.passphrase_file.as_deref();
            NewSecret::Passphrase(passphrase::new("passphrase", file, "--passphrase-file")?)
        }
        Some(SecretSpec::Recovery) => {
            let detail = "--root-secret recovery: the recovery key is made beside a root secret";
            return Err(Problem::new(ProblemCode::Usage, detail));
        }
    };
    let recovery = match init.recovery_key {
        None => NewRecovery::Show,
        Some(RecoveryTarget::None) => NewRecovery::None,
        Some(RecoveryTarget::File(path)) => NewRecovery::File(path),
    };
    let path = context.places.pool.clone();
    let new = NewPool { path, size_bytes: init.size, secret, recovery, wipe: init.wipe };
    let mut made = offline::make_pool(&config_dir()?, new).map_err(problem)?;
    let shown = |path: &Path| path.display().to_string();
    let reply = Made {
        path: shown(&context.places.pool),
        id: made.id.to_string(),
        size_bytes: made.size_bytes,
        back_up: made.back_up.iter().map(|p| shown(p)).collect(),
        recovery_key: made.recovery_key.as_ref().map(|k| k.to_string()),
        warnings: std::mem::take(&mut made.warnings),
    };
    if reply.recovery_key.is_none() {
        context.out.reply(&reply, made_text)?;
    } else if let Err(problem) = context.out.print_once(&context.out.rendered(&reply, made_text)) {
        // A pool whose recovery key nobody saw looks recoverable and is not.
        made.take_back();
        let detail =
            format!("{}: the recovery key was not shown, so no pool is left", problem.detail);
        return Err(Problem::new(problem.code, detail)
            .with_hint("--recovery-key FILE writes it to a file instead"));
    }
    context.out.warn_of(&reply.warnings);
    Ok(())
}

/// A daemon whose pool was removed serves it still: a new one in its place would look like that one.
fn refuse_beside_a_daemon(context: &Context) -> Outcome {
    let path = &context.places.pool;
    // What is there is refused for itself.
    if crate::device::locate(path).is_ok() {
        return Ok(());
    }
    let Ok(status) = context.client().get::<Status>("/v1/status") else { return Ok(()) };
    if Path::new(&status.pool.path) != path {
        return Ok(());
    }
    let (pid, id, place) = (status.pid, status.pool.id, path.display());
    let detail = format!("a daemon (process {pid}) serves the pool {id} that stood at {place}");
    Err(Problem::new(ProblemCode::PoolBusy, detail)
        .with_hint("copy out what it has mounted, then: strongroom shutdown --force"))
}

fn made_text(made: &Made) -> String {
    let mut text = facts(vec![
        ("pool", made.path.clone()),
        ("pool id", made.id.clone()),
        ("size", format_size(made.size_bytes)),
    ]);
    if let Some(key) = &made.recovery_key {
        text.push_str(&format!(
            "\n\nrecovery key, shown this once; it opens the pool when all else is lost:\n\n  {key}"
        ));
    }
    if !made.back_up.is_empty() {
        text.push_str("\n\nback up these files; a copy of the pool alone is noise:\n");
        let lines: Vec<String> = made.back_up.iter().map(|p| format!("  {p}")).collect();
        text.push_str(&lines.join("\n"));
    }
    text
}

/// What `config backup|restore --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    file: String,
    pool_id: String,
    contents: Vec<String>,
    /// Keys that the keyring that was there took in.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_added: Option<usize>,
    warnings: Vec<String>,
}

pub(in crate::cli) fn config(context: &Context, command: ConfigCommand) -> Outcome {
    let config = config_dir()?;
    let (report, warnings, file, verb) = match command {
        ConfigCommand::Backup { file, backup_passphrase_file } => {
            let given = backup_passphrase_file.as_deref();
            // The pool is looked at first: nobody types a passphrase for nothing.
            offline::pool_id(&config, &context.places.pool).map_err(problem)?;
            let new =
                passphrase::new("passphrase of the backup", given, "--backup-passphrase-file")?;
            let done = offline::back_up(&config, &context.places.pool, &new, &file);
            let done = done.map_err(problem)?;
            (done.report, done.warnings, file, "backed up to")
        }
        ConfigCommand::Restore { file, backup_passphrase_file } => {
            // Nobody types a passphrase for nothing here, either.
            refuse_while_served(context, &file)?;
            let typed = passphrase::of_backup(backup_passphrase_file.as_deref())?;
            let done = offline::bring_back(&config, &typed, &file);
            (done.map_err(problem)?, Vec::new(), file, "restored from")
        }
    };
    let kept = Kept {
        file: file.display().to_string(),
        pool_id: report.pool.to_string(),
        contents: report.files,
        keys_added: report.keys_added,
        warnings,
    };
    context.out.reply(&kept, |k| {
        let added = match k.keys_added {
            Some(n) => {
                format!("\nthe keyring that was there stays; keys of the backup added to it: {n}")
            }
            None => String::new(),
        };
        let what = k.contents.join(", ");
        format!("configuration of pool {} {verb} {}: {what}{added}", k.pool_id, k.file)
    })?;
    context.out.warn_of(&kept.warnings);
    Ok(())
}

/// A daemon has keys in memory and would put them over what is brought back. The claim on the
/// folder finds it out too, unless the folder itself was lost while the daemon ran.
fn refuse_while_served(context: &Context, backup: &Path) -> Outcome {
    let id = offline::backed_up_pool(backup).map_err(problem)?;
    let Ok(status) = context.client().get::<Status>("/v1/status") else { return Ok(()) };
    if status.pool.id != id {
        return Ok(());
    }
    let detail = format!("a daemon (process {}) serves the pool {id}", status.pid);
    Err(Problem::new(ProblemCode::PoolBusy, detail).with_hint("end it first: strongroom shutdown"))
}

/// What `pool upgrade --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Upgrade {
    pool_id: String,
    format_version: u32,
    newest_format_version: u32,
    dry_run: bool,
    changed: bool,
}

pub(in crate::cli) fn upgrade(context: &Context, dry_run: bool) -> Outcome {
    let id: PoolId = offline::pool_id(&config_dir()?, &context.places.pool).map_err(problem)?.0;
    // What opens is of this very version: an older format does not exist, a newer one is refused.
    let version = offline::FORMAT_VERSION;
    let upgrade = Upgrade {
        pool_id: id.to_string(),
        format_version: version,
        newest_format_version: version,
        dry_run,
        changed: false,
    };
    context.out.reply(&upgrade, |u| {
        format!(
            "the pool has format version {}, the newest there is: nothing to do",
            u.format_version
        )
    })
}

pub(in crate::cli) fn new_id(context: &Context) -> Outcome {
    // Every wrap and sealed root of the pool is bound to its identity: changing it would need every
    // customer key at once.
    let pool = context.places.pool.display();
    let detail = format!("{pool}: a pool's identity cannot be changed by this version");
    Err(Problem::new(ProblemCode::Unsupported, detail)
        .with_hint("use a copy on another machine, or with another STRONGROOM_CONFIG"))
}
