//! The command line as types: what parses is well-formed, and nothing was touched before it did.

mod objects;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::base::size::{parse_duration, parse_size};
use crate::base::{ClusterName, EncryptionKeyId};
use crate::cli::words::{
    KeyOrNone, RecoveryTarget, SecretName, SecretSpec, Target, parse_mount_options,
};
use crate::daemon::places::DEFAULT_POOL;

pub use objects::{DebugCommand, KeyCommand, Restore, Salvage, Shell, SnapshotCommand};

/// An encrypted snapshot filesystem for database storage.
///
/// A pool holds clusters; a cluster is mounted as a filesystem; snapshots are taken in constant
/// time and restored by mounting them, while the customer's key named in their header is enabled.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, propagate_version = true, subcommand_required = true)]
#[command(
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 a customer key is not usable,
             4 corruption found, 130 interrupted.

Examples:
  strongroom init
  strongroom key create k1
  strongroom cluster create db --key k1
  strongroom mount db /srv/pg
  strongroom snapshot create db --retain 7d"
)]
pub struct CommandLine {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub globals: Globals,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Command,
}

/// What `scrub` takes.
#[derive(Debug, Args)]
pub struct Scrub {
    /// A cluster with its snapshots, or a snapshot [default: everything]
    #[arg(value_name = "NAME|ID")]
    pub what: Option<Target>,
    /// Read no more than this in a second
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub rate: Option<u64>,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Common options")]
pub struct Globals {
    /// The pool: a directory, a file or a block device
    #[arg(long, global = true, value_name = "PATH", env = "STRONGROOM_POOL")]
    #[arg(default_value = DEFAULT_POOL, hide_env_values = true)]
    pub pool: PathBuf,
    /// The daemon's control socket [default: control.sock in the pool, or below /run/strongroom]
    #[arg(long, global = true, value_name = "PATH", env = "STRONGROOM_SOCKET")]
    #[arg(hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// One JSON document instead of a table; a failure is a problem document
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice: still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Refuse instead of starting a daemon where none serves the pool
    #[arg(long, global = true)]
    pub no_start: bool,
    /// A file with the passphrase that opens the pool
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Command {
    /// Make a pool
    #[command(after_help = "\
Examples:
  strongroom init
  strongroom init --pool /data/pool --size 200G --recovery-key /media/usb/recovery.txt
  strongroom init --pool /dev/vg/pool --wipe /dev/vg/pool --root-secret passphrase")]
    Init(Init),
    /// Serve a pool
    #[command(after_help = "\
Every command that needs a daemon starts one; this command is for systemd and for experts.

Examples:
  strongroom daemon
  strongroom daemon --foreground --cache-bytes 1G --log debug")]
    Daemon(Daemon),
    /// Unmount everything, checkpoint, end the daemon
    #[command(after_help = "Examples:\n  strongroom shutdown\n  strongroom shutdown --force")]
    Shutdown {
        /// Even while mounts are busy
        #[arg(long)]
        force: bool,
    },
    /// Show pool, space, clusters, mounts, keys and background work
    #[command(after_help = "Examples:\n  strongroom status\n  strongroom status --json --refresh")]
    Status(Refresh),
    /// Enlarge, resume or upgrade a pool
    #[command(
        subcommand,
        after_help = "\
Examples:
  strongroom pool grow --size 500G
  strongroom pool resume"
    )]
    Pool(PoolCommand),
    /// Back up and restore what opens the pool
    #[command(
        subcommand,
        after_help = "\
Examples:
  strongroom config backup /media/usb/strongroom.backup
  strongroom config restore /media/usb/strongroom.backup"
    )]
    Config(ConfigCommand),
    /// Show, add and remove ways to open the pool
    #[command(
        subcommand,
        after_help = "\
Examples:
  strongroom root-secret show
  strongroom root-secret add passphrase
  strongroom root-secret remove file:/etc/strongroom/old.key"
    )]
    RootSecret(RootSecretCommand),
    /// Create, list, show and delete clusters; set their keys
    #[command(
        subcommand,
        after_help = "\
Examples:
  strongroom cluster create db --key k1
  strongroom cluster set-key db k2 --snapshots"
    )]
    Cluster(ClusterCommand),
    /// Mount a cluster
    #[command(after_help = "\
