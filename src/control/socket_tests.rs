//! The server over a real socket: what each bound does, and that nothing is left behind.

use std::io::{Read, Write};
use std::net::Shutdown as Half;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::base::{ProblemCode, limits};
use crate::control::fake::Fake;
use crate::control::server::{Access, Patience, Server, ServerError, Stopper};
use crate::control::types::{
    Cluster, ClusterDeleted, CreateCluster, DeleteKey, Empty, Key, List, RestoreRequest, Restored,
    Snapshot,
};
use crate::control::{Client, Problem, client};
use crate::sys;

struct Running {
    _dir: tempfile::TempDir,
    path: PathBuf,
    stop: Stopper,
    thread: Option<sys::threads::JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        Self::start_for(Access { owner_uid: sys::process::euid(), admin_gid: None })
    }

    fn start_for(access: Access) -> Self {
        Self::start_with(access, Duration::from_millis(400))
    }

    /// With this patience for headers.
    fn start_with(access: Access, header: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let patience = Patience {
            header,
            stall: Duration::from_millis(400),
            body: Duration::from_secs(2),
            answer: Duration::from_millis(800),
            job: Duration::from_millis(150),
        };
        let server = Server::bind(&path, access).unwrap().with_patience(patience);
        let stop = server.stopper();
        let thread = sys::threads::spawn("control", move || server.serve(Arc::new(Fake)).unwrap());
        Self { _dir: dir, path, stop, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends bytes, reads to the end; errors in sending show in what comes back.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        read_all(stream)
    }

    fn client(&self) -> Client {
        Client::new(&self.path)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.path.exists(), "the socket is removed");
    }
}

fn read_all(mut stream: UnixStream) -> String {
    let mut out = Vec::new();
    let _ = stream.read_to_end(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}").into()
}

fn send<T: serde::de::DeserializeOwned>(
    running: &Running,
    method: &str,
    path: &str,
    body: &impl serde::Serialize,
) -> Result<T, crate::control::Problem> {
    running.client().send(method, path, body, &mut |_, _| ())
}

#[test]
fn requests_and_replies_are_typed_both_ways() {
    let running = Running::start();
    let clusters: List<Cluster> = running.client().get("/v1/clusters").unwrap();
    assert_eq!(clusters.results.len(), 1);
    let request = CreateCluster { name: "db2".parse().unwrap(), encryption_key_id: None };
    let made: Cluster = send(&running, "POST", "/v1/clusters", &request).unwrap();
    assert_eq!(made.name.as_str(), "db2");
    let path = format!("/v1/keys/{}/delete", client::segment("local://k1"));
    let key: Key = send(&running, "POST", &path, &DeleteKey::default()).unwrap();
    assert_eq!(key.encryption_key_id.as_str(), "local://k1");
    let request = RestoreRequest { in_place: true, ..RestoreRequest::default() };
    let restored: Restored =
        send(&running, "POST", "/v1/snapshots/snap-0000/restore", &request).unwrap();
    assert!(matches!(restored, Restored::InPlace(_)));
    assert!(
        running.client().get_text("/metrics").unwrap().contains("strongroom_checkpoints_total")
    );
}

#[test]
fn a_key_that_is_absent_is_absent_in_json() {
    let running = Running::start();
    let answer = running.raw(b"GET /v1/clusters/db HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.contains("\"encryptionStatus\":\"Not enabled\""), "{answer}");
    assert!(!answer.contains("encryptionKeyId"), "{answer}");
    let snapshots: List<Snapshot> = running.client().get("/v1/snapshots?cluster=db").unwrap();
    assert_eq!(snapshots.results[0].key_version, Some(1));
}

#[test]
fn a_request_that_is_meant_for_another_pool_is_refused_before_anything_is_done() {
    let running = Running::start();
    let meant_for = |pool: &str| {
        let client = running.client().of_pool(std::path::Path::new(pool));
        let answer: Result<ClusterDeleted, Problem> =
            client.send("DELETE", "/v1/clusters/db", &Empty {}, &mut |_, _| {});
        answer.map(|deleted| deleted.name).map_err(|problem| problem.code)
    };
    assert_eq!(meant_for("/other pool"), Err(ProblemCode::Config));
    assert_eq!(meant_for("/its own"), Ok("db".parse().unwrap()));
    let other = running.client().of_pool(std::path::Path::new("/other pool"));
    assert_eq!(other.is_served().unwrap_err().code, ProblemCode::Config);
    let raw = "GET /v1/clusters HTTP/1.1\r\nHost: x\r\nStrongroom-Pool: %zz\r\n\r\n";
    assert_eq!(status(&running.raw(raw.as_bytes())), 400);
}

