//! What this machine has, or the control group that alvus runs in: how much memory, how many threads.
//! Looked at once, at the start; what follows from it is decided here, without I/O.
//!
//! A service manager or a container sets limits that a program sees only by looking: beyond the first
//! it is killed, beyond the second it gets no thread, not even for `/health`.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// Request bodies may take so much of the memory: one part in this many. The rest is for connections,
/// answers under way, and the kernel's buffers of both, which a control group counts too.
const SHARE_OF_BODIES: u64 = 2;

/// Connections likewise, where nobody says how many there may be.
const SHARE_OF_CONNECTIONS: u64 = 8;

/// What a connection takes whose request waits: touched stack, buffers, and the kernel's part, which is
/// the larger one. Measured, see docs/performance.md.
const CONNECTION: u64 = 48 * 1024;

/// More connections are no use to the few who share the keys of a household.
const MOST_CONNECTIONS: u64 = 1024;

/// Of a limit of address space, request bodies take one part in this many, and stacks another one.
const SHARE_OF_SPACE: u64 = 3;

/// What the stack of a connection's thread takes of it, with its guard and what the library adds.
const STACK: u64 = 160 * 1024;

/// Threads for the rest of the house: the listener, name look-ups, signals, refusals.
const RESERVED_THREADS: usize = 16;

/// Where control groups are mounted.
const GROUPS: &str = "sys/fs/cgroup";

/// See the module's text. `None`: no limit is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory.
    memory: Option<u64>,
    /// A control group has less than the machine.
    is_group: bool,
    /// Threads that can still be started.
    threads: Option<usize>,
    /// Bytes of address space (`ulimit -v`).
    space: Option<u64>,
}

impl Machine {
    /// Looks at the machine.
    pub fn look() -> Machine {
        let all = rustix::system::sysinfo();
        let total = u64::from(all.mem_unit).saturating_mul(all.totalram as u64);
        let machine = Machine::under(Path::new("/"), Some(total).filter(|n| *n > 0));
        let limit = |of| getrlimit(of).current;
        let user = limit(Resource::Nproc).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Machine {
            threads: machine.threads.into_iter().chain(user).min(),
            space: limit(Resource::As),
            ..machine
        }
    }

    /// The same, with the files under `root` and `total` bytes of memory in the machine.
    fn under(root: &Path, total: Option<u64>) -> Machine {
        let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let (mut memory, mut threads) = (None, None);
        for line in text.lines() {
            // Number, controllers, path; version 2 has one line, without controllers.
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let has = |name| controllers.split(',').any(|c| c == name);
            let groups = |mount: &str| levels(&root.join(GROUPS).join(mount), path);
            match controllers {
                "" => {
                    memory = least(memory, &groups(""), "memory.max", None);
                    threads = least(threads, &groups(""), "pids.max", Some("pids.current"));
                }
                _ if has("memory") => {
                    let file = "memory.limit_in_bytes";
                    memory = least(memory, &groups("memory"), file, None);
                }
                _ if has("pids") => {
                    let groups = groups("pids");
                    threads = least(threads, &groups, "pids.max", Some("pids.current"));
                }
                _ => {}
            }
        }
        let memory = memory.filter(|group| total.is_none_or(|total| *group < total));
        Machine {
            is_group: memory.is_some(),
            memory: memory.or(total),
            threads: threads.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            space: None,
        }
    }

