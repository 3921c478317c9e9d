//! What is agreed with the kernel when a session begins.

use fuser::{InitFlags, KernelConfig};

use crate::fuse::options::{Capability, Disabled};

/// Largest request, in bytes.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Background requests (read-ahead, writeback) that the kernel may have under way; it takes 12 by
/// itself, and waits with everything else when they are used up.
const BACKGROUND_MAX: u16 = 256;
/// From this many on, the kernel calls the filesystem congested.
const CONGESTED_AT: u16 = 192;

/// What both sides will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Written pages stay in the kernel until something asks for them.
    pub writeback: bool,
    /// Files opened with `O_DIRECT` bypass the cache (and can still be mapped).
    pub direct_io: bool,
    /// Direct writes within a file run side by side.
    pub parallel_direct_writes: bool,
    /// The cache survives from one open to the next.
    pub keep_cache: bool,
    /// Names that do not exist are remembered.
    pub negative_entries: bool,
    /// The file creation mask is ours to apply.
    pub umask: bool,
    /// The flags, as both sides have them.
    pub flags: InitFlags,
}

impl Agreed {
    /// The names of what is in use: offered by the kernel, and not switched off.
    pub fn names(&self) -> Vec<&'static str> {
        let in_use = |capability| match capability {
            Capability::ParallelDirectWrites => self.parallel_direct_writes,
            Capability::KeepCache => self.keep_cache,
            Capability::NegativeEntries => self.negative_entries,
            _ => WANTED
                .iter()
                .any(|(f, switch)| *switch == Some(capability) && self.flags.contains(*f)),
        };
        Capability::NAMES.iter().filter(|(c, _)| in_use(*c)).map(|(_, name)| *name).collect()
    }
}

/// Flags wanted, each with the switch that turns it off. Never asked for:
/// - POSIX_LOCKS and FLOCK_LOCKS: the kernel's own locks are right on one host, and cost nothing;
/// - SETXATTR_EXT, TMPFILE's opcode, SECURITY_CTX, CREATE_SUPP_GROUP: `fuser` cannot pass on what
///   they bring;
/// - HANDLE_KILLPRIV (the first version): it leaves the kernel's copy of the mode untouched;
/// - ATOMIC_O_TRUNC, AUTO_INVAL_DATA: nobody else changes these files;
/// - NO_OPEN_SUPPORT: the barrier counts open files.
const WANTED: [(InitFlags, Option<Capability>); 12] = [
    (InitFlags::FUSE_WRITEBACK_CACHE, Some(Capability::WritebackCache)),
    (InitFlags::FUSE_DO_READDIRPLUS, Some(Capability::Readdirplus)),
    (InitFlags::FUSE_READDIRPLUS_AUTO, Some(Capability::Readdirplus)),
    (InitFlags::FUSE_PARALLEL_DIROPS, Some(Capability::ParallelDirops)),
    (InitFlags::FUSE_ASYNC_DIO, Some(Capability::AsyncDio)),
    (InitFlags::FUSE_POSIX_ACL, Some(Capability::PosixAcl)),
    (InitFlags::FUSE_DONT_MASK, None),
    (InitFlags::FUSE_HANDLE_KILLPRIV_V2, Some(Capability::KillprivV2)),
    (InitFlags::FUSE_CACHE_SYMLINKS, Some(Capability::CacheSymlinks)),
    (InitFlags::FUSE_EXPLICIT_INVAL_DATA, None),
    (InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, Some(Capability::DirectIo)),
    (InitFlags::FUSE_MAX_PAGES, None),
];

/// The flags to ask for, of those that the kernel offers.
fn choose(offered: InitFlags, disabled: Disabled, writeback: bool) -> InitFlags {
    let mut chosen = InitFlags::empty();
    for (flag, switch) in WANTED {
        let off = switch.is_some_and(|capability| disabled.contains(capability))
            || (flag == InitFlags::FUSE_WRITEBACK_CACHE && !writeback);
        if !off {
            chosen |= flag & offered;
        }
    }
    chosen
}

const fn agreed(chosen: InitFlags, disabled: Disabled) -> Agreed {
    // A direct file that cannot be mapped shared would break programs that do both; a kernel
    // without DIRECT_IO_ALLOW_MMAP gets direct I/O through its cache, which works with any file.
    let direct_io = chosen.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
    Agreed {
        writeback: chosen.contains(InitFlags::FUSE_WRITEBACK_CACHE),
        direct_io,
        parallel_direct_writes: direct_io && !disabled.contains(Capability::ParallelDirectWrites),
        keep_cache: !disabled.contains(Capability::KeepCache),
        negative_entries: !disabled.contains(Capability::NegativeEntries),
        umask: chosen.contains(InitFlags::FUSE_DONT_MASK),
        flags: chosen,
    }
}

/// Answers the kernel's first request. `writeback`: whether pages may stay in the kernel at all.
pub(super) fn negotiate(config: &mut KernelConfig, disabled: Disabled, writeback: bool) -> Agreed {
    let chosen = choose(config.capabilities(), disabled, writeback);
    // Everything chosen was offered, and the limits lie within what `fuser` accepts.
    let _ = config.add_capabilities(chosen);
    let _ = config.set_max_write(REQUEST_BYTES_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
    let _ = config.set_congestion_threshold(CONGESTED_AT);
    agreed(chosen, disabled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::options::MountOptions;

    fn disabled(list: &str) -> Disabled {
        MountOptions::parse(list).unwrap().disabled
    }

    #[test]
    fn nothing_is_asked_for_that_the_transport_cannot_honour() {
        let chosen = choose(InitFlags::all(), Disabled::default(), true);
        for never in [
            InitFlags::FUSE_SETXATTR_EXT,
            InitFlags::FUSE_HANDLE_KILLPRIV,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_SECURITY_CTX,
            InitFlags::FUSE_CREATE_SUPP_GROUP,
            InitFlags::FUSE_OVER_IO_URING,
        ] {
            assert!(!chosen.intersects(never), "{never:?}");
        }
    }

    #[test]
    fn an_old_kernel_gets_direct_files_through_its_cache() {
        let old = InitFlags::all() - InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        let agreed = agreed(choose(old, Disabled::default(), true), Disabled::default());
        assert!(agreed.writeback && !agreed.direct_io && !agreed.parallel_direct_writes);
        let names = agreed.names();
        assert!(names.contains(&"writeback_cache") && names.contains(&"keep_cache"));
        assert!(!names.contains(&"direct_io") && !names.contains(&"parallel_direct_writes"));
    }

    #[test]
    fn each_switch_takes_its_flags_out() {
        for (flag, switch) in WANTED {
            let Some(capability) = switch else { continue };
            let (_, name) = Capability::NAMES.into_iter().find(|(c, _)| *c == capability).unwrap();
            let chosen = choose(InitFlags::all(), disabled(&format!("no_{name}")), true);
            assert!(!chosen.intersects(flag), "{name}");
        }
        assert!(!agreed(InitFlags::all(), disabled("no_keep_cache")).keep_cache);
        let without = choose(InitFlags::all(), Disabled::default(), false);
        assert!(!without.intersects(InitFlags::FUSE_WRITEBACK_CACHE));
    }
}
