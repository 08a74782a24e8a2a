//! The local lab: three nodes as namespaces of this machine, links between them made through netlink.
//!
//! Nothing in it has a name outside: the namespaces are held by the node processes alone, so whichever way
//! `testbed` ends, the kernel takes nodes, links and queueing disciplines back. It needs root, or a kernel
//! that lets ordinary users make user namespaces; the nodes say which it was.

use super::{Compute, Description, End, Error, Lab, PREFIX};
use crate::node::Node;
use std::{net::Ipv4Addr, process::Stdio, sync::Mutex, time::Duration};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time,
};

const CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SHAPED_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const EMULATED_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
/// How long a node that failed may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Starts the three nodes and connects them.
pub async fn start() -> Result<Lab, Error> {
    let (controller, controller_process) = start_node("controller", None).await?;
    let controller_pid = controller_process.id();
    let (source, source_process) = start_node("compute1", controller_pid).await?;
    let (destination, destination_process) = start_node("compute2", controller_pid).await?;

    let mut ports = Vec::new();
    for (port, node, process) in
        [("compute1", &source, &source_process), ("compute2", &destination, &destination_process)]
    {
        controller.add_link(port, "guests", pid(process, "compute")?).await?;
        node.set_up("guests", None).await?;
        ports.push(port);
    }
    controller.add_bridge("guests", &ports).await?;
    controller.set_up("guests", Some((CONTROLLER_ADDRESS, PREFIX))).await?;

    let compute = |node, which: usize| Compute {
        node,
        shaped: End { interface: "migration".into(), address: SHAPED_ADDRESSES[which] },
        emulated: End { interface: "emulated".into(), address: EMULATED_ADDRESSES[which] },
        guests_interface: "guests".into(),
    };
    let (source, destination) = (compute(source, 0), compute(destination, 1));
    let destination_pid = pid(&destination_process, "compute2")?;
    let [near, far] = [&source, &destination].map(|compute| compute.shaped.interface.as_str());
    source.node.add_link(near, far, destination_pid).await?;
    for Compute { node, shaped, .. } in [&source, &destination] {
        node.set_up(&shaped.interface, Some((shaped.address, PREFIX))).await?;
    }

    let description = Description {
        kind: "local".into(),
        source: source.node.facts().await?,
        destination: destination.node.facts().await?,
    };
    Ok(Lab {
        controller,
        source,
        destination,
        description,
        saved: Mutex::default(),
        emulated: tokio::sync::OnceCell::new(),
        destination_pid,
        _processes: vec![controller_process, source_process, destination_process],
    })
}

fn pid(process: &Child, node: &'static str) -> Result<u32, Error> {
    process.id().ok_or(Error::Start { node, reason: "it ended".into() })
}

/// Starts a node process; it shares the user namespace of the process `join`, if it needs one at all.
async fn start_node(name: &'static str, join: Option<u32>) -> Result<(Node, Child), Error> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("testbed").arg("node").args(join.map(|pid| format!("--join={pid}")));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // An interrupt from the terminal is the orchestrator's to act on, not the nodes'.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let (Some(stdin), Some(stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Error::Start { node: name, reason: "it has no standard streams".into() });
    };
    let node = Node::attach(name, stdout, stdin);
    // The first answer shows that its namespaces are there; the next node may need them.
    if node.facts().await.is_err() {
        let mut reason = String::new();
        let _ = time::timeout(LAST_WORDS, stderr.read_to_string(&mut reason)).await;
        return Err(Error::Start { node: name, reason: reason.trim().into() });
    }
    Ok((node, child))
}
