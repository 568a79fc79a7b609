//! A connection's buffers: small, until large pieces come, and none that has nothing to do.
//!
//! ureq's own have their full size, all of it zeroed, from the first byte on: 24 kB for a stream whose
//! tokens are some hundred bytes.

use ureq::unversioned::transport::Buffers;

use super::call::CALL;
use super::{INPUT_BUFFER, OUTPUT_BUFFER};

/// What the input begins with: enough for most heads and for any token. Not 2 kB: of that size are the pieces
/// that musl's allocator cuts its small blocks from, and one more that stays makes it map a page for each
/// request.
const SMALL: usize = 3 * 1024;

/// A body does not begin in less room than this behind its head: it would only be slowed down.
const SPARE: usize = 512;

/// See the module's text. The output keeps what is small: ureq sends a request's head and its body
/// one by one, and two writes are two system calls, two packets, two TLS records.
#[derive(Debug, Default)]
pub(super) struct Corked {
    input: Vec<u8>,
    /// Of the input, how much was written and how much of that is done with.
    filled: usize,
    consumed: usize,
    /// The last look at the input used some of it.
    progress: bool,
    output: Vec<u8>,
    /// Bytes at the start of the output that wait for more, or for someone to read the answer.
    held: usize,
}

impl Corked {
    /// Keeps so many bytes more of the output.
    pub(super) fn hold(&mut self, amount: usize) {
        self.held += amount;
    }

    /// Nothing more should be held back.
    pub(super) fn is_full(&self) -> bool {
        self.output.len() - self.held < SPARE
    }

    /// What was held back; no longer.
    pub(super) fn release(&mut self) -> &[u8] {
        &self.output[..std::mem::take(&mut self.held)]
    }

    /// The request is out, and its answer lasts.
    pub(super) fn asked(&mut self) {
        if self.held == 0 {
            self.output = Vec::new();
        }
    }

    /// The answer is in. What is small stays for the next.
    pub(super) fn answered(&mut self) {
        if self.output.len() > SMALL {
            self.asked();
        }
        if self.input.len() > SMALL && self.consumed == self.filled {
            self.input = Vec::new();
            (self.filled, self.consumed) = (0, 0);
        }
    }

    /// Makes room in the input: where a read has filled it, twice as much.
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

    fn reserve_output(&mut self) {
        let (head, all) = CALL.with_borrow(|call| (call.head, call.length));
        // ureq writes a request line as a whole or not at all.
        let size = (all + SPARE).min(OUTPUT_BUFFER).max(head + SPARE);
        if self.output.len() < size && self.held == 0 {
            self.output = vec![0; size];
        }
    }
}

impl Buffers for Corked {
    fn output(&mut self) -> &mut [u8] {
        self.reserve_output();
        &mut self.output[self.held..]
    }
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.reserve_output();
        // The first is for bodies in chunks, which nobody sends here.
        (
            &mut self.input[self.filled..],
            &mut self.output[self.held..],
        )
    }
    fn input(&self) -> &[u8] {
        &self.input[self.consumed..self.filled]
    }
    fn input_append_buf(&mut self) -> &mut [u8] {
        self.make_room();
        &mut self.input[self.filled..]
    }
    fn input_appended(&mut self, amount: usize) {
        self.filled += amount;
    }
    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.consumed += amount;
    }
    fn can_use_input(&self) -> bool {
        self.progress && self.consumed < self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One read of what is there.
    fn read(buffers: &mut Corked, mut from: impl std::io::Read) -> usize {
        let n = from.read(buffers.input_append_buf()).expect("bytes");
        buffers.input_appended(n);
        n
    }

    #[test]
    fn the_input_grows_with_what_fills_it_and_keeps_every_byte() {
        let bytes: Vec<u8> = (0..100_000).map(|n| (n % 251) as u8).collect();
        let (mut from, mut buffers, mut seen) = (bytes.as_slice(), Corked::default(), Vec::new());
        let mut most = 0;
        while !from.is_empty() {
            most = most.max(read(&mut buffers, &mut from));
            // Not all at once, as with a chunk that is not whole.
            let used = buffers.input().len().div_ceil(3);
            seen.extend_from_slice(&buffers.input()[..used]);
            buffers.input_consume(used);
        }
        seen.extend_from_slice(buffers.input());
        assert!(seen == bytes);
        assert!(most > INPUT_BUFFER / 4 && buffers.input.len() == INPUT_BUFFER);
    }

    #[test]
    fn small_pieces_leave_it_small() {
        let mut buffers = Corked::default();
        for _ in 0..100 {
            let n = read(&mut buffers, [7; 700].as_slice());
            buffers.input_consume(n);
        }
        assert_eq!(buffers.input.len(), SMALL);
    }

    #[test]
    fn a_connection_that_rests_holds_no_large_buffer() {
        CALL.with_borrow_mut(|call| call.length = 1 << 20);
        let mut buffers = Corked::default();
        assert_eq!(buffers.output().len(), OUTPUT_BUFFER);
        while buffers.input.len() < INPUT_BUFFER {
            let n = read(&mut buffers, std::io::repeat(1));
            buffers.input_consume(n);
        }
        buffers.answered();
        assert_eq!((buffers.input.len(), buffers.output.len()), (0, 0));
    }

    #[test]
    fn what_is_not_read_yet_stays() {
        let mut buffers = Corked::default();
        while buffers.input.len() <= SMALL {
            read(&mut buffers, std::io::repeat(1));
        }
        buffers.answered();
        assert!(buffers.input().len() > SMALL / 2);
    }
}
