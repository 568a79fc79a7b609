//! The loop: mutate, run, keep what reaches new code. Nothing here knows the targets.
//!
//! Coverage comes from the compiler's own counters (`-C instrument-coverage`, stable), read from
//! this process's memory; without them the loop mutates blindly.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// An input on which a target spends this long hangs it.
const HANG: Duration = Duration::from_secs(20);
/// Inputs that reached new code are remembered up to this many.
const MAX_KEPT: usize = 4096;

/// What is fuzzed.
pub struct Target {
    pub name: &'static str,
    /// The folder of its seeds.
    pub corpus: &'static str,
    /// Words that mean something to it.
    pub words: &'static [&'static [u8]],
    pub max_len: usize,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
}

/// Numbers from a seed (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
}

/// The seeds of a target, by file name.
pub fn corpus(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(folder);
    let files = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = files.map(|f| f.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", dir.display());
    paths
        .into_iter()
        .map(|p| (p.clone(), fs::read(p).unwrap()))
        .collect()
}

/// Runs one input; a failure is told with all that it takes to see it again.
pub fn run_one(target: &Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        report(target.name, input, "fails");
        std::process::exit(1);
    }
}

fn report(name: &str, input: &[u8], how: &str) {
    let path = std::env::temp_dir().join(format!("alvus-fuzz-{name}-{}", std::process::id()));
    let _ = fs::write(&path, input);
    eprintln!(
        "\nfuzz: {name} {how} on these {} bytes:\n  b\"{}\"\nthey are in {}; to replay them:\n  make fuzz FUZZ_REPLAY={name}:{}",
        input.len(),
        input.escape_ascii(),
        path.display(),
        path.display()
    );
}

/// Fuzzes for so long; returns executions, inputs kept and counters reached.
pub fn fuzz(target: &Target, time: Duration, seed: u64) -> (u64, usize, usize) {
    let mut rng = Rng(seed);
    let mut coverage = Coverage::open();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let now: Arc<Mutex<(u64, Vec<u8>)>> = Arc::default();
    watch(target.name, &now);
    let mut executions = 0;
    let mut run = |input: Vec<u8>, kept: &mut Vec<Vec<u8>>, seed: bool| {
        executions += 1;
        {
            let mut now = now.lock().unwrap();
            now.0 = executions;
            now.1.clone_from(&input);
        }
        run_one(target, &input);
        let new = coverage.as_mut().is_some_and(Coverage::has_grown);
        if (new && kept.len() < MAX_KEPT) || seed {
            kept.push(input);
        }
    };
    for (_, input) in corpus(target.corpus) {
        run(input, &mut kept, true);
    }
    let until = Instant::now() + time;
    while Instant::now() < until {
        for _ in 0..64 {
            let mut input = kept[rng.below(kept.len())].clone();
            for _ in 0..=rng.below(6) {
                mutate(&mut input, &mut rng, target.words, &kept);
            }
            input.truncate(target.max_len);
            run(input, &mut kept, false);
        }
    }
    now.lock().unwrap().0 = u64::MAX;
    if std::env::var_os("FUZZ_KEEP").is_some() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/fuzz-kept")
            .join(target.name);
        fs::create_dir_all(&dir).unwrap();
        for (n, input) in kept.iter().enumerate() {
            fs::write(dir.join(n.to_string()), input).unwrap();
        }
    }
    (executions, kept.len(), coverage.map_or(0, |c| c.reached))
}

/// Complains when one input takes too long.
fn watch(name: &'static str, now: &Arc<Mutex<(u64, Vec<u8>)>>) {
    let now = now.clone();
    thread::spawn(move || {
        let mut last = (0, Instant::now());
        loop {
            thread::sleep(Duration::from_secs(1));
            let now = now.lock().unwrap();
            if now.0 == u64::MAX {
                return;
            }
            if now.0 != last.0 {
                last = (now.0, Instant::now());
            } else if last.1.elapsed() > HANG {
                report(name, &now.1, "hangs");
                std::process::exit(1);
            }
        }
    });
}

