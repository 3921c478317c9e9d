//! One request and its answer: who may, what was asked, the call, the reply or the problem.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue, LOCATION,
};
use hyper::{Request, Response, StatusCode};
use tokio::sync::Notify;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::base::cursor::Writer;
use crate::base::{ProblemCode, limits};
use crate::control::api::{Api, Call, Progress, Reply};
use crate::control::client::POOL_HEADER;
use crate::control::jobs::Jobs;
use crate::control::metrics_text;
use crate::control::problem::{Problem, http_status};
use crate::control::routes::{self, Found, Input, Output, Route};
use crate::control::server::{Access, Active, Patience};
use crate::sys;
use crate::sys::peer::PeerCredentials;

/// How much of a body that is too large is read away, so that its sender gets to read the answer.
const DRAIN_BYTES_MAX: u64 = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What every connection of a server shares.
pub(in crate::control) struct Shared {
    pub api: Arc<dyn Api>,
    pub access: Access,
    pub patience: Patience,
    pub jobs: Arc<Jobs>,
    pub active: AtomicUsize,
    pub idle: Notify,
}

/// An answer before it is written: status, media type, body, more headers.
struct Answer {
    status: u16,
    media: &'static str,
    body: Vec<u8>,
    headers: Vec<(hyper::header::HeaderName, String)>,
}

const JSON: &str = "application/json";

impl Answer {
    fn value(status: u16, value: &serde_json::Value) -> Self {
        let mut body = value.to_string().into_bytes();
        body.push(b'\n');
        Self { status, media: JSON, body, headers: Vec::new() }
    }

