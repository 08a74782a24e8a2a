//! The messages of `testbed doctor` and of a run about hosts that lack something: the remedy matches the
//! cause. The hosts have real SSH servers, mounts and interfaces; only `sudo` is a stub with the words of the
//! real one.

use crate::common::{
    hosts::{Hosts, with_hosts},
    real::{SMALL, TestDir, ready, ready_light, skipped},
    words, write_script,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use testbed::{host::qemu_version, outcome::Outcome};

/// Checks that doctor's report on these hosts contains these texts, whose words may span several lines, and
/// returns its exit code.
#[track_caller]
fn assert_doctor_says(dir: &TestDir, lab: &str, texts: &[&str]) -> i32 {
    let (code, out) = dir.ask("doctor", &["--lab", lab]);
    let told = words(&out);
    for text in texts {
        assert!(told.contains(text), "{text:?} is not in:\n{out}");
    }
    code
}

/// Checks that a run is refused with these words.
#[track_caller]
fn assert_run_refused(dir: &TestDir, lab: &str, texts: &[&str]) {
    let code = dir.run(&["matrix.yaml", "--out", "refused", "--lab", lab]);
    let stderr = words(&dir.stderr());
    assert_eq!(code, 3, "{}", dir.shown());
    for text in texts {
        assert!(stderr.contains(text), "{text:?} is not in:\n{stderr}");
    }
}

/// Gives the user `root` of a host another home directory.
fn set_home(hosts: &Hosts, host: usize, home: &Path) {
    let script = format!(
        "new=$(mktemp /run/passwd.XXXXXX); chmod 644 $new; \
         sed 's,^\\(root:.*\\):[^:]*:\\([^:]*\\)$,\\1:{}:\\2,' /etc/passwd > $new; \
         mount --bind $new /etc/passwd",
        home.display()
    );
    hosts.on(host, &script);
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn an_interface_that_cannot_carry_the_node_is_refused_with_its_kind() {
    let Some(ready) = ready_light() else { return };
    if Command::new("ip").arg("-V").output().is_err() {
        skipped::<()>("`ip` is not installed (Debian package iproute2)");
        return;
    }
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        // Changes the host of compute1, asks doctor and starts a run, and changes the host back.
        let lab = hosts.inventory(|text| text);
        let refused = |lab: &str, change: &str, back: &str, reason: &str, remedy: &str| {
            hosts.on(1, change);
            let failed = format!("failed compute1 migration {reason}");
            // It does not wait for an answer that cannot arrive.
            let link = "failed migration link not tried, because compute1 has no usable interface to it";
            assert_eq!(assert_doctor_says(&dir, lab, &[&failed, &format!("fix: {remedy}"), link]), 1);
            // A run says the same; two of the causes are enough to show it.
            if reason.contains("bridge") || reason.contains("loopback") {
                assert_run_refused(&dir, lab, &["compute1", reason, remedy]);
                assert!(!dir.stderr().contains("another run"), "{}", dir.stderr());
            }
            hosts.on(1, back);
        };
        refused(
            &lab,
            "ip link add br0 type bridge; ip link set eth1 master br0",
            "ip link del br0",
            "eth1 is a port of the bridge br0",
            "name another interface, or take eth1 out of br0 (`ip link set eth1 nomaster`)",
        );
        refused(
            &lab,
            "ip link set eth1 down",
            "ip link set eth1 up",
            "eth1 is down",
            "set it up (`ip link set eth1 up`)",
        );
        refused(
            &lab,
            "ip link add mv0 link eth1 type macvlan mode bridge",
            "ip link del mv0",
            "eth1 already carries the macvlan mv0",
            "remove that (`ip link del mv0`), or name another interface",
        );
        let named = |name: &str| {
            hosts.inventory(|text| text.replacen("migration: eth1", &format!("migration: {name}"), 1))
        };
        refused(
            &named("lo"),
            ":",
            ":",
            "lo is the loopback interface",
            "name an Ethernet interface that nothing else uses",
        );
        refused(
            &named("tun7"),
            "ip tuntap add tun7 mode tun; ip link set tun7 up",
            "ip tuntap del tun7 mode tun",
            "tun7 is of kind tun: it carries no Ethernet frames",
            "name an Ethernet interface that nothing else uses",
        );
        refused(
            &named("mv1"),
            "ip link add mv1 link eth1 type macvlan mode bridge; ip link set mv1 up",
            "ip link del mv1",
            "mv1 is itself a macvlan",
            "name the interface that mv1 is on, or another one",
        );
        // A bridge is an Ethernet interface.
        hosts.on(1, "ip link add br1 type bridge; ip link set br1 up");
        let unanswered = "could not reach 192.0.2.2: 192.0.2.2 did not answer a ping";
        let code = assert_doctor_says(&dir, &named("br1"), &["compute1 host", unanswered]);
        assert_eq!(code, 1, "the migration link leads nowhere");
        hosts.on(1, "ip link del br1");
        // The other end is down.
        let lab = hosts.inventory(|text| text);
        hosts.on(2, "ip link set eth1 down");
        let reason = "failed compute1 migration eth1 has no carrier";
        assert_eq!(assert_doctor_says(&dir, &lab, &[reason, "failed compute2 migration eth1 is down"]), 1);
        hosts.on(2, "ip link set eth1 up");
        assert_eq!(assert_doctor_says(&dir, &lab, &["compute2 answers compute1"]), 0);
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn a_directory_that_cannot_be_written_is_explained_by_its_cause() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let cache = hosts.cache(0).display().to_string();
        let refused = |lab: &str, change: &str, back: &str, reason: &str, remedy: &str| {
            hosts.on(0, change);
            let detail = "failed controller program cannot use host lab0: ";
            assert_eq!(assert_doctor_says(&dir, lab, &[detail, reason, &format!("fix: {remedy}")]), 1);
            if reason.starts_with("Read-only") || reason.starts_with("Permission") {
                assert_run_refused(&dir, lab, &["lab0", reason, remedy]);
            }
            hosts.on(0, back);
        };
        let remount = |options: &str| format!("mount -o remount,{options} {cache}");
        refused(
            &lab,
            &remount("ro"),
            &remount("rw"),
            "Read-only file system",
            "mount the file system for writing, or set XDG_CACHE_HOME there",
        );
        refused(
            &lab,
            &format!("cat /dev/zero > {cache}/zeros || :"),
            &format!("rm {cache}/zeros"),
            "No space left on device",
            "free space there, or set XDG_CACHE_HOME there",
        );
        refused(
            &lab,
            &format!(
                "{}; i=0; while touch {cache}/empty$i 2> /dev/null; do i=$((i+1)); done",
                remount("nr_inodes=60")
            ),
            &format!("{}; rm -f {cache}/empty*", remount("nr_inodes=9000")),
            "no inodes are free",
            "remove files there, of which there are too many for the file system (`df -i`), or set",
        );
        refused(
            &lab,
            &remount("noexec"),
            &remount("exec"),
            "Permission denied",
            &format!("{cache} is mounted with noexec: mount it without (`mount -o remount,exec {cache}`)"),
        );
        refused(
            &lab,
            &format!("rm -rf {cache}/testbed; : > {cache}/testbed"),
            &format!("rm {cache}/testbed"),
            "cannot create directory",
            "remove or rename the file that is where a directory has to be",
        );
        // The images are in the home directory, which is missing on one host.
        let lab = hosts.inventory(|text| text + "images: ~/my images\n");
        for host in [1, 2] {
            set_home(hosts, host, &hosts.cache(host).join("home"));
            hosts.on(host, &format!("mkdir {}/home", hosts.cache(host).display()));
        }
        let missing = dir.path("no-such-home");
        set_home(hosts, 2, &missing);
        let texts = [
            "failed compute2 images cannot use host lab2: ",
            &format!("{} is the home directory, but does not", missing.display()),
            "fix: create the home directory there, or set `images` in the inventory to another directory",
        ];
        assert_eq!(assert_doctor_says(&dir, &lab, &texts), 1);
        assert!(!missing.exists(), "it is not created");
        set_home(hosts, 2, &hosts.cache(2).join("home"));
        assert_eq!(assert_doctor_says(&dir, &lab, &["each compute node has its own ~/my images"]), 0);
        for host in [1, 2] {
            hosts.on(host, &format!("test -d '{}/home/my images'", hosts.cache(host).display()));
        }
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn a_refusal_of_sudo_is_explained_by_its_words() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text.replace("become: none", "become: sudo"));
        let sudo = |script: &str| {
            for host in 0..3 {
                write_script(&hosts.programs(host).join("sudo"), &format!("#!/bin/sh\n{script}\n"));
            }
        };
        if Path::new("/usr/bin/sudo").exists() {
            skipped::<()>("sudo is installed, so this test cannot do without it");
        } else {
            let texts = ["missing controller root", "sudo: not found", "fix: install sudo there, or log in"];
            assert_eq!(assert_doctor_says(&dir, &lab, &texts), 1);
        }
        for (says, remedy) in [
            ("sudo: sorry, you must have a tty to run sudo", "exempt its user from `requiretty` there"),
            ("sudo: a password is required", "allow its user to run sudo without a password"),
            ("root is not in the sudoers file.", "allow its user to run sudo there, without a password"),
            (
                "sudo: /usr/bin/sudo must be owned by uid 0 and have the setuid bit set",
                "sudo there has to belong to root, with its setuid bit set",
            ),
        ] {
            sudo(&format!(
                "echo 'sudo: unable to resolve host lab: Name or service not known' >&2; \
                 echo '{says}' >&2; exit 1"
            ));
            let texts = ["missing controller root", says, &format!("fix: {remedy}")];
            assert_eq!(assert_doctor_says(&dir, &lab, &texts), 1);
            if says.contains("tty") {
                assert_run_refused(&dir, &lab, &["lab0", says, remedy]);
            }
        }
        // A warning is not a refusal.
        sudo("echo 'sudo: unable to resolve host lab: Name or service not known' >&2; shift; exec \"$@\"");
        assert_eq!(assert_doctor_says(&dir, &lab, &["compute2 answers compute1"]), 0);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn guests_migrate_between_qemus_of_different_versions() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMALL);
    let other = match other_qemu() {
        Ok(found) => found,
        Err(why) => {
            skipped::<()>(&why);
            return;
        }
    };
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text + "images: ~/my images\n");
        for host in [1, 2] {
            set_home(hosts, host, &hosts.cache(host).join("home"));
            hosts.on(host, &format!("mkdir {}/home", hosts.cache(host).display()));
        }
        let installed = qemu_version().unwrap();
        for (host, out) in [(1, "from-other"), (2, "to-other")] {
            let stub = hosts.programs(host).join("qemu-system-x86_64");
            // Its accelerators are modules; the firmware is the installed one's.
            let firmware = "-L /usr/share/seabios -L /usr/share/qemu";
            let script = format!(
                "#!/bin/sh\nQEMU_MODULE_DIR={} exec {} {firmware} \"$@\"\n",
                other.modules.display(),
                other.program.display()
            );
            write_script(&stub, &script);
            let expected = format!("guests get the machine type {}", other.common);
            assert_eq!(assert_doctor_says(&dir, &lab, &[&other.version, &installed, &expected]), 0);
            dir.run(&["matrix.yaml", "--out", "run", "--lab", &lab]);
            let records = dir.records();
            let [record] = &records[..] else { panic!("{out}\n{}", dir.shown()) };
            // The destination reads the guest. What happens to it under TCG is up to QEMU: a guest of QEMU
            // 7.2 once panicked in 10.0.
            let has_converged = record.outcome == Outcome::Converged;
            let reason = record.reason.as_deref().unwrap_or_default();
            assert!(has_converged || reason.contains("the guest panicked"), "{out}\n{}", dir.shown());
            assert!(!has_converged || record.measured.downtime_ms.qemu.is_some(), "{out}\n{}", dir.shown());
            assert!(words(&dir.stderr()).contains(&expected), "{}", dir.stderr());
            let environment = dir.environment();
            assert_eq!(environment["machine_type"], other.common.as_str());
            let ends = [&environment["lab"]["source"]["qemu"], &environment["lab"]["destination"]["qemu"]];
            assert_eq!(ends[host - 1], other.version.as_str());
            assert_eq!(ends[2 - host], installed.as_str());
            fs::rename(dir.folder(), dir.path(out)).unwrap();
            fs::remove_file(stub).unwrap();
        }
    });
}

