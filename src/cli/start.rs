//! The daemon starts itself: through systemd where its unit is installed, else as a process of its
//! own, outside the caller's session.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::base::ProblemCode;
use crate::cli::context::{Context, Outcome};
use crate::cli::passphrase;
use crate::control::{Client, Problem};
use crate::daemon::handshake::Line;
use crate::daemon::places::{CONFIG_VARIABLE, systemd_escape_path};
use crate::sys;

/// How long a daemon that somebody else starts may take until it serves.
const OTHERS_START: Duration = Duration::from_secs(30);
/// After so long, whoever waits for it is told.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// How long an ending daemon may take: its last checkpoint may wait for a slow device.
const END_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(30);
const POLL_MAX: Duration = Duration::from_secs(1);

/// A client of a daemon that serves the pool, started where there was none.
pub(in crate::cli) fn ensure(context: &Context) -> Result<Client, Problem> {
    context.places.check_socket()?;
    let client = context.client();
    if client.is_served()? {
        return Ok(client);
    }
    if context.globals.no_start {
        let pool = context.places.pool.display();
        return Err(Problem::new(ProblemCode::NoDaemon, format!("no daemon serves {pool}"))
            .with_hint(format!("strongroom --pool {pool} daemon")));
    }
    if through_systemd(context) {
        start_unit(context, &client)?
    } else {
        start_detached(context)?
    }
    Ok(client)
}

/// The unit knows the pool alone: what else somebody chose must go another way.
fn through_systemd(context: &Context) -> bool {
    let units = ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"];
    sys::process::euid() == 0
        && !context.places.socket_chosen
        && context.globals.passphrase_file.is_none()
        && std::env::var_os(CONFIG_VARIABLE).is_none()
        && Path::new("/run/systemd/system").is_dir()
        && units.iter().any(|d| Path::new(d).join("systemd/system/strongroom@.service").exists())
}

fn start_unit(context: &Context, client: &Client) -> Outcome {
    let unit = format!("strongroom@{}.service", systemd_escape_path(&context.places.pool));
    let systemctl = |arguments: &[&str]| {
        let output = Command::new("systemctl").args(arguments).stdin(Stdio::null()).output();
        output.map_err(|e| Problem::new(ProblemCode::NoDaemon, format!("systemctl: {e}")))
    };
    if systemctl(&["start", &unit])?.status.success() {
        return wait_until_served(client);
    }
    let told = systemctl(&["show", "--property=StatusText", "--value", &unit])?;
    let told = String::from_utf8_lossy(&told.stdout).trim().to_owned();
    let why = if told.is_empty() { "it said nothing".to_owned() } else { told };
    Err(Problem::new(ProblemCode::NoDaemon, format!("{unit} did not start: {why}"))
        .with_hint(format!("journalctl -u '{unit}'")))
}

fn wait_until_served(client: &Client) -> Outcome {
    let end = sys::clock::monotonic() + OTHERS_START;
    while sys::clock::monotonic() < end {
        if client.is_served()? {
            return Ok(());
        }
        sys::clock::sleep(POLL);
    }
    let shown = client.socket().display();
    Err(Problem::new(
        ProblemCode::NoDaemon,
        format!("a daemon is there, but does not serve {shown}"),
    ))
}

/// Starts a detached daemon and waits until it serves, or says why it does not.
pub(in crate::cli) fn start_detached(context: &Context) -> Outcome {
    start_detached_with(context, &[])
}

/// The same with more arguments of `daemon`. Where somebody else has the pool, it is either one who
/// was faster and whose daemon will do, or one who is just ending.
pub(in crate::cli) fn start_detached_with(context: &Context, arguments: &[OsString]) -> Outcome {
    let begin = sys::clock::monotonic();
    let mut pause = POLL;
    let mut told = false;
    loop {
        match start_once(context, arguments) {
            Err(problem) if problem.code == ProblemCode::PoolBusy => {
                if context.client().is_served()? {
                    return Ok(());
                }
                let waited = sys::clock::monotonic() - begin;
                if waited >= OTHERS_START {
                    return Err(problem.with_hint(format!(
                        "{} does not answer for it: name the socket of the daemon that has the pool by \
                         --socket, or end that daemon",
                        context.places.socket.display()
                    )));
                }
                if waited >= TOLD_AFTER && !told {
                    context.out.note(&format!("waiting: {}", problem.detail));
                    told = true;
                }
                sys::clock::sleep(pause);
                pause = (pause * 2).min(POLL_MAX);
            }
            outcome => return outcome,
        }
    }
}

fn start_once(context: &Context, arguments: &[OsString]) -> Outcome {
    let failed =
        |e| Problem::new(ProblemCode::NoDaemon, format!("a daemon cannot be started: {e}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("--pool").arg(&context.places.pool);
    if context.places.socket_chosen {
        command.arg("--socket").arg(&context.places.socket);
    }
    command.args(["daemon", "--detached"]).args(arguments);
    let child = command
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    follow(child, context)
}

/// Reads what a starting daemon says, line by line, and hands it the passphrase if it asks.
fn follow(mut child: Child, context: &Context) -> Outcome {
    let silent = || {
        let detail = "the daemon ended while it started, and did not say why";
        Problem::new(ProblemCode::NoDaemon, detail)
            .with_hint("strongroom daemon --foreground shows more")
    };
    let mut input = child.stdin.take();
    let output = child.stdout.take().ok_or_else(silent)?;
    for line in BufReader::new(output).lines() {
        match Line::parse(&line.map_err(|_| silent())?) {
            Some(Line::Ready) => return Ok(()),
            Some(Line::NeedPassphrase) => {
                let passphrase = passphrase::existing(context.globals.passphrase_file.as_deref())?;
                // Closing the pipe ends the passphrase.
                let Some(mut input) = input.take() else { return Err(silent()) };
                input.write_all(&passphrase).map_err(|_| silent())?;
            }
            Some(Line::Failed(problem)) => {
                let _ = child.wait();
                return Err(problem);
            }
            None => {}
        }
    }
    let _ = child.wait();
    Err(silent())
}

/// Waits until the daemon's process is gone.
pub(in crate::cli) fn wait_until_ended(pid: u32) -> Outcome {
    let end = sys::clock::monotonic() + END_TIMEOUT;
    while is_running(pid) {
        if sys::clock::monotonic() > end {
            return Err(Problem::new(
                ProblemCode::Busy,
                format!("the daemon (process {pid}) does not end"),
            )
            .with_hint("its log says what it waits for"));
        }
        sys::clock::sleep(POLL);
    }
    Ok(())
}

/// Whether a process runs: one that ended and was not yet waited for does not.
fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_does_not_run() {
        assert!(is_running(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        wait_until_ended(child.id()).unwrap();
        child.wait().unwrap();
        assert!(!is_running(child.id()));
    }
}
