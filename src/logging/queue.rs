//! The queue of lines for standard error, and the one thread that writes them.
//!
//! Other threads leave their lines here and go on. So a stopped terminal, a pipe whose reader hangs, or a lost disk
//! holds up this thread only. Lines that find no room are counted, and the count is logged when there is room again.
//! Before [`detach`], as in `alvus check`, each thread writes its lines itself.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Stat, fstat};

use super::{LogLevel, formed};

/// How many bytes of lines may wait, besides those being written.
const ROOM: usize = 32 * 1024;
/// The most bytes of one `write(2)`, of whole lines: a pipe takes as many in one piece (`PIPE_BUF`), so that no other
/// process's lines get in between.
const PIECE: usize = 4096;
/// Stack of the thread; a tenth of it is used.
const STACK: usize = 64 * 1024;
/// How many lines are written in a second; errors and warnings have the same limit for themselves. An SD card bears
/// that for weeks, and nobody reads more.
const BURST: u32 = 100;
/// The last second of the year 9999. A clock beyond it, which is broken, stands still in the log.
const LAST_SECOND: u64 = 253_402_300_799;

/// The kinds of lines; each has a limit of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum LineKind {
    /// A request, as named values.
    Values,
    /// Anything else.
    Message,
    /// A line without a limit.
    Unlimited,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    text: String::new(),
    lost: 0,
    limits: [LineRate::NONE; 3],
    thread: Thread::None,
    closing: false,
});
/// Signalled when there is something to write.
static NEWS: Condvar = Condvar::new();
/// Signalled when all is written.
static WRITTEN: Condvar = Condvar::new();
static JOURNAL: OnceLock<bool> = OnceLock::new();
static TIMED: OnceLock<bool> = OnceLock::new();
static STARTED: OnceLock<Instant> = OnceLock::new();

#[derive(PartialEq)]
enum Thread {
    None,
    Waits,
    Writes,
}

