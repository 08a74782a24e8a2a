//! `testbed doctor`: everything that a run needs, in the lab that is meant.

use super::{hosts, local};
use crate::{
    finding::{self, Report},
    image::{self, Cache, KernelChoice},
    lab::{Error, hosts::ssh::Hosts},
    setup::{self, SystemRunner},
};
use std::path::Path;

/// What a run needs on the orchestrator's machine, whichever its lab.
#[derive(Debug)]
pub struct Needs<'a> {
    /// Where prepared files are kept.
    pub cache: &'a Cache,
    /// The guest's kernel.
    pub kernel: &'a KernelChoice,
    /// The stressor.
    pub stressor: &'a Path,
    /// Where results go.
    pub results: &'a Path,
}

/// Looks at this machine, and at the lab's hosts, or at the local lab where it has none.
pub async fn examine(needs: &Needs<'_>, hosts_of_lab: Option<&Hosts>) -> Result<Report, Error> {
    let Needs { cache, kernel, stressor, results } = needs;
    let Some(hosts_of_lab) = hosts_of_lab else {
        let checks = setup::standard_checks(&SystemRunner, cache, kernel, stressor, results);
        return Ok(finding::examine(&checks).and(vec![local::examine().await]));
    };
    let report = finding::examine(&setup::checks_without_nodes(cache, kernel, stressor, results));
    Ok(match image::prepare(kernel, stressor, cache) {
        // What is missing for that is in the report.
        Err(_) => report,
        Ok(guest) => report.and(hosts::examine(hosts_of_lab, &guest).await?),
    })
}
