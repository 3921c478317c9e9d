//! What providers said last of the keys that headers need. Lists and `status` show this; they never
//! ask a provider across a network themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{EncryptionKeyId, KeyAnswer, KeyState, Timestamp};
use crate::catalog::KeyRef;
use crate::crypto::Wrap;
use crate::keys::{Deadline, Fingerprint, KeysError, Registry};
use crate::service::types::EncryptionStatus;
use crate::sys::sync::{Mutex, Rank};

/// How long one key may take to answer when lists ask.
pub const REFRESH: Duration = Duration::from_secs(3);
/// Answers that are kept.
const ANSWERS_MAX: usize = 16_384;

/// The last answers, by key and fingerprint.
pub(in crate::service) struct Answers {
    last: Mutex<BTreeMap<(EncryptionKeyId, Fingerprint), (KeyAnswer, Timestamp)>>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { last: Mutex::new(Rank::KeyAnswers, BTreeMap::new()) }
    }
}

/// What is shown of a header's keys.
#[derive(Clone, Copy)]
pub(in crate::service) struct Shown {
    pub status: EncryptionStatus,
    pub at: Option<Timestamp>,
}

/// A wrap that says which key is meant and holds nothing: enough to ask for its state.
fn naming(key: &KeyRef) -> Wrap {
    Wrap {
        key_id: key.key_id.clone(),
        resolved: key.resolved.clone(),
        key_version: key.key_version,
        fingerprint: key.fingerprint,
        wrapped: Vec::new(),
    }
}

impl Answers {
    /// Notes what asking for a key gave.
    pub fn note(&self, id: &EncryptionKeyId, of: &Fingerprint, answer: KeyAnswer, now: Timestamp) {
        let mut last = self.last.lock();
        if last.len() >= ANSWERS_MAX {
            last.pop_first();
        }
        last.insert((id.clone(), *of), (answer, now));
    }

    /// Notes what an attempt to use the keys of a header gave, as far as it says something of them.
    pub fn note_result(&self, wraps: &[Wrap], error: Option<&KeysError>, now: Timestamp) {
        let answer = match error {
            None => Some(KeyAnswer::State(KeyState::Enabled)),
            Some(error) => error.answer(),
        };
        if let (Some(answer), Some(wrap)) = (answer, wraps.first()) {
            self.note(&wrap.key_id, &wrap.fingerprint, answer, now);
        }
    }

    /// The last answer for one key; asked now where that costs nothing (the embedded keyring) or
    /// where `refresh` says so.
    pub fn of_key(
        &self,
        registry: &Registry,
        key: &KeyRef,
        refresh: bool,
        now: Timestamp,
    ) -> Option<(KeyAnswer, Timestamp)> {
        if refresh || key.key_id.local_name().is_some() {
            let answer = registry.answer_for_wrap(&naming(key), Deadline::after(REFRESH));
            self.note(&key.key_id, &key.fingerprint, answer, now);
        }
        self.last.lock().get(&(key.key_id.clone(), key.fingerprint)).copied()
    }

    /// What is shown of a header that any one of `keys` opens.
    pub fn of_header(
        &self,
        registry: &Registry,
        keys: &[KeyRef],
        refresh: bool,
        now: Timestamp,
    ) -> Shown {
        if keys.is_empty() {
            return Shown { status: EncryptionStatus::NotEnabled, at: None };
        }
        let all: Vec<_> = keys.iter().map(|k| self.of_key(registry, k, refresh, now)).collect();
        let usable = all.iter().flatten().find(|(answer, _)| answer.is_usable());
        let shown = usable.or_else(|| all.iter().flatten().next());
        Shown {
            status: EncryptionStatus::Answer(shown.map(|(answer, _)| *answer)),
            at: shown.map(|(_, at)| *at),
        }
    }

    /// Whether every key that opens a header is deleted for ever.
    pub fn is_unrecoverable(&self, keys: &[KeyRef]) -> bool {
        let last = self.last.lock();
        let deleted = |k: &KeyRef| {
            last.get(&(k.key_id.clone(), k.fingerprint))
                .is_some_and(|(answer, _)| *answer == KeyAnswer::State(KeyState::Deleted))
        };
        !keys.is_empty() && keys.iter().all(deleted)
    }
}
