//! Checks of the nodes that do not rely on what `testbed` reports.

use crate::{TaskError, command::output};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// The names of the nodes; the first does not take part in migrations, the others are the compute nodes.
pub(super) const NODES: [&str; 3] = ["controller", "compute1", "compute2"];

/// The delay that [`netem_delays`] sets on the migration network, in one direction.
const DELAY_MS: f64 = 400.0;

/// The share of the delay that must be visible in the shortest round trip. It is less than 1 because under
/// nested TCG a round trip takes some milliseconds and clocks are coarse.
const MIN_MEASURED_SHARE: f64 = 0.95;

/// The time between two checks of the SSH network during a run.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The queueing disciplines that shaping a link can use.
const SHAPERS: [&str; 3] = ["tbf", "htb", "netem"];

/// Access to the nodes by `ssh`.
pub(super) struct SshNodes {
    config: PathBuf,
}

impl SshNodes {
    /// Takes the output of `vagrant ssh-config` and stores it in `folder`, where `ssh` reads it.
    pub(super) fn new(text: &str, folder: &Path) -> Result<Self, TaskError> {
        let config = folder.join("ssh-config");
        fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))?;
        Ok(Self { config })
    }

    /// Runs a shell script on a node as the login user. Returns its trimmed standard output.
    fn ask(&self, node: &str, script: &str) -> Result<String, TaskError> {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&self.config).args(["-o", "BatchMode=yes", node, script]).stdin(Stdio::null());
        let answer = output(&mut ssh)?;
        answer.trim().lines().for_each(|line| frontend::tell(format!("    {line}")));
        Ok(answer.trim().to_owned())
    }

    /// Copies a program into the login user's home directory on a node. Returns its path there.
    fn upload(&self, node: &str, program: &Path) -> Result<String, TaskError> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let file = fs::File::open(program).map_err(|e| format!("cannot read {}: {e}", program.display()))?;
        let mut ssh = Command::new("ssh");
        let store = format!("cat > {name} && chmod 755 {name}");
        ssh.arg("-F").arg(&self.config).args(["-o", "BatchMode=yes", node, &store]).stdin(file);
        output(&mut ssh)?;
        Ok(format!("./{name}"))
    }
}

/// Checks that the guests' files are complete on the controller's export and that both compute nodes mount
/// it by NFS.
pub(super) fn images_are_shared(nodes: &SshNodes) -> Result<(), TaskError> {
    // The name of each file is the SHA-256 of its content.
    let list = "cd /srv/images && sha256sum * | sort";
    let exported = nodes.ask(NODES[0], list)?;
    let whole = |line: &str| line.split_once("  ").is_some_and(|(digest, name)| digest == name);
    if exported.lines().count() < 2 || !exported.lines().all(whole) {
        return Err(format!("the guests' files are missing or incomplete on the export: {exported}").into());
    }
    for compute in &NODES[1..] {
        let kind =
            nodes.ask(compute, "stat -f -c %T /srv/images; findmnt -n -o FSTYPE,SOURCE /srv/images")?;
        if !kind.starts_with("nfs\nnfs4") {
            return Err(format!("/srv/images on {compute} is not an NFS mount: {kind}").into());
        }
        let seen = nodes.ask(compute, "ls /srv/images")?;
        let names = exported.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| name);
        if !names.eq(seen.lines()) {
            return Err(format!("{compute} sees other files than the controller: {seen}").into());
        }
    }
    Ok(())
}

/// Checks that the controller's NFS server reads and writes data while `work` runs, at least as much as the
/// scenario with a shared disk needs: the whole disk is read when it is verified.
pub(super) fn export_is_used(
    nodes: &SshNodes,
    work: impl FnOnce() -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    const DISK: u64 = 32 << 20;
    const WRITTEN: u64 = 1 << 20;
    let served = || {
        let statistics = nodes.ask(NODES[0], "grep ^io /proc/net/rpc/nfsd")?;
        served_bytes(&statistics)
            .ok_or_else(|| TaskError::from(format!("the NFS server's statistics are `{statistics}`")))
    };
    let before = served()?;
    work()?;
    let after = served()?;
    let [read, written] = [0, 1].map(|direction| after[direction].saturating_sub(before[direction]));
    frontend::tell(format!("    the NFS server sent {read} bytes and received {written}"));
    if read >= DISK && written >= WRITTEN {
        return Ok(());
    }
    Err(format!("the disk was not used by NFS: {read} bytes were read and {written} written").into())
}

