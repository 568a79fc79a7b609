//! The state file: which keys rest for which model, kept over a restart. Each line is valid by itself:
//!
//! ```text
//! alvus-state 1 salt=00112233445566778899aabbccddeeff clock=1790000000
//! 0123456789abcdef cooling 3600 meta/llama-3.3-70b-instruct
//! ```
//!
//! A key is named by a salted hash, its [`Tag`]. A time is what was left of the rest. The time while alvus was off is
//! subtracted only if the clock was set when the file was written. Ejections and suspicions are not kept: a probe costs
//! less than a wrong hour.
//!
//! Made for SD cards: it is written every 30 s ([`EVERY`]) and at the end, but only after a change that outlasts the
//! next write. A new file replaces the old one, so that a power cut leaves one of the two. No link is followed, as
//! others may write in the folder too.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use crate::secret::{SALT, Tag};

/// How often the file may be written, and the shortest rest that is kept.
pub const EVERY: Duration = Duration::from_secs(30);

const MAGIC: &str = "alvus-state 1 salt=";
/// A clock before this (the first second of 2024, UTC) was never set.
const CLOCK_IS_SET: u64 = 1_704_067_200;
/// No rest is longer than a month, in seconds.
const LONGEST: u64 = 31 * 24 * 60 * 60;
/// The most rests in a file (the longest ones), and bytes of a model's name: 1 MiB at most.
const MOST: usize = 4096;
const LONGEST_NAME: usize = 200;
const LARGEST: u64 = 1024 * 1024;

/// A key that rests for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRest {
    /// Which key.
    pub key: Tag,
    /// For which model.
    pub model: String,
    /// Until when.
    pub until: Instant,
}

/// The text of a file that is written `now`. `clock`: the wall clock, in seconds since 1970.
pub fn to_text(salt: &[u8; SALT], rests: &[SavedRest], now: Instant, clock: u64) -> String {
    let salt = u128::from_be_bytes(*salt);
    let mut out = format!("{MAGIC}{salt:032x} clock={clock}\n");
    for SavedRest { key, model, until } in rests {
        // A name with a line break cannot be kept.
        if model.len() <= LONGEST_NAME && !model.contains(char::is_control) {
            let left = until.saturating_duration_since(now);
            let left = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let key = u64::from_be_bytes(*key);
            let _ = writeln!(out, "{key:016x} cooling {left} {model}");
        }
    }
    out
}

/// Reads a file: its salt, the rests that go on, and whether a part cannot be read. `None`: it is not a state file.
pub fn from_text(
    text: &str,
    now: Instant,
    clock: u64,
) -> Option<([u8; SALT], Vec<SavedRest>, bool)> {
    let (head, lines) = text.strip_prefix(MAGIC)?.split_once('\n')?;
    let (salt, written) = head.split_once(" clock=")?;
    let salt = u128::from_str_radix(salt, 16).ok()?.to_be_bytes();
    let off = match written.parse().ok()? {
        before @ CLOCK_IS_SET.. => clock.saturating_sub(before),
        _ => 0,
    };
    let (mut rests, mut damaged) = (Vec::new(), false);
    for line in lines.split_inclusive('\n').take(2 * MOST) {
        match read_line(line) {
            Some(Some((key, left, model))) if left > off => rests.push(SavedRest {
                key: key.to_be_bytes(),
                model: model.to_owned(),
                until: now + Duration::from_secs(left - off),
            }),
            Some(_) => {}
            None => damaged = true,
        }
    }
    Some((salt, rests, damaged))
}

/// Reads one line. `Some(None)`: a line of 0.1.0 that is not used any more.
fn read_line(line: &str) -> Option<Option<(u64, u64, &str)>> {
    let mut words = line.strip_suffix('\n')?.splitn(4, ' ');
    let key = words.next()?;
    if key == "end" {
        return Some(None);
    }
    let key = u64::from_str_radix(key, 16).ok()?;
    let (word, left) = (words.next()?, words.next()?.parse().ok()?);
    match (word, words.next()) {
        ("rejected" | "parked", None) => Some(None),
        ("cooling" | "parked", model) if left <= LONGEST => {
            Some(Some((key, left, model.unwrap_or_default())))
        }
        _ => None,
    }
}

