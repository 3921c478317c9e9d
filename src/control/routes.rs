//! The table of routes: method, path, what it does, and the call it becomes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::base::{EncryptionKeyId, ProblemCode};
use crate::control::api::{Api, Call, Reply};
use crate::control::metrics_text;
use crate::control::problem::Problem;
use crate::control::types::{
    DeleteSnapshots, Empty, RestoreRequest, Rewrap, SetKey, Shutdown, Umount,
};

/// What a request brings.
pub(in crate::control) struct Input {
    /// Values of the `{...}` parts of the path, decoded.
    pub params: Vec<String>,
    /// The query, decoded; only names that the route knows.
    pub query: Vec<(String, String)>,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

/// What a request gets.
pub(in crate::control) enum Output {
    /// A reply.
    Json(serde_json::Value),
    /// Metrics.
    Text(String),
}

type Run = fn(&dyn Api, &Call<'_>, &Input) -> Reply<Output>;

/// One line of the table.
pub(in crate::control) struct Route {
    pub method: &'static str,
    pub path: &'static str,
    /// Names that may stand in the query.
    pub query: &'static [&'static str],
    /// HTTP status of success.
    pub success: u16,
    /// Whether it may become a job (202).
    pub long: bool,
    pub summary: &'static str,
    pub run: Run,
}

/// A route, for documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLine {
    /// `GET`, `POST`, `PATCH`, `DELETE`.
    pub method: &'static str,
    /// As `/v1/clusters/{name}`.
    pub path: &'static str,
    /// What it does.
    pub summary: &'static str,
}

/// Every route, in order.
pub fn route_lines() -> impl Iterator<Item = RouteLine> {
    ROUTES.iter().map(|r| RouteLine { method: r.method, path: r.path, summary: r.summary })
}

const fn get(
    path: &'static str,
    query: &'static [&'static str],
    s: &'static str,
    run: Run,
) -> Route {
    Route { method: "GET", path, query, success: 200, long: false, summary: s, run }
}

const fn make(path: &'static str, summary: &'static str, run: Run) -> Route {
    Route { method: "POST", path, query: &[], success: 201, long: false, summary, run }
}

const fn act(method: &'static str, path: &'static str, summary: &'static str, run: Run) -> Route {
    Route { method, path, query: &[], success: 200, long: false, summary, run }
}

const fn work(method: &'static str, path: &'static str, summary: &'static str, run: Run) -> Route {
    Route { method, path, query: &[], success: 200, long: true, summary, run }
}

const REFRESH: &[&str] = &["refresh"];

