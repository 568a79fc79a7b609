//! A connection's input buffer: small until large pieces come, and freed after one while the connection is idle.
//!
//! ureq's own buffers have their full size from the first byte on, all of it zeroed: 24 kB for a stream whose tokens
//! are some hundred bytes. There is no output buffer: a request is sent from where it lies.

use ureq::unversioned::transport::Buffers;

use super::INPUT_BUFFER;
use super::call::CALL;
use super::chunks::Chunks;
use super::fields::take_head;

/// The first size: enough for most heads and for any token. Not 2 kB: musl's allocator cuts its small blocks from
/// pieces of that size, and one more that stays makes it map a page for each request.
const SMALL: usize = 3 * 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    input: Vec<u8>,
    /// How much of the input is filled, and how much of that is used.
    filled: usize,
    consumed: usize,
    /// ureq's last look at the input used some of it.
    progress: bool,
    head: Head,
    chunks: Chunks,
}

/// The state of an answer's head.
#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Head {
    Awaited,
    /// It has come, and ureq must still read this much of it.
    Here(usize),
    #[default]
    Done,
}

impl Buffer {
    /// The request was sent.
    pub(super) fn asked(&mut self) {
        self.head = Head::Awaited;
        self.chunks.begin(false);
    }

    /// The answer was read. A small buffer stays for the next one.
    pub(super) fn answered(&mut self) {
        if self.input.len() > SMALL && self.is_empty() {
            self.input = Vec::new();
            (self.filled, self.consumed) = (0, 0);
        }
    }

    fn is_empty(&self) -> bool {
        self.consumed == self.filled
    }

    /// Makes room in the input: twice as much, if a read has filled it.
    fn make_room(&mut self) {
        let size = self.input.len();
        let left = self.consumed..self.filled;
        if self.filled == size && size < INPUT_BUFFER {
            // Not `resize`: optimised for size, that zeroes byte by byte.
            let mut larger = vec![0; (2 * size).clamp(SMALL, INPUT_BUFFER)];
            larger[..left.len()].copy_from_slice(&self.input[left.clone()]);
            self.input = larger;
        } else if left.is_empty() || self.filled > size / 2 {
            self.input.copy_within(left.clone(), 0);
        } else {
            return;
        }
        (self.consumed, self.filled) = (0, left.len());
    }

    /// Takes the fields out of a head, once it is complete, and skips interim answers.
    fn look_for_head(&mut self) {
        while self.head == Head::Awaited {
            let Some(head) = take_head(&mut self.input[self.consumed..self.filled]) else {
                return;
            };
            if head.is_interim {
                self.consumed += head.end;
                continue;
            }
            self.consumed += head.start;
            self.head = Head::Here(head.end - head.start);
            CALL.with_borrow_mut(|call| call.fields = head.fields);
        }
    }
}

impl Buffers for Buffer {
    /// What ureq writes of a request is thrown away: it knows neither its path nor its fields.
    fn output(&mut self) -> &mut [u8] {
        if self.is_empty() {
            (self.filled, self.consumed) = (0, 0);
            self.make_room();
        }
        &mut self.input[self.filled..]
    }
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut [], self.output()) // for bodies, which bypass ureq too
    }
    fn input(&self) -> &[u8] {
        let shown = self.chunks.shown(self.filled - self.consumed);
        &self.input[self.consumed..][..shown]
    }
    fn input_append_buf(&mut self) -> &mut [u8] {
        self.make_room();
        &mut self.input[self.filled..]
    }
    fn input_appended(&mut self, amount: usize) {
        self.filled += amount;
        self.look_for_head();
        self.chunks.plan(&self.input[self.consumed..self.filled]);
    }
    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.consumed += amount;
        let left = &self.input[self.consumed..self.filled];
        match self.head {
            Head::Here(size) if size > amount => self.head = Head::Here(size - amount),
            Head::Here(_) => {
                self.head = Head::Done;
                self.chunks
                    .begin(CALL.with_borrow(|call| call.is_chunked()));
                self.chunks.plan(left);
            }
            _ => self.chunks.used(amount, left),
        }
    }
    fn can_use_input(&self) -> bool {
        self.progress && !self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One read of what is there.
    fn read(buffer: &mut Buffer, mut from: impl std::io::Read) -> usize {
        let n = from.read(buffer.input_append_buf()).expect("bytes");
        buffer.input_appended(n);
        n
    }

    #[test]
    fn the_input_grows_with_what_fills_it_and_keeps_every_byte() {
        let bytes: Vec<u8> = (0..100_000).map(|n| (n % 251) as u8).collect();
        let (mut from, mut buffer, mut seen) = (bytes.as_slice(), Buffer::default(), Vec::new());
        let mut most = 0;
        while !from.is_empty() {
            most = most.max(read(&mut buffer, &mut from));
            // Not all at once, as with a chunk that is not whole.
            let used = buffer.input().len().div_ceil(3);
            seen.extend_from_slice(&buffer.input()[..used]);
            buffer.input_consume(used);
        }
        seen.extend_from_slice(buffer.input());
        assert!(seen == bytes);
        assert!(most > INPUT_BUFFER / 4 && buffer.input.len() == INPUT_BUFFER);
    }

    #[test]
    fn small_pieces_leave_it_small() {
        let mut buffer = Buffer::default();
        for _ in 0..100 {
            let n = read(&mut buffer, [7; 700].as_slice());
            buffer.input_consume(n);
        }
        assert_eq!(buffer.input.len(), SMALL);
    }

    #[test]
    fn a_connection_that_rests_holds_no_large_buffer() {
        let mut buffer = Buffer::default();
        while buffer.input.len() < INPUT_BUFFER {
            let n = read(&mut buffer, std::io::repeat(1));
            buffer.input_consume(n);
        }
        buffer.answered();
        assert_eq!(buffer.input.len(), 0);
    }

    #[test]
    fn unread_bytes_stay() {
        let mut buffer = Buffer::default();
        while buffer.input.len() <= SMALL {
            read(&mut buffer, std::io::repeat(1));
        }
        buffer.answered();
        assert!(buffer.input().len() > SMALL / 2);
    }

    #[test]
    fn ureq_sees_a_head_without_its_fields_and_no_interim_answer() {
        let mut buffer = Buffer::default();
        buffer.asked();
        read(
            &mut buffer,
            &b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\nX: y"[..],
        );
        assert_eq!(buffer.input(), b"HTTP/1.1 200 OK\r\nX: y");
        buffer.input_consume(0);
        read(
            &mut buffer,
            &b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"[..],
        );
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(buffer.input().starts_with(head));
        buffer.input_consume(head.len());
        assert_eq!(buffer.input(), b"5\r\n");
        let names = CALL.with_borrow(|call| call.fields.iter().count());
        assert_eq!(names, 2, "the interim answer's are not its own");
    }
}
