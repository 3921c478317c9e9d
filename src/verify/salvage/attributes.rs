//! Attributes of inodes: read from the tree, given to what was made.

use std::ops::ControlFlow;

use crate::base::InodeNo;
use crate::sys::new_tree::{Attributes, Unkept};
use crate::tree::Key;
use crate::verify::salvage::report::{Of, Report};
use crate::verify::salvage::source::{Met, Source};
use crate::volume::FileKind;
use crate::volume::attr::mode_bits;
use crate::volume::items::{InodeItem, XattrHead, kind};

/// Chunks of one attribute stand in keys that differ in these bits.
const CHUNK_BITS: u64 = 0xff;

/// Names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// An attribute that is being put together.
struct Partial {
    base: u64,
    next: u64,
    bytes: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Partial {
    fn is_whole(&self) -> bool {
        self.value.len() == self.bytes
    }
}

/// The extended attributes of an inode that can be read; whether those are all.
pub(super) fn xattrs(source: &Source, ino: InodeNo) -> (Xattrs, bool) {
    let (mut found, mut whole) = (Xattrs::new(), true);
    let mut open: Option<Partial> = None;
    let (from, to) = (Key::new(ino.0, kind::XATTR, 0), Key::new(ino.0, kind::XATTR, u64::MAX));
    let mut end = |open: &mut Option<Partial>, whole: &mut bool| match open.take() {
        Some(done) if done.is_whole() => found.push((done.name, done.value)),
        Some(_) => *whole = false,
        None => {}
    };
    source.range(from, to, &mut |met| {
        let (key, value) = match met {
            Met::Item(key, value) => (key, value),
            Met::Gap(_) => {
                whole = false;
                return ControlFlow::Continue(());
            }
        };
        let (base, chunk) = (key.offset & !CHUNK_BITS, key.offset & CHUNK_BITS);
        if chunk > 0 {
            match &mut open {
                Some(part) if (part.base, part.next) == (base, chunk) => {
                    part.value.extend_from_slice(value);
                    part.next += 1;
                }
                _ => whole = false,
            }
            return ControlFlow::Continue(());
        }
        end(&mut open, &mut whole);
        match XattrHead::decode(value) {
            Ok(head) => {
                let (name, first) = (head.name.to_vec(), head.first.to_vec());
                let bytes = head.value_bytes;
                open = Some(Partial { base, next: 1, bytes, name, value: first });
            }
            Err(_) => whole = false,
        }
        ControlFlow::Continue(())
    });
    end(&mut open, &mut whole);
    (found, whole)
}

/// The target of a symbolic link, if all of it can be read.
pub(super) fn target(source: &Source, ino: InodeNo, item: &InodeItem) -> Option<Vec<u8>> {
    let mut target = Vec::new();
    let (from, to) = (Key::new(ino.0, kind::SYMLINK, 0), Key::new(ino.0, kind::SYMLINK, u64::MAX));
    source.range(from, to, &mut |met| {
        if let Met::Item(_, chunk) = met {
            target.extend_from_slice(chunk);
        }
        // Longer than it is: nobody needs the rest.
        if target.len() as u64 > item.size {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    // Its length says whether a gap holds some of it.
    (target.len() as u64 == item.size && !target.is_empty()).then_some(target)
}

/// What an inode's item says, for the system.
pub(super) fn of_item<'a>(item: &InodeItem, xattrs: &'a Xattrs) -> Attributes<'a> {
    Attributes {
        mode: item.mode & mode_bits::PERM,
        owner: (item.uid, item.gid),
        accessed: (item.atime.secs, item.atime.nanos),
        modified: (item.mtime.secs, item.mtime.nanos),
        xattrs,
    }
}

/// Says which attributes the system did not take, and which the place could not.
pub(super) fn tell(unkept: &Unkept, mode: u32, of: &Of<'_>, report: &mut Report) {
    if let Some(error) = &unkept.failed {
        report.cannot_write(of, format!("attributes: {error}"));
    }
    if unkept.owner {
        report.not_kept("owner and group", of);
        let set_id = mode & (mode_bits::SUID | mode_bits::SGID) != 0;
        if set_id && FileKind::from_mode(mode) == Some(FileKind::File) {
            report.not_kept("set-ID bits", of);
        }
    }
    if unkept.mode {
        report.not_kept("permissions", of);
    }
    if unkept.times {
        report.not_kept("times", of);
    }
    for name in &unkept.xattrs {
        report.not_kept(sort_of(name), of);
    }
}

/// Attributes by who may set them: of names there may be any number.
fn sort_of(name: &[u8]) -> &'static str {
    let sorts = [
        (&b"user."[..], "attributes in user."),
        (b"trusted.", "attributes in trusted."),
        (b"security.", "attributes in security."),
        (b"system.posix_acl_", "access control lists"),
    ];
    let of = sorts.iter().find(|(space, _)| name.starts_with(space));
    of.map_or("other attributes", |(_, sort)| sort)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn what_the_place_could_not_take_counts_as_not_written_and_not_as_refused() {
        let mode = 0o104_755;
        let of = Of { owner: "cluster db", path: Some(b"/f"), inode: None };
        let mut report = Report::default();
        let failed = Some(io::Error::from_raw_os_error(libc::ENOSPC));
        tell(&Unkept { failed, ..Unkept::default() }, mode, &of, &mut report);
        assert_eq!((report.not_written.len(), report.not_kept.len()), (1, 0));
        assert!(report.not_written[0].line().starts_with("cluster db: /f: attributes: No space"));
        let xattrs = vec![b"security.selinux".to_vec()];
        let unkept = Unkept { owner: true, xattrs, ..Unkept::default() };
        tell(&unkept, mode, &of, &mut report);
        let sorts: Vec<_> = report.not_kept.iter().map(|kept| kept.what.as_str()).collect();
        assert_eq!(sorts, ["owner and group", "set-ID bits", "attributes in security."]);
        assert_eq!(report.not_written.len(), 1);
    }
}
