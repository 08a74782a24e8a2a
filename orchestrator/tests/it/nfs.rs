//! The NFS server: its answers to the calls of a client, and what it survives.

use crate::common::{
    nfs::{Arguments, MOST_BYTES, MOUNT, NFS, PORTMAP, Results, arguments, call, marked},
    real::skipped,
};
use netem::{Namespace, Netlink};
use nix::sys::socket::{setsockopt, sockopt};
use proptest::prelude::*;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    os::{fd::AsFd, unix::fs::FileExt},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use testbed::nfs::{Export, Garbage, LISTENING, PORT, url};

const PATIENCE: Duration = Duration::from_secs(60);

/// Procedures of NFS.
const GETATTR: u32 = 1;
const SETATTR: u32 = 2;
const LOOKUP: u32 = 3;
const ACCESS: u32 = 4;
const READ: u32 = 6;
const WRITE: u32 = 7;
const READDIR: u32 = 16;
const FSSTAT: u32 = 18;
const FSINFO: u32 = 19;
const PATHCONF: u32 = 20;
const COMMIT: u32 = 21;

/// Statuses of NFS.
const OK: u32 = 0;
const NO_ENTRY: u32 = 2;
const IO: u32 = 5;
const ACCESS_DENIED: u32 = 13;
const IS_A_DIRECTORY: u32 = 21;
const INVALID: u32 = 22;
const NO_SPACE: u32 = 28;
const STALE: u32 = 70;
const BAD_HANDLE: u32 = 10_001;
const OUT_OF_SYNC: u32 = 10_002;

/// Stabilities of a write.
const UNSTABLE: u32 = 0;
const FILE_SYNC: u32 = 2;

/// A client of an export, without a network.
struct Client(Export);

impl Client {
    fn new(file: File) -> Self {
        Self(Export::new(file).unwrap())
    }

    /// Makes a call and returns the answer, without the room for its marker.
    fn answer(&self, message: &[u8]) -> Result<Vec<u8>, Garbage> {
        let mut reply = Vec::new();
        self.0.answer(message, &mut reply)?;
        Ok(reply.split_off(4))
    }

    #[track_caller]
    fn call(&self, program: (u32, u32), procedure: u32, arguments: &Arguments) -> Vec<u8> {
        Results::of(&self.answer(&call(program, procedure, arguments)).unwrap()).0.to_vec()
    }

    /// Makes an NFS call. Returns its status and what follows it.
    #[track_caller]
    fn nfs(&self, procedure: u32, arguments: &Arguments) -> (u32, Vec<u8>) {
        let answer = self.call(NFS, procedure, arguments);
        let mut results = Results(&answer);
        (results.u32(), results.0.to_vec())
    }

    /// Returns the handles of the folder and of the disk.
    fn handles(&self) -> [Vec<u8>; 2] {
        let mounted = self.call(MOUNT, 1, &arguments().opaque(b"/testbed"));
        let mut mounted = Results(&mounted);
        assert_eq!(mounted.u32(), OK);
        let root = mounted.opaque().to_vec();
        let (status, found) = self.nfs(LOOKUP, &arguments().opaque(&root).opaque(b"disk"));
        assert_eq!(status, OK);
        [root, Results(&found).opaque().to_vec()]
    }

    fn write(&self, disk: &[u8], offset: u64, data: &[u8], stability: u32) -> (u32, Vec<u8>) {
        let to = arguments().opaque(disk).u64(offset).u32(data.len() as u32).u32(stability);
        self.nfs(WRITE, &to.opaque(data))
    }

    /// Reads from the disk. Returns the data, and whether the end of the disk is reached.
    #[track_caller]
    fn read(&self, disk: &[u8], offset: u64, count: u32) -> (Vec<u8>, bool) {
        let (status, read) = self.nfs(READ, &arguments().opaque(disk).u64(offset).u32(count));
        assert_eq!(status, OK);
        let mut read = Results(&read);
        assert!(read.attributes().is_some());
        let (count, at_end) = (read.u32(), read.u32() == 1);
        let data = read.opaque().to_vec();
        assert_eq!(data.len(), count as usize);
        (data, at_end)
    }
}

