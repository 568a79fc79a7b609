//! The fixtures of all socket tests: the real binary, a scripted upstream, a client of raw bytes.
//!
//! Nothing sleeps to wait for readiness; a hang becomes a failure after [`PATIENCE`].
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

pub mod chat;
pub mod dialect;
pub mod driven;
pub mod provider;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// After this long a test fails. No test waits this long to pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Keys for tests. Each is long enough that its label hides it.
pub const KEYS: [&str; 3] = [
    "test-key-never-shown-aaaa1111",
    "test-key-never-shown-bbbb2222",
    "test-key-never-shown-cccc3333",
];

/// glibc by default keeps megabytes of freed memory in each of many arenas, more after each large
/// body, and the stacks of threads that ended. The boards' musl does not, and ignores these.
pub const FRUGAL: [(&str, &str); 4] = [
    ("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0"),
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

/// Raises this process' limit of descriptors as far as it goes.
pub fn many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

/// Waits until `done` says so, or fails with `what`.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sets a flag when it is dropped, also by a failing test, so that threads that look at it end.
pub struct AtEnd<'a>(pub &'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An address on which nobody listens yet: bound once, noted, closed. Each call has a loopback
/// address of its own, so that nobody else gets the port meanwhile.
pub fn dead_addr() -> SocketAddr {
    static CALLS: AtomicU16 = AtomicU16::new(1);
    let [high, low] = CALLS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    TcpListener::bind(SocketAddr::from(([127, 77, high, low], 0)))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A directory of its own for one test, removed at the end.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("alvus-test-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        TempDir(dir)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// ---- namespaces ---------------------------------------------------------------------------------

/// Set where the namespaces are entered.
const INSIDE: &str = "ALVUS_TEST_NAMESPACE";

/// `unshare` with these flags, as anyone may call it.
pub fn unshare(flags: &str) -> Command {
    let mut command = Command::new("unshare");
    let root = rustix::process::geteuid().is_root();
    command.args((!root).then_some("-r")).arg(flags);
    command
}

/// Runs `test`, which has this name, once more in a network and a set of mounts of its own, where only
/// loopback is up. As root namespaces that cannot be had are a failure; for others the test says
/// that it was skipped.
pub fn alone(name: &str, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        return test();
    }
    let flags = "-nm";
    let tried = unshare(flags)
        .args("ip link add here type veth peer name there".split(' '))
        .output();
    if !tried.as_ref().is_ok_and(|out| out.status.success()) {
        let root = rustix::process::geteuid().is_root();
        assert!(!root, "no network namespace can be had: {tried:?}");
        // Not by eprintln!, of which nothing is seen when a test passes.
        let words = format!("SKIPPED {name}: no network namespace can be had: {tried:?}\n");
        return std::io::stderr().write_all(words.as_bytes()).unwrap();
    }
    let program = std::env::current_exe().unwrap();
    let out = unshare(flags)
        .args([program.to_str().unwrap(), "--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("1 passed"), "nothing was tested: {said}");
}

/// `ip` with the words of this line.
pub fn ip(line: &str) {
    let out = Command::new("ip").args(line.split(' ')).output();
    let out = out.expect("ip (iproute2) is installed");
    assert!(out.status.success(), "ip {line}: {out:?}");
}

// ---- the binary ---------------------------------------------------------------------------------

/// A command that runs the alvus under test in `dir`, with nothing of our own environment.
/// `ALVUS_BIN` names another binary, `ALVUS_RUNNER` a program to run it with (an emulator).
pub fn alvus_command(dir: &TempDir) -> Command {
    alvus_under(&[], dir)
}

/// The same, started by another program that gets it as its last arguments (`prlimit`).
pub fn alvus_under(wrapper: &[&str], dir: &TempDir) -> Command {
    let bin = std::env::var("ALVUS_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_alvus").into());
    let runner = std::env::var("ALVUS_RUNNER").unwrap_or_default();
    let words = wrapper.iter().copied().chain(runner.split_whitespace());
    let mut words = words.chain([bin.as_str()]);
    let mut command = Command::new(words.next().expect("at least the binary"));
    command.args(words);
    command.env_clear().current_dir(&dir.0).stdin(Stdio::null());
    command
}

/// Runs alvus to its end: exit code, standard output, standard error.
pub fn run_alvus(
    args: &[&str],
    env: &[(&str, &str)],
    env_file: Option<&str>,
) -> (i32, String, String) {
    let dir = TempDir::new();
    if let Some(text) = env_file {
        dir.write(".env", text);
    }
    let out = alvus_command(&dir)
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8 output");
    (
        out.status.code().unwrap_or(-1),
        text(out.stdout),
        text(out.stderr),
    )
}

/// A running alvus. Killed and waited for at the end; then its log is searched for key text.
pub struct Alvus {
    child: Child,
    pub addr: SocketAddr,
    log: Arc<Mutex<String>>,
    secrets: Vec<String>,
    pub dir: TempDir,
}

impl Alvus {
    /// Starts the real binary with these variables (PORT is 0 unless given) and waits until it says
    /// that it listens.
    pub fn start(env: &[(&str, &str)]) -> Alvus {
        Alvus::launch(&[], env)
    }

    /// alvus as usual: three keys in front of one upstream, on a loopback port.
    pub fn before(upstream: &Upstream) -> Alvus {
        Alvus::before_with(upstream, &[])
    }

    /// The usual, with more variables.
    pub fn before_with(upstream: &Upstream, more: &[(&str, &str)]) -> Alvus {
        Alvus::before_under(&[], upstream, more)
    }

    /// The same, started by another program; see [`alvus_under`].
    pub fn before_under(wrapper: &[&str], upstream: &Upstream, more: &[(&str, &str)]) -> Alvus {
        let (url, keys) = (upstream.base_url(), KEYS.join(","));
        let mut env = vec![
            ("TARGET_BASE_URL", url.as_str()),
            ("API_KEYS", keys.as_str()),
        ];
        env.extend_from_slice(more);
        Alvus::launch_under(wrapper, &[], &env)
    }

    pub fn launch(args: &[&str], env: &[(&str, &str)]) -> Alvus {
        Alvus::launch_under(&[], args, env)
    }

    pub fn launch_under(wrapper: &[&str], args: &[&str], env: &[(&str, &str)]) -> Alvus {
        let dir = TempDir::new();
        let mut command = alvus_under(wrapper, &dir);
        command
            .args(args)
            .env("PORT", "0")
            .env("ALLOWED_HOSTS", "a,alvus,provider,x") // what the tests call it
            .envs(env.iter().copied());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("alvus starts");
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = channel();
        let kept = log.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, addr)) = line.split_once("Alvus started on ") {
                    let addr = addr.split(['\\', ' ']).next().unwrap(); // in JSON the line goes on
                    let _ = found.send(addr.parse().expect("an address"));
                }
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let Ok(addr) = address.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("alvus did not start:\n{}", log.lock().unwrap());
        };
        let keys = env
            .iter()
            .find(|(name, _)| *name == "API_KEYS")
            .map_or("", |(_, keys)| *keys);
        let secrets = keys
            .split(',')
            .map(str::to_string)
            .filter(|k| k.len() > 12)
            .collect();
        Alvus {
            child,
            addr,
            log,
            secrets,
            dir,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// One POST of a small JSON body to `/v1/chat/completions` on a connection of its own.
    pub fn ask(&self) -> Response {
        let mut client = self.connect();
        client.send(CHAT);
        client.response()
    }

    /// `/health`, parsed.
    pub fn health(&self) -> serde_json::Value {
        let mut client = self.connect();
        client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        serde_json::from_slice(&client.response().body).expect("JSON")
    }

    /// The states of the keys as `/health` shows them, e.g. `["ready", "cooling", "ejected"]`.
    pub fn states(&self) -> Vec<String> {
        let health = self.health();
        let keys = health["key_status"].as_array().expect("key_status").clone();
        keys.iter()
            .map(|k| k["state"].as_str().unwrap().to_string())
            .collect()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("alvus ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Alvus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if thread::panicking() {
            eprintln!("---- alvus said ----\n{log}");
            return;
        }
        for secret in &self.secrets {
            assert!(!log.contains(secret.as_str()), "a key stands in the log");
            let start = &secret[..secret.len() - 5];
            assert!(
                !log.contains(start),
                "more than four characters of a key stand in the log"
            );
        }
        assert!(!log.contains("panicked"), "alvus panicked:\n{log}");
    }
}

/// A small chat request.
pub const CHAT: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: alvus\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}";

// ---- a client of raw bytes ----------------------------------------------------------------------

/// One connection to alvus, spoken to in bytes.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in order.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// The body ended as its framing says; false when the connection was cut first.
    pub whole: bool,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        let value = self
            .fields
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v)?;
        Some(std::str::from_utf8(value).expect("text"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).expect("alvus accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Client { stream, reader }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("alvus reads");
    }

    /// Reads one line, without its CR LF.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader
            .read_until(b'\n', &mut line)
            .expect("a line in time");
        String::from_utf8_lossy(&line)
            .trim_end_matches(['\r', '\n'])
            .to_string()
    }

    /// Reads status line and fields.
    pub fn head(&mut self) -> Response {
        let line = self.line();
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        let mut fields = Vec::new();
        loop {
            let mut line = Vec::new();
            self.reader
                .read_until(b'\n', &mut line)
                .expect("a head in time");
            let line = line.strip_suffix(b"\r\n").expect("CR LF");
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|b| *b == b':').expect("a colon");
            let name = String::from_utf8(line[..colon].to_vec())
                .unwrap()
                .to_ascii_lowercase();
            fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
        Response {
            status,
            fields,
            body: Vec::new(),
            whole: true,
        }
    }

    /// Reads this many bytes of a body.
    pub fn read_exact(&mut self, piece: &mut [u8]) {
        self.reader.read_exact(piece).expect("a piece in time");
    }

    /// Reads the next chunk of a chunked body; `None` after the last; an error when cut.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let line = self.line();
        let n = usize::from_str_radix(&line, 16).map_err(|_| format!("no chunk: {line:?}"))?;
        let mut data = vec![0; n + 2];
        self.reader
            .read_exact(&mut data)
            .map_err(|e| e.to_string())?;
        assert!(data.ends_with(b"\r\n"));
        data.truncate(n);
        Ok((n > 0).then_some(data))
    }

    /// Reads a whole response to anything but HEAD.
    pub fn response(&mut self) -> Response {
        let mut response = self.head();
        while response.status == 100 {
            response = self.head();
        }
        if response.field("transfer-encoding") == Some("chunked") {
            loop {
                match self.chunk() {
                    Ok(Some(data)) => response.body.extend(data),
                    Ok(None) => break,
                    Err(_) => {
                        response.whole = false;
                        break;
                    }
                }
            }
        } else if let Some(length) = response.field("content-length") {
            let length: usize = length.parse().unwrap();
            let read = self
                .reader
                .by_ref()
                .take(length as u64)
                .read_to_end(&mut response.body);
            response.whole = read.is_ok() && response.body.len() == length;
        } else if !matches!(response.status, 204 | 304) {
            response.whole = self.reader.read_to_end(&mut response.body).is_ok();
        }
        response
    }

    /// Whether alvus has ended the connection, waiting for it.
    pub fn ended(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0))
    }

    /// Closes the connection, at once.
    pub fn leave(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Sends all of it as far as alvus takes it, and returns all that comes back until the end.
pub fn say(mut stream: TcpStream, bytes: &[u8]) -> String {
    let mut sender = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = sender.write_all(bytes);
        });
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(e) => panic!("neither answered nor closed: {e}"),
            }
        }
        String::from_utf8(answer).expect("alvus speaks UTF-8")
    })
}

