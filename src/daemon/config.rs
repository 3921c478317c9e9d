//! The daemon's settings: `strongroom.toml` in the configuration directory, each also a flag.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::base::ProblemCode;
use crate::base::size::{parse_duration, parse_size};
use crate::control::Problem;
use crate::sys;

/// What an unreachable key provider means for clusters that are mounted. Only [`Self::Keep`] can be
/// in effect: this version does not lock them, and refuses settings that ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnUnreachable {
    /// They go on: an outage is not a revocation.
    Keep,
    /// They are locked.
    Lock,
}

/// Settings as a file or flags give them; what is missing is left to the next source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Given {
    /// Memory for caches, in bytes.
    #[serde(deserialize_with = "size")]
    pub cache_bytes: Option<u64>,
    /// How often the keys of mounted clusters are asked after.
    #[serde(deserialize_with = "duration")]
    pub key_check_interval: Option<Duration>,
    /// How long a key may be unusable before its clusters are locked.
    #[serde(deserialize_with = "duration")]
    pub key_grace: Option<Duration>,
    /// What an unreachable key provider means.
    pub on_unreachable: Option<OnUnreachable>,
    /// Longest time between checkpoints.
    #[serde(deserialize_with = "duration")]
    pub checkpoint_interval: Option<Duration>,
    /// A group whose members may do all.
    pub admin_group: Option<String>,
    /// What is logged, in env_logger's syntax.
    pub log: Option<String>,
}

/// The settings in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Memory for caches, in bytes.
    pub cache_bytes: u64,
    /// How often the keys of mounted clusters are asked after.
    pub key_check_interval: Duration,
    /// How long a key may be unusable before its clusters are locked.
    pub key_grace: Duration,
    /// What an unreachable key provider means.
    pub on_unreachable: OnUnreachable,
    /// Longest time between checkpoints.
    pub checkpoint_interval: Duration,
    /// A group whose members may do all.
    pub admin_gid: Option<u32>,
    /// What is logged, in env_logger's syntax.
    pub log: String,
}

const CACHE_BYTES: u64 = 256 << 20;
const CACHE_BYTES_MIN: u64 = 16 << 20;
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(60);
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(15);
const LOG: &str = "warn,strongroom=info";

