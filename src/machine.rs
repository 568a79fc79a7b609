//! The limits of this machine, or of alvus' control group: memory, threads, address space. It reads them once, at the
//! start, and decides here, without I/O, what follows.
//!
//! A service manager or a container sets limits that a program must read itself: beyond its memory it is killed, beyond
//! its threads it gets none, not even for `/health`.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// Request bodies may take one part in this many of the memory. The rest is for connections, answers, and the kernel's
/// buffers of both, which a control group counts too.
const SHARE_OF_BODIES: u64 = 2;

/// Connections may take one part in this many, if `MAX_CONNECTIONS` is not set.
const SHARE_OF_CONNECTIONS: u64 = 8;

/// The memory of a connection whose request waits: touched stack, buffers, and the kernel's part, which is larger.
/// Measured; see docs/performance.md.
const CONNECTION: u64 = 48 * 1024;

/// The most connections by default; few people share one alvus.
const MOST_CONNECTIONS: u64 = 1024;

/// Request bodies may take one part in this many of the address space, and stacks another one.
const SHARE_OF_SPACE: u64 = 3;

/// Address space of a connection's stack, with its guard and what the library adds.
const STACK: u64 = 160 * 1024;

/// Threads for the rest: the listener, name look-ups, signals, refusals.
const RESERVED_THREADS: usize = 16;

/// Where control groups are mounted.
const GROUPS: &str = "sys/fs/cgroup";

/// See the module's text. `None`: no limit is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory.
    memory: Option<u64>,
    /// The memory is a control group's, which is less than the machine's.
    is_group: bool,
    /// Threads that can still be started.
    threads: Option<usize>,
    /// Bytes of address space (`ulimit -v`).
    space: Option<u64>,
}

impl Machine {
    /// Reads the limits.
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

    /// How many bytes request bodies may take at a time, if `wanted` are configured.
    pub fn bodies(&self, wanted: usize) -> usize {
        let most = self.memory.map_or(u64::MAX, |n| n / SHARE_OF_BODIES);
        let most = most.min(self.space.map_or(u64::MAX, |n| n / SHARE_OF_SPACE));
        wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// How many connections the memory allows.
    pub fn connections_for_memory(&self) -> usize {
        let memory = self.memory.unwrap_or(u64::MAX);
        // At most MOST_CONNECTIONS.
        (memory / SHARE_OF_CONNECTIONS / CONNECTION).min(MOST_CONNECTIONS) as usize
    }

    /// How many connections can have a thread.
    pub fn threads(&self) -> usize {
        let left = |threads: usize| threads.saturating_sub(RESERVED_THREADS).max(1);
        self.threads.map_or(usize::MAX, left)
    }

    /// How many connections' stacks the address space allows.
    pub fn stacks(&self) -> usize {
        let stacks =
            |space: u64| usize::try_from(space / SHARE_OF_SPACE / STACK).unwrap_or(usize::MAX);
        self.space.map_or(usize::MAX, stacks).max(1)
    }

    /// The memory, in words.
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

/// Tells glibc's allocator to give large blocks back to the system. By default it keeps blocks up to the largest size
/// that was freed, in each of many arenas: with 32 MiB for request bodies that were 132 MB.
#[cfg(target_env = "gnu")]
const TUNABLES: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072:glibc.malloc.arena_max=2:glibc.pthread.stack_cache_size=524288";

/// Executes this program again with [`TUNABLES`], which glibc reads only from the environment and before the program
/// begins (`mallopt` would be unsafe code). The process stays the same. If `GLIBC_TUNABLES` is set already, or the call
/// fails, nothing changes.
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
    let _ = again.exec(); // returns only if it failed
}

/// musl's allocator gives memory back by itself.
#[cfg(not(target_env = "gnu"))]
pub fn tame_allocator() {}

/// A group and all groups above it. In a container the path may be the host's, of which only the top is visible.
fn levels(mount: &Path, path: &str) -> Vec<PathBuf> {
    let inside = Path::new(path.trim_start_matches('/'));
    inside.ancestors().map(|level| mount.join(level)).collect()
}

/// The smallest limit in `file` of these groups, less what is in use by `used`; at most `so_far`.
fn least(so_far: Option<u64>, groups: &[PathBuf], file: &str, used: Option<&str>) -> Option<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limits = groups.iter().filter_map(|group| {
        // "max" is not a number.
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
