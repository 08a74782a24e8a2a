//! What the orchestrator and a node process say to each other: one JSON object a line, over the node's
//! standard input and output, which a local child process and an SSH session both have.
//!
//! The orchestrator sends [`ToNode`]; the node sends [`FromNode`]. Calls carry a number and are answered in
//! any order. Conversations with QEMU's monitor and with the guest are lines too, so the node passes them
//! through as [`ToNode::Line`] and [`FromNode::Line`] of a channel, without looking inside.

use jiff::Timestamp;
use netem::userspace::Lateness;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, net::Ipv4Addr};

/// In an argument of [`Spawn::args`]: the number of the file descriptor through which [`Spawn::frames_of`]
/// come and go.
pub const FRAMES: &str = "{frames}";

/// A message to a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToNode {
    /// Do this and send a [`FromNode::Reply`] with the same number.
    Call {
        /// Chosen by the orchestrator.
        id: u64,
        /// What to do.
        call: Call,
    },
    /// Write this line to a channel that [`Call::Connect`] opened.
    Line {
        /// The channel's number.
        channel: u64,
        /// The line, without its end.
        text: String,
    },
    /// I am still here. A node on another host that hears nothing for a while takes it that nobody is.
    Alive,
}

/// A message from a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromNode {
    /// The answer to a call.
    Reply {
        /// The call's number.
        id: u64,
        /// What was asked for, or why not, in words.
        result: Result<Value, String>,
    },
    /// A line came in on a channel.
    Line {
        /// The channel's number.
        channel: u64,
        /// The line, without its end.
        text: String,
    },
    /// A channel's other end closed it.
    Closed {
        /// The channel's number.
        channel: u64,
    },
    /// A process wrote a line to its standard output or standard error.
    Output {
        /// The process, as [`Call::Spawn`] numbered it.
        process: u64,
        /// The line, without its end.
        text: String,
    },
    /// A process ended; all of its output has been sent before.
    Exited {
        /// The process, as [`Call::Spawn`] numbered it.
        process: u64,
        /// How, in words: `exit status: 1`, `signal: 9 (SIGKILL)`.
        status: String,
    },
}

/// What a node can be asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// Describe yourself: [`Facts`].
    Facts,
    /// Answer, at once.
    Ping,
    /// Show to whoever looks for nodes that the lab is complete, and this node open to visitors.
    Announce,
    /// Start a process; answered with its number.
    Spawn(Spawn),
    /// Kill a process at once (SIGKILL). Not an error if it has ended already.
    Kill {
        /// The process's number.
        process: u64,
    },
    /// Connect to a Unix socket of a process started here, waiting up to `timeout_ms` for it to be there, and
    /// no longer than the process runs; answered with the channel's number.
    Connect {
        /// The process's number.
        process: u64,
        /// The socket's path in the node's private directory.
        path: String,
        /// How long to wait for the socket, in milliseconds.
        timeout_ms: u64,
    },
    /// Make a pair of virtual Ethernet interfaces, this end up, the other in another node's namespace.
    AddLink {
        /// The name of this end.
        name: String,
        /// The name of the other end.
        peer: String,
        /// The process in whose network namespace the other end shall be, by its number on this host.
        peer_pid: u32,
    },
    /// Take over the wire of one of the host's interfaces, as an interface of the node's. One that carries
    /// the SSH session is refused. For a node on another host only.
    Attach {
        /// The host's interface.
        parent: String,
        /// The name of the node's.
        name: String,
    },
    /// Make a bridge that joins the interfaces named, and bring all of them up.
    AddBridge {
        /// The bridge's name.
        name: String,
        /// Its ports.
        ports: Vec<String>,
    },
    /// Give an interface an address and bring it up.
    SetUp {
        /// The interface.
        interface: String,
        /// Its IPv4 address and prefix length, if it shall have one.
        address: Option<(Ipv4Addr, u8)>,
    },
    /// Make a pair of TUN devices with a link emulator between them, one here, the other in another node's
    /// namespace. It lives as long as this node.
    AddEmulatedLink {
        /// The name of this end.
        name: String,
        /// The name of the other end.
        peer: String,
        /// The process in whose network namespace the other end shall be, by its number on this host.
        peer_pid: u32,
    },
    /// Let TCP's buffers in this node's network namespace grow to at least so many bytes; with 0, as far as
    /// the kernel had it at first.
    AllowTcpBuffers {
        /// How many.
        bytes: u64,
    },
    /// Shape what this node sends through an interface; of a link that is emulated here, both directions.
    /// Answered with a [`netem::Applied`]. What is under way on the link is not lost.
    Shape {
        /// The interface.
        interface: String,
        /// What to enforce.
        profile: Box<netem::Profile>,
    },
    /// What has passed through an interface so far: [`Traffic`].
    Traffic {
        /// The interface.
        interface: String,
    },
    /// Send an ICMP echo request at a fixed interval until [`Call::StopProbe`]; answered when the first
    /// reply is in.
    StartProbe {
        /// Whom to ask.
        target: Ipv4Addr,
        /// The interval, in nanoseconds.
        interval_ns: u64,
        /// How long to wait for the first reply, in milliseconds.
        timeout_ms: u64,
    },
    /// End the probe; answered with a [`super::server::probe::Report`].
    StopProbe,
}

/// A process to start, in the node's private directory, which vanishes with the node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Spawn {
    /// The program.
    pub program: String,
    /// Its arguments; [`FRAMES`] is replaced.
    pub args: Vec<String>,
    /// An interface whose Ethernet frames the process gets, and sends, as datagrams of an inherited socket.
    pub frames_of: Option<String>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Its version of this program.
    pub version: String,
    /// Its QEMU's version, if it has one.
    pub qemu: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// Model of its CPU.
    pub cpu_model: String,
    /// CPUs that are online.
    pub cpus: usize,
    /// Memory in all, in bytes.
    pub memory_bytes: u64,
    /// Memory that could be had without swapping when it said this, in bytes.
    pub available_memory_bytes: u64,
    /// Its wall clock when it said this. No duration is taken from it.
    pub clock: Timestamp,
    /// Whether its namespaces are root's or an ordinary user's.
    pub privilege: Privilege,
    /// The kernel modules of [`netem::Feature`] that it has, loaded or built in, by name.
    pub features: BTreeSet<String>,
    /// Why it cannot emulate links ([`netem::userspace`]); absent where it can.
    pub no_emulator: Option<String>,
}

/// Where a node's right to make namespaces, links and queueing disciplines comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// The user is root.
    Root,
    /// An ordinary user, root only inside a user namespace of its own.
    UserNamespace,
}

/// What has passed through an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes sent, Ethernet headers included.
    ///
    /// As the queueing discipline counted them where there is one (it counts the headers of every segment of
    /// an offloaded packet, the interface only those of the first). On a link that is emulated here, as the
    /// emulator delivered them: it carries IP and adds 14 bytes for the Ethernet header of each frame.
    /// Neither counts what was lost or dropped, both count what was sent again. The emulator does not count
    /// what is still under way.
    pub sent_bytes: u64,
    /// Bytes received, as the interface counted them, or as the emulator delivered them.
    pub received_bytes: u64,
    /// By how much the emulator missed the times at which packets were due, in both directions, since this
    /// was last asked; absent where the kernel shapes.
    pub late: Option<Lateness>,
}