Options: ro, allow_other, private, writethrough, noatime, nosuid, nodev, noexec, suid, dev,
         key_wait, start, pool=PATH, no_CAPABILITY. For root alone: suid, dev, no_posix_acl,
         no_killpriv_v2.

Examples:
  strongroom mount db /srv/pg
  strongroom mount db /srv/pg -o noatime,key_wait")]
    Mount(Mount),
    /// Unmount a cluster or a snapshot
    #[command(
        visible_alias = "unmount",
        after_help = "\
Examples:
  strongroom umount db
  strongroom umount /mnt/restored
  strongroom umount --all"
    )]
    Umount(Umount),
    /// Take, list, show, delete and rewrap snapshots
    #[command(
        subcommand,
        after_help = "\
Examples:
  strongroom snapshot create db --retain 7d
  strongroom snapshot list db
  strongroom snapshot delete snap-0a1b --dry-run"
    )]
    Snapshot(SnapshotCommand),
    /// Restore a snapshot: mount it, make a cluster of it, or put it back
    #[command(after_help = "\
Examples:
  strongroom restore snap-0a1b /mnt/restored
  strongroom restore snap-0a1b --to-cluster db-copy
  strongroom restore snap-0a1b --in-place")]
    Restore(Restore),
    /// Create, list, show, test, disable, enable and delete customer keys
    #[command(
        subcommand,
        after_help = "\
Examples:
  strongroom key create k1
  strongroom key usage k1
  strongroom key disable k1"
    )]
    Key(KeyCommand),
    /// Verify structure and data of a pool that no daemon serves
    #[command(after_help = "\
Ends with 4 where damage was found, with 1 where the pool was put back to an older state.

Examples:
  strongroom check
  strongroom check --pool /dev/vg/pool --json")]
    Check,
    /// Read and verify everything while the pool serves
    #[command(after_help = "\
Superblocks, catalog, every block's checksum, every tree whose key can be had down to the tags of
its data; a bad copy of what is stored twice is written anew. Ends with 4 where damage was found.

Examples:
  strongroom scrub
  strongroom scrub db --rate 100MiB")]
    Scrub(Scrub),
    /// Copy what is readable out of a pool that no daemon serves, also where it no longer opens
    #[command(after_help = "\
Nothing is written to the pool. What cannot be read is a hole in its file, and is named with what
else is missing in DEST/salvage-report.json; what no name leads to any more is put beside its tree
in CLUSTER.lost+found, by its inode number. Where a cluster cannot be read, its newest snapshot that
can stands in. Owners, device nodes and some attributes need root to be kept.

Ends with 4 where something could not be read, with 3 where a customer key is not usable and nothing
else is missing, with 1 where something could not be written.

Examples:
  strongroom salvage --list
  strongroom salvage /mnt/rescue
  strongroom salvage /mnt/rescue --cluster db --snapshot snap-0a1b
  strongroom salvage /mnt/rescue --pool /dev/vg/pool --json")]
    Salvage(Salvage),
    /// Look into a pool that no daemon serves; prints no key
    #[command(
        subcommand,
        after_help = "\
Examples:
  strongroom debug superblock
  strongroom debug header snap-0a1b
  strongroom debug region 0"
    )]
    Debug(DebugCommand),
    /// Print the completions of a shell
    #[command(after_help = "\
