//! What commands say where no daemon serves the pool.

use crate::support::World;

#[test]
fn without_a_daemon_and_without_leave_to_start_one() {
    let world = World::new();
    for line in ["cluster list", "snapshot create db", "mount db /nowhere", "key list"] {
        let done = world.type_in(&format!("{line} --no-start"));
        assert_eq!(done.status, 1, "{line}: {}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{line}: {}", done.err);
        assert!(
            done.err.contains("strongroom --pool") && done.err.contains("daemon"),
            "{}",
            done.err
        );
        let done = world.type_in(&format!("{line} --no-start --json"));
        let problem: serde_json::Value = serde_json::from_str(&done.err).unwrap();
        assert_eq!((done.status, &problem["code"]), (1, &"no-daemon".into()));
    }
    assert!(world.is_untouched());
}

#[test]
fn status_and_shutdown_never_start_one() {
    let world = World::new();
    let done = world.type_in("status");
    // Dead mounts of this machine would follow.
    assert!(done.status == 1 && done.out.starts_with("daemon: not running\n"), "{}", done.out);
    assert_eq!(done.err.lines().count(), 1);
    let done = world.type_in("status --json");
    assert!(done.err.contains("\"no-daemon\""), "{}", done.err);
    let found: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert!(found["deadMounts"].is_array() && found["nextSteps"].is_array(), "{}", done.out);
    assert_eq!(world.type_in("shutdown").status, 1);
    assert!(world.is_untouched());
}

#[test]
fn a_socket_path_that_the_kernel_refuses_is_named() {
    let world = World::new();
    let long = format!("/tmp/{}/s", "x".repeat(110));
    let done = world.run(["status", "--socket", &long]);
    assert_eq!(done.status, 1);
    assert!(done.err.contains("107") && done.err.contains("--socket"), "{}", done.err);
}
