//! Writes disk images in QEMU's own format.
//!
//! This is done by jobs of a QEMU without a machine. It is the QEMU that will use the image, so no further
//! program has to be installed on the hosts.

use super::{
    confinement::Confinement,
    disk::Error,
    jobs,
    machine::{QEMU, Role},
    process::{self, START_LIMIT},
    qmp,
};
use crate::{
    matrix::ImageFormat,
    node::{
        self, Node, Process,
        protocol::{ProcessSpec, disk_path},
    },
};
use serde_json::{Value, json};
use std::time::Duration;
use units::Bytes;

/// The name of the monitor's socket in the node's private directory.
const MONITOR: &str = "image-monitor";

/// The interval at which QEMU is asked whether a job has ended.
const INTERVAL: Duration = Duration::from_millis(10);

/// Turns an empty file into a qcow2 image of a disk of this size. With `content`, a raw image of the same
/// size, the disk holds its data; otherwise zeros.
///
/// The QEMU is confined like this if it can be: that of the controller may be another one than those that
/// have been tried.
pub(super) async fn format(
    node: &Node,
    image: &node::Disk,
    size: Bytes,
    content: Option<&node::Disk>,
    confinement: Confinement,
) -> Result<(), Error> {
    let (mut process, monitor) = match start(node, spec(image, content, confinement)).await {
        Err(Error::Image(_)) if confinement != Confinement::default() => {
            start(node, spec(image, content, Confinement::default())).await?
        }
        started => started?,
    };
    let work = async {
        let create = json!({ "driver": ImageFormat::Qcow2.name(), "file": "file", "size": size.get() });
        run(&monitor, "blockdev-create", "create", json!({ "job-id": "create", "options": create })).await?;
        if content.is_some() {
            // Nothing is below it, whatever somebody else may have written meanwhile.
            let (driver, nothing) = (ImageFormat::Qcow2.name(), Value::Null);
            let image = json!({ "driver": driver, "node-name": "image", "file": "file", "backing": nothing });
            monitor.call("blockdev-add", image).await.map_err(process::Error::from)?;
            let fill = json!({
                "job-id": "fill",
                "device": "content",
                "target": "image",
                "sync": "full",
                "auto-dismiss": false,
            });
            run(&monitor, "blockdev-backup", "fill", fill).await?;
        }
        monitor.call("quit", json!({})).await.map_err(process::Error::from)?;
        Ok::<_, Error>(())
    };
    let result = work.await;
    explained(&mut process, result).await
}

/// Starts the QEMU and connects to its monitor.
async fn start(node: &Node, spec: ProcessSpec) -> Result<(Process, qmp::Client), Error> {
    let mut process = node.spawn(spec).await?;
    let connected = async {
        let monitor = qmp::Client::over(node.connect(&process, MONITOR, START_LIMIT).await?).await;
        Ok(monitor.map_err(process::Error::from)?)
    };
    match connected.await {
        Ok(monitor) => Ok((process, monitor)),
        Err(error) => explained(&mut process, Err(error)).await,
    }
}

/// Waits for the end of the QEMU, and kills it after a failure. What it says when it ends explains an error
/// of its monitor.
async fn explained<T>(process: &mut Process, result: Result<T, Error>) -> Result<T, Error> {
    if result.is_err() {
        process.kill().await?;
    }
    let (lines, _) = process.end().await?;
    if lines.is_empty() { result } else { result.map_err(|_| Error::Image(lines.join(" | "))) }
}

/// Returns the command that starts this QEMU.
fn spec(image: &node::Disk, content: Option<&node::Disk>, confinement: Confinement) -> ProcessSpec {
    let mut args: Vec<String> =
        ["-nodefaults", "-no-user-config", "-machine", "none", "-display", "none"].map(Into::into).into();
    // Like a destination, it starts no programs.
    args.extend(confinement.arguments(Role::Destination));
    let mut add = |option: &str, value: String| args.extend([option.into(), value]);
    add("-chardev", format!("socket,id=monitor,path={MONITOR},server=on,wait=off"));
    add("-mon", "chardev=monitor,mode=control".into());
    add("-blockdev", format!("driver=file,node-name=file,filename={}", disk_path(0)));
    if content.is_some() {
        add("-blockdev", format!("driver=file,node-name=content,read-only=on,filename={}", disk_path(1)));
    }
    let disks = [Some(image), content].into_iter().flatten().map(node::Disk::number).collect();
    ProcessSpec { program: QEMU.into(), args, disks, ..ProcessSpec::default() }
}

/// Runs a job of this name to its end.
async fn run(monitor: &qmp::Client, command: &str, id: &str, arguments: Value) -> Result<(), Error> {
    let job = async {
        monitor.call(command, arguments).await?;
        let ended = jobs::end(id, INTERVAL, async || monitor.query(jobs::QUERY).await).await?;
        monitor.call("job-dismiss", json!({ "id": id })).await?;
        Ok::<_, qmp::Error>(ended)
    };
    job.await.map_err(process::Error::from)?.map_err(Error::Image)
}
