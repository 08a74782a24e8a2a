//! The serving process of a node: carries out [`Call`]s until its standard input ends, then exits. Everything
//! it started ends with it. If it runs on a different host from the orchestrator, it also ends after a
//! silence of the orchestrator ([`crate::node::alive`]), although its input is still open: a cut connection
//! does not end the input.
//!
//! It holds only the state that it must own: processes, channels, the probe, emulated links, the netlink
//! connection. It makes no decisions: the orchestrator decides what to start and in which order.

use super::{
    boot_files, connections,
    disks::{self, Disks},
    frames::FrameRelay,
    host::HostNetwork,
    isolate::{self, RUN_DIR},
    probe::{Probe, progress},
    streams::{Outbox, Streams},
    tcp_buffers::TcpBuffers,
    userfaultfd,
    wire::WireCounts,
};
use crate::{
    bounded::{CHANNEL_LINE_BYTES, read_line},
    host,
    node::protocol::{
        self, Call, ExitStatus, Facts, FromNode, Privilege, ProbeProgress, ProcessSpec, ToNode, Traffic,
    },
    process_tree,
};
use jiff::Timestamp;
use netem::{
    Applied, Backend, LinkProfile, Netlink, Profile,
    userspace::{self, Emulator, Tun},
};
use nix::{
    sys::{prctl, signal::Signal},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    env,
    ffi::{CStr, OsStr},
    fs::{self, File},
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use stressor::cgroup;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    task::{self, LocalSet},
    time,
};
use units::Bytes;

/// The longest piece of a process's output that is forwarded as one line, in bytes.
const OUTPUT_LINE_BYTES: u64 = 64 << 10;

/// Returns the CPU time that all threads of a process have used.
fn cpu_time_ns(pid: Pid) -> Option<u64> {
    let used = clock_gettime(clock_getcpuclockid(pid).ok()?).ok()?;
    u64::try_from(Duration::from(used).as_nanos()).ok()
}

/// The process name that a node gives itself when its lab is complete ([`Call::Announce`]), for other
/// processes to see.
pub const READY: &CStr = c"testbed-ready";

/// The `oom_score_adj` of processes that a node starts. The kernel kills the process with the highest score
/// first; 500 corresponds to half of the memory.
const OOM_SCORE: &str = "500";

