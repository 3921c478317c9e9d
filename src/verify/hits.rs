//! What a finding hits: whose tree, which file, which part of it.

use std::fmt;

use crate::base::InodeNo;
use crate::base::limits::FILE_BYTES_MAX;
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

impl Hit {
    /// As it is told, without the name of a file.
    pub(in crate::verify) fn nameless(&self) -> String {
        let perhaps = if self.locked { " (locked), perhaps" } else { "" };
        let file = self.file.as_ref().map(|file| match file.range {
            Some((offset, bytes)) => {
                format!(": inode {}, {}", file.inode, part(offset, bytes))
            }
            None => format!(": inode {}, its attributes or names", file.inode),
        });
        format!("{}{perhaps}{}", self.owner, file.unwrap_or_default())
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
            Some((offset, bytes)) => write!(f, ", {}", part(offset, bytes)),
            None => f.write_str(", its attributes or names"),
        }
    }
}

/// A part of a file; what a lost leaf covers may have no end but the file's.
fn part(offset: u64, bytes: u64) -> String {
    match offset.saturating_add(bytes) >= FILE_BYTES_MAX {
        true => format!("from offset {offset} on"),
        false => format!("{bytes} bytes at offset {offset}"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockAddr, ClusterId};
    use crate::verify::findings::{Defect, Finding, Severity};

    #[test]
    fn a_line_for_the_log_names_inode_and_range_and_no_file() {
        let owner = Owner::Cluster(ClusterId([1; 16]), "db".parse().unwrap());
        let path = Some(b"/secret".to_vec());
        let file = FileHit { inode: InodeNo(7), path, names: 1, range: Some((4096, 512)) };
        let hit = Hit { owner: owner.clone(), file: Some(file), locked: false };
        let why = "its entry 'secret' cannot be looked up".to_owned();
        for defect in [
            Defect::Device { addr: BlockAddr(3), blocks: 1, why: "no".to_owned() },
            Defect::File { owner, inode: InodeNo(7), why },
        ] {
            let (severity, hits) = (Severity::Damage, vec![hit.clone()]);
            let finding = Finding { severity, defect, hits, hits_left_out: 0 };
            assert!(finding.to_string().contains("secret"));
            let line = finding.nameless();
            assert!(!line.contains("secret"), "{line}");
            assert!(
                line.ends_with("; hits cluster db: inode 7, 512 bytes at offset 4096"),
                "{line}"
            );
        }
    }
}
