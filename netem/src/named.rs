//! Named profiles: well-known kinds of links, such as gigabit Ethernet or a satellite, and the sources of
//! their figures.

use crate::{percent::Percent, profile::Profile};
use units::{BitRate, Span};

/// A profile with a name and a one-line description.
#[derive(Debug, Clone, Copy)]
pub struct NamedProfile {
    /// The name, as written in a matrix or after `--profile`.
    pub name: &'static str,
    /// The description that `netem supported` prints: kind of link, rate, round-trip time, loss.
    pub about: &'static str,
    rate_mbit: u64,
    delay_us: u64,
    jitter_us: u64,
    loss: f64,
}

/// All named profiles, from the shortest link to the longest.
///
/// Rates count Ethernet frames without preamble, frame check sequence and inter-frame gap: with full-size
/// frames, 984 of the 1000 Mbit/s of gigabit Ethernet. Delays are one-way, half of the usual round-trip time:
/// light in fibre takes 4.9 us per kilometre, and routes are about 1.5 times as long as the great circle. The
/// mobile and satellite figures are typical of published measurements, not those of a particular operator.
pub const ALL: &[NamedProfile] = &[
    NamedProfile::wired("gigabit", "gigabit Ethernet in one rack", 984, 0),
    NamedProfile::wired("10gbit", "10 Gbit/s Ethernet in one rack", 9_840, 0),
    NamedProfile::wired("metro", "1 Gbit/s across a city, 5 ms round trip", 984, 2_500),
    NamedProfile::wired("cross-country", "1 Gbit/s across a large country, 40 ms round trip", 984, 20_000),
    NamedProfile::wired("transatlantic", "1 Gbit/s across the Atlantic, 80 ms round trip", 984, 40_000),
    NamedProfile {
        name: "4g",
        about: "a good LTE connection: 40 Mbit/s, 50 ms round trip with jitter, 0.1 % loss",
        rate_mbit: 40,
        delay_us: 25_000,
        jitter_us: 5_000,
        loss: 0.001,
    },
    NamedProfile {
        name: "satellite",
        about: "a geostationary satellite: 50 Mbit/s, 600 ms round trip, 0.5 % loss",
        rate_mbit: 50,
        delay_us: 300_000,
        jitter_us: 2_000,
        loss: 0.005,
    },
];

impl Profile {
    /// Returns the profile with this name, such as `gigabit`; `None` if it is not in [`ALL`].
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|n| n.name == name).map(NamedProfile::profile)
    }
}

impl NamedProfile {
    const fn wired(name: &'static str, about: &'static str, rate_mbit: u64, delay_us: u64) -> Self {
        Self { name, about, rate_mbit, delay_us, jitter_us: 0, loss: 0.0 }
    }

    /// Returns the settings for one direction. A link has them in both.
    pub fn profile(&self) -> Profile {
        Profile {
            rate: Some(BitRate::new(self.rate_mbit * 1_000_000)),
            delay: Span::from_nanos(self.delay_us * 1_000),
            jitter: Span::from_nanos(self.jitter_us * 1_000),
            loss: Percent::from_fraction(self.loss),
            ..Profile::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_every_profile_is_valid() {
        for named in ALL {
            let profile = Profile::named(named.name).unwrap();
            profile.validate().unwrap_or_else(|e| panic!("{}: {e}", named.name));
            assert_eq!(profile, named.profile());
        }
        assert_eq!(Profile::named("nonesuch"), None);
    }
}
