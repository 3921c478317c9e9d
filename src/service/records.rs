//! The record of mounts, in the configuration directory: a daemon that starts after a crash or a
//! reboot makes them again.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::cursor::Reader;
use crate::base::{ClusterId, ProblemCode, SnapshotId, codec};
use crate::keys::{read_private, write_private};
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::mounts::{Entry, MountOwner, MountRequest, Subject};

const FILE_BYTES_MAX: u64 = codec::RECORD_BYTES_MAX as u64;

/// One mount, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::service) struct Record {
    cluster: [u8; 16],
    snapshot: Option<u64>,
    mountpoint: Vec<u8>,
    options: Vec<String>,
    uid: u32,
    gid: u32,
}

/// One that is recorded, and not there.
#[derive(Clone, Debug)]
pub(in crate::service) struct Absent {
    record: Record,
    /// Why it was not made again, where that was tried.
    why: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Records {
    version: u32,
    mounts: Vec<Record>,
}

const VERSION: u32 = 1;

/// What is recorded, beside what is mounted.
#[derive(Default)]
pub(in crate::service) struct Recorded {
    /// Mounts that are not there.
    absent: Vec<Absent>,
    /// The file is of a later version, or cannot be read: it is kept for whoever can, and nothing is
    /// recorded.
    left_alone: bool,
}

fn decode(bytes: &[u8]) -> Result<Vec<Record>, String> {
    // What follows it is not known of a later version.
    match Reader::new(bytes).u32() {
        Ok(version) if version > VERSION => Err(format!("it is of a later version, {version}")),
        _ => codec::decode::<Records>(bytes).map(|r| r.mounts).map_err(|e| e.to_string()),
    }
}

impl Record {
    fn of(entry: &Entry) -> Self {
        Self {
            cluster: entry.cluster_id.0,
            snapshot: entry.request.snapshot.map(|s| s.0),
            mountpoint: entry.request.mountpoint.as_os_str().as_bytes().to_vec(),
            options: entry.request.options.clone(),
            uid: entry.request.owner.uid,
            gid: entry.request.owner.gid,
        }
    }
}

impl Record {
    fn subject(&self) -> Subject {
        let cluster = Subject::Cluster(ClusterId(self.cluster));
        self.snapshot.map_or(cluster, |id| Subject::Snapshot(SnapshotId(id)))
    }
}

impl Service {
    /// Writes down what is mounted now, and what is recorded and could not be mounted. A failure is
    /// logged: the mounts themselves are fine.
    pub(in crate::service) fn write_records(&self) {
        self.write_with(&mut self.records.lock());
    }

    fn write_with(&self, recorded: &mut Recorded) {
        let mut mounts: Vec<Record> =
            self.mounts.lock().iter().map(|(_, entry)| Record::of(entry)).collect();
        let absent = &mut recorded.absent;
        absent.retain(|old| mounts.iter().all(|new| new.mountpoint != old.record.mountpoint));
        mounts.extend(absent.iter().map(|old| old.record.clone()));
        self.put_records(recorded, &Records { version: VERSION, mounts });
    }

    /// A mount has ended: it is forgotten, or made again at the next start.
    pub(in crate::service) fn record_ended(&self, entry: &Entry, forget: bool) {
        let mut recorded = self.records.lock();
        if !forget {
            recorded.absent.push(Absent { record: Record::of(entry), why: None });
        }
        self.write_with(&mut recorded);
    }

    /// Nothing is mounted at the next start.
    pub(in crate::service) fn forget_all_records(&self) {
        let mut recorded = self.records.lock();
        recorded.absent.clear();
        self.write_with(&mut recorded);
    }

    fn put_records(&self, recorded: &mut Recorded, records: &Records) {
        let path = self.config.mounts();
        // Until somebody takes it away: what is mounted then is recorded again.
        recorded.left_alone &= path.try_exists().unwrap_or(true);
        if recorded.left_alone {
            log::warn!("'{}' is left as it is: mounts are not recorded", path.display());
            return;
        }
        let written = codec::encode(records)
            .map_err(|e| e.to_string())
            .and_then(|bytes| write_private(&path, &bytes).map_err(|e| e.to_string()));
        if let Err(error) = written {
            log::warn!("the mounts will not be made again by themselves: {error}");
        }
    }

    fn read_records(&self) -> Recorded {
        let path = self.config.mounts();
        let read = read_private(&path, FILE_BYTES_MAX).map_err(|e| e.to_string());
        match read.and_then(|bytes| bytes.map_or_else(|| Ok(Vec::new()), |bytes| decode(&bytes))) {
            Ok(records) => {
                let absent = |record| Absent { record, why: None };
                Recorded { absent: records.into_iter().map(absent).collect(), left_alone: false }
            }
            Err(why) => {
                log::error!(
                    "the mounts recorded in '{}' are not made again, and none is recorded until it \
                     is out of the way: {why}",
                    path.display()
                );
                Recorded { absent: Vec::new(), left_alone: true }
            }
        }
    }

    /// Takes in what an earlier run recorded.
    pub(in crate::service) fn load_records(&self) {
        *self.records.lock() = self.read_records();
    }

    /// What is not mounted, and was to be mounted at the next start, is not: it was unmounted by
    /// name.
    pub(in crate::service) fn forget_absent(&self, meant: impl Fn(Subject, &[u8]) -> bool) {
        let mut recorded = self.records.lock();
        recorded.absent.retain(|a| !meant(a.record.subject(), &a.record.mountpoint));
        self.write_with(&mut recorded);
    }

