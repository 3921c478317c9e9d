//! The other end: one blocking request per connection.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::base::{ProblemCode, limits};
use crate::control::api::Reply;
use crate::control::problem::{Problem, http_status};
use crate::control::types::{Job, JobState};
use crate::sys;

/// An answer larger than this is no answer.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// How often a job is asked after.
const JOB_POLL: Duration = Duration::from_millis(200);

/// How long a daemon with too many connections, or one that is just ending, is asked again, and how
/// often.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// A daemon that is silent for so long is told of.
const SILENCE: Duration = Duration::from_secs(5);
/// Names the pool that a request is meant for, percent-encoded.
pub(in crate::control) const POOL_HEADER: &str = "strongroom-pool";
/// Answered by the server itself, at once.
const SMALLEST: &str = "/v1/jobs";

/// Speaks to the daemon that serves a socket; to nobody but root, this user and the pool's owner.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    pool_owner: Option<u32>,
    /// The pool that is meant.
    pool: Option<PathBuf>,
    /// Told what is waited for.
    waiting: Option<fn(&str)>,
}

/// One part of a path, percent-encoded.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

impl Client {
    /// A client of that socket; nothing is connected yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), pool_owner: None, pool: None, waiting: None }
    }

    /// The same that is answered by the daemon of this pool alone, whatever the socket's place.
    #[must_use]
    pub fn of_pool(self, pool: &Path) -> Self {
        Self { pool: Some(pool.to_owned()), ..self }
    }

    /// The same that tells, once for each request, that a daemon is silent.
    #[must_use]
    pub fn telling(self, waiting: fn(&str)) -> Self {
        Self { waiting: Some(waiting), ..self }
    }

    /// The same that speaks to a daemon of the pool's owner, too.
    #[must_use]
    pub fn trusting(self, pool_owner: Option<u32>) -> Self {
        Self { pool_owner, ..self }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether somebody serves the socket: a process that was killed takes connections until it is
    /// gone, and answers none.
    ///
    /// # Errors
    /// [`ProblemCode::Forbidden`] where this user may not connect, so cannot know, or somebody
    /// serves it who is not to be trusted; [`ProblemCode::Config`] where another pool is served.
    pub fn is_served(&self) -> Reply<bool> {
        match self.ask("GET", SMALLEST, None) {
            Ok(answer) if answer.status >= 300 => {
                match Problem::from_bytes(answer.status, &answer.body) {
                    // It serves another pool.
                    problem if problem.code == ProblemCode::Config => Err(problem),
                    _ => Ok(true),
                }
            }
            Ok(_) => Ok(true),
            Err(problem) if problem.code == ProblemCode::NoDaemon => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    fn connect(&self) -> Reply<UnixStream> {
        let shown = self.socket.display();
        if self.socket.as_os_str().len() > limits::SOCKET_PATH_BYTES_MAX {
            let max = limits::SOCKET_PATH_BYTES_MAX;
            let detail = format!("the socket's path {shown} is longer than {max} bytes");
            return Err(Problem::new(ProblemCode::Config, detail)
                .with_hint("choose a shorter one by --socket or STRONGROOM_SOCKET"));
        }
        let stream = UnixStream::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Problem::new(ProblemCode::NoDaemon, format!("no daemon serves {shown}"))
            }
            io::ErrorKind::PermissionDenied => {
                Problem::new(ProblemCode::Forbidden, format!("{shown}: {error}"))
                    .with_hint("root, the daemon's own user and members of adminGroup may")
            }
            _ => Problem::new(ProblemCode::Io, format!("{shown}: {error}")),
        })?;
        let peer = sys::peer::of(&stream)
            .map_err(|e| Problem::new(ProblemCode::Io, format!("{shown}: {e}")))?;
        if self.trusts(peer.uid, sys::process::euid()) {
            return Ok(stream);
        }
        let (uid, pid) = (peer.uid, peer.pid);
        let detail = format!(
            "{shown} is served by user {uid} (process {pid}), who is neither root, nor you, nor \
             surely the pool's owner; nothing was said to it"
        );
        Err(Problem::new(ProblemCode::Forbidden, detail)
            .with_hint("name the right place by --pool or --socket"))
    }

    fn trusts(&self, peer: u32, own: u32) -> bool {
        peer == 0 || peer == own || self.pool_owner == Some(peer)
    }

    /// `GET`, a typed reply.
    ///
    /// # Errors
    /// What the daemon answers, or why it cannot be asked; as for all below.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Reply<T> {
        typed(&self.exchange("GET", path, None)?.body)
    }

    /// `GET`, the text of the reply.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn get_text(&self, path: &str) -> Reply<String> {
        Ok(String::from_utf8_lossy(&self.exchange("GET", path, None)?.body).into_owned())
    }

    /// Any method with a request; where it becomes a job, waits for its end and calls `progress`
    /// with (steps done, steps in all) meanwhile.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &B,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Reply<T> {
        // It may hold a passphrase.
        let body = Zeroizing::new(serde_json::to_vec(body).map_err(|e| {
            Problem::new(ProblemCode::Internal, format!("a request cannot be written: {e}"))
        })?);
        let answer = self.exchange(method, path, Some(&body))?;
        if answer.status != 202 {
            return typed(&answer.body);
        }
        let mut job: Job = typed(&answer.body)?;
        while job.state == JobState::Running {
            progress(job.done_steps, job.total_steps);
            sys::clock::sleep(JOB_POLL);
            job = self.get(&format!("/v1/jobs/{}", job.id)).map_err(|problem| {
                match problem.code {
                    // Another daemon by now, or none: not to be taken for one that was asked nothing.
                    ProblemCode::NoDaemon | ProblemCode::NotFound => {
                        no_answer("it ended meanwhile")
                    }
                    _ => problem,
                }
            })?;
        }
        match (job.result, job.problem) {
            (Some(value), _) => serde_json::from_value(value).map_err(unreadable),
            (None, Some(problem)) => Err(Problem::from_bytes(0, problem.to_string().as_bytes())),
            (None, None) => Err(no_answer("the job ended without a reply")),
        }
    }

    /// One request that succeeds.
    fn exchange(&self, method: &str, path: &str, body: Option<&[u8]>) -> Reply<Answer> {
        let answer = self.ask(method, path, body)?;
        match answer.status {
            200..=299 => Ok(answer),
            status => Err(Problem::from_bytes(status, &answer.body)),
        }
    }

    /// One request and its answer, whatever it is. It is sent again for a while where that changes
    /// nothing: where the daemon had no room for the connection, and where one that only looks was
    /// not answered.
    fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> Reply<Answer> {
        let end = sys::clock::monotonic() + PATIENCE;
        loop {
            let outcome = self.ask_once(method, path, body);
            let again = match &outcome {
                Ok(answer) => answer.is_refusal_of_connection(),
                Err(Unheard::NoAnswer(_)) => method == "GET",
                Err(Unheard::NotSent(_)) => false,
            };
            if !again || sys::clock::monotonic() >= end {
                return outcome.map_err(|unheard| match unheard {
                    Unheard::NotSent(problem) => problem,
                    Unheard::NoAnswer(why) => no_answer(&why),
                });
            }
            sys::clock::sleep(POLL);
        }
    }

    fn ask_once(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Answer, Unheard> {
        let mut stream = self.connect().map_err(Unheard::NotSent)?;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: strongroom\r\nAccept: application/json\r\n\
             Connection: close\r\n"
        );
        if let Some(pool) = self.pool.as_ref().and_then(|pool| pool.to_str()) {
            let _ = write!(request, "{POOL_HEADER}: {}\r\n", segment(pool));
        }
        if let Some(body) = body {
            let length = body.len();
            let _ =
                write!(request, "Content-Type: application/json\r\nContent-Length: {length}\r\n");
        }
        request.push_str("\r\n");
        let sent = stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.write_all(body.unwrap_or_default()));
        let (bytes, received) = self.receive(&stream);
        // An answer that came counts more than an error in sending the rest of the request.
        parse(&bytes).ok_or_else(|| match sent.and(received) {
            Err(error) => Unheard::NoAnswer(error.to_string()),
            Ok(()) => Unheard::NoAnswer("it ended before; its log says why".to_owned()),
        })
    }
}

