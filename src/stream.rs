//! Copies a body from the upstream to the client: read a piece, frame it, write it, flush it.
//!
//! Nothing is held back: each piece is sent before the next read. A failed read and a failed write are told apart, as
//! only the first is the upstream's fault. A body that is cut short never gets its terminating chunk.

use std::io::{self, ErrorKind, Read, Write};

use crate::body::lengthen;
use crate::reply::Framing;

/// The most bytes of one read and one write, for large downloads.
const PIECE: usize = 16 * 1024;
/// A body of unknown length begins with this, as a token has some hundred bytes, and gets a whole
/// [`PIECE`] when a read has filled it: 128 streams take 0.5 MB less.
const FIRST_PIECE: usize = 2 * 1024;

/// Room before a piece for its chunk-size line: up to 8 hex digits, CR, LF.
const CHUNK_LINE: usize = 10;

/// How a copy ended.
#[derive(Debug)]
pub enum CopyEnd {
    /// The client has the whole body.
    Done,
    /// A write failed: the client has left.
    ClientLeft,
    /// A read failed or ended early: the client has only a part.
    UpstreamBroke(io::Error),
}

/// How much was copied, and how it ended.
#[derive(Debug)]
pub struct Copied {
    /// Body bytes that reached the client's socket.
    pub bytes: u64,
    /// How it ended.
    pub end: CopyEnd,
}

impl Copied {
    /// The same, `over` if all that matters was sent: many clients close at the end of a message, before that of its
    /// body. They have their whole answer.
    pub fn whole_if(mut self, over: bool) -> Copied {
        if over && matches!(self.end, CopyEnd::ClientLeft) {
            self.end = CopyEnd::Done;
        }
        self
    }
}

/// Copies a whole body to `to`, in `framing`, with a flush after each piece. `head` goes first: with the first piece in
/// one write if the length is stated, else at once. Its memory is used for the pieces.
pub fn copy(from: &mut impl Read, to: &mut dyn Write, head: Vec<u8>, framing: Framing) -> Copied {
    let mut copied = Copied {
        bytes: 0,
        end: CopyEnd::Done,
    };
    if let Err(end) = copy_pieces(from, to, head, framing, &mut copied) {
        copied.end = end;
    }
    copied
}

fn copy_pieces(
    from: &mut impl Read,
    to: &mut dyn Write,
    head: Vec<u8>,
    framing: Framing,
    copied: &mut Copied,
) -> Result<(), CopyEnd> {
    if framing == Framing::None || framing == Framing::Length(0) {
        return send(to, &head);
    }
    // A short body gets only the room that it needs.
    let mut piece = match framing {
        Framing::Length(length) => length.min(PIECE as u64) as usize,
        _ => FIRST_PIECE,
    };
    // An upstream that states a length has its body ready. A stream's head must not wait for the first token.
    let (mut buffer, mut used) = (head, 0);
    if !matches!(framing, Framing::Length(_)) {
        send(to, &buffer)?;
        used = buffer.len().max(CHUNK_LINE);
    }
    let start = used.max(buffer.len());
    lengthen(&mut buffer, start + piece + 2);
    loop {
        let n = match read(from, &mut buffer[start..start + piece]) {
            Ok(n) => n,
            Err(e) => {
                // Send at least the head, so that the client sees a cut body and not a cut head.
                let _ = send(to, &buffer[used..start]);
                return Err(CopyEnd::UpstreamBroke(e));
            }
        };
        if n == 0 {
            return match framing {
                Framing::Length(length) if copied.bytes < length => {
                    let _ = send(to, &buffer[used..start]);
                    Err(CopyEnd::UpstreamBroke(ErrorKind::UnexpectedEof.into()))
                }
                Framing::Chunked => send(to, b"0\r\n\r\n"),
                _ => Ok(()),
            };
        }
        let mut end = start + n;
        if framing == Framing::Chunked {
            used = start - put_chunk_line(&mut buffer[..start], n);
            buffer[end..end + 2].copy_from_slice(b"\r\n");
            end += 2;
        }
        send(to, &buffer[used..end])?;
        used = start;
        copied.bytes += n as u64;
        if n == piece && matches!(framing, Framing::Chunked | Framing::UntilClose) {
            piece = PIECE;
            lengthen(&mut buffer, start + piece + 2);
        }
    }
}

/// One chunk holding `data` (RFC 9112 §7.1).
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
    out
}

