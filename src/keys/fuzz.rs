//! For `src/fuzzing`: the readers of this room's files, which nobody outside needs.

use crate::base::Timestamp;
use crate::base::cursor::Writer;
use crate::keys::keyring::file;
use crate::keys::{Anchor, backup, root_secret};

/// Contents of the keyring, of a configuration backup and of the anchor, and their frames.
pub fn files(bytes: &[u8]) {
    if let Ok(body) = file::decode_body(bytes) {
        let written = file::encode_body(&body);
        let again = file::decode_body(&written).expect("what was written reads");
        assert!(*file::encode_body(&again) == *written, "a keyring comes back");
        for entry in &body.entries {
            // What is reckoned with dates from a file ends where numbers do.
            let _ = Timestamp::plus(entry.created_at, entry.wait);
        }
    }
    let _ = file::split(bytes);
    if let Ok(parts) = backup::split(bytes) {
        assert!(parts.head.len() + parts.sealed.len() + 4 == bytes.len(), "nothing is left over");
    }
    if let Ok(files) = backup::decode_files(bytes) {
        let held: usize = files.iter().map(|(name, content)| name.len() + content.len()).sum();
        assert!(held <= bytes.len());
        assert!(files.iter().all(|(name, _)| !name.contains('/')), "names stay in their folder");
    }
    let _ = Anchor::decode(bytes);
    if root_secret::parse_secret(bytes).is_some() {
        assert!(matches!(bytes.len(), 32 | 64..), "a secret has 256 bits");
    }
}

/// Contents that a writer makes.
#[must_use]
pub fn file_seeds() -> Vec<Vec<u8>> {
    let mut body = Writer::new();
    body.i64(5).u32(1).sized(b"k1").bytes(&[3; 16]).u8(1).bytes(&[0; 3]).u64(86_400);
    body.i64(4).i64(0).u32(1).u32(1).i64(4).bytes(&[7; 32]);
    let mut dead = Writer::new();
    dead.i64(5).u32(1).sized(b"k2").bytes(&[3; 16]).u8(4).bytes(&[0; 3]).u64(0);
    dead.i64(4).i64(9).u32(0);
    let mut frame = Writer::new();
    frame.bytes(b"\x89SRkeyring\r\n\x1a\n\0\0").u32(1).u32(0).bytes(&[1; 16]).u64(1);
    frame.sized(&[8; 112]).sized(&[9; 100]);
    let mut backup = Writer::new();
    backup.bytes(b"\x89SRbackup\r\n\x1a\n\0\0\0").u32(1).u32(0).bytes(&[2; 16]);
    crate::crypto::KdfParams::minimal().encode(&mut backup);
    backup.sized(&[5; 90]);
    let mut files = Writer::new();
    files.u32(2).sized(b"keyring").sized(&[1; 40]).sized(b"mounts").sized(b"");
    let mut anchor = Writer::new();
    anchor.bytes(b"\x89SRanchor\r\n\x1a\n\0\0\0").bytes(&[1; 16]).u64(1).u64(2).u64(3);
    let digits = b"00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n".to_vec();
    let written = [body, dead, frame, backup, files, anchor].map(Writer::into_bytes);
    written.into_iter().chain([digits, vec![6; 32]]).collect()
}
