//! A disk with a write cache that loses power: a FUSE filesystem with one file, `pool.img`, for
//! `scripts/kills.sh --power`.
//!
//! Usage: `volatile-disk MOUNT_POINT BACKING`. What is written stays in memory until `fsync`, which puts
//! it into the file BACKING. A number written to the file `power` cuts the power: of what was not
//! flushed, that number decides what the medium kept. That is any subset, of whole writes or of their
//! sectors of 512 bytes, each sector as some write of it left it: what `device` assumes of a medium.
//! What is discarded is gone from the medium at once. Until `on` is written to `power`, every request
//! fails. Reading `power` tells what was cut so far.

mod fuse;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strongroom::base::sequence::Sequence;
use strongroom::sys::clock;

const SECTOR: usize = 512;
/// How long a flush takes: as on a disk, most power cuts come before the end of one.
const FLUSH: Duration = Duration::from_millis(2);

type Sector = [u8; SECTOR];

/// One write that was not flushed.
struct Write {
    sector: u64,
    data: Vec<u8>,
}

impl Write {
    fn range(&self) -> Range<u64> {
        let start = self.sector * SECTOR as u64;
        start..start + self.data.len() as u64
    }

    fn sectors(&self) -> impl Iterator<Item = (u64, Sector)> + '_ {
        let whole = self.data.as_chunks::<SECTOR>().0;
        (self.sector..).zip(whole.iter().copied())
    }
}

/// What power cuts did.
#[derive(Default)]
struct Tally {
    cuts: u64,
    sectors: u64,
    lost: u64,
    /// Bytes.
    discarded: u64,
}

struct Disk {
    backing: File,
    powered: bool,
    /// `None` until the image is made.
    size: Option<u64>,
    /// In the order in which they came.
    unflushed: Vec<Write>,
    /// The newest of each sector, over what the backing has.
    newest: BTreeMap<u64, Sector>,
    tally: Tally,
}

