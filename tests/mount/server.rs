//! The process that serves a mount for a test, and the test's end of the wire to it.
//!
//! The server is this very test program, started again to run the one ignored test below. It takes
//! commands, a line each, from a Unix socket, and answers each with a line; it unmounts and ends
//! when the socket closes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strongroom::base::units::InodeNo;
use strongroom::daemon::HelperProgram;
use strongroom::daemon::barrier::settle;
use strongroom::daemon::unmount::unmount;
use strongroom::fuse::{BarrierKind, MountOptions, Session, SessionConfig};
use strongroom::sys::clock;
use strongroom::sys::fuse_mount::Unmount;
use strongroom::sys::mount_point::{MountPoint, MountPointRules};
use strongroom::sys::mount_table::{self, ConnectionAbort};
use strongroom::volume::Volume;

use crate::backing::Hooked;

const SERVER_VARIABLE: &str = "STRONGROOM_TEST_SERVER";
const PATIENCE: Duration = Duration::from_secs(20);

/// How a mount is to be served.
#[derive(Clone, Debug)]
pub struct Setup {
    pub options: &'static str,
    pub kind: BarrierKind,
    /// How long each write takes, in milliseconds.
    pub delay_ms: u64,
    /// The server runs as this user and group, with nothing that root may; it then chooses its
    /// barrier by itself.
    pub user: Option<u32>,
    /// Without a volume, until the server is told to unlock.
    pub locked: bool,
    /// Inodes that the daemon holds in memory beyond those in use.
    pub cached_inodes: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            options: "",
            kind: BarrierKind::Handle,
            delay_ms: 0,
            user: None,
            locked: false,
            cached_inodes: 32_768,
        }
    }
}

/// A mount, served by a process of its own.
pub struct Mount {
    dir: tempfile::TempDir,
    server: Child,
    wire: BufReader<UnixStream>,
    refused: Option<String>,
}

impl Mount {
    pub fn new(setup: &Setup) -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::create_dir(dir.path().join("m")).unwrap();
        let mut command = server_command(setup, &dir);
        let server = command
            .env(SERVER_VARIABLE, dir.path())
            .env("SETUP_OPTIONS", setup.options)
            .env(
                "SETUP_KIND",
                if setup.user.is_some() { String::new() } else { setup.kind.to_string() },
            )
            .env("SETUP_LOCKED", setup.locked.to_string())
            .env("SETUP_DELAY", setup.delay_ms.to_string())
            .env("SETUP_CACHED", setup.cached_inodes.to_string())
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let wire = connect(&dir.path().join("wire"));
        let mut mount = Self { dir, server, wire: BufReader::new(wire), refused: None };
        let said = mount.line();
        mount.refused = said.strip_prefix("refused ").map(str::to_owned);
        assert!(said == "ready" || mount.refused.is_some(), "{said}");
        mount
    }

    /// Why there is no mount after all.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("m")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.wire.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// One command, one answer.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.wire.get_mut(), "{command}").unwrap();
        self.line()
    }

    /// One command, whose answer nobody waits for.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.wire.get_mut(), "{command}").unwrap();
    }

    /// The barrier; its answer begins with `ok` where it held.
    pub fn settle(&mut self) -> String {
        self.ask("settle")
    }

    /// What the daemon holds of a file, whatever the kernel has.
    pub fn content(&mut self, ino: u64) -> Vec<u8> {
        let length: usize = self.ask(&format!("content {ino}")).parse().unwrap();
        let mut bytes = vec![0u8; length];
        self.wire.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// SIGKILL; whether the process and all its threads were gone soon after.
    pub fn kill(&mut self) -> bool {
        self.server.kill().unwrap();
        self.server_ends(Duration::from_secs(10))
    }

    pub fn server_ends(&mut self, within: Duration) -> bool {
        let deadline = clock::monotonic() + within;
        while clock::monotonic() < deadline {
            if self.server.try_wait().unwrap().is_some() {
                return true;
            }
            clock::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The end of the wire ends the server; what is left over is taken away, and said.
        let _ = self.wire.get_mut().shutdown(std::net::Shutdown::Both);
        let ended = self.server_ends(PATIENCE);
        if !ended {
            let _ = self.server.kill();
        }
        let path = self.dir();
        let mut left = 0;
        while mount_table::mount_at(&path).unwrap().is_some() && left < 8 {
            left += 1;
            let _ = Command::new("umount").arg("-l").arg(&path).status();
        }
        if !std::thread::panicking() {
            assert!(ended, "the server did not end by itself");
        }
    }
}

fn server_command(setup: &Setup, dir: &tempfile::TempDir) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match setup.user {
        None => Command::new(program),
        Some(user) => {
            for path in [dir.path().to_owned(), dir.path().join("m")] {
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
            let mut command = Command::new("setpriv");
            command
                .args([format!("--reuid={user}"), format!("--regid={user}")])
                .args(["--clear-groups", "--bounding-set=-dac_read_search"])
                .arg(program);
            command
        }
    };
    command.args(["--exact", "server::serve", "--ignored", "--nocapture"]);
    command
}

fn connect(path: &Path) -> UnixStream {
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(clock::monotonic() < deadline, "no server: {error}"),
        }
        clock::sleep(Duration::from_millis(5));
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Not a test: the server. It does nothing unless a test has started it.
#[test]
#[ignore = "the serving half of the other tests"]
fn serve() {
    let Some(dir) = std::env::var_os(SERVER_VARIABLE).map(PathBuf::from) else { return };
    let number = |name| variable(name).parse::<u32>().unwrap();
    let (volume, hooked) =
        Hooked::volume(number("SETUP_DELAY").into(), number("SETUP_CACHED") as usize);
    let user = nix::unistd::geteuid().as_raw();
    let rules = MountPointRules { caller_uid: user, forbidden: &[], own: &[] };
    let point = MountPoint::open(&dir.join("m"), &rules).unwrap();
    let barrier = match variable("SETUP_KIND").as_str() {
        "invalidate" => Some(BarrierKind::Invalidate),
        "handle" => Some(BarrierKind::Handle),
        _ => None,
    };
    let config = SessionConfig {
        options: MountOptions::parse(&variable("SETUP_OPTIONS")).unwrap(),
        source: "strongroom:test".to_owned(),
        barrier,
    };
    let locked = variable("SETUP_LOCKED") == "true";
    let served = (!locked).then(|| Arc::clone(&volume));
    let session = Session::start(&point, served, config, Box::new(|| {}));
    let listener = UnixListener::bind(dir.join("wire")).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            writeln!(stream, "refused {error}").unwrap();
            return;
        }
    };
    let program = HelperProgram::new(env!("CARGO_BIN_EXE_strongroom").into());
    stream.write_all(b"ready\n").unwrap();
    let commands = BufReader::new(stream.try_clone().unwrap());
    for command in commands.lines().map_while(Result::ok) {
        let answer = obey(&command, &program, &session, &volume, &hooked);
        if stream.write_all(&answer).is_err() {
            break;
        }
    }
    let _ = unmount(&program, &session, Unmount::Forced, Duration::from_secs(5));
}

