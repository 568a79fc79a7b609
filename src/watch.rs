//! Reads the files of the configuration, `.env` and perhaps one with keys, and notices edits.
//!
//! [`EnvFile::news`] is one `stat(2)`, which follows symbolic links. The main thread, which has nothing else to do,
//! calls it about once a second. Not inotify: that watches names in one directory, so that a chain of links (as
//! Kubernetes and stow swap files) would need a watch for each directory; and it does not see changes below NFS, FUSE
//! or overlay mounts. A look costs 2 µs on a PC and 20 µs on a Pi Zero. If there is no file, nothing is watched.
//!
//! [`crate::config`] parses the text.

use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks. With [`SETTLE`] after it, an edit takes effect within 1.5 s.
const LOOK: Duration = Duration::from_secs(1);

/// A changed file is read once it has stayed the same for this long: an editor that writes in place empties it first.
const SETTLE: Duration = Duration::from_millis(500);

/// A larger file is not a configuration: ten thousand keys take less than 1 MiB.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Tells two states of a file apart without reading it. Inode and device show a file that was
/// replaced, times and size one written in place; `ctime` cannot be set back.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Stamp {
    dev: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    /// `None`: the file is not there, or cannot be reached.
    fn of(path: &Path) -> Option<Stamp> {
        fs::metadata(path).ok().map(|m: Metadata| Stamp {
            dev: m.dev(),
            inode: m.ino(),
            size: m.size(),
            mtime: (m.mtime(), m.mtime_nsec()),
            ctime: (m.ctime(), m.ctime_nsec()),
        })
    }
}

/// The text of the file; `None`: there is none, and none is needed.
pub type FileText = io::Result<Option<String>>;

/// `.env`, or the file that `--env-file` names.
#[derive(Debug)]
pub struct EnvFile {
    path: PathBuf,
    /// The operator named it, so it must be there.
    named: bool,
    /// There was a file once, so it is watched.
    watched: bool,
    /// Its state at the last look.
    seen: Option<Stamp>,
    /// Its state when it was last read.
    read: Option<Stamp>,
    /// A hash of the last text, or of the last error.
    fingerprint: u64,
}

impl EnvFile {
    /// The file at this path, or `.env` in the working directory; not opened yet.
    pub fn new(named: Option<PathBuf>) -> EnvFile {
        EnvFile {
            named: named.is_some(),
            watched: named.is_some(),
            path: named.unwrap_or_else(|| PathBuf::from(".env")),
            seen: None,
            read: None,
            fingerprint: 0,
        }
    }

    /// Its name in messages.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether others on this machine can read it. Files in `/run` have the mode that systemd or Docker gives them, and
    /// do not count.
    fn is_open_to_others(&self) -> bool {
        let open = |m: Metadata| m.permissions().mode() & 0o077 != 0;
        !self.path.starts_with("/run") && fs::metadata(&self.path).is_ok_and(open)
    }

    /// Reads it as it is.
    ///
    /// # Errors
    /// When it cannot be read, is not a regular file, is too large, is not UTF-8, or was named and is missing.
    pub fn read(&mut self) -> FileText {
        // First the stamp, so that the next look sees an edit during the read.
        self.seen = Stamp::of(&self.path);
        self.read = self.seen;
        let text = match read_regular(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound && !self.named => Ok(None),
            Err(e) => Err(e),
        };
        // A file that went away may come back. One that was never there is not watched.
        self.watched |= matches!(text, Ok(Some(_)));
        self.fingerprint = fingerprint(&text);
        text
    }

    /// How long to wait before the next look; `None`: nothing is watched.
    pub fn pause(&self) -> Option<Duration> {
        let settled = self.seen == self.read;
        self.watched.then_some(if settled { LOOK } else { SETTLE })
    }

    /// Looks, and reads the file once it has changed and come to rest. `None`: nothing new, or the
    /// same content again.
    pub fn news(&mut self) -> Option<FileText> {
        if !self.came_to_rest(Stamp::of(&self.path)) {
            return None;
        }
        let before = self.fingerprint;
        let text = self.again();
        (self.fingerprint != before).then_some(text)
    }

    /// Reads it again. At the start it may be missing; a file that goes away later is an error.
    fn again(&mut self) -> FileText {
        match self.read() {
            Ok(None) if self.watched => Err(ErrorKind::NotFound.into()),
            text => text,
        }
    }