impl Disk {
    fn needs_power(&self) -> io::Result<()> {
        if self.powered { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.needs_power()?;
        let end = self.size.unwrap_or(0).min(offset + len as u64);
        let len = usize::try_from(end.saturating_sub(offset)).map_err(io::Error::other)?;
        let first = offset / SECTOR as u64;
        let skipped = usize::try_from(offset - first * SECTOR as u64).map_err(io::Error::other)?;
        let mut sectors = vec![[0; SECTOR]; (skipped + len).div_ceil(SECTOR)];
        self.backing.read_exact_at(sectors.as_flattened_mut(), first * SECTOR as u64)?;
        for (at, newest) in self.newest.range(first..first + sectors.len() as u64) {
            let index = usize::try_from(at - first).map_err(io::Error::other)?;
            sectors[index] = *newest;
        }
        Ok(sectors.as_flattened()[skipped..skipped + len].to_vec())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.needs_power()?;
        let sector = SECTOR as u64;
        let whole = offset.is_multiple_of(sector) && data.len().is_multiple_of(SECTOR);
        if !whole || offset + data.len() as u64 > self.size.unwrap_or(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let write = Write { sector: offset / sector, data: data.to_vec() };
        self.newest.extend(write.sectors());
        self.unflushed.push(write);
        Ok(())
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        let size = size.next_multiple_of(SECTOR as u64);
        if size < self.size.unwrap_or(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.size = Some(size);
        self.backing.set_len(size)
    }

    fn put(&self, sector: u64, data: &Sector) -> io::Result<()> {
        self.backing.write_all_at(data, sector * SECTOR as u64)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.needs_power()?;
        // In order, so that the newest stays.
        for write in std::mem::take(&mut self.unflushed) {
            self.backing.write_all_at(&write.data, write.sector * SECTOR as u64)?;
        }
        self.newest.clear();
        Ok(())
    }

    /// Leaves zeros in a range of whole sectors, on the medium too.
    fn discard(&mut self, range: Range<u64>) -> io::Result<()> {
        self.needs_power()?;
        let sector = SECTOR as u64;
        let meets =
            |write: &Write| write.range().start < range.end && range.start < write.range().end;
        let lies_within =
            |write: &Write| range.start <= write.range().start && write.range().end <= range.end;
        let whole = range.start.is_multiple_of(sector) && range.end.is_multiple_of(sector);
        if !whole || self.unflushed.iter().any(|write| meets(write) && !lies_within(write)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.unflushed.retain(|write| !lies_within(write));
        self.newest.retain(|at, _| !range.contains(&(at * sector)));
        fuse::punch(&self.backing, range.clone())?;
        self.tally.discarded += range.end - range.start;
        Ok(())
    }

    /// The medium keeps what the seed says of what was not flushed.
    fn cut(&mut self, seed: u64) -> io::Result<()> {
        let mut dice = Sequence(seed);
        let writes = std::mem::take(&mut self.unflushed);
        self.newest.clear();
        // From nothing at all to everything.
        let kept_of_8 = dice.below(9);
        let torn = dice.below(2) == 0;
        let mut of_each: BTreeMap<u64, Vec<Sector>> = BTreeMap::new();
        for write in &writes {
            let all = dice.below(8) < kept_of_8;
            for (at, data) in write.sectors() {
                let kept = if torn { dice.below(8) < kept_of_8 } else { all };
                let versions = of_each.entry(at).or_default();
                self.tally.sectors += 1;
                if kept {
                    versions.push(data);
                } else {
                    self.tally.lost += 1;
                }
            }
        }
        for (at, versions) in of_each {
            // Reordered as well: of two writes of a sector either may have come last.
            let count = versions.len() as u64;
            if count > 0 {
                let chosen = usize::try_from(dice.below(count)).map_err(io::Error::other)?;
                self.put(at, &versions[chosen])?;
            }
        }
        self.tally.cuts += 1;
        self.powered = false;
        Ok(())
    }

    /// What is written to the file `power`.
    fn switch(&mut self, word: &str) -> io::Result<()> {
        if word == "on" {
            self.powered = true;
            return Ok(());
        }
        self.cut(word.parse().map_err(|_| io::ErrorKind::InvalidInput)?)
    }

    fn told(&self) -> String {
        let Tally { cuts, sectors, lost, discarded } = self.tally;
        format!(
            "{{\"cuts\":{cuts},\"sectors\":{sectors},\"lost\":{lost},\"discarded\":{discarded}}}\n"
        )
    }
}

struct Served(Mutex<Disk>);

impl Served {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fuse::Medium for Served {
    const NAME: &'static str = "volatile-disk";
    const CONTROL: &'static str = "power";
    /// One for the flush, one for the write that cuts the power meanwhile, and some.
    const THREADS: usize = 4;

    fn size(&self) -> io::Result<Option<u64>> {
        Ok(self.disk().size)
    }
    fn make(&self) -> io::Result<()> {
        match self.disk().size.replace(0) {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }
    fn resize(&self, size: u64) -> io::Result<()> {
        self.disk().resize(size)
    }
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk().read(offset, len)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.disk().write(offset, data).map(|()| data.len())
    }
    fn flush(&self) -> io::Result<()> {
        clock::sleep(FLUSH);
        self.disk().flush()
    }
    fn take_room(&self, _: Range<u64>) -> io::Result<()> {
        // There is room beneath.
        Ok(())
    }
    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.disk().discard(range)
    }
    fn control(&self, line: &str) -> io::Result<()> {
        self.disk().switch(line.trim())
    }
    fn told(&self) -> String {
        self.disk().told()
    }
}

fn main() -> io::Result<()> {
    fuse::serve(|backing| {
        let disk = Disk {
            backing: fuse::emptied(backing)?,
            powered: true,
            size: None,
            unflushed: Vec::new(),
            newest: BTreeMap::new(),
            tally: Tally::default(),
        };
        Ok(Served(Mutex::new(disk)))
    })
}
