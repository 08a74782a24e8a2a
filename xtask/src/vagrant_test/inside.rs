//! The part of the test that is inside of its namespaces: a libvirt of its own, and what is done with it.
//!
//! libvirt keeps its state below `/run`, `/etc/libvirt`, `/var/lib/libvirt`, `/var/cache/libvirt` and
//! `/var/log/libvirt`. All of these are other directories here. Neither systemd nor dbus is needed, and
//! nothing of the machine's is changed.

use super::{
    checks::{self, Hosts},
    steps::Log,
};
use crate::{
    Failure,
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

/// The variable with the catalog of the box.
pub(super) const CATALOG: &str = "TESTBED_VAGRANT_CATALOG";

/// What domains and networks are called by.
const NAME: &str = "testbed-test";

/// How long libvirt may take to answer.
const LIBVIRT_LIMIT: Duration = Duration::from_secs(30);

/// The migrations whose outcomes must be the physics, for the accelerator of the nodes.
const THRESHOLDS: [(&str, &str); 2] =
    [("tcg", "scenarios/labs/nested-tcg.yaml"), ("kvm", "scenarios/icclab/threshold.yaml")];

/// What the test has.
struct Lab {
    /// The source tree.
    root: PathBuf,
    /// The programs.
    bin: PathBuf,
    /// The test's files.
    folder: PathBuf,
    /// Its results.
    out: PathBuf,
    accel: String,
}

/// Makes the test.
pub(super) fn test(folder: &Path, out: &Path, accel: &str) -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    let lab = Lab {
        bin: workspace.target.join("dist/bin"),
        root: workspace.root,
        folder: folder.into(),
        out: out.into(),
        accel: accel.into(),
    };
    let mut log = Log::open(out)?;
    let libvirt = log.step("start libvirt", || lab.start_libvirt())?;
    let tested = lab.make_and_use(&mut log);
    if tested.is_err() {
        lab.show_consoles();
    }
    let destroyed = log.step("vagrant destroy", || lab.vagrant(&["destroy", "--force"]));
    let empty = log.step("nothing is left", check_that_nothing_is_left);
    drop(libvirt);
    tested.and(destroyed).and(empty)
}

impl Lab {
    /// The nodes, from their box to their second boot. Once they are up, each step is made whatever became of
    /// those before; the first failure.
    fn make_and_use(&self, log: &mut Log) -> Result<(), Failure> {
        let catalog = std::env::var_os(CATALOG).ok_or_else(|| format!("{CATALOG} is not set"))?;
        log.step("vagrant box add", || {
            run(self.in_lab("vagrant").args(["box", "add", "--provider", "libvirt"]).arg(&catalog))
        })?;
        log.step("vagrant up", || self.vagrant(&["up", "--provider=libvirt"]))?;
        let hosts = self.hosts()?;
        let threshold =
            THRESHOLDS.iter().find(|(accel, _)| *accel == self.accel).map_or("", |(_, file)| file);
        let used = [
            log.step("testbed doctor --lab vagrant", || self.testbed(&["doctor", "--lab", "vagrant"])),
            log.step("sch_netem delays the migration network, and only that", || {
                checks::netem_delays(&hosts, &self.bin.join("netem"))
            }),
            log.step("scenarios/smoke.yaml", || self.migrate("scenarios/smoke.yaml", "smoke")),
            log.step("the images are on the NFS export", || checks::images_are_shared(&hosts)),
            log.step(threshold, || {
                // While the migration network is shaped.
                checks::session_is_left_alone(&hosts, || self.migrate(threshold, "threshold"))
            }),
        ];
        log.step("vagrant halt", || self.vagrant(&["halt"]))?;
        log.step("vagrant up, again", || self.vagrant(&["up"]))?;
        log.step("vagrant provision", || self.vagrant(&["provision"]))?;
        let hosts = self.hosts()?;
        let again = [
            log.step("the images are still on the NFS export", || checks::images_are_shared(&hosts)),
            log.step("testbed doctor --lab vagrant, again", || self.testbed(&["doctor", "--lab", "vagrant"])),
        ];
        used.into_iter().chain(again).collect()
    }