Examples:
  strongroom completions bash > /etc/bash_completion.d/strongroom
  strongroom completions fish > ~/.config/fish/completions/strongroom.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(after_help = "Examples:\n  strongroom man /usr/local/share/man/man1")]
    Man {
        /// An existing directory
        dir: PathBuf,
    },
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Its size [default: a sparse file, 90 % of the filesystem at most; a block device whole]
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// What opens it: file:PATH, passphrase or credential:NAME [default: a key file in the
    /// configuration directory]
    #[arg(long, value_name = "SPEC")]
    pub root_secret: Option<SecretSpec>,
    /// A new file for the recovery key, or none [default: it is printed]
    #[arg(long, value_name = "FILE|none")]
    pub recovery_key: Option<RecoveryTarget>,
    /// Overwrite what is on this device, named again
    #[arg(long, value_name = "DEV")]
    pub wipe: Option<PathBuf>,
}

/// `daemon`: each setting of strongroom.toml is also a flag.
#[derive(Debug, Args)]
pub struct Daemon {
    /// Stay in this process and log to standard error
    #[arg(long)]
    pub foreground: bool,
    /// Do not make the recorded mounts again
    #[arg(long)]
    pub no_remount: bool,
    /// Open the pool with the recovery key in this file
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
    /// Open a pool that is older than what was last seen
    #[arg(long)]
    pub accept_rollback: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: SettingFlags,
    /// The caller waits on the standard streams for the start's outcome
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// The settings as flags.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings (also in strongroom.toml)")]
pub struct SettingFlags {
    /// Memory for caches
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub cache_bytes: Option<u64>,
    /// How often the keys of mounted clusters are asked after (this version: 60s only)
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub key_check_interval: Option<Duration>,
    /// How long a key may be unusable before its clusters are locked (this version: 0s only)
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub key_grace: Option<Duration>,
    /// What an unreachable key provider means for mounted clusters (this version: keep only)
    #[arg(long, value_name = "WHAT")]
    pub on_unreachable: Option<OnUnreachable>,
    /// Longest time between checkpoints
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub checkpoint_interval: Option<Duration>,
    /// A group whose members may do all
    #[arg(long, value_name = "GROUP")]
    pub admin_group: Option<String>,
    /// What is logged, in env_logger's syntax
    #[arg(long, value_name = "FILTER", env = "STRONGROOM_LOG", hide_env_values = true)]
    pub log: Option<String>,
}

/// `--on-unreachable`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnUnreachable {
    /// Go on
    Keep,
    /// Lock them
    Lock,
}

/// `--refresh`
#[derive(Debug, Args)]
pub struct Refresh {
    /// Ask the key providers now instead of showing their last answer
    #[arg(long)]
    pub refresh: bool,
}

/// `pool ...`
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Enlarge the pool while it is served
    #[command(after_help = "Examples:\n  strongroom pool grow --size 500G")]
    Grow {
        /// The new size
        #[arg(long, value_parser = parse_size)]
        size: u64,
    },
    /// Leave the read-only state, once its cause is mended
    #[command(after_help = "Examples:\n  strongroom pool resume")]
    Resume,
    /// Bring the pool to this version's format
    #[command(after_help = "Examples:\n  strongroom pool upgrade --dry-run")]
    Upgrade {
        /// Only say what it would do
        #[arg(long)]
        dry_run: bool,
    },
    /// Refused by this version: a pool keeps its identity; says what to do with a copy instead
    #[command(after_help = "Examples:\n  strongroom --pool /data/copy pool new-id")]
    NewId,
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Write root secret, keyring and identities to a file, sealed under a passphrase
    #[command(after_help = "Examples:\n  strongroom config backup /media/usb/strongroom.backup")]
    Backup {
        /// A new file
        file: PathBuf,
        /// A file with the backup's passphrase [default: asked for on the terminal]
        #[arg(long, value_name = "FILE")]
        backup_passphrase_file: Option<PathBuf>,
    },
    /// Bring them back from such a file; what is there is not overwritten
    #[command(after_help = "Examples:\n  strongroom config restore /media/usb/strongroom.backup")]
    Restore {
        /// The file
        file: PathBuf,
        /// A file with the backup's passphrase [default: asked for on the terminal]
        #[arg(long, value_name = "FILE")]
        backup_passphrase_file: Option<PathBuf>,
    },
}

