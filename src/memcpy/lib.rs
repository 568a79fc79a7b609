//! `memcpy` for 32-bit ARM: copies eight words with one load and one store, if both ends are aligned to words.
//!
//! A request moves 20 kB of aligned structs. The compilers' own `memcpy` for ARMv6 takes four or eleven instructions a
//! word. Unaligned copies and odd ends go to `memmove`, which Rust's `compiler_builtins` does by words. It is a crate
//! of its own because `no_builtins` holds for a whole crate: without it the compiler could make this code a call of
//! `memcpy`.

#![no_std]
#![no_builtins]
#![cfg(target_arch = "arm")]

/// Bytes that one `ldm` loads and one `stm` stores.
const LINE: usize = 32;

unsafe extern "C" {
    fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8;
}

/// C's `memcpy`.
///
/// # Safety
/// As in C: `n` bytes may be read at `from` and written at `to`, and the two do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if n < LINE || (to as usize | from as usize) & 3 != 0 {
        // SAFETY: the caller's promise.
        return unsafe { memmove(to, from, n) };
    }
    let (mut into, mut out_of) = (to, from);
    // SAFETY: this many whole lines may be read and written. r6, r7 and r11 must not be used.
    unsafe {
        core::arch::asm!(
            "2: ldmia {out_of}!, {{r3, r4, r5, r8, r9, r10, r12, lr}}",
            "subs {lines}, {lines}, #1",
            "stmia {into}!, {{r3, r4, r5, r8, r9, r10, r12, lr}}",
            "bne 2b",
            out_of = inout(reg) out_of,
            into = inout(reg) into,
            lines = inout(reg) n / LINE => _,
            out("r3") _, out("r4") _, out("r5") _, out("r8") _,
            out("r9") _, out("r10") _, out("r12") _, out("lr") _,
            options(nostack),
        );
    }
    if n % LINE != 0 {
        // SAFETY: the caller's promise, for the rest.
        unsafe { memmove(into, out_of, n % LINE) };
    }
    to
}
