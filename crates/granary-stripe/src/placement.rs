//! Which drives a new part goes to: distinct ones, weighted by the space they have left, in an order that
//! depends on the part, so that data and parity spread evenly over all drives.
//!
//! Deterministic: the same part, drives and space give the same choice.

use granary_drive::api::{DriveHealth, DriveSpace};
use granary_types::{DriveNo, PartId, Scheme};

use crate::error::{Result, StripeError};

/// Space that a shard takes beside its bytes, at most: headers and rounding, generously.
const SHARD_OVERHEAD_BYTES: u64 = 64 * 1024;

/// A drive that could be chosen.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its number.
    pub no: DriveNo,
    /// Its health.
    pub health: DriveHealth,
    /// Its space.
    pub space: DriveSpace,
}

impl Candidate {
    /// With one part in `share` of its space taken for used.
    pub(crate) fn leaving(mut self, share: u64) -> Self {
        let left = self.space.total_bytes.checked_div(share).unwrap_or(0);
        self.space.free_bytes = self.space.free_bytes.saturating_sub(left);
        self
    }

    fn fits(&self, shard_bytes: u64) -> bool {
        self.space.free_bytes >= shard_bytes.saturating_add(SHARD_OVERHEAD_BYTES)
    }
}

/// Chooses `scheme.width()` distinct drives; `true` beside those that can be written to now. Where fewer
/// are writable than the scheme has shards, but a write quorum is, the others are drives that are down or
/// full: their shards are missing from the start and left to repair.
///
/// # Errors
/// [`StripeError::Full`] if space is what keeps a quorum from coming about, else [`StripeError::Unavailable`].
pub fn choose(
    candidates: &[Candidate],
    scheme: Scheme,
    shard_bytes: u64,
    part: PartId,
) -> Result<Vec<(DriveNo, bool)>> {
    check_room(candidates, scheme, shard_bytes)?;
    let (width, seed) = (scheme.width(), seed_of(part));
    let usable = |c: &&Candidate| c.health.writable() && c.fits(shard_bytes);
    // Weighted sampling without replacement (Efraimidis and Spirakis, 2006): the smallest -ln(u)/w win.
    let mut scored: Vec<(bool, f64, DriveNo)> = candidates
        .iter()
        .map(|c| {
            let up = usable(&c);
            let u = uniform(mix(seed ^ mix(u64::from(c.no.0) + 1)));
            let weight = if up { c.space.free_bytes as f64 } else { 1.0 };
            (up, -u.ln() / weight, c.no)
        })
        .collect();
    scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    scored.truncate(width);
    // Emptier drives tend to come first; shuffle, or they would get all the data and no parity.
    let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
    for at in (1..scored.len()).rev() {
        state = mix(state);
        scored.swap(at, (state % (at as u64 + 1)) as usize);
    }
    Ok(scored.into_iter().map(|(up, _, no)| (no, up)).collect())
}

/// Whether enough drives have room for a shard of that size.
///
/// # Errors
/// As [`choose`].
pub fn check_room(candidates: &[Candidate], scheme: Scheme, shard_bytes: u64) -> Result<()> {
    let (width, quorum) = (scheme.width(), scheme.write_quorum());
    if candidates.len() < width {
        return Err(StripeError::Unavailable { what: "placing a part", have: candidates.len(), need: width });
    }
    let usable = |c: &&Candidate| c.health.writable() && c.fits(shard_bytes);
    let writable = candidates.iter().filter(usable).count();
    if writable >= quorum {
        return Ok(());
    }
    let full = candidates
        .iter()
        .filter(|c| c.health == DriveHealth::Full || (c.health.writable() && !c.fits(shard_bytes)))
        .count();
    Err(if writable + full >= quorum {
        StripeError::Full { have: writable, need: quorum, shard_bytes }
    } else {
        StripeError::Unavailable { what: "placing a part", have: writable, need: quorum }
    })
}

fn seed_of(part: PartId) -> u64 {
    let (low, high) = part.0.split_at(8);
    let half = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    mix(half(low) ^ mix(half(high)))
}