impl Client {
    /// What comes until the other end is closed, and whether that was all. A daemon may be stopped,
    /// or its device hang: that it is silent is told.
    fn receive(&self, stream: &UnixStream) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let mut silence = self.waiting.map(|_| SILENCE);
        loop {
            let read = stream
                .set_read_timeout(silence)
                .and_then(|()| stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes));
            match read {
                Err(error) if silence.take().is_some() && is_timeout(&error) => {
                    self.tell_of_silence(stream);
                }
                read => return (bytes, read.map(|_| ())),
            }
        }
    }

    fn tell_of_silence(&self, stream: &UnixStream) {
        let Some(waiting) = self.waiting else { return };
        let who = sys::peer::of(stream).map_or_else(
            |_| "the daemon".to_owned(),
            |peer| format!("the daemon (process {0}; its state: ps -o stat= {0})", peer.pid),
        );
        waiting(&format!("waiting: {who} has not answered yet"));
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Why there is no answer.
enum Unheard {
    /// Nothing was asked.
    NotSent(Problem),
    /// Something was sent; whether it was read is not known.
    NoAnswer(String),
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// Whether the daemon had no room for the connection, and so read nothing.
    fn is_refusal_of_connection(&self) -> bool {
        self.status == http_status(ProblemCode::TooManyConnections)
            && Problem::from_bytes(self.status, &self.body).code == ProblemCode::TooManyConnections
    }
}

/// An HTTP/1.1 response, whole: a status line, headers, a body of the announced length.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())?;
    let body = bytes.get(end + 4..)?.get(..length)?;
    Some(Answer { status, body: body.to_vec() })
}

