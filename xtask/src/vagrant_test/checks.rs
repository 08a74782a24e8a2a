//! What has to be so in the nodes, looked at from outside of `testbed`.

use crate::{Failure, command::output};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// The nodes.
pub(super) const NODES: [&str; 3] = ["controller", "compute1", "compute2"];

/// The delay that is set on the migration network, in one direction.
const DELAY_MS: f64 = 400.0;

/// How much of it the shortest round trip has to show at least: under nested TCG round trips take some
/// milliseconds, and clocks are coarse.
const SHOWN: f64 = 0.95;

/// How often the network of SSH is looked at during a run.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The queueing disciplines that a link is shaped with.
const SHAPERS: [&str; 3] = ["tbf", "htb", "netem"];

/// The nodes, as `ssh` reaches them.
pub(super) struct Hosts {
    config: PathBuf,
}

impl Hosts {
    /// What `vagrant ssh-config` says of them.
    pub(super) fn of(text: &str, folder: &Path) -> Result<Self, Failure> {
        let config = folder.join("ssh-config");
        fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))?;
        Ok(Self { config })
    }

    /// What a script says that a user's shell runs there.
    fn ask(&self, node: &str, script: &str) -> Result<String, Failure> {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&self.config).args(["-o", "BatchMode=yes", node, script]).stdin(Stdio::null());
        let said = output(&mut ssh)?;
        said.trim().lines().for_each(|line| eprintln!("    {line}"));
        Ok(said.trim().to_owned())
    }

    /// Puts a program there, into the user's home; its path.
    fn put(&self, node: &str, program: &Path) -> Result<String, Failure> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let file = fs::File::open(program).map_err(|e| format!("cannot read {}: {e}", program.display()))?;
        let mut ssh = Command::new("ssh");
        let store = format!("cat > {name} && chmod 755 {name}");
        ssh.arg("-F").arg(&self.config).args(["-o", "BatchMode=yes", node, &store]).stdin(file);
        output(&mut ssh)?;
        Ok(format!("./{name}"))
    }
}

/// The guests' files are on the controller's export, whole, and both computes have them from there by NFS.
pub(super) fn images_are_shared(hosts: &Hosts) -> Result<(), Failure> {
    // Each is called by the digest of its content.
    let list = "cd /srv/images && sha256sum * | sort";
    let exported = hosts.ask(NODES[0], list)?;
    let whole = |line: &str| line.split_once("  ").is_some_and(|(digest, name)| digest == name);
    if exported.lines().count() < 2 || !exported.lines().all(whole) {
        return Err(format!("the export has not the guests' files: {exported}").into());
    }
    for compute in &NODES[1..] {
        let kind =
            hosts.ask(compute, "stat -f -c %T /srv/images; findmnt -n -o FSTYPE,SOURCE /srv/images")?;
        if !kind.starts_with("nfs\nnfs4") {
            return Err(format!("{compute} has no NFS on /srv/images: {kind}").into());
        }
        let seen = hosts.ask(compute, "ls /srv/images")?;
        let names = exported.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| name);
        if !names.eq(seen.lines()) {
            return Err(format!("{compute} sees other files: {seen}").into());
        }
    }
    Ok(())
}

/// A delay that netem sets on the interface of the migration network is measured there, and not on Vagrant's.
pub(super) fn netem_delays(hosts: &Hosts, program: &Path) -> Result<(), Failure> {
    let netem = hosts.put(NODES[1], program)?;
    let round_trip = |address: &str| -> Result<f64, Failure> {
        let said = hosts.ask(NODES[1], &format!("sudo ping -q -c 5 -i 0.5 {address} | tail -n 1"))?;
        least(&said).ok_or_else(|| format!("{address} does not answer: {said}").into())
    };
    for (node, address) in [(NODES[1], "192.0.2.1/24"), (NODES[2], "192.0.2.2/24")] {
        hosts.ask(node, &format!("sudo ip address add {address} dev eth3"))?;
    }
    let measured = || -> Result<[f64; 4], Failure> {
        let before = round_trip("192.0.2.2")?;
        hosts.ask(NODES[1], &format!("sudo {netem} apply eth3 --rate 100mbit --delay {DELAY_MS}ms"))?;
        hosts.ask(NODES[1], "sudo tc qdisc show dev eth3; sudo tc qdisc show dev eth0")?;
        let during = round_trip("192.0.2.2")?;
        // By the way that SSH takes.
        let session = round_trip("$(echo $SSH_CONNECTION | cut -d ' ' -f 1)")?;
        hosts.ask(NODES[1], &format!("sudo {netem} clear eth3"))?;
        Ok([before, during, session, round_trip("192.0.2.2")?])
    };
    let measured = measured();
    for node in &NODES[1..] {
        hosts.ask(node, "sudo ip address flush dev eth3")?;
    }
    let [before, during, session, after] = measured?;
    eprintln!(
        "    round trips of the migration network, ms: {before} before, {during} with a delay of {DELAY_MS}, {after} \
         after; of the network of SSH: {session} meanwhile"
    );
    let delayed = during - before >= DELAY_MS * SHOWN;
    if delayed && session < DELAY_MS / 2.0 && after < DELAY_MS / 2.0 {
        return Ok(());
    }
    Err("the delay is not where it was set, or not there at all".to_owned().into())
}

/// The shortest round trip in the last line of what `ping` says, in milliseconds.
fn least(line: &str) -> Option<f64> {
    line.split_once(" = ")?.1.split('/').next()?.parse().ok()
}

/// During some work, nothing shapes the network that SSH uses.
pub(super) fn session_is_left_alone(
    hosts: &Hosts,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            let mut shaped = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                for node in &NODES[1..] {
                    let mut ssh = Command::new("ssh");
                    ssh.arg("-F").arg(&hosts.config).args(["-o", "BatchMode=yes", node]);
                    ssh.args(["/sbin/tc qdisc show dev eth0"]).stdin(Stdio::null());
                    let Ok(said) = ssh.output() else { continue };
                    let said = String::from_utf8_lossy(&said.stdout).into_owned();
                    looks += usize::from(said.contains("qdisc"));
                    if SHAPERS.iter().any(|kind| said.contains(kind)) {
                        shaped.push(format!("{node}: {}", said.trim()));
                    }
                }
                thread::sleep(LOOK_INTERVAL);
            }
            (looks, shaped)
        });
        let done = work();
        ended.store(true, Ordering::Relaxed);
        let (looks, shaped) = watch.join().unwrap_or_default();
        done?;
        eprintln!(
            "    looked at eth0 of the computes {looks} times during the run; it was shaped {} times",
            shaped.len()
        );
        if looks == 0 {
            return Err("eth0 of the computes could not be looked at".to_owned().into());
        }
        if shaped.is_empty() { Ok(()) } else { Err(shaped.join("\n").into()) }
    })
}

/// The command lines of the processes here whose programs' names begin so.
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
    fn the_shortest_round_trip_is_read() {
        assert_eq!(least("rtt min/avg/max/mdev = 400.523/401.000/402.100/0.400 ms"), Some(400.523));
        assert_eq!(least("5 packets transmitted, 0 received"), None);
    }
}
