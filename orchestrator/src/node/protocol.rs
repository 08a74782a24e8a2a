//! The protocol between the orchestrator and a node process: one JSON object per line over the node's
//! standard input and output. A local child process and an SSH session both provide these streams.
//!
//! The orchestrator sends [`ToNode`]; the node sends [`FromNode`]. Calls are numbered, and replies may arrive
//! in any order. QEMU's monitor and the guest's control port are line-based too; the node forwards their
//! lines unparsed on a channel, as [`ToNode::Line`] and [`FromNode::Line`].

use crate::layout::shell_line;
use jiff::Timestamp;
use netem::userspace::Lateness;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, fmt, iter, net::Ipv4Addr};

/// The placeholder in [`ProcessSpec::args`] for the number of the inherited file descriptor that carries the
/// Ethernet frames of [`ProcessSpec::frames_of`].
pub const FRAMES: &str = "{frames}";

/// The folder in a node's private directory for what the node itself creates there. Only the node's user can
/// change it. In the directory itself, QEMU, which may be another user, can put something in the way.
pub const NODE_FOLDER: &str = "node";

/// Returns the path at which a process opens one of its [`ProcessSpec::files`], in its working directory.
pub fn file_path(disk: u64) -> String {
    format!("{NODE_FOLDER}/file-{disk}")
}

/// Returns the placeholder in [`ProcessSpec::args`] for the path of an inherited disk: the one with this
/// index in [`ProcessSpec::disks`].
pub fn disk_path(index: usize) -> String {
    format!("{{disk {index}}}")
}

/// A message from the orchestrator to a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToNode {
    /// Carry out a call and answer with a [`FromNode::Reply`] of the same number.
    Call {
        /// The call's number, chosen by the orchestrator.
        id: u64,
        /// The operation to carry out.
        call: Call,
    },
    /// Write a line to a channel.
    Line {
        /// The channel, as numbered by [`Call::Connect`].
        channel: u64,
        /// The line without its line terminator.
        text: String,
    },
    /// A keep-alive, which the node answers with [`FromNode::Alive`].
    Alive {
        /// How long the orchestrator may be silent, in milliseconds. A node on another host ends after a
        /// longer silence; see [`super::alive`].
        patience_ms: u64,
    },
}

/// A message from a node to the orchestrator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromNode {
    /// The answer to a call.
    Reply {
        /// The number from [`ToNode::Call`].
        id: u64,
        /// The call's return value, or the error message if the call failed.
        result: Result<Value, String>,
    },
    /// A line arrived on a channel.
    Line {
        /// The channel, as numbered by [`Call::Connect`].
        channel: u64,
        /// The line without its line terminator.
        text: String,
    },
    /// A channel has closed.
    Closed {
        /// The channel, as numbered by [`Call::Connect`].
        channel: u64,
        /// Why the node closed the channel; absent if the peer did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A process wrote a line to its standard output or standard error.
    Output {
        /// The process, as numbered by [`Call::Spawn`].
        process: u64,
        /// The line without its line terminator.
        text: String,
    },
    /// A process exited, and everything that it had started is gone; all of its output has already been sent.
    Exited {
        /// The process, as numbered by [`Call::Spawn`].
        process: u64,
        /// How it has ended.
        status: ExitStatus,
    },
    /// A probe has something to report while it runs.
    Probed {
        /// The number of the probe, from [`Call::StartProbe`].
        probe: u64,
        /// What the probe has seen.
        progress: ProbeProgress,
    },
    /// The answer to [`ToNode::Alive`], sent by a thread that does nothing else.
    Alive,
    /// The node's last message: it is ending, although its input has not ended.
    Ending {
        /// Why the node is ending, as a clause that follows "the node is gone:".
        reason: String,
    },
}

