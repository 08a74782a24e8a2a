//! `testbed doctor`: checks everything that a run needs in the chosen lab.

use super::{hosts, local};
use crate::{
    finding::{self, CheckReport},
    image::{self, Cache, KernelChoice},
    lab::{Error, hosts::ssh::SshHosts},
    setup::{self, SystemRunner},
};
use std::path::Path;

/// The files and directories that a run with any lab needs on the orchestrator's host.
#[derive(Debug)]
pub struct Requirements<'a> {
    /// The user's cache, which has the prepared kernels and initramfs archives.
    pub cache: &'a Cache,
    pub kernel: &'a KernelChoice,
    /// The path of the stressor program for guests.
    pub stressor: &'a Path,
    /// The parent of results folders.
    pub results: &'a Path,
    /// Whether guests will have shared disks.
    pub shared_disks: bool,
}

/// Checks this host, and then either the hosts of the lab or, without hosts, the local lab.
///
/// # Errors
/// If a local file that the hosts need cannot be read. A failed check is a finding, not an error.
pub async fn examine(
    needs: &Requirements<'_>,
    hosts_of_lab: Option<&SshHosts>,
) -> Result<CheckReport, Error> {
    let Requirements { cache, kernel, stressor, results, shared_disks } = *needs;
    let Some(hosts_of_lab) = hosts_of_lab else {
        let checks = setup::standard_checks(&SystemRunner, cache, kernel, stressor, results, shared_disks);
        return Ok(finding::examine(&checks).and(vec![local::examine().await]));
    };
    let report = finding::examine(&setup::checks_without_nodes(cache, kernel, stressor, results));
    Ok(match image::prepare(kernel, stressor, cache) {
        // The report already gives the reason: the checks above cover the kernel, the stressor and the cache.
        Err(_) => report,
        Ok(guest) => report.and(hosts::examine(hosts_of_lab, &guest).await?),
    })
}
