//! The command line of snapshots, restores, keys and `debug`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::base::size::{parse_duration, parse_retention};
use crate::base::{ClusterName, EncryptionKeyId};
use crate::cli::args::{Refresh, Yes};
use crate::cli::words::{SnapshotPrefix, Target, parse_mount_options};

/// `snapshot ...`
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot; of several clusters: at one point in time
    #[command(group = clap::ArgGroup::new("which").required(true).args(["names", "all"]))]
    #[command(after_help = "\
Examples:
  strongroom snapshot create db
  strongroom snapshot create db wal --retain 7d --description 'before the upgrade'")]
    Create {
        /// The clusters
        #[arg(value_name = "NAME")]
        names: Vec<ClusterName>,
        /// Every cluster
        #[arg(long)]
        all: bool,
        /// Delete it by itself after this time [default: never]
        #[arg(long, value_parser = parse_retention, allow_hyphen_values = true, value_name = "DURATION")]
        retain: Option<Duration>,
        /// What to say of it
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        description: String,
    },
    /// List snapshots
    #[command(after_help = "Examples:\n  strongroom snapshot list db --json")]
    List {
        /// Only those of this cluster
        name: Option<ClusterName>,
        #[command(flatten)]
        #[allow(missing_docs)]
        refresh: Refresh,
    },
    /// Show a snapshot
    #[command(after_help = "Examples:\n  strongroom snapshot show snap-0a1b")]
    Show {
        /// The snapshot; a unique prefix will do
        id: SnapshotPrefix,
        #[command(flatten)]
        #[allow(missing_docs)]
        refresh: Refresh,
    },
    /// Delete snapshots: all that are named, or none
    #[command(after_help = "\
Examples:
  strongroom snapshot delete snap-0a1b snap-77fe
  strongroom snapshot delete snap-0a1b --dry-run")]
    Delete {
        /// The snapshots; unique prefixes will do
        #[arg(required = true, value_name = "ID")]
        ids: Vec<SnapshotPrefix>,
        /// Only say what it would free
        #[arg(long)]
        dry_run: bool,
    },
    /// Put snapshots under another customer key, without touching their data
    #[command(after_help = "Examples:\n  strongroom snapshot rewrap snap-0a1b --key k2")]
    Rewrap {
        /// The snapshots; unique prefixes will do
        #[arg(required = true, value_name = "ID")]
        ids: Vec<SnapshotPrefix>,
        /// The new key
        #[arg(long, value_name = "KEY_ID")]
        key: EncryptionKeyId,
    },
}

/// `restore`
#[derive(Debug, Args)]
#[command(
    override_usage = "strongroom restore [OPTIONS] <ID> <MOUNTPOINT|--to-cluster <NAME>|--in-place>"
)]
#[command(group = clap::ArgGroup::new("form").required(true).args(["mountpoint", "to_cluster", "in_place"]))]
pub struct Restore {
    /// The snapshot; a unique prefix will do
    pub id: SnapshotPrefix,
    /// Mount it here, read-only
    pub mountpoint: Option<PathBuf>,
    /// Make a new writable cluster of it, in constant time
    #[arg(long, value_name = "NAME")]
    pub to_cluster: Option<ClusterName>,
    /// Make it the head of its cluster; what it replaces is kept as a snapshot
    #[arg(long)]
    pub in_place: bool,
    /// How long the safety snapshot is kept [default: 7d]
    #[arg(long, value_parser = parse_retention, allow_hyphen_values = true, value_name = "DURATION", conflicts_with_all = ["mountpoint", "to_cluster"])]
    pub retain: Option<Duration>,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPTIONS", value_parser = parse_mount_options, conflicts_with_all = ["to_cluster", "in_place"])]
    pub options: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub yes: Yes,
}

/// `key ...`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key in the embedded keyring; prints its Encryption Key ID
    #[command(after_help = "\