    /// A deleted cluster's head is not mounted again.
    pub(in crate::service) fn forget_records_of(&self, cluster: ClusterId) {
        let mut recorded = self.records.lock();
        recorded.absent.retain(|a| a.record.cluster != cluster.0 || a.record.snapshot.is_some());
        self.write_with(&mut recorded);
    }

    /// Makes the recorded mounts again, each for itself: one that fails is logged and told, and
    /// stays recorded, but for what is not there any more (a deletion that ended in an error, or in a
    /// crash, before its records were forgotten). Returns mount point and error of those that failed.
    #[must_use]
    pub fn remount(&self) -> Vec<(PathBuf, ServiceError)> {
        // All stay recorded until they are there: a crash in the middle loses none.
        let recorded: Vec<Record> =
            self.records.lock().absent.iter().map(|absent| absent.record.clone()).collect();
        let mut failed = Vec::new();
        for record in recorded {
            let place = PathBuf::from(OsString::from_vec(record.mountpoint.clone()));
            match self.mount_again(&record, place.clone()) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {
                    log::warn!("the mount on '{}' is forgotten: {error}", place.display());
                    self.forget_absent(|subject, at| {
                        subject == record.subject() && at == record.mountpoint
                    });
                }
                Err(error) => {
                    log::error!("'{}' was not mounted again: {error}", place.display());
                    self.note_why(&record, &error);
                    failed.push((place, error));
                }
            }
        }
        failed
    }

    fn note_why(&self, record: &Record, error: &ServiceError) {
        let why = error.to_string();
        let mut recorded = self.records.lock();
        if let Some(absent) = recorded.absent.iter_mut().find(|absent| absent.record == *record) {
            absent.why = Some(why);
        }
    }

    /// What kept a cluster from being mounted again is over.
    pub(in crate::service) fn forget_why_absent(&self, cluster: ClusterId) {
        let mut recorded = self.records.lock();
        let of_cluster = |a: &&mut Absent| a.record.subject() == Subject::Cluster(cluster);
        recorded.absent.iter_mut().filter(of_cluster).for_each(|absent| absent.why = None);
    }

    /// What to do about the mounts that could not be made again, a line each.
    pub(in crate::service) fn mounts_not_made_again(&self) -> Vec<String> {
        let absent = self.records.lock().absent.clone();
        let told = |Absent { record, why }: Absent| {
            let (why, subject) = (why?, record.subject());
            let again = match subject {
                Subject::Snapshot(id) => format!("restore {id}"),
                Subject::Cluster(id) => {
                    let clusters = self.catalog.clusters().ok()?;
                    format!("mount {}", clusters.into_iter().find(|c| c.id == id)?.name)
                }
            };
            let place = PathBuf::from(OsString::from_vec(record.mountpoint));
            let place = place.display();
            Some(format!(
                "{place} was not mounted again: {why}; once that is mended: strongroom {again} \
                 {place}; where it is wanted no more: strongroom umount {place}"
            ))
        };
        absent.into_iter().filter_map(told).collect()
    }

    fn mount_again(&self, record: &Record, mountpoint: PathBuf) -> Result<(), ServiceError> {
        let id = ClusterId(record.cluster);
        let options = record.options.clone();
        let owner = MountOwner { uid: record.uid, gid: record.gid };
        let subject = record.subject();
        match subject {
            Subject::Snapshot(snapshot) => {
                let info = self.catalog.snapshot(snapshot)?;
                let request = MountRequest {
                    mountpoint,
                    options,
                    owner,
                    cluster_name: info.cluster_name,
                    snapshot: Some(snapshot),
                };
                let meaning = self.mounter.check(&request)?;
                let mount = self.reserve_mount(subject, info.cluster, request, meaning)?;
                let opened = self.open_snapshot(snapshot);
                self.finish_mount(mount, opened).map(|_| ())
            }
            Subject::Cluster(_) => {
                let all = self.catalog.clusters()?;
                let cluster = all.into_iter().find(|c| c.id == id);
                let cluster = cluster.ok_or(crate::catalog::CatalogError::ClusterGone(id))?;
                let name = cluster.name.clone();
                let request = MountRequest {
                    mountpoint,
                    options,
                    owner,
                    cluster_name: name.clone(),
                    snapshot: None,
                };
                self.mount(&name, request).map(|_| ())
            }
        }
    }
}

/// Whether what was to be mounted was deleted.
fn is_gone(error: &ServiceError) -> bool {
    matches!(error.code, ProblemCode::ClusterNotFound | ProblemCode::SnapshotNotFound)
}

/// For `src/fuzzing`: the file of mounts.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let Ok(records) = codec::decode::<Records>(bytes) else { return };
    assert!(codec::encode(&records).is_ok_and(|again| again == bytes), "records come back");
}

/// For `src/fuzzing`: such a file.
#[cfg(any(test, fuzzing))]
#[must_use]
pub fn fuzz_seed() -> Vec<u8> {
    let mount = |snapshot| Record {
        cluster: [7; 16],
        snapshot,
        mountpoint: b"/srv/db".to_vec(),
        options: vec!["noatime".into(), "allow_other".into()],
        uid: 0,
        gid: 100,
    };
    let records = Records { version: VERSION, mounts: vec![mount(None), mount(Some(3))] };
    codec::encode(&records).unwrap_or_default()
}
