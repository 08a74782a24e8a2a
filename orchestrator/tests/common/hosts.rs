//! Three hosts with real SSH servers, made of namespaces on this host. To `testbed` they look like real
//! hosts.
//!
//! ```text
//!   this thread's namespace   one link to each host, for SSH
//!   host 0, 1, 2              eth0: that link; eth1: the migration link between 1 and 2; eth2: to a switch
//! ```
//!
//! Each host has a network, a mount and a PID namespace, its own sshd, and a small cache directory. The
//! keys are generated for each test.

use super::real::{TestDir, skipped};
use netem::{Namespace, Netlink};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const SSHD: &str = "/usr/sbin/sshd";

/// The search path of the hosts, after each host's own programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The running hosts. Dropping this value ends them.
pub(crate) struct Hosts {
    networks: Vec<Namespace>,
    _switch: Namespace,
    servers: Vec<Child>,
    folder: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// Runs a test with three hosts, on a thread with its own network namespace. Skips the test if this process
/// is not root or sshd is not installed.
pub(crate) fn with_hosts(dir: &TestDir, test: impl FnOnce(&mut Hosts) + Send) {
    if !geteuid().is_root() {
        skipped::<()>("needs root, for hosts with SSH servers");
        return;
    }
    if !Path::new(SSHD).exists() {
        skipped::<()>(&format!("{SSHD} is not installed (Debian package openssh-server)"));
        return;
    }
    thread::scope(|scope| {
        let apart = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test(&mut Hosts::start(dir));
        });
        if let Err(panic) = apart.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn address(host: usize, end: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, u8::try_from(host).unwrap(), end)
}

/// Returns the address that a host has on `lo`, see [`Hosts::add_inner_address`].
fn inner_address(host: usize) -> Ipv4Addr {
    address(host, 100)
}

impl Hosts {
    fn start(dir: &TestDir) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let networks: Vec<Namespace> = (0..3).map(|_| Namespace::new().unwrap()).collect();
        let switch = Namespace::new().unwrap();
        runtime.block_on(connect_networks(&networks, &switch)).unwrap();
        let folder = dir.path("hosts");
        fs::create_dir(&folder).unwrap();
        for key in ["user", "host"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key));
            assert!(keygen.status().unwrap().success());
        }
        let mut hosts = Self { networks, _switch: switch, servers: Vec::new(), folder, runtime };
        for host in 0..3 {
            hosts.add_server(host, dir);
        }
        hosts.trust("host.pub");
        hosts.write_ssh_config();
        hosts
    }

    /// Reboots a host as after a power failure: all its processes and the content of its cache directory
    /// are lost.
    pub(crate) fn reboot(&mut self, host: usize, dir: &TestDir) {
        let server = &mut self.servers[host];
        server.kill().unwrap();
        server.wait().unwrap();
        // The link goes down, so that nothing closes the host's connections.
        self.connect(host, false);
        thread::sleep(Duration::from_millis(500));
        self.connect(host, true);
        let server = self.start_server(host, dir);
        self.servers[host] = server;
    }

    /// Creates a host's cache directory and starts its SSH server.
    fn add_server(&mut self, host: usize, dir: &TestDir) {
        fs::create_dir(self.cache(host)).unwrap();
        fs::create_dir(self.programs(host)).unwrap();
        let server = self.start_server(host, dir);
        self.servers.push(server);
    }

    /// Starts a host's SSH server and waits until it accepts connections. Returns the process that holds the
    /// host's namespaces.
    fn start_server(&self, host: usize, dir: &TestDir) -> Child {
        let cache = self.cache(host);
        let folder = self.folder.display();
        let config = self.folder.join(format!("sshd{host}"));
        let text = format!(
            "HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             SetEnv {} XDG_CACHE_HOME={} PATH={}:{PATH}\n",
            dir.mark(),
            cache.display(),
            self.programs(host).display(),
        );
        fs::write(&config, text).unwrap();
        fs::copy("/etc/passwd", self.passwd(host)).unwrap();
        let script = format!(
            "set -e; mount -t tmpfs run /run; mkdir /run/sshd; mount -t tmpfs mnt /mnt; \
             mount -t tmpfs -o size=256m cache {}; \
             mount --bind {} /etc/passwd; exec {SSHD} -D -e -f {}",
            cache.display(),
            self.passwd(host).display(),
            config.display(),
        );
        let log = fs::File::create(self.folder.join(format!("sshd{host}.log"))).unwrap();
        let start = || {
            Command::new("unshare")
                .args([
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child=KILL",
                    "--mount-proc",
                    "sh",
                    "-c",
                    &script,
                ])
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log.try_clone()?)
                .spawn()
        };
        let server = self.networks[host].run(start).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((address(host, 2), 22)).is_err() {
            assert!(Instant::now() < deadline, "{}", self.log(host));
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Returns the log of a host's SSH server.
    pub(crate) fn log(&self, host: usize) -> String {
        fs::read_to_string(self.folder.join(format!("sshd{host}.log"))).unwrap()
    }

    /// Returns the number of logins to a host, each with its own handshake.
    pub(crate) fn logins(&self, host: usize) -> usize {
        self.log(host).matches("Accepted publickey for ").count()
    }

    /// Returns the path of the file that a host sees as `/etc/passwd`.
    fn passwd(&self, host: usize) -> PathBuf {
        self.folder.join(format!("passwd{host}"))
    }

    /// Gives root on a host a different login shell, and a home directory with these files.
    pub(crate) fn set_login_shell(&self, host: usize, shell: &str, files: &[(&str, &str)]) {
        let home = self.folder.join(format!("home{host}"));
        let _ = fs::remove_dir_all(&home);
        for (name, text) in files {
            let path = home.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let others: Vec<&str> = users.lines().filter(|line| !line.starts_with("root:")).collect();
        let root = format!("root:x:0:0:root:{}:{shell}\n{}\n", home.display(), others.join("\n"));
        // Written in place: the host has mounted this file.
        fs::write(self.passwd(host), root).unwrap();
    }

    /// Puts lines before those of the configuration with which `ssh` reaches the hosts: `ssh` uses the first
    /// value that it finds.
    pub(crate) fn configure_ssh(&self, lines: &str) {
        self.write_ssh_config();
        let rest = fs::read_to_string(self.ssh_config()).unwrap();
        fs::write(self.ssh_config(), format!("{lines}\n{rest}")).unwrap();
    }

    /// Returns the path of a host's cache directory, a tmpfs that only this host has mounted.
    pub(crate) fn cache(&self, host: usize) -> PathBuf {
        self.folder.join(format!("cache{host}"))
    }

    /// Returns the path of a directory of programs that come first in the `PATH` of a host.
    pub(crate) fn programs(&self, host: usize) -> PathBuf {
        self.folder.join(format!("bin{host}"))
    }

    /// Runs a script on a host, with its mounts and its network. It must succeed.
    #[track_caller]
    pub(crate) fn on(&self, host: usize, script: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--target", &self.server(host), "sh", "-e", "-c", script]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes this public key the only host key in `known_hosts`.
    pub(crate) fn trust(&self, public_key: &str) {
        let key = fs::read_to_string(self.folder.join(public_key)).unwrap();
        let lines = (0..3).map(|host| format!("{} {key}", address(host, 2)));
        fs::write(self.folder.join("known_hosts"), lines.collect::<String>()).unwrap();
    }

    fn write_ssh_config(&self) {
        let folder = self.folder.display();
        let names = [0, 1, 2].map(|host| {
            let (outer, inner) = (address(host, 2), inner_address(host));
            format!(
                "Host lab{host}\n  HostName {outer}\n\
                 Host inner{host}\n  HostName {inner}\n  HostKeyAlias {outer}\n"
            )
        });
        let names = names.concat();
        let text = format!(
            "{names}Host *\n  User root\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile none\n  \
             StrictHostKeyChecking yes\n"
        );
        fs::write(self.ssh_config(), text).unwrap();
    }

    /// Returns the path of the configuration with which `ssh` reaches the hosts.
    pub(crate) fn ssh_config(&self) -> PathBuf {
        self.folder.join("ssh_config")
    }

    /// Writes an inventory of these hosts after `change` has edited it. Returns its path.
    pub(crate) fn inventory(&self, change: impl FnOnce(String) -> String) -> String {
        let text = "controller: { host: lab0, guests: eth2 }\n\
                    compute1: { host: lab1, guests: eth2, migration: eth1 }\n\
                    compute2: { host: lab2, guests: eth2, migration: eth1 }\n\
                    become: none\nssh_config: ssh_config\n";
        let path = self.folder.join("lab.yaml");
        fs::write(&path, change(text.into())).unwrap();
        path.display().to_string()
    }

    /// Gives a host an address on `lo`, at which ssh reaches it as `inner0` to `inner2`. Returns false if
    /// `ip` is not installed, so that what needs the address is skipped.
    pub(crate) fn add_inner_address(&self, host: usize) -> bool {
        let inner = inner_address(host);
        let netlink =
            async { Netlink::open_in(self.networks[host].as_fd())?.add_address("lo", inner, 32).await };
        self.runtime.block_on(netlink).unwrap();
        let mut route = Command::new("ip");
        route.args(["route", "add", &inner.to_string(), "via", &address(host, 2).to_string()]);
        match route.status() {
            Ok(status) => {
                assert!(status.success());
                true
            }
            Err(error) => skipped::<()>(&format!("ip: {error}")).is_some(),
        }
    }

    /// Disconnects a host from this thread's network, or connects it again.
    pub(crate) fn connect(&self, host: usize, connected: bool) {
        let cable = format!("host{host}");
        let set = async {
            let netlink = Netlink::open()?;
            if connected { netlink.set_up(&cable).await } else { netlink.set_down(&cable).await }
        };
        self.runtime.block_on(set).unwrap();
    }

    /// Fills a host's cache directory completely.
    pub(crate) fn fill_disk(&self, host: usize) {
        let full = format!("cat /dev/zero > {}/zeros || true", self.cache(host).display());
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.server(host), "sh", "-c", &full]).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
    }

    /// Returns the PID of a host's SSH server, as text.
    fn server(&self, host: usize) -> String {
        // The process that made the namespaces has one child, the server.
        let outside = self.servers[host].id();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).unwrap();
        children.trim().to_owned()
    }

    /// Describes what a run could leave on a host: interfaces, their qdiscs as `netem` shows them, mounts,
    /// and files in its `/run` and `/tmp`.
    pub(crate) fn state(&self, host: usize, netem: &Path) -> String {
        let server = format!("/proc/{}", self.server(host));
        let interfaces = self.interfaces(host);
        let mut lines = vec![fs::read_to_string(format!("{server}/mounts")).unwrap()];
        for folder in ["run", "tmp"] {
            let entries = fs::read_dir(format!("{server}/root/{folder}")).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort_unstable();
            lines.push(format!("/{folder}: {names:?}"));
        }
        for interface in interfaces.split(' ') {
            let show = || Command::new(netem).args(["show", interface]).output();
            let output = self.networks[host].run(show).unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            lines.extend(text.lines().filter(|line| !line.contains("sent ")).map(str::to_owned));
        }
        lines.join("\n")
    }

    /// Returns whether no node uses an interface of a host.
    pub(crate) fn is_free(&self, host: usize, interface: &str) -> bool {
        let take = async {
            let netlink = Netlink::open_in(self.networks[host].as_fd())?;
            netlink.add_macvlan("taken", interface, None).await?;
            netlink.delete("taken").await
        };
        self.runtime.block_on(take).is_ok()
    }

    /// Returns the names of a host's network interfaces, sorted and separated by spaces.
    pub(crate) fn interfaces(&self, host: usize) -> String {
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        let text = self.networks[host].run(read).unwrap();
        let mut names: Vec<&str> =
            text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
        names.sort_unstable();
        names.join(" ")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // The kernel then kills everything in the host's PID namespace.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Connects the hosts' namespaces with each other, with the switch and with this thread's namespace.
async fn connect_networks(networks: &[Namespace], switch: &Namespace) -> Result<(), netem::Error> {
    let here = Netlink::open()?;
    here.set_up("lo").await?;
    let at_switch = Netlink::open_in(switch.as_fd())?;
    let mut ports = Vec::new();
    let mut opened = Vec::new();
    for (host, network) in networks.iter().enumerate() {
        let there = Netlink::open_in(network.as_fd())?;
        let cable = format!("host{host}");
        here.add_veth(&cable, "eth0", Some(network.as_fd())).await?;
        here.add_address(&cable, address(host, 1), 24).await?;
        here.set_up(&cable).await?;
        there.add_address("eth0", address(host, 2), 24).await?;
        at_switch.add_veth(&cable, "eth2", Some(network.as_fd())).await?;
        for interface in ["lo", "eth0", "eth2"] {
            there.set_up(interface).await?;
        }
        ports.push(cable);
        opened.push(there);
    }
    at_switch.add_bridge("switch").await?;
    for port in &ports {
        at_switch.enslave(port, "switch").await?;
        at_switch.set_up(port).await?;
    }
    at_switch.set_up("switch").await?;
    opened[1].add_veth("eth1", "eth1", Some(networks[2].as_fd())).await?;
    opened[1].set_up("eth1").await?;
    opened[2].set_up("eth1").await
}
