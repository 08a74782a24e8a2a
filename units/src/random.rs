//! Reproducible pseudo-random numbers: a seed gives the same numbers on every host and in every later version
//! of this crate, so seeds recorded in results keep their meaning. Generators of third-party crates do not
//! promise that. Not suitable for cryptography.

/// The increment of the `splitmix64` counter: 2^64 divided by the golden ratio, made odd.
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hashes a number so that each input bit affects all output bits. This is the finalizer of `splitmix64`
/// (Steele, Lea and Flood, 2014).
#[inline]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A pseudo-random number generator: `xorshift64*` (G. Marsaglia 2003, S. Vigna 2016).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Creates a generator from a seed. Seeds that differ in a single bit give unrelated sequences.
    pub const fn new(seed: u64) -> Self {
        Self::from_mixed(seed.wrapping_add(STEP))
    }

    /// Creates a generator whose state is [`mix`] of a number: [`Random::new`] without the [`STEP`] that it
    /// adds.
    pub const fn from_mixed(number: u64) -> Self {
        // Never zero: a xorshift generator does not leave that state.
        Self(mix(number) | 1)
    }

    /// Returns the next number, from 1 to `u64::MAX`.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns the upper 32 bits of the next number.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// Returns a number from 0 to `bound - 1`. It is 0 if `bound` is 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        // The first two outputs of splitmix64 with seed 0.
        assert_eq!([mix(STEP), mix(STEP.wrapping_mul(2))], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
        let first = |seed| Random::new(seed).next_u64();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
        assert_eq!(Random(1).next_u64(), 0x47E4_CE4B_896C_DD1D);
    }

    #[test]
    fn below_stays_below_its_bound() {
        let mut random = Random::new(3);
        assert!((0..1000).all(|_| random.below(7) < 7));
        assert_eq!(random.below(1), 0);
    }
}
