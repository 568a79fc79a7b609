//! The file of [`crate::state`]: read once at the start, written when something changed.
//!
//! Made for SD cards: nothing is written while nothing changes, a rest too short to outlive the
//! next occasion is not worth a write, and one that ends by itself is no change. A write goes to a
//! new file, is synced, and takes the old one's place, so that a power cut leaves one of the two.
//! Who calls decides when: [`EVERY`], and at the end. No link is followed, in reading or in writing:
//! the folder may be others' too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use super::{Entry, Limit, Unreadable, from_text, to_text};
use crate::secret::SALT;

/// How often there is an occasion to write, and the shortest rest worth it.
pub const EVERY: Duration = Duration::from_secs(30);

/// No file of ours is larger, in bytes: some ten thousand entries.
const LARGEST: usize = 1024 * 1024;

/// The file, and what stands in it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    salt: [u8; SALT],
    written: Vec<Limit>,
    /// When there was an occasion to write last.
    looked: Instant,
    /// Someone else's file: it stays as it is.
    foreign: bool,
    /// The last write failed, or not all of it fitted, and that was said.
    failing: bool,
}

impl StateFile {
    /// Reads the file, if there is one. What it says of the keys comes with it; a complaint in the
    /// operator's words if it cannot be used. `random`: the salt of a file that is not there yet.
    pub fn open(
        path: PathBuf,
        random: [u8; SALT],
        now: Instant,
    ) -> (StateFile, Vec<Entry>, Option<String>) {
        let read = read(&path);
        let (shown, clock) = (path.display().to_string(), clock());
        let mut file = StateFile {
            path,
            salt: random,
            written: Vec::new(),
            looked: now,
            foreign: false,
            failing: false,
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return (file, Vec::new(), None),
            Err(e) => {
                file.foreign = true;
                let text = format!("cannot read {shown} (STATE_FILE): {e}; nothing is kept there");
                return (file, Vec::new(), Some(text));
            }
        };
        let read = match bytes.iter().all(|byte| *byte == 0) {
            // What a power cut leaves of a file on many a file system; nobody else's looks so.
            true => Err(Unreadable::Corrupt),
            false => from_text(&String::from_utf8_lossy(&bytes), clock),
        };
        match read {
            Ok(saved) => {
                file.salt = saved.salt;
                (file, saved.entries, None)
            }
            Err(why) => {
                file.foreign = why == Unreadable::Foreign;
                let what = match why {
                    Unreadable::Foreign => {
                        "is not a state file of this alvus: it is left alone, and nothing is kept there"
                    }
                    Unreadable::Corrupt => {
                        "is damaged: it is ignored, and replaced when there is something to keep"
                    }
                };
                (
                    file,
                    Vec::new(),
                    Some(format!("{shown} (STATE_FILE) {what}")),
                )
            }
        }
    }

    /// What the tags in it are made with.
    pub fn salt(&self) -> &[u8; SALT] {
        &self.salt
    }

    /// How long until the next occasion to write.
    pub fn pause(&self, now: Instant) -> Duration {
        (self.looked + EVERY).saturating_duration_since(now)
    }

    /// Writes the file if that is worth it: see the module's text.
    ///
    /// # Errors
    /// In the operator's words, when it cannot be written; once for a row of failures. What was
    /// written before is still there, and the next call tries again.
    pub fn keep(&mut self, limits: Vec<Limit>, now: Instant) -> Result<(), String> {
        self.looked = now;
        if self.foreign || !is_news(&self.written, &limits, now) {
            return Ok(());
        }
        let mut entries: Vec<Entry> = limits
            .iter()
            .map(|limit| Entry {
                key: limit.key,
                model: limit.model.clone(),
                left: limit.until.saturating_duration_since(now),
            })
            .collect();
        let (text, left_out) = bounded(&self.salt, &mut entries);
        let shown = self.path.display();
        let complaint = match replace(&self.path, &text) {
            Ok(()) => {
                self.written = limits;
                (left_out > 0).then(|| {
                    format!(
                        "{shown} (STATE_FILE) holds no more than {} MiB: {left_out} entries, those that end first, are left out",
                        LARGEST / 1024 / 1024
                    )
                })
            }
            Err(e) => Some(format!(
                "cannot write {shown} (STATE_FILE): {e}; alvus goes on without, and tries again"
            )),
        };
        let told = std::mem::replace(&mut self.failing, complaint.is_some());
        match complaint.filter(|_| !told) {
            Some(text) => Err(text),
            None => Ok(()),
        }
    }
}

/// The text of a file with these entries, as many as fit, and how many do not. Those that last longest
/// stay.
fn bounded(salt: &[u8; SALT], entries: &mut Vec<Entry>) -> (String, usize) {
    let all = entries.len();
    let mut text = to_text(salt, entries, clock());
    let mut least = EVERY;
    while text.len() > LARGEST {
        let before = entries.len();
        least = least.saturating_mul(5) / 4;
        entries.retain(|entry| entry.left >= least);
        if entries.len() < before {
            text = to_text(salt, entries, clock());
        }
    }
    (text, all - entries.len())
}

