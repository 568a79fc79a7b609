//! How many connections there is room for, and how much memory for bodies: what is configured, or less if the limits of
//! files, threads or memory demand it. Then the log says so.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::machine::Machine;
use crate::warn;

/// Descriptors for the rest: stdio, listener, signals, name servers, CA files.
const RESERVED_DESCRIPTORS: usize = 16;

/// Descriptors of each connection: its socket, and the bell of its waiting request.
const DESCRIPTORS: usize = 2;

/// How many connections can have a descriptor and a thread.
pub(super) fn connections(config: &Config, machine: &Machine) -> usize {
    let wanted = match config.max_connections {
        0 => machine.connections_for_memory().max(2 * config.workers),
        wanted => wanted,
    };
    // Each place of `WORKERS` needs a descriptor for the upstream.
    let spoken_for = RESERVED_DESCRIPTORS + config.workers;
    let files = (raise_descriptor_limit().saturating_sub(spoken_for) / DESCRIPTORS).max(1);
    let limits = [
        (files, "open files", ", ulimit -n"),
        (machine.stacks(), "address space", ", ulimit -v"),
        (
            machine.threads(),
            "threads",
            "; TasksMax of a unit, pids.max of a control group, ulimit -u",
        ),
    ];
    limits.iter().fold(wanted, |wanted, (room, of, by)| {
        if *room < wanted {
            warn!("the limit of {of} leaves room for {room} connections (MAX_CONNECTIONS{by})");
        }
        wanted.min(*room)
    })
}

/// How much memory request bodies may take. Logs it if that is less than `wanted`.
pub(super) fn bodies(machine: &Machine, wanted: usize) -> usize {
    let bodies = machine.bodies(wanted);
    if bodies < wanted {
        let (shown, mb, asked) = (machine.shown(), bodies >> 20, wanted >> 20);
        warn!(
            "memory: {shown}; request bodies take up to {mb} MiB of it, not {asked} (MAX_BODY_MB)"
        );
    }
    bodies
}

/// Raises the limit of open files as far as the system allows, and returns it.
fn raise_descriptor_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        limit.current = limit.maximum;
    }
    let descriptors = limit.current.and_then(|n| usize::try_from(n).ok());
    descriptors.unwrap_or(usize::MAX)
}
