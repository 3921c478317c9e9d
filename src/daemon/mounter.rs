//! Mounts for the service, through `fuse`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::base::ProblemCode;
use crate::daemon::barrier;
use crate::daemon::helper::HelperProgram;
use crate::daemon::unmount::{UnmountError, unmount};
use crate::fuse::{BarrierKind, MountOptions, Session, SessionConfig};
use crate::keys::Deadline;
use crate::service::{
    MountFacts, MountId, MountMeaning, MountOwner, MountRequest, Mounter, Service, ServiceError,
};
use crate::sys::fuse_mount::Unmount;
use crate::sys::mount_point::{Cleared, MountPoint, MountPointError, MountPointRules, clear_dead};
use crate::sys::sync::{Mutex, Rank};
use crate::volume::Volume;

/// How long an unmount may take: dirty pages go through the pool first.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// The same with force: who waits is cut off.
const FORCED_TIMEOUT: Duration = Duration::from_secs(20);

/// Why nothing can be mounted there.
fn unsuitable(error: &MountPointError) -> ServiceError {
    let told = ServiceError::new(ProblemCode::MountPoint, error.to_string());
    match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

/// Makes and ends mounts.
pub(in crate::daemon) struct FuseMounter {
    program: HelperProgram,
    /// Directories in which nothing may be mounted.
    forbidden: Vec<PathBuf>,
    sessions: Mutex<BTreeMap<MountId, Arc<Session>>>,
    ending: Arc<Ending>,
    service: Arc<OnceLock<Weak<Service>>>,
}

/// Mounts that are being ended by the service, which closes them itself; and whether their session
/// came to its end meanwhile.
struct Ending(Mutex<BTreeMap<MountId, bool>>);

impl Default for Ending {
    fn default() -> Self {
        Self(Mutex::new(Rank::Ending, BTreeMap::new()))
    }
}

impl Ending {
    fn begin(&self, id: MountId) {
        self.0.lock().entry(id).or_insert(false);
    }

    /// The session has ended: whether who unmounts closes it.
    fn session_ended(&self, id: MountId) -> bool {
        self.0.lock().get_mut(&id).is_some_and(|ended| {
            *ended = true;
            true
        })
    }

    /// The unmount is over, or was given up: whether the session ended under it.
    fn finish(&self, id: MountId) -> bool {
        self.0.lock().remove(&id).unwrap_or(false)
    }
}

impl FuseMounter {
    /// A mounter that keeps out of these directories.
    pub fn new(forbidden: Vec<PathBuf>) -> Self {
        Self {
            program: HelperProgram::default(),
            forbidden,
            sessions: Mutex::new(Rank::Sessions, BTreeMap::new()),
            ending: Arc::default(),
            service: Arc::default(),
        }
    }

    /// Who is told of sessions that end by themselves.
    pub fn report_to(&self, service: &Arc<Service>) {
        let _ = self.service.set(Arc::downgrade(service));
    }

    fn session(&self, id: MountId) -> Option<Arc<Session>> {
        self.sessions.lock().get(&id).cloned()
    }

    fn point(&self, request: &MountRequest) -> Result<MountPoint, ServiceError> {
        let own: Vec<_> =
            self.sessions.lock().values().filter(|s| !s.has_ended()).map(|s| s.device()).collect();
        let rules = MountPointRules {
            caller_uid: request.owner.uid,
            forbidden: &self.forbidden,
            own: &own,
        };
        MountPoint::open(&request.mountpoint, &rules).map_err(|error| unsuitable(&error))
    }

    fn on_end(&self, id: MountId) -> Box<dyn FnOnce() + Send> {
        let (ending, service) = (Arc::clone(&self.ending), Arc::clone(&self.service));
        Box::new(move || {
            if ending.session_ended(id) {
                return;
            }
            log::warn!("a mount ended behind the daemon's back");
            if let Some(service) = service.get().and_then(Weak::upgrade) {
                // Its record stays: only `umount` and `shutdown` forget.
                service.mount_ended(id, false);
            }
        })
    }
}

/// The options of a request, as one who asks for them may have them.
fn options_of(request: &MountRequest) -> Result<MountOptions, ServiceError> {
    let bad = |e: crate::fuse::OptionsError| ServiceError::new(ProblemCode::Usage, e.to_string());
    let options = MountOptions::parse(&request.options.join(",")).map_err(bad)?;
    options.permit(request.owner.uid).map_err(bad)?;
    Ok(if request.snapshot.is_some() { options.for_snapshot() } else { options })
}

impl Mounter for FuseMounter {
    fn check(&self, request: &MountRequest) -> Result<MountMeaning, ServiceError> {
        let options = options_of(request)?;
        drop(self.point(request)?);
        Ok(MountMeaning { read_only: options.read_only, key_wait: options.key_wait })
    }

    fn mount(
        &self,
        id: MountId,
        volume: Option<Arc<Volume>>,
        request: &MountRequest,
    ) -> Result<(), ServiceError> {
        let options = options_of(request)?;
        let point = self.point(request)?;
        let source = match request.snapshot {
            Some(snapshot) => format!("strongroom:{snapshot}"),
            None => format!("strongroom:{}", request.cluster_name),
        };
        let config = SessionConfig { options, source, barrier: None };
        let session = Session::start(&point, volume, config, self.on_end(id))
            .map_err(|e| ServiceError::new(ProblemCode::MountFailed, e.to_string()))?;
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| !session.has_ended());
        sessions.insert(id, session);
        Ok(())
    }

    fn unlock(&self, id: MountId, volume: Arc<Volume>) -> Result<(), ServiceError> {
        let gone = || ServiceError::new(ProblemCode::NotMounted, "the mount has ended");
        if self.session(id).ok_or_else(gone)?.unlock(volume) {
            return Ok(());
        }
        Err(ServiceError::new(ProblemCode::Internal, "the mount has its volume already"))
    }

    fn umount(&self, id: MountId, force: bool) -> Result<(), ServiceError> {
        let Some(session) = self.session(id) else { return Ok(()) };
        self.ending.begin(id);
        let (how, timeout) = if force {
            (Unmount::Forced, FORCED_TIMEOUT)
        } else {
            (Unmount::Plain, UNMOUNT_TIMEOUT)
        };
        let ended = unmount(&self.program, &session, how, timeout);
        // One that ended just as the unmount was given up was left to us.
        if self.ending.finish(id) || session.has_ended() {
            self.sessions.lock().remove(&id);
            return Ok(());
        }
        ended.map_err(|error| {
            let code = match error {
                UnmountError::Busy { .. } | UnmountError::StillInUse { .. } => ProblemCode::Busy,
                UnmountError::Refused { .. } | UnmountError::Helper(_) => ProblemCode::MountFailed,
            };
            let told = ServiceError::new(code, error.to_string());
            if force { told } else { told.with_hint("end what uses it, or: --force") }
        })
    }

    fn clear_dead(&self, place: &Path, owner: MountOwner) -> Result<bool, ServiceError> {
        let own: Vec<_> = self.sessions.lock().values().map(|s| s.device()).collect();
        let rules =
            MountPointRules { caller_uid: owner.uid, forbidden: &self.forbidden, own: &own };
        match clear_dead(place, &rules) {
            Ok(cleared) => Ok(cleared == Cleared::Dead),
            Err(error) => Err(unsuitable(&error)),
        }
    }

    fn settle(&self, mounts: &[MountId], deadline: Deadline) -> Result<(), ServiceError> {
        let sessions: Vec<Arc<Session>> = {
            let all = self.sessions.lock();
            mounts.iter().filter_map(|id| all.get(id)).filter(|s| !s.has_ended()).cloned().collect()
        };
        if sessions.is_empty() {
            return Ok(());
        }
        let settled = barrier::settle(&self.program, &sessions, deadline.remaining());
        let settled =
            settled.map_err(|e| ServiceError::new(ProblemCode::BarrierFailed, e.to_string()))?;
        log::debug!("{} files flushed in {} ms", settled.files, settled.took.as_millis());
        Ok(())
    }

    fn facts(&self, id: MountId) -> MountFacts {
        let Some(session) = self.session(id) else { return MountFacts::default() };
        MountFacts {
            barrier: Some(match session.barrier() {
                BarrierKind::Handle => "handle",
                BarrierKind::Invalidate => "invalidate",
            }),
            capabilities: session.capabilities(),
            waiting_requests: Some(session.waiting_requests()),
            oldest_request: session.oldest_request().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_ends_while_it_is_unmounted_is_closed_by_one_alone() {
        let (ending, id) = (Ending::default(), MountId(1));
        assert!(!ending.session_ended(id), "nobody unmounts it: it is told to the service");
        ending.begin(id);
        assert!(ending.session_ended(id), "left to who unmounts");
        assert!(ending.finish(id), "who learns of it even where the unmount was given up");
        ending.begin(id);
        assert!(!ending.finish(id));
        assert!(!ending.session_ended(id), "after it was given up, told to the service again");
    }
}