/// Writes `n` in hex and CR LF to the end of `space`; returns how many bytes that took.
fn put_chunk_line(space: &mut [u8], mut n: usize) -> usize {
    let mut at = space.len() - 2;
    space[at..].copy_from_slice(b"\r\n");
    while n > 0 {
        at -= 1;
        space[at] = b"0123456789abcdef"[n % 16];
        n /= 16;
    }
    space.len() - at
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn send(to: &mut dyn Write, bytes: &[u8]) -> Result<(), CopyEnd> {
    if bytes.is_empty() {
        return Ok(());
    }
    to.write_all(bytes)
        .and_then(|()| to.flush())
        .map_err(|_| CopyEnd::ClientLeft)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out its pieces one read at a time, then ends or fails.
    struct Pieces(Vec<Result<&'static [u8], ErrorKind>>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0)?;
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    /// Remembers what was written up to each flush; fails after so many flushes.
    #[derive(Default)]
    struct Flushes {
        done: Vec<String>,
        open: Vec<u8>,
        fail_after: Option<usize>,
    }

    impl Write for Flushes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.fail_after == Some(self.done.len()) {
                return Err(ErrorKind::BrokenPipe.into());
            }
            self.open.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            let text = String::from_utf8(std::mem::take(&mut self.open)).expect("text");
            self.done.push(text);
            Ok(())
        }
    }

    fn run(pieces: &[Result<&'static [u8], ErrorKind>], framing: Framing) -> (Vec<String>, Copied) {
        let mut to = Flushes::default();
        let copied = copy(
            &mut Pieces(pieces.to_vec()),
            &mut to,
            b"HEAD\r\n".to_vec(),
            framing,
        );
        assert!(to.open.is_empty(), "everything is flushed");
        (to.done, copied)
    }

    #[test]
    fn a_large_body_of_unknown_length_is_moved_in_larger_pieces() {
        for framing in [Framing::Chunked, Framing::UntilClose] {
            let body: Vec<u8> = (0..5 * PIECE).map(|n| (n % 251) as u8).collect();
            let (mut from, mut to) = (body.as_slice(), Vec::new());
            let copied = copy(&mut from, &mut to, Vec::new(), framing);
            assert_eq!(copied.bytes, body.len() as u64);
            if framing == Framing::Chunked {
                let text = String::from_utf8_lossy(&to);
                assert!(text.starts_with("800\r\n"), "small ones first");
                assert!(to.windows(6).filter(|w| w == b"4000\r\n").count() >= 4);
            } else {
                assert_eq!(to, body);
            }
        }
    }

    #[test]
    fn each_piece_is_flushed_as_a_chunk_of_its_own() {
        let (done, copied) = run(&[Ok(b"one"), Ok(b"twelve-chars")], Framing::Chunked);
        assert_eq!(
            done,
            [
                "HEAD\r\n",
                "3\r\none\r\n",
                "c\r\ntwelve-chars\r\n",
                "0\r\n\r\n"
            ]
        );
        assert!(matches!(copied.end, CopyEnd::Done));
        assert_eq!(copied.bytes, 15);
    }

    #[test]
    fn a_body_of_stated_length_goes_out_with_its_head_in_one_write() {
        let (done, copied) = run(&[Ok(b"all of it")], Framing::Length(9));
        assert_eq!(done, ["HEAD\r\nall of it"]);
        assert!(matches!(copied.end, CopyEnd::Done));
    }

    #[test]
    fn a_body_that_ends_short_of_its_length_is_broken() {
        let (done, copied) = run(&[Ok(b"all")], Framing::Length(9));
        assert_eq!(done[0], "HEAD\r\nall");
        assert!(matches!(copied.end, CopyEnd::UpstreamBroke(_)));
    }

    #[test]
    fn a_broken_stream_gets_no_terminating_chunk() {
        let (done, copied) = run(
            &[Ok(b"one"), Err(ErrorKind::UnexpectedEof)],
            Framing::Chunked,
        );
        assert_eq!(done, ["HEAD\r\n", "3\r\none\r\n"]);
        assert!(matches!(copied.end, CopyEnd::UpstreamBroke(_)));
    }

    #[test]
    fn a_body_that_breaks_before_its_first_byte_still_shows_its_head() {
        let (done, copied) = run(&[Err(ErrorKind::ConnectionReset)], Framing::Length(9));
        assert_eq!(done, ["HEAD\r\n"]);
        assert!(matches!(copied.end, CopyEnd::UpstreamBroke(_)));
    }

    #[test]
    fn an_interrupted_read_is_repeated() {
        let (done, _) = run(
            &[Err(ErrorKind::Interrupted), Ok(b"x")],
            Framing::UntilClose,
        );
        assert_eq!(done, ["HEAD\r\n", "x"]);
    }

    #[test]
    fn a_client_that_left_is_not_the_upstreams_fault() {
        let mut to = Flushes {
            fail_after: Some(2),
            ..Flushes::default()
        };
        let mut from = Pieces(vec![Ok(b"one"), Ok(b"two"), Ok(b"three")]);
        let copied = copy(&mut from, &mut to, b"HEAD\r\n".to_vec(), Framing::Chunked);
        assert!(matches!(copied.end, CopyEnd::ClientLeft));
        assert_eq!(from.0.len(), 1, "the upstream is read no further");
        assert_eq!(copied.bytes, 3);
    }

    #[test]
    fn an_answer_without_a_body_is_its_head() {
        assert_eq!(run(&[Ok(b"ignored")], Framing::None).0, ["HEAD\r\n"]);
        assert_eq!(run(&[Ok(b"ignored")], Framing::Length(0)).0, ["HEAD\r\n"]);
    }

    #[test]
    fn chunk_lines_are_hexadecimal() {
        for (n, expected) in [
            (1, "1\r\n"),
            (15, "f\r\n"),
            (16, "10\r\n"),
            (PIECE, "4000\r\n"),
        ] {
            let mut space = [0; CHUNK_LINE];
            let used = put_chunk_line(&mut space, n);
            assert_eq!(&space[CHUNK_LINE - used..], expected.as_bytes());
        }
        assert_eq!(chunk(b"ab"), b"2\r\nab\r\n");
    }
}
