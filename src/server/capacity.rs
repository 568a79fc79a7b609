//! How many connections there is room for, and how much memory for bodies: what is configured, or less if the limits of
//! files, threads or memory demand it. Then the log says so.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::machine::Machine;
use crate::warn;

/// Descriptors for the rest: stdio, listener, signals, name servers, CA files.
const RESERVED_DESCRIPTORS: usize = 16;

/// Descriptors of each connection: its socket, and its request's bell or socket to the upstream.
const DESCRIPTORS: usize = 2;

/// How many connections can have a descriptor and a thread.
pub(super) fn connections(config: &Config, machine: &Machine) -> usize {
    let wanted = match config.max_connections {
        0 => machine.connections_for_memory().max(config.workers + 1), // one for `/health`
        wanted => wanted,
    };
    let files = connections_for_files(raise_descriptor_limit(), config.workers);
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

/// How many connections the descriptors allow. Besides theirs there are idle sockets to the upstream: not more than
/// `workers`, nor than connections.
fn connections_for_files(descriptors: usize, workers: usize) -> usize {
    let room = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
    let many = room.saturating_sub(workers) / DESCRIPTORS;
    let few = room / (DESCRIPTORS + 1);
    many.max(few).max(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_shared_out_between_clients_and_the_upstream() {
        for (descriptors, workers, connections) in [
            (10, 64, 1),
            (64, 64, 16),
            (80, 64, 21),
            (120, 4, 50),
            (256, 64, 88),
            (1024, 64, 472),
            (usize::MAX, 64, usize::MAX / 2 - 40),
        ] {
            let found = connections_for_files(descriptors, workers);
            assert_eq!(found, connections, "{descriptors} {workers}");
            let idle = workers.min(found);
            let taken = RESERVED_DESCRIPTORS + DESCRIPTORS * found + idle;
            assert!(found == 1 || taken <= descriptors, "{taken}");
        }
    }
}
