//! Resolves host names: looks them up once, remembers them, also over a reload, and refreshes them in the background.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::call::{CALL, client_left};
use super::dial::in_turns;
use crate::lock::lock;

/// How long a resolved address is used before it is looked up again (in the background).
const DNS_FRESH: Duration = Duration::from_secs(60);
/// How often a request that waits for a name looks whether its client has left.
const DNS_TICK: Duration = Duration::from_millis(250);
/// The most addresses of one name that are tried; ureq's array holds no more.
const MAX_ADDRS: usize = 16;

/// Remembers addresses: ureq asks for each request, and a look-up may take seconds. An old address
/// is still used while it is looked up again in the background, and if that fails. There is one
/// look-up of a name at a time, however many requests wait for it.
#[derive(Clone)]
pub(super) struct CachingResolver(Arc<Names>);

struct Names {
    /// One entry in practice: there is one upstream.
    known: Mutex<Vec<Known>>,
    /// Signalled when a look-up has ended.
    answered: Condvar,
    /// The system's resolver: `host:port` to addresses.
    system: Box<System>,
}

type System = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

struct Known {
    host: String,
    port: u16,
    /// It is a name and not an address, which needs no look-up.
    is_name: bool,
    /// What the last successful look-up found, in the order in which they are tried.
    addrs: Vec<SocketAddr>,
    /// When the last look-up began.
    asked: Instant,
    /// A look-up is under way.
    asking: bool,
    /// How many look-ups have ended, and why the last one failed.
    rounds: u32,
    failed: String,
}

impl Default for CachingResolver {
    fn default() -> CachingResolver {
        CachingResolver::asking(|name| name.to_socket_addrs().map(Iterator::collect))
    }
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachingResolver")
    }
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (host, port) = place(uri);
        let mut found = self.empty();
        let limit = config.timeouts().connect.unwrap_or(Duration::MAX);
        self.look_up(host, port, limit, |addrs| {
            for addr in addrs {
                found.push(*addr);
            }
        })?;
        Ok(found)
    }
}

/// Host and port, under which addresses are remembered.
fn place(uri: &Uri) -> (&str, u16) {
    let usual = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    (
        uri.host().unwrap_or_default(),
        uri.port_u16().unwrap_or(usual),
    )
}

impl CachingResolver {
    /// A connection to this address succeeded: it is tried first from now on.
    pub(super) fn won(&self, uri: &Uri, addr: SocketAddr) {
        self.change(uri, |addrs| {
            let at = addrs.iter().position(|a| *a == addr);
            if let Some(at) = at.filter(|at| *at > 0) {
                addrs[..=at].rotate_right(1);
            }
        });
    }

    /// The server at this address failed before TLS: it is tried last from now on.
    pub(super) fn lost(&self, uri: &Uri, addr: SocketAddr) {
        self.change(uri, |addrs| {
            if let Some(at) = addrs.iter().position(|a| *a == addr) {
                addrs[at..].rotate_left(1);
            }
        });
    }

    fn change(&self, uri: &Uri, change: impl FnOnce(&mut Vec<SocketAddr>)) {
        let (host, port) = place(uri);
        if let Some(known) = find(&mut self.0.lock(), host, port) {
            change(&mut known.addrs);
        }
    }

    /// Forgets the names of all other hosts, so that reloads do not pile them up.
    pub(super) fn keep(&self, hosts: &[&str]) {
        let mut known = self.0.lock();
        known.retain(|k| k.asking || hosts.contains(&k.host.as_str()));
    }