/// splitmix64's finaliser (Steele, Lea and Flood, 2014).
const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// In the open interval (0, 1).
fn uniform(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn drive(no: u16, health: DriveHealth, free_bytes: u64) -> Candidate {
        Candidate {
            no: DriveNo(no),
            health,
            space: DriveSpace { total_bytes: 4 * GIB, free_bytes, ..Default::default() },
        }
    }

    fn online(count: u16) -> Vec<Candidate> {
        (0..count).map(|no| drive(no, DriveHealth::Online, GIB)).collect()
    }

    fn part(n: u64) -> PartId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        PartId(id)
    }

    #[test]
    fn every_drive_gets_its_share_in_every_position() {
        let drives = online(9);
        let scheme = Scheme { k: 4, m: 2 };
        let mut counts = vec![[0u32; 6]; 9];
        for n in 0..9_000 {
            let chosen = choose(&drives, scheme, 4096, part(n)).unwrap();
            assert_eq!(chosen, choose(&drives, scheme, 4096, part(n)).unwrap());
            let mut seen: Vec<DriveNo> = chosen.iter().map(|(no, _)| *no).collect();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 6, "distinct");
            for (position, (no, up)) in chosen.iter().enumerate() {
                assert!(up);
                counts[usize::from(no.0)][position] += 1;
            }
        }
        for (no, row) in counts.iter().enumerate() {
            assert!(row.iter().all(|n| (850..1150).contains(n)), "drive {no}: {row:?}");
        }
    }

    #[test]
    fn emptier_drives_get_more() {
        let mut drives = online(8);
        drives[0].space.free_bytes = 4 * GIB;
        drives[1].space.free_bytes = GIB / 8;
        let mut counts = [0u32; 8];
        for n in 0..4_000 {
            for (no, _) in choose(&drives, Scheme { k: 2, m: 1 }, 4096, part(n)).unwrap() {
                counts[usize::from(no.0)] += 1;
            }
        }
        assert!(counts[0] > counts[2] * 3 / 2 && counts[1] < counts[2] / 3, "{counts:?}");
    }

    #[test]
    fn quorum_rules() {
        let scheme = Scheme { k: 4, m: 2 };
        let offline = || DriveHealth::Offline("gone".into());
        let mut drives = online(6);
        drives[2].health = offline();
        let chosen = choose(&drives, scheme, 4096, part(1)).unwrap();
        assert_eq!(chosen.iter().filter(|(_, up)| !up).map(|(no, _)| no.0).collect::<Vec<_>>(), [2]);
        drives[3].health = offline();
        assert!(matches!(
            choose(&drives, scheme, 4096, part(1)),
            Err(StripeError::Unavailable { have: 4, need: 5, .. })
        ));
        // A spare takes the place of a drive that is down.
        drives.push(drive(6, DriveHealth::Online, GIB));
        drives.push(drive(7, DriveHealth::Online, GIB));
        assert!(choose(&drives, scheme, 4096, part(1)).unwrap().iter().all(|(_, up)| *up));
        // Without parity all shards are needed; too few drives in all is never enough.
        assert!(choose(&online(3), Scheme { k: 4, m: 0 }, 4096, part(1)).is_err());
        assert!(choose(&online(5), scheme, 4096, part(1)).is_err());
    }

    #[test]
    fn a_share_that_is_left_is_not_room() {
        let scheme = Scheme { k: 2, m: 1 };
        let drives = || (0..3).map(|no| drive(no, DriveHealth::Online, GIB / 16));
        let leaving = |share| drives().map(|drive| drive.leaving(share)).collect::<Vec<_>>();
        assert!(check_room(&leaving(0), scheme, 1 << 20).is_ok());
        assert!(check_room(&leaving(1_000), scheme, 1 << 20).is_ok());
        assert!(matches!(check_room(&leaving(64), scheme, 1 << 20), Err(StripeError::Full { .. })));
        assert!(matches!(choose(&leaving(64), scheme, 1 << 20, part(1)), Err(StripeError::Full { .. })));
    }

    #[test]
    fn full_is_told_from_down() {
        let scheme = Scheme { k: 2, m: 1 };
        let mut drives = online(3);
        drives[0].health = DriveHealth::Full;
        assert!(matches!(choose(&drives, scheme, 4096, part(1)), Err(StripeError::Full { .. })));
        let drives: Vec<_> = (0..3).map(|no| drive(no, DriveHealth::Online, 100_000)).collect();
        assert!(choose(&drives, scheme, 4096, part(1)).is_ok());
        assert!(matches!(choose(&drives, scheme, 90_000, part(1)), Err(StripeError::Full { .. })));
    }
}