/// Returns an unnamed file of 8 MiB of zeros.
fn disk() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    file
}

#[test]
fn a_client_finds_the_disk_and_what_it_writes() {
    let file = disk();
    let client = Client::new(file.try_clone().unwrap());
    let port = |program: (u32, u32), protocol| {
        let answer = client.call(PORTMAP, 3, &arguments().u32(program.0).u32(program.1).u32(protocol).u32(0));
        Results(&answer).u32()
    };
    assert_eq!([port(NFS, 6), port(MOUNT, 6), port(NFS, 17), port((100_003, 4), 6)], [111, 111, 0, 0]);
    let exports = client.call(MOUNT, 5, &arguments());
    let mut exports = Results(&exports);
    assert_eq!((exports.u32(), exports.opaque()), (1, &b"/testbed"[..]));
    let elsewhere = client.call(MOUNT, 1, &arguments().opaque(b"/etc"));
    assert_eq!(Results(&elsewhere).u32(), NO_ENTRY);
    assert_eq!(url(Ipv4Addr::new(198, 18, 0, 1)), "nfs://198.18.0.1/testbed/disk");

    let [root, disk] = client.handles();
    let (status, info) = client.nfs(FSINFO, &arguments().opaque(&root));
    let mut info = Results(&info);
    assert_eq!((status, info.attributes(), info.u32()), (OK, Some(4096), 1 << 20));
    let (status, granted) = client.nfs(ACCESS, &arguments().opaque(&disk).u32(0x3f));
    let mut granted = Results(&granted);
    assert_eq!((status, granted.attributes(), granted.u32()), (OK, Some(8 << 20), 0xd));

    let data: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
    for (offset, stability) in [(4096, UNSTABLE), (2 << 20, FILE_SYNC)] {
        let (status, written) = client.write(&disk, offset, &data, stability);
        let mut written = Results(&written);
        assert_eq!((status, written.u32(), written.attributes()), (OK, 0, Some(8 << 20)));
        assert_eq!((written.u32(), written.u32()), (data.len() as u32, stability));
        assert!(client.read(&disk, offset, data.len() as u32) == (data.clone(), false));
    }
    let (status, _) = client.nfs(COMMIT, &arguments().opaque(&disk).u64(0).u32(0));
    assert_eq!(status, OK);
    let mut on_file = vec![0; data.len()];
    file.read_exact_at(&mut on_file, 4096).unwrap();
    assert!(on_file == data);

    // At the end of the file, beyond it, and more than one call can read.
    assert_eq!(client.read(&disk, (8 << 20) - 5, 5), (vec![0; 5], true));
    assert_eq!(client.read(&disk, (8 << 20) - 5, 4096), (vec![0; 5], true));
    assert_eq!(client.read(&disk, 1 << 40, 4096), (Vec::new(), true));
    assert!(client.read(&disk, 4 << 20, u32::MAX) == (vec![0; 1 << 20], false));

    for (procedure, arguments) in [
        (GETATTR, arguments().opaque(&disk)),
        (FSSTAT, arguments().opaque(&root)),
        (PATHCONF, arguments().opaque(&root)),
        (READDIR, arguments().opaque(&root).u64(2).u64(0).u32(4096)),
    ] {
        assert_eq!(client.nfs(procedure, &arguments).0, OK, "procedure {procedure}");
    }
    let (_, listed) = client.nfs(READDIR, &arguments().opaque(&root).u64(2).u64(0).u32(4096));
    let mut listed = Results(&listed);
    listed.attributes();
    listed.bytes(8);
    let _inode = (listed.u32(), listed.u64());
    assert_eq!((listed.opaque(), listed.u64(), listed.u32(), listed.u32()), (&b"disk"[..], 3, 0, 1));
}

