//! The extended attributes of one inode.

use crate::base::InodeNo;
use crate::pool::{NameHashKey, name_hash};
use crate::tree::Key;
use crate::verify::files::Wrong;
use crate::volume::items::{XattrHead, inode_flags, xattr_base};

/// Attributes of an inode, taken in chunk by chunk.
#[derive(Default)]
pub(in crate::verify) struct Xattrs {
    /// Bytes of all names, each with its NUL.
    pub list_bytes: usize,
    flags: u32,
    /// The one that is being read: key of its first chunk, the next chunk, bytes still to come.
    open: Option<(u64, u64, usize)>,
    torn: bool,
}

impl Xattrs {
    pub fn take(&mut self, name_key: &NameHashKey, key: Key, value: &[u8], wrong: &mut Wrong<'_>) {
        self.flags |= inode_flags::XATTRS;
        let chunk = key.offset & 0xff;
        if chunk > 0 {
            let expected = self.open.filter(|(at, next, _)| at | next == key.offset);
            match expected
                .and_then(|(at, next, left)| Some((at, next, left.checked_sub(value.len())?)))
            {
                Some((at, next, left)) => self.open = Some((at, next + 1, left)),
                None => self.torn = true,
            }
            return;
        }
        self.close();
        // What cannot be decoded is reported as an item.
        let Ok(head) = XattrHead::decode(value) else { return };
        self.open = Some((key.offset, 1, head.value_bytes - head.first.len()));
        self.list_bytes += head.name.len() + 1;
        self.flags |= match head.name {
            b"security.capability" => inode_flags::CAPABILITY,
            b"system.posix_acl_access" => inode_flags::ACL_ACCESS,
            b"system.posix_acl_default" => inode_flags::ACL_DEFAULT,
            _ => 0,
        };
        if xattr_base(name_hash(name_key, key.object, head.name)) != key.offset & !0xffff {
            let name = String::from_utf8_lossy(head.name).into_owned();
            let why = format!("its attribute '{}' cannot be looked up", name.escape_debug());
            wrong(InodeNo(key.object), why);
        }
    }

    fn close(&mut self) {
        self.torn |= self.open.take().is_some_and(|(.., left)| left > 0);
    }

    /// All were taken in.
    pub fn end(mut self, flags: u32, wrong: &mut dyn FnMut(String)) {
        self.close();
        if self.torn {
            wrong("an extended attribute is not whole".to_owned());
        }
        if flags != self.flags {
            wrong(format!(
                "its flags say {flags:#x} of extended attributes, and there are {:#x}",
                self.flags
            ));
        }
    }
}
