//! A pool on the disk, served by the daemon that users have, and spoken to as they do.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom::base::{InodeNo, SnapshotId};
use strongroom::catalog::{Catalog, Target};
use strongroom::control::{Client, Problem};
use strongroom::crypto;
use strongroom::device::{self, Mode};
use strongroom::keys::{AtHand, ConfigDir, open_engine_key};
use strongroom::pool::{self, OpenOptions};
use strongroom::sys::{clock, mount_table};
use strongroom::volume::{Volume, VolumeOptions};

/// The cluster that every test writes to.
pub const CLUSTER: &str = "db";
const POOL_SIZE: &str = "2G";
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes from a process and all it starts what opening files by handle needs.
const WITHOUT_HANDLES: [&str; 3] =
    ["setpriv", "--bounding-set=-dac_read_search", "--inh-caps=-dac_read_search"];

/// A directory with a pool, its configuration, and two mount points: `m` and `r`.
pub struct Daemon {
    dir: tempfile::TempDir,
    /// Words before each command.
    prefix: &'static [&'static str],
}

impl Daemon {
    /// A pool of whoever runs this, its cluster mounted on `m`.
    pub fn new() -> Self {
        Self::start(&[])
    }

    /// The same, served by a daemon that cannot open files by handle.
    pub fn without_handles() -> Self {
        Self::start(&WITHOUT_HANDLES)
    }

    fn start(prefix: &'static [&'static str]) -> Self {
        let daemon = Self::unserved(prefix);
        daemon.sr(&["cluster", "create", CLUSTER]);
        daemon.mount();
        daemon
    }

    /// A pool that nobody serves yet.
    pub fn unserved(prefix: &'static [&'static str]) -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let daemon = Self { dir, prefix };
        for place in ["m", "r"] {
            std::fs::create_dir(daemon.at(place)).unwrap();
        }
        daemon.sr(&["init", "--size", POOL_SIZE]);
        daemon
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mount(&self) {
        self.sr(&["mount", CLUSTER, self.at("m").to_str().unwrap()]);
    }

    /// A command to be run in this pool's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut words = self.prefix.iter().copied().chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .env("STRONGROOM_POOL", self.at("pool"))
            .env("STRONGROOM_CONFIG", self.at("config"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; what it printed.
    pub fn sr(&self, arguments: &[&str]) -> String {
        let mut command = self.command(env!("CARGO_BIN_EXE_strongroom"));
        let output = command.args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(self.at("pool").join("control.sock"))
    }

    pub fn status(&self) -> Value {
        self.client().get("/v1/status").unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.status()["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// How this mount's snapshots get at what the kernel holds.
    pub fn barrier(&self) -> String {
        self.status()["mounts"][0]["barrier"].as_str().unwrap().to_owned()
    }

    /// Restores a snapshot by mounting it on `r`.
    pub fn restore(&self, snapshot: SnapshotId) {
        self.sr(&["restore", &snapshot.to_string(), self.at("r").to_str().unwrap()]);
    }

    pub fn end_restore(&self) {
        self.sr(&["umount", self.at("r").to_str().unwrap()]);
    }

    /// Ends the daemon, and checks all that it left.
    pub fn shut_down(&self) {
        self.sr(&["shutdown"]);
        self.sr(&["check"]);
    }

    /// What snapshots hold, read past the kernel: files without a name too. Nobody may serve the
    /// pool meanwhile.
    pub fn snapshots_offline(&self) -> Snapshots {
        Snapshots::open(&self.at("pool"), &self.at("config"))
    }

    /// SIGKILL. Whether the process, with all its threads, was gone soon after.
    pub fn kill(&self, pid: u32) -> bool {
        let process = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
        within(PATIENCE, || !is_alive(pid))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut command = self.command(env!("CARGO_BIN_EXE_strongroom"));
        let _ = command.args(["shutdown", "--force"]).output();
        for place in ["r", "m"] {
            let place = self.at(place);
            while mount_table::mount_at(&place).is_ok_and(|mount| mount.is_some()) {
                if !Command::new("umount").arg("-l").arg(&place).status().unwrap().success() {
                    break;
                }
            }
        }
    }
}

/// Asks for a snapshot over the socket.
pub fn take(client: &Client) -> Result<SnapshotId, Problem> {
    let body = json!({ "clusters": [CLUSTER] });
    let answer: Value = client.send("POST", "/v1/snapshots", &body, &mut |_, _| ())?;
    Ok(answer["results"][0]["id"].as_str().unwrap().parse().unwrap())
}

/// Waits until something is true.
pub fn within(patience: Duration, mut what: impl FnMut() -> bool) -> bool {
    let deadline = clock::monotonic() + patience;
    while !what() {
        if clock::monotonic() >= deadline {
            return false;
        }
        clock::sleep(Duration::from_millis(5));
    }
    true
}

/// Whether a process is there, other than as one that only has to be waited for.
pub fn is_alive(pid: u32) -> bool {
    // The first thread is a zombie from its end on, the process only once the last has ended: its
    // sockets are open until then.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads > 1
        || std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// Helper processes of this daemon, and of no other.
pub fn helpers_of(daemon: u32) -> BTreeSet<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    let numbers = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| {
            let parent = std::fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|s| s.lines().any(|line| line == format!("PPid:\t{daemon}")));
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            parent && line.split(|b| *b == 0).any(|word| word == b"__helper")
        })
        .collect()
}

/// Lets anybody do as an ordinary user: nobody's temporary files, his `/dev/fuse`.
pub fn home_of(user: u32) -> tempfile::TempDir {
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(home.path().join("run")).unwrap();
    for place in [home.path().to_owned(), home.path().join("run")] {
        chown(place, Some(user), Some(user)).unwrap();
    }
    home
}

/// The snapshots of a pool that nobody serves.
pub struct Snapshots {
    catalog: Arc<Catalog>,
}

impl Snapshots {
    fn open(pool: &Path, config: &Path) -> Self {
        let device = device::open(pool, Mode::ReadWrite).unwrap();
        let sealed = pool::probe(&device).unwrap();
        let folder = ConfigDir::new(config).pool(&sealed.pool_id());
        let (engine_key, _) =
            open_engine_key(&sealed.pool_id(), sealed.wraps(), &folder, &AtHand::default())
                .unwrap();
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let pool = sealed.unlock(engine_key, options).unwrap();
        Self { catalog: Catalog::open(pool).unwrap() }
    }

    /// A snapshot as a volume.
    pub fn volume(&self, id: SnapshotId) -> Arc<Volume> {
        let header = self.catalog.header(Target::Snapshot(id)).unwrap();
        let cluster = self.catalog.snapshot(id).unwrap().cluster;
        let secret = header.keys.plain.as_ref().expect("these clusters have no customer key");
        let pool = self.catalog.pool().id();
        let key =
            crypto::cluster_key(secret, &header.keys.salt, &pool, &cluster, header.keys.ck_id);
        let (view, names, _reader) = self.catalog.open_snapshot(id, &key).unwrap().into_parts();
        Volume::open_view(view, names, VolumeOptions::default()).unwrap()
    }
}

/// A file's bytes, by its number.
pub fn content(volume: &Volume, ino: u64) -> Vec<u8> {
    let ino = InodeNo(ino);
    let size = volume.getattr(ino).unwrap().size as usize;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let (at, rest) = (bytes.len(), size - bytes.len());
        volume.read(ino, at as u64, rest, &mut |part| bytes.extend_from_slice(part)).unwrap();
        assert!(bytes.len() > at, "a read before the end gives nothing");
    }
    bytes
}
