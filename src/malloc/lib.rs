//! An allocator that keeps freed memory with its thread, in front of the system's allocator.
//!
//! musl's `malloc` has one lock, and threads that meet there go through the kernel. A request allocates and frees the
//! same few sizes over and over; here its thread finds them again. A thread keeps [`KEPT`] bytes at most, and gives
//! them back when it ends. It has `unsafe` code, like `src/memcpy`: an allocator needs it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// The most bytes that a thread keeps.
pub const KEPT: usize = 12 * 1024;

/// The sizes that are kept, in steps of 16 bytes: those that musl hands out anyway, so that rounding up wastes nothing.
/// musl uses [`OWN`] bytes of each itself.
const SIZES: [u8; 27] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127, 146,
    170, 204,
];
const STEP: usize = 16;
const OWN: usize = 4;
const LARGEST: usize = SIZES[SIZES.len() - 1] as usize * STEP - OWN;

/// For each number of steps its class: an index into [`SIZES`].
const CLASSES: [u8; SIZES[SIZES.len() - 1] as usize + 1] = {
    let mut classes = [0; _];
    let (mut steps, mut class) = (0, 0);
    while steps < classes.len() {
        if steps > SIZES[class] as usize {
            class += 1;
        }
        classes[steps] = class as u8;
        steps += 1;
    }
    classes
};

/// What pieces are aligned to. On x86 the tables of a hash map ask for 16 (hashbrown looks at that many bytes at once).
const ALIGN: usize = match cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
    true => 16,
    false => SMALL_ALIGN,
};
/// What pieces smaller than that are aligned to.
const SMALL_ALIGN: usize = 8;

/// The class of a layout; `None`: it is not kept.
#[inline(always)] // every allocation asks
fn class_of(size: usize, align: usize) -> Option<usize> {
    let odd = align > SMALL_ALIGN && (align > ALIGN || size < ALIGN);
    if size > LARGEST || odd {
        return None;
    }
    Some(CLASSES[(size + OWN).div_ceil(STEP)] as usize)
}

/// The layout of every piece of a class.
fn layout_of(class: usize) -> Layout {
    let size = SIZES[class] as usize * STEP - OWN;
    let align = if size < ALIGN { SMALL_ALIGN } else { ALIGN };
    // SAFETY: both are powers of two, and no size is near isize::MAX.
    unsafe { Layout::from_size_align_unchecked(size, align) }
}

/// A kept piece; its first bytes say where the next one of its class is.
struct Piece {
    next: *mut Piece,
}

struct Cache {
    first: [Cell<*mut Piece>; SIZES.len()],
    kept: Cell<usize>,
}

thread_local! {
    static CACHE: Cache = const {
        Cache {
            first: [const { Cell::new(null_mut()) }; SIZES.len()],
            kept: Cell::new(0),
        }
    };
}

impl Cache {
    /// A kept piece of this class; null if there is none.
    fn take(&self, class: usize) -> *mut u8 {
        let piece = self.first[class].get();
        if !piece.is_null() {
            // SAFETY: what is in a list was put there by `keep`, and nobody else knows of it.
            self.first[class].set(unsafe { (*piece).next });
            self.kept.set(self.kept.get() - layout_of(class).size());
        }
        piece.cast()
    }

    /// Keeps a piece. If that would be too much, all others are freed first, so that the cache follows what is used.
    ///
    /// # Safety
    /// It is a piece of this class from [`System`], and nobody uses it any more.
    unsafe fn keep(&self, piece: *mut u8, class: usize) {
        let size = layout_of(class).size();
        if self.kept.get() + size > KEPT {
            self.give_back();
        }
        let piece: *mut Piece = piece.cast();
        // SAFETY: the smallest class has room for a pointer, and SMALL_ALIGN is enough for one.
        unsafe { (*piece).next = self.first[class].get() };
        self.first[class].set(piece);
        self.kept.set(self.kept.get() + size);
    }