const ROUTES: &[Route] = &[
    get("/v1/status", REFRESH, "pool, clusters, mounts, keys, background work", |a, c, i| {
        json(&a.status(c, i.flag("refresh")?)?)
    }),
    get("/v1/clusters", REFRESH, "list clusters", |a, c, i| {
        json(&a.clusters(c, i.flag("refresh")?)?)
    }),
    make("/v1/clusters", "create a cluster", |a, c, i| json(&a.create_cluster(c, i.body()?)?)),
    get("/v1/clusters/{name}", REFRESH, "show a cluster", |a, c, i| {
        json(&a.cluster(c, &i.param(0)?, i.flag("refresh")?)?)
    }),
    work("PATCH", "/v1/clusters/{name}", "as set-key", set_key),
    work("DELETE", "/v1/clusters/{name}", "delete a cluster, keep its snapshots", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.delete_cluster(c, &i.param(0)?)?)
    }),
    act("POST", "/v1/clusters/{name}/mount", "mount a cluster", |a, c, i| {
        json(&a.mount(c, &i.param(0)?, i.body()?)?)
    }),
    act("POST", "/v1/clusters/{name}/umount", "unmount a cluster", |a, c, i| {
        json(&a.umount(c, &i.param(0)?, i.body::<Umount>()?)?)
    }),
    work("POST", "/v1/clusters/{name}/set-key", "enable, rotate or drop its key", set_key),
    work(
        "POST",
        "/v1/clusters/{name}/accept-log-loss",
        "go on with what its damaged log holds",
        |a, c, i| {
            i.body::<Empty>()?;
            json(&a.accept_log_loss(c, &i.param(0)?)?)
        },
    ),
    act("POST", "/v1/umount", "unmount by place, or everything", |a, c, i| {
        json(&a.umount_any(c, i.body()?)?)
    }),
    get("/v1/snapshots", &["cluster", "refresh"], "list snapshots", |a, c, i| {
        let cluster = i.value("cluster").map(parse).transpose()?;
        json(&a.snapshots(c, cluster.as_ref(), i.flag("refresh")?)?)
    }),
    make("/v1/snapshots", "take snapshots at one point in time", |a, c, i| {
        json(&a.create_snapshots(c, i.body()?)?)
    }),
    work("POST", "/v1/snapshots/delete", "delete snapshots, all or none", |a, c, i| {
        json(&a.delete_snapshots(c, i.body()?)?)
    }),
    work("POST", "/v1/snapshots/rewrap", "rewrap snapshots, all or none", |a, c, i| {
        let request: RewrapMany = i.body()?;
        let rewrap = Rewrap { encryption_key_id: parse(&request.encryption_key_id)? };
        let ids = request.ids.iter().map(|id| parse(id)).collect::<Result<Vec<_>, _>>()?;
        json(&a.rewrap(c, &ids, rewrap)?)
    }),
    get("/v1/snapshots/{id}", REFRESH, "show a snapshot", |a, c, i| {
        json(&a.snapshot(c, &i.param(0)?, i.flag("refresh")?)?)
    }),
    work("DELETE", "/v1/snapshots/{id}", "delete a snapshot", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.delete_snapshots(c, DeleteSnapshots { ids: vec![i.param(0)?], dry_run: false })?)
    }),
    work("POST", "/v1/snapshots/{id}/restore", "mount, clone or put back", |a, c, i| {
        let id = i.param(0)?;
        let form = i.body::<RestoreRequest>()?.form().ok_or_else(|| {
            bad("a restore takes exactly one of mountpoint, toCluster and inPlace, with its options")
        })?;
        json(&a.restore(c, &id, form)?)
    }),
    work("POST", "/v1/snapshots/{id}/rewrap", "put it under another key", |a, c, i| {
        let id = i.param(0)?;
        json(&a.rewrap(c, &[id], i.body()?)?)
    }),
    act("POST", "/v1/snapshots/{id}/umount", "unmount a snapshot", |a, c, i| {
        json(&a.umount_snapshot(c, &i.param(0)?, i.body()?)?)
    }),
    act("POST", "/v1/snapshots/{id}/hold", "keep it past its time", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.hold(c, &i.param(0)?, true)?)
    }),
    act("POST", "/v1/snapshots/{id}/release", "let it go at its time", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.hold(c, &i.param(0)?, false)?)
    }),
    get("/v1/keys", REFRESH, "list keys", |a, c, i| json(&a.keys(c, i.flag("refresh")?)?)),
    make("/v1/keys", "create a key in the embedded keyring", |a, c, i| {
        json(&a.create_key(c, i.body()?)?)
    }),
    get("/v1/keys/{id}", REFRESH, "show a key", |a, c, i| {
        json(&a.key(c, &i.key_id()?, i.flag("refresh")?)?)
    }),
    get("/v1/keys/{id}/usage", &[], "what needs a key", |a, c, i| {
        json(&a.key_usage(c, &i.key_id()?)?)
    }),
    act("POST", "/v1/keys/{id}/test", "wrap and unwrap with a key", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.test_key(c, &i.key_id()?)?)
    }),
    act("POST", "/v1/keys/{id}/enable", "enable a key", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.enable_key(c, &i.key_id()?)?)
    }),
    act("POST", "/v1/keys/{id}/disable", "disable a key", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.disable_key(c, &i.key_id()?)?)
    }),
    act("POST", "/v1/keys/{id}/delete", "delete a key after its waiting period", |a, c, i| {
        json(&a.delete_key(c, &i.key_id()?, i.body()?)?)
    }),
    act("POST", "/v1/keys/{id}/cancel-delete", "cancel a deletion", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.cancel_delete_key(c, &i.key_id()?)?)
    }),
    work("POST", "/v1/pool/grow", "enlarge the pool", |a, c, i| json(&a.grow_pool(c, i.body()?)?)),
    work("POST", "/v1/scrub", "read and verify everything, or a part", |a, c, i| {
        json(&a.scrub(c, i.body()?)?)
    }),
    act("POST", "/v1/pool/resume", "leave the read-only state", |a, c, i| {
        i.body::<Empty>()?;
        json(&a.resume_pool(c)?)
    }),
    get("/v1/root-secrets", &[], "ways to open the pool", |a, c, _| json(&a.root_secrets(c)?)),
    act("POST", "/v1/root-secrets", "add a way to open the pool", |a, c, i| {
        json(&a.add_root_secret(c, i.body()?)?)
    }),
    act("POST", "/v1/root-secrets/remove", "remove a way to open the pool", |a, c, i| {
        json(&a.remove_root_secret(c, i.body()?)?)
    }),
    act("POST", "/v1/shutdown", "unmount, checkpoint, end", |a, c, i| {
        a.shutdown(c, i.body::<Shutdown>()?)?;
        json(&Empty {})
    }),
    get("/metrics", &[], "Prometheus text", |a, _, _| {
        Ok(Output::Text(metrics_text::render(&a.gauges())))
    }),
];

/// `POST /v1/snapshots/rewrap`
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RewrapMany {
    ids: Vec<String>,
    encryption_key_id: String,
}

fn set_key(api: &dyn Api, call: &Call<'_>, input: &Input) -> Reply<Output> {
    json(&api.set_key(call, &input.param(0)?, input.body::<SetKey>()?)?)
}

