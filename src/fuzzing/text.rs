//! Readers of what people write: sizes, times, names, keys, mount options.

use std::fmt::Display;
use std::str::FromStr;

use crate::base::ids::SnapshotPrefix;
use crate::base::limits::RETENTION_DAYS_MAX;
use crate::base::size::{format_duration, parse_duration, parse_retention, parse_size};
use crate::base::{ClusterName, EncryptionKeyId, SnapshotId, Timestamp};
use crate::control;
use crate::daemon;
use crate::fuse::MountOptions;
use crate::keys::{format_recovery_key, parse_recovery_key};

/// What reads from text reads the same from the text that it prints.
fn prints<T: FromStr + Display>(text: &str) -> Option<String> {
    let printed = text.parse::<T>().ok()?.to_string();
    let again = printed.parse::<T>().ok().map(|again| again.to_string());
    assert_eq!(again.as_deref(), Some(printed.as_str()), "it reads what it prints");
    Some(printed)
}

pub(super) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    prints::<ClusterName>(text);
    prints::<EncryptionKeyId>(text);
    prints::<SnapshotId>(text);
    prints::<SnapshotPrefix>(text);
    // Printed to the second only, and beyond the years that RFC 3339 has not as one reads it.
    let _ = text.parse::<Timestamp>().map(|time| time.to_string());
    let _ = parse_size(text);
    if let Ok(duration) = parse_duration(text)
        && duration.subsec_millis() == 0
    {
        assert_eq!(parse_duration(&format_duration(duration)).ok(), Some(duration));
    }
    if let Ok(kept) = parse_retention(text) {
        assert!(kept.as_secs() <= RETENTION_DAYS_MAX * 86_400);
    }
    if let Ok(options) = MountOptions::parse(text) {
        let again = MountOptions::parse(&options.to_string());
        let options = MountOptions { pool: None, ..options };
        assert!(again.is_ok_and(|again| again == options), "options read back as printed");
    }
    let _ = MountOptions::parse_fstab(text);
    daemon::fuzz::text(text);
    if let Ok(secret) = parse_recovery_key(text) {
        let again = parse_recovery_key(&format_recovery_key(&secret));
        assert!(again.is_ok_and(|again| again.bytes() == secret.bytes()));
    }
}

/// Requests and answers.
pub(super) fn socket(bytes: &[u8]) {
    control::fuzz::request(bytes);
    control::fuzz::answer(bytes);
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let key = format_recovery_key(&crate::crypto::RootSecret::from_bytes(&[0xa5; 32]));
    let texts = [
        "256MiB",
        "1.5T",
        "17",
        "7d",
        "2w",
        "500ms",
        "0",
        "36500d",
        "db-1",
        "local://k1",
        "k1",
        "awskms:///arn:aws:kms:eu-west-1:1:key/1",
        "snap-0123456789abcdef",
        "snap-01",
        "2026-11-24T10:00:00Z",
        "@99999999999999",
        "ro,noatime,allow_other,start,pool=/a b",
        "private,no_writeback_cache,key_wait,nofail,_netdev,x-systemd.requires=a",
        "suid,dev,exec",
        "cacheBytes = \"1GiB\"\ncheckpointInterval = \"15s\"\nlog = \"debug\"",
        "{\"code\":\"busy\",\"detail\":\"x\",\"hint\":null}",
        "{\"ready\":true}",
        &key,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