struct Queue {
    /// Whole lines.
    text: String,
    /// Lines that found no room, or could not be written.
    lost: u32,
    /// For requests, for errors and warnings, and for the rest.
    limits: [LineRate; 3],
    thread: Thread,
    /// The process ends.
    closing: bool,
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on nobody waits for a line to be written. Without a thread for it all stays as it was.
pub fn detach() {
    let mut queue = queue(); // the thread waits for this lock
    if thread::Builder::new()
        .stack_size(STACK)
        .spawn(write)
        .is_ok()
    {
        queue.thread = Thread::Writes;
        // The standard library's own message about a panic would wait for standard error.
        std::panic::set_hook(Box::new(|panic| crate::error!("{panic}")));
    }
}

/// Waits until all is written, but no longer than `patience`: nobody may be reading.
pub fn finish(patience: Duration) {
    let mut queue = queue();
    if queue.thread == Thread::None {
        return;
    }
    queue.closing = true;
    NEWS.notify_one();
    let busy = |queue: &mut Queue| {
        queue.thread == Thread::Writes || !queue.text.is_empty() || queue.counts()
    };
    let waited = WRITTEN.wait_timeout_while(queue, patience, busy);
    drop(waited.unwrap_or_else(PoisonError::into_inner));
}

/// Queues a text of one or more lines.
pub(super) fn put(level: LogLevel, kind: LineKind, text: &str) {
    // A storm of requests must not hide that a key rests, or a reload.
    let which = match kind {
        LineKind::Values => Some(0),
        LineKind::Message => Some(1 + usize::from(level > LogLevel::Warn)),
        LineKind::Unlimited => None,
    };
    let mut queue = queue();
    if queue.thread == Thread::None {
        queue.push(level, text);
        let text = std::mem::take(&mut queue.text);
        drop(queue);
        emit(&text);
        return;
    }
    let knows = queue.counts();
    if !which.is_none_or(|which| queue.limits[which].admits(second())) {
        if knows {
            return; // the thread logs later that lines were left out
        }
    } else if !queue.push(level, &stamped(kind, text)) {
        queue.lost = queue.lost.saturating_add(1);
    }
    if queue.thread == Thread::Waits {
        queue.thread = Thread::Writes;
        NEWS.notify_one();
    }
}

/// The thread's loop.
fn write() {
    let mut text = String::new();
    let mut queue = queue();
    loop {
        queue.tell_counts(second());
        if queue.text.is_empty() {
            queue.thread = Thread::Waits;
            WRITTEN.notify_all();
            queue = match queue.counts() {
                false => NEWS.wait(queue).unwrap_or_else(PoisonError::into_inner),
                true => {
                    let waited = NEWS.wait_timeout(queue, Duration::from_secs(1));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            continue;
        }
        queue.thread = Thread::Writes;
        std::mem::swap(&mut text, &mut queue.text);
        drop(queue);
        let lost = emit(&text);
        text.clear();
        queue = self::queue();
        queue.lost = queue.lost.saturating_add(lost);
        if lost == 0 {
            queue.tell_losses();
        }
    }
}

impl Queue {
    /// Adds whole lines, if there is room.
    fn push(&mut self, level: LogLevel, text: &str) -> bool {
        let journal = *JOURNAL.get_or_init(stderr_is_the_journal);
        let lines = 1 + text.bytes().filter(|b| *b == b'\n').count();
        let priority = if journal { level.priority() } else { "" };
        if self.text.len() + text.len() + lines * (priority.len() + 1) > ROOM {
            return false;
        }
        for line in text.split('\n') {
            self.text.push_str(priority);
            self.text.push_str(line);
            self.text.push('\n');
        }
        true
    }

    /// Whether lines were left out and not reported yet.
    fn counts(&self) -> bool {
        self.limits.iter().any(|limit| limit.suppressed > 0)
    }

    /// Logs how many lines were left out in a second that is over.
    fn tell_counts(&mut self, second: u64) {
        for which in 0..self.limits.len() {
            let LineRate {
                suppressed, since, ..
            } = self.limits[which];
            if suppressed == 0 || (since == second && !self.closing) {
                continue;
            }
            let text =
                format!("{suppressed} lines suppressed: there were more than {BURST} in a second");
            if self.warn(&text) || self.closing {
                self.limits[which].suppressed = 0;
            }
        }
    }

    /// Logs how many lines were lost, once lines can be written again.
    fn tell_losses(&mut self) {
        if self.lost == 0 {
            return;
        }
        let text = format!(
            "{} lines of the log were lost: standard error did not take them in time",
            self.lost
        );
        if self.warn(&text) {
            self.lost = 0;
        }
    }

    /// Adds a warning of its own, if there is room.
    fn warn(&mut self, text: &str) -> bool {
        let line = formed(LogLevel::Warn, text);
        self.push(LogLevel::Warn, &stamped(LineKind::Message, &line))
    }
}

/// Writes whole lines to standard error, in pieces. Returns how many could not be written: a full disk,
/// a closed pipe.
fn emit(text: &str) -> u32 {
    emit_to(&mut std::io::stderr(), text)
}

fn emit_to(out: &mut (impl Write + AsFd), mut text: &str) -> u32 {
    let mut lost = 0;
    while !text.is_empty() {
        let within = &text.as_bytes()[..text.len().min(PIECE)];
        let end = match within.iter().rposition(|b| *b == b'\n') {
            Some(at) => at + 1,
            None => text.find('\n').map_or(text.len(), |at| at + 1), // a line longer than a piece
        };
        let (piece, rest) = text.split_at(end);
        if !emit_piece(out, piece.as_bytes()) {
            let lines = piece.bytes().filter(|b| *b == b'\n').count();
            lost += u32::try_from(lines).unwrap_or(u32::MAX);
        }
        text = rest;
    }
    lost
}

fn emit_piece(out: &mut (impl Write + AsFd), mut piece: &[u8]) -> bool {
    while !piece.is_empty() {
        match out.write(piece) {
            Ok(0) => return false,
            Ok(n) => piece = &piece[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // Another process that shares standard error made it non-blocking.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut ready = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::OUT)];
                let _ = poll(&mut ready, None);
            }
            Err(_) => return false,
        }
    }
    true
}

/// Seconds since the first line.
fn second() -> u64 {
    STARTED.get_or_init(Instant::now).elapsed().as_secs()
}

/// The line with the time before it, on a terminal and in a file, where nobody else adds it. The banner has none.
fn stamped(kind: LineKind, text: &str) -> Cow<'_, str> {
    if matches!(kind, LineKind::Unlimited) || !*TIMED.get_or_init(stderr_is_read_as_it_is) {
        return text.into();
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = time(now.map_or(0, |since| since.as_secs()));
    match text.strip_prefix('{') {
        Some(rest) => format!("{{\"time\":\"{now}\",{rest}").into(),
        None => format!("{now} {text}").into(),
    }
}

/// Seconds since 1970 as `2026-11-26T03:31:28Z`.
fn time(seconds: u64) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // `Thu, 26 Nov 2026 03:31:28 GMT`
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
    let date = httpdate::fmt_http_date(at);
    let (day, year, clock) = (&date[5..7], &date[12..16], &date[17..25]);
    let month = MONTHS.find(&date[8..11]).unwrap_or_default() / 3 + 1;
    format!("{year}-{month:02}-{day}T{clock}Z")
}

/// Whether standard error is a terminal or a file, so that nobody adds times.
fn stderr_is_read_as_it_is() -> bool {
    let stderr = std::io::stderr();
    let kind = fstat(&stderr).map(|file| FileType::from_raw_mode(file.st_mode));
    stderr.is_terminal() || kind.is_ok_and(FileType::is_file)
}

/// Whether standard error is the journal: systemd names it in `JOURNAL_STREAM`, as `device:inode`.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let is_it = |file: Stat| stream == format!("{}:{}", file.st_dev, file.st_ino);
    !stream.is_empty() && fstat(std::io::stderr()).is_ok_and(is_it)
}

/// How many lines were written in the current second, and how many were not.
#[derive(Debug, Clone, Copy)]
struct LineRate {
    second: u64,
    written: u32,
    suppressed: u32,
    /// The second in which the first line was left out.
    since: u64,
}

impl LineRate {
    const NONE: LineRate = LineRate {
        second: 0,
        written: 0,
        suppressed: 0,
        since: 0,
    };

