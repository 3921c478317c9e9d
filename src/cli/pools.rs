//! `status`, `shutdown`, `pool ...`, `root-secret ...`

use serde::Serialize;

use crate::base::ProblemCode;
use crate::base::size::format_size;
use crate::cli::args::{PoolCommand, RootSecretCommand};
use crate::cli::clusters::cluster_table;
use crate::cli::context::{Context, Outcome};
use crate::cli::dead_mounts::{self, dead_table};
use crate::cli::keys::{key_table, not_backed_up};
use crate::cli::output::{self, facts, next_steps, or_dash, table};
use crate::cli::words::SecretSpec;
use crate::cli::{offline, passphrase, start};
use crate::control::Problem;
use crate::control::types::{
    AddRootSecret, DeadMount, Empty, GrowPool, List, Mount, Pool, PoolState, RemoveRootSecret,
    RootSecret, Shutdown, Status,
};

pub(in crate::cli) fn status(context: &Context, refresh: bool) -> Outcome {
    context.places.check_socket()?;
    let path = format!("/v1/status?refresh={refresh}");
    let mut status: Status = match context.client().get(&path) {
        Err(problem) if problem.code == ProblemCode::NoDaemon => {
            return not_running(context, problem);
        }
        answer => answer?,
    };
    env!("CARGO_PKG_VERSION").clone_into(&mut status.version);
    status.dead_mounts = dead_mounts::find();
    status.next_steps.extend(dead_mounts::next_steps(&status.dead_mounts));
    if !context.out.json {
        status.next_steps.iter_mut().for_each(|step| *step = context.out.with_flags_in(step));
    }
    context.out.reply(&status, status_text)?;
    context.out.warn_of(&status.warnings);
    Ok(())
}

/// What `status --json` prints where there is no daemon.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NotRunning {
    dead_mounts: Vec<DeadMount>,
    next_steps: Vec<String>,
}

/// A daemon makes its mounts again when it starts, so that is the next step with dead mounts, too.
fn not_running(context: &Context, problem: Problem) -> Outcome {
    let dead_mounts = dead_mounts::find();
    let again =
        (!dead_mounts.is_empty()).then(|| "a daemon that starts makes its mounts again".to_owned());
    let next_steps = again.into_iter().chain(dead_mounts::next_steps(&dead_mounts)).collect();
    let found = NotRunning { dead_mounts, next_steps };
    let text = |found: &NotRunning| {
        let mut parts = vec!["daemon: not running".to_owned()];
        if !found.dead_mounts.is_empty() {
            parts.push(dead_table(&found.dead_mounts));
        }
        parts.extend(output::next_steps(&found.next_steps));
        parts.join("\n\n")
    };
    context.out.print(&context.out.rendered(&found, text))?;
    let pool = &context.places.pool;
    if matches!(pool.try_exists(), Ok(false)) {
        let told = format!("{}: it does not exist", problem.detail);
        return Err(Problem::new(problem.code, told).with_hint(
            "name the pool by --pool; only where there never was one: strongroom init",
        ));
    }
    Err(problem.with_hint(format!("strongroom --pool {} daemon", pool.display())))
}

fn status_text(s: &Status) -> String {
    let mut parts = vec![facts(vec![
        ("daemon", format!("running, process {}, version {}", s.pid, s.daemon_version)),
        ("pool", s.pool.path.clone()),
        ("pool id", s.pool.id.to_string()),
        ("state", state_text(&s.pool)),
        ("size", format_size(s.pool.size_bytes)),
        ("used", format_size(s.pool.used_bytes)),
        ("free", format_size(s.pool.free_bytes)),
        ("becoming free", format_size(s.pool.pending_free_bytes)),
        ("format version", s.format_version.to_string()),
        ("last checkpoint", format!("{} at {}", s.pool.generation, or_dash(s.last_checkpoint_at))),
    ])];
    if !s.clusters.is_empty() {
        parts.push(cluster_table(&s.clusters));
    }
    if !s.mounts.is_empty() {
        parts.push(mount_table(&s.mounts));
    }
    if !s.dead_mounts.is_empty() {
        parts.push(dead_table(&s.dead_mounts));
    }
    if !s.keys.is_empty() {
        parts.push(key_table(&s.keys));
    }
    if !s.background.is_empty() {
        let rows = s.background.iter().map(|b| vec![b.kind.clone(), b.detail.clone()]);
        parts.push(table(&["background work", ""], rows.collect()));
    }
    if s.keys_not_backed_up > 0 {
        parts.push(not_backed_up(s.keys_not_backed_up));
    }
    parts.extend(next_steps(&s.next_steps));
    parts.join("\n\n")
}

