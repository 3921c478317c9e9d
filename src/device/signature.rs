//! What a block device already holds, so that nothing of somebody's is overwritten unasked.

use crate::base::BLOCK_SIZE;
use crate::device::{Device, DeviceError};
use crate::sys::AlignedBuf;

/// What stands at the start of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Zeros only, in the first MiB and the last 64 KiB.
    Nothing,
    /// A filesystem, partition table or container of that name.
    Known(&'static str),
    /// Bytes of no known kind.
    Unknown,
}

/// What a pool is called.
pub const POOL_SIGNATURE: &str = "a strongroom pool";

/// (name, offset in bytes, magic), as blkid(8) and the formats' own documents have them.
const KNOWN: &[(&str, usize, &[u8])] = &[
    (POOL_SIGNATURE, 0, b"\x89SRM\r\n\x1a\n"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("xfs", 0, b"XFSB"),
    ("squashfs", 0, b"hsqs"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("vfat", 54, b"FAT1"),
    ("vfat", 82, b"FAT32   "),
    ("LVM", 536, b"LVM2 001"),
    ("GPT", 512, b"EFI PART"),
    ("ext2/3/4", 1080, b"\x53\xef"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("bcachefs", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    ("ISO 9660", 32_769, b"CD001"),
    ("btrfs", 65_600, b"_BHRfS_M"),
    ("zfs", 131_072 + 16_384, b"\x0c\xb1\xba"),
    ("boot sector", 510, b"\x55\xaa"),
];

/// Looks for what a device holds already.
///
/// # Errors
/// [`DeviceError`]
pub fn find_signature(device: &dyn Device) -> Result<Found, DeviceError> {
    let size = device.size_bytes();
    let head_bytes = usize::try_from(size.min(1 << 20)).unwrap_or(1 << 20);
    let mut head = AlignedBuf::new(head_bytes);
    device.read(0, &mut head)?;
    for (name, offset, magic) in KNOWN {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return Ok(Found::Known(name));
        }
    }
    let tail_bytes = head_bytes.min(16 * BLOCK_SIZE);
    let mut tail = AlignedBuf::new(tail_bytes);
    device.read(size - tail_bytes as u64, &mut tail)?;
    let empty = head.iter().chain(tail.iter()).all(|b| *b == 0);
    Ok(if empty { Found::Nothing } else { Found::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::SimDevice;

    #[test]
    fn empty_known_and_unknown_are_told_apart() {
        let device = SimDevice::new(4 << 20);
        assert_eq!(find_signature(&*device).unwrap(), Found::Nothing);
        let mut block = [0; 4096];
        block[1080..1082].copy_from_slice(b"\x53\xef");
        device.write(0, &block).unwrap();
        assert_eq!(find_signature(&*device).unwrap(), Found::Known("ext2/3/4"));
        block[1080] = 0;
        device.write(0, &block).unwrap();
        assert_eq!(find_signature(&*device).unwrap(), Found::Unknown);
        let small = SimDevice::new(4096);
        assert_eq!(find_signature(&*small).unwrap(), Found::Nothing);
    }
}
