//! copy_file_range: within the daemon, holes kept. Data is copied, since a block has one reference
//! in a tree (engine rule 23).

use crate::base::limits::FILE_BYTES_MAX;
use crate::base::units::{BLOCK_SIZE_U64, InodeNo};
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};
use crate::volume::extents::BLOCKS_END;

/// Bytes copied at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes copied by one call; the caller asks again for the rest.
const CALL_BYTES_MAX: u64 = 64 << 20;

impl Volume {
    /// Copies up to `len` bytes. Returns how many: fewer at the end of the source, or of what one
    /// call does.
    ///
    /// # Errors
    /// `Invalid` where the ranges overlap in one file; those of `read` and `write`, where nothing
    /// was copied yet.
    pub fn copy_file_range(
        &self,
        ino_in: InodeNo,
        offset_in: u64,
        ino_out: InodeNo,
        offset_out: u64,
        len: u64,
    ) -> Result<u64> {
        let _visit = self.enter_to_change()?;
        let source = self.file(ino_in)?;
        let target = self.file(ino_out)?;
        let size = source.item()?.size;
        let len = len.min(CALL_BYTES_MAX).min(size.saturating_sub(offset_in));
        if ino_in == ino_out && offset_in.abs_diff(offset_out) < len {
            return Err(VolumeError::Invalid);
        }
        if offset_out.checked_add(len).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(VolumeError::TooLarge);
        }
        let mut done = 0;
        while done < len {
            let (from, to) = (offset_in + done, offset_out + done);
            let first = from / BLOCK_SIZE_U64;
            let frozen = self.freeze(&source, first, BLOCKS_END)?;
            let end = (offset_in + len).div_ceil(BLOCK_SIZE_U64);
            let data = frozen.next_data(ino_in, first, end)?.unwrap_or(end) * BLOCK_SIZE_U64;
            let step = if data > from {
                let step = (data - from).min(len - done);
                let _op = target.op.lock();
                target.state.lock().check_lost()?;
                self.finish_truncation(&target)?;
                self.drop_privileges(&target)?;
                self.zero_range(&target, to, to + step, true).map(|()| step)
            } else {
                let mut bytes = Vec::new();
                let want = CHUNK_BYTES.min(len - done) as usize;
                self.read(ino_in, from, want, &mut |b| bytes.extend_from_slice(b))?;
                if bytes.is_empty() {
                    break;
                }
                self.write_inode(&target, to, &bytes, false).map(|()| bytes.len() as u64)
            };
            match step {
                Ok(step) => done += step,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}