#[test]
fn the_disk_can_be_resized_and_the_folder_cannot_be_changed() {
    let file = disk();
    let client = Client::new(file.try_clone().unwrap());
    let [root, disk] = client.handles();
    // No mode, no owner, no group; a size; no times; no guard.
    let resize = |size, guard: Option<u64>| {
        let request = arguments().opaque(&disk).u32(0).u32(0).u32(0).u32(1).u64(size).u32(0).u32(0);
        client.nfs(
            SETATTR,
            &match guard {
                Some(time) => request.u32(1).u64(time),
                None => request.u32(0),
            },
        )
    };
    let (status, resized) = resize(9 << 20, None);
    let mut resized = Results(&resized);
    assert_eq!((status, resized.u32(), resized.attributes()), (OK, 0, Some(9 << 20)));
    assert_eq!(resize(1 << 20, Some(1)).0, OUT_OF_SYNC);
    assert_eq!(resize(u64::MAX, None).0, INVALID);
    assert_eq!(file.metadata().unwrap().len(), 9 << 20);
    let with_mode = arguments().opaque(&disk).u32(1).u32(0o777).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0);
    assert_eq!(client.nfs(SETATTR, &with_mode).0, 1, "not permitted");

    let name = arguments().opaque(&root).opaque(b"other");
    // CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK
    for procedure in 8..=15 {
        assert_eq!(client.nfs(procedure, &name).0, ACCESS_DENIED, "procedure {procedure}");
    }
    assert_eq!(client.nfs(LOOKUP, &name).0, NO_ENTRY);
    assert_eq!(client.nfs(READ, &arguments().opaque(&root).u64(0).u32(1)).0, IS_A_DIRECTORY);
}

#[test]
fn handles_outlive_the_server_and_lead_to_no_other_disk() {
    let (file, other) = (disk(), disk());
    let before = Client::new(file.try_clone().unwrap());
    let [root, disk] = before.handles();
    before.write(&disk, 0, b"unstable", UNSTABLE);
    drop(before);
    let after = Client::new(file);
    assert_eq!(after.handles(), [root, disk.clone()]);
    assert_eq!(after.read(&disk, 0, 8).0, b"unstable");
    let (status, _) = after.nfs(COMMIT, &arguments().opaque(&disk).u64(0).u32(0));
    assert_eq!(status, OK);
    assert_eq!(Client::new(other).nfs(GETATTR, &arguments().opaque(&disk)).0, STALE);
    assert_eq!(after.nfs(GETATTR, &arguments().opaque(b"short")).0, BAD_HANDLE);
}

#[test]
fn errors_of_the_file_reach_the_client() {
    let opened = |path: &str| File::options().read(true).write(true).open(path).unwrap();
    let full = Client::new(opened("/dev/full"));
    let [_, disk] = full.handles();
    assert_eq!(full.write(&disk, 0, &[1; 4096], UNSTABLE).0, NO_SPACE);
    // No memory is mapped at address zero of this process.
    let broken = Client::new(opened("/proc/self/mem"));
    let [_, disk] = broken.handles();
    assert_eq!(broken.nfs(READ, &arguments().opaque(&disk).u64(0).u32(4096)).0, IO);
    // A pipe cannot be synced; data that was lost once stays lost.
    let (_reader, writer) = io::pipe().unwrap();
    let unsynced = Client::new(File::from(std::os::fd::OwnedFd::from(writer)));
    let [_, disk] = unsynced.handles();
    let commit = arguments().opaque(&disk).u64(0).u32(0);
    assert_ne!(unsynced.nfs(COMMIT, &commit).0, OK);
    assert_eq!(unsynced.nfs(COMMIT, &commit).0, IO);
}

