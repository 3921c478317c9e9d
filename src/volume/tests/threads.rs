//! Many threads at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Rig, USER, pattern, read};
use crate::sys::threads::spawn;
use crate::volume::{ROOT_INODE, RenameFlags, VolumeError};

#[test]
fn writes_reads_cuts_and_names_run_beside_each_other() {
    let rig = Arc::new(Rig::new());
    let stop = Arc::new(AtomicBool::new(false));
    let cuts = {
        let (rig, stop) = (Arc::clone(&rig), Arc::clone(&stop));
        spawn("cuts", move || {
            while !stop.load(Ordering::Relaxed) {
                rig.backing.checkpoint().unwrap();
            }
        })
    };
    let shared = rig.file("shared");
    let workers: Vec<_> = (0..4u64)
        .map(|n| {
            let rig = Arc::clone(&rig);
            spawn("worker", move || {
                let own = rig.file(&format!("own{n}"));
                let mut plain = Vec::new();
                for i in 0..60u64 {
                    // Own file: overwritten again and again; shared file: one lane each.
                    let data = pattern(n * 1000 + i, 3000 + (i as usize * 2777) % 200_000);
                    let at = (i * 1717) % 50_000;
                    let end = at as usize + data.len();
                    plain.resize(plain.len().max(end), 0);
                    plain[at as usize..end].copy_from_slice(&data);
                    rig.write(own, at, &data);
                    rig.write(shared, (i * 4 + n) * 4096, &pattern(n + i, 4096));
                    assert_eq!(rig.read(own, 0, 1 << 20), plain);
                    if i % 9 == 0 {
                        rig.volume.fsync(own, true).unwrap();
                    }
                    let (a, b) = (format!("t{n}-{i}"), format!("u{n}"));
                    let ino = rig.file(&a);
                    let flags = RenameFlags::default();
                    let v = &rig.volume;
                    v.rename(ROOT_INODE, a.as_bytes(), ROOT_INODE, b.as_bytes(), flags, &USER)
                        .unwrap();
                    v.forget(ino, 1);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    cuts.join().unwrap();
    for n in 0..4u64 {
        for i in 0..60u64 {
            let got = rig.read(shared, (i * 4 + n) * 4096, 4096);
            assert_eq!(got, pattern(n + i, 4096));
        }
    }
    assert_eq!(rig.list(ROOT_INODE).len(), 9);
    rig.check();
}

/// What survives a crash is a prefix: a marker written after the data never stands without it.
#[test]
fn a_later_write_never_survives_without_an_earlier_one() {
    let rig = Arc::new(Rig::new());
    let (a, b) = (rig.file("a"), rig.file("b"));
    rig.volume.sync().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (rig, stop) = (Arc::clone(&rig), Arc::clone(&stop));
        spawn("writer", move || {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                // Data, then a marker in another file, then a name.
                rig.write(a, (n % 40) * 4096, &n.to_le_bytes());
                rig.write(b, 0, &n.to_le_bytes());
                if n.is_multiple_of(3) {
                    let name = format!("n{n}");
                    let made = rig.volume.mknod(ROOT_INODE, name.as_bytes(), 0o644, 0, &USER);
                    rig.volume.forget(made.unwrap().attr.ino, 1);
                }
            }
        })
    };
    for round in 0..60 {
        if round % 2 == 0 {
            rig.volume.sync().unwrap();
        } else {
            rig.backing.checkpoint().unwrap();
        }
        let after = rig.crash();
        let number = |bytes: Vec<u8>| bytes.try_into().map_or(0, u64::from_le_bytes);
        let marker = number(after.read(b, 0, 8));
        if marker > 0 {
            let data = number(after.read(a, (marker % 40) * 4096, 8));
            assert!(data >= marker, "the marker {marker} came without its data, {data}");
        }
        let names = after.list(ROOT_INODE);
        let last = names.iter().filter_map(|n| n.strip_prefix('n')?.parse::<u64>().ok()).max();
        assert!(last.unwrap_or(0) <= marker, "a name came without the marker before it");
        assert!(marker < last.unwrap_or(0) + 7, "a marker came without the name before it");
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn locking_waits_for_what_is_under_way() {
    let rig = Arc::new(Rig::new());
    let ino = rig.file("a");
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let rig = Arc::clone(&rig);
            spawn("worker", move || {
                loop {
                    match rig.volume.write(ino, 0, &[1; 9000], true) {
                        Ok(_) => {}
                        Err(error) => return error,
                    }
                    if let Err(error) = read(&rig.volume, ino, 0, 100) {
                        return error;
                    }
                }
            })
        })
        .collect();
    crate::sys::clock::sleep(std::time::Duration::from_millis(20));
    rig.volume.set_locked();
    for worker in workers {
        assert_eq!(worker.join().unwrap(), VolumeError::Locked);
    }
}
