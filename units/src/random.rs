//! Numbers that a seed repeats, on any machine and in any later version: recorded seeds keep their meaning,
//! which a crate's generator does not promise. Not for secrets.

/// The step of `splitmix64`'s counter.
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Spreads every bit of the input over the whole output (the finaliser of `splitmix64`; Steele, Lea and
/// Flood, 2014).
#[inline]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A generator of random numbers: `xorshift64*` (G. Marsaglia 2003 and S. Vigna 2016).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator for this seed. Seeds that differ in one bit give streams that have nothing in common.
    pub const fn new(seed: u64) -> Self {
        Self::of(seed.wrapping_add(STEP))
    }

    /// A generator for a number of which [`mix`] makes its state.
    pub const fn of(number: u64) -> Self {
        // Not zero, the one state that it cannot leave.
        Self(mix(number) | 1)
    }

    /// Returns the next number.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns the next number's upper half.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// Returns a number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_keeps_its_meaning() {
        // The first outputs of splitmix64 for the seed 0.
        assert_eq!([mix(STEP), mix(STEP.wrapping_mul(2))], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
        let first = |seed| Random::new(seed).next_u64();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
        assert_eq!(Random(1).next_u64(), 0x47E4_CE4B_896C_DD1D);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut random = Random::new(3);
        assert!((0..1000).all(|_| random.below(7) < 7));
        assert_eq!(random.below(1), 0);
    }
}