/// The file, and what is in it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    salt: [u8; SALT],
    written: Vec<SavedRest>,
    /// When it was last considered to write.
    looked: Instant,
    /// It is somebody else's file and stays as it is.
    foreign: bool,
    /// The last write failed, and that was logged.
    failing: bool,
}

impl StateFile {
    /// Reads the file, if there is one. Returns its rests, and a complaint in the operator's words. `random`: the salt
    /// for a new file.
    pub fn open(
        path: PathBuf,
        random: [u8; SALT],
        now: Instant,
    ) -> (StateFile, Vec<SavedRest>, Option<String>) {
        let (mut salt, mut rests, mut foreign) = (random, Vec::new(), false);
        let complaint = match read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => {
                foreign = true;
                Some(format!("cannot be read: {e}; nothing is kept there"))
            }
            // Some file systems leave this after a power cut.
            Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => {
                Some("is damaged: it is empty".to_owned())
            }
            Ok(bytes) => match from_text(&String::from_utf8_lossy(&bytes), now, clock()) {
                Some((its, found, damaged)) => {
                    (salt, rests) = (its, found);
                    damaged
                        .then(|| "is damaged: the parts that cannot be read are ignored".to_owned())
                }
                None => {
                    foreign = true;
                    Some("is not a state file of this alvus: it is left alone, and nothing is kept there".to_owned())
                }
            },
        };
        let complaint = complaint.map(|text| format!("{} (STATE_FILE) {text}", path.display()));
        let file = StateFile {
            path,
            salt,
            written: Vec::new(),
            looked: now,
            foreign,
            failing: false,
        };
        (file, rests, complaint)
    }

    /// The salt of its tags.
    pub fn salt(&self) -> &[u8; SALT] {
        &self.salt
    }

    /// How long until it may be written again.
    pub fn pause(&self, now: Instant) -> Duration {
        (self.looked + EVERY).saturating_duration_since(now)
    }

    /// Writes the file, if something changed that is worth it.
    ///
    /// # Errors
    /// In the operator's words, when it cannot be written; once for a row of failures. The old file
    /// is still there, and the next call tries again.
    pub fn keep(&mut self, mut rests: Vec<SavedRest>, now: Instant) -> io::Result<()> {
        self.looked = now;
        if rests.len() > MOST {
            rests.sort_by_key(|rest| std::cmp::Reverse(rest.until));
            rests.truncate(MOST);
        }
        let lasts = |rest: &&SavedRest| rest.until > now + EVERY;
        let same = rests
            .iter()
            .filter(lasts)
            .eq(self.written.iter().filter(lasts));
        if self.foreign || same {
            return Ok(());
        }
        let told = self.failing;
        let text = to_text(&self.salt, &rests, now, clock());
        match replace(&self.path, &text, None) {
            Ok(()) => {
                (self.written, self.failing) = (rests, false);
                Ok(())
            }
            Err(_) if told => Ok(()),
            Err(e) => {
                self.failing = true;
                let path = self.path.display();
                Err(io::Error::new(
                    e.kind(),
                    format!(
                        "cannot write {path} (STATE_FILE): {e}; alvus goes on without, and tries again"
                    ),
                ))
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Non-blocking: the open of a FIFO would wait for its writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0)) // open(2) takes an int
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file by a new one, as a whole or not at all. It is readable only by its owner, this process's user unless
/// another one and a group are named.
///
/// # Errors
/// When it cannot be written. The old file is still there.
pub fn replace(path: &Path, text: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let _ = fs::remove_file(&new); // left by an alvus that died while it wrote, or a link that somebody made
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if let Some((user, group)) = owner {
        let _ = chown(&new, Some(user), Some(group));
    }
    if let Err(e) = written.and_then(|()| fs::rename(&new, path)) {
        let _ = fs::remove_file(&new);
        return Err(e);
    }
    // The name must survive a power cut too. Not every file system can do that.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Seconds since 1970 by the wall clock, which may be wrong.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
