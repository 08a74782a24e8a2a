//! What `testbed doctor` finds of this machine's own lab.

use crate::{finding::Finding, lab, matrix::Settings};
use netem::Profile;
use units::{BitRate, Span};

/// The check's name.
const NAME: &str = "lab";

/// Starts the local lab, for a moment: whether its nodes come up, and whether their kernel can shape a link.
pub async fn examine() -> Finding {
    let description = match lab::local::start().await {
        Ok(lab) => lab.description.clone(),
        Err(error) => return Finding::missing(NAME, error.to_string(), "run as root, or see `namespaces`"),
    };
    let backend = |link| description.backend(&Settings { link, ..Settings::default() });
    let limited = Profile { rate: Some(BitRate::new(1_000_000_000)), ..Profile::default() };
    let delayed = Profile { delay: Span::from_millis(1), ..limited.clone() };
    match (backend(limited), backend(delayed)) {
        (Ok(limited), Ok(delayed)) => Finding::ok(
            NAME,
            format!("three nodes come up; links have a rate by the backend {limited}, a delay by {delayed}"),
        ),
        (Ok(_), Err(reason)) => Finding::ok(
            NAME,
            format!("three nodes come up; links can have a rate, but no delay or loss: {reason}"),
        ),
        (Err(reason), _) => Finding::missing(NAME, reason, "load the module, or use a kernel that has it"),
    }
}
