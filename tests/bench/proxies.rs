//! The proxies of the measurements: how each is started, and what the kernel says of it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{Connection, question};

/// Where Debian has nginx and haproxy, which is not in everybody's path.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// As few as alvus asks for.
const ARENAS: &str = "glibc.malloc.arena_max=1";

/// Something that stands between client and upstream.
#[derive(Clone)]
pub struct Proxy {
    pub name: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// Nothing in between: what mock and clients cost themselves.
    Direct,
    Alvus(PathBuf),
    Nginx,
    Haproxy,
    /// A shell command; `{port}` and `{upstream}` are filled in.
    Other(String),
}

/// What a run wants of a proxy.
#[derive(Clone)]
pub struct Wish {
    pub upstream: SocketAddr,
    pub tls: bool,
    /// As many requests at a time must be possible.
    pub streams: usize,
    /// Keys in alvus' pool.
    pub keys: usize,
}

/// What to run it under.
#[derive(Clone, Copy, PartialEq)]
pub enum Under {
    Nothing,
    Callgrind,
    Strace,
}

/// A running proxy; ended when dropped.
pub struct Running {
    child: Option<Child>,
    pub addr: SocketAddr,
    /// From its start to the first answer through it.
    pub first_answer: Duration,
    dir: PathBuf,
}

impl Proxy {
    pub fn direct() -> Proxy {
        Proxy::of("direct", Kind::Direct)
    }

    pub fn alvus(name: &str, path: &str) -> Proxy {
        // It is started in a directory of its own. What is not there is found out then.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        Proxy::of(name, Kind::Alvus(path))
    }

    pub fn other(name: &str, command: &str) -> Proxy {
        Proxy::of(name, Kind::Other(command.into()))
    }

    pub fn nginx() -> Proxy {
        Proxy::of("nginx", Kind::Nginx)
    }

    pub fn haproxy() -> Proxy {
        Proxy::of("haproxy", Kind::Haproxy)
    }

    fn of(name: &str, kind: Kind) -> Proxy {
        let name = name.to_string();
        Proxy { name, kind }
    }

    pub fn is_direct(&self) -> bool {
        matches!(self.kind, Kind::Direct)
    }

    pub fn is_alvus(&self) -> bool {
        matches!(self.kind, Kind::Alvus(_))
    }

    /// Bytes of its program.
    pub fn size(&self) -> Option<u64> {
        let path = match &self.kind {
            Kind::Alvus(path) => path.clone(),
            Kind::Nginx => "/usr/sbin/nginx".into(),
            Kind::Haproxy => "/usr/sbin/haproxy".into(),
            _ => return None,
        };
        fs::metadata(path).ok().map(|m| m.len())
    }