Examples:
  strongroom key create k1
  strongroom key create k1 --deletion-wait 30d")]
    Create {
        /// Its name [default: one is made up]
        name: Option<String>,
        /// Waiting period before a deletion, 0 to 30d, fixed for the key's life [default: 7d]
        #[arg(long, value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION")]
        deletion_wait: Option<Duration>,
    },
    /// List the embedded keys, and every key that the pool needs
    #[command(after_help = "Examples:\n  strongroom key list --refresh")]
    List(Refresh),
    /// Show a key
    #[command(after_help = "Examples:\n  strongroom key show k1")]
    Show {
        /// The key
        #[arg(value_name = "KEY_ID")]
        id: EncryptionKeyId,
        #[command(flatten)]
        #[allow(missing_docs)]
        refresh: Refresh,
    },
    /// Wrap and unwrap with a key, now
    #[command(after_help = "Examples:\n  strongroom key test k1")]
    Test {
        /// The key
        #[arg(value_name = "KEY_ID")]
        id: EncryptionKeyId,
    },
    /// List every cluster and snapshot that needs a key
    #[command(after_help = "Examples:\n  strongroom key usage k1 --json")]
    Usage {
        /// The key
        #[arg(value_name = "KEY_ID")]
        id: EncryptionKeyId,
    },
    /// Disable a key: nothing under it is mounted or restored until it is enabled again
    #[command(after_help = "Examples:\n  strongroom key disable k1 --yes")]
    Disable {
        /// The key
        #[arg(value_name = "KEY_ID")]
        id: EncryptionKeyId,
        #[command(flatten)]
        #[allow(missing_docs)]
        yes: Yes,
    },
    /// Enable a key
    #[command(after_help = "Examples:\n  strongroom key enable k1")]
    Enable {
        /// The key
        #[arg(value_name = "KEY_ID")]
        id: EncryptionKeyId,
    },
    /// Delete a key after its waiting period: what only it opens is lost for ever
    #[command(after_help = "\
Examples:
  strongroom key delete k1
  strongroom key delete k1 --after 14d --force k1")]
    Delete {
        /// The key
        #[arg(value_name = "KEY_ID")]
        id: EncryptionKeyId,
        /// A longer waiting period than the key's own
        #[arg(long, value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION")]
        after: Option<Duration>,
        /// The key named again, where something still needs it
        #[arg(long, value_name = "KEY_ID")]
        force: Option<EncryptionKeyId>,
        #[command(flatten)]
        #[allow(missing_docs)]
        yes: Yes,
    },
    /// Cancel a deletion that is pending; the key stays disabled
    #[command(after_help = "Examples:\n  strongroom key cancel-delete k1")]
    CancelDelete {
        /// The key
        #[arg(value_name = "KEY_ID")]
        id: EncryptionKeyId,
    },
}

/// `salvage`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("to").required(true).args(["dest", "list"]))]
pub struct Salvage {
    /// A directory that is new or empty, outside of the pool
    pub dest: Option<PathBuf>,
    /// Only this cluster; may be given several times [default: every cluster]
    #[arg(long = "cluster", value_name = "NAME")]
    pub clusters: Vec<ClusterName>,
    /// This snapshot; a unique prefix will do; may be given several times
    #[arg(long = "snapshot", value_name = "ID")]
    pub snapshots: Vec<SnapshotPrefix>,
    /// Only say what could be copied
    #[arg(long)]
    pub list: bool,
}

/// `debug ...`
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// The four superblock copies
    #[command(after_help = "Examples:\n  strongroom debug superblock --json")]
    Superblock,
    /// The header of a cluster or snapshot
    #[command(after_help = "Examples:\n  strongroom debug header db")]
    Header {
        /// A cluster or a snapshot
        #[arg(value_name = "NAME|ID")]
        what: Target,
    },
    /// The catalog's tree, node by node
    #[command(after_help = "Examples:\n  strongroom debug node")]
    Node {
        /// Address of one node, in blocks [default: all]
        addr: Option<u64>,
    },
    /// The intent logs
    #[command(after_help = "Examples:\n  strongroom debug log db")]
    Log {
        /// Only that of this cluster
        name: Option<ClusterName>,
    },
    /// The region maps
    #[command(after_help = "Examples:\n  strongroom debug region 0")]
    Region {
        /// Number of one region [default: all, a line each]
        index: Option<u64>,
    },
}

/// Shells with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}
