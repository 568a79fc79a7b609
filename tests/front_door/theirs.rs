//! The same for the crate as published.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tiny_http_published::{self as tiny_http, Request, Response};

use crate::wire::OK;

pub struct Server(tiny_http::Server);

impl Server {
    pub fn on(listener: TcpListener) -> Server {
        Server(tiny_http::Server::from_listener(listener, None).unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.server_addr().to_ip().unwrap()
    }

    pub fn next_within(&self, time: Duration) -> Option<Asked> {
        self.0.recv_timeout(time).unwrap().map(Asked)
    }
}

pub struct Asked(Request);

impl Asked {
    pub fn begin<T: Send + 'static>(
        self,
        job: impl FnOnce(Request) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        thread::spawn(move || job(self.0))
    }
}

pub fn answer_all_on(listener: TcpListener) -> SocketAddr {
    let server = Server::on(listener);
    let address = server.address();
    thread::spawn(move || {
        for request in server.0.incoming_requests() {
            let _ = request.respond(Response::from_string("ok"));
        }
    });
    address
}

pub fn write_ok(request: Request) {
    let mut writer = request.into_writer();
    let _ = writer.write_all(OK);
    let _ = writer.flush();
}