    /// Starts it in `dir` and waits for its first answer.
    pub fn start(&self, wish: &Wish, under: Under, dir: &Path) -> io::Result<Running> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
        let mut running = Running {
            child: None,
            addr: wish.upstream,
            first_answer: Duration::ZERO,
            dir: dir.into(),
        };
        let began;
        if self.is_direct() {
            began = Instant::now();
        } else {
            running.addr = free_addr()?;
            let words = self.command(wish, running.addr, under, dir)?;
            let mut words = match under {
                Under::Nothing => words,
                Under::Callgrind => {
                    let out = format!("--callgrind-out-file={}", dir.join("callgrind").display());
                    [
                        vec!["valgrind".into(), "--tool=callgrind".into(), out],
                        words,
                    ]
                    .concat()
                }
                Under::Strace => {
                    let out = dir.join("strace").display().to_string();
                    let strace = [
                        "strace",
                        "-D",
                        "-f",
                        "-qq",
                        "-o",
                        &out,
                        "-c",
                        "-U",
                        "calls,name",
                    ];
                    [strace.map(String::from).to_vec(), words].concat()
                }
            }
            .into_iter();
            let log = fs::File::create(dir.join("log"))?;
            let mut command = Command::new(words.next().unwrap_or_default());
            command
                .args(words)
                .env_clear()
                .env("PATH", PATH)
                // With a value of its own alvus does not start itself anew, out of valgrind's sight.
                .envs((under == Under::Callgrind).then_some(("GLIBC_TUNABLES", ARENAS)))
                .current_dir(dir)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            began = Instant::now();
            running.child = Some(command.spawn()?);
        }
        loop {
            let asked =
                Connection::open(running.addr).and_then(|mut c| c.ask(&question("/v1/ready")));
            match asked {
                Ok((200, _)) => break,
                _ if began.elapsed() > Duration::from_secs(20) => {
                    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                    let text = format!("{} does not answer ({asked:?}): {log}", self.name);
                    return Err(io::Error::other(text));
                }
                _ => thread::sleep(Duration::from_micros(100)),
            }
        }
        running.first_answer = began.elapsed();
        Ok(running)
    }

    fn command(
        &self,
        wish: &Wish,
        addr: SocketAddr,
        under: Under,
        dir: &Path,
    ) -> io::Result<Vec<String>> {
        let words = |text: &str| text.split(' ').map(String::from).collect();
        let (port, upstream) = (addr.port(), wish.upstream);
        Ok(match &self.kind {
            Kind::Direct => Vec::new(),
            Kind::Alvus(path) => {
                let keys: Vec<String> = (0..wish.keys)
                    .map(|n| format!("nvapi-bench-key-{n:06}-0123456789abcdef"))
                    .collect();
                let mut env = format!(
                    "PORT={port}\nTARGET_BASE_URL={}/v1\nAPI_KEYS={}\nLOG=warn\n",
                    match wish.tls {
                        true => format!("https://localhost:{}", upstream.port()),
                        false => format!("http://{upstream}"),
                    },
                    keys.join(",")
                );
                if wish.streams > 32 {
                    env += &format!("WORKERS={}\n", wish.streams);
                }
                if wish.tls {
                    env += &format!("SSL_CERT_FILE={}\n", certificate(dir)?.display());
                }
                fs::write(dir.join(".env"), env)?;
                vec![path.display().to_string()]
            }
            Kind::Nginx => {
                let scheme = if wish.tls { "https" } else { "http" };
                let master = if under == Under::Nothing { "on" } else { "off" };
                let text = format!(
                    "worker_processes 1; daemon off; master_process {master}; pid {dir}/pid; error_log stderr warn;\n\
                     events {{ worker_connections 4096; }}\n\
                     http {{ access_log off; keepalive_requests 1000000000; client_max_body_size 0;\n\
                     client_body_buffer_size 1m; client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};\n\
                     uwsgi_temp_path {dir}; scgi_temp_path {dir};\n\
                     upstream up {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}\n\
                     server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass {scheme}://up;\n\
                     proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
                     location ~ ^/v1/(stream|turn)/ {{ proxy_pass {scheme}://up; proxy_buffering off;\n\
                     proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
                    dir = dir.display()
                );
                let file = dir.join("nginx.conf");
                fs::write(&file, text)?;
                words(&format!("nginx -c {} -p {}", file.display(), dir.display()))
            }
            Kind::Haproxy => {
                let tls = if wish.tls { "ssl verify none" } else { "" };
                let text = format!(
                    "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n timeout connect 10s\n\
                     \x20timeout client 300s\n timeout server 300s\n option http-no-delay\n http-reuse always\n\
                     frontend f\n bind 127.0.0.1:{port} backlog 4096\n default_backend b\n\
                     backend b\n server s {upstream} {tls}\n"
                );
                let file = dir.join("haproxy.cfg");
                fs::write(&file, text)?;
                words(&format!("haproxy -db -f {}", file.display()))
            }
            Kind::Other(command) => {
                let command = command
                    .replace("{port}", &port.to_string())
                    .replace("{upstream}", &upstream.to_string());
                vec!["sh".into(), "-c".into(), format!("exec {command}")]
            }
        })
    }
}

impl Running {
    /// The process and all that descend from it.
    fn processes(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.child.iter().map(Child::id).collect();
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            all.extend(
                children
                    .unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|w| w.parse::<u32>().ok()),
            );
            at += 1;
        }
        all
    }

    /// Processor time used so far, in µs; the kernel tells it in steps of 10 ms.
    pub fn cpu(&self) -> f64 {
        self.processes()
            .iter()
            .filter_map(|pid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let (_, fields) = stat.rsplit_once(')')?;
                let mut fields = fields.split_whitespace().skip(11);
                let mut ticks = || fields.next()?.parse::<f64>().ok();
                Some((ticks()? + ticks()?) * 1e4)
            })
            .sum()
    }

    /// The sum over its processes of a `Name: N kB` line of a file in /proc, in KiB (or as it is).
    fn sum(&self, file: &str, name: &str) -> f64 {
        self.processes()
            .iter()
            .filter_map(|pid| {
                let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
                let line = text.lines().find_map(|l| l.strip_prefix(name))?;
                line.split_whitespace().next()?.parse::<f64>().ok()
            })
            .sum()
    }

    pub fn rss(&self) -> f64 {
        self.sum("status", "VmRSS:")
    }

    pub fn anonymous(&self) -> f64 {
        self.sum("status", "RssAnon:")
    }

    pub fn pss(&self) -> f64 {
        self.sum("smaps_rollup", "Pss:")
    }

    /// How often its threads went to sleep or were made to wait, so far.
    pub fn switches(&self) -> f64 {
        let of_threads = self.processes().into_iter().flat_map(|pid| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            tasks.into_iter().flatten().flatten()
        });
        of_threads
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .flat_map(|status| {
                let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
                let numbers = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse().ok());
                numbers.collect::<Vec<f64>>()
            })
            .sum()
    }

    pub fn threads(&self) -> f64 {
        self.sum("status", "Threads:")
    }

    /// Ends it and waits; then says what callgrind (instructions) or strace (calls) counted.
    pub fn counted(mut self, under: Under) -> Option<f64> {
        self.stop();
        match under {
            Under::Callgrind => {
                let text = fs::read_to_string(self.dir.join("callgrind")).ok()?;
                let total = text
                    .lines()
                    .find_map(|l| l.strip_prefix("summary:").or(l.strip_prefix("totals:")))?;
                total.split_whitespace().next()?.parse().ok()
            }
            Under::Strace => {
                // The tracer ends after what it traces.
                let until = Instant::now() + Duration::from_secs(5);
                while Instant::now() < until {
                    let text = fs::read_to_string(self.dir.join("strace")).unwrap_or_default();
                    if let Some(line) = text.lines().rev().find(|l| l.ends_with("total")) {
                        return line.split_whitespace().next()?.parse().ok();
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                None
            }
            Under::Nothing => None,
        }
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An nginx in front of the mock that speaks TLS: on three ports, with kept connections, with
/// resumed handshakes, and with full ones.
pub struct TlsUpstream {
    pub kept: SocketAddr,
    pub resumed: SocketAddr,
    pub full: SocketAddr,
    child: Child,
}

impl TlsUpstream {
    pub fn start(mock: SocketAddr, dir: &Path) -> io::Result<TlsUpstream> {
        fs::create_dir_all(dir)?;
        let [kept, resumed, full] = [free_addr()?, free_addr()?, free_addr()?];
        let certificate = certificate(dir)?;
        let server = |addr: SocketAddr, more: &str| {
            format!(
                "server {{ listen {addr} ssl; {more} location / {{ proxy_pass http://up; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; proxy_max_temp_file_size 0; }}\n\
                 location /v1/turn/ {{ proxy_pass http://up; proxy_http_version 1.1; proxy_buffering off;\n\
                 proxy_set_header Connection \"\"; }} }}\n"
            )
        };
        let text = format!(
            "worker_processes 1; daemon off; pid {dir}/pid; error_log stderr warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_max_body_size 0;\n\
             client_body_buffer_size 1m; client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};\n\
             uwsgi_temp_path {dir}; scgi_temp_path {dir};\n\
             ssl_certificate {certificate}; ssl_certificate_key {dir}/key.pem;\n\
             upstream up {{ server {mock}; keepalive 256; keepalive_requests 1000000000; }}\n{}{}{} }}\n",
            server(kept, ""),
            server(
                resumed,
                "keepalive_timeout 0; ssl_session_cache shared:a:1m;"
            ),
            server(
                full,
                "keepalive_timeout 0; ssl_session_cache off; ssl_session_tickets off;"
            ),
            dir = dir.display(),
            certificate = certificate.display()
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, text)?;
        let child = Command::new("nginx")
            .env("PATH", PATH)
            .args([
                "-c".as_ref(),
                file.as_os_str(),
                "-p".as_ref(),
                dir.as_os_str(),
            ])
            .stderr(fs::File::create(dir.join("log"))?)
            .spawn()?;
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(full).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(TlsUpstream {
            kept,
            resumed,
            full,
            child,
        })
    }
}

impl Drop for TlsUpstream {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

/// A certificate for localhost, made once per run beside the folders of the proxies.
fn certificate(dir: &Path) -> io::Result<PathBuf> {
    let home = dir.parent().unwrap_or(dir).join("tls");
    let (cert, key) = (home.join("cert.pem"), home.join("key.pem"));
    if !cert.exists() {
        fs::create_dir_all(&home)?;
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .stderr(Stdio::null())
            .status()?;
        if !made.success() {
            return Err(io::Error::other("openssl made no certificate"));
        }
    }
    Ok(cert)
}

/// An address that was free a moment ago.
fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