/// Parses the bytes that an NFS server has sent and received, from the line `io` of its statistics.
fn served_bytes(line: &str) -> Option<[u64; 2]> {
    let mut numbers = line.strip_prefix("io ")?.split_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

/// Checks that a delay set by netem on the migration network can be measured there and does not affect
/// Vagrant's own network.
pub(super) fn netem_delays(nodes: &SshNodes, program: &Path) -> Result<(), TaskError> {
    let netem = nodes.upload(NODES[1], program)?;
    let round_trip = |address: &str| -> Result<f64, TaskError> {
        let answer = nodes.ask(NODES[1], &format!("sudo ping -q -c 5 -i 0.5 {address} | tail -n 1"))?;
        min_round_trip_ms(&answer).ok_or_else(|| format!("{address} does not answer pings: {answer}").into())
    };
    for (node, address) in [(NODES[1], "192.0.2.1/24"), (NODES[2], "192.0.2.2/24")] {
        nodes.ask(node, &format!("sudo ip address add {address} dev eth3"))?;
    }
    let measured = || -> Result<[f64; 4], TaskError> {
        let before = round_trip("192.0.2.2")?;
        nodes.ask(NODES[1], &format!("sudo {netem} apply eth3 --rate 100mbit --delay {DELAY_MS}ms"))?;
        nodes.ask(NODES[1], "sudo tc qdisc show dev eth3; sudo tc qdisc show dev eth0")?;
        let during = round_trip("192.0.2.2")?;
        // This is the network that SSH uses.
        let session = round_trip("$(echo $SSH_CONNECTION | cut -d ' ' -f 1)")?;
        nodes.ask(NODES[1], &format!("sudo {netem} clear eth3"))?;
        Ok([before, during, session, round_trip("192.0.2.2")?])
    };
    let measured = measured();
    for node in &NODES[1..] {
        nodes.ask(node, "sudo ip address flush dev eth3")?;
    }
    let [before, during, session, after] = measured?;
    frontend::tell(format!(
        "    round trips on the migration network, ms: {before} before, {during} with a delay of {DELAY_MS}, \
         {after} after; on the SSH network meanwhile: {session}"
    ));
    let delayed = during - before >= DELAY_MS * MIN_MEASURED_SHARE;
    if delayed && session < DELAY_MS / 2.0 && after < DELAY_MS / 2.0 {
        return Ok(());
    }
    Err("the delay set on the migration network has no effect there, or also elsewhere".to_owned().into())
}

/// Parses the shortest round trip, in milliseconds, from the last line that `ping` prints.
fn min_round_trip_ms(line: &str) -> Option<f64> {
    line.split_once(" = ")?.1.split('/').next()?.parse().ok()
}

/// Checks, while `work` runs, that nothing shapes the network that SSH uses.
pub(super) fn ssh_network_is_not_shaped(
    nodes: &SshNodes,
    work: impl FnOnce() -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut checks = 0;
            let mut shaped = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                for node in &NODES[1..] {
                    let mut ssh = Command::new("ssh");
                    ssh.arg("-F").arg(&nodes.config).args(["-o", "BatchMode=yes", node]);
                    ssh.args(["/sbin/tc qdisc show dev eth0"]).stdin(Stdio::null());
                    let Ok(answer) = ssh.output() else { continue };
                    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
                    checks += usize::from(answer.contains("qdisc"));
                    if SHAPERS.iter().any(|kind| answer.contains(kind)) {
                        shaped.push(format!("{node}: {}", answer.trim()));
                    }
                }
                thread::sleep(CHECK_INTERVAL);
            }
            (checks, shaped)
        });
        let result = work();
        ended.store(true, Ordering::Relaxed);
        let (checks, shaped) = watch.join().unwrap_or_default();
        result?;
        frontend::tell(format!(
            "    checked eth0 of the compute nodes {checks} times during the run; it was shaped {} times",
            shaped.len()
        ));
        if checks == 0 {
            return Err("eth0 of the compute nodes could not be checked during the run".to_owned().into());
        }
        if shaped.is_empty() { Ok(()) } else { Err(shaped.join("\n").into()) }
    })
}

/// Returns the command lines of the processes in this PID namespace whose program's name begins with one of
/// `programs`.
pub(super) fn processes(programs: &[&str]) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes
        .filter_map(|process| {
            let line = fs::read(process.join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let program = Path::new(line.split(' ').next()?).file_name()?.to_string_lossy().into_owned();
            programs.iter().any(|name| program.starts_with(name)).then(|| line.trim().to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_round_trip_is_parsed() {
        assert_eq!(
            min_round_trip_ms("rtt min/avg/max/mdev = 400.523/401.000/402.100/0.400 ms"),
            Some(400.523)
        );
        assert_eq!(min_round_trip_ms("5 packets transmitted, 0 received"), None);
    }

    #[test]
    fn the_bytes_of_an_nfs_server_are_parsed() {
        assert_eq!(served_bytes("io 33554432 1048576"), Some([33_554_432, 1_048_576]));
        assert_eq!(served_bytes("th 8 0"), None);
        assert_eq!(served_bytes("io 1"), None);
    }
}
