//! The wire between `strongroom` the command and `strongroom daemon`: typed requests and replies,
//! the trait a daemon implements, HTTP/1.1 with JSON over a Unix socket, and its client.
//!
//! It promises that every answer is either the typed reply or a problem document (RFC 9457) with a
//! stable `code`, and that no peer, however slow, large or malformed its request, costs more than
//! the bounds of [`server`]. It must not know who implements [`Api`], nor what a pool is.

mod api;
pub mod client;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod jobs;
mod metrics_text;
mod problem;
mod routes;
pub mod server;
pub mod types;
mod unparsed;
mod wire;

pub use api::{Api, Call, Gauge, Progress, Reply};
pub use client::Client;
pub use problem::{Problem, http_status};
pub use routes::{RouteLine, route_lines};
pub use server::{Access, Server, ServerError, Stopper};

#[cfg(test)]
mod fake;
#[cfg(test)]
mod socket_tests;
