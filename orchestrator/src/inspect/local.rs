//! The check of `testbed doctor` that the local lab starts on this host.

use crate::{finding::Finding, lab, matrix::Settings};
use netem::Profile;
use units::{BitRate, Span};

const NAME: &str = "lab";

/// Starts the local lab and ends it again. Returns whether its nodes start and whether this host can shape
/// their link.
pub async fn examine() -> Finding {
    let description = match lab::local::start().await {
        Ok(lab) => lab.description.clone(),
        Err(error) => {
            return Finding::failed(NAME, error.to_string(), "see `namespaces` above, or run as root");
        }
    };
    let backend = |link| description.backend(&Settings { link, ..Settings::default() });
    let limited = Profile { rate: Some(BitRate::new(1_000_000_000)), ..Profile::default() };
    let delayed = Profile { delay: Span::from_millis(1), ..limited.clone() };
    match (backend(limited), backend(delayed)) {
        (Ok(limited), Ok(delayed)) => Finding::ok(
            NAME,
            format!(
                "three nodes start; the {limited} backend limits rates, the {delayed} backend adds delays"
            ),
        ),
        (Ok(_), Err(reason)) => Finding::ok(
            NAME,
            format!("three nodes start; links can have a rate, but neither delay nor loss: {reason}"),
        ),
        (Err(reason), _) => Finding::missing(NAME, reason, "load the module, or use a kernel that has it"),
    }
}
