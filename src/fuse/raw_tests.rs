//! Requests that no kernel of today sends, over a socket that stands for `/dev/fuse`: an opcode
//! that is not known is answered "not implemented", and the session goes on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::fuse::dispatch::Dispatch;
use crate::fuse::invalidate::Invalidator;
use crate::fuse::options::MountOptions;
use crate::fuse::session::begin;
use crate::sys::threads;

const ENOSYS: i32 = -nix::libc::ENOSYS;
const GETATTR: u32 = 3;
const INIT: u32 = 26;

/// A request as the kernel lays it out (linux/fuse.h, `fuse_in_header`).
fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(40 + body.len() as u32).to_ne_bytes());
    out.extend_from_slice(&opcode.to_ne_bytes());
    out.extend_from_slice(&unique.to_ne_bytes());
    out.extend_from_slice(&1u64.to_ne_bytes());
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(body);
    out
}

/// The kernel's end.
struct Kernel(UnixStream);

impl Kernel {
    fn send(&mut self, opcode: u32, unique: u64, body: &[u8]) {
        self.0.write_all(&request(opcode, unique, body)).unwrap();
    }

    /// The error of the answer to a request.
    fn answer(&mut self, unique: u64) -> i32 {
        let mut bytes = [0; 4096];
        let len = self.0.read(&mut bytes).expect("an answer");
        assert!(len >= 16, "the session ended");
        assert_eq!(bytes[8..16], unique.to_ne_bytes(), "to another request");
        i32::from_ne_bytes(bytes[4..8].try_into().unwrap())
    }
}

#[test]
fn an_unknown_opcode_never_ends_the_session() {
    // Messages keep their bounds, as requests of the kernel do.
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let mut kernel = Kernel(UnixStream::from(ours));
    kernel.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut init = Vec::new();
    for number in [7u32, 40, 1 << 20, u32::MAX] {
        init.extend_from_slice(&number.to_ne_bytes());
    }
    init.resize(64, 0);
    kernel.send(INIT, 1, &init);
    let dispatch = Arc::new(Dispatch::new(
        "raw".to_owned(),
        None,
        MountOptions::parse("").unwrap().disabled,
        true,
        Arc::new(Invalidator::default()),
    ));
    let session = begin(dispatch, theirs).unwrap();
    assert_eq!(kernel.answer(1), 0);
    let serving = threads::spawn("raw", move || session.run());
    // TMPFILE, STATX and their successors; numbers that were never given; the largest.
    let unknown = (51..80).chain([99, 1000, 4094, 65_535, 1 << 31, u32::MAX]);
    for (unique, opcode) in (10..).zip(unknown) {
        kernel.send(opcode, unique, &[0xff; 64]);
        assert_eq!(kernel.answer(unique), ENOSYS, "opcode {opcode}");
        // Every thread of the session is as good as before: there are fewer than opcodes.
        kernel.send(GETATTR, unique + 1000, &[0; 16]);
        assert_eq!(kernel.answer(unique + 1000), -nix::libc::ENOKEY, "after opcode {opcode}");
    }
    drop(kernel);
    let _ = serving.join().unwrap();
}
