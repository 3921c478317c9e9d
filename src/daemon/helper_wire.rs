//! What the daemon and its helper processes say to each other: one request through the helper's
//! standard input, one answer through its standard output, each preceded by its length.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::sys::fuse_mount::Unmount;
use crate::sys::mount_table::DeviceNumber;

/// First argument of a process that is a helper.
pub(super) const HELPER_ARGUMENT: &str = "__helper";

/// Longest message, in bytes: the open files of a very large database, many times over.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const PATH_BYTES_MAX: usize = 64 << 10;

/// Files of one mounted filesystem, by inode number and generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountFiles {
    pub device: DeviceNumber,
    pub files: Vec<(u64, u32)>,
}

/// What a helper is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HelperRequest {
    /// Have the kernel write all dirty pages of these files, and wait for it.
    Settle(Vec<MountFiles>),
    /// Unmount the filesystem wherever it is mounted.
    Unmount { device: DeviceNumber, how: Unmount },
    /// Abort the connection should the thread that started this helper die, until a byte comes.
    Guard { device: DeviceNumber, parent: u32 },
}

/// At what a helper failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Reaching the mount.
    Mount,
    /// Opening a file.
    Open,
    /// Starting writeback.
    Start,
    /// Waiting for writeback.
    Wait,
    /// Unmounting.
    Unmount,
}

/// What a helper answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HelperAnswer {
    /// Everything is written. `gone`: files that the kernel knows no more, by the mount's place in
    /// the request and inode number.
    Settled { gone: Vec<(u32, u64)> },
    /// One call failed: at the mount with this place in the request, for this inode.
    Failed { stage: Stage, mount: u32, inode: u64, errno: i32 },
    /// It is not mounted (any more).
    Unmounted,
    /// Somebody uses it, at this place.
    Busy(PathBuf),
    /// A tool refused, with these words.
    Refused(String),
    /// The guard stands.
    Armed,
}

fn put_device(w: &mut Writer, device: DeviceNumber) {
    w.u32(device.major).u32(device.minor);
}

fn get_device(r: &mut Reader<'_>) -> Result<DeviceNumber, DecodeError> {
    Ok(DeviceNumber { major: r.u32()?, minor: r.u32()? })
}