#[test]
fn calls_that_are_not_for_this_server_are_refused() {
    let client = Client::new(disk());
    let refusal = |program, procedure, arguments: Arguments| {
        let answer = client.answer(&call(program, procedure, &arguments)).unwrap();
        Results(&answer[20..]).u32()
    };
    assert_eq!(refusal((100_227, 3), 0, arguments()), 1, "no such program");
    assert_eq!(refusal((100_003, 4), 1, arguments()), 2, "another version");
    assert_eq!(refusal(NFS, 22, arguments()), 3, "no such procedure");
    assert_eq!(refusal(NFS, GETATTR, arguments()), 4, "no arguments");
    let [_, disk] = client.handles();
    let too_short = arguments().opaque(&disk).u64(0).u32(8).u32(0).u32(8);
    assert_eq!(refusal(NFS, WRITE, too_short), 4, "less data than the call says");
    let mut other_rpc = call(NFS, 0, &arguments());
    other_rpc[11] = 3;
    assert_eq!(Results(&client.answer(&other_rpc).unwrap()[8..]).u32(), 1, "denied");
    let mut answer = call(NFS, 0, &arguments());
    answer[7] = 1;
    assert!(client.answer(&answer).is_err(), "not a call");
}

/// Returns a client of the disk that all generated calls are about.
fn shared_client() -> Client {
    static DISK: OnceLock<File> = OnceLock::new();
    Client::new(DISK.get_or_init(disk).try_clone().unwrap())
}

/// Generates calls whose numbers and lengths are often those of the protocols.
fn calls() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        0..24_u32,
        Just(24),
        Just(100_003),
        Just(1 << 20),
        Just(1 << 31),
        Just(u32::MAX),
        any::<u32>()
    ];
    let program = prop::sample::select(vec![PORTMAP, MOUNT, NFS]);
    let rest = prop::collection::vec(number, 0..24);
    (program, 0..23_u32, 0..3_u8, rest).prop_map(|(program, procedure, handle, rest)| {
        let handles = shared_client().handles();
        let first = match handle {
            0 => arguments(),
            which => arguments().opaque(&handles[usize::from(which) - 1]),
        };
        call(program, procedure, &rest.into_iter().fold(first, Arguments::u32))
    })
}

proptest! {
    #[test]
    fn no_message_causes_a_panic_or_a_long_answer(message in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(answer) = shared_client().answer(&message) {
            prop_assert!(answer.len() <= MOST_BYTES);
        }
    }

    #[test]
    fn no_call_causes_a_panic_or_a_long_answer(message in calls()) {
        let answer = shared_client().answer(&message).unwrap();
        prop_assert!(answer.len() <= MOST_BYTES, "{}", answer.len());
    }
}

/// A server in a network namespace, with an address on loopback and one on the interface `other`.
struct Served {
    network: Namespace,
    file: File,
    server: Child,
}

const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

