//! Mount options: the list behind `-o`, from the command line, the control socket or fstab.

use std::fmt;
use std::path::PathBuf;

use crate::sys::fuse_mount::MountRequest;

/// Something of the FUSE protocol that can be left unused by the option `no_` and its name, to
/// find out whether a misbehaviour comes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Written pages stay in the kernel until it, an fsync or a snapshot writes them out.
    WritebackCache,
    /// Attributes come along with names when a directory is read.
    Readdirplus,
    /// Lookups and listings of one directory at the same time.
    ParallelDirops,
    /// Direct I/O requests do not wait for one another.
    AsyncDio,
    /// Files opened with `O_DIRECT` bypass the kernel's cache altogether.
    DirectIo,
    /// Several direct writes to one file at the same time.
    ParallelDirectWrites,
    /// POSIX access control lists.
    PosixAcl,
    /// The daemon clears set-user-id bits where a write must, so that the kernel need not ask
    /// before each write.
    KillprivV2,
    /// Targets of symbolic links stay in the kernel's cache.
    CacheSymlinks,
    /// Pages stay in the kernel's cache from one open to the next.
    KeepCache,
    /// The kernel remembers that a name does not exist.
    NegativeEntries,
}

impl Capability {
    /// All of them with their names.
    pub const NAMES: [(Self, &'static str); 11] = [
        (Self::WritebackCache, "writeback_cache"),
        (Self::Readdirplus, "readdirplus"),
        (Self::ParallelDirops, "parallel_dirops"),
        (Self::AsyncDio, "async_dio"),
        (Self::DirectIo, "direct_io"),
        (Self::ParallelDirectWrites, "parallel_direct_writes"),
        (Self::PosixAcl, "posix_acl"),
        (Self::KillprivV2, "killpriv_v2"),
        (Self::CacheSymlinks, "cache_symlinks"),
        (Self::KeepCache, "keep_cache"),
        (Self::NegativeEntries, "negative_entries"),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(capability, _)| *capability)
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Which [`Capability`] is switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disabled(u32);

impl Disabled {
    /// Whether this one is.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }
    /// Switches one off.
    pub const fn insert(&mut self, capability: Capability) {
        self.0 |= capability.bit();
    }
}

/// An option that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No such option.
    #[error("unknown mount option '{0}'")]
    Unknown(String),
    /// The option wants a value, or must have none.
    #[error("mount option '{0}' is malformed")]
    Malformed(String),
    /// Two options that cannot both hold.
    #[error("mount options '{0}' and '{1}' exclude each other")]
    Conflict(&'static str, &'static str),
    /// Only root may ask for it.
    #[error("mount option '{0}' is for root alone")]
    RootOnly(&'static str),
}

/// The options of one mount. Of options that contradict each other as in mount(8) (`ro` and `rw`,
/// `suid` and `nosuid`) the last one holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`: nothing can be changed.
    pub read_only: bool,
    /// `allow_other`: users other than the daemon's may enter (root's mounts: the default).
    pub allow_other: bool,
    /// `private`: nobody but the daemon's user may enter.
    pub private: bool,
    /// `writethrough`: each write(2) reaches the daemon before it returns.
    pub writethrough: bool,
    /// `noatime`: no access times.
    pub noatime: bool,
    /// `noexec`: no programs.
    pub noexec: bool,
    /// `suid` instead of the default `nosuid`.
    pub suid: bool,
    /// `dev` instead of the default `nodev`.
    pub dev: bool,
    /// `key_wait`: mount locked where the customer key cannot be had yet.
    pub key_wait: bool,
    /// `start`: start the daemon where none serves the pool.
    pub start: bool,
    /// `pool=PATH`
    pub pool: Option<PathBuf>,
    /// `no_CAP`
    pub disabled: Disabled,
}

/// Options of fstab that are meant for others: mount(8), systemd, the boot scripts.
const FSTAB_ONLY: [&str; 6] = ["_netdev", "nofail", "noauto", "auto", "user", "defaults"];

impl MountOptions {
    /// Options from a list separated by commas, as typed behind `-o`. Empty entries are skipped.
    ///
    /// # Errors
    /// [`OptionsError`], naming the first option that cannot be honoured.
    pub fn parse(list: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for option in list.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            options.apply(option)?;
        }
        if options.private && options.allow_other {
            return Err(OptionsError::Conflict("private", "allow_other"));
        }
        Ok(options)
    }