impl HelperRequest {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Settle(mounts) => {
                w.u8(1).u32(mounts.len() as u32);
                for mount in mounts {
                    put_device(&mut w, mount.device);
                    w.u32(mount.files.len() as u32);
                    for (inode, generation) in &mount.files {
                        w.u64(*inode).u32(*generation);
                    }
                }
            }
            Self::Unmount { device, how } => {
                w.u8(2);
                put_device(&mut w, *device);
                w.u8(match how {
                    Unmount::Plain => 0,
                    Unmount::Lazy => 1,
                    Unmount::Forced => 2,
                });
            }
            Self::Guard { device, parent } => {
                w.u8(3);
                put_device(&mut w, *device);
                w.u32(*parent);
            }
        }
        w.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let request = match r.u8()? {
            1 => {
                let mut mounts = Vec::new();
                for _ in 0..r.u32()? {
                    let device = get_device(&mut r)?;
                    let mut files = Vec::new();
                    for _ in 0..r.u32()? {
                        files.push((r.u64()?, r.u32()?));
                    }
                    mounts.push(MountFiles { device, files });
                }
                Self::Settle(mounts)
            }
            2 => Self::Unmount {
                device: get_device(&mut r)?,
                how: match r.u8()? {
                    0 => Unmount::Plain,
                    1 => Unmount::Lazy,
                    2 => Unmount::Forced,
                    _ => return Err(DecodeError::Field("how")),
                },
            },
            3 => Self::Guard { device: get_device(&mut r)?, parent: r.u32()? },
            _ => return Err(DecodeError::Field("request")),
        };
        r.finish()?;
        Ok(request)
    }

    /// # Errors
    /// The pipe's.
    pub(super) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        send(to, &self.encode())
    }

    /// # Errors
    /// The pipe's; `InvalidData` for what is no request.
    pub(super) fn receive(from: &mut impl Read) -> io::Result<Self> {
        Self::decode(&receive(from)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

impl HelperAnswer {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Settled { gone } => {
                w.u8(1).u32(gone.len() as u32);
                for (mount, inode) in gone {
                    w.u32(*mount).u64(*inode);
                }
            }
            Self::Failed { stage, mount, inode, errno } => {
                w.u8(2).u8(*stage as u8).u32(*mount).u64(*inode).u32(errno.unsigned_abs());
            }
            Self::Unmounted => {
                w.u8(3);
            }
            Self::Busy(path) => {
                w.u8(4).sized(path.as_os_str().as_bytes());
            }
            Self::Refused(said) => {
                w.u8(5).sized(said.as_bytes());
            }
            Self::Armed => {
                w.u8(6);
            }
        }
        w.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let answer = match r.u8()? {
            1 => {
                let mut gone = Vec::new();
                for _ in 0..r.u32()? {
                    gone.push((r.u32()?, r.u64()?));
                }
                Self::Settled { gone }
            }
            2 => Self::Failed {
                stage: match r.u8()? {
                    0 => Stage::Mount,
                    1 => Stage::Open,
                    2 => Stage::Start,
                    3 => Stage::Wait,
                    4 => Stage::Unmount,
                    _ => return Err(DecodeError::Field("stage")),
                },
                mount: r.u32()?,
                inode: r.u64()?,
                errno: i32::try_from(r.u32()?).map_err(|_| DecodeError::Field("errno"))?,
            },
            3 => Self::Unmounted,
            4 => Self::Busy(OsString::from_vec(r.sized(PATH_BYTES_MAX)?.to_vec()).into()),
            5 => Self::Refused(String::from_utf8_lossy(r.sized(PATH_BYTES_MAX)?).into_owned()),
            6 => Self::Armed,
            _ => return Err(DecodeError::Field("answer")),
        };
        r.finish()?;
        Ok(answer)
    }

    /// # Errors
    /// The pipe's.
    pub(super) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        send(to, &self.encode())
    }

    /// # Errors
    /// The pipe's; `InvalidData` for what is no answer.
    pub(super) fn receive(from: &mut impl Read) -> io::Result<Self> {
        Self::decode(&receive(from)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

fn send(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|n| *n as usize <= MESSAGE_BYTES_MAX);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(body)?;
    to.flush()
}

fn receive(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0u8; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body)?;
    if body.len() == length { Ok(body) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip_request(request: &HelperRequest) {
        let mut bytes = Vec::new();
        request.send(&mut bytes).unwrap();
        assert_eq!(&HelperRequest::receive(&mut bytes.as_slice()).unwrap(), request);
        for cut in 0..bytes.len() {
            assert!(HelperRequest::receive(&mut &bytes[..cut]).is_err());
        }
    }

    #[test]
    fn every_message_reads_back_and_none_reads_cut_short() {
        let device = DeviceNumber { major: 0, minor: 77 };
        round_trip_request(&HelperRequest::Settle(vec![
            MountFiles { device, files: vec![(1 << 40, 1), (2, 1)] },
            MountFiles { device, files: vec![] },
        ]));
        for how in [Unmount::Plain, Unmount::Lazy, Unmount::Forced] {
            round_trip_request(&HelperRequest::Unmount { device, how });
        }
        round_trip_request(&HelperRequest::Guard { device, parent: 4711 });
        let stages = [Stage::Mount, Stage::Open, Stage::Start, Stage::Wait, Stage::Unmount];
        let mut answers: Vec<_> = stages
            .map(|stage| HelperAnswer::Failed { stage, mount: 3, inode: 1 << 50, errno: 116 })
            .to_vec();
        answers.extend([
            HelperAnswer::Settled { gone: vec![(0, 5), (1, 6)] },
            HelperAnswer::Unmounted,
            HelperAnswer::Busy("/mnt/a b".into()),
            HelperAnswer::Refused("no".to_owned()),
            HelperAnswer::Armed,
        ]);
        for answer in answers {
            let mut bytes = Vec::new();
            answer.send(&mut bytes).unwrap();
            assert_eq!(HelperAnswer::receive(&mut bytes.as_slice()).unwrap(), answer);
            for cut in 0..bytes.len() {
                assert!(HelperAnswer::receive(&mut &bytes[..cut]).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = HelperRequest::decode(&bytes);
            let _ = HelperAnswer::decode(&bytes);
            let _ = HelperRequest::receive(&mut bytes.as_slice());
        }
    }
}