fn state_text(pool: &Pool) -> String {
    let state = match pool.state {
        PoolState::Ok => "ok",
        PoolState::ReadOnly => "read-only",
        PoolState::Degraded => "degraded",
    };
    match &pool.reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    }
}

fn mount_table(mounts: &[Mount]) -> String {
    let rows = mounts.iter().map(|m| {
        let what = m.snapshot_id.map_or_else(|| m.cluster_name.to_string(), |id| id.to_string());
        let waiting = m.waiting_requests.filter(|w| *w > 0);
        let waits = waiting.map(|w| format!("{w} requests, oldest {} ms", m.oldest_request_ms));
        vec![
            m.mountpoint.clone(),
            what,
            m.options.join(","),
            or_dash(m.barrier.clone()),
            or_dash(waits),
        ]
    });
    table(&["mounted at", "what", "options", "barrier", "waiting"], rows.collect())
}

pub(in crate::cli) fn shutdown(context: &Context, force: bool) -> Outcome {
    context.places.check_socket()?;
    let client = context.client();
    let status: Status = client.get("/v1/status").map_err(|p| match p.code {
        ProblemCode::NoDaemon => p.with_hint("there is nothing to shut down"),
        _ => p,
    })?;
    client.send::<_, Empty>("POST", "/v1/shutdown", &Shutdown { force }, &mut |_, _| ())?;
    start::wait_until_ended(status.pid)?;
    context.out.reply(&Empty {}, |_| "the daemon ended; everything is unmounted".to_owned())
}

pub(in crate::cli) fn pool(context: &Context, command: PoolCommand) -> Outcome {
    let pool: Pool = match command {
        PoolCommand::Grow { size } => {
            context.post("/v1/pool/grow", &GrowPool { size_bytes: size })?
        }
        PoolCommand::Resume => resume(context)?,
        PoolCommand::Upgrade { dry_run } => return offline::upgrade(context, dry_run),
        PoolCommand::NewId => return offline::new_id(context),
    };
    context.out.reply(&pool, |p| {
        let (size, free) = (format_size(p.size_bytes), format_size(p.free_bytes));
        format!("pool {}: {size}, {free} free, {}", p.path, state_text(p))
    })
}

/// A daemon whose pool went read-only ends, and the next one reads what the device holds.
fn resume(context: &Context) -> Result<Pool, Problem> {
    let status: Status = context.get("/v1/status")?;
    let pool: Pool = context.post("/v1/pool/resume", &Empty {})?;
    if status.pool.state != PoolState::ReadOnly {
        return Ok(pool);
    }
    start::wait_until_ended(status.pid)?;
    Ok(context.get::<Status>("/v1/status")?.pool)
}

pub(in crate::cli) fn root_secret(context: &Context, command: RootSecretCommand) -> Outcome {
    let list: List<RootSecret> = match command {
        RootSecretCommand::Show => context.get("/v1/root-secrets")?,
        RootSecretCommand::Add { spec, new_passphrase_file } => {
            let request = match (&spec, &new_passphrase_file) {
                (SecretSpec::Recovery, _) => {
                    let detail = "a recovery key is made by init alone";
                    return Err(Problem::new(ProblemCode::Usage, detail).with_hint(
                        "root-secret add file:PATH makes a key file to keep elsewhere",
                    ));
                }
                (SecretSpec::Passphrase, file) => {
                    let flag = "--new-passphrase-file";
                    let new = passphrase::new("passphrase", file.as_deref(), flag)?;
                    let text = std::str::from_utf8(&new).map_err(|_| {
                        Problem::new(ProblemCode::Usage, "the new passphrase is not UTF-8")
                    })?;
                    AddRootSecret { spec: spec.to_string(), passphrase: Some(text.to_owned()) }
                }
                (_, Some(_)) => {
                    let detail = "--new-passphrase-file goes with passphrase alone";
                    return Err(Problem::new(ProblemCode::Usage, detail));
                }
                (_, None) => AddRootSecret { spec: spec.to_string(), passphrase: None },
            };
            context.post("/v1/root-secrets", &request)?
        }
        RootSecretCommand::Remove { spec } => {
            let known: List<RootSecret> = context.get("/v1/root-secrets")?;
            let as_shown = known.results.iter().any(|s| s.spec == spec.typed);
            let named = if as_shown { spec.typed } else { spec.spec.to_string() };
            let request = RemoveRootSecret { spec: named };
            context.post("/v1/root-secrets/remove", &request)?
        }
    };
    context.out.reply(&list, |list| {
        let rows = list.results.iter().map(|r| vec![r.spec.clone(), r.kind.clone()]);
        table(&["opens the pool", "kind"], rows.collect())
    })
}
