//! The local lab: three nodes in namespaces on this host, with links created through netlink.
//!
//! Nothing in it has a name on the host. Only the node processes hold the namespaces, so however `testbed`
//! ends, the kernel removes nodes, links and queueing disciplines. It needs root, or a kernel that allows
//! ordinary users to create user namespaces; the nodes' [`Facts::privilege`] shows which applies.
//!
//! [`Facts::privilege`]: crate::node::protocol::Facts::privilege

use super::{
    Compute, Description, Error, Lab, LabKind,
    topology::{CONTROLLER_ADDRESS, GUESTS, PREFIX},
};
use crate::{
    measure::End,
    node::{Node, round_trip::RoundTrips},
};
use futures::future;
use std::{path::Path, process::Stdio};
use tokio::process::{Child, Command};

/// Starts the three nodes on this host and connects them.
pub async fn start() -> Result<Lab, Error> {
    start_from(Path::new("/proc/self/exe")).await
}

/// Starts nodes that run this program from another file, as [`start`] does.
pub async fn start_from(program: &Path) -> Result<Lab, Error> {
    let start_node = |name, join| start_node(program, name, join);
    let (controller, controller_process) = start_node("controller", None).await?;
    let controller_pid = controller_process.id();
    let (source, source_process) = start_node("compute1", controller_pid).await?;
    let (destination, destination_process) = start_node("compute2", controller_pid).await?;

    let mut ports = Vec::new();
    for (port, node, process) in
        [("compute1", &source, &source_process), ("compute2", &destination, &destination_process)]
    {
        controller.add_link(port, GUESTS, pid(process, "compute")?).await?;
        node.set_up(GUESTS, None).await?;
        ports.push(port);
    }
    controller.add_bridge(GUESTS, &ports).await?;
    controller.set_up(GUESTS, Some((CONTROLLER_ADDRESS, PREFIX))).await?;

    let source = Compute::new(source, End::Source, None);
    let destination = Compute::new(destination, End::Destination, None);
    let compute_pids = [pid(&source_process, "compute1")?, pid(&destination_process, "compute2")?];
    let [near, far] = [&source, &destination].map(|compute| compute.shaped.interface.as_str());
    source.node.add_link(near, far, compute_pids[1]).await?;
    for compute in [&source, &destination] {
        compute.set_up(&compute.shaped).await?;
    }

    let (source_facts, destination_facts) =
        future::try_join(source.node.facts(), destination.node.facts()).await?;
    let description = Description {
        kind: LabKind::Local,
        source: source_facts,
        destination: destination_facts,
        round_trips: Some(RoundTrips::measure(&controller, &source.node, &destination.node).await?),
        images: None,
    };
    let processes = [controller_process, source_process, destination_process];
    Ok(Lab::new(controller, [source, destination], description, Some(compute_pids), processes))
}

fn pid(process: &Child, node: &str) -> Result<u32, Error> {
    process.id().ok_or_else(|| Error::Start { node: node.into(), reason: "it has exited".into() })
}

/// Starts a node process. If it needs a user namespace, it joins the one of the process `join`, or creates
/// one if `join` is `None`.
async fn start_node(program: &Path, name: &'static str, join: Option<u32>) -> Result<(Node, Child), Error> {
    let mut command = Command::new(program);
    let run = std::process::id().to_string();
    command.arg0("testbed").args(["node", "--name", name, "--run", &run]);
    command.args(join.map(|pid| format!("--join={pid}")));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // The node gets its own process group: Ctrl-C must reach only the orchestrator.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::Process)?;
    // Once the node answers, its namespaces exist; the next node may join its user namespace.
    let node = super::connect_node(name, &mut child, None).await?;
    Ok((node, child))
}
