//! Requests that never become one: the HTTP library answers those by itself, without a body. Here
//! its answer is put into the words of every other refusal.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::base::ProblemCode;
use crate::control::problem::{Problem, http_status};

/// The answer to a connection that cannot be served, whole: status line, headers, document.
pub(in crate::control) fn refusal(status: u16, problem: &Problem) -> Vec<u8> {
    let mut document = problem.to_value();
    if let Some(there) = document.get_mut("status") {
        *there = status.into();
    }
    let body = format!("{document}\n");
    let reason = match status {
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/problem+json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The answer that stands for the library's.
pub(in crate::control) fn instead_of(answer: &[u8]) -> Vec<u8> {
    if answer.get(9..12) == Some(b"431") {
        let detail = "the headers are more than 64, or larger than 16 KiB";
        return refusal(431, &Problem::new(ProblemCode::RequestTooLarge, detail));
    }
    let problem = Problem::new(ProblemCode::BadRequest, "this is no HTTP/1.1 request");
    refusal(http_status(problem.code), &problem)
}

/// A connection that watches what is written before any request was understood.
pub(in crate::control) struct Watched<T> {
    inner: T,
    /// Set once there is a request: from then on every answer is ours.
    understood: Arc<AtomicBool>,
    /// Our answer, and how much of it was written.
    instead: Option<(Vec<u8>, usize)>,
}

impl<T> Watched<T> {
    /// Watches `inner` until `understood` is set.
    pub fn new(inner: T, understood: Arc<AtomicBool>) -> Self {
        Self { inner, understood, instead: None }
    }
}

impl<T: Read + Unpin> Read for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.understood.load(Ordering::Relaxed) {
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        }
        let (bytes, written) = this.instead.get_or_insert_with(|| (instead_of(buf), 0));
        while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut this.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *written += n,
            }
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
