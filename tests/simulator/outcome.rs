//! What becomes of an operation: done, refused as it has to be, or failed because the disk did.

use std::fmt::Debug;

use strongroom::base::{EncryptionKeyId, KeyState, ProblemCode};
use strongroom::service::ServiceError;

use crate::world::World;

/// Why an operation has to be refused.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// A key that it needs is not usable.
    Key,
    Code(ProblemCode),
}

pub enum Outcome<T> {
    Done(T),
    /// As it had to be; nothing changed.
    Refused,
    /// The disk failed: whether it happened is known when the pool is opened again.
    Failed,
}

impl Refusal {
    fn is(self, error: &ServiceError) -> bool {
        match self {
            Self::Key => error.code.exit_status() == 3,
            Self::Code(code) => error.code == code,
        }
    }
}

impl World {
    /// Holds a result to what has to come of it.
    pub fn outcome<T: Debug>(
        &mut self,
        result: Result<T, ServiceError>,
        refusal: Option<Refusal>,
    ) -> Outcome<T> {
        match (result, refusal) {
            (Ok(done), None) => Outcome::Done(done),
            (Err(error), Some(refusal)) if refusal.is(&error) => Outcome::Refused,
            (Err(error), _) if self.faults.have_fired() => {
                self.tell(format!("  (failed: {error})"));
                self.failed = Some(error.to_string());
                Outcome::Failed
            }
            (result, refusal) => panic!("{result:?}; to be refused: {refusal:?}"),
        }
    }

    /// That an operation is refused which needs these keys.
    pub fn key_refusal<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Option<EncryptionKeyId>>,
    ) -> Option<Refusal> {
        let usable = |key: &EncryptionKeyId| self.expected.keys[key] == KeyState::Enabled;
        let all = keys.into_iter().flatten().all(usable);
        (!all).then_some(Refusal::Key)
    }

    /// That an operation is refused which needs the logs of these clusters replayed.
    pub fn log_refusal(&self, clusters: &[String]) -> Option<Refusal> {
        let outstanding = clusters.iter().any(|cluster| self.is_outstanding(cluster));
        outstanding.then_some(Refusal::Code(ProblemCode::LogOutstanding))
    }
}
