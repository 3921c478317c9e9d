//! Problem documents (RFC 9457): what went wrong, why, and what to do, with a stable `code`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::ProblemCode;

/// Why a request was not done. `detail` is one line: what and why; `hint`: what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The stable name.
    pub code: ProblemCode,
    /// What happened, to which object, and why: lower case, no full stop.
    pub detail: String,
    /// What to do; empty where there is nothing to say.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " (hint: {})", self.hint) }
    }
}

/// The document as it stands on the wire.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(rename = "type", default = "about_blank")]
    kind: String,
    title: String,
    #[serde(default)]
    status: u16,
    detail: String,
    code: String,
    #[serde(default)]
    hint: String,
    exit_status: u8,
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

impl Problem {
    /// A problem without a hint.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: String::new() }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// What to do, where there is something to do; empty where there is not.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// The exit status of a command that ends in it.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        self.code.exit_status()
    }

    /// The document as a JSON value.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        let document = Document {
            kind: about_blank(),
            title: self.code.title().to_owned(),
            status: http_status(self.code),
            detail: self.detail.clone(),
            code: self.code.as_str().to_owned(),
            hint: self.hint.clone(),
            exit_status: self.exit_status(),
        };
        serde_json::to_value(document).unwrap_or(serde_json::Value::Null)
    }

    /// The problem that a document on the wire tells. A code that this version does not know, and
    /// bytes that are no problem document, are kept as a defect's detail.
    #[must_use]
    pub fn from_bytes(status: u16, bytes: &[u8]) -> Self {
        let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
            return Self::new(
                match status {
                    400 => ProblemCode::BadRequest,
                    403 => ProblemCode::Forbidden,
                    404 => ProblemCode::NotFound,
                    413 | 431 => ProblemCode::RequestTooLarge,
                    _ => ProblemCode::Internal,
                },
                format!("the daemon answered with HTTP status {status}"),
            );
        };
        match ProblemCode::from_name(&document.code) {
            Some(code) => Self { code, detail: document.detail, hint: document.hint },
            None => Self {
                code: ProblemCode::Internal,
                detail: format!("{} ({})", document.detail, document.code),
                hint: document.hint,
            },
        }
    }
}

/// The HTTP status of each code: the only place that knows one.
#[must_use]
pub const fn http_status(code: ProblemCode) -> u16 {
    use ProblemCode as C;
    match code {
        C::Usage | C::BadRequest | C::KeyProvider | C::MountPoint => 400,
        C::RequestTooLarge => 413,
        C::RequestTimeout => 408,
        C::Forbidden => 403,
        C::MethodNotAllowed => 405,
        C::NotFound
        | C::ClusterNotFound
        | C::SnapshotNotFound
        | C::KeyNotFound
        | C::PoolNotFound => 404,
        C::SnapshotAmbiguous
        | C::ClusterExists
        | C::KeyExists
        | C::FileExists
        | C::AlreadyMounted
        | C::NotMounted
        | C::Busy
        | C::Held
        | C::PoolExists
        | C::RootSecretExists
        | C::PoolBusy
        | C::KeyNotUsable
        | C::KeyDisabled
        | C::KeyPendingDeletion
        | C::KeyDeleted
        | C::KeyDenied
        | C::KeyMismatch
        | C::KeyInUse
        | C::KeyState
        | C::LogOutstanding
        | C::NothingLost
        | C::Confirmation => 409,
        C::KeyUnreachable | C::NoDaemon | C::Interrupted | C::TooManyConnections => 503,
        C::PoolFull | C::PoolReadOnly => 507,
        C::Unsupported => 501,
        C::MountFailed
        | C::BarrierFailed
        | C::NotAPool
        | C::FormatTooNew
        | C::PoolTruncated
        | C::PoolRolledBack
        | C::RootSecret
        | C::RootSecretMissing
        | C::Keyring
        | C::Config
        | C::Io
        | C::Corrupt
        | C::Internal => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_as_the_same_problem() {
        for code in ProblemCode::ALL {
            let problem = Problem::new(*code, "what and why").with_hint("what to do");
            let value = problem.to_value();
            assert_eq!(value["code"], code.as_str());
            assert_eq!(value["exitStatus"], code.exit_status());
            assert!((400..600).contains(&http_status(*code)), "{code}");
            let bytes = serde_json::to_vec(&value).unwrap();
            assert_eq!(Problem::from_bytes(http_status(*code), &bytes), problem);
        }
    }

    #[test]
    fn what_is_no_document_is_a_problem_all_the_same() {
        assert_eq!(Problem::from_bytes(431, b"").code, ProblemCode::RequestTooLarge);
        assert_eq!(Problem::from_bytes(200, b"{").code, ProblemCode::Internal);
        let newer = br#"{"title":"t","detail":"d","code":"of-later","exitStatus":1}"#;
        assert!(Problem::from_bytes(500, newer).detail.contains("of-later"));
    }
}
