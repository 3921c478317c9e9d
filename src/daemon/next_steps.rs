//! What somebody who reads `status` should do next: one line for each state that is not as it
//! should be, with the command.

use crate::base::{EncryptionKeyId, KeyAnswer, KeyState};
use crate::control::types::{Key, PoolState, Status};
use crate::keys::KeysError;
use crate::service::POOL_FULL;

/// A pool of which less than this part is free is nearly full: one of so many.
const NEARLY_FULL: u64 = 50;

/// The next steps; none where all is well.
pub(in crate::daemon) fn of(status: &Status) -> Vec<String> {
    let pool = &status.pool;
    let mut steps = Vec::new();
    match pool.state {
        PoolState::Ok => {}
        PoolState::ReadOnly => {
            steps
                .push("mend what made the pool read-only, then: strongroom pool resume".to_owned());
        }
        PoolState::Degraded => {
            steps.push("see which files and snapshots are hit: strongroom scrub".to_owned());
        }
    }
    let coming = pool.free_bytes.saturating_add(pool.pending_free_bytes);
    if coming < pool.size_bytes / NEARLY_FULL {
        steps.push(format!("the pool is nearly full: {POOL_FULL}"));
    }
    steps.extend(status.keys.iter().filter(|k| k.used_by > 0).filter_map(of_key));
    steps
}

/// What to do about a key that is needed and cannot be used.
fn of_key(key: &Key) -> Option<String> {
    let id = &key.encryption_key_id;
    let state = |s: KeyState| KeysError::State { id: id.clone(), state: s }.hint();
    let told = |answer: KeyAnswer| key.state == answer.as_str();
    let states = [KeyState::Disabled, KeyState::PendingDeletion, KeyState::Deleted];
    let step = match states.into_iter().find(|s| told(KeyAnswer::State(*s))) {
        Some(unusable) => state(unusable),
        None if told(KeyAnswer::Unreachable) => Some(unreachable(id)),
        None if told(KeyAnswer::Denied) => {
            Some(format!("ask the key's owner to grant access, then: strongroom key test {id}"))
        }
        None => None,
    };
    let needed = match key.used_by {
        1 => "1 cluster or snapshot needs".to_owned(),
        n => format!("{n} clusters and snapshots need"),
    };
    step.map(|step| format!("{needed} {id}, which is {}; {step}", key.state))
}

fn unreachable(id: &EncryptionKeyId) -> String {
    let kept = if id.as_str().starts_with("local:") {
        "bring the keyring back (strongroom config restore FILE, the daemon shut down)"
    } else {
        "nothing is lost; once its provider can be reached"
    };
    format!("{kept}, ask again: strongroom key test {id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::Pool;

    fn status() -> Status {
        let pool = Pool {
            path: "/p".to_owned(),
            id: crate::base::PoolId([1; 16]),
            generation: 1,
            state: PoolState::Ok,
            reason: None,
            size_bytes: 1 << 30,
            used_bytes: 0,
            free_bytes: 1 << 29,
            pending_free_bytes: 0,
        };
        Status {
            pid: 1,
            version: String::new(),
            daemon_version: String::new(),
            format_version: 1,
            pool,
            clusters: Vec::new(),
            mounts: Vec::new(),
            dead_mounts: Vec::new(),
            keys: Vec::new(),
            background: Vec::new(),
            last_checkpoint_at: None,
            keys_not_backed_up: 0,
            warnings: Vec::new(),
            next_steps: Vec::new(),
        }
    }

    fn only_step(status: &Status, command: &str) {
        let steps = of(status);
        assert!(matches!(&steps[..], [step] if step.contains(command)), "{command}: {steps:?}");
    }

    #[test]
    fn each_state_that_is_not_as_it_should_be_has_its_command() {
        assert!(of(&status()).is_empty());
        let mut at = status();
        at.pool.state = PoolState::ReadOnly;
        only_step(&at, "strongroom pool resume");
        at.pool.state = PoolState::Degraded;
        only_step(&at, "strongroom scrub");
        let mut at = status();
        at.pool.free_bytes = 1 << 20;
        only_step(&at, "strongroom snapshot delete ID");
        at.pool.pending_free_bytes = 1 << 29;
        assert!(of(&at).is_empty(), "room is coming by itself");
    }

    #[test]
    fn a_key_that_is_needed_and_not_usable_has_its_command() {
        for (state, command) in [
            ("disabled", "strongroom key enable local://k1"),
            ("pending-deletion", "strongroom key cancel-delete local://k1"),
            ("deleted", "unrecoverable"),
            ("unreachable", "strongroom config restore FILE"),
            ("denied", "strongroom key test local://k1"),
        ] {
            let mut at = status();
            at.keys.push(Key {
                encryption_key_id: "local://k1".parse().unwrap(),
                state: state.to_owned(),
                deletion_at: None,
                created_at: None,
                used_by: 1,
                keys_not_backed_up: None,
            });
            only_step(&at, command);
            only_step(&at, "1 cluster or snapshot needs local://k1");
            at.keys[0].used_by = 2;
            only_step(&at, "2 clusters and snapshots need local://k1");
            at.keys[0].used_by = 0;
            assert!(of(&at).is_empty(), "nobody needs it");
            at.keys[0].used_by = 2;
            "enabled".clone_into(&mut at.keys[0].state);
            assert!(of(&at).is_empty());
        }
    }
}
