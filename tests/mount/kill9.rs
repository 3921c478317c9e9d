//! kill -9 of the daemon, in the middle of what waits for it, leaves no process behind.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use strongroom::fuse::BarrierKind;
use strongroom::sys::clock;
use strongroom::sys::threads::spawn;

use crate::daemon::{helpers_of, is_alive, within};
use crate::mapping::Mapping;
use crate::server::{Mount, Setup};

fn kill_during(kind: BarrierKind, command: &str) {
    // Each write takes long enough to be killed in.
    let mut mount = Mount::new(&Setup { kind, delay_ms: 400, ..Setup::default() });
    let path = mount.path("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(8 << 20).unwrap();
    let mut mapping = Mapping::new(&file, 8 << 20).unwrap();
    mapping.store(0, &vec![7u8; 8 << 20]);
    if kind == BarrierKind::Handle {
        file.write_all(&vec![8u8; 4 << 20]).unwrap();
    }
    let daemon = mount.pid();
    mount.tell(command);
    clock::sleep(Duration::from_millis(250));
    let helpers = helpers_of(daemon);
    assert!(!helpers.is_empty(), "the barrier was not under way when it should be killed");
    assert!(mount.kill(), "the daemon is still there after SIGKILL");
    let gone = || helpers.iter().all(|helper| !is_alive(*helper));
    assert!(within(Duration::from_secs(5), gone), "a helper is still there after its daemon's end");
    drop(mapping);
}

#[test]
fn during_a_barrier_by_handle() {
    kill_during(BarrierKind::Handle, "settle");
}

#[test]
fn during_a_barrier_by_invalidation() {
    kill_during(BarrierKind::Invalidate, "settle");
}

#[test]
fn while_unmounting() {
    let mut mount = Mount::new(&Setup { delay_ms: 400, ..Setup::default() });
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("f")).unwrap();
    file.set_len(8 << 20).unwrap();
    let mut mapping = Mapping::new(&file, 8 << 20).unwrap();
    mapping.store(0, &vec![7u8; 8 << 20]);
    drop(file);
    // Unmapping releases the file, which writes its pages: in a thread, as it takes long.
    let release = spawn("test", move || drop(mapping));
    mount.tell("unmount lazy");
    clock::sleep(Duration::from_millis(250));
    assert!(mount.kill(), "the daemon is still there after SIGKILL");
    release.join().unwrap();
}

#[test]
fn with_requests_waiting() {
    let mut mount = Mount::new(&Setup { delay_ms: 3000, ..Setup::default() });
    let path = mount.path("f");
    let writer = spawn("test", move || {
        let mut file = std::fs::File::create(path).unwrap();
        let _ = file.write_all(&[1; 4096]);
        file.sync_all()
    });
    clock::sleep(Duration::from_millis(200));
    assert!(mount.kill());
    assert!(writer.join().unwrap().is_err());
}