    /// Whether a line may be written in this second. If not, it is counted.
    fn admits(&mut self, second: u64) -> bool {
        if second != self.second {
            self.second = second;
            self.written = 0;
        }
        let admits = self.written < BURST;
        if admits {
            self.written += 1;
            return true;
        }
        if self.suppressed == 0 {
            self.since = second;
        }
        self.suppressed = self.suppressed.saturating_add(1);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_time_is_that_of_the_civil_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_663_888, "2026-11-26T03:31:28Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    fn empty() -> Queue {
        Queue {
            text: String::new(),
            lost: 0,
            limits: [LineRate::NONE; 3],
            thread: Thread::Writes,
            closing: false,
        }
    }

    #[test]
    fn a_second_holds_so_many_lines_and_the_next_as_many_again() {
        let mut limit = LineRate::NONE;
        for second in [0, 1, 7] {
            let written = (0..BURST + 5).filter(|_| limit.admits(second)).count();
            assert_eq!(written, BURST as usize, "second {second}");
        }
        assert_eq!((limit.suppressed, limit.since), (15, 0));
    }

    #[test]
    fn left_out_lines_are_reported_when_their_second_is_over_or_alvus_ends() {
        let mut queue = empty();
        let storm =
            |queue: &mut Queue| (0..BURST + 3).filter(|_| queue.limits[0].admits(4)).count();
        storm(&mut queue);
        queue.tell_counts(4);
        assert_eq!((queue.text.as_str(), queue.counts()), ("", true));
        queue.tell_counts(5);
        assert!(queue.text.contains("3 lines suppressed"), "{}", queue.text);
        assert!(!queue.counts());
        storm(&mut queue);
        queue.closing = true;
        queue.tell_counts(4);
        assert!(
            queue.text.contains("103 lines suppressed"),
            "{}",
            queue.text
        );
    }

    #[test]
    fn a_queue_takes_so_much_and_no_more_and_tells_what_it_lost() {
        let mut queue = empty();
        let line = "x".repeat(1023);
        let taken = (0..100)
            .filter(|_| queue.push(LogLevel::Info, &line))
            .count();
        assert_eq!(taken, ROOM / 1024);
        assert!(queue.text.len() == ROOM && queue.text.ends_with("x\n"));
        queue.lost = 7;
        queue.tell_losses();
        assert_eq!(queue.lost, 7, "there is no room to say so");
        queue.text.clear();
        queue.tell_losses();
        assert!(
            queue.text.contains("7 lines of the log were lost"),
            "{}",
            queue.text
        );
        assert_eq!(queue.lost, 0);
    }

    #[test]
    fn a_line_that_is_no_longer_than_a_piece_is_written_in_one() {
        struct Pieces(Vec<usize>, File);
        impl Write for Pieces {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        impl AsFd for Pieces {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.1.as_fd()
            }
        }
        let mut out = Pieces(Vec::new(), File::open("/dev/null").expect("there is one"));
        let text = [3000, 1000, 1000, 5000, 10]
            .map(|n| "x".repeat(n) + "\n")
            .concat();
        assert_eq!(emit_to(&mut out, &text), 0);
        assert_eq!(out.0, [4002, 1001, 5001, 11]);
    }
}
