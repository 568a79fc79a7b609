//! Answers of our own to requests that are not forwarded, and their line in the log.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::Inner;
use crate::front::{Method, Request};
use crate::logging::{self, Line, LogLevel, shown};
use crate::metrics::Answered;
use crate::reply::{self, Downstream, Reply};
use crate::{client, route};

/// How long to wait for a client that does not read our replies, before the next one.
const REPLY_PATIENCE: Duration = Duration::from_millis(100);

impl Inner {
    /// Answers with a reply of our own and keeps the connection.
    pub(super) fn answer(&self, request: Request, origin: Option<&str>, reply: &Reply) {
        let socket = request.client();
        // A connection that is being answered is never closed to make room. So a client that asks
        // again and again but reads no answers must not hold many of them.
        if !client::takes_more(&socket, REPLY_PATIENCE) {
            return break_off(&socket);
        }
        let down = downstream(&request, origin);
        let mut out = request.into_writer();
        let sent = out.write_all(&reply.to_bytes(down));
        if sent.and_then(|()| out.flush()).is_err() {
            break_off(&socket);
        }
    }

    /// Answers and closes: what follows on the connection is not trusted or not wanted.
    pub(super) fn refuse(&self, mut request: Request, origin: Option<&str>, reply: &Reply) {
        request.close_connection();
        self.turn_away(request, origin, reply);
    }

    /// Answers a request that is not forwarded, and counts it.
    pub(super) fn turn_away(&self, request: Request, origin: Option<&str>, reply: &Reply) {
        let (method, target) = (request.method().as_str(), request.url());
        let translated = self.relay.in_dialect(method, target, reply);
        let reply = translated.as_ref().unwrap_or(reply);
        log_refusal(&request, reply);
        let answered = Answered {
            status: reply.status,
            bytes_out: reply.body.len() as u64,
            ..Answered::default()
        };
        self.relay.metrics().answered(answered, Instant::now());
        self.answer(request, origin, reply);
    }
}

/// Ends a client's connection in both directions, at once.
pub(super) fn break_off(client: &TcpStream) {
    let _ = client.shutdown(Shutdown::Both); // fails only if the client has ended it
}

pub(super) fn downstream<'a>(request: &Request, origin: Option<&'a str>) -> Downstream<'a> {
    Downstream {
        origin,
        http_1_1: *request.http_version() >= (1, 1),
        keep_alive: request.keeps_alive(),
        head_only: *request.method() == Method::Head,
    }
}

/// The body of a refusal that [`crate::front`] itself sends.
pub(super) fn refusal(status: u16, reason: &str) -> (&'static str, String) {
    (
        "application/json",
        reply::error_json("invalid_request_error", &format!("http_{status}"), reason),
    )
}

/// The beginning of a request's line: no query string, no header, no body.
pub(super) fn request_line(method: &str, target: &str, status: u16) -> Line {
    let mut line = Line::new(LogLevel::Info, "request");
    line.bare("").word("method", &shown(method));
    line.bare(" ").word("path", &shown(route::path(target)));
    line.bare(" -> ").number("status", status.into());
    line
}

/// One line for a request that is not forwarded, with the reason that its client gets.
pub(super) fn log_refusal(request: &Request, reply: &Reply) {
    if !logging::enabled(LogLevel::Info) {
        return;
    }
    // A target that is not a path may hold a user's name and password.
    let target = route::origin_form(request.url()).unwrap_or("-");
    let mut line = request_line(request.method().as_str(), target, reply.status);
    line.word("refused", reply.reason().as_deref().unwrap_or_default());
    line.write();
}
