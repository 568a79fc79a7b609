//! `memcpy` for 32-bit ARM: copies eight words a turn, aligned or not.
//!
//! A request moves 20 kB of structs, and an upload is copied twice. The compilers' own `memcpy` for ARMv6 takes four to
//! eleven instructions a word, and more if only one end is aligned. This one uses ARMv6's unaligned loads and stores,
//! which every Linux there allows (see `cross/build`). It is a crate of its own because `no_builtins` holds for a whole
//! crate: without it the compiler could make this code a call of `memcpy`.

#![no_std]
#![no_builtins]
#![cfg(target_arch = "arm")]

const WORD: usize = 4;
/// Bytes that one turn moves.
const LINE: usize = 8 * WORD;

/// C's `memcpy`.
///
/// # Safety
/// As in C: `n` bytes may be read at `from` and written at `to`, and the two do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    let (mut into, mut out_of, mut left) = (to, from, n);
    // SAFETY: no more than `left` bytes are read and written.
    unsafe {
        if left >= LINE + WORD {
            while into as usize % WORD != 0 {
                (into, out_of, left) = one(into, out_of, left);
            }
            (into, out_of) = lines(into, out_of, left / LINE);
            left %= LINE;
        }
        if left >= WORD {
            (into, out_of) = words(into, out_of, left / WORD);
            left %= WORD;
        }
        while left > 0 {
            (into, out_of, left) = one(into, out_of, left);
        }
    }
    to
}

/// Moves one byte.
#[inline(always)]
unsafe fn one(to: *mut u8, from: *const u8, left: usize) -> (*mut u8, *const u8, usize) {
    // SAFETY: the caller's promise.
    unsafe {
        to.write(from.read());
        (to.add(1), from.add(1), left - 1)
    }
}

/// Moves at least one word, aligned or not.
#[inline(always)]
unsafe fn words(to: *mut u8, from: *const u8, words: usize) -> (*mut u8, *const u8) {
    let (mut into, mut out_of) = (to, from);
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "2: ldr {word}, [{out_of}], #4",
            "subs {words}, {words}, #1",
            "str {word}, [{into}], #4",
            "bne 2b",
            out_of = inout(reg) out_of,
            into = inout(reg) into,
            words = inout(reg) words => _,
            word = out(reg) _,
            options(nostack),
        );
    }
    (into, out_of)
}

/// Moves at least one line to an aligned address. r6, r7 and r11 must not be used.
#[inline(always)]
unsafe fn lines(to: *mut u8, from: *const u8, lines: usize) -> (*mut u8, *const u8) {
    let (mut into, mut out_of) = (to, from);
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "tst {out_of}, #3",
            "bne 3f",
            "2: ldmia {out_of}!, {{r3, r4, r5, r8, r9, r10, r12, lr}}",
            "subs {lines}, {lines}, #1",
            "stmia {into}!, {{r3, r4, r5, r8, r9, r10, r12, lr}}",
            "bne 2b",
            "b 4f",
            // `ldm` needs an aligned address, `ldr` does not.
            "3: ldr r3, [{out_of}], #4",
            "ldr r4, [{out_of}], #4",
            "ldr r5, [{out_of}], #4",
            "ldr r8, [{out_of}], #4",
            "ldr r9, [{out_of}], #4",
            "ldr r10, [{out_of}], #4",
            "ldr r12, [{out_of}], #4",
            "ldr lr, [{out_of}], #4",
            "subs {lines}, {lines}, #1",
            "stmia {into}!, {{r3, r4, r5, r8, r9, r10, r12, lr}}",
            "bne 3b",
            "4:",
            out_of = inout(reg) out_of,
            into = inout(reg) into,
            lines = inout(reg) lines => _,
            out("r3") _, out("r4") _, out("r5") _, out("r8") _,
            out("r9") _, out("r10") _, out("r12") _, out("lr") _,
            options(nostack),
        );
    }
    (into, out_of)
}
