//! What was done with keys, snapshots, clusters, mounts and the pool, and by whom: a line of JSON
//! each, in a file beside the keyring that the owner alone reads. No secret is ever in it: names of
//! clusters and keys, ids, mount points, codes; who is the peer's user as the kernel tells it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::control::{Call, Reply};
use crate::sys;
use crate::sys::sync::{Mutex, Rank};

/// A file beyond this is kept as `audit.log.1`, in place of the one before, and a new one begun.
const BYTES_MAX: u64 = 16 << 20;

/// The audit log of one pool.
pub(in crate::daemon) struct Audit {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Audit {
    /// The log at `path`; it is made with its first line.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: Mutex::new(Rank::AuditFile, None) }
    }

    /// Does something for a peer, and writes down that it did, or why not.
    pub fn record<T>(
        &self,
        call: &Call<'_>,
        event: &str,
        subject: &str,
        work: impl FnOnce() -> Reply<T>,
    ) -> Reply<T> {
        let outcome = work();
        let result = outcome.as_ref().map_or_else(|problem| problem.code.as_str(), |_| "ok");
        self.write(call.peer.uid, call.peer.pid, event, subject, result);
        outcome
    }

    /// Writes down what the daemon did by itself.
    pub fn by_itself(&self, event: &str, subject: &str) {
        self.write(sys::process::euid(), sys::process::pid(), event, subject, "ok");
    }

    fn write(&self, uid: u32, pid: u32, event: &str, subject: &str, result: &str) {
        let line = serde_json::json!({
            "at": sys::clock::now().to_string(),
            "uid": uid,
            "pid": pid,
            "event": event,
            "subject": subject,
            "result": result,
        });
        // What was done is done: a full disk here is no reason to say that it was not.
        if let Err(error) = self.append(&format!("{line}\n")) {
            log::error!("{} cannot be written: {error}; it misses {line}", self.path.display());
        }
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let mut slot = self.file.lock();
        let full = slot.as_ref().map(|f| f.metadata()).transpose()?.map_or(0, |m| m.len());
        if full > BYTES_MAX {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *slot = None;
        }
        let file = match slot.take() {
            Some(file) => file,
            None => self.open()?,
        };
        // One write: lines of it are whole, whoever reads meanwhile.
        let written = (&file).write_all(line.as_bytes()).and_then(|()| file.sync_data());
        *slot = Some(file);
        written
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ProblemCode;
    use crate::control::{Problem, Progress};
    use crate::sys::peer::PeerCredentials;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_line_says_who_did_what_and_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit::new(&path);
        let peer = PeerCredentials { uid: 7, gid: 8, pid: 9, groups: Vec::new() };
        let call = Call { peer: &peer, progress: &Progress::default() };
        assert_eq!(audit.record(&call, "key.disable", "local://k1", || Ok(5)), Ok(5));
        let held = || Err::<(), _>(Problem::new(ProblemCode::Held, "a \"quoted\"\nline"));
        audit.record(&call, "snapshot.delete", "snap-1 \"x\"\n", held).unwrap_err();
        audit.by_itself("snapshot.expire", "snap-2");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = |at: usize, name: &str| lines[at][name].clone();
        assert_eq!(lines.len(), 3, "a line each, whatever stands in it");
        assert_eq!((told(0, "uid"), told(0, "pid")), (7.into(), 9.into()));
        assert_eq!((told(0, "event"), told(0, "result")), ("key.disable".into(), "ok".into()));
        assert_eq!(told(1, "result"), "held");
        assert_eq!(told(1, "subject"), "snap-1 \"x\"\n");
        assert_eq!(told(2, "pid"), sys::process::pid());
        assert!(told(2, "at").as_str().is_some_and(|t| t.ends_with('Z')), "{text}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn a_full_log_is_put_aside_and_nothing_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        std::fs::write(&path, vec![b'x'; BYTES_MAX as usize + 1]).unwrap();
        let audit = Audit::new(&path);
        audit.by_itself("a", "1");
        audit.by_itself("b", "2");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert!(dir.path().join("audit.log.1").exists());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        Audit::new(&link).by_itself("a", "1");
        assert!(!dir.path().join("elsewhere").exists());
    }
}