fn json<T: Serialize>(value: &T) -> Reply<Output> {
    serde_json::to_value(value)
        .map(Output::Json)
        .map_err(|e| Problem::new(ProblemCode::Internal, format!("a reply cannot be written: {e}")))
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::BadRequest, detail)
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Reply<T> {
    text.parse().map_err(|e| bad(format!("{e}")))
}

impl Input {
    fn param<T: std::str::FromStr<Err: std::fmt::Display>>(&self, index: usize) -> Reply<T> {
        parse(self.params.get(index).map_or("", String::as_str))
    }

    fn key_id(&self) -> Reply<EncryptionKeyId> {
        self.param(0)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn flag(&self, name: &str) -> Reply<bool> {
        match self.value(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(bad(format!("'{other}' is no value of {name}: true or false"))),
        }
    }

    /// The body as a request; nothing at all is the request without fields.
    pub fn body<T: DeserializeOwned>(&self) -> Reply<T> {
        let bytes = if self.body.is_empty() { b"{}" } else { self.body.as_slice() };
        // Fields have names: serde would take an array for them, by their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad("the body is not this request: it is no JSON object"));
        }
        serde_json::from_slice(bytes).map_err(|e| bad(format!("the body is not this request: {e}")))
    }
}

/// What a method and a path lead to.
pub(in crate::control) enum Found {
    Route(&'static Route, Vec<String>),
    /// The path is known, under these methods.
    Methods(Vec<&'static str>),
    Nothing,
    /// The path is no path.
    Malformed,
}

/// Looks a request up.
pub(in crate::control) fn find(method: &str, path: &str) -> Found {
    let Some(segments) = path.split('/').map(decode).collect::<Option<Vec<_>>>() else {
        return Found::Malformed;
    };
    let mut methods = Vec::new();
    for route in ROUTES {
        if let Some(params) = matches(route.path, &segments) {
            if route.method == method {
                return Found::Route(route, params);
            }
            methods.push(route.method);
        }
    }
    if methods.is_empty() { Found::Nothing } else { Found::Methods(methods) }
}

fn matches(pattern: &str, segments: &[String]) -> Option<Vec<String>> {
    let mut params = Vec::new();
    let mut rest = segments.iter();
    for part in pattern.split('/') {
        let segment = rest.next()?;
        if part.starts_with('{') {
            params.push(segment.clone());
        } else if part != segment {
            return None;
        }
    }
    rest.next().is_none().then_some(params)
}

/// The query of a route: only names that it knows, each once.
pub(in crate::control) fn query(route: &Route, text: &str) -> Reply<Vec<(String, String)>> {
    let mut out: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (decode(name), decode(&value.replace('+', " "))) else {
            return Err(bad("the query is not percent-encoded UTF-8"));
        };
        if !route.query.contains(&name.as_str()) || out.iter().any(|(n, _)| *n == name) {
            return Err(bad(format!("the query field '{name}' is unknown here, or stands twice")));
        }
        out.push((name, value));
    }
    Ok(out)
}

/// Percent-decoded UTF-8.
pub(in crate::control) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push(high << 4 | low);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(method: &str, path: &str) -> Option<(&'static str, Vec<String>)> {
        match find(method, path) {
            Found::Route(route, params) => Some((route.path, params)),
            _ => None,
        }
    }

    #[test]
    fn fixed_parts_win_over_ids_and_key_ids_are_decoded() {
        assert_eq!(
            params("GET", "/v1/keys/local%3A%2F%2Fk1/usage"),
            Some(("/v1/keys/{id}/usage", vec!["local://k1".to_owned()]))
        );
        assert_eq!(params("POST", "/v1/snapshots/delete").unwrap().0, "/v1/snapshots/delete");
        assert!(matches!(find("PUT", "/v1/clusters"), Found::Methods(m) if m == ["GET", "POST"]));
        assert!(matches!(find("GET", "/v1/clusters/"), Found::Route(_, p) if p == [""]));
        assert!(matches!(find("GET", "/v2"), Found::Nothing));
        assert!(matches!(find("GET", "/v1/keys/%zz"), Found::Malformed));
        assert!(matches!(find("GET", "/v1/keys/%ff"), Found::Malformed));
        assert!(matches!(find("GET", "/v1/keys/%+1"), Found::Malformed));
    }

    #[test]
    fn every_route_is_reachable_and_named() {
        for route in ROUTES {
            let path = route.path.replace("{name}", "db").replace("{id}", "snap-0123");
            assert!(
                matches!(find(route.method, &path), Found::Route(r, _) if r.path == route.path)
            );
            assert!(!route.summary.is_empty());
        }
    }

    #[test]
    fn unknown_and_doubled_query_fields_are_refused() {
        let Found::Route(route, _) = find("GET", "/v1/snapshots") else { panic!("no route") };
        assert_eq!(query(route, "cluster=db&refresh").unwrap().len(), 2);
        assert!(query(route, "clusters=db").is_err());
        assert!(query(route, "cluster=a&cluster=b").is_err());
        assert!(query(route, "cluster=%f").is_err());
    }
}
