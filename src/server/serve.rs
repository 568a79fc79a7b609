//! Passes a request to the relay and its answer back. Writes its line in the log, and counts it.

use std::time::{Duration, Instant};

use super::Inner;
use super::answer::break_off;
use super::answer::{downstream, request_line};
#[cfg(test)]
use super::tests;
use super::upload::Unread;
use crate::access::Access;
use crate::client::Client;
use crate::front::Request;
use crate::logging::{self, Line, LogLevel, shown};
use crate::metrics::Answered;
use crate::relay::{End, Exchange, Outcome};
use crate::route;

impl Inner {
    /// Passes a request on to the upstream, and the answer back.
    pub(super) fn serve(
        &self,
        mut request: Request,
        origin: Option<&str>,
        access: &Access,
        client_key: Option<usize>,
    ) {
        let began = Instant::now();
        let body = match self.read_body(&mut request, began) {
            Ok(body) => body,
            Err(Unread::Refused(reply)) => return self.refuse(request, origin, &reply),
            Err(Unread::Left) => return break_off(&request.client()),
        };
        let socket = request.client();
        let client = Client::new(socket.clone());
        #[cfg(test)]
        tests::bug_at(request.url(), "/bug/early");
        let name = client_key.map(|at| access.counted(at));
        let (method, target) = (request.method().as_str(), leads_to(request.url()));
        // Taken apart once: they are gone through several times.
        let fields: Vec<_> = request.raw_headers().collect();
        let mapped = self.relay.map(method, target, &fields);
        drop(fields);
        let mapped = match mapped {
            Ok(mapped) => mapped,
            Err(bad) => return self.refuse(request, origin, &bad.into()),
        };
        let down = downstream(&request, origin);
        let exchange = Exchange {
            mapped,
            body,
            bodies: self.bodies.clone(),
            client,
            down,
        };
        let bytes_in = exchange.body.as_ref().map_or(0, |body| body.bytes.len()) as u64;
        let (asked, mut out) = request.into_parts();
        #[cfg(test)]
        tests::bug_at(asked.target(), "/bug/late");
        let outcome = self.relay.serve(exchange, &mut out);
        if let Some(at) = client_key {
            access.spent(at, outcome.tokens);
        }
        self.count(&outcome, bytes_in);
        if outcome.end != End::Complete || outcome.closes {
            break_off(&socket);
        }
        drop(out);
        if logging::enabled(LogLevel::Info) {
            let target = leads_to(asked.target());
            let line = request_line(asked.method.as_str(), target, outcome.status);
            log_request(line, name, &outcome, began.elapsed());
        }
    }

    fn count(&self, outcome: &Outcome, bytes_in: u64) {
        let answered = Answered {
            status: outcome.status,
            first_byte: outcome.first_byte,
            bytes_in,
            bytes_out: outcome.bytes,
            cut: outcome.end == End::Cut,
            limited: outcome.limited,
            tokens: outcome.tokens,
            model: &outcome.model,
            asked: outcome.asked.as_deref(),
        };
        self.relay.metrics().answered(answered, Instant::now());
    }
}

/// The target of a request that was admitted.
fn leads_to(url: &str) -> &str {
    route::origin_form(url).unwrap_or_default()
}

/// One line for a request that was served.
fn log_request(mut line: Line, client: Option<&str>, outcome: &Outcome, took: Duration) {
    let end = match outcome.end {
        End::Complete => "",
        End::ClientLeft => "the client left",
        End::Cut => "cut short",
        End::Late => "out of time",
    };
    if !end.is_empty() {
        line.note("end", end);
    }
    if let Some(client) = client {
        line.word("client", client);
    }
    match outcome.key {
        Some(index) => line.number("key", index as u64),
        None => line.word("key", "-"),
    };
    line.number("attempts", outcome.attempts.into());
    line.time("waited", outcome.waited);
    if let Some(after) = outcome.first_byte {
        line.time("first", after);
    }
    line.time("total", took);
    line.number("bytes", outcome.bytes);
    if !outcome.model.is_empty() {
        line.word("model", &shown(&outcome.model));
    }
    if let Some(asked) = &outcome.asked {
        line.word("asked", &shown(asked));
    }
    line.write();
}