/// One small change.
fn mutate(input: &mut Vec<u8>, rng: &mut Rng, words: &[&[u8]], others: &[Vec<u8>]) {
    let at = rng.below(input.len() + 1);
    let end = at + rng.below(input.len() - at + 1).min(rng.below(64) + 1);
    match rng.below(10) {
        0 if at < input.len() => input[at] ^= 1 << rng.below(8),
        1 if at < input.len() => input[at] = rng.next() as u8,
        2 => {
            // Bytes on which parsers turn.
            let bytes = b" \t\r\n\0:;,=/#?%+-.\"'\\@&*09afAFxX\x7f\x80\xff";
            input.insert(at, bytes[rng.below(bytes.len())]);
        }
        3 => drop(input.drain(at..end)),
        4 => {
            let piece = input[at..end].to_vec();
            let to = rng.below(input.len() + 1);
            input.splice(to..to, piece);
        }
        5 => {
            let other = &others[rng.below(others.len())];
            let from = rng.below(other.len() + 1);
            let to = from + rng.below(other.len() - from + 1);
            input.splice(at..end, other[from..to].iter().copied());
        }
        6 | 7 if !words.is_empty() => {
            let to = if rng.below(2) == 0 { at } else { end };
            input.splice(at..to, words[rng.below(words.len())].iter().copied());
        }
        8 => {
            let numbers = [
                "0",
                "1",
                "9",
                "-1",
                "+1",
                "255",
                "65536",
                "4294967296",
                "18446744073709551615",
                "18446744073709551616",
                "99999999999999999999999",
                "1e9",
                "0x10",
                "1.5",
                "NaN",
            ];
            let number = numbers[rng.below(numbers.len())];
            input.splice(at..at, number.bytes());
        }
        _ => {
            let piece = input[at..end].to_vec();
            let times = rng.below(if piece.len() < 8 { 200 } else { 20 });
            input.splice(at..at, piece.repeat(times));
        }
    }
}

/// The counters of the instrumented code in this program.
struct Coverage {
    memory: File,
    at: u64,
    now: Vec<u8>,
    seen: Vec<bool>,
    reached: usize,
}

impl Coverage {
    /// `None` when this program was not built with counters.
    fn open() -> Option<Coverage> {
        let (offset, size) = counters(&fs::read("/proc/self/exe").ok()?)?;
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        let base = u64::from_str_radix(maps.split('-').next()?, 16).ok()?;
        Some(Coverage {
            memory: File::open("/proc/self/mem").ok()?,
            at: base + offset,
            now: vec![0; size],
            seen: vec![false; size / 8],
            reached: 0,
        })
    }

    /// Whether code was reached that never was before.
    fn has_grown(&mut self) -> bool {
        let before = self.reached;
        if self.memory.read_exact_at(&mut self.now, self.at).is_ok() {
            for (counter, seen) in self.now.chunks_exact(8).zip(&mut self.seen) {
                if !*seen && counter != [0; 8] {
                    *seen = true;
                    self.reached += 1;
                }
            }
        }
        self.reached > before
    }
}

/// Address and size of the section `__llvm_prf_cnts` of a 64-bit little-endian ELF file.
fn counters(elf: &[u8]) -> Option<(u64, usize)> {
    let number = |at: usize, size: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(elf.get(at..at + size)?);
        Some(u64::from_le_bytes(bytes))
    };
    let at = |n: u64| usize::try_from(n).ok();
    let (table, size) = (at(number(40, 8)?)?, at(number(58, 2)?)?);
    let (count, names) = (at(number(60, 2)?)?, at(number(62, 2)?)?);
    let names = at(number(table + names * size + 24, 8)?)?;
    for section in (0..count).map(|n| table + n * size) {
        let name = names + at(number(section, 4)?)?;
        if elf.get(name..)?.starts_with(b"__llvm_prf_cnts\0") {
            return Some((number(section + 16, 8)?, at(number(section + 32, 8)?)?));
        }
    }
    None
}

/// A line at once, also when the output is a pipe.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