/// An operation that a node carries out for the orchestrator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// Return the node's [`Facts`].
    Facts,
    /// Reply immediately; measures the round trip.
    Ping,
    /// Mark the node's process as part of a complete lab that other processes may inspect and enter.
    Announce,
    /// Start a process; returns its number.
    Spawn(ProcessSpec),
    /// Kill a process, and everything that it has started, with SIGKILL. Not an error if it has already
    /// exited.
    Kill {
        /// The process, as numbered by [`Call::Spawn`].
        process: u64,
    },
    /// Allow QEMU to use userfaultfd, as the destination of post-copy, although it runs as an unprivileged
    /// user. Not an error if the kernel lacks userfaultfd, or if this node may not grant it: QEMU then says
    /// what it lacks.
    OfferUserfaultfd {
        /// The number of that user, and of its group.
        user: u32,
    },
    /// Write a file in [`NODE_FOLDER`], which only its owner can read. Replaces a file of that name.
    WriteFile {
        /// The file's path in that folder, including the folders that have to be created.
        path: String,
        /// The content.
        text: String,
        /// The user ID of the owner; this process's user if absent.
        user: Option<u32>,
    },
    /// Return the CPU time that a process has used, in nanoseconds; nothing if it has exited.
    CpuTime {
        /// The process, as numbered by [`Call::Spawn`].
        process: u64,
    },
    /// Create a disk. Returns a [`CreatedDisk`].
    CreateDisk {
        /// The folder on the node's host in which to create the file.
        folder: String,
        /// Whether the file has a name in the folder.
        name: DiskName,
        /// The size of the file.
        bytes: u64,
        /// The size, in bytes, of its first part, which is written beforehand by
        /// [`stressor::disk::fill_image`]. The rest reads as zeros, and takes no space.
        written_bytes: u64,
    },
    /// Open a file that another node has created, on this host or in a folder that hosts share, as a disk.
    /// Returns a [`CreatedDisk`].
    OpenDisk {
        /// The path that the other node returned.
        path: String,
    },
    /// Return the [`DiskUsage`] of a disk.
    DiskUsage {
        /// The disk, as numbered by [`Call::CreateDisk`] or [`Call::OpenDisk`].
        disk: u64,
    },
    /// Create a folder for sockets in the node's private directory, in which each process that reaches it can
    /// add files. It is gone with all that is in it when it is closed, as a disk, or the node ends. Returns a
    /// [`CreatedDisk`].
    CreateFolder,
    /// Open a folder that another node on this host has created. It is closed as a disk. Returns a
    /// [`CreatedDisk`].
    OpenFolder {
        /// The path that the other node returned.
        path: String,
    },
    /// Let all users connect to a socket in a folder that the node's user has created. Returns whether the
    /// socket is there.
    OpenSocket {
        /// The folder, as numbered by [`Call::CreateFolder`].
        folder: u64,
        /// The name of the socket.
        name: String,
    },
    /// Close a disk. A process that has inherited it can still use it.
    CloseDisk {
        /// The disk, as numbered by [`Call::CreateDisk`].
        disk: u64,
    },
    /// Start an NFS server for a disk ([`crate::nfs`]); returns the number of its process, as
    /// [`Call::Spawn`] does.
    ServeDisk {
        /// The disk, as numbered by [`Call::CreateDisk`].
        disk: u64,
        /// The address at which the server listens.
        address: Ipv4Addr,
        /// The only interface through which clients can connect.
        interface: String,
    },
    /// Connect to a Unix socket of a process started by this node. Waits until the socket exists, but no
    /// longer than `timeout_ms` or the life of the process. Returns the channel's number.
    Connect {
        /// The process, as numbered by [`Call::Spawn`].
        process: u64,
        /// The socket's path in the node's private directory.
        path: String,
        /// How long to wait for the socket, in milliseconds.
        timeout_ms: u64,
    },
    /// Copy an uploaded file to where only this node can write, and check the copy. Returns its path.
    TakeUpload(UploadedFile),
    /// Create a veth pair: one end here, brought up, the other in another node's network namespace.
    AddLink {
        /// The name of this end.
        name: String,
        /// The name of the other end.
        peer: String,
        /// The process whose network namespace gets the other end: its PID on this host.
        peer_pid: u32,
    },
    /// Take over a host interface: create an interface on top of it in the node's namespace. Refused for an
    /// interface that carries the SSH session. Only for a node on another host.
    Attach {
        /// The name of the host's interface.
        parent: String,
        /// The name of the new interface in the node.
        name: String,
    },
    /// Create a bridge, add interfaces to it as ports, and bring all of them up.
    AddBridge {
        /// The name of the bridge.
        name: String,
        /// The interfaces that become its ports.
        ports: Vec<String>,
    },
    /// Bring an interface up, after adding an address if one is given.
    SetUp {
        /// The name of the interface.
        interface: String,
        /// The IPv4 address and prefix length to add, if any.
        address: Option<(Ipv4Addr, u8)>,
    },
    /// Prohibit sending to all addresses of a network but one. No one else on the network can then connect to
    /// this node, since it does not answer.
    ProhibitAllBut {
        /// The address to which sending stays allowed.
        peer: Ipv4Addr,
        /// The prefix length of the network.
        prefix: u8,
    },
    /// Create two TUN devices with a link emulator between them: one here, the other in another node's
    /// network namespace. The link lives as long as this node.
    AddEmulatedLink {
        /// The name of this end.
        name: String,
        /// The name of the other end.
        peer: String,
        /// The process whose network namespace gets the other end: its PID on this host.
        peer_pid: u32,
    },
    /// Raise the limit of TCP's buffers in this node's network namespace to at least this size; 0 restores
    /// the kernel's original limit.
    AllowTcpBuffers {
        /// The minimum for the limit, in bytes.
        bytes: u64,
    },
    /// Shape what this node sends through an interface; if this node emulates the link, both directions.
    /// Returns a [`netem::Applied`]. Packets in transit on the link are not lost.
    Shape {
        /// The name of the interface.
        interface: String,
        /// The link properties to enforce.
        profile: Box<netem::Profile>,
    },
    /// Return the [`Traffic`] that an interface has counted so far.
    Traffic {
        /// The name of the interface.
        interface: String,
    },
    /// Return what TCP connections from this node to a port have sent: the near port of each, and the bytes
    /// that its peer has acknowledged.
    TcpSent {
        /// The port of the peers.
        port: u16,
    },
    /// Send ICMP echo requests at a fixed interval until the first is answered. Nothing keeps running after
    /// the answer to this call, whether or not the caller still waits for it.
    Reach {
        /// The address to ping.
        target: Ipv4Addr,
        /// The interval between requests, in nanoseconds.
        interval_ns: u64,
        /// How long to wait for a reply, in milliseconds.
        timeout_ms: u64,
    },
    /// Start the downtime probe: send ICMP echo requests at a fixed interval until [`Call::StopProbe`].
    /// Answered when the first echo reply has arrived.
    StartProbe {
        /// The probe's number, chosen by the orchestrator, for what the probe reports while it runs
        /// ([`FromNode::Probed`]).
        probe: u64,
        /// The address to ping.
        target: Ipv4Addr,
        /// The interval between requests, in nanoseconds.
        interval_ns: u64,
        /// How long to wait for the first reply, in milliseconds.
        timeout_ms: u64,
    },
    /// Stop the probe when the next reply arrives; returns a [`super::server::probe::ProbeReport`].
    StopProbe {
        /// How long to wait for the next reply, in milliseconds.
        patience_ms: u64,
    },
}