    /// Whether it differs from what was read, but no longer from the last look.
    fn came_to_rest(&mut self, stamp: Option<Stamp>) -> bool {
        let rests = stamp == self.seen;
        self.seen = stamp;
        rests && stamp != self.read
    }
}

/// All files that a configuration comes from.
#[derive(Debug)]
pub struct Files {
    /// `.env`, or the file that `--env-file` names.
    pub env: EnvFile,
    /// The file that `API_KEYS_FILE` names.
    keys: Option<EnvFile>,
}

impl Files {
    /// `named`: as in [`EnvFile::new`].
    pub fn new(named: Option<PathBuf>) -> Files {
        let env = EnvFile::new(named);
        Files { env, keys: None }
    }

    /// Reads the file with the keys, and watches it from now on.
    ///
    /// # Errors
    /// As [`EnvFile::read`].
    pub fn read_keys(&mut self, path: &Path) -> io::Result<String> {
        if self.keys.as_ref().is_none_or(|file| file.path != path) {
            self.keys = Some(EnvFile::new(Some(path.to_owned())));
        }
        let text = self.keys.as_mut().map(EnvFile::read).transpose()?;
        text.flatten().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// There is no file with keys any more.
    pub fn forget_keys(&mut self) {
        self.keys = None;
    }

    fn all(&self) -> impl Iterator<Item = &EnvFile> {
        [Some(&self.env), self.keys.as_ref()].into_iter().flatten()
    }

    /// The names of the files that others on this machine can read.
    pub fn open_to_others(&self) -> Vec<String> {
        let open = self.all().filter(|file| file.is_open_to_others());
        open.map(EnvFile::shown).collect()
    }

    /// How long to wait before the next look; see [`EnvFile::pause`].
    pub fn pause(&self) -> Option<Duration> {
        self.all().filter_map(EnvFile::pause).min()
    }

    /// The text of `.env`, if that or the keys have changed; see [`EnvFile::news`].
    pub fn news(&mut self) -> Option<FileText> {
        let keys_changed = self.keys.as_mut().is_some_and(|file| file.news().is_some());
        match self.env.news() {
            None if keys_changed => Some(self.env.again()),
            news => news,
        }
    }
}

/// Reads a regular file. A pipe or a terminal would hold alvus up, at the start or at a later look.
fn read_regular(path: &Path) -> io::Result<String> {
    let refuse = |words: String| Err(io::Error::new(ErrorKind::InvalidInput, words));
    // Before the open, as that alone waits if it is a pipe.
    let kind = fs::metadata(path)?.file_type();
    let what = match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a directory"),
        _ if kind.is_fifo() => Some("a named pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    };
    if let Some(what) = what {
        return refuse(format!("it is {what}, expected a regular file"));
    }
    let mut text = String::new();
    File::open(path)?
        .take(LARGEST + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return refuse(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    Ok(text)
}

/// A hash of the text, so that the keys in it need not be kept.
fn fingerprint(text: &FileText) -> u64 {
    let mut hasher = DefaultHasher::new();
    match text {
        Ok(text) => text.hash(&mut hasher),
        Err(e) => e.kind().hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(size: u64) -> Option<Stamp> {
        Some(Stamp {
            dev: 1,
            inode: 1,
            size,
            mtime: (0, 0),
            ctime: (0, 0),
        })
    }

    #[test]
    fn a_change_counts_once_it_is_seen_twice_and_only_once() {
        let mut file = EnvFile::new(None);
        (file.seen, file.read, file.watched) = (stamp(1), stamp(1), true);
        for (now, rests, pause) in [
            (stamp(1), false, LOOK),   // as it was
            (stamp(0), false, SETTLE), // emptied
            (stamp(7), false, SETTLE), // half written
            (stamp(9), false, SETTLE), // written
            (stamp(9), true, SETTLE),
            (None, false, SETTLE), // gone
            (None, true, SETTLE),
            (stamp(1), false, LOOK), // back, as if nothing had been
            (stamp(1), false, LOOK),
        ] {
            assert_eq!(file.came_to_rest(now), rests, "{now:?}");
            assert_eq!(file.pause(), Some(pause), "{now:?}");
        }
    }

    #[test]
    fn where_there_is_no_file_nobody_looks() {
        let mut file = EnvFile::new(None);
        file.path = "/nowhere/.env".into();
        assert!(matches!(file.read(), Ok(None)));
        assert_eq!(file.pause(), None);
    }

    #[test]
    fn an_edit_takes_less_than_two_seconds() {
        assert!(LOOK + SETTLE < Duration::from_secs(2));
    }
}