impl Served {
    /// Starts a server. Skips the test if namespaces cannot be created.
    async fn start() -> Option<Self> {
        let network = match Namespace::new() {
            Ok(network) => network,
            Err(error) => return skipped(&error.to_string()),
        };
        Netlink::open_in(network.as_fd()).unwrap().set_up("lo").await.unwrap();
        let file = disk();
        let server = serve(&network, &file, "lo");
        Some(Self { network, file, server })
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    fn restart(&mut self) {
        self.kill();
        self.server = serve(&self.network, &self.file, "lo");
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = self.network.run(|| TcpStream::connect((ADDRESS, PORT)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Waits until the server answers on a new connection, for which it has a place once others are closed.
    #[track_caller]
    fn wait_for_a_place(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut stream = self.connect().unwrap();
            let sent = stream.write_all(&marked(&call(NFS, 0, &arguments())));
            if sent.and_then(|()| receive(&mut stream)).is_ok() {
                break;
            }
            assert!(Instant::now() < deadline, "the places are not given back");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Starts a server for connections through an interface, and waits until it listens.
fn serve(network: &Namespace, file: &File, interface: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["nfs", "--address", &ADDRESS.to_string(), "--interface", interface]);
    command.stdin(file.try_clone().unwrap()).stdout(Stdio::piped());
    let mut server = network.run(|| command.spawn()).unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), LISTENING);
    server
}

/// Reads an answer from a connection.
fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut marker = [0; 4];
    stream.read_exact(&mut marker)?;
    let mut answer = vec![0; (u32::from_be_bytes(marker) & !(1 << 31)) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Asserts that the server answers on a connection.
#[track_caller]
fn assert_answers(stream: &mut TcpStream) {
    stream.write_all(&marked(&call(NFS, 0, &arguments()))).unwrap();
    Results::of(&receive(stream).unwrap());
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_not_the_server() {
    let Some(served) = Served::start().await else { return };
    let mut good = served.connect().unwrap();
    assert_answers(&mut good);
    let garbage = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100],
        marked(b""),
        marked(&[1; 40]),
        marked(&call(NFS, 0, &arguments())[..17]),
        // A message that claims to be longer than any call.
        ((1_u32 << 31) | (MOST_BYTES as u32 + 4)).to_be_bytes().to_vec(),
    ];
    for bytes in garbage {
        let mut stream = served.connect().unwrap();
        // The connection may be closed during the write.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{bytes:?}");
        assert_answers(&mut good);
    }
    // Connections that are reset while they wait to be accepted.
    for _ in 0..50 {
        let stream = served.connect().unwrap();
        setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    }
    assert_answers(&mut good);
    served.wait_for_a_place();
}

#[tokio::test]
async fn the_number_of_connections_is_limited_and_their_places_are_given_back() {
    let Some(served) = Served::start().await else { return };
    let mut held: Vec<TcpStream> = (0..32).map(|_| served.connect().unwrap()).collect();
    held.iter_mut().for_each(assert_answers);
    let mut one_more = served.connect().unwrap();
    let _ = one_more.write_all(&marked(&call(NFS, 0, &arguments())));
    assert!(receive(&mut one_more).is_err(), "it is closed");
    held.iter_mut().for_each(assert_answers);
    drop(held);
    served.wait_for_a_place();
}

#[tokio::test]
async fn what_was_answered_is_there_after_the_server_was_killed() {
    let Some(mut served) = Served::start().await else { return };
    let [_, disk] = Client::new(served.file.try_clone().unwrap()).handles();
    for round in 1..=3_u8 {
        let mut stream = served.connect().unwrap();
        let to = arguments().opaque(&disk).u64(0).u32(1 << 20).u32(UNSTABLE);
        let write = marked(&call(NFS, WRITE, &to.opaque(&vec![round; 1 << 20])));
        // In pieces, and immediately followed by another call.
        stream.write_all(&write[..1000]).unwrap();
        stream.write_all(&[&write[1000..], &marked(&call(NFS, 0, &arguments()))].concat()).unwrap();
        assert_eq!(Results::of(&receive(&mut stream).unwrap()).u32(), OK);
        Results::of(&receive(&mut stream).unwrap());
        served.restart();
        assert!(receive(&mut stream).is_err(), "the connection ends with the server");
        let mut stream = served.connect().unwrap();
        let read = arguments().opaque(&disk).u64(0).u32(1 << 20);
        stream.write_all(&marked(&call(NFS, READ, &read))).unwrap();
        let answer = receive(&mut stream).unwrap();
        let mut results = Results::of(&answer);
        assert_eq!((results.u32(), results.attributes()), (OK, Some(8 << 20)));
        assert_eq!((results.u32(), results.u32()), (1 << 20, 0));
        assert!(results.opaque() == vec![round; 1 << 20]);
    }
}

#[tokio::test]
async fn the_server_has_no_rights_of_root() {
    if !nix::unistd::geteuid().is_root() {
        skipped::<()>("this is an ordinary user already");
        return;
    }
    let Some(served) = Served::start().await else { return };
    assert_answers(&mut served.connect().unwrap());
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.server.id())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
    let none = "0".repeat(16);
    assert_eq!([field("Groups:"), field("CapEff:"), field("CapPrm:")], ["", &none, &none]);
    assert_eq!(field("NoNewPrivs:"), "1");
}

#[tokio::test]
async fn only_clients_of_the_interface_can_connect() {
    let Some(mut served) = Served::start().await else { return };
    let netlink = Netlink::open_in(served.network.as_fd()).unwrap();
    netlink.add_veth("storage", "other", None).await.unwrap();
    netlink.set_up("storage").await.unwrap();
    served.kill();
    served.server = serve(&served.network, &served.file, "storage");
    let refused = served.connect().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