/// What a probe has seen since its last report: windows of time in which all requests have been answered or
/// are considered lost. A window is reported again if one of its requests is answered after that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeProgress {
    /// How long before this report the first window of the probe began, in nanoseconds.
    pub began_before_ns: u64,
    /// The width of a window in nanoseconds.
    pub window_ns: u64,
    /// The windows to report.
    pub windows: Vec<ProgressWindow>,
}

/// What has happened so far to the requests that were made in a window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressWindow {
    /// The number of the window, from 0. Windows follow one another without a break.
    pub number: u64,
    /// The number of requests, including those that could not be sent.
    pub requests: u64,
    /// The number of requests without a reply.
    pub unanswered: u64,
    /// The longest round trip in nanoseconds. Absent if no request was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_ns: Option<u64>,
    /// The median round trip in nanoseconds. Absent if no request was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_ns: Option<u64>,
}

/// The number of the user and of the group that QEMU becomes in a lab of root: those of `nobody`, which own
/// no other files.
pub const QEMU_USER: u32 = 65_534;

/// A process to start. Its working directory is the node's private directory, which vanishes with the node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The program, as a path or a name in `PATH`.
    pub program: String,
    /// The arguments; [`FRAMES`] and each [`disk_path`] in them are replaced.
    pub args: Vec<String>,
    /// The interface whose Ethernet frames the process receives and sends as datagrams on an inherited
    /// socket, if any.
    pub frames_of: Option<String>,
    /// The disks that the process inherits, as numbered by [`Call::CreateDisk`].
    #[serde(default)]
    pub disks: Vec<u64>,
    /// The disks and folders that the process inherits and can open again, each at its [`file_path`].
    #[serde(default)]
    pub files: Vec<u64>,
}

