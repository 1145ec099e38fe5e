//! Memory for keys that are held long: pages of their own, kept out of swap, wiped before they are given back.
//!
//! Where the system refuses to lock (`RLIMIT_MEMLOCK`, often 8 MiB) the key is held all the same; the start-up check of
//! the program says so. The process as a whole is kept out of core dumps by its own means.

use std::fmt;

/// A page or more of nothing else.
#[repr(align(4096))]
struct Page<T>(Option<T>);

/// Something secret on pages of its own.
pub struct Locked<T> {
    // In this order: unlocked before the pages are given back.
    guard: Option<region::LockGuard>,
    page: Box<Page<T>>,
}

impl<T> Locked<T> {
    /// Moves it there. `T` wipes itself when dropped.
    #[must_use]
    pub fn new(secret: T) -> Self {
        let page = Box::new(Page(Some(secret)));
        let guard = region::lock(std::ptr::from_ref(&*page), size_of::<Page<T>>()).ok();
        Self { guard, page }
    }

    /// It.
    ///
    /// # Panics
    /// Never: it is there until the drop.
    #[must_use]
    pub const fn get(&self) -> &T {
        self.page.0.as_ref().expect("it is there until the drop")
    }

    /// Whether the system keeps it out of swap.
    #[must_use]
    pub const fn is_locked(&self) -> bool {
        self.guard.is_some()
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // Wiped where it lies, while its pages are still locked.
        self.page.0 = None;
    }
}

impl<T> fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts as a secret that wipes itself.
    struct Wiped<'a>(&'a std::cell::Cell<bool>);

    impl Drop for Wiped<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    #[test]
    fn a_locked_page_is_in_the_kernels_books_and_wiped_on_drop() {
        let locked_kib = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let before = locked_kib();
        let wiped = std::cell::Cell::new(false);
        let secret = Locked::new(Wiped(&wiped));
        if secret.is_locked() {
            assert!(locked_kib() >= before + 4, "{} KiB", locked_kib());
        } else {
            println!("not checked: the system refuses to lock memory (RLIMIT_MEMLOCK)");
        }
        assert!(!wiped.get());
        drop(secret);
        assert!(wiped.get());
        assert_eq!(format!("{:?}", Locked::new([0x5a_u8; 32])), "Locked(..)");
    }
}