// ---- a scripted upstream ------------------------------------------------------------------------

/// A request as the upstream saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// Names as sent, in order.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// The bearer key, if there was one.
    pub key: Option<String>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self
            .fields
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| std::str::from_utf8(v).expect("text"))
    }

    pub fn body_text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let same = self
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        same.map(|(_, v)| v.as_slice()).collect()
    }

    /// Which of [`KEYS`] it carried.
    pub fn key_index(&self) -> usize {
        let key = self.key.as_deref();
        KEYS.iter()
            .position(|k| Some(*k) == key)
            .unwrap_or_else(|| panic!("no such key: {key:?}"))
    }
}

/// What the upstream does with one request.
pub enum Act {
    /// Writes these bytes and keeps the connection.
    Say(Vec<u8>),
    /// Writes these bytes and closes.
    SayAndClose(Vec<u8>),
    /// Does as this says; the connection closes when it returns.
    Do(Box<dyn FnOnce(&mut TcpStream) + Send>),
}

/// A complete 200 with a small JSON body.
pub fn ok() -> Act {
    answer(200, "", "{\"ok\":true}")
}

/// A complete answer; `fields` are lines, each with its CR LF.
pub fn answer(status: u16, fields: &str, body: &str) -> Act {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{fields}\r\n{body}");
    Act::Say(text.into_bytes())
}

