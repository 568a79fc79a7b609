//! The file of [`crate::state`]: read once at the start, written when something changed.
//!
//! Made for SD cards: nothing is written while nothing changes, a rest too short to outlive the
//! next occasion is not worth a write, and one that ends by itself is no change. A write goes to a
//! new file, is synced, and takes the old one's place, so that a power cut leaves one of the two.
//! Who calls decides when: [`EVERY`], and at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{Entry, Limit, Unreadable, from_text, to_text};
use crate::secret::SALT;

/// How often there is an occasion to write, and the shortest rest worth it.
pub const EVERY: Duration = Duration::from_secs(30);

/// No file of ours is larger: some thousand entries.
const LARGEST: u64 = 1024 * 1024;

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
    /// The last write failed, and that was said.
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
        let text = match read {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return (file, Vec::new(), None),
            Err(e) => {
                file.foreign = true;
                let text = format!("cannot read {shown} (STATE_FILE): {e}; nothing is kept there");
                return (file, Vec::new(), Some(text));
            }
        };
        match from_text(&text, clock) {
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
        let entries: Vec<Entry> = limits
            .iter()
            .map(|limit| Entry {
                key: limit.key,
                model: limit.model.clone(),
                left: limit.until.saturating_duration_since(now),
            })
            .collect();
        match replace(&self.path, &to_text(&self.salt, &entries, clock())) {
            Ok(()) => {
                self.written = limits;
                self.failing = false;
                Ok(())
            }
            Err(_) if self.failing => Ok(()),
            Err(e) => {
                self.failing = true;
                let shown = self.path.display();
                Err(format!(
                    "cannot write {shown} (STATE_FILE): {e}; alvus goes on without, and tries again"
                ))
            }
        }
    }
}

/// Whether `now` there is something to keep that the file does not say, or the reverse.
fn is_news(written: &[Limit], limits: &[Limit], now: Instant) -> bool {
    let lasts = |limit: &&Limit| limit.until > now + EVERY;
    let mut new = limits.iter().filter(lasts);
    let mut old = written.iter().filter(lasts);
    new.any(|limit| !written.contains(limit)) || old.any(|limit| !limits.contains(limit))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Puts a new file in the place of the old one; all of it, or nothing.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
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
    fn a_full_disk_leaves_the_old_file_whole() {
        // /dev/full takes no byte: the new file's name leads there.
        let folder = Folder::new("full");
        let (mut file, ..) = open(folder.file());
        file.keep(vec![for_a_day(1)], Instant::now())
            .expect("written");
        let new = folder.0.join("state.new");
        std::os::unix::fs::symlink("/dev/full", &new).expect("linked");
        let said = file
            .keep(vec![for_a_day(2)], Instant::now())
            .expect_err("full");
        assert!(said.contains("No space left"), "{said}");
        assert_eq!(open(folder.file()).1[0].key, [1; 8]);
        assert_eq!(folder.files(), 1, "and nothing beside it");
        file.keep(vec![for_a_day(2)], Instant::now())
            .expect("written");
        assert_eq!(open(folder.file()).1[0].key, [2; 8]);
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