impl Given {
    /// The settings of a file; none where there is none.
    ///
    /// # Errors
    /// [`ProblemCode::Config`], naming file, line and key.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let shown = path.display();
        let bad = |why: String| {
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            Problem::new(ProblemCode::Config, format!("the settings {shown}: {why}"))
                .with_hint("docs/operating.md lists the settings")
        };
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|e| bad(e.to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(bad(e.to_string())),
        }
    }

    /// These settings, and those of `other` where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            cache_bytes: self.cache_bytes.or(other.cache_bytes),
            key_check_interval: self.key_check_interval.or(other.key_check_interval),
            key_grace: self.key_grace.or(other.key_grace),
            on_unreachable: self.on_unreachable.or(other.on_unreachable),
            checkpoint_interval: self.checkpoint_interval.or(other.checkpoint_interval),
            admin_group: self.admin_group.or(other.admin_group),
            log: self.log.or(other.log),
        }
    }

    /// The settings in effect, the defaults where nothing was said.
    ///
    /// # Errors
    /// [`ProblemCode::Config`] where a value is out of range or a group is unknown.
    pub fn settle(self) -> Result<Settings, Problem> {
        let bad = |detail: String| Problem::new(ProblemCode::Config, detail);
        let cache_bytes = self.cache_bytes.unwrap_or(CACHE_BYTES);
        if cache_bytes < CACHE_BYTES_MIN {
            return Err(bad(format!(
                "cacheBytes is {cache_bytes}; {CACHE_BYTES_MIN} is the least"
            )));
        }
        let second = Duration::from_secs(1);
        let key_check_interval = self.key_check_interval.unwrap_or(KEY_CHECK_INTERVAL);
        let checkpoint_interval = self.checkpoint_interval.unwrap_or(CHECKPOINT_INTERVAL);
        let key_grace = self.key_grace.unwrap_or_default();
        let on_unreachable = self.on_unreachable.unwrap_or(OnUnreachable::Keep);
        for (name, is_default) in [
            ("keyCheckInterval", key_check_interval == KEY_CHECK_INTERVAL),
            ("keyGrace", key_grace.is_zero()),
            ("onUnreachable", on_unreachable == OnUnreachable::Keep),
        ] {
            // Whoever sets one relies on it: accepted and without effect would be a false promise.
            if !is_default {
                return Err(bad(format!(
                    "{name}: this version does not lock clusters that are mounted"
                ))
                .with_hint("leave it out; a cluster is locked by unmounting it"));
            }
        }
        if checkpoint_interval < second || checkpoint_interval > 300 * second {
            return Err(bad("checkpointInterval is not between 1s and 5m".to_owned()));
        }
        let admin_gid = match &self.admin_group {
            None => None,
            Some(name) => Some(sys::process::group_id(name).ok_or_else(|| {
                bad(format!("adminGroup: there is no group '{name}' on this machine"))
                    .with_hint("name one that `getent group` lists, or leave adminGroup out")
            })?),
        };
        Ok(Settings {
            cache_bytes,
            key_check_interval,
            key_grace,
            on_unreachable,
            checkpoint_interval,
            admin_gid,
            log: self.log.unwrap_or_else(|| LOG.to_owned()),
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

/// `"256MiB"`, or a number of bytes.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match TextOrNumber::deserialize(from)? {
        TextOrNumber::Number(bytes) => Ok(Some(bytes)),
        TextOrNumber::Text(text) => parse_size(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

/// `"60s"`
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Settings, Problem> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("strongroom.toml");
        std::fs::write(&path, text).unwrap();
        Given::read(&path)?.settle()
    }

    #[test]
    fn settings_as_people_write_them() {
        let settings =
            of("cacheBytes = \"1GiB\"\nkeyCheckInterval = \"1m\"\nonUnreachable = \"keep\"\n\
                           adminGroup = \"root\"\nlog = \"debug\"")
            .unwrap();
        assert_eq!(settings.cache_bytes, 1 << 30);
        assert_eq!(settings.key_check_interval, Duration::from_secs(60));
        assert_eq!(settings.on_unreachable, OnUnreachable::Keep);
        assert_eq!(settings.admin_gid, Some(0));
        let defaults = Given::read(Path::new("/nowhere/x.toml")).unwrap().settle().unwrap();
        assert_eq!(defaults.cache_bytes, 256 << 20);
        assert_eq!(defaults.key_check_interval, Duration::from_secs(60));
        assert_eq!(defaults.on_unreachable, OnUnreachable::Keep);
    }

    #[test]
    fn what_is_wrong_is_one_line_that_names_it() {
        for (text, named) in [
            ("cacheByte = 1", "cacheByte"),
            ("cacheBytes = \"1X\"", "1X"),
            ("cacheBytes = 4096", "cacheBytes"),
            ("keyGrace = 5", "keyGrace"),
            ("checkpointInterval = \"1h\"", "checkpointInterval"),
            ("onUnreachable = \"panic\"", "panic"),
            ("onUnreachable = \"lock\"", "onUnreachable"),
            ("keyGrace = \"1h\"", "keyGrace"),
            ("keyCheckInterval = \"5m\"", "keyCheckInterval"),
            ("adminGroup = \"no-such-group\"", "no-such-group"),
            ("nonsense", "line 1"),
        ] {
            let problem = of(text).unwrap_err();
            assert_eq!(problem.code, ProblemCode::Config, "{text}");
            assert!(problem.detail.contains(named), "{text}: {}", problem.detail);
            assert!(!problem.detail.contains('\n'), "{}", problem.detail);
        }
    }

    #[test]
    fn the_page_that_the_hint_names_lists_every_setting() {
        let told = toml::from_str::<Given>("cacheByte = 1").unwrap_err().to_string();
        let (_, names) = told.split_once("expected one of ").unwrap();
        let names: Vec<_> = names.split('`').skip(1).step_by(2).collect();
        assert!(names.len() >= 7, "{told}");
        let page = include_str!("../../docs/operating.md");
        for name in names {
            assert!(page.contains(&format!("\n| `{name}` | ")), "{name}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = Given { cache_bytes: Some(1 << 30), log: Some("a".into()), ..Given::default() };
        let flags = Given { cache_bytes: Some(64 << 20), ..Given::default() };
        let settings = flags.or(file).settle().unwrap();
        assert_eq!((settings.cache_bytes, settings.log.as_str()), (64 << 20, "a"));
    }
}