fn obey(
    command: &str,
    program: &HelperProgram,
    session: &Arc<Session>,
    volume: &Arc<Volume>,
    hooked: &Hooked,
) -> Vec<u8> {
    let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
    let text = match word {
        "settle" => {
            let sessions = std::slice::from_ref(session);
            match settle(program, sessions, Duration::from_secs(60)) {
                Ok(settled) => format!("ok {}", settled.files),
                Err(error) => format!("error {error}"),
            }
        }
        "settle-within-ms" => {
            let timeout = Duration::from_millis(rest.parse().unwrap());
            match settle(program, std::slice::from_ref(session), timeout) {
                Ok(settled) => format!("ok {}", settled.files),
                Err(error) => format!("error {error}"),
            }
        }
        "content" => {
            let mut bytes = Vec::new();
            let ino = InodeNo(rest.parse().unwrap());
            let read = volume.read(ino, 0, 8 << 20, &mut |b| bytes.extend_from_slice(b));
            read.unwrap();
            let mut answer = format!("{}\n", bytes.len()).into_bytes();
            answer.extend_from_slice(&bytes);
            return answer;
        }
        "unmount" => {
            let how = match rest {
                "lazy" => Unmount::Lazy,
                "forced" => Unmount::Forced,
                _ => Unmount::Plain,
            };
            match unmount(program, session, how, Duration::from_secs(3)) {
                Ok(()) => "ok".to_owned(),
                Err(error) => format!("error {error}"),
            }
        }
        "unlock" => session.unlock(Arc::clone(volume)).to_string(),
        "barrier" => session.barrier().to_string(),
        "device" => session.device().to_string(),
        "abort" => match session.connection_abort().and_then(ConnectionAbort::abort) {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("error {error}"),
        },
        "ended" => session.has_ended().to_string(),
        "wait-end" => session.wait_for_end(Duration::from_secs(5)).to_string(),
        "looked-up" => volume.inodes_looked_up().to_string(),
        "open-for-writing" => session.write_handles().len().to_string(),
        "panics" => strongroom::base::counters::FUSE_PANICS.get().to_string(),
        "rot" => {
            hooked.rot(rest.parse().unwrap());
            "ok".to_owned()
        }
        "commits" => hooked.commits.load(Ordering::SeqCst).to_string(),
        "requests" => strongroom::base::counters::FUSE_REQUESTS.get().to_string(),
        _ => format!("error unknown command {word}"),
    };
    format!("{text}\n").into_bytes()
}
