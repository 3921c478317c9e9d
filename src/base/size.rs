//! Sizes and durations as people write them: `64MiB`, `10G`, `7d`, `12h`.

use std::time::Duration;

use crate::base::limits::RETENTION_DAYS_MAX;

/// A text that is no size or duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SizeError {
    /// No size.
    #[error(
        "'{0}' is not a size: a number and one of B, K, M, G, T (or KiB, MiB, ...), such as 64MiB or 10G"
    )]
    Size(String),
    /// No duration.
    #[error("'{0}' is not a duration: a number and one of s, m, h, d, w, such as 30s, 12h or 7d")]
    Duration(String),
    /// A retention beyond [`RETENTION_DAYS_MAX`].
    #[error("nothing can be kept for {0}: the longest retention is {RETENTION_DAYS_MAX}d")]
    Retention(String),
    /// Less than a second: it would be gone at once.
    #[error("what is kept for {0} is gone at once: the shortest retention is 1s")]
    NoRetention(String),
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// Bytes, from `4096`, `64K`, `64KiB`, `10G`, `1T`. Letters are powers of 1024.
///
/// # Errors
/// [`SizeError::Size`]
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let bad = || SizeError::Size(text.to_owned());
    let (number, unit) = split(text.trim()).ok_or_else(bad)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" | "kb" => 10,
        "m" | "mib" | "mb" => 20,
        "g" | "gib" | "gb" => 30,
        "t" | "tib" | "tb" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// A duration, from `30s`, `5m`, `12h`, `7d`, `2w`, `0`, `500ms`.
///
/// # Errors
/// [`SizeError::Duration`]
pub fn parse_duration(text: &str) -> Result<Duration, SizeError> {
    let bad = || SizeError::Duration(text.to_owned());
    let (number, unit) = split(text.trim()).ok_or_else(bad)?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "" if number == 0 => 1,
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(bad()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

/// How long something is kept.
///
/// # Errors
/// [`SizeError::Duration`], [`SizeError::Retention`], [`SizeError::NoRetention`]
pub fn parse_retention(text: &str) -> Result<Duration, SizeError> {
    parse_duration(text).and_then(check_retention)
}

/// That something can be kept for so long.
///
/// # Errors
/// [`SizeError::Retention`], [`SizeError::NoRetention`]
pub fn check_retention(retain: Duration) -> Result<Duration, SizeError> {
    if retain > Duration::from_secs(RETENTION_DAYS_MAX * 86_400) {
        return Err(SizeError::Retention(format_duration(retain)));
    }
    if retain.as_secs() == 0 {
        return Err(SizeError::NoRetention(format_duration(retain)));
    }
    Ok(retain)
}

/// `1.5 GiB`, `17 B`: for tables.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let mut unit = 0;
    let mut whole = bytes;
    let mut tenths = 0;
    while whole >= 1024 && unit < 5 {
        tenths = (whole % 1024) * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
    if unit == 0 || whole >= 100 {
        format!("{whole} {name}")
    } else {
        format!("{whole}.{tenths} {name}")
    }
}

/// `7d`, `12h`, `90s`: the largest unit that leaves no rest.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0 if duration.subsec_millis() > 0 => format!("{}ms", duration.subsec_millis()),
        _ if s > 0 && s.is_multiple_of(86_400) => format!("{}d", s / 86_400),
        _ if s > 0 && s.is_multiple_of(3600) => format!("{}h", s / 3600),
        _ if s > 0 && s.is_multiple_of(60) => format!("{}m", s / 60),
        _ => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_as_people_write_them() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("10G"), Ok(10 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(
            parse_size("").is_err()
                && parse_size("-1").is_err()
                && parse_size("99999999T").is_err()
        );
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("7").is_err() && parse_duration("d").is_err());
        assert_eq!(parse_retention("1s"), Ok(Duration::from_secs(1)));
        for nothing in ["0", "0d", "999ms"] {
            assert!(matches!(parse_retention(nothing), Err(SizeError::NoRetention(_))));
        }
        assert_eq!(format_size(1536), "1.5 KiB");
        assert_eq!(format_duration(Duration::from_secs(604_800)), "7d");
    }
}