/// Whether `now` there is something to keep that the file does not say, or the reverse.
fn is_news(written: &[Limit], limits: &[Limit], now: Instant) -> bool {
    let lasts = |limit: &&Limit| limit.until > now + EVERY;
    let mut new = limits.iter().filter(lasts);
    let mut old = written.iter().filter(lasts);
    new.any(|limit| !written.contains(limit)) || old.any(|limit| !limits.contains(limit))
}

/// The start of the file, as far as ours could go.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Non-blocking: whoever opens a FIFO would wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
        .open(path)
        .map_err(|e| match rustix::io::Errno::from_io_error(&e) {
            Some(rustix::io::Errno::LOOP) => {
                io::Error::other("it is a link, which is not followed")
            }
            _ => e,
        })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0) // open(2) takes an int
}

/// Puts a new file in the place of the old one; all of it, or nothing.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // What an alvus left there that died while it wrote; or a link that somebody laid.
    let _ = fs::remove_file(&new);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&new);
        return written;
    }
    // The name, too, must outlive a power cut; a file system that cannot do that has done its best.
    if let Some(folder) = path.parent() {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

/// Seconds since 1970 by the wall clock, for what it is worth.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("alvus-state-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("state")
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).expect("a folder").count()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn open(path: PathBuf) -> (StateFile, Vec<Entry>, Option<String>) {
        StateFile::open(path, [9; SALT], Instant::now())
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn rests(key: u8, until: Instant) -> Limit {
        Limit {
            key: [key; 8],
            model: "m".into(),
            until,
        }
    }

    /// Rests for a day, from the first call on.
    fn for_a_day(key: u8) -> Limit {
        static FAR: OnceLock<Instant> = OnceLock::new();
        let until = FAR.get_or_init(|| Instant::now() + secs(24 * 3600));
        rests(key, *until)
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart() {
        let folder = Folder::new("kept");
        let now = Instant::now();
        let (mut file, entries, complaint) = open(folder.file());
        assert_eq!((entries, complaint), (vec![], None));
        let limits = vec![rests(1, now + secs(3600)), for_a_day(2)];
        file.keep(limits, now).expect("written");
        let (again, entries, complaint) = open(folder.file());
        assert_eq!((complaint, again.salt()), (None, file.salt()));
        assert_eq!((entries[0].key, &*entries[0].model), ([1; 8], "m"));
        assert!(entries[0].left <= secs(3600) && entries[0].left > secs(3000));
        assert_eq!(entries[1].key, [2; 8]);
        assert_eq!(folder.files(), 1, "nothing is left beside it");
    }

    #[test]
    fn only_what_changed_and_lasts_is_worth_a_write() {
        let now = Instant::now();
        let long = now + secs(3600);
        let later = now + secs(3590); // `long` is nearly over then
        for (written, limits, at, news) in [
            (vec![], vec![], now, false),
            (vec![], vec![rests(1, now + secs(20))], now, false),
            (vec![], vec![rests(1, long)], now, true),
            (vec![rests(1, long)], vec![rests(1, long)], now, false),
            (
                vec![rests(1, long)],
                vec![rests(1, long + secs(9))],
                now,
                true,
            ),
            (vec![rests(1, long)], vec![], later, false), // ended by itself
            (vec![rests(1, long)], vec![], now, true),    // a reload ended it
            (vec![rests(1, long)], vec![for_a_day(1)], now, true),
            (vec![for_a_day(1)], vec![], now, true),
            (
                vec![for_a_day(1), for_a_day(2)],
                vec![for_a_day(2), for_a_day(1)],
                now,
                false,
            ),
        ] {
            assert_eq!(
                is_news(&written, &limits, at),
                news,
                "{written:?} {limits:?}"
            );
        }
    }

    #[test]
    fn a_foreign_file_is_reported_and_left_alone() {
        let folder = Folder::new("foreign");
        fs::write(folder.file(), "root:x:0:0\n").expect("written");
        let (mut file, entries, complaint) = open(folder.file());
        assert!(entries.is_empty() && complaint.is_some_and(|c| c.contains("left alone")));
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("nothing done");
        assert_eq!(
            fs::read_to_string(folder.file()).expect("there"),
            "root:x:0:0\n"
        );
        // Neither text nor a file at all.
        fs::write(folder.file(), b"\xff\xfe").expect("written");
        assert!(open(folder.file()).2.is_some());
        let (mut file, _, complaint) = open(folder.0.clone());
        assert!(complaint.is_some());
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("nothing done");
        assert_eq!(folder.files(), 1);
    }

    #[test]
    fn a_damaged_file_is_reported_and_replaced() {
        let folder = Folder::new("damaged");
        let (mut file, ..) = open(folder.file());
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("written");
        let text = fs::read_to_string(folder.file()).expect("there");
        fs::write(folder.file(), &text[..text.len() / 2]).expect("written");
        let (mut file, entries, complaint) = open(folder.file());
        assert!(entries.is_empty() && complaint.is_some_and(|c| c.contains("damaged")));
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("written");
        assert_eq!(open(folder.file()).1.len(), 1);
    }

    #[test]
    fn a_failing_write_is_said_once_and_tried_again() {
        let folder = Folder::new("failing");
        let path = folder.0.join("not/there/yet");
        let (mut file, ..) = open(path.clone());
        let now = Instant::now();
        let said = file
            .keep(vec![for_a_day(1)], now)
            .expect_err("no such folder");
        assert!(said.contains("STATE_FILE"), "{said}");
        assert_eq!(file.keep(vec![for_a_day(1)], now), Ok(()), "not again");
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        file.keep(vec![for_a_day(1)], now).expect("written");
        assert_eq!(open(path).1.len(), 1);
    }

    #[test]
    fn a_file_that_is_empty_or_all_zeros_is_damaged_and_replaced() {
        let folder = Folder::new("zeros");
        for left in [&[][..], &[0; 4096], b"alvus-state 1 salt=\xff\xfe\x00"] {
            fs::write(folder.file(), left).expect("written");
            let (mut file, entries, complaint) = open(folder.file());
            assert!(entries.is_empty() && complaint.is_some_and(|c| c.contains("damaged")));
            file.keep(vec![for_a_day(1)], Instant::now())
                .expect("written");
            assert_eq!(open(folder.file()).1.len(), 1);
        }
    }

    #[test]
    fn no_link_is_followed_and_only_a_file_is_read() {
        use std::os::unix::fs::symlink;
        let folder = Folder::new("links");
        let (path, other) = (folder.file(), folder.0.join("other"));
        let new = folder.0.join("state.new");
        // Where it is written: a link there is taken away.
        fs::write(&other, "mine").expect("written");
        symlink(&other, &new).expect("linked");
        let (mut file, ..) = open(path.clone());
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("written");
        assert_eq!(open(path.clone()).1.len(), 1);
        // Where it is read: a link, a FIFO, a device.
        fs::rename(&path, &other).expect("moved");
        let fifo = folder.0.join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).expect("a FIFO");
        symlink(&other, &path).expect("linked");
        for (path, why) in [(&path, "link"), (&fifo, "not a file")] {
            let (mut file, entries, complaint) = open(path.clone());
            let complaint = complaint.unwrap_or_default();
            assert!(entries.is_empty() && complaint.contains(why), "{complaint}");
            file.keep(vec![for_a_day(2)], Instant::now())
                .expect("nothing done");
        }
        assert_eq!(open(other).1[0].key, [1; 8], "as it was");
        let (_, _, complaint) = open("/dev/null".into());
        assert!(complaint.is_some_and(|c| c.contains("not a file")));
    }

    #[test]
    fn what_is_written_can_be_read_however_much_there_is() {
        let folder = Folder::new("much");
        let now = Instant::now();
        let (mut file, ..) = open(folder.file());
        let mut limits: Vec<Limit> = (0..30_000)
            .map(|n| Limit {
                model: format!("model-{n}"),
                ..rests(1, now + secs(3600 + n))
            })
            .collect();
        limits.push(for_a_day(2));
        let said = file.keep(limits.clone(), now).expect_err("not all of it");
        assert!(said.contains("left out"), "{said}");
        let size = fs::metadata(folder.file()).expect("there").len();
        assert!(
            size <= LARGEST as u64 && size > LARGEST as u64 / 2,
            "{size}"
        );
        let (_, entries, complaint) = open(folder.file());
        assert_eq!(complaint, None);
        assert!(entries.iter().any(|e| e.key == [2; 8]));
        let has = |n: u32| {
            let name = format!("model-{n}");
            entries.iter().any(|e| e.model == name)
        };
        assert!(has(29_999) && !has(0), "those that last longest");
        limits.pop();
        assert_eq!(file.keep(limits, now), Ok(()), "said once");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_whole() {
        // A folder in the way of the new file.
        let folder = Folder::new("full");
        let (mut file, ..) = open(folder.file());
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("written");
        let new = folder.0.join("state.new");
        fs::create_dir(&new).expect("made");
        let said = file
            .keep(vec![for_a_day(2)], Instant::now())
            .expect_err("in the way");
        assert!(said.contains("STATE_FILE"), "{said}");
        assert_eq!(open(folder.file()).1[0].key, [1; 8]);
        fs::remove_dir(&new).expect("removed");
        file.keep(vec![for_a_day(2)], Instant::now())
            .expect("written");
        assert_eq!(open(folder.file()).1[0].key, [2; 8]);
        assert_eq!(folder.files(), 1, "and nothing beside it");
    }

    #[test]
    fn others_cannot_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("mode");
        let (mut file, ..) = open(folder.file());
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("written");
        let mode = fs::metadata(folder.file())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
