//! What a finding hits: whose tree, which file, which part of it.

use std::fmt;

use crate::base::InodeNo;
use crate::verify::findings::Owner;

/// Hits kept of one finding; more are counted.
pub(in crate::verify) const HITS_MAX: usize = 32;

/// A file, or a part of one, that a finding concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHit {
    /// The inode.
    pub inode: InodeNo,
    /// The first of its names, from the root directory on; what cannot be read of it is `?`. `None`
    /// for an inode whose name cannot be found.
    pub path: Option<Vec<u8>>,
    /// Names that lead to it.
    pub names: u64,
    /// Bytes of its content: offset and length. `None`: what is kept of it beside its content.
    pub range: Option<(u64, u64)>,
}

/// Something that a finding concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Whose tree.
    pub owner: Owner,
    /// The file; `None`: the tree itself, or one that is locked.
    pub file: Option<FileHit>,
    /// It cannot be looked into, and may reach the blocks concerned.
    pub locked: bool,
}

impl Hit {
    /// A tree as a whole.
    pub(in crate::verify) const fn tree(owner: Owner) -> Self {
        Self { owner, file: None, locked: false }
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.owner)?;
        if self.locked {
            f.write_str(" (locked: its names cannot be read without its key), perhaps")?;
        }
        let Some(file) = &self.file else { return Ok(()) };
        match &file.path {
            Some(path) => write!(f, ": {}", printable(path))?,
            None => f.write_str(": a file that has no name, or none that can be read")?,
        }
        match file.names {
            0 | 1 => write!(f, " (inode {})", file.inode)?,
            names => write!(f, " (inode {}, {names} names)", file.inode)?,
        }
        match file.range {
            Some((offset, bytes)) => write!(f, ", {bytes} bytes at offset {offset}"),
            None => f.write_str(", its attributes or names"),
        }
    }
}

/// A path for people: bytes that no terminal should get are escaped.
#[must_use]
pub fn printable(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
