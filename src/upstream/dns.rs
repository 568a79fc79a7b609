//! Names: looked up once, remembered, refreshed behind the requests' back.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::call::{CALL, client_left};

/// How long a resolved address is used before it is looked up again (in the background).
const DNS_FRESH: Duration = Duration::from_secs(60);
/// How often a worker that waits for a name looks whether its client is still there.
const DNS_TICK: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried; ureq's array holds no more.
const MAX_ADDRS: usize = 16;

/// Remembers addresses: ureq asks for every request, and a look-up may take seconds. A remembered
/// address is served even when it is old or its look-up fails; old ones are looked up again in
/// the background.
#[derive(Debug, Default)]
pub(super) struct CachingResolver {
    /// One entry in practice: there is one upstream.
    known: Arc<Mutex<Vec<Known>>>,
}

#[derive(Debug)]
struct Known {
    name: String,
    addrs: Vec<SocketAddr>,
    /// When it was last looked up, or began to be.
    at: Instant,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri
            .port_u16()
            .unwrap_or(if uri.scheme_str() == Some("https") {
                443
            } else {
                80
            });
        let addrs = match host.trim_matches(['[', ']']).parse() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => {
                let limit = config.timeouts().connect.unwrap_or(Duration::MAX);
                self.look_up(format!("{host}:{port}"), limit)?
            }
        };
        let mut found = self.empty();
        addrs
            .into_iter()
            .take(MAX_ADDRS)
            .for_each(|a| found.push(a));
        if found.is_empty() {
            Err(ureq::Error::HostNotFound)
        } else {
            Ok(found)
        }
    }
}

impl CachingResolver {
    fn look_up(&self, name: String, limit: Duration) -> Result<Vec<SocketAddr>, ureq::Error> {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = known.iter_mut().find(|entry| entry.name == name) {
                if entry.at.elapsed() > DNS_FRESH {
                    // Whether or not it succeeds, the next look-up is that far away.
                    entry.at = Instant::now();
                    self.ask(name.clone());
                }
                return Ok(entry.addrs.clone());
            }
        }
        let answer = self.ask(name);
        let started = Instant::now();
        loop {
            match answer.recv_timeout(DNS_TICK) {
                Ok(found) => return Ok(found?),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ureq::Error::HostNotFound),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if CALL.with_borrow(|call| call.client.has_left()) {
                CALL.with_borrow_mut(|call| call.client_left = true);
                return Err(client_left().into());
            }
            if started.elapsed() > limit {
                let text = "the name server did not answer in time";
                return Err(io::Error::new(ErrorKind::TimedOut, text).into());
            }
        }
    }

    /// Asks the system, which can neither be hurried nor cancelled, on a thread of its own.
    fn ask(&self, name: String) -> mpsc::Receiver<io::Result<Vec<SocketAddr>>> {
        let (tell, answer) = mpsc::channel();
        let known = self.known.clone();
        let asked = std::thread::Builder::new()
            .name("dns".into())
            .spawn(move || {
                let found = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                if let Some(addrs) = found.as_ref().ok().filter(|addrs| !addrs.is_empty()) {
                    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    known.retain(|entry| entry.name != name);
                    known.push(Known {
                        name,
                        addrs: addrs.clone(),
                        at: Instant::now(),
                    });
                }
                let _ = tell.send(found);
            });
        if asked.is_err() {
            crate::warn!("no thread for a DNS look-up");
        }
        answer
    }
}