    /// As [`MountOptions::parse`], for a list that came through fstab and mount(8): what is meant
    /// for others is left out.
    ///
    /// # Errors
    /// As [`MountOptions::parse`].
    pub fn parse_fstab(list: &str) -> Result<Self, OptionsError> {
        let ours = list.split(',').map(str::trim).filter(|option| {
            let name = option.split('=').next().unwrap_or_default();
            !FSTAB_ONLY.contains(&name) && !name.starts_with("x-")
        });
        Self::parse(&ours.collect::<Vec<_>>().join(","))
    }

    fn apply(&mut self, option: &str) -> Result<(), OptionsError> {
        match option {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "private" => self.private = true,
            "writethrough" => self.writethrough = true,
            "noatime" => self.noatime = true,
            "noexec" => self.noexec = true,
            "exec" => self.noexec = false,
            "nosuid" => self.suid = false,
            "suid" => self.suid = true,
            "nodev" => self.dev = false,
            "dev" => self.dev = true,
            "key_wait" => self.key_wait = true,
            "start" => self.start = true,
            _ => return self.apply_named(option),
        }
        Ok(())
    }

    fn apply_named(&mut self, option: &str) -> Result<(), OptionsError> {
        if let Some((name, value)) = option.split_once('=') {
            return match (name, value) {
                ("pool", "") => Err(OptionsError::Malformed(option.to_owned())),
                ("pool", path) => {
                    self.pool = Some(PathBuf::from(path));
                    Ok(())
                }
                _ => Err(OptionsError::Unknown(option.to_owned())),
            };
        }
        if option == "pool" {
            return Err(OptionsError::Malformed(option.to_owned()));
        }
        let capability = option.strip_prefix("no_").and_then(Capability::named);
        let capability = capability.ok_or_else(|| OptionsError::Unknown(option.to_owned()))?;
        self.disabled.insert(capability);
        Ok(())
    }

    /// That whoever asks may have these options: those that take protection away from what others
    /// own in the cluster are for root.
    ///
    /// # Errors
    /// [`OptionsError::RootOnly`]
    pub fn permit(&self, caller_uid: u32) -> Result<(), OptionsError> {
        let for_root = [
            (self.suid, "suid"),
            (self.dev, "dev"),
            // Without ACLs the group's bits count, which are an ACL's mask.
            (self.disabled.contains(Capability::PosixAcl), "no_posix_acl"),
            (self.disabled.contains(Capability::KillprivV2), "no_killpriv_v2"),
        ];
        match for_root.iter().find(|(asked, _)| *asked && caller_uid != 0) {
            Some((_, name)) => Err(OptionsError::RootOnly(name)),
            None => Ok(()),
        }
    }

    /// The same options as a snapshot is mounted with: `ro,nosuid,nodev`, whatever was asked.
    #[must_use]
    pub fn for_snapshot(&self) -> Self {
        Self { read_only: true, suid: false, dev: false, ..self.clone() }
    }

    /// Whether these options keep the kernel from holding back written pages.
    #[must_use]
    pub const fn writes_through(&self) -> bool {
        self.writethrough || self.disabled.contains(Capability::WritebackCache)
    }

    /// What the kernel is told. `source` is the first column of `/proc/mounts`. A daemon that runs
    /// as root lets other users in, unless `private` says otherwise; an ordinary user's must ask.
    #[must_use]
    pub fn request(&self, source: &str, daemon_uid: u32) -> MountRequest {
        MountRequest {
            source: source.to_owned(),
            allow_other: self.allow_other || (daemon_uid == 0 && !self.private),
            read_only: self.read_only,
            nosuid: !self.suid,
            nodev: !self.dev,
            noexec: self.noexec,
            noatime: self.noatime,
        }
    }
}