    /// How Vagrant says that the nodes are reached.
    fn hosts(&self) -> Result<Hosts, Failure> {
        Hosts::of(&output(self.in_lab("vagrant").arg("ssh-config"))?, &self.folder)
    }

    /// A program, with the lab's environment.
    fn in_lab(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .env("VAGRANT_CWD", self.root.join("vagrant"))
            .env("VAGRANT_HOME", self.folder.join("home"))
            .env("VAGRANT_DOTFILE_PATH", self.folder.join("state"))
            .env("TMPDIR", self.folder.join("tmp"))
            // It would ask the network whether there is a newer Vagrant.
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

    fn vagrant(&self, arguments: &[&str]) -> Result<(), Failure> {
        // Without a bar that moves.
        run(self.in_lab("vagrant").args(arguments).arg("--no-tty"))
    }

    fn testbed(&self, arguments: &[&str]) -> Result<(), Failure> {
        let program = self.bin.join("testbed");
        run(self.in_lab(&program.to_string_lossy()).args(arguments))
    }

    /// Runs a matrix in the lab; its expectations have to hold.
    fn migrate(&self, scenario: &str, name: &str) -> Result<(), Failure> {
        let results = self.out.join(name);
        self.testbed(&["run", "--lab", "vagrant", scenario, "--out", &results.to_string_lossy()])
    }

    /// Starts a libvirt that nothing but this test knows.
    fn start_libvirt(&self) -> Result<[Child; 2], Failure> {
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "run", "/run"]))?;
        let folder = |name: &str| {
            let folder = self.folder.join(name);
            fs::create_dir_all(&folder).map(|()| folder.clone()).map_err(|e| cannot("create", &folder, &e))
        };
        let etc = folder("etc")?;
        // Its settings, but neither its domains nor its networks.
        for entry in fs::read_dir("/etc/libvirt").into_iter().flatten().flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), etc.join(entry.file_name()))
                    .map_err(|e| cannot("copy", &entry.path(), &e))?;
            }
        }
        // As root: where only root can open /dev/kvm, libvirt otherwise probes QEMU anew at each call, for
        // four seconds. Without control groups, which would outlive the test.
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
                let said = fs::read_to_string(self.folder.join("libvirtd.log")).unwrap_or_default();
                return Err(format!("libvirt does not answer: {said}").into());
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

    fn daemon(&self, name: &str) -> Result<Child, Failure> {
        let path = self.folder.join(format!("{name}.log"));
        let log = fs::File::create(&path).map_err(|e| cannot("create", &path, &e))?;
        let program = Path::new("/usr/sbin").join(name);
        let mut command = Command::new(&program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        command.spawn().map_err(|e| cannot("run", &program, &e))
    }

    /// The last of what the nodes wrote on their consoles, for a test that failed.
    fn show_consoles(&self) {
        for node in checks::NODES {
            let text = fs::read(self.consoles().join(format!("{node}.log"))).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- console of {node}");
            lines[lines.len().saturating_sub(20)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What libvirt still has after `vagrant destroy`: nothing but the box's own disk, from which those of the
/// machines were made.
fn check_that_nothing_is_left() -> Result<(), Failure> {
    let list = |arguments: &[&str]| -> Result<Vec<String>, Failure> {
        let said = output(virsh().args(arguments))?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
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
    let left = format!("left: domains {domains:?}, networks {networks:?}, volumes {disks:?}, {processes:?}");
    Err(left.into())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    format!("cannot {what} {}: {error}", path.display()).into()
}

fn virsh() -> Command {
    let mut command = Command::new("virsh");
    command.args(["-c", "qemu:///system"]).stdin(Stdio::null());
    command
}
