//! The front door with an interface from which a test takes its requests one after the other.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use alvus::front::{self, Limits, Request};

use crate::wire::{HANG, OK};

type Job = Box<dyn FnOnce(Request<'_>) + Send>;

pub struct Server {
    address: SocketAddr,
    asked: Receiver<Asked>,
    pub front: front::Server,
}

impl Server {
    pub fn on(listener: TcpListener) -> Server {
        Server::with(listener, Limits::default())
    }

    pub fn with(listener: TcpListener, limits: Limits) -> Server {
        let address = listener.local_addr().unwrap();
        let (tell, asked) = channel();
        let tell = Mutex::new(tell);
        let front = front::Server::serve_in_place(listener, limits, move |request| {
            let (give, job) = channel::<Job>();
            let told = tell.lock().unwrap().send(Asked(give));
            if let (Ok(()), Ok(job)) = (told, job.recv()) {
                job(request);
            }
        });
        Server {
            address,
            asked,
            front: front.unwrap(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request; `None`: none came in time.
    pub fn next_within(&self, time: Duration) -> Option<Asked> {
        self.asked.recv_timeout(time).ok()
    }
}

/// A request that waits on its connection's thread. Dropped, it is not answered.
pub struct Asked(Sender<Job>);

impl Asked {
    /// Does something with the request, where it is.
    pub fn begin<T: Send + 'static>(
        self,
        job: impl FnOnce(Request<'_>) -> T + Send + 'static,
    ) -> Under<T> {
        let (tell, told) = channel();
        let job: Job = Box::new(move |request| {
            let _ = tell.send(catch_unwind(AssertUnwindSafe(|| job(request))));
        });
        self.0.send(job).unwrap();
        Under(told)
    }
}

/// What is being done with a request.
pub struct Under<T>(Receiver<thread::Result<T>>);

impl<T> Under<T> {
    pub fn join(self) -> thread::Result<T> {
        self.0.recv_timeout(HANG).expect("it hangs")
    }
}

/// A server that answers "ok" to everything, for as long as the test process lives.
pub fn answer_all_on(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let server = front::Server::serve_in_place(listener, Limits::default(), write_ok);
    std::mem::forget(server.unwrap());
    address
}

pub fn write_ok(request: Request<'_>) {
    let mut writer = request.into_writer();
    let _ = writer.write_all(OK);
    let _ = writer.flush();
}
