//! The same pool, the same application, the service itself, but a mounter whose barrier can be
//! taken out: without it snapshots lack what was written, which is what makes the rounds a proof.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strongroom::base::{ProblemCode, SnapshotId};
use strongroom::daemon::HelperProgram;
use strongroom::daemon::barrier::settle;
use strongroom::daemon::unmount::unmount;
use strongroom::device::{self, Mode};
use strongroom::fuse::{BarrierKind, MountOptions, Session, SessionConfig};
use strongroom::keys::{ConfigDir, Deadline};
use strongroom::service::{
    MountFacts, MountId, MountMeaning, MountOwner, MountRequest, Mounter, OpenService, Service,
    ServiceError, Which,
};
use strongroom::sys::fuse_mount::Unmount;
use strongroom::sys::mount_point::{MountPoint, MountPointRules};
use strongroom::volume::Volume;

use crate::daemon::{CLUSTER, Daemon, content};
use crate::writer::Writer;

const DIR_VARIABLE: &str = "STRONGROOM_TEST_NO_BARRIER";
const ROUNDS: usize = 6;
const OWNER: MountOwner = MountOwner { uid: 0, gid: 0 };

/// Mounts as the daemon does, and settles only where it is told to.
struct Bare {
    kind: BarrierKind,
    settles: bool,
    program: HelperProgram,
    sessions: Mutex<BTreeMap<MountId, Arc<Session>>>,
}

fn failed(error: impl std::fmt::Display) -> ServiceError {
    ServiceError::new(ProblemCode::Internal, error.to_string())
}

impl Mounter for Bare {
    fn check(&self, _: &MountRequest) -> Result<MountMeaning, ServiceError> {
        Ok(MountMeaning::default())
    }

    fn mount(
        &self,
        id: MountId,
        volume: Option<Arc<Volume>>,
        request: &MountRequest,
    ) -> Result<(), ServiceError> {
        let rules = MountPointRules { caller_uid: 0, forbidden: &[], own: &[] };
        let point = MountPoint::open(&request.mountpoint, &rules).map_err(failed)?;
        let config = SessionConfig {
            options: MountOptions::default(),
            source: "strongroom:test".to_owned(),
            barrier: Some(self.kind),
        };
        let session = Session::start(&point, volume, config, Box::new(|| {})).map_err(failed)?;
        self.sessions.lock().unwrap().insert(id, session);
        Ok(())
    }

    fn unlock(&self, _: MountId, _: Arc<Volume>) -> Result<(), ServiceError> {
        Err(failed("nothing is locked here"))
    }

    fn umount(&self, id: MountId, _force: bool) -> Result<(), ServiceError> {
        let session = self.sessions.lock().unwrap().remove(&id).unwrap();
        unmount(&self.program, &session, Unmount::Plain, Duration::from_secs(20)).map_err(failed)
    }

    fn settle(&self, mounts: &[MountId], deadline: Deadline) -> Result<(), ServiceError> {
        if !self.settles {
            return Ok(());
        }
        let sessions: Vec<_> = {
            let all = self.sessions.lock().unwrap();
            mounts.iter().filter_map(|id| all.get(id)).cloned().collect()
        };
        settle(&self.program, &sessions, deadline.remaining()).map(|_| ()).map_err(failed)
    }

    fn facts(&self, _: MountId) -> MountFacts {
        MountFacts::default()
    }
}

/// Not a test: the process that serves. A line in is a snapshot, its answer the snapshot's id.
#[test]
#[ignore = "the serving half of the tests here"]
fn serve() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE).map(PathBuf::from) else { return };
    let bare = Arc::new(Bare {
        kind: match std::env::var("SETUP_KIND").unwrap().as_str() {
            "handle" => BarrierKind::Handle,
            _ => BarrierKind::Invalidate,
        },
        settles: std::env::var_os("SETUP_SETTLES").is_some(),
        program: HelperProgram::new(env!("CARGO_BIN_EXE_strongroom").into()),
        sessions: Mutex::default(),
    });
    let device = device::open(&dir.join("pool"), Mode::ReadWrite).unwrap();
    let config = ConfigDir::new(dir.join("config"));
    let open = OpenService::new(device, dir.join("pool"), config, bare);
    let service = Service::open(open, &mut || None).unwrap();
    let name = CLUSTER.parse().unwrap();
    service.create_cluster(&name, None, OWNER).unwrap();
    let request = MountRequest {
        mountpoint: dir.join("m"),
        options: Vec::new(),
        owner: OWNER,
        cluster_name: name.clone(),
        snapshot: None,
    };
    service.mount(&name, request).unwrap();
    let mut wire = UnixStream::connect(dir.join("wire")).unwrap();
    let which = Which::Named(vec![name]);
    for _line in BufReader::new(wire.try_clone().unwrap()).lines().map_while(Result::ok) {
        let taken = service.create_snapshots(&which, None, "").unwrap();
        writeln!(wire, "{}", taken[0].id).unwrap();
    }
    service.close(false, true).unwrap();
}

fn start(daemon: &Daemon, kind: BarrierKind, settles: bool) -> (Child, BufReader<UnixStream>) {
    let listener = UnixListener::bind(daemon.at("wire")).unwrap();
    let mut command = daemon.command(std::env::current_exe().unwrap().to_str().unwrap());
    if settles {
        command.env("SETUP_SETTLES", "1");
    }
    let child = command
        .args(["--exact", "no_barrier::serve", "--ignored", "--nocapture"])
        .env(DIR_VARIABLE, daemon.at(""))
        .env("SETUP_KIND", kind.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (wire, _) = listener.accept().unwrap();
    (child, BufReader::new(wire))
}

/// In how many files of all rounds' snapshots something else stands than was written.
fn wrong_files(kind: BarrierKind, settles: bool) -> usize {
    let daemon = Daemon::unserved(&[]);
    let (mut child, mut wire) = start(&daemon, kind, settles);
    let mut writer = Writer::new(&daemon.at("m"), 1);
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        writer.work();
        writeln!(wire.get_mut(), "snapshot").unwrap();
        let mut answer = String::new();
        wire.read_line(&mut answer).unwrap();
        taken.push((answer.trim().parse::<SnapshotId>().unwrap(), writer.expected().all));
    }
    drop(writer);
    drop(wire);
    assert!(child.wait().unwrap().success());
    let snapshots = daemon.snapshots_offline();
    let mut wrong = 0;
    for (id, files) in taken {
        let volume = snapshots.volume(id);
        wrong += files.into_iter().filter(|(ino, bytes)| content(&volume, *ino) != *bytes).count();
    }
    wrong
}

#[test]
fn with_the_barrier_taken_out_snapshots_of_a_pool_lack_what_was_written() {
    for kind in [BarrierKind::Handle, BarrierKind::Invalidate] {
        assert_eq!(wrong_files(kind, true), 0, "{kind}");
        assert!(wrong_files(kind, false) > ROUNDS, "{kind}");
    }
}
