//! The admission of a request: it gets a page of our own, a refusal, or a place, with which it goes on to `serve.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "dashboard")]
use std::time::Instant;

use super::answer::log_refusal;
use super::{Admitted, Inner};
use crate::access::{Access, AccessRequest};
use crate::front::Request;
use crate::reply::Reply;
use crate::route::Own;
#[cfg(feature = "dashboard")]
use crate::status::dashboard;
use crate::status::{Load, Shown, health, own_pages, prometheus};
use crate::{error, headers, route, upstream};

/// The origin-form of a request's target, if it has one.
type Target<'a> = Result<&'a str, route::BadTarget>;

/// Why a request is not admitted.
enum NoPlace {
    /// All places are taken.
    Full,
    /// alvus stops.
    Stopping,
}

impl Inner {
    /// Handles a request, on its connection's thread.
    pub(super) fn meet(&self, request: Request) {
        // A bug costs one request, not the box. The panic's own message is on stderr.
        if catch_unwind(AssertUnwindSafe(|| self.receive(request))).is_err() {
            error!("a request failed inside alvus; please report the message above");
        }
    }

    /// Admits a request or answers it. Pages of our own need no place.
    fn receive(&self, request: Request) {
        let access = self.rules();
        let target = route::origin_form(request.url());
        let asked = AccessRequest::new(
            Some(request.remote_addr().ip()),
            request.method().as_str(),
            request.url(),
            request.raw_headers(),
        );
        let origin = match access.door(&asked) {
            Ok(origin) => origin.map(str::to_owned),
            Err(refusal) => return self.refuse(request, None, &refusal),
        };
        let origin = origin.as_deref();
        let preflight = access.preflight(&asked);
        if let Some(page) = preflight.or_else(|| self.page(&request, &target, &access, &asked)) {
            if page.status == 405 {
                return self.refuse(request, origin, &page); // an unread body may follow
            }
            if matches!(page.status, 401 | 403) {
                log_refusal(&request, &page); // somebody may be trying keys
            }
            return self.answer(request, origin, &page);
        }
        let client = match access.client(&asked) {
            Ok(client) => client,
            Err(refusal) => return self.refuse(request, origin, &refusal),
        };
        if let Some(refusal) = leads_nowhere(&request, &target, &asked) {
            return self.refuse(request, origin, &refusal);
        }
        match self.place() {
            Ok(_place) => self.serve(request, origin, &access, client),
            Err(NoPlace::Full) => self.turn_away(request, origin, &self.full()),
            Err(NoPlace::Stopping) => self.refuse(request, origin, &stopping()),
        }
    }

    fn place(&self) -> Result<Admitted<'_>, NoPlace> {
        let mut admission = self.admission();
        if admission.draining {
            return Err(NoPlace::Stopping);
        }
        if admission.inside >= self.places {
            return Err(NoPlace::Full);
        }
        admission.inside += 1;
        Ok(Admitted(self))
    }

    fn full(&self) -> Reply {
        let text = format!(
            "{} requests are under way already (MAX_CONNECTIONS)",
            self.places
        );
        Reply::busy("connections_busy", &text)
    }

    /// A page of alvus itself, or a refusal; `None`: the request is for the upstream.
    fn page(
        &self,
        request: &Request,
        target: &Target,
        access: &Access,
        asked: &AccessRequest<'_>,
    ) -> Option<Reply> {
        let own = route::own(route::path(target.as_ref().ok()?))?;
        if !matches!(request.method().as_str(), "GET" | "HEAD") {
            return Some(own_pages::only_looked_at());
        }
        Some(match own {
            Own::Front => own_pages::page(self.dashboard),
            Own::Hello => own_pages::hello(),
            Own::Nothing => own_pages::nothing(),
            Own::Health => access.health(asked, self.shown(access, health::page)),
            Own::Metrics => access.page(asked, || self.shown(access, prometheus::page)),
            #[cfg(not(feature = "dashboard"))]
            Own::Dashboard | Own::Data => own_pages::nothing(),
            #[cfg(feature = "dashboard")]
            Own::Dashboard | Own::Data if !self.dashboard => dashboard::off(),
            #[cfg(feature = "dashboard")]
            Own::Dashboard => access.page(asked, dashboard::page),
            #[cfg(feature = "dashboard")]
            Own::Data => access.page(asked, || {
                let target = self.relay.origin();
                self.shown(access, |shown| {
                    let recent = self.relay.metrics().recent();
                    dashboard::data(shown, &target, &recent, Instant::now())
                })
            }),
        })
    }

    /// A page made from alvus' state.
    fn shown(&self, access: &Access, page: impl FnOnce(&Shown) -> Reply) -> Reply {
        let metrics = self.relay.metrics();
        page(&Shown {
            keys: &self.relay.keys(),
            lanes: &self.relay.models(),
            models: &metrics.models(),
            clients: &access.clients(),
            counts: &metrics.snapshot(),
            load: &self.load(),
            learned: self.relay.learned().as_deref(),
        })
    }

    fn load(&self) -> Load {
        Load {
            uptime: self.started.elapsed(),
            in_flight: self.admission().inside,
            waiting: self.relay.waiting(),
            workers: self.workers,
            upstream_well: self.relay.is_well(),
        }
    }
}

/// Refuses what no client may send: WebSocket, a target that is no path or leads out of the provider's, a request that
/// comes back to this alvus, methods that would not be served like others.
fn leads_nowhere(request: &Request, target: &Target, asked: &AccessRequest<'_>) -> Option<Reply> {
    if asked.upgrades {
        return Some(own_pages::no_upgrade());
    }
    let target = match target {
        Ok(target) => target,
        Err(bad) => return Some(Reply::error(400, "bad_target", bad.0)),
    };
    if route::has_dot_segments(route::path(target)) {
        let text = "the path has a segment . or .., which may lead out of the provider's paths";
        return Some(Reply::error(400, "bad_target", text));
    }
    let fields = request.raw_headers();
    let vias = fields.filter(|(name, _)| headers::is(name, "via"));
    let vias = vias.map(|(_, value)| value);
    if asked.via && headers::goes_in_circles(vias, upstream::pseudonym()) {
        let text = "this request has been here before: TARGET_BASE_URL leads back to this alvus";
        return Some(Reply::error(508, "loop", text));
    }
    // TRACE would show the client the pool's key. CONNECT would open a tunnel.
    let is = |method: &&str| request.method().as_str().eq_ignore_ascii_case(method);
    let is_other = ["TRACE", "CONNECT"].iter().any(is);
    is_other.then(|| Reply::error(501, "bad_method", "TRACE and CONNECT are not supported"))
}

pub(super) fn stopping() -> Reply {
    Reply::busy("shutting_down", "alvus is shutting down")
}
