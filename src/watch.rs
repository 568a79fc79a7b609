//! The files the configuration comes from, `.env` and perhaps one with the keys: reads them, and notices edits.
//!
//! [`EnvFile::news`] is one look: one `stat(2)`, which follows symbolic links. It is asked about
//! once a second by the main thread, which has nothing else to do. Why not inotify: it watches
//! names in one directory, so a chain of links (how Kubernetes and stow swap files) would need a
//! watch for each directory on the way, renewed after each swap, and it says nothing about NFS,
//! FUSE or overlay mounts that change from below. A look costs about 2 µs a second on a PC, some
//! 20 µs on a Pi Zero. Where there is no file, nobody looks.
//!
//! Nothing here parses or judges: what a file says is [`crate::config`]'s business.

use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks. With [`SETTLE`] after it, an edit is at work within 1.5 s.
const LOOK: Duration = Duration::from_secs(1);

/// A file that just changed is read when it has stayed the same for so long: an editor that writes
/// in place empties it first.
const SETTLE: Duration = Duration::from_millis(500);

/// A larger file is none of ours: ten thousand keys take less than one of these MiB.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What tells one state of a file from another without reading it. Inode and device for a file
/// that was put in its place, times and size for one written in place; `ctime` cannot be set back.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Stamp {
    dev: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    /// `None`: it is not there, or cannot be reached.
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

/// The text of the file; `None` if there need not be one, and is none.
pub type Text = io::Result<Option<String>>;

/// `.env`, or the file that `--env-file` names.
#[derive(Debug)]
pub struct EnvFile {
    path: PathBuf,
    /// The operator named it, so it must be there.
    named: bool,
    /// There was a file when it was last read, so it is worth looking at.
    watched: bool,
    /// As it was last looked at.
    seen: Option<Stamp>,
    /// As it was when it was last read.
    read: Option<Stamp>,
    /// Of what was read last, or of why it could not be.
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

    /// What messages call it.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether others on this machine can read it, keys and all. What systemd and Docker put into `/run` has the mode
    /// that they give it.
    fn is_open_to_others(&self) -> bool {
        let open = |m: Metadata| m.permissions().mode() & 0o077 != 0;
        !self.path.starts_with("/run") && fs::metadata(&self.path).is_ok_and(open)
    }

    /// Reads it as it is.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file, is too large, is not UTF-8, or was named and is not
    /// there.
    pub fn read(&mut self) -> Text {
        // First the stamp: an edit while reading is seen by the next look.
        self.seen = Stamp::of(&self.path);
        self.read = self.seen;
        let text = match read_regular(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound && !self.named => Ok(None),
            Err(e) => Err(e),
        };
        // A file that went away may come back; one that was never there is not waited for.
        self.watched |= matches!(text, Ok(Some(_)));
        self.fingerprint = fingerprint(&text);
        text
    }

    /// How long to wait before the next look; `None`: there is nothing to look at.
    pub fn pause(&self) -> Option<Duration> {
        let settled = self.seen == self.read;
        self.watched.then_some(if settled { LOOK } else { SETTLE })
    }

    /// Looks, and reads the file once it has changed and come to rest. `None`: nothing new, which
    /// is also so when it was written again with the same content.
    pub fn news(&mut self) -> Option<Text> {
        if !self.came_to_rest(Stamp::of(&self.path)) {
            return None;
        }
        let before = self.fingerprint;
        let text = self.again();
        (self.fingerprint != before).then_some(text)
    }

    /// At start it need not be there; going away later is no wish to run without it.
    fn again(&mut self) -> Text {
        match self.read() {
            Ok(None) if self.watched => Err(ErrorKind::NotFound.into()),
            text => text,
        }
    }

    /// Whether it differs from what was read, but not from what was seen the last time.
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
    /// The one that `API_KEYS_FILE` names.
    keys: Option<EnvFile>,
}

impl Files {
    /// The first one as in [`EnvFile::new`].
    pub fn new(named: Option<PathBuf>) -> Files {
        let env = EnvFile::new(named);
        Files { env, keys: None }
    }

    /// Reads the file with the keys, which is looked at from now on.
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

    /// There is no file with keys, or no longer.
    pub fn forget_keys(&mut self) {
        self.keys = None;
    }

    fn all(&self) -> impl Iterator<Item = &EnvFile> {
        [Some(&self.env), self.keys.as_ref()].into_iter().flatten()
    }

    /// The names of those that others on this machine can read.
    pub fn open_to_others(&self) -> Vec<String> {
        let open = self.all().filter(|file| file.is_open_to_others());
        open.map(EnvFile::shown).collect()
    }

    /// How long to wait before the next look, as [`EnvFile::pause`].
    pub fn pause(&self) -> Option<Duration> {
        self.all().filter_map(EnvFile::pause).min()
    }

    /// The text of `.env`, if that or the keys have changed, as [`EnvFile::news`].
    pub fn news(&mut self) -> Option<Text> {
        let keys_changed = self.keys.as_mut().is_some_and(|file| file.news().is_some());
        match self.env.news() {
            None if keys_changed => Some(self.env.again()),
            news => news,
        }
    }
}

/// The text of a file that can be read to its end, and again: one that ends when somebody feels like it (a
/// pipe, a terminal) would keep alvus from starting, or from ever looking at anything else.
fn read_regular(path: &Path) -> io::Result<String> {
    let refuse = |words: String| Err(io::Error::new(ErrorKind::InvalidInput, words));
    // Before it is opened: that alone waits where it is a pipe.
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

/// Tells contents apart; the content itself (keys!) is not kept for that.
fn fingerprint(text: &Text) -> u64 {
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
