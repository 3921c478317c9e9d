//! `daemon`: in this process, or one of its own.

use std::ffi::OsString;

use crate::base::ProblemCode;
use crate::base::size::format_duration;
use crate::cli::args::{Daemon, OnUnreachable, SettingFlags};
use crate::cli::context::{Context, Outcome};
use crate::cli::{passphrase, start};
use crate::control::Problem;
use crate::daemon::config::{self, Given};
use crate::daemon::{Front, Options, Starter};

/// The next step of whoever opened a pool with its recovery key (docs/operating.md).
const OPENS_BY_ITSELF: &str =
    "so that the pool opens by itself again: strongroom root-secret add file:PATH";

pub(in crate::cli) fn run(context: &Context, daemon: Daemon) -> Outcome {
    if daemon.detached {
        let starter = Starter::take_streams().map_err(|e| {
            Problem::new(ProblemCode::Internal, format!("the standard streams: {e}"))
        })?;
        return crate::daemon::run(&options(context, daemon), Front::Detached(starter));
    }
    if daemon.foreground {
        let file = context.globals.passphrase_file.clone();
        let ask = Box::new(move || passphrase::existing(file.as_deref()));
        return crate::daemon::run(&options(context, daemon), Front::Foreground(ask));
    }
    context.places.check_socket()?;
    if context.client().is_served()? {
        let pool = context.places.pool.display();
        return Err(Problem::new(ProblemCode::PoolBusy, format!("another daemon serves {pool}"))
            .with_hint("strongroom status shows it"));
    }
    start::start_detached_with(context, &again(&daemon)?)?;
    context.out.note(&format!("serving {}", context.places.pool.display()));
    if daemon.recovery_key.is_some() {
        context.out.note(OPENS_BY_ITSELF);
    }
    Ok(())
}

fn options(context: &Context, daemon: Daemon) -> Options {
    Options {
        places: context.places.clone(),
        remount: !daemon.no_remount,
        recovery_key: daemon.recovery_key,
        accept_rollback: daemon.accept_rollback,
        flags: given(daemon.settings, context.globals.verbose),
    }
}

fn given(flags: SettingFlags, verbose: u8) -> Given {
    let louder = match verbose {
        0 => None,
        1 => Some("warn,strongroom=debug".to_owned()),
        _ => Some("warn,strongroom=trace".to_owned()),
    };
    Given {
        cache_bytes: flags.cache_bytes,
        key_check_interval: flags.key_check_interval,
        key_grace: flags.key_grace,
        on_unreachable: flags.on_unreachable.map(|what| match what {
            OnUnreachable::Keep => config::OnUnreachable::Keep,
            OnUnreachable::Lock => config::OnUnreachable::Lock,
        }),
        checkpoint_interval: flags.checkpoint_interval,
        admin_group: flags.admin_group,
        log: flags.log.or(louder),
    }
}

/// The arguments of a daemon in a process of its own, which works in another directory.
fn again(daemon: &Daemon) -> Result<Vec<OsString>, Problem> {
    let mut out: Vec<OsString> = Vec::new();
    let mut flag = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            out.push(name.into());
            out.push(value);
        }
    };
    let settings = &daemon.settings;
    let duration = |d: Option<std::time::Duration>| d.map(|d| format_duration(d).into());
    let recovery_key = daemon.recovery_key.as_deref().map(std::path::absolute).transpose();
    let recovery_key = recovery_key
        .map_err(|e| Problem::new(ProblemCode::Usage, format!("the recovery key's path: {e}")))?;
    flag("--recovery-key", recovery_key.map(OsString::from));
    flag("--cache-bytes", settings.cache_bytes.map(|b| b.to_string().into()));
    flag("--key-check-interval", duration(settings.key_check_interval));
    flag("--key-grace", duration(settings.key_grace));
    flag("--checkpoint-interval", duration(settings.checkpoint_interval));
    flag("--admin-group", settings.admin_group.clone().map(OsString::from));
    flag("--log", settings.log.clone().map(OsString::from));
    let on_unreachable = settings.on_unreachable.map(|what| match what {
        OnUnreachable::Keep => "keep",
        OnUnreachable::Lock => "lock",
    });
    flag("--on-unreachable", on_unreachable.map(OsString::from));
    for (set, name) in
        [(daemon.no_remount, "--no-remount"), (daemon.accept_rollback, "--accept-rollback")]
    {
        if set {
            out.push(name.into());
        }
    }
    Ok(out)
}
