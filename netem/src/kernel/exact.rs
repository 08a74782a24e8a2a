//! The settings that `sch_netem` accepts but does not keep. The backend `userspace` keeps them.
//!
//! To correlate events, `sch_netem` mixes each random number with the previous one (`get_crandom`). The mixed
//! numbers crowd around the middle, so far fewer of them are below a small probability. At a correlation of
//! 25 %, an event of 10 % happens to 1.7 % of the packets, at 50 % to 0.1 %. For loss, this crate uses
//! another model ([`GilbertElliott::correlated`]); for other events, `sch_netem` does not have one. Jitter
//! uses the remainder of dividing the mixed number, which retains no correlation.
//!
//! [`GilbertElliott::correlated`]: crate::GilbertElliott::correlated

use crate::profile::{Profile, ProfileError, Shaper};

/// Checks that the kernel's qdiscs do exactly what a valid profile requests.
///
/// # Errors
///
/// The first setting that `sch_netem` does not keep.
pub fn check(profile: &Profile) -> Result<(), ProfileError> {
    const FEWER: &str = "sch_netem then affects far fewer packets than requested";
    for (key, correlation, reason) in [
        ("jitter_correlation", profile.jitter_correlation, "sch_netem accepts it and ignores it"),
        ("duplicate_correlation", profile.duplicate_correlation, FEWER),
        ("corrupt_correlation", profile.corrupt_correlation, FEWER),
        ("reorder_correlation", profile.reorder_correlation, FEWER),
    ] {
        if !correlation.is_zero() {
            let problem = format!(
                "not supported by the backend `kernel`: {reason}; remove this, or use a local lab of \
                 testbed, which has the backend `userspace`"
            );
            return Err(ProfileError { key, problem });
        }
    }
    if profile.shaper == Shaper::Netem && !profile.jitter.is_zero() && !profile.has_gate() {
        let problem = "with jitter of each packet by itself, the rate of sch_netem keeps the order, so the \
                       delay grows with the packet rate; use another shaper, or the distribution \
                       `exponential`";
        return Err(ProfileError { key: "shaper", problem: problem.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_correlations_that_the_kernel_keeps_are_accepted() {
        let check = |text| check(&serde_json::from_str(text).unwrap()).map_err(|error| error.key);
        for text in [
            r#"{"loss":"10%","loss_correlation":"25%"}"#,
            r#"{"delay":"5ms","jitter":"1ms","duplicate":"1%","corrupt":"1%","reorder":"1%"}"#,
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for (text, key) in [
            (
                r#"{"delay":"5ms","jitter":"1ms","distribution":"normal","jitter_correlation":"25%"}"#,
                "jitter_correlation",
            ),
            (
                r#"{"rate":"1gbit","shaper":"netem","delay":"5ms","jitter":"1ms","distribution":"normal"}"#,
                "shaper",
            ),
            (r#"{"duplicate":"1%","duplicate_correlation":"25%"}"#, "duplicate_correlation"),
            (r#"{"corrupt":"1%","corrupt_correlation":"25%"}"#, "corrupt_correlation"),
            (r#"{"delay":"5ms","reorder":"1%","reorder_correlation":"25%"}"#, "reorder_correlation"),
        ] {
            assert_eq!(check(text), Err(key), "{text}");
        }
    }
}
