//! The part of the test that runs inside its namespaces: it starts a private libvirt and works with the lab.
//!
//! libvirt keeps its state below `/run`, `/etc/libvirt`, `/var/lib/libvirt`, `/var/cache/libvirt` and
//! `/var/log/libvirt`. Inside the namespaces, the test mounts directories of its own in all these places.
//! Neither systemd nor dbus is needed, and the host's own libvirt is not changed.

use super::{
    checks::{self, SshNodes},
    steps::Log,
};
use crate::{
    TaskError,
    command::{output, run, status},
    workspace::Workspace,
};
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The environment variable with the path of the box's catalog.
pub(super) const CATALOG: &str = "TESTBED_VAGRANT_CATALOG";

/// The prefix of the names of domains and networks.
const NAME: &str = "testbed-test";

/// How long libvirt may take to start.
const LIBVIRT_LIMIT: Duration = Duration::from_secs(30);

/// The scenario that shows the convergence threshold, by the accelerator under which the nodes run.
const THRESHOLDS: [(&str, &str); 2] =
    [("tcg", "scenarios/labs/nested-tcg.yaml"), ("kvm", "scenarios/icclab/threshold.yaml")];

/// The scenario whose guest has a disk on the controller's NFS export.
const SHARED_DISK: &str = "scenarios/labs/shared-disk.yaml";

/// The lab under test: its files and settings.
struct TestLab {
    /// The top folder of the source tree.
    root: PathBuf,
    /// The directory of the project's programs.
    bin: PathBuf,
    /// The directory for the test's temporary files.
    folder: PathBuf,
    /// The directory for results.
    out: PathBuf,
    /// The accelerator of the nodes: `tcg` or `kvm`.
    accel: String,
}

/// Runs the whole test inside the namespaces, and takes the lab down even if a step failed.
pub(super) fn test(folder: &Path, out: &Path, accel: &str) -> Result<(), TaskError> {
    let workspace = Workspace::find()?;
    let lab = TestLab {
        bin: workspace.target.join("dist/bin"),
        root: workspace.root,
        folder: folder.into(),
        out: out.into(),
        accel: accel.into(),
    };
    let mut log = Log::open(out)?;
    let libvirt = log.step("start libvirt", || lab.start_libvirt())?;
    let tested = lab.run_steps(&mut log);
    if tested.is_err() {
        lab.show_consoles();
    }
    let destroyed = log.step("vagrant destroy", || lab.vagrant(&["destroy", "--force"]));
    let empty = log.step("nothing is left", check_that_nothing_is_left);
    drop(libvirt);
    tested.and(destroyed).and(empty)
}

impl TestLab {
    /// Runs all steps from adding the box to checks after a reboot. Once the nodes are up, every step of a
    /// group runs even if an earlier one failed. Returns the first error.
    fn run_steps(&self, log: &mut Log) -> Result<(), TaskError> {
        let catalog = std::env::var_os(CATALOG).ok_or_else(|| format!("{CATALOG} is not set"))?;
        log.step("vagrant box add", || {
            run(self.in_lab("vagrant").args(["box", "add", "--provider", "libvirt"]).arg(&catalog))
        })?;
        log.step("vagrant up", || self.vagrant(&["up", "--provider=libvirt"]))?;
        let nodes = self.nodes()?;
        let threshold =
            THRESHOLDS.iter().find(|(accel, _)| *accel == self.accel).map_or("", |(_, file)| file);
        let used = [
            log.step("testbed doctor --lab vagrant", || self.testbed(&["doctor", "--lab", "vagrant"])),
            log.step("sch_netem delays the migration network, and only that", || {
                checks::netem_delays(&nodes, &self.bin.join("netem"))
            }),
            log.step("scenarios/smoke.yaml", || self.migrate("scenarios/smoke.yaml", "smoke")),
            log.step(SHARED_DISK, || {
                checks::export_is_used(&nodes, || self.migrate(SHARED_DISK, "shared-disk"))
            }),
            // This checks only the images: the disk has been removed.
            log.step("the images are on the NFS export", || checks::images_are_shared(&nodes)),
            log.step(threshold, || {
                // This scenario shapes the migration network.
                checks::ssh_network_is_not_shaped(&nodes, || self.migrate(threshold, "threshold"))
            }),
        ];
        log.step("vagrant halt", || self.vagrant(&["halt"]))?;
        log.step("vagrant up, again", || self.vagrant(&["up"]))?;
        log.step("vagrant provision", || self.vagrant(&["provision"]))?;
        let nodes = self.nodes()?;
        let again = [
            log.step("the images are still on the NFS export", || checks::images_are_shared(&nodes)),
            log.step("testbed doctor --lab vagrant, again", || self.testbed(&["doctor", "--lab", "vagrant"])),
        ];
        used.into_iter().chain(again).collect()
    }

    /// Asks Vagrant how to reach the nodes by SSH.
    fn nodes(&self) -> Result<SshNodes, TaskError> {
        SshNodes::new(&output(self.in_lab("vagrant").arg("ssh-config"))?, &self.folder)
    }

    /// Returns a command with the environment that makes Vagrant and `testbed` use this lab.
    fn in_lab(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .env("VAGRANT_CWD", self.root.join("vagrant"))
            .env("VAGRANT_HOME", self.folder.join("home"))
            .env("VAGRANT_DOTFILE_PATH", self.folder.join("state"))
            .env("TMPDIR", self.folder.join("tmp"))
            // Vagrant would check online for a newer version of itself.
            .env("VAGRANT_CHECKPOINT_DISABLE", "1")
            .env("LAB_NAME", NAME)
            .env("LAB_ACCEL", &self.accel)
            .env("LAB_CONSOLES", self.consoles());
        for variable in ["LAB_BOX", "LAB_CPU", "LAB_CPUS", "LAB_POOL", "LAB_STORAGE", "LAB_MANAGEMENT"] {
            command.env_remove(variable);
        }
        command
    }