/// The variables of the orchestrator's environment that a node passes on to the processes it starts, besides
/// those that begin with `TESTBED_`. Others may hold secrets, which a guest that takes over its QEMU could
/// read.
const KEPT_VARIABLES: [&str; 4] = ["PATH", "HOME", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR"];

/// The longest wait for killed processes to end; one with much memory takes some tenths of a second.
const STRAY_LIMIT: Duration = Duration::from_secs(5);

/// The seed of every link emulator; packet loss and other random choices are derived from it.
const EMULATOR_SEED: u64 = 1;

/// A call's return value; an error is sent to the orchestrator as text.
type CallResult = Result<Value, Box<dyn std::error::Error + Send + Sync>>;

/// Serves calls from standard input on standard output until the input ends.
///
/// A node on a different host from the orchestrator has a `host` network, and also ends when the orchestrator
/// has been silent for too long. When this returns, everything that the node started has ended, and the host
/// has its interfaces back. A thread of this process may still be reading: the process must exit without
/// waiting for it.
pub async fn serve(privilege: Privilege, host: Option<HostNetwork>) -> io::Result<()> {
    let mut streams = Streams::start(io::stdin(), io::stdout());
    let server = Arc::new(Server {
        privilege,
        host,
        out: streams.out.clone(),
        netlink: Netlink::open().map_err(io::Error::other)?,
        tcp_buffers: TcpBuffers::read(),
        emulators: Mutex::default(),
        wire: WireCounts::default(),
        next: AtomicU64::new(1),
        processes: Mutex::default(),
        children: Mutex::default(),
        disks: Disks::default(),
        attached: Mutex::default(),
        channels: Mutex::default(),
        probe: AsyncMutex::default(),
    });
    let silence = streams.silence();
    // Netlink requests are not `Send`, so the calls are handled on this one thread.
    let calls = LocalSet::new();
    let ended = calls
        .run_until(async {
            tokio::select! {
                biased;
                end = server.serve_calls(&mut streams.messages) => end.map(|()| None),
                silence = silence, if server.host.is_some() => Ok(Some(silence)),
            }
        })
        .await;
    // Nothing can be started any more.
    drop(calls);
    // Decided before the processes are ended: their end is not a failure then.
    let last_message = match &ended {
        Ok(Some(silence)) => {
            let seconds = silence.as_secs();
            Some(streams.end(format!("it heard nothing from testbed for {seconds} s, and ended")))
        }
        _ => None,
    };
    server.tear_down().await;
    if let Some(written) = last_message {
        written.await;
    }
    ended.map(drop)
}

struct Server {
    privilege: Privilege,
    /// The network of the node's host, unless it is also the orchestrator's host.
    host: Option<HostNetwork>,
    out: Outbox,
    netlink: Netlink,
    tcp_buffers: TcpBuffers,
    /// The link emulators, by the name of the link's end in this node.
    emulators: Mutex<HashMap<String, Emulator>>,
    /// What the kernel's qdiscs have counted.
    wire: WireCounts,
    /// The next number for a process or channel.
    next: AtomicU64,
    /// The running processes; dropping a process's sender kills it.
    processes: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// The PIDs of the running processes, by their numbers.
    children: Mutex<HashMap<u64, u32>>,
    /// The open disks.
    disks: Disks,
    /// The names of the interfaces on top of the host's.
    attached: Mutex<Vec<String>>,
    /// Senders of the lines to be written to each channel.
    channels: Mutex<HashMap<u64, mpsc::UnboundedSender<String>>>,
    probe: AsyncMutex<Option<Probe>>,
}

impl Server {
    fn send(&self, message: FromNode) {
        self.out.send(message);
    }

    fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Carries out calls until the messages end. Must run in a [`LocalSet`].
    async fn serve_calls(
        self: &Arc<Self>,
        messages: &mut mpsc::UnboundedReceiver<io::Result<ToNode>>,
    ) -> io::Result<()> {
        while let Some(message) = messages.recv().await {
            match message? {
                ToNode::Call { id, call } => {
                    let (server, replying) = (Arc::clone(self), Arc::clone(self));
                    let handled = task::spawn_local(async move { server.handle(call).await });
                    // The orchestrator waits for a reply, even after a panic, such as that of a thread that
                    // the system does not grant.
                    task::spawn_local(async move {
                        let result = match handled.await {
                            Ok(result) => result.map_err(|e| e.to_string()),
                            Err(panic) => Err(panic.to_string()),
                        };
                        replying.send(FromNode::Reply { id, result });
                    });
                }
                ToNode::Line { channel, text } => {
                    let sender = self.channels.lock().unwrap().get(&channel).cloned();
                    if let Some(sender) = sender {
                        let _ = sender.send(text);
                    }
                }
                // The reading thread has already answered it.
                ToNode::Alive { .. } => {}
            }
        }
        Ok(())
    }

    /// Kills everything that the node has started, and gives the host its interfaces back. The kernel does
    /// both when the node has exited, but the latter some time later.
    async fn tear_down(&self) {
        self.kill_all_but(BTreeSet::new).await;
        self.disks.close_all();
        let attached = mem::take(&mut *self.attached.lock().unwrap());
        for interface in attached {
            // The interface does not exist if it could not be created.
            let _ = self.netlink.delete(&interface).await;
        }
    }

    async fn handle(self: &Arc<Self>, call: Call) -> CallResult {
        match call {
            Call::Facts => json(facts(self.privilege).await?),
            Call::Ping => json(()),
            Call::Announce => json(prctl::set_name(READY)?),
            Call::Spawn(spec) => json(self.spawn(&spec)?),
            Call::Kill { process } => {
                // Dropping the sender makes the process's task kill it. The entry of a process that has
                // exited is already gone.
                drop(self.processes.lock().unwrap().remove(&process));
                json(())
            }
            Call::OfferUserfaultfd { user } => {
                // Without the device, QEMU says what it lacks.
                let _ = userfaultfd::offer(user);
                json(())
            }
            Call::WriteFile { path, text, user } => {
                json(isolate::write_private(Path::new(&path), &text, user)?)
            }
            Call::CpuTime { process } => {
                let pid = self.children.lock().unwrap().get(&process).copied();
                json(pid.and_then(|pid| cpu_time_ns(Pid::from_raw(pid.cast_signed()))))
            }
            Call::CreateDisk { folder, name, bytes, written_bytes } => {
                let server = Arc::clone(self);
                let (number, [size, written]) = (self.next_number(), [bytes, written_bytes].map(Bytes::new));
                let create = move || server.disks.create(number, Path::new(&folder), name, size, written);
                json(task::spawn_blocking(create).await??)
            }
            Call::OpenDisk { path } => json(self.disks.open(self.next_number(), Path::new(&path))?),
            Call::DiskUsage { disk } => json(self.disks.usage(disk)?),
            Call::CreateFolder => json(self.disks.create_folder(self.next_number(), Path::new(RUN_DIR))?),
            Call::OpenFolder { path } => json(self.disks.open_folder(self.next_number(), Path::new(&path))?),
            Call::OpenSocket { folder, name } => json(self.disks.open_socket(folder, &name)?),
            Call::CloseDisk { disk } => {
                self.disks.close(disk);
                json(())
            }
            Call::ServeDisk { disk, address, interface } => json(self.serve_disk(disk, address, &interface)?),
            Call::Connect { process, path, timeout_ms } => {
                let path = Path::new(RUN_DIR).join(path);
                json(self.connect(process, &path, Duration::from_millis(timeout_ms)).await?)
            }
            Call::TakeUpload(file) => json(task::spawn_blocking(move || boot_files::take(&file)).await??),
            Call::AddLink { name, peer, peer_pid } => {
                let namespace = File::open(format!("/proc/{peer_pid}/ns/net"))?;
                self.netlink.add_veth(&name, &peer, Some(namespace.as_fd())).await?;
                json(self.netlink.set_up(&name).await?)
            }
            Call::Attach { parent, name } => {
                let host =
                    self.host.as_ref().ok_or("only a node on another host can take over interfaces")?;
                self.attached.lock().unwrap().push(name.clone());
                host.attach(&parent, &name).await?;
                json(self.netlink.set_up(&name).await?)
            }
            Call::AddEmulatedLink { name, peer, peer_pid } => {
                let namespace = File::open(format!("/proc/{peer_pid}/ns/net"))?;
                let (near, far) = (Tun::open(&name)?, Tun::open_in(namespace.as_fd(), &peer)?);
                let emulator = Emulator::start(near, far, &LinkProfile::default(), EMULATOR_SEED)?;
                self.emulators.lock().unwrap().insert(name, emulator);
                json(())
            }
            Call::AllowTcpBuffers { bytes } => json(self.tcp_buffers.allow(bytes)?),
            Call::AddBridge { name, ports } => {
                self.netlink.add_bridge(&name).await?;
                for port in &ports {
                    self.netlink.enslave(port, &name).await?;
                    self.netlink.set_up(port).await?;
                }
                json(self.netlink.set_up(&name).await?)
            }
            Call::SetUp { interface, address } => {
                if let Some((address, prefix)) = address {
                    self.netlink.add_address(&interface, address, prefix).await?;
                }
                json(self.netlink.set_up(&interface).await?)
            }
            Call::ProhibitAllBut { peer, prefix } => json(self.netlink.prohibit_all_but(peer, prefix).await?),
            Call::Shape { interface, profile } => json(self.shape(&interface, &profile).await?),
            Call::TcpSent { port } => json(connections::sent_bytes(port)?),
            Call::Traffic { interface } => json(self.traffic(&interface).await?),
            Call::Reach { target, interval_ns, timeout_ms } => {
                let (interval, timeout) =
                    (Duration::from_nanos(interval_ns), Duration::from_millis(timeout_ms));
                Probe::start(target, interval, timeout, None).await?.stop(Duration::ZERO).await?;
                json(())
            }
            Call::StartProbe { probe, target, interval_ns, timeout_ms } => {
                let mut running = self.probe.lock().await;
                if running.is_some() {
                    return Err("a probe is already running".into());
                }
                let (interval, timeout) =
                    (Duration::from_nanos(interval_ns), Duration::from_millis(timeout_ms));
                let reports = Some(self.pass_on_reports(probe));
                *running = Some(Probe::start(target, interval, timeout, reports).await?);
                json(())
            }
            Call::StopProbe { patience_ms } => {
                // The lock is released first: another call may meanwhile stop the attempt.
                let probe = self.probe.lock().await.take();
                let probe = probe.ok_or("no probe is running")?;
                json(probe.stop(Duration::from_millis(patience_ms)).await?)
            }
        }
    }

    /// Starts a task that forwards a probe's reports while it runs. Returns the queue for the reports, which
    /// is emptied no faster than they can be written.
    fn pass_on_reports(&self, probe: u64) -> mpsc::Sender<ProbeProgress> {
        let (queue, mut reports) = mpsc::channel(progress::QUEUE);
        let out = self.out.clone();
        tokio::spawn(async move {
            while let Some(progress) = reports.recv().await {
                out.send_in_turn(FromNode::Probed { probe, progress }).await;
            }
        });
        queue
    }

    /// Starts a process. Returns its number.
    fn spawn(self: &Arc<Self>, spec: &ProcessSpec) -> io::Result<u64> {
        let network = spec.frames_of.as_deref().map(FrameRelay::open).transpose()?;
        let (frames, socket) = network.unzip();
        let inherited = spec.disks.iter().map(|disk| self.disks.for_process(*disk));
        let disks = inherited.collect::<io::Result<Vec<_>>>()?;
        let mut files = Vec::new();
        for number in &spec.files {
            let file = self.disks.for_process(*number)?;
            disks::link(*number, &file)?;
            files.push(file);
        }
        let mut command = Command::new(&spec.program);
        command
            .args(
                spec.args.iter().map(|arg| disks::fill_in(fill_in_descriptor(arg, socket.as_ref()), &disks)),
            )
            .stdin(Stdio::null());
        let started = self.start(&mut command, frames);
        drop((socket, files, disks));
        started.map_err(|e| io::Error::new(e.kind(), format!("cannot start {}: {e}", spec.program)))
    }

    /// Starts an NFS server for a disk. Returns the number of its process.
    fn serve_disk(self: &Arc<Self>, disk: u64, address: Ipv4Addr, interface: &str) -> io::Result<u64> {
        let file = self.disks.get(disk)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("testbed").args(["nfs", "--address", &address.to_string(), "--interface", interface]);
        self.start(command.stdin(file), None)
    }

    /// Starts a command and the tasks that forward its output and report its exit. Returns the number of the
    /// process.
    fn start(self: &Arc<Self>, command: &mut Command, frames: Option<FrameRelay>) -> io::Result<u64> {
        command
            .current_dir(RUN_DIR)
            .env_clear()
            .envs(env::vars_os().filter(|(name, _)| is_kept(name)))
            // The reasons in its output are compared with known ones.
            .env("LC_ALL", "C")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let oom_kills = cgroup::oom_kills();
        let mut child = first_to_be_killed(|| command.spawn())?;
        // There is no `await` since the start, so the process cannot have been killed as a stray.
        let process = self.next_number();
        self.children.lock().unwrap().extend(child.id().map(|pid| (process, pid)));
        let relay = frames.map(|frames| task::spawn_local(frames.relay()));
        let (keep, killed) = oneshot::channel();
        self.processes.lock().unwrap().insert(process, keep);
        let outputs = [
            tokio::spawn(Arc::clone(self).forward_output(process, child.stdout.take())),
            tokio::spawn(Arc::clone(self).forward_output(process, child.stderr.take())),
        ];
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let status = match wait_or_kill(&mut child, killed).await {
                (status, By::Others) if !status.is_success() => {
                    ExitStatus::new(format!("{status}{}", lack_of_memory(oom_kills)))
                }
                (status, _) => status,
            };
            server.children.lock().unwrap().remove(&process);
            // Strays may hold the outputs open.
            server.kill_strays().await;
            for output in outputs {
                let _ = output.await;
            }
            if let Some(relay) = relay {
                relay.abort();
            }
            server.processes.lock().unwrap().remove(&process);
            server.send(FromNode::Exited { process, status });
        });
        Ok(process)
    }

    /// Kills all descendants of this node that do not descend from a running process: the descendants of
    /// processes that have ended. The node is the first process of its PID namespace, so none of them can
    /// leave it.
    async fn kill_strays(&self) {
        self.kill_all_but(|| self.children.lock().unwrap().values().copied().collect()).await;
    }

    /// Kills all descendants of this node, except for these children and their descendants.
    async fn kill_all_but(&self, kept: impl Fn() -> BTreeSet<u32>) {
        let deadline = time::Instant::now() + STRAY_LIMIT;
        loop {
            // Without `/proc`, only the process itself is killed.
            let running = process_tree::signal_descendants(Signal::SIGKILL, &kept()).unwrap_or(false);
            if !running || time::Instant::now() >= deadline {
                return;
            }
            time::sleep(process_tree::INTERVAL).await;
        }
    }

    async fn forward_output(self: Arc<Self>, process: u64, from: Option<impl AsyncRead + Unpin>) {
        let Some(from) = from else { return };
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // A longer line is forwarded in pieces: its length is not a reason to end the process.
        while (&mut from).take(OUTPUT_LINE_BYTES).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            self.out.send_in_turn(FromNode::Output { process, text }).await;
            line.clear();
        }
    }

    /// Connects to a process's Unix socket and starts the tasks that carry its lines. Returns the channel's
    /// number.
    async fn connect(self: &Arc<Self>, process: u64, path: &Path, timeout: Duration) -> io::Result<u64> {
        let stream = time::timeout(timeout, async {
            // Stop when the process has exited: a later process may listen on the same path, whose socket is
            // not the requested one.
            while self.processes.lock().unwrap().contains_key(&process) {
                match UnixStream::connect(path).await {
                    Ok(stream) => return Ok(stream),
                    Err(_not_there_yet) => time::sleep(Duration::from_millis(2)).await,
                }
            }
            Err(io::Error::other(format!("the process that should listen on {} has exited", path.display())))
        });
        let stream = stream.await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing listens on {} after {timeout:?}", path.display()),
            )
        })??;
        let (read, mut write) = stream.into_split();
        let channel = self.next_number();
        let (lines, mut to_write) = mpsc::unbounded_channel::<String>();
        self.channels.lock().unwrap().insert(channel, lines);
        tokio::spawn(async move {
            while let Some(mut line) = to_write.recv().await {
                line.push('\n');
                if write.write_all(line.as_bytes()).await.is_err() {
                    break;
                }
            }
        });
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let mut read = BufReader::new(read);
            let mut line = Vec::new();
            let reason = loop {
                match read_line(&mut read, &mut line, CHANNEL_LINE_BYTES).await {
                    Ok(true) => {
                        let text = String::from_utf8_lossy(&line).trim_end().to_string();
                        server.out.send_in_turn(FromNode::Line { channel, text }).await;
                    }
                    Ok(false) => break None,
                    Err(error) => break Some(error.to_string()),
                }
            };
            server.channels.lock().unwrap().remove(&channel);
            server.send(FromNode::Closed { channel, reason });
        });
        Ok(channel)
    }

    async fn shape(&self, interface: &str, profile: &Profile) -> Result<Applied, netem::Error> {
        if let Some(emulator) = self.emulators.lock().unwrap().get(interface) {
            emulator.change(&LinkProfile::symmetric(profile.clone()))?;
            return Ok(Applied {
                interface: interface.into(),
                backend: Backend::Userspace,
                tree: vec![userspace::describe(profile)],
                in_place: true,
                repaired: Vec::new(),
            });
        }
        self.wire.shape(&self.netlink, interface, profile).await
    }

    async fn traffic(&self, interface: &str) -> Result<Traffic, Box<dyn std::error::Error + Send + Sync>> {
        if let Some(emulator) = self.emulators.lock().unwrap().get(interface) {
            if !emulator.is_alive() {
                return Err("the link emulator has stopped".into());
            }
            let [forward, backward] = emulator.statistics();
            return Ok(Traffic {
                sent_bytes: forward.delivered_bytes,
                received_bytes: backward.delivered_bytes,
                late: Some(emulator.take_lateness()),
            });
        }
        Ok(self.wire.traffic(&self.netlink, interface).await?)
    }
}