/// `root-secret ...`
#[derive(Debug, Subcommand)]
pub enum RootSecretCommand {
    /// List the ways to open the pool
    #[command(after_help = "Examples:\n  strongroom root-secret show --json")]
    Show,
    /// Add a way to open the pool
    #[command(after_help = "\
Examples:
  strongroom root-secret add file:/root/strongroom.key
  strongroom root-secret add passphrase --new-passphrase-file /run/secret
  strongroom root-secret add credential:strongroom.root")]
    Add {
        /// file:PATH, passphrase or credential:NAME
        spec: SecretSpec,
        /// A file with the new passphrase [default: asked for on the terminal]
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Remove a way to open the pool; the last one stays
    #[command(after_help = "Examples:\n  strongroom root-secret remove passphrase")]
    Remove {
        /// As `root-secret show` names it: file:PATH, passphrase, credential:NAME or recovery
        spec: SecretName,
    },
}

/// `cluster ...`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Create a cluster
    #[command(after_help = "\
Examples:
  strongroom cluster create db
  strongroom cluster create db --key local://k1")]
    Create {
        /// 1 to 64 of a-z 0-9 . _ -, the first a letter or digit
        name: ClusterName,
        /// The customer key that is needed to mount it [default: Not enabled]
        #[arg(long, value_name = "KEY_ID")]
        key: Option<EncryptionKeyId>,
    },
    /// List clusters
    #[command(after_help = "Examples:\n  strongroom cluster list --json")]
    List(Refresh),
    /// Show a cluster
    #[command(after_help = "Examples:\n  strongroom cluster show db")]
    Show {
        /// The cluster
        name: ClusterName,
        #[command(flatten)]
        #[allow(missing_docs)]
        refresh: Refresh,
    },
    /// Delete an unmounted cluster; its snapshots stay
    #[command(after_help = "Examples:\n  strongroom cluster delete db --yes")]
    Delete {
        /// The cluster
        name: ClusterName,
        #[command(flatten)]
        #[allow(missing_docs)]
        yes: Yes,
    },
    /// Enable, rotate or drop a cluster's customer key
    #[command(after_help = "\
Examples:
  strongroom cluster set-key db k2
  strongroom cluster set-key db k2 --snapshots
  strongroom cluster set-key db none")]
    SetKey {
        /// The cluster
        name: ClusterName,
        /// The new key, or none
        #[arg(value_name = "KEY_ID|none")]
        key: KeyOrNone,
        /// Rewrap its snapshots, too
        #[arg(long)]
        snapshots: bool,
    },
    /// Go on with what comes before the damage in a cluster's log
    #[command(after_help = "\
Where a crash left acknowledged writes in a log that is damaged by now, the cluster is not mounted.
This gives up what stands behind the damage; it was all written since the last checkpoint.

Examples:
  strongroom cluster accept-log-loss db --yes")]
    AcceptLogLoss {
        /// The cluster
        name: ClusterName,
        #[command(flatten)]
        #[allow(missing_docs)]
        yes: Yes,
    },
}

/// `--yes`
#[derive(Debug, Args)]
pub struct Yes {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `mount`
#[derive(Debug, Args)]
pub struct Mount {
    /// The cluster
    pub name: ClusterName,
    /// An empty directory
    pub mountpoint: PathBuf,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPTIONS", value_parser = parse_mount_options)]
    pub options: Vec<String>,
}

/// `umount`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["target", "all"]))]
pub struct Umount {
    /// A cluster, a mount point (with a slash in it), or a snapshot
    #[arg(value_name = "NAME|MOUNTPOINT|ID")]
    pub target: Option<Target>,
    /// Everything
    #[arg(long)]
    pub all: bool,
    /// Even while it is busy: what has files open there gets errors
    #[arg(long)]
    pub force: bool,
}