    /// How many bytes request bodies may take at a time, where `wanted` were asked for.
    pub fn bodies(&self, wanted: usize) -> usize {
        let most = self.memory.map_or(u64::MAX, |n| n / SHARE_OF_BODIES);
        let most = most.min(self.space.map_or(u64::MAX, |n| n / SHARE_OF_SPACE));
        wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// How many connections the memory is good for.
    pub fn connections_for_memory(&self) -> usize {
        let memory = self.memory.unwrap_or(u64::MAX);
        // At most MOST_CONNECTIONS.
        (memory / SHARE_OF_CONNECTIONS / CONNECTION).min(MOST_CONNECTIONS) as usize
    }

    /// How many connections may have a thread at a time.
    pub fn threads(&self) -> usize {
        let left = |threads: usize| threads.saturating_sub(RESERVED_THREADS).max(1);
        self.threads.map_or(usize::MAX, left)
    }

    /// For how many threads of connections there is address space.
    pub fn stacks(&self) -> usize {
        let stacks =
            |space: u64| usize::try_from(space / SHARE_OF_SPACE / STACK).unwrap_or(usize::MAX);
        self.space.map_or(usize::MAX, stacks).max(1)
    }

    /// What there is of memory, in words.
    pub fn shown(&self) -> String {
        let whose = match self.is_group {
            true => "its control group",
            false => "this machine",
        };
        match self.memory {
            Some(memory) => format!("{} MiB in {whose}", memory >> 20),
            None => "an unknown amount".into(),
        }
    }
}

/// What glibc's allocator is told: large blocks always go back to the system. By itself it takes the size
/// of the largest block that was freed for what is to be kept from then on, in each of many arenas:
/// with 32 MiB for request bodies, 132 MB were kept. musl's allocator needs none of this.
#[cfg(target_env = "gnu")]
const TUNABLES: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072:glibc.malloc.arena_max=2:glibc.pthread.stack_cache_size=524288";

/// Begins this program once more with an allocator that gives back what it took: glibc reads
/// [`TUNABLES`] before a program begins and from its environment only (`mallopt` is unsafe code). The
/// process stays the same. Where `GLIBC_TUNABLES` is set, by us or by someone who knows better, and
/// where it cannot be done, it does nothing.
#[cfg(target_env = "gnu")]
pub fn tame_allocator() {
    use std::os::unix::process::CommandExt;
    const NAME: &str = "GLIBC_TUNABLES";
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // Not a loader or an emulator that runs us.
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    if std::env::var_os(NAME).is_some() || !name.starts_with(env!("CARGO_PKG_NAME")) {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new(&program);
    again.arg0(arguments.next().unwrap_or_else(|| program.into()));
    again.args(arguments).env(NAME, TUNABLES);
    let _ = again.exec(); // comes back only if it failed
}

/// See the other one: musl's allocator gives back what it took.
#[cfg(not(target_env = "gnu"))]
pub fn tame_allocator() {}

/// A group and all that are above it. In a container the path may be one of outside, of which only the
/// top is to be seen.
fn levels(mount: &Path, path: &str) -> Vec<PathBuf> {
    let inside = Path::new(path.trim_start_matches('/'));
    inside.ancestors().map(|level| mount.join(level)).collect()
}

/// The least of what these groups say in `file`, without what is in use by `used`; and of `so_far`.
fn least(so_far: Option<u64>, groups: &[PathBuf], file: &str, used: Option<&str>) -> Option<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limits = groups.iter().filter_map(|group| {
        // "max" is no number.
        let limit = number(group.join(file))?;
        let used = used.and_then(|file| number(group.join(file)));
        Some(limit.saturating_sub(used.unwrap_or(0)))
    });
    limits.chain(so_far).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// A machine with 512 MiB and these files.
    fn machine(name: &str, files: &[(&str, &str)]) -> Machine {
        let root = std::env::temp_dir().join(format!("alvus-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let machine = Machine::under(&root, Some(512 * MB));
        let _ = fs::remove_dir_all(&root);
        machine
    }

    #[test]
    fn a_group_of_version_2_bounds_by_itself_and_by_those_above() {
        let found = machine(
            "v2",
            &[
                ("proc/self/cgroup", "0::/system.slice/alvus.service\n"),
                (
                    "sys/fs/cgroup/system.slice/alvus.service/memory.max",
                    "max\n",
                ),
                ("sys/fs/cgroup/system.slice/alvus.service/pids.max", "100\n"),
                (
                    "sys/fs/cgroup/system.slice/alvus.service/pids.current",
                    "3\n",
                ),
                ("sys/fs/cgroup/system.slice/memory.max", "25165824\n"),
            ],
        );
        assert_eq!(found.bodies(32 << 20), 12 << 20);
        assert_eq!(found.bodies(1 << 20), 1 << 20);
        assert_eq!(found.threads(), 100 - 3 - RESERVED_THREADS);
        assert_eq!(found.shown(), "24 MiB in its control group");
    }

    #[test]
    fn a_group_of_version_1_does_too() {
        let found = machine(
            "v1",
            &[
                ("proc/self/cgroup", "8:pids:/a\n4:cpu,memory:/a/b\n0::/\n"),
                (
                    "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                    "33554432\n",
                ),
                ("sys/fs/cgroup/pids/a/pids.max", "4\n"),
            ],
        );
        assert_eq!(found.bodies(usize::MAX), 16 << 20);
        assert_eq!(found.threads(), 1, "one can ask, whatever there is");
    }

    #[test]
    fn a_container_sees_the_top_of_its_own_group() {
        let found = machine(
            "top",
            &[
                ("proc/self/cgroup", "0::/docker/0123456789abcdef\n"),
                ("sys/fs/cgroup/memory.max", "67108864\n"),
                ("sys/fs/cgroup/pids.max", "max\n"),
            ],
        );
        assert_eq!(found.bodies(usize::MAX), 32 << 20);
        assert_eq!(found.threads(), usize::MAX);
    }

    #[test]
    fn the_default_of_connections_follows_from_the_memory() {
        let with = |mb: u64| Machine {
            memory: Some(mb * MB),
            is_group: false,
            threads: None,
            space: None,
        };
        for (mb, connections) in [(24, 64), (64, 170), (128, 341), (512, 1024), (24_000, 1024)] {
            assert_eq!(with(mb).connections_for_memory(), connections, "{mb} MB");
        }
    }

    #[test]
    fn a_limit_of_address_space_holds_bodies_and_stacks() {
        let found = Machine {
            memory: Some(512 * MB),
            is_group: false,
            threads: None,
            space: Some(64 * MB),
        };
        let (bodies, stacks) = (found.bodies(usize::MAX) as u64, found.stacks() as u64);
        assert_eq!((bodies >> 20, stacks), (21, 136));
        assert!(bodies + stacks * STACK < 44 * MB, "a third is left");
    }

    #[test]
    fn without_a_group_it_is_the_machine_that_bounds() {
        let unlimited = (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        for files in [&[][..], &[("proc/self/cgroup", "4:memory:/\n"), unlimited]] {
            let found = machine("none", files);
            assert_eq!(found.bodies(usize::MAX), 256 << 20);
            assert_eq!((found.threads(), found.stacks()), (usize::MAX, usize::MAX));
            assert_eq!(found.shown(), "512 MiB in this machine");
        }
    }
}
