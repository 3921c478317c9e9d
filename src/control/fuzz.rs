//! For `src/fuzzing`: what strangers say on the socket, behind the HTTP library.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::control::routes::{self, Found, Input};
use crate::control::types::{
    AddRootSecret, CreateCluster, CreateKey, CreateSnapshots, DeleteKey, DeleteSnapshots, Empty,
    GrowPool, MountCluster, RemoveRootSecret, RestoreRequest, Rewrap, ScrubRequest, SetKey,
    Shutdown, Umount, UmountAny,
};
use crate::control::{client, unparsed};

/// A request: method, blank, target, line end, body.
pub fn request(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = bytes.split_at(end);
    let Ok(head) = std::str::from_utf8(head) else { return };
    let (method, target) = head.split_once(' ').unwrap_or(("POST", head));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Found::Route(route, params) = routes::find(method, path) {
        assert!(params.len() <= 1, "no route has more than one part that varies");
        if let Ok(query) = routes::query(route, query) {
            assert!(query.iter().all(|(name, _)| route.query.contains(&name.as_str())));
        }
    }
    let body = Zeroizing::new(body.get(1..).unwrap_or_default().to_vec());
    bodies(&Input { params: Vec::new(), query: Vec::new(), body });
}

fn bodies(input: &Input) {
    reads_back::<CreateCluster>(input);
    reads_back::<SetKey>(input);
    reads_back::<MountCluster>(input);
    reads_back::<Umount>(input);
    reads_back::<UmountAny>(input);
    reads_back::<CreateKey>(input);
    reads_back::<DeleteKey>(input);
    reads_back::<CreateSnapshots>(input);
    reads_back::<DeleteSnapshots>(input);
    reads_back::<Rewrap>(input);
    reads_back::<GrowPool>(input);
    reads_back::<ScrubRequest>(input);
    reads_back::<Shutdown>(input);
    reads_back::<Empty>(input);
    let _ = (input.body::<AddRootSecret>(), input.body::<RemoveRootSecret>());
    if let Ok(request) = input.body::<RestoreRequest>() {
        let _ = request.form();
    }
}

/// What is written of a request reads as the same.
fn reads_back<T: Serialize + DeserializeOwned>(input: &Input) {
    let Ok(request) = input.body::<T>() else { return };
    let json = |request: &T| serde_json::to_value(request).expect("a request can be written");
    let written = json(&request);
    let body = Zeroizing::new(written.to_string().into_bytes());
    let again = Input { params: Vec::new(), query: Vec::new(), body }.body::<T>();
    assert!(again.is_ok_and(|again| json(&again) == written), "{written} reads as another");
}

/// An answer, as the command and as the daemon's own socket read it.
pub fn answer(bytes: &[u8]) {
    client::read_any(bytes);
    assert!(unparsed::instead_of(bytes).starts_with(b"HTTP/1.1 "));
}

/// Requests and answers as they are.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 12] = [
        b"POST /v1/clusters\n{\"name\":\"db\",\"encryptionKeyId\":\"local://k1\"}",
        b"PATCH /v1/clusters/db\n{\"encryptionKeyId\":null,\"snapshots\":true}",
        b"GET /v1/keys/local%3A%2F%2Fk1/usage\n",
        b"GET /v1/snapshots?cluster=db&refresh=true\n",
        b"POST /v1/snapshots\n{\"clusters\":[\"db\"],\"all\":false,\"retain\":\"7d\",\"description\":\"x\"}",
        b"POST /v1/snapshots/delete\n{\"ids\":[\"snap-0123456789abcdef\"]}",
        b"POST /v1/snapshots/snap-01/restore\n{\"mountpoint\":\"/m\",\"options\":[\"ro\"]}",
        b"POST /v1/snapshots/snap-01/restore\n{\"toCluster\":\"new\"}",
        b"POST /v1/keys\n{\"name\":\"k1\",\"waitingPeriod\":\"30d\"}",
        b"POST /v1/pool/grow\n{\"size\":1099511627776}",
        b"HTTP/1.1 409 Conflict\r\nContent-Length: 34\r\n\r\n{\"code\":\"busy\",\"detail\":\"in use\"}\n",
        b"HTTP/1.1 431 Too Large\r\ncontent-length: 0\r\n\r\n",
    ];
    texts.iter().map(|text| text.to_vec()).collect()
}