    fn asking(
        system: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> CachingResolver {
        CachingResolver(Arc::new(Names {
            known: Mutex::default(),
            answered: Condvar::new(),
            system: Box::new(system),
        }))
    }

    /// Passes this host's addresses, at least one, to `found`.
    fn look_up(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
        found: impl FnOnce(&[SocketAddr]),
    ) -> Result<(), ureq::Error> {
        let started = Instant::now();
        let mut known = self.0.lock();
        let at = known.iter().position(|k| k.is(host, port));
        let at = at.unwrap_or_else(|| {
            known.push(Known::new(host, port, started));
            known.len() - 1
        });
        let entry = &mut known[at];
        let round = entry.rounds;
        let is_old = || started.saturating_duration_since(entry.asked) > DNS_FRESH;
        if entry.is_name && !entry.asking && (entry.addrs.is_empty() || is_old()) {
            // The next look-up of a known name waits that long, even if this one fails.
            entry.asked = started;
            entry.asking = self.ask(host, port);
        }
        loop {
            let Some(entry) = find(&mut known, host, port) else {
                return Err(io::Error::other("a reload brought another target").into());
            };
            if !entry.addrs.is_empty() {
                found(&entry.addrs);
                return Ok(());
            }
            if entry.rounds != round {
                return Err(io::Error::other(entry.failed.clone()).into());
            }
            if !entry.asking {
                return Err(io::Error::other("no thread for a DNS look-up").into());
            }
            if CALL.with_borrow(|call| call.client.has_left()) {
                return Err(client_left().into());
            }
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                let text = "the name server did not answer in time";
                return Err(io::Error::new(ErrorKind::TimedOut, text).into());
            }
            known = self
                .0
                .answered
                .wait_timeout(known, left.min(DNS_TICK))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Asks the system on a new thread, as a look-up can neither be timed nor cancelled. Returns
    /// whether there is a thread.
    fn ask(&self, host: &str, port: u16) -> bool {
        let (names, host) = (self.0.clone(), host.to_string());
        let thread = std::thread::Builder::new().name("dns".into());
        let asked = thread.spawn(move || {
            let found = (names.system)(&format!("{host}:{port}"));
            let mut known = names.lock();
            let Some(entry) = find(&mut known, &host, port) else {
                return;
            };
            match found {
                Ok(addrs) if !addrs.is_empty() => entry.learn(&addrs),
                Ok(_) => entry.failed = "the host name has no address".into(),
                Err(e) => entry.failed = e.to_string(),
            }
            entry.asking = false;
            entry.rounds = entry.rounds.wrapping_add(1);
            names.answered.notify_all();
        });
        asked.is_ok()
    }
}

/// The entry of this host.
fn find<'a>(known: &'a mut [Known], host: &str, port: u16) -> Option<&'a mut Known> {
    known.iter_mut().find(|k| k.is(host, port))
}

impl Known {
    fn new(host: &str, port: u16, now: Instant) -> Known {
        let ip = host.trim_matches(['[', ']']).parse().ok();
        Known {
            host: host.into(),
            port,
            is_name: ip.is_none(),
            addrs: ip.map(|ip| SocketAddr::new(ip, port)).into_iter().collect(),
            asked: now,
            asking: false,
            rounds: 0,
            failed: String::new(),
        }
    }

    fn is(&self, host: &str, port: u16) -> bool {
        self.port == port && self.host == host
    }

    /// Takes over what a look-up found. The address that worked last stays first.
    fn learn(&mut self, found: &[SocketAddr]) {
        let served = self.addrs.first().copied();
        self.addrs = in_turns(found);
        self.addrs.truncate(MAX_ADDRS);
        let at = self.addrs.iter().position(|a| Some(*a) == served);
        if let Some(at) = at {
            self.addrs[..=at].rotate_right(1);
        }
    }
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        lock(&self.known)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Looks up the one name of these tests.
    fn look_up(
        resolver: &CachingResolver,
        limit: Duration,
    ) -> Result<Vec<SocketAddr>, ureq::Error> {
        let mut found = Vec::new();
        resolver.look_up("provider.test", 443, limit, |addrs| found.extend(addrs))?;
        Ok(found)
    }