    fn consoles(&self) -> PathBuf {
        self.folder.join("consoles")
    }

    fn vagrant(&self, arguments: &[&str]) -> Result<(), TaskError> {
        // No progress bar.
        run(self.in_lab("vagrant").args(arguments).arg("--no-tty"))
    }

    fn testbed(&self, arguments: &[&str]) -> Result<(), TaskError> {
        let program = self.bin.join("testbed");
        run(self.in_lab(&program.to_string_lossy()).args(arguments))
    }

    /// Runs a matrix in the lab. Fails if an expectation is violated.
    fn migrate(&self, scenario: &str, name: &str) -> Result<(), TaskError> {
        let results = self.out.join(name);
        self.testbed(&["run", "--lab", "vagrant", scenario, "--out", &results.to_string_lossy()])
    }

    /// Starts a libvirt that is visible only inside the test's namespaces. Returns its two daemons.
    fn start_libvirt(&self) -> Result<[Child; 2], TaskError> {
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "run", "/run"]))?;
        let folder = |name: &str| {
            let folder = self.folder.join(name);
            fs::create_dir_all(&folder).map(|()| folder.clone()).map_err(|e| cannot("create", &folder, &e))
        };
        let etc = folder("etc")?;
        // The host's libvirt settings, but not its domains and networks.
        for entry in fs::read_dir("/etc/libvirt").into_iter().flatten().flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), etc.join(entry.file_name()))
                    .map_err(|e| cannot("copy", &entry.path(), &e))?;
            }
        }
        // QEMU runs as root: where only root can open /dev/kvm, libvirt would otherwise probe QEMU again at
        // each call, for four seconds. No control groups, because they would outlive the test.
        let settings = "user = \"root\"\ngroup = \"root\"\ncgroup_controllers = []\n";
        fs::write(etc.join("qemu.conf"), settings).map_err(|e| cannot("write", &etc, &e))?;
        for (name, place) in [
            ("etc", "/etc/libvirt"),
            ("lib", "/var/lib/libvirt"),
            ("cache", "/var/cache/libvirt"),
            ("log", "/var/log/libvirt"),
        ] {
            fs::create_dir_all(place).map_err(|e| cannot("create", Path::new(place), &e))?;
            run(Command::new("mount").arg("--bind").arg(folder(name)?).arg(place))?;
        }
        let daemons = [self.daemon("virtlogd")?, self.daemon("libvirtd")?];
        let deadline = Instant::now() + LIBVIRT_LIMIT;
        while !status(virsh().arg("version").stdout(Stdio::null()).stderr(Stdio::null()))?.success() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("libvirtd.log")).unwrap_or_default();
                return Err(format!("libvirt does not answer: {log}").into());
            }
            thread::sleep(Duration::from_millis(200));
        }
        let pool = folder("pool")?;
        folder("consoles")?;
        folder("tmp")?;
        run(virsh().args(["pool-define-as", "default", "dir", "--target"]).arg(pool))?;
        run(virsh().args(["pool-start", "default"]))?;
        Ok(daemons)
    }

    fn daemon(&self, name: &str) -> Result<Child, TaskError> {
        let path = self.folder.join(format!("{name}.log"));
        let log = fs::File::create(&path).map_err(|e| cannot("create", &path, &e))?;
        let program = Path::new("/usr/sbin").join(name);
        let mut command = Command::new(&program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        command.spawn().map_err(|e| cannot("run", &program, &e))
    }

    /// Prints the last 20 lines of each node's console, to explain a failure.
    fn show_consoles(&self) {
        for node in checks::NODES {
            let text = fs::read(self.consoles().join(format!("{node}.log"))).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            frontend::tell(format!("--- console of {node}"));
            lines[lines.len().saturating_sub(20)..].iter().for_each(|line| frontend::tell(*line));
        }
    }
}

/// Checks that `vagrant destroy` left nothing behind. The box's own disk image, on which the disks of the
/// nodes were based, may stay.
fn check_that_nothing_is_left() -> Result<(), TaskError> {
    let list = |arguments: &[&str]| -> Result<Vec<String>, TaskError> {
        let names = output(virsh().args(arguments))?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    };
    let domains = list(&["list", "--all", "--name"])?;
    let networks = list(&["net-list", "--all", "--name"])?;
    let volumes = output(virsh().args(["vol-list", "default"]))?;
    let volumes: Vec<&str> = volumes.lines().skip(2).filter_map(|l| l.split_whitespace().next()).collect();
    let disks: Vec<&&str> = volumes.iter().filter(|v| !v.contains("_vagrant_box_image_")).collect();
    let processes = checks::processes(&["qemu-system", "dnsmasq"]);
    if domains.is_empty() && networks.is_empty() && disks.is_empty() && processes.is_empty() {
        return Ok(());
    }
    let message = format!(
        "vagrant destroy left domains {domains:?}, networks {networks:?}, volumes {disks:?}, \
         processes {processes:?}"
    );
    Err(message.into())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> TaskError {
    format!("cannot {what} {}: {error}", path.display()).into()
}

fn virsh() -> Command {
    let mut command = Command::new("virsh");
    command.args(["-c", "qemu:///system"]).stdin(Stdio::null());
    command
}