/// Collects the facts about this host, for a node with this privilege.
pub async fn facts(privilege: Privilege) -> Result<Facts, Box<dyn std::error::Error + Send + Sync>> {
    let memory = host::memory()?;
    // QEMU may hang, and the node has to go on meanwhile.
    let qemu = task::spawn_blocking(host::qemu_version).await?;
    let broken = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
    Ok(Facts {
        version: env!("CARGO_PKG_VERSION").into(),
        broken_qemu: qemu.as_ref().err().filter(|error| broken(error)).map(ToString::to_string),
        qemu: qemu.ok(),
        kernel: host::kernel_release()?,
        cpu_model: host::cpu_model(),
        cpus: host::cpus(),
        memory_bytes: memory.total.get(),
        available_memory_bytes: memory.available.get(),
        lockable_bytes: getrlimit(Resource::Memlock).current,
        limited_by_cgroup: memory.limited_by_cgroup,
        clock: Timestamp::now(),
        privilege,
        features: netem::kernel::supported().await?.iter().map(ToString::to_string).collect(),
        no_emulator: userspace::supported().err().map(|error| error.to_string()),
    })
}

/// Returns whether the processes that a node starts get a variable of this name.
fn is_kept(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| KEPT_VARIABLES.contains(&name) || name.starts_with("TESTBED_"))
}