impl fmt::Display for ProcessSpec {
    /// Writes the command as it would be typed into a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shell_line(iter::once(&self.program).chain(&self.args)))
    }
}

/// How a process has ended, as text: `exit status: 1`, `signal: 9 (SIGKILL)`, or why that is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExitStatus(String);

impl ExitStatus {
    /// Wraps a text that begins as a [`std::process::ExitStatus`] is printed, or says why there is none.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns whether the process has exited with status 0.
    pub fn is_success(&self) -> bool {
        self.0 == "exit status: 0"
    }

    /// Returns whether the process has exited by itself, as opposed to by a signal.
    pub fn is_own_exit(&self) -> bool {
        self.0.starts_with("exit status")
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the file of a disk has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskName {
    /// It has none, and is gone when nothing has it open any more.
    Unnamed,
    /// It has one, so that other hosts that have mounted the folder can open it. It belongs to [`QEMU_USER`],
    /// to which a server of folders often maps root, and is open to nobody else. Where root is mapped to
    /// another user, all users of these hosts can open it. It is gone when the disk is closed or the node
    /// ends.
    Named,
}

/// A disk that a node has created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedDisk {
    /// The number of the disk.
    pub disk: u64,
    /// A path to the file on the node's host, valid for as long as the node has it open. Only processes that
    /// may trace the node can follow it.
    pub path: String,
}

/// The size of a disk's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Its length, in bytes.
    pub bytes: u64,
    /// The space that it takes, in bytes: less than its length if it has holes.
    pub allocated_bytes: u64,
    /// What the same file system has free for users other than root, in bytes.
    pub free_bytes: u64,
}

/// A file that the orchestrator has uploaded to the node's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    /// The path on the host.
    pub path: String,
    /// The size of the content.
    pub bytes: u64,
    /// The SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// A node's description of itself and its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of `testbed` that serves the node.
    pub version: String,
    /// The version of QEMU, if it is installed and runs.
    pub qemu: Option<String>,
    /// Why QEMU does not run although it is installed; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken_qemu: Option<String>,
    /// The release of the running kernel.
    pub kernel: String,
    /// The model name of the CPU.
    pub cpu_model: String,
    /// The number of online CPUs.
    pub cpus: usize,
    /// The host's total memory, in bytes.
    pub memory_bytes: u64,
    /// The memory available without swapping at the time of the answer, in bytes.
    pub available_memory_bytes: u64,
    /// The memory that a process of the node may lock, in bytes (`RLIMIT_MEMLOCK`); absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lockable_bytes: Option<u64>,
    /// Whether the available memory is what the limits of the node's control groups leave, while the host has
    /// more.
    pub limited_by_cgroup: bool,
    /// The node's wall clock at the time of the answer. No duration is computed from it.
    pub clock: Timestamp,
    /// Whether the namespaces were created by root or by an ordinary user.
    pub privilege: Privilege,
    /// The names of the kernel modules of [`netem::Feature`] that the kernel has, loaded or built in.
    pub features: BTreeSet<String>,
    /// Why the node cannot emulate links ([`netem::userspace`]); absent if it can.
    pub no_emulator: Option<String>,
}

/// The source of a node's right to create namespaces, links and queueing disciplines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// The node was started by root.
    Root,
    /// The node was started by an ordinary user, who is root only in the node's user namespace.
    UserNamespace,
}

/// The traffic counted on an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes sent, including Ethernet headers.
    ///
    /// Counted by the queueing disciplines: they count the headers of each segment of an offloaded packet,
    /// whereas the interface counts only those of the first. A link without shaping has a queueing discipline
    /// that only counts, and the count continues when they are replaced. If this node emulates the link,
    /// these are the bytes that the emulator delivered: it carries IP packets and adds 14 bytes per frame for
    /// the Ethernet header. Lost and dropped packets are not counted; retransmissions are. The emulator does
    /// not count packets still in transit.
    pub sent_bytes: u64,
    /// Bytes received, as counted by the interface or delivered by the emulator.
    pub received_bytes: u64,
    /// How late the emulator sent packets relative to their due times, in both directions, since the previous
    /// [`Call::Traffic`]; absent if the kernel shapes the link.
    pub late: Option<Lateness>,
}
