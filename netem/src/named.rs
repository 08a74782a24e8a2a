//! Profiles by name: links people recognise, each with where its figures come from.

use crate::{
    percent::Percent,
    profile::{Distribution, Profile},
};
use units::{BitRate, Span};

/// A profile with a name and a line about it.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// What it is called, as written in a matrix file or after `--profile`.
    pub name: &'static str,
    /// What it stands for.
    pub about: &'static str,
    rate_mbit: u64,
    delay_us: u64,
    jitter_us: u64,
    loss: f64,
}

/// Every named profile, from near to far.
///
/// Rates count Ethernet frames without preamble, check sequence and gap: 984 of a gigabit Ethernet's 1000
/// Mbit/s at full-size frames. Delays are one way, half of the usual round trip: light in fibre takes 4.9 us
/// a kilometre, and routes are about half as long again as the great circle. The mobile and satellite figures
/// are typical of published measurements, not of any operator.
pub const ALL: &[Named] = &[
    Named::wired("gigabit", "gigabit Ethernet in one rack", 984, 0),
    Named::wired("10gbit", "10 Gbit/s Ethernet in one rack", 9_840, 0),
    Named::wired("metro", "1 Gbit/s across a city, 5 ms round trip", 984, 2_500),
    Named::wired("cross-country", "1 Gbit/s across a large country, 40 ms round trip", 984, 20_000),
    Named::wired("transatlantic", "1 Gbit/s across the Atlantic, 80 ms round trip", 984, 40_000),
    Named {
        name: "4g",
        about: "a good LTE connection: 40 Mbit/s, 50 ms round trip with jitter, 0.1 % loss",
        rate_mbit: 40,
        delay_us: 25_000,
        jitter_us: 5_000,
        loss: 0.001,
    },
    Named {
        name: "satellite",
        about: "a geostationary satellite: 50 Mbit/s, 600 ms round trip, 0.5 % loss",
        rate_mbit: 50,
        delay_us: 300_000,
        jitter_us: 2_000,
        loss: 0.005,
    },
];

impl Profile {
    /// A profile known by name, such as `gigabit`; see [`ALL`].
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|n| n.name == name).map(Named::profile)
    }
}

impl Named {
    const fn wired(name: &'static str, about: &'static str, rate_mbit: u64, delay_us: u64) -> Self {
        Self { name, about, rate_mbit, delay_us, jitter_us: 0, loss: 0.0 }
    }

    /// The profile itself, for either direction.
    pub fn profile(&self) -> Profile {
        Profile {
            rate: Some(BitRate::new(self.rate_mbit * 1_000_000)),
            delay: Span::from_nanos(self.delay_us * 1_000),
            jitter: Span::from_nanos(self.jitter_us * 1_000),
            distribution: if self.jitter_us > 0 { Distribution::ParetoNormal } else { Distribution::Uniform },
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
