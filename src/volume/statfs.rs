//! Space, as statfs shows it: the pool's, with its reserve taken out of what is available.

use crate::base::units::BLOCK_SIZE_U64;
use crate::volume::Volume;
use crate::volume::attr::StatFs;
use crate::volume::error::Result;

impl Volume {
    /// Space of the pool. What waits in the write buffer has space promised to it.
    ///
    /// # Errors
    /// `Locked`.
    pub fn statfs(&self) -> Result<StatFs> {
        let _visit = self.enter()?;
        let mut space = self.backing.space();
        let waiting = self.buffer.bytes() / BLOCK_SIZE_U64;
        space.blocks_free = space.blocks_free.saturating_sub(waiting);
        space.blocks_available = space.blocks_available.min(space.blocks_free);
        if !self.backing.writable() {
            space.blocks_available = 0;
        }
        Ok(space)
    }
}
