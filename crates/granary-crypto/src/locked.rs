//! Memory for keys that are held long: pages of their own, kept out of swap (`mlock`) and out of core dumps (`MADV_DONTDUMP`), wiped
//! before they are given back.
//!
//! Only the 32 bytes of a key lie there: what a cipher makes of them (its schedule) is made for each use, on the stack, and wiped. Where
//! the system refuses to lock (`RLIMIT_MEMLOCK`, often 8 MiB), or to give pages, the key is held all the same; the start-up check of
//! the program says so. The process as a whole is kept out of core dumps by its own means, too.

use std::fmt;

use memmap2::{Advice, MmapMut};
use zeroize::Zeroize as _;

use crate::secret::Secret32;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

enum Place {
    /// Pages of nothing else.
    Pages(MmapMut),
    /// Where the system gives none.
    Heap(Box<Secret32>),
}

/// A secret on pages of its own.
pub struct Locked {
    place: Place,
    is_locked: bool,
    is_left_out: bool,
}

impl Locked {
    /// Moves it there.
    #[must_use]
    pub fn new(secret: Secret32) -> Self {
        match MmapMut::map_anon(SECRET_BYTES) {
            Ok(mut pages) => {
                // Before anything secret is in them.
                let is_left_out = pages.advise(Advice::DontDump).is_ok();
                let is_locked = pages.lock().is_ok();
                pages[..SECRET_BYTES].copy_from_slice(secret.expose());
                Self { place: Place::Pages(pages), is_locked, is_left_out }
            }
            Err(_) => Self { place: Place::Heap(Box::new(secret)), is_locked: false, is_left_out: false },
        }
    }

    /// A copy on the stack, which is wiped when it is dropped.
    #[must_use]
    pub fn get(&self) -> Secret32 {
        match &self.place {
            Place::Pages(pages) => {
                let mut secret = Secret32::from_bytes([0; SECRET_BYTES]);
                secret.fill(&pages[..SECRET_BYTES]);
                secret
            }
            Place::Heap(secret) => secret.duplicate(),
        }
    }

    /// Whether the system keeps it out of swap.
    #[must_use]
    pub const fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Whether the system keeps it out of core dumps.
    #[must_use]
    pub const fn is_left_out_of_dumps(&self) -> bool {
        self.is_left_out
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Place::Pages(pages) = &mut self.place {
            // Where it lies, while its pages are still locked; they are given back after.
            pages[..SECRET_BYTES].zeroize();
        }
    }
}

impl fmt::Debug for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags that the kernel has for the pages at an address (`VmFlags` of `/proc/self/smaps`).
    fn flags(address: usize) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_here = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((from, to)) = range
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                is_here = (from..to).contains(&address);
            } else if is_here && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        panic!("no pages at {address:x}");
    }

    #[test]
    fn pages_of_secrets_are_locked_and_left_out_of_dumps() {
        let secret = Locked::new(Secret32::from_bytes([0x5a; 32]));
        let Place::Pages(pages) = &secret.place else { panic!("the system gives pages") };
        let flags = flags(pages.as_ptr() as usize);
        assert!(secret.is_left_out_of_dumps() && flags.iter().any(|flag| flag == "dd"), "{flags:?}");
        if secret.is_locked() {
            assert!(flags.iter().any(|flag| flag == "lo"), "{flags:?}");
        } else {
            println!("not checked: the system refuses to lock memory (RLIMIT_MEMLOCK)");
        }
        // Beside them memory is what it always was.
        let plain = Box::new([0u8; 4096]);
        assert!(!self::flags(plain.as_ptr() as usize).iter().any(|flag| flag == "dd" || flag == "lo"));
    }

    #[test]
    fn what_is_put_in_comes_out_and_is_not_shown() {
        let secret = Locked::new(Secret32::from_bytes([0x5a; 32]));
        assert_eq!(secret.get(), Secret32::from_bytes([0x5a; 32]));
        assert_eq!(format!("{secret:?}"), "Locked(..)");
        let kept = Locked {
            place: Place::Heap(Box::new(Secret32::from_bytes([7; 32]))),
            is_locked: false,
            is_left_out: false,
        };
        assert_eq!(kept.get(), Secret32::from_bytes([7; 32]));
    }
}
