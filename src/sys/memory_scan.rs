//! Looks for bytes in this process's own memory, to test that secrets are where they may be.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes to look for; kept altered, so that the search does not find itself.
pub struct Needle {
    altered: Vec<u8>,
}

/// A place where the bytes stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The address.
    pub address: usize,
    /// Whether the mapping is left out of core dumps: the arena of keys is.
    pub in_arena: bool,
    /// Whether it is a thread's stack, where compilers leave copies that no program can find.
    pub on_stack: bool,
}

const MASK: u8 = 0x5a;
const PIECE: usize = 1 << 20;

struct Mapping {
    from: usize,
    to: usize,
    name: String,
    flags: String,
}

fn mappings() -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(a, b)| {
            Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?))
        });
        if let Some((from, to)) = range {
            let writable = words.next().is_some_and(|p| p.starts_with("rw"));
            let name = words.nth(3).unwrap_or_default().to_owned();
            let to = if writable { to } else { from };
            all.push(Mapping { from, to, name, flags: String::new() });
        } else if let (Some(flags), Some(last)) = (line.strip_prefix("VmFlags:"), all.last_mut()) {
            last.flags = format!("{flags} ");
        }
    }
    all.retain(|m| m.from < m.to);
    all
}

/// The calling thread's stack lies around the address of one of its variables; those of others are
/// behind a guard page of their own kind.
fn is_stack(mapping: &Mapping, here: usize) -> bool {
    mapping.name == "[stack]" || (mapping.from <= here && here < mapping.to)
}

impl Needle {
    /// The bytes to look for; the caller keeps or erases its own copy.
    pub fn new(bytes: &[u8]) -> Self {
        Self { altered: bytes.iter().map(|b| b ^ MASK).collect() }
    }

    /// The bytes themselves, one after the other.
    pub fn bytes(&mut self) -> impl Iterator<Item = u8> {
        self.altered.iter().map(|b| b ^ MASK)
    }

    /// Every place in writable memory but the stacks where the bytes stand.
    pub fn hits(&self) -> Vec<Hit> {
        let mem = File::open("/proc/self/mem").unwrap();
        let mut piece = vec![0u8; PIECE + self.altered.len()];
        let own = piece.as_ptr() as usize..piece.as_ptr() as usize + piece.len();
        let here = std::ptr::from_ref(&own) as usize;
        let mut hits = Vec::new();
        for mapping in mappings() {
            let mut at = mapping.from;
            while at < mapping.to {
                let len = piece.len().min(mapping.to - at);
                // Guard pages within a mapping, and mappings that went away, cannot be read.
                let read = mem.read_at(&mut piece[..len], at as u64).unwrap_or(0);
                for offset in self.places(&piece[..read]) {
                    let address = at + offset;
                    if !own.contains(&address) && offset < PIECE {
                        let (in_arena, on_stack) =
                            (mapping.flags.contains(" dd "), is_stack(&mapping, here));
                        hits.push(Hit { address, in_arena, on_stack });
                    }
                }
                at += PIECE;
            }
        }
        piece.fill(0);
        hits.retain(|hit| !hit.on_stack);
        hits
    }

    fn places(&self, bytes: &[u8]) -> Vec<usize> {
        let first = self.altered.first().map(|b| b ^ MASK);
        let same = |w: &[u8]| w.iter().zip(&self.altered).all(|(b, a)| b ^ MASK == *a);
        let windows = bytes.windows(self.altered.len()).enumerate();
        windows.filter(|(_, w)| w.first().copied() == first && same(w)).map(|(at, _)| at).collect()
    }
}