    #[cold]
    fn give_back(&self) {
        for class in 0..SIZES.len() {
            loop {
                let piece = self.take(class);
                if piece.is_null() {
                    break;
                }
                // SAFETY: `keep` was promised that this is the layout it was allocated with.
                unsafe { System.dealloc(piece, layout_of(class)) };
            }
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The system's allocator with a cache for each thread before it.
#[derive(Debug, Clone, Copy)]
pub struct Cached;

// SAFETY: every piece comes from `System` with the layout that it is given back with: its class's, or the
// caller's own if it has no class. The class follows from the layout alone, which callers must repeat.
unsafe impl GlobalAlloc for Cached {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout.size(), layout.align()) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        // A thread that is ending has no cache any more.
        let kept = CACHE.try_with(|cache| cache.take(class));
        match kept {
            Ok(piece) if !piece.is_null() => piece,
            // SAFETY: no class has size 0.
            _ => unsafe { System.alloc(layout_of(class)) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout.size(), layout.align()).is_none() {
            // SAFETY: the caller's promise. The system knows which pages are zero already.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise, and what `alloc` returns has that size.
        unsafe {
            let piece = self.alloc(layout);
            if !piece.is_null() {
                piece.write_bytes(0, layout.size());
            }
            piece
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout.size(), layout.align()) else {
            // SAFETY: the caller's promise; `alloc` passed such a layout on.
            return unsafe { System.dealloc(piece, layout) };
        };
        // SAFETY: `alloc` took the same class for the same layout.
        let kept = CACHE.try_with(|cache| unsafe { cache.keep(piece, class) });
        if kept.is_err() {
            // SAFETY: as above.
            unsafe { System.dealloc(piece, layout_of(class)) };
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (
            class_of(layout.size(), layout.align()),
            class_of(size, layout.align()),
        ) {
            // SAFETY: the caller's promise; neither is of a class.
            (None, None) => unsafe { System.realloc(piece, layout, size) },
            (before, after) if before == after => piece,
            // SAFETY: the caller's promise; the new piece is another one, and both have room for the smaller size.
            _ => unsafe {
                let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !new.is_null() {
                    new.copy_from_nonoverlapping(piece, size.min(layout.size()));
                    self.dealloc(piece, layout);
                }
                new
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        CACHE.with(|cache| cache.kept.get())
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).expect("a layout")
    }

    /// A piece filled with `mark`.
    fn filled(size: usize, mark: u8) -> *mut u8 {
        // SAFETY: no size here is 0.
        unsafe {
            let piece = Cached.alloc(layout(size));
            piece.write_bytes(mark, size);
            piece
        }
    }

    fn free(piece: *mut u8, size: usize) {
        // SAFETY: the callers got it from `filled` with this size.
        unsafe { Cached.dealloc(piece, layout(size)) }
    }

    #[test]
    fn a_class_has_room_for_its_sizes_and_wastes_none_of_musl_s() {
        for size in 1..=LARGEST {
            let class = class_of(size, 1).expect("a class");
            assert!(layout_of(class).size() >= size, "{size}");
            assert!(class == 0 || layout_of(class - 1).size() < size, "{size}");
        }
        assert_eq!(class_of(LARGEST + 1, 1), None);
        assert_eq!(class_of(64, 2 * ALIGN), None);
    }

    #[test]
    fn a_piece_is_aligned_as_it_was_asked_for_new_or_used() {
        for (size, align) in [
            (1, 8),
            (12, 8),
            (8, 16),
            (16, 16),
            (300, 16),
            (3260, 16),
            (48, 32),
        ] {
            let layout = Layout::from_size_align(size, align).expect("a layout");
            for round in 0..3 {
                // SAFETY: no size is 0; each piece is freed with its own layout.
                unsafe {
                    let piece = match round {
                        0 => Cached.alloc(layout),
                        _ => Cached.alloc_zeroed(layout),
                    };
                    assert_eq!(piece as usize % align, 0, "{layout:?}");
                    let larger = Layout::from_size_align(size + 100, align).expect("a layout");
                    let piece = Cached.realloc(piece, layout, larger.size());
                    assert_eq!(piece as usize % align, 0, "{larger:?}");
                    Cached.dealloc(piece, larger);
                }
            }
        }
    }

    #[test]
    fn a_thread_gets_again_what_it_freed() {
        let first = filled(100, 1);
        free(first, 100);
        assert_eq!(filled(97, 2), first, "of the same class");
        free(first, 97);
        assert_ne!(filled(200, 3), first, "of another");
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_share_and_what_it_used_last() {
        let pieces: Vec<_> = (0..2 * KEPT / 1000).map(|_| filled(1000, 1)).collect();
        for piece in pieces {
            free(piece, 1000);
            assert!(kept() <= KEPT);
        }
        let last = filled(50, 1);
        free(last, 50);
        assert_eq!(filled(50, 1), last);
    }

    #[test]
    fn memory_of_one_thread_may_be_freed_by_another() {
        let pieces: Vec<_> = (1..500)
            .map(|size| (filled(size, 7) as usize, size))
            .collect();
        let theirs = std::thread::spawn(move || {
            for (piece, size) in pieces {
                free(piece as *mut u8, size);
            }
            kept()
        });
        assert!(theirs.join().expect("no panic") > 0);
    }

    #[test]
    fn zeroed_memory_is_zero_though_it_was_used() {
        free(filled(300, 0xff), 300);
        // SAFETY: the layout has a size, and all of it is initialised.
        let piece = unsafe { std::slice::from_raw_parts(Cached.alloc_zeroed(layout(300)), 300) };
        assert!(piece.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_allocation_that_grows_or_shrinks_keeps_its_bytes() {
        let sizes = [
            1, 12, 13, 40, 60, 900, 3260, 3261, 5000, 4000, 2000, 90, 12, 3,
        ];
        let mut piece = filled(sizes[0], 9);
        for pair in sizes.windows(2) {
            let both = pair[0].min(pair[1]);
            // SAFETY: it was allocated with the first size, and that much of it is initialised.
            unsafe {
                piece = Cached.realloc(piece, layout(pair[0]), pair[1]);
                let bytes = std::slice::from_raw_parts(piece, both);
                assert!(bytes.iter().all(|byte| *byte == 9), "{pair:?}");
                piece.write_bytes(9, pair[1]);
            }
        }
    }
}
