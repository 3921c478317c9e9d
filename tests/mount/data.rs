//! File content through the kernel's cache.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use crate::mapping::Mapping;
use crate::server::{Mount, Setup};
use strongroom::sys::clock;

fn drop_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

const SETUPS: [&str; 3] =
    ["", "writethrough", "no_keep_cache,no_killpriv_v2,no_direct_io,no_async_dio,no_readdirplus"];

#[test]
fn what_was_written_is_read_also_after_the_cache_is_gone() {
    for options in SETUPS {
        let mount = Mount::new(&Setup { options, ..Setup::default() });
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i * 7 + i / 4096) as u8).collect();
        std::fs::write(mount.path("f"), &bytes).unwrap();
        assert!(std::fs::read(mount.path("f")).unwrap() == bytes, "{options}");
        drop_caches();
        assert!(std::fs::read(mount.path("f")).unwrap() == bytes, "{options}");
        let file = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
        // Through a handle that cannot read, within a page that is not cached.
        drop_caches();
        file.write_at(b"inside", 1_000_003).unwrap();
        drop(file);
        drop_caches();
        let read = std::fs::read(mount.path("f")).unwrap();
        assert_eq!(&read[1_000_000..1_000_012], {
            let mut expected = bytes[1_000_000..1_000_012].to_vec();
            expected[3..9].copy_from_slice(b"inside");
            expected
        });
    }
}

#[test]
fn appending_truncating_and_holes() {
    let mount = Mount::new(&Setup::default());
    let path = mount.path("f");
    std::fs::write(&path, b"start").unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"+end").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"start+end");
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(3).unwrap();
    file.set_len(10_000).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    assert_eq!((&all[..3], all.len()), (&b"sta"[..], 10_000));
    assert!(all[3..].iter().all(|b| *b == 0));
    assert_eq!(file.metadata().unwrap().len(), 10_000);
}

#[test]
fn a_file_without_a_name_lives_while_it_is_open() {
    let mount = Mount::new(&Setup::default());
    let path = mount.path("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(b"nameless").unwrap();
    drop_caches();
    let mut back = [0u8; 8];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!((&back, file.metadata().unwrap().nlink()), (b"nameless", 0));
}

#[test]
fn mappings_and_calls_see_one_file() {
    let mut mount = Mount::new(&Setup::default());
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("f")).unwrap();
    file.set_len(8192).unwrap();
    let mut mapping = Mapping::new(&file, 8192).unwrap();
    mapping.store(4090, b"across pages");
    let mut seen = [0u8; 12];
    file.read_exact_at(&mut seen, 4090).unwrap();
    assert_eq!(&seen, b"across pages");
    file.write_all_at(b"written", 10).unwrap();
    assert_eq!(&mapping.load()[10..17], b"written");
    file.sync_data().unwrap();
    let daemon = mount.content(file.metadata().unwrap().ino());
    assert_eq!((&daemon[10..17], &daemon[4090..4102]), (&b"written"[..], &b"across pages"[..]));
}

#[test]
fn times_before_1970_and_with_nanoseconds_survive() {
    let mount = Mount::new(&Setup::default());
    let path = mount.path("f");
    File::create(&path).unwrap();
    for (secs, nanos) in [(-2i64, 800_000_000u32), (-1, 1), (1_700_000_000, 123_456_789), (0, 5)] {
        let time = nix::sys::time::TimeSpec::new(secs, nanos.into());
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            &path,
            &time,
            &time,
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
        drop_caches();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (secs, i64::from(nanos)));
        assert_eq!((meta.atime(), meta.atime_nsec()), (secs, i64::from(nanos)));
    }
}

#[test]
fn set_user_id_bits_do_not_survive_an_ordinary_users_write() {
    use std::os::unix::fs::PermissionsExt as _;
    for options in ["suid", "suid,no_killpriv_v2", "suid,writethrough", "suid,no_direct_io"] {
        let mount = Mount::new(&Setup { options, ..Setup::default() });
        let open_up = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(mount.dir(), open_up).unwrap();
        // The temporary directory above is root's alone.
        let above = mount.dir().parent().unwrap().to_owned();
        std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, script) in [
            ("written", "printf x >> \"$1\""),
            (
                "direct",
                "dd if=/dev/zero of=\"$1\" bs=4096 count=1 oflag=direct conv=notrunc 2>/dev/null",
            ),
            ("truncated", "truncate -s 1 \"$1\" "),
        ] {
            let path = mount.path(name);
            std::fs::write(&path, vec![1u8; 8192]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6777)).unwrap();
            let done = std::process::Command::new("setpriv")
                .args([
                    "--reuid=65534",
                    "--regid=65534",
                    "--clear-groups",
                    "sh",
                    "-c",
                    script,
                    "sh",
                ])
                .arg(&path)
                .status()
                .unwrap();
            assert!(done.success(), "{options} {name}");
            // Told to the kernel by a thread of its own.
            clock::sleep(std::time::Duration::from_millis(100));
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o777, "{options} {name}");
        }
    }
}