    fn addrs(last: u8) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([192, 0, 2, last], 443))]
    }

    /// A name server that answers each look-up with what the test sends it, in order.
    fn scripted() -> (
        CachingResolver,
        mpsc::Sender<io::Result<Vec<SocketAddr>>>,
        Arc<AtomicUsize>,
    ) {
        let (say, said) = mpsc::channel();
        let (said, asked) = (Mutex::new(said), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        let resolver = CachingResolver::asking(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            said.lock().unwrap().recv_timeout(LONG).unwrap()
        });
        (resolver, say, asked)
    }

    /// Makes what is known look as old as it takes to be looked up again.
    fn age(resolver: &CachingResolver) {
        resolver.0.lock()[0].asked -= DNS_FRESH + Duration::from_secs(1);
    }

    /// Waits until no look-up is under way.
    fn settle(resolver: &CachingResolver) {
        let known = resolver.0.lock();
        let waited = resolver
            .0
            .answered
            .wait_timeout_while(known, LONG, |k| k[0].asking);
        assert!(!waited.unwrap().1.timed_out());
    }

    fn failed() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("the name server is away"))
    }

    #[test]
    fn a_name_is_looked_up_once_for_all_who_wait_for_it_and_then_remembered() {
        let (resolver, say, asked) = scripted();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| look_up(&resolver, LONG).unwrap()))
                .collect();
            say.send(Ok(addrs(1))).unwrap();
            for one in waiting {
                assert_eq!(one.join().unwrap(), addrs(1));
            }
        });
        assert_eq!(look_up(&resolver, LONG).unwrap(), addrs(1));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn an_address_stands_for_itself() {
        let (resolver, _, asked) = scripted();
        for host in ["192.0.2.1", "[2001:db8::1]"] {
            for _ in 0..2 {
                let mut found = Vec::new();
                let look =
                    |addrs: &[SocketAddr]| found.extend(addrs.iter().map(ToString::to_string));
                resolver.look_up(host, 80, LONG, look).unwrap();
                assert_eq!(found, [format!("{host}:80")]);
                resolver
                    .0
                    .lock()
                    .iter_mut()
                    .for_each(|k| k.asked -= 2 * DNS_FRESH);
            }
        }
        assert!(resolver.0.lock().iter().all(|k| !k.asking));
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_old_address_is_served_while_it_is_looked_up_again_and_when_that_fails() {
        let (resolver, say, asked) = scripted();
        say.send(Ok(addrs(1))).unwrap();
        look_up(&resolver, LONG).unwrap();
        age(&resolver);
        for _ in 0..3 {
            // The name server says nothing meanwhile.
            assert_eq!(look_up(&resolver, LONG).unwrap(), addrs(1));
        }
        say.send(failed()).unwrap();
        settle(&resolver);
        assert_eq!(look_up(&resolver, LONG).unwrap(), addrs(1));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        age(&resolver);
        say.send(Ok(addrs(2))).unwrap();
        look_up(&resolver, LONG).unwrap();
        settle(&resolver);
        assert_eq!(look_up(&resolver, LONG).unwrap(), addrs(2));
    }

    #[test]
    fn an_address_that_worked_is_tried_first_and_one_without_tls_last() {
        let (resolver, say, _) = scripted();
        let all = [addrs(1), addrs(2), addrs(3)].concat();
        let uri: Uri = "https://provider.test/v1".parse().unwrap();
        let order = |order: [usize; 3]| order.map(|n| all[n - 1]).to_vec();
        say.send(Ok(all.clone())).unwrap();
        look_up(&resolver, LONG).unwrap();
        resolver.won(&uri, all[1]);
        assert_eq!(look_up(&resolver, LONG).unwrap(), order([2, 1, 3]));
        age(&resolver);
        say.send(Ok(all.clone())).unwrap();
        look_up(&resolver, LONG).unwrap();
        settle(&resolver);
        assert_eq!(look_up(&resolver, LONG).unwrap(), order([2, 1, 3]));
        resolver.lost(&uri, all[1]);
        assert_eq!(look_up(&resolver, LONG).unwrap(), order([1, 3, 2]));
        resolver.won(&uri, all[0]);
        assert_eq!(look_up(&resolver, LONG).unwrap(), order([1, 3, 2]));
    }

    #[test]
    fn the_names_of_a_target_that_is_gone_are_forgotten() {
        let (resolver, say, _) = scripted();
        say.send(Ok(addrs(1))).unwrap();
        look_up(&resolver, LONG).unwrap();
        resolver.keep(&["provider.test"]);
        assert_eq!(look_up(&resolver, LONG).unwrap(), addrs(1));
        resolver.keep(&["other.test"]);
        assert!(resolver.0.lock().is_empty());
    }

    #[test]
    fn a_look_up_that_failed_is_said_in_words_and_made_again_for_the_next_request() {
        let (resolver, say, _) = scripted();
        say.send(failed()).unwrap();
        say.send(Ok(Vec::new())).unwrap();
        say.send(Ok(addrs(1))).unwrap();
        for words in ["the name server is away", "the host name has no address"] {
            let error = look_up(&resolver, LONG).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(look_up(&resolver, LONG).unwrap(), addrs(1));
    }

    #[test]
    fn a_slow_name_server_costs_one_look_up_and_its_late_answer_is_used() {
        let (resolver, say, asked) = scripted();
        for _ in 0..3 {
            let error = look_up(&resolver, Duration::from_millis(1));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("did not answer in time"), "{error}");
        }
        say.send(Ok(addrs(1))).unwrap();
        assert_eq!(look_up(&resolver, LONG).unwrap(), addrs(1));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