/// The head of a chunked stream of server-sent events.
pub const SSE_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One chunk.
pub fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

type Behaviour = Arc<dyn Fn(&Seen) -> Act + Send + Sync>;

/// An upstream on a loopback port that does what its script says and remembers what it saw.
pub struct Upstream {
    addr: SocketAddr,
    seen: Arc<(Mutex<Vec<Seen>>, Condvar)>,
    script: Option<Arc<Mutex<VecDeque<Act>>>>,
    closing: Arc<AtomicBool>,
    listens: Option<thread::JoinHandle<()>>,
}

impl Upstream {
    /// Behaves by a rule.
    pub fn new(behaviour: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Upstream {
        Upstream::at("127.0.0.1:0".parse().unwrap(), behaviour)
    }

    /// Behaves by a rule, on this address.
    pub fn at(
        addr: SocketAddr,
        behaviour: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind(addr).expect("the upstream's address is free");
        let addr = listener.local_addr().unwrap();
        let seen: Arc<(Mutex<Vec<Seen>>, Condvar)> = Arc::default();
        let (noted, behaviour): (_, Behaviour) = (seen.clone(), Arc::new(behaviour));
        let closing = Arc::new(AtomicBool::new(false));
        let closed = closing.clone();
        let listens = thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                let (noted, behaviour) = (noted.clone(), behaviour.clone());
                thread::spawn(move || serve(stream, number, &noted, &behaviour));
            }
        });
        Upstream {
            addr,
            seen,
            script: None,
            closing,
            listens: Some(listens),
        }
    }

    /// From now on new connections are refused; those that are open stay.
    pub fn close(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr)); // wakes the listener
        let listens = self.listens.take().expect("closed once");
        listens.join().unwrap();
    }

    /// Answers with these, in this order; complains at the end if one was never asked for.
    pub fn scripted(acts: Vec<Act>) -> Upstream {
        let script = Arc::new(Mutex::new(VecDeque::from(acts)));
        let next = script.clone();
        let mut upstream = Upstream::new(move |seen| {
            let act = next.lock().unwrap().pop_front();
            act.unwrap_or_else(|| answer(599, "", &format!("not in the script: {seen:?}")))
        });
        upstream.script = Some(script);
        upstream
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What it saw so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.0.lock().unwrap().clone()
    }

    /// Waits until it has seen `n` requests, and returns them.
    pub fn wait_for(&self, n: usize) -> Vec<Seen> {
        let (seen, more) = &*self.seen;
        let guard = seen.lock().unwrap();
        let (guard, timeout) = more
            .wait_timeout_while(guard, PATIENCE, |seen| seen.len() < n)
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "the upstream saw {} requests, not {n}",
            guard.len()
        );
        guard.clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let (Some(script), false) = (&self.script, thread::panicking()) {
            let left = script.lock().unwrap().len();
            assert_eq!(left, 0, "{left} scripted answers were never asked for");
        }
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    noted: &(Mutex<Vec<Seen>>, Condvar),
    behaviour: &Behaviour,
) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(seen) = read_request(&mut reader, connection) {
        let act = {
            noted.0.lock().unwrap().push(seen.clone());
            noted.1.notify_all();
            behaviour(&seen)
        };
        match act {
            Act::Say(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Act::SayAndClose(bytes) => {
                let _ = stream.write_all(&bytes);
                return;
            }
            Act::Do(f) => return f(&mut stream),
        }
    }
}

/// Reads one request; `None` at the end of the connection.
pub fn read_request(reader: &mut BufReader<TcpStream>, connection: usize) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.trim_end().split(' ');
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut fields = Vec::new();
    loop {
        let mut line = Vec::new();
        reader
            .read_until(b'\n', &mut line)
            .ok()
            .filter(|n| *n > 0)?;
        let line = line.trim_ascii_end();
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|b| *b == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
    }
    let mut seen = Seen {
        method,
        target,
        fields,
        body: Vec::new(),
        key: None,
        connection,
    };
    seen.key = seen
        .field("authorization")
        .and_then(|v| v.strip_prefix("Bearer "))
        .map(Into::into);
    assert!(
        seen.field("transfer-encoding").is_none(),
        "bodies go up with a length"
    );
    let length = seen
        .field("content-length")
        .map_or(0, |n| n.parse().unwrap());
    seen.body = vec![0; length];
    reader.read_exact(&mut seen.body).ok()?;
    Some(seen)
}

/// A gate that a test opens; threads behind it wait until then.
pub fn gate() -> (std::sync::mpsc::Sender<()>, Receiver<()>) {
    channel()
}