impl fmt::Display for MountOptions {
    /// The list that [`MountOptions::parse`] reads back, always in the same order; without `pool`,
    /// which says where the daemon is, not how the mount behaves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.read_only { "ro" } else { "rw" })?;
        f.write_str(if self.suid { ",suid" } else { ",nosuid" })?;
        f.write_str(if self.dev { ",dev" } else { ",nodev" })?;
        for (set, name) in [
            (self.noexec, "noexec"),
            (self.noatime, "noatime"),
            (self.allow_other, "allow_other"),
            (self.private, "private"),
            (self.writethrough, "writethrough"),
            (self.key_wait, "key_wait"),
            (self.start, "start"),
        ] {
            if set {
                write!(f, ",{name}")?;
            }
        }
        for (capability, name) in Capability::NAMES {
            if self.disabled.contains(capability) {
                write!(f, ",no_{name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_are_safe_and_the_last_of_two_contradictions_holds() {
        let none = MountOptions::parse("").unwrap();
        assert_eq!(none, MountOptions::default());
        assert_eq!(none.to_string(), "rw,nosuid,nodev");
        assert_eq!(MountOptions::parse("ro,rw,suid,nosuid,").unwrap(), none);
        assert!(MountOptions::parse("rw,ro").unwrap().read_only);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let error = |list: &str| MountOptions::parse(list).unwrap_err();
        assert_eq!(error("ro,bogus"), OptionsError::Unknown("bogus".into()));
        assert_eq!(error("no_bogus"), OptionsError::Unknown("no_bogus".into()));
        assert_eq!(error("ro=1"), OptionsError::Unknown("ro=1".into()));
        assert_eq!(error("pool="), OptionsError::Malformed("pool=".into()));
        assert_eq!(error("pool"), OptionsError::Malformed("pool".into()));
        assert_eq!(error("nofail"), OptionsError::Unknown("nofail".into()));
        assert_eq!(error("private,allow_other"), OptionsError::Conflict("private", "allow_other"));
    }

    #[test]
    fn a_line_of_fstab_leaves_out_what_is_for_others() {
        let options = MountOptions::parse_fstab(
            "rw,pool=/var/lib/strongroom,key_wait,nofail,_netdev,noauto,user,defaults,x-systemd.requires=a@b.service",
        )
        .unwrap();
        assert_eq!(options.pool, Some("/var/lib/strongroom".into()));
        assert!(options.key_wait && !options.read_only);
        assert!(MountOptions::parse_fstab("x-anything,bogus").is_err());
    }

    #[test]
    fn what_takes_protection_away_is_for_root_to_allow() {
        let options = MountOptions::parse("suid").unwrap();
        assert_eq!(options.permit(1000), Err(OptionsError::RootOnly("suid")));
        assert_eq!(options.permit(0), Ok(()));
        let dev = MountOptions::parse("dev").unwrap();
        assert_eq!(dev.permit(1000), Err(OptionsError::RootOnly("dev")));
        for name in ["no_posix_acl", "no_killpriv_v2"] {
            let options = MountOptions::parse(name).unwrap();
            assert_eq!(options.permit(1000), Err(OptionsError::RootOnly(name)));
            assert_eq!(options.permit(0), Ok(()));
        }
        assert_eq!(MountOptions::parse("no_keep_cache").unwrap().permit(1000), Ok(()));
        let snapshot = MountOptions::parse("suid,dev,rw").unwrap().for_snapshot();
        let request = snapshot.request("strongroom:x", 0);
        assert!(request.read_only && request.nosuid && request.nodev);
    }

    #[test]
    fn roots_mounts_let_others_in_unless_private() {
        let allow =
            |list: &str, uid| MountOptions::parse(list).unwrap().request("s", uid).allow_other;
        assert!(allow("", 0) && allow("allow_other", 1000));
        assert!(!allow("private", 0) && !allow("", 1000));
    }

    proptest! {
        #[test]
        fn printed_options_read_back_the_same(picks in proptest::collection::vec(0usize..22, 0..12)) {
            let mut words = vec![
                "ro", "noexec", "noatime", "allow_other", "writethrough", "key_wait", "start",
                "suid", "dev", "rw", "nosuid",
            ]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
            words.extend(Capability::NAMES.iter().map(|(_, name)| format!("no_{name}")));
            let list = picks.iter().map(|i| words[*i].clone()).collect::<Vec<_>>().join(",");
            let options = MountOptions::parse(&list).unwrap();
            prop_assert_eq!(MountOptions::parse(&options.to_string()).unwrap(), options);
        }

        #[test]
        fn any_text_is_answered(list in ".*") {
            let _ = MountOptions::parse(&list);
            let _ = MountOptions::parse_fstab(&list);
        }
    }
}