    fn problem(problem: &Problem) -> Self {
        let mut answer = Self::value(http_status(problem.code), &problem.to_value());
        answer.media = "application/problem+json";
        answer
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// Answers one request, whatever it is.
pub(in crate::control) async fn answer(
    shared: &Arc<Shared>,
    peer: Arc<PeerCredentials>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    // The body is read even where the answer is known: a peer that is cut off while it writes may
    // never read why.
    let body = read_body(&head.headers, body, shared.patience).await;
    let answered = if shared.access.allows(&peer) {
        match body {
            Ok(body) => {
                if let Err(problem) = check_pool(shared, &head.headers) {
                    return Answer::problem(&problem).into_response();
                }
                let path = head.uri.path();
                route(shared, peer, head.method.as_str(), path, head.uri.query(), body).await
            }
            Err(problem) => Answer::problem(&problem),
        }
    } else {
        log::warn!("user {} (process {}) may not use this daemon", peer.uid, peer.pid);
        let detail = format!("user {} may not use this daemon", peer.uid);
        Answer::problem(
            &Problem::new(ProblemCode::Forbidden, detail)
                .with_hint("root, the daemon's own user and members of adminGroup may"),
        )
    };
    answered.into_response()
}

/// That the request is meant for the pool that is served, where it says for which.
fn check_pool(shared: &Shared, headers: &HeaderMap) -> Reply<()> {
    let Some(named) = headers.get(POOL_HEADER) else { return Ok(()) };
    let named = named.to_str().ok().and_then(routes::decode);
    let Some(named) = named else {
        let detail = format!("the header {POOL_HEADER} is no percent-encoded path");
        return Err(Problem::new(ProblemCode::BadRequest, detail));
    };
    shared.api.check_pool(Path::new(&named))
}

/// The body. It may hold a passphrase: no copy of it is left behind.
async fn read_body(
    headers: &HeaderMap,
    mut body: Incoming,
    patience: Patience,
) -> Reply<Zeroizing<Vec<u8>>> {
    let max = limits::REQUEST_BODY_BYTES_MAX;
    let too_large = || {
        let detail = format!("the body is larger than {max} bytes");
        Err(Problem::new(ProblemCode::RequestTooLarge, detail))
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        // Who waits for leave to send gets the answer at once.
        if !headers.contains_key(EXPECT) && announced < Some(DRAIN_BYTES_MAX) {
            drain(body).await;
        }
        return too_large();
    }
    let end = sys::clock::monotonic() + patience.body;
    let mut out = Writer::new();
    while !body.is_end_stream() {
        let wait = patience.stall.min(end.saturating_sub(sys::clock::monotonic()));
        let frame = match timeout(wait, body.frame()).await {
            Err(_) => {
                let detail = "the body did not arrive in time";
                return Err(Problem::new(ProblemCode::RequestTimeout, detail));
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let detail = format!("the body cannot be read: {error}");
                return Err(Problem::new(ProblemCode::BadRequest, detail));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            if out.len() + data.len() > max {
                drain(body).await;
                return too_large();
            }
            out.bytes(&data);
        }
    }
    Ok(out.into_secret())
}

/// Reads a body away, within bounds.
async fn drain(mut body: Incoming) {
    let reading = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, |d| d.len() as u64);
            if seen > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, reading).await;
}

async fn route(
    shared: &Arc<Shared>,
    peer: Arc<PeerCredentials>,
    method: &str,
    path: &str,
    query: Option<&str>,
    body: Zeroizing<Vec<u8>>,
) -> Answer {
    if let Some(answer) = job_route(shared, method, path) {
        return answer;
    }
    let (route, params) = match routes::find(method, path) {
        Found::Route(route, params) => (route, params),
        Found::Methods(methods) => {
            let detail = format!("{path} does not take {method}");
            let mut answer = Answer::problem(&Problem::new(ProblemCode::MethodNotAllowed, detail));
            answer.headers.push((ALLOW, methods.join(", ")));
            return answer;
        }
        Found::Nothing => {
            let detail = format!("there is no {path} here");
            return Answer::problem(&Problem::new(ProblemCode::NotFound, detail));
        }
        Found::Malformed => {
            let detail = "the path is not percent-encoded UTF-8";
            return Answer::problem(&Problem::new(ProblemCode::BadRequest, detail));
        }
    };
    match routes::query(route, query.unwrap_or_default()) {
        Ok(query) => run(shared, peer, route, Input { params, query, body }).await,
        Err(problem) => Answer::problem(&problem),
    }
}

/// `/v1/jobs` belongs to the server itself.
fn job_route(shared: &Shared, method: &str, path: &str) -> Option<Answer> {
    let rest = path.strip_prefix("/v1/jobs")?;
    if method != "GET" {
        return None;
    }
    let job = match rest.strip_prefix('/') {
        None if rest.is_empty() => return Some(json(200, &shared.jobs.list())),
        None => return None,
        Some(id) => id
            .parse()
            .map_err(|_| Problem::new(ProblemCode::NotFound, format!("no job '{id}'")))
            .and_then(|id| shared.jobs.get(id)),
    };
    Some(match job {
        Ok(job) => json(200, &job),
        Err(problem) => Answer::problem(&problem),
    })
}

fn json<T: serde::Serialize>(status: u16, value: &T) -> Answer {
    match serde_json::to_value(value) {
        Ok(value) => Answer::value(status, &value),
        Err(error) => {
            let detail = format!("a reply cannot be written: {error}");
            Answer::problem(&Problem::new(ProblemCode::Internal, detail))
        }
    }
}

async fn run(
    shared: &Arc<Shared>,
    peer: Arc<PeerCredentials>,
    route: &'static Route,
    input: Input,
) -> Answer {
    if route.long && !shared.jobs.has_room() {
        let detail = "too many jobs are running";
        return Answer::problem(&Problem::new(ProblemCode::Busy, detail).with_hint("try later"));
    }
    let progress = Arc::new(Progress::default());
    let active = shared.enter();
    let started_at = sys::clock::now();
    let mut work = tokio::task::spawn_blocking({
        let (api, progress) = (Arc::clone(&shared.api), Arc::clone(&progress));
        move || {
            let done = (route.run)(&*api, &Call { peer: &peer, progress: &progress }, &input);
            drop::<Active>(active);
            done
        }
    });
    let joined = if route.long {
        match timeout(shared.patience.job, &mut work).await {
            Ok(joined) => joined,
            Err(_) => {
                let kind = format!("{} {}", route.method, route.path);
                let id = shared.jobs.adopt(kind, started_at, progress);
                let jobs = Arc::clone(&shared.jobs);
                tokio::spawn(async move {
                    jobs.finish(id, outcome(work.await).and_then(value_of));
                });
                return accepted(shared, id);
            }
        }
    } else {
        work.await
    };
    match outcome(joined) {
        Ok(Output::Json(value)) => Answer::value(route.success, &value),
        Ok(Output::Text(text)) => Answer {
            status: 200,
            media: metrics_text::MEDIA_TYPE,
            body: text.into_bytes(),
            headers: Vec::new(),
        },
        Err(problem) => Answer::problem(&problem),
    }
}

fn accepted(shared: &Shared, id: u64) -> Answer {
    match shared.jobs.get(id) {
        Ok(job) => {
            let mut answer = json(202, &job);
            answer.headers.push((LOCATION, format!("/v1/jobs/{id}")));
            answer
        }
        Err(problem) => Answer::problem(&problem),
    }
}

fn value_of(output: Output) -> Reply<serde_json::Value> {
    match output {
        Output::Json(value) => Ok(value),
        Output::Text(text) => Ok(serde_json::Value::String(text)),
    }
}

/// A handler that panicked takes its own request with it, and nothing else.
fn outcome(joined: Result<Reply<Output>, tokio::task::JoinError>) -> Reply<Output> {
    joined.unwrap_or_else(|error| {
        log::error!("a control request failed: {error}");
        let detail = "the request ended in a defect of the daemon; its log has more";
        Err(Problem::new(ProblemCode::Internal, detail))
    })
}
