//! Files opened with O_DIRECT: of any alignment, beside buffered handles and mappings.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use crate::mapping::Mapping;
use crate::server::{Mount, Setup};
use strongroom::sys::threads::spawn;

const SETUPS: [&str; 3] = ["", "no_direct_io", "writethrough"];

fn open(mount: &Mount, flags: i32) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(mount.path("f"))
        .unwrap()
}

fn read(file: &File, at: u64) -> [u8; 7] {
    let mut bytes = [0u8; 7];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn any_alignment_works_and_everybody_sees_it() {
    for options in SETUPS {
        for direct_first in [true, false] {
            let mount = Mount::new(&Setup { options, ..Setup::default() });
            let (direct, buffered);
            if direct_first {
                direct = open(&mount, libc::O_DIRECT);
                buffered = open(&mount, 0);
            } else {
                buffered = open(&mount, 0);
                direct = open(&mount, libc::O_DIRECT);
            }
            direct.set_len(64 << 10).unwrap();
            let mut mapping = Mapping::new(&buffered, 64 << 10).unwrap();
            for round in 0..20u8 {
                let at = u64::from(round) * 1_001 + 1;
                let what = [round; 7];
                direct.write_all_at(&what, at).unwrap();
                assert_eq!(read(&buffered, at), what, "{options} {direct_first}");
                assert_eq!(mapping.load()[at as usize..][..7], what);
                buffered.write_all_at(&[round ^ 0xff; 7], at).unwrap();
                assert_eq!(read(&direct, at), [round ^ 0xff; 7], "{options} {direct_first}");
                mapping.store(at as usize, b"through");
                assert_eq!(&read(&direct, at), b"through", "{options} {direct_first}");
            }
        }
    }
}

#[test]
fn a_reader_through_the_cache_beside_a_direct_writer_keeps_no_stale_page() {
    let mount = Mount::new(&Setup::default());
    let direct = open(&mount, libc::O_DIRECT);
    direct.write_all_at(&vec![0u8; 1 << 20], 0).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = {
        let (file, stop) = (open(&mount, 0), std::sync::Arc::clone(&stop));
        spawn("test", move || {
            let mut block = vec![0u8; 1 << 20];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.read_exact_at(&mut block, 0).unwrap();
            }
        })
    };
    for round in 1..=60u8 {
        direct.write_all_at(&vec![round; 1 << 20], 0).unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    reader.join().unwrap();
    drop(direct);
    assert!(std::fs::read(mount.path("f")).unwrap().iter().all(|b| *b == 60));
}