/// A QEMU of a version other than the installed one.
struct OtherQemu {
    program: PathBuf,
    /// The directory of its modules.
    modules: PathBuf,
    version: String,
    /// The newest machine type that both QEMUs have.
    common: String,
}

/// Unpacks a package of another QEMU from this host's package sources, without installing it.
///
/// # Errors
///
/// The reason why no other QEMU is available, as text.
fn other_qemu() -> Result<OtherQemu, String> {
    let installed = qemu_version().map_err(|error| error.to_string())?;
    let output = |command: &mut Command| {
        let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let offered = output(Command::new("apt-cache").args(["madison", "qemu-system-x86"]))?;
    let mut why = format!("the package sources offer no QEMU but {installed}");
    for package in offered.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim) {
        let upstream = package.rsplit_once(':').map_or(package, |(_, version)| version);
        if upstream.starts_with(&installed) {
            continue;
        }
        let safe: String = package.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("qemu-{safe}"));
        let program = folder.join("usr/bin/qemu-system-x86_64");
        if !program.exists() {
            let unpacked = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let script = format!(
                "apt-get download 'qemu-system-x86={package}' 'qemu-system-common={package}' && \
                 for deb in *.deb; do dpkg -x \"$deb\" . && rm \"$deb\"; done"
            );
            let done = output(Command::new("sh").args(["-c", &script]).current_dir(unpacked.path()));
            if let Err(error) = done {
                why = error;
                continue;
            }
            fs::rename(unpacked.path(), &folder).map_err(|error| error.to_string())?;
        }
        let version = match output(Command::new(&program).arg("--version")) {
            Ok(text) => text.split_whitespace().nth(3).unwrap_or_default().to_owned(),
            Err(error) => {
                why = format!("the QEMU of package {package} does not run here: {error}");
                continue;
            }
        };
        let number = |version: &str| -> Vec<u32> {
            version.split('.').take(2).map(|part| part.parse().unwrap_or(0)).collect()
        };
        let older = number(&version).min(number(&installed));
        let common = format!("pc-i440fx-{}.{}", older[0], older[1]);
        let modules = folder.join(format!("usr/lib/{}-linux-gnu/qemu", std::env::consts::ARCH));
        return Ok(OtherQemu { program, modules, version, common });
    }
    Err(why)
}
