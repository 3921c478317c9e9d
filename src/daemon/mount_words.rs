//! Mount options as words: checked here for commands, which know nothing of FUSE.

use std::path::PathBuf;

use crate::fuse::MountOptions;

/// That every option of a list separated by commas is one that can be honoured.
///
/// # Errors
/// The first that cannot, as a line for people.
pub fn check(list: &str) -> Result<(), String> {
    MountOptions::parse(list).map(|_| ()).map_err(|e| e.to_string())
}

/// A list as fstab has it, without what is meant for others: the options for the daemon, one
/// each, and the pool that the list names.
///
/// # Errors
/// As [`check`].
pub fn of_fstab(list: &str) -> Result<(Vec<String>, Option<PathBuf>), String> {
    let options = MountOptions::parse_fstab(list).map_err(|e| e.to_string())?;
    let kept = split(list).filter(|o| MountOptions::parse(o).is_ok()).map(str::to_owned).collect();
    Ok((kept, options.pool))
}

/// The pool that a checked list names.
#[must_use]
pub fn pool_of(list: &str) -> Option<PathBuf> {
    MountOptions::parse(list).ok()?.pool
}

/// The options of a checked list, one each, without the pool.
#[must_use]
pub fn options_of(lists: &[String]) -> Vec<String> {
    lists.iter().flat_map(|l| split(l)).map(str::to_owned).collect()
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|o| !o.is_empty() && !o.starts_with("pool="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_lists_lose_what_is_for_others() {
        let list = "pool=/p,key_wait,nofail,_netdev,x-systemd.requires=a.service,ro";
        let (options, pool) = of_fstab(list).unwrap();
        assert_eq!(options, ["key_wait", "ro"]);
        assert_eq!(pool, Some(PathBuf::from("/p")));
        assert!(of_fstab("nonsense").is_err());
        assert!(check("ro,nonsense").unwrap_err().contains("nonsense"));
        assert_eq!(pool_of("ro,pool=/q"), Some(PathBuf::from("/q")));
        assert_eq!(
            options_of(&["ro, noatime".to_owned(), "pool=/q".to_owned()]),
            ["ro", "noatime"]
        );
    }
}
