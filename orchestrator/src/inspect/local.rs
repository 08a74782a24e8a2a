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
        Err(error) => return not_started(&error),
    };
    let backend = |link: Profile| description.backend(&Settings { link: link.into(), ..Settings::default() });
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

/// Returns the finding that the lab does not start, for this reason.
fn not_started(error: &lab::Error) -> Finding {
    let detail = error.to_string();
    // The error itself says what the kernel lacks, and what to do.
    let remedy = if detail.contains("namespace") && !detail.contains("this kernel has no") {
        "see `namespaces` above, or run as root"
    } else if detail.contains("this kernel has no") {
        "load the module, or use a kernel that has it"
    } else if matches!(error, lab::Error::Process(_)) {
        "raise the limit on processes (`ulimit -u`, or pids.max of this cgroup), or free memory"
    } else {
        "`testbed lab shell` starts the same nodes, and may show more"
    };
    Finding::failed(NAME, detail, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_remedy_follows_the_error() {
        let start = |reason: &str| lab::Error::Start { node: "compute1".into(), reason: reason.into() };
        let remedy = |error: &lab::Error| not_started(error).remedy.unwrap();
        assert!(remedy(&start("cannot create a user namespace: EPERM")).contains("`namespaces` above"));
        assert!(remedy(&start("cannot create it: this kernel has no veth")).contains("load the module"));
        assert!(remedy(&start("killed")).contains("testbed lab shell"));
        let fork = lab::Error::Process(io::Error::from_raw_os_error(libc::EAGAIN));
        assert!(remedy(&fork).contains("ulimit -u"));
    }
}
