//! What every device promises, checked on each implementation.

use std::thread;

use crate::device::{Device, DeviceError};
use crate::sys::AlignedBuf;

const BLOCK: usize = 4096;

fn pattern(byte: u8, blocks: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::new(blocks * BLOCK);
    buf.fill(byte);
    buf
}

fn assert_holds(device: &dyn Device, offset: u64, byte: u8, blocks: usize) {
    let mut buf = pattern(!byte, blocks);
    device.read(offset, &mut buf).unwrap();
    assert!(buf.iter().all(|b| *b == byte), "{blocks} blocks of {byte} at {offset}");
}

/// Runs the checks on a new device of 16 MiB, all zeros.
pub(in crate::device) fn run(device: &dyn Device) {
    run_with_growth(device, || {});
}

/// As [`run`]; `make_room` enlarges what stands beneath to 24 MiB before the device is told.
pub(in crate::device) fn run_with_growth(device: &dyn Device, make_room: impl FnOnce()) {
    assert_eq!(device.size_bytes(), 16 << 20);
    assert_holds(device, 0, 0, 4);
    reads_see_writes(device);
    ranges_are_checked(device);
    many_threads_at_once(device);
    discards_and_reservations(device);
    make_room();
    device.grow(24 << 20).unwrap();
    assert_eq!(device.size_bytes(), 24 << 20);
    assert_holds(device, (24 << 20) - 4096, 0, 1);
    assert!(matches!(device.grow(16 << 20), Err(DeviceError::OutOfRange { .. })));
    device.write((24 << 20) - 4096, &pattern(9, 1)).unwrap();
    device.flush().unwrap();
}

/// Checks what [`run`] left behind, on the same device opened again.
pub(in crate::device) fn remembers(device: &dyn Device) {
    assert_eq!(device.size_bytes(), 24 << 20);
    assert_holds(device, (24 << 20) - 4096, 9, 1);
    assert_holds(device, 1 << 20, 3, 2);
}

fn reads_see_writes(device: &dyn Device) {
    device.write(1 << 20, &pattern(3, 4)).unwrap();
    device.write((1 << 20) + 8192, &pattern(4, 1)).unwrap();
    assert_holds(device, 1 << 20, 3, 2);
    assert_holds(device, (1 << 20) + 8192, 4, 1);
    assert_holds(device, (1 << 20) + 12_288, 3, 1);
    device.flush().unwrap();
    // Buffers that are not aligned are copied.
    let mut odd = vec![0; 2 * BLOCK + 1];
    device.read(1 << 20, &mut odd[1..]).unwrap();
    assert!(odd[1..].iter().all(|b| *b == 3));
    odd.fill(5);
    device.write(2 << 20, &odd[1..]).unwrap();
    assert_holds(device, 2 << 20, 5, 2);
    device.read(0, &mut []).unwrap();
    device.write(0, &[]).unwrap();
}

fn ranges_are_checked(device: &dyn Device) {
    let size = device.size_bytes();
    let mut two = pattern(0, 2);
    for offset in [size - 4096, size, u64::MAX - 4095, 512] {
        let outside = |r: Result<(), DeviceError>| matches!(r, Err(DeviceError::OutOfRange { .. }));
        assert!(outside(device.read(offset, &mut two)), "read at {offset}");
        assert!(outside(device.write(offset, &two)), "write at {offset}");
        assert!(outside(device.ensure(offset, 8192)), "ensure at {offset}");
        assert!(outside(device.discard(offset, 8192).map(drop)), "discard at {offset}");
    }
    assert!(device.read(0, &mut two[..100]).is_err(), "part of a block");
}

fn many_threads_at_once(device: &dyn Device) {
    thread::scope(|scope| {
        for t in 0..8u8 {
            scope.spawn(move || {
                let base = (4 << 20) + u64::from(t) * (1 << 18);
                for round in 0..16u64 {
                    device.write(base + round * 8192, &pattern(t + 1, 2)).unwrap();
                    if round % 8 == 0 {
                        device.flush().unwrap();
                    }
                    assert_holds(device, base + round * 8192, t + 1, 2);
                }
            });
        }
    });
}

fn discards_and_reservations(device: &dyn Device) {
    device.ensure(8 << 20, 1 << 20).unwrap();
    assert_holds(device, 8 << 20, 0, 1);
    device.write(8 << 20, &pattern(6, 2)).unwrap();
    device.ensure(8 << 20, 1 << 20).unwrap();
    assert_holds(device, 8 << 20, 6, 2);
    device.discard(8 << 20, 4096).unwrap();
    assert_holds(device, (8 << 20) + 4096, 6, 1);
    device.write(8 << 20, &pattern(7, 1)).unwrap();
    assert_holds(device, 8 << 20, 7, 1);
    assert!(device.discard(0, 0).is_ok());
}
