//! Extended attributes, asked for with and without a buffer.

use crate::attributes::{get, list, remove, set};
use crate::server::{Mount, Setup};

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let mount = Mount::new(&Setup::default());
    let path = mount.path("f");
    std::fs::write(&path, b"x").unwrap();
    assert_eq!(errno(get(&path, "user.a", 100)), Some(libc::ENODATA));
    set(&path, "user.a", b"value", 0).unwrap();
    set(&path, "trusted.b", &[], 0).unwrap();
    assert_eq!(get(&path, "user.a", 100).unwrap(), (5, b"value".to_vec()));
    assert_eq!(get(&path, "user.a", 0).unwrap().0, 5);
    assert_eq!(errno(get(&path, "user.a", 4)), Some(libc::ERANGE));
    assert_eq!(get(&path, "trusted.b", 10).unwrap().0, 0);
    assert_eq!(errno(set(&path, "user.a", b"", libc::XATTR_CREATE)), Some(libc::EEXIST));
    assert_eq!(errno(set(&path, "user.c", b"", libc::XATTR_REPLACE)), Some(libc::ENODATA));
    let mut names = list(&path).unwrap();
    names.sort();
    assert_eq!(names, ["trusted.b", "user.a"]);
    remove(&path, "user.a").unwrap();
    assert_eq!(errno(remove(&path, "user.a")), Some(libc::ENODATA));
    assert_eq!(list(&path).unwrap(), ["trusted.b"]);
}

#[test]
fn a_value_of_64_kib_fits_and_one_byte_more_does_not() {
    let mount = Mount::new(&Setup::default());
    let path = mount.path("f");
    std::fs::write(&path, b"x").unwrap();
    let value = vec![7u8; 65_536];
    set(&path, "user.big", &value, 0).unwrap();
    assert_eq!(get(&path, "user.big", 65_536).unwrap().1, value);
    assert_eq!(errno(set(&path, "user.big", &vec![7u8; 65_537], 0)), Some(libc::E2BIG));
}