#[test]
fn problems_are_documents_with_a_stable_code() {
    let running = Running::start();
    let answer = running.raw(&post("/v1/snapshots/snap-0000/restore", r#"{"mountpoint":"/m"}"#));
    assert_eq!(status(&answer), 409, "{answer}");
    assert!(answer.contains("content-type: application/problem+json"));
    assert!(answer.contains("\"code\":\"key-disabled\"") && answer.contains("\"exitStatus\":3"));
    for (method, path, code) in [
        ("GET", "/nothing", ProblemCode::NotFound),
        ("PUT", "/v1/clusters", ProblemCode::MethodNotAllowed),
        ("GET", "/v1/clusters/A%2Fb", ProblemCode::BadRequest),
        ("GET", "/v1/clusters/%ff", ProblemCode::BadRequest),
        ("GET", "/v1/clusters?x=1", ProblemCode::BadRequest),
        ("GET", "/v1/jobs/9", ProblemCode::NotFound),
        ("GET", "/v1/clusters/panic", ProblemCode::Internal),
    ] {
        let problem = send::<Empty>(&running, method, path, &Empty {}).unwrap_err();
        assert_eq!(problem.code, code, "{method} {path}");
    }
}

#[test]
fn unknown_fields_and_malformed_bodies_are_refused() {
    let running = Running::start();
    for body in [
        r#"{"name":"db","color":1}"#,
        r#"{"name":"db"} x"#,
        r#"{"name":"db","name":"db"}"#,
        r#"{"name":"a/b"}"#,
        r#"{"name":""}"#,
        r#"{"name":1}"#,
        r#"[]"#,
        r#"["db",null]"#,
        r#" ["db"]"#,
        "",
        "\u{0}",
        &"[".repeat(10_000),
    ] {
        let answer = running.raw(&post("/v1/clusters", body));
        assert_eq!(status(&answer), 400, "{body:.80}: {answer}");
        assert!(answer.contains("bad-request"), "{answer}");
    }
    // A key must be said, be it none.
    assert_eq!(status(&running.raw(&post("/v1/clusters/db/set-key", "{}"))), 400);
    let none = r#"{"encryptionKeyId":null}"#;
    assert_eq!(status(&running.raw(&post("/v1/clusters/db/set-key", none))), 200);
    assert_eq!(status(&running.raw(&post("/v1/keys/k1/enable", r#"{"x":1}"#))), 400);
    assert_eq!(status(&running.raw(&post("/v1/keys/k1/enable", "[]"))), 400);
    assert_eq!(status(&running.raw(&post("/v1/keys/k1/enable", "\r\n {}"))), 200);
    assert_eq!(status(&running.raw(b"NONSENSE\r\n\r\n")), 400);
    assert_eq!(status(&running.raw(b"\x16\x03\x01\x00\x05hello\r\n\r\n")), 400);
}

#[test]
fn sizes_are_bounded() {
    let running = Running::start();
    let max = limits::REQUEST_BODY_BYTES_MAX;
    let fits = format!("{{\"name\":\"db\"{}}}", " ".repeat(max - 13));
    assert_eq!(fits.len(), max);
    assert_eq!(status(&running.raw(&post("/v1/clusters", &fits))), 201);
    assert_eq!(status(&running.raw(&post("/v1/clusters", &format!("{fits} ")))), 413);
    // Announced and never sent: the answer comes at once.
    let head = "POST /v1/clusters HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
                Content-Length: 999999999999\r\n\r\n";
    assert_eq!(status(&running.raw(head.as_bytes())), 413);
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16));
    let chunked = format!(
        "POST /v1/clusters HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(20)
    );
    assert_eq!(status(&running.raw(chunked.as_bytes())), 413);
    let many = format!("GET /v1/clusters HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert_eq!(status(&running.raw(many.as_bytes())), 431);
    let long = format!("GET /v1/clusters HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(status(&running.raw(long.as_bytes())), 431);
}

#[test]
fn slow_peers_are_answered_or_closed() {
    let running = Running::start();
    let mut stalled = running.connect();
    stalled
        .write_all(b"POST /v1/clusters HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        .unwrap();
    assert_eq!(status(&read_all(stalled)), 408);
    let mut header = running.connect();
    header.write_all(b"GET /v1/clu").unwrap();
    assert_eq!(read_all(header), "", "a stalled header is closed without an answer");
    assert_eq!(read_all(running.connect()), "", "and a silent peer");
    // A body that trickles for ever has an end, too.
    let mut trickle = running.connect();
    trickle
        .write_all(b"POST /v1/clusters HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n")
        .unwrap();
    for _ in 0..40 {
        if trickle.write_all(b" ").is_err() {
            break;
        }
        sys::clock::sleep(Duration::from_millis(100));
    }
    assert_eq!(status(&read_all(trickle)), 408);
}

#[test]
fn half_closed_peers_get_their_answer() {
    let running = Running::start();
    let mut half = running.connect();
    half.write_all(&post("/v1/clusters", r#"{"name":"db"}"#)).unwrap();
    half.shutdown(Half::Write).unwrap();
    assert_eq!(status(&read_all(half)), 201);
    let mut slow = running.connect();
    slow.write_all(b"GET /v1/clusters/slow HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    slow.shutdown(Half::Write).unwrap();
    assert_eq!(status(&read_all(slow)), 200);
    // Half a request and an end is no request.
    let mut cut = running.connect();
    cut.write_all(b"POST /v1/clusters HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{").unwrap();
    cut.shutdown(Half::Write).unwrap();
    let answer = read_all(cut);
    assert!(answer.is_empty() || status(&answer) == 400, "{answer}");
}

#[test]
fn long_work_becomes_a_job() {
    let running = Running::start();
    let answer = running.raw(b"DELETE /v1/clusters/slow HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status(&answer), 202, "{answer}");
    assert!(answer.contains("location: /v1/jobs/1\r\n"), "{answer}");
    let mut seen = Vec::new();
    let deleted: ClusterDeleted = running
        .client()
        .send("DELETE", "/v1/clusters/slow", &Empty {}, &mut |done, total| {
            seen.push((done, total));
        })
        .unwrap();
    assert_eq!(deleted.snapshots_kept, 1);
    assert!(seen.contains(&(1, 2)));
}

#[test]
fn others_are_forbidden() {
    let running = Running::start_for(Access { owner_uid: u32::MAX - 1, admin_gid: None });
    let answer = running.raw(b"GET /v1/clusters HTTP/1.1\r\nHost: x\r\n\r\n");
    // Root may everywhere; run as somebody else this is a stranger.
    let expected = if sys::process::euid() == 0 { 200 } else { 403 };
    assert_eq!(status(&answer), expected, "{answer}");
    let stranger = sys::peer::PeerCredentials { uid: 1000, gid: 1000, pid: 1, groups: vec![7, 9] };
    let access = |owner_uid, admin_gid| Access { owner_uid, admin_gid }.allows(&stranger);
    assert!(!access(0, None) && !access(1001, Some(8)));
    assert!(access(1000, None) && access(0, Some(1000)) && access(0, Some(9)));
}

#[test]
fn the_socket_is_ours_alone_and_stale_ones_are_replaced() {
    let running = Running::start();
    let there = std::fs::symlink_metadata(&running.path).unwrap();
    assert!(there.file_type().is_socket());
    assert_eq!(there.permissions().mode() & 0o777, 0o600);
    let access = Access { owner_uid: 0, admin_gid: None };
    assert!(matches!(Server::bind(&running.path, access), Err(ServerError::InUse(_))));
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(Server::bind(&stale, access).is_ok());
    let gid = std::fs::metadata(dir.path()).unwrap().gid();
    let shared = dir.path().join("shared");
    let _bound = Server::bind(&shared, Access { owner_uid: 0, admin_gid: Some(gid) }).unwrap();
    let there = std::fs::symlink_metadata(&shared).unwrap();
    assert_eq!((there.permissions().mode() & 0o777, there.gid()), (0o660, gid));
    let file = dir.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(matches!(Server::bind(&file, access), Err(ServerError::NotASocket(_))));
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    let anybodys = dir.path().join("anybodys");
    std::fs::create_dir(&anybodys).unwrap();
    std::fs::set_permissions(&anybodys, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Server::bind(&anybodys.join("s"), access), Err(ServerError::NotOwn(_))));
    let long = dir.path().join("x".repeat(110));
    assert!(matches!(Server::bind(&long, access), Err(ServerError::PathTooLong(_))));
}

#[test]
fn connections_beyond_the_bound_are_told_so_and_none_leaks() {
    let access = Access { owner_uid: sys::process::euid(), admin_gid: None };
    // Nobody is closed for being slow here: what is open stays so.
    let running = Running::start_with(access, Duration::from_secs(600));
    let server_side = || {
        // Both ends live in this process, other tests open their own: count those of this socket.
        let shown = running.path.to_string_lossy().into_owned();
        let table = std::fs::read_to_string("/proc/net/unix").unwrap();
        table
            .lines()
            .filter(|l| l.ends_with(&shown) && l.split_whitespace().nth(5) == Some("03"))
            .count()
    };
    // They are accepted in this order, so the first ones have all the places.
    let idle: Vec<_> = (0..limits::CONNECTIONS_MAX).map(|_| running.connect()).collect();
    for _ in 0..10 {
        let answer = read_all(running.connect());
        assert_eq!(status(&answer), 503, "{answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        assert!(answer.contains("\"code\":\"too-many-connections\""), "{answer}");
    }
    assert!(server_side() >= limits::CONNECTIONS_MAX, "the count sees them");
    // A client waits for a place, and gets it.
    let client = running.client();
    let waiting =
        sys::threads::spawn("waits", move || client.get::<Cluster>("/v1/clusters/db").unwrap());
    sys::clock::sleep(Duration::from_millis(250));
    drop(idle);
    assert_eq!(waiting.join().unwrap().name.as_str(), "db");
    for _ in 0..50 {
        let mut cut = running.connect();
        let _ =
            cut.write_all(b"POST /v1/clusters HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{");
    }
    for _ in 0..600 {
        if server_side() == 0 {
            return;
        }
        sys::clock::sleep(Duration::from_millis(50));
    }
    panic!("{} connections are left", server_side());
}

#[test]
fn what_is_no_request_is_refused_in_the_words_of_every_refusal() {
    let running = Running::start();
    let many = format!("GET /v1/clusters HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    let long = format!("GET /v1/clusters HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(100_000));
    let stranger: &[u8] = b"\x16\x03\x01\x00\x05hello\r\n\r\n";
    for (bytes, expected, code) in [
        (&b"NONSENSE\r\n\r\n"[..], 400, "bad-request"),
        (stranger, 400, "bad-request"),
        (b"GET /v1/status HTTP/7.0\r\n\r\n", 400, "bad-request"),
        (b"GET /v1/clusters HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "bad-request"),
        (many.as_bytes(), 431, "request-too-large"),
        (long.as_bytes(), 431, "request-too-large"),
    ] {
        let answer = running.raw(bytes);
        assert_eq!(status(&answer), expected, "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/problem+json"), "{answer}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &expected.into()));
        assert!(problem["detail"].as_str().is_some_and(|d| !d.is_empty()));
    }
}

/// A process that is just being killed: it takes connections and answers none of the first
/// `unanswered`; how many it has read is counted.
fn dying(unanswered: usize) -> (tempfile::TempDir, Client, Arc<AtomicUsize>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    sys::threads::spawn("dying", move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            if seen.fetch_add(1, Ordering::SeqCst) >= unanswered {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            }
        }
    });
    (dir, Client::new(path), count)
}

#[test]
fn only_what_changes_nothing_is_asked_twice_where_nobody_answered() {
    let (_dir, client, count) = dying(3);
    let _: Empty = client.get("/v1/status").unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 4);
    let (_dir, client, count) = dying(1);
    let problem =
        client.send::<_, Empty>("POST", "/v1/umount", &Empty {}, &mut |_, _| ()).unwrap_err();
    assert_eq!((problem.code, count.load(Ordering::SeqCst)), (ProblemCode::Io, 1));
    assert!(problem.hint.contains("not known"), "{problem}");
    let (_dir, client, count) = dying(2);
    assert_eq!(client.is_served(), Ok(true));
    assert_eq!(count.load(Ordering::SeqCst), 3, "it is asked until it answers");
}

#[test]
fn no_daemon_is_told_from_a_daemon_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path().join("none"));
    assert_eq!(client.is_served(), Ok(false));
    let problem = client.get::<Empty>("/v1/status").unwrap_err();
    assert_eq!(problem.code, ProblemCode::NoDaemon);
    let running = Running::start();
    assert_eq!(running.client().is_served(), Ok(true));
}
