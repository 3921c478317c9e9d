//! What every command works with: the places, the way to the daemon, the way to print.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::ProblemCode;
use crate::cli::args::Globals;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::start;
use crate::control::{Client, Problem};
use crate::daemon::Places;
use crate::daemon::places::DEFAULT_POOL;

/// How a command ends.
pub(in crate::cli) type Outcome = Result<(), Problem>;

pub(in crate::cli) struct Context {
    pub globals: Globals,
    pub places: Places,
    pub out: Output,
}

impl Context {
    pub fn new(globals: Globals) -> Result<Self, Problem> {
        let places = Places::find(&globals.pool, globals.socket.as_deref())?;
        let out = Output::new(&globals);
        Ok(Self { globals, places, out })
    }

    /// The same for another pool.
    pub fn for_pool(&self, pool: &Path) -> Result<Self, Problem> {
        Self::new(Globals { pool: pool.to_owned(), ..self.globals.clone() })
    }

    /// The daemon's client, whether or not there is a daemon.
    pub fn client(&self) -> Client {
        let client = Client::new(&self.places.socket).trusting(self.places.pool_owner());
        // Who chose a socket and no pool wants whatever is served there.
        let any = self.places.socket_chosen && self.places.pool == Path::new(DEFAULT_POOL);
        let client = if any { client } else { client.of_pool(&self.places.pool) };
        if self.out.quiet { client } else { client.telling(|text| Output::bare(false).note(text)) }
    }

    /// Asks a daemon, started where none serves the pool. One that ended in between was asked
    /// nothing, so another one is.
    fn with_daemon<T>(
        &self,
        mut ask: impl FnMut(&Client) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        match ask(&start::ensure(self)?) {
            Err(problem) if problem.code == ProblemCode::NoDaemon => ask(&start::ensure(self)?),
            outcome => outcome,
        }
    }

    /// `GET`, starting a daemon where none serves the pool.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.with_daemon(|client| client.get(path))
    }

    /// A request, starting a daemon where none serves the pool; long work shows its progress.
    pub fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &B,
    ) -> Result<T, Problem> {
        let mut progress = Progress::new(&self.out);
        self.with_daemon(|client| {
            client.send(method, path, body, &mut |done, total| progress.show(done, total))
        })
    }

    /// `POST`
    pub fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Problem> {
        self.send("POST", path, body)
    }
}

/// A place for the daemon: absolute and, as JSON is, UTF-8.
pub(in crate::cli) fn wire_path(path: &Path) -> Result<String, Problem> {
    let shown = path.display();
    if path.as_os_str().is_empty() {
        return Err(Problem::new(ProblemCode::Usage, "an empty path names no place"));
    }
    let absolute = std::path::absolute(path)
        .map_err(|e| Problem::new(ProblemCode::Usage, format!("the path '{shown}': {e}")))?;
    let text = absolute.to_str().map(str::to_owned);
    text.ok_or_else(|| Problem::new(ProblemCode::Usage, format!("the path '{shown}' is not UTF-8")))
}