/// Who ended a process.
enum By {
    /// The node killed it.
    Node,
    /// The process itself, the kernel or somebody else.
    Others,
}

/// Waits until the process exits, and kills it when the sender of `killed` is dropped.
async fn wait_or_kill(child: &mut Child, killed: oneshot::Receiver<()>) -> (ExitStatus, By) {
    let (status, by) = tokio::select! {
        status = child.wait() => (status, By::Others),
        _ = killed => {
            // The process may have exited just now; either way `wait` returns its status.
            let _ = child.start_kill();
            (child.wait().await, By::Node)
        }
    };
    (ExitStatus::new(status.map_or_else(|e| e.to_string(), |s| s.to_string())), by)
}

/// Starts a process that the kernel kills before this node, and before `testbed`, if memory runs out.
fn first_to_be_killed<T>(start: impl FnOnce() -> T) -> T {
    const FILE: &str = "/proc/self/oom_score_adj";
    // The process inherits the node's score. Any process may raise its own score, and lower it again.
    let before = fs::read_to_string(FILE);
    let raised = before.is_ok() && fs::write(FILE, OOM_SCORE).is_ok();
    let started = start();
    if let (Ok(before), true) = (before, raised) {
        let _ = fs::write(FILE, before);
    }
    started
}

/// Returns a note, to be appended to the exit status of a process, if the kernel has killed processes for
/// lack of memory since the process was started. `before` is the number of processes that it had killed by
/// then.
fn lack_of_memory(before: Option<u64>) -> &'static str {
    match (before, cgroup::oom_kills()) {
        (Some(before), Some(now)) if now > before => {
            if host::memory().is_ok_and(|memory| memory.limited_by_cgroup) {
                ", killed by the kernel because the memory of its cgroup ran out"
            } else {
                ", killed by the kernel because memory ran out"
            }
        }
        _ => "",
    }
}

fn json(value: impl Serialize) -> CallResult {
    Ok(serde_json::to_value(value)?)
}

/// Replaces [`protocol::FRAMES`] in an argument with the socket's descriptor number.
fn fill_in_descriptor(arg: &str, socket: Option<&OwnedFd>) -> String {
    match socket {
        Some(socket) => arg.replace(protocol::FRAMES, &socket.as_raw_fd().to_string()),
        None => arg.into(),
    }
}