/// For `src/fuzzing`: an answer of any daemon.
#[cfg(any(test, fuzzing))]
pub(in crate::control) fn read_any(bytes: &[u8]) {
    let Some(answer) = parse(bytes) else { return };
    assert!(answer.body.len() <= bytes.len());
    let problem = Problem::from_bytes(answer.status, &answer.body);
    assert!((1..=9).contains(&problem.exit_status()), "it is an error to a script");
    let _ = (answer.is_refusal_of_connection(), typed::<serde_json::Value>(&answer.body));
}

fn typed<T: DeserializeOwned>(body: &[u8]) -> Reply<T> {
    serde_json::from_slice(body).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Problem {
    Problem::new(ProblemCode::Internal, format!("the daemon's answer cannot be read: {error}"))
        .with_hint("is the daemon of another version? restart it: strongroom shutdown")
}

fn no_answer(why: &str) -> Problem {
    Problem::new(ProblemCode::Io, format!("the daemon did not answer: {why}")).with_hint(
        "whether it did what was asked is not known: look (strongroom status), then ask again",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn answers_are_whole_or_nothing() {
        let whole = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}";
        let answer = parse(whole).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (409, b"{}".as_slice()));
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_none(), "{cut}");
        }
        assert!(parse(b"HTTP/1.1 2\r\nContent-Length: 0\r\n\r\n").is_none());
    }

    #[test]
    fn root_oneself_and_the_pool_s_owner_are_trusted() {
        let client = Client::new("/s");
        assert!(client.trusts(0, 1000) && client.trusts(1000, 1000));
        assert!(!client.trusts(1001, 1000) && !client.trusts(1001, 0));
        let client = client.trusting(Some(1001));
        assert!(client.trusts(1001, 1000) && client.trusts(1001, 0) && !client.trusts(1002, 0));
    }

    #[test]
    fn a_daemon_that_is_silent_for_long_is_told_of_and_waited_for() {
        static TOLD: AtomicUsize = AtomicUsize::new(0);
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = sys::threads::spawn("silent", move || {
            let (mut stream, _) = listener.accept().unwrap();
            sys::clock::sleep(SILENCE + Duration::from_secs(1));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        });
        let client = Client::new(socket).telling(|text| {
            assert!(text.contains(&std::process::id().to_string()), "{text}");
            TOLD.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(client.get_text("/v1/status").unwrap(), "{}");
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);
        daemon.join().unwrap();
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("local://k-1.a_b~"), "local%3A%2F%2Fk-1.a_b~");
    }
}
