//! The stressor's side of the [protocol](crate::protocol), over any pair of byte streams.
//!
//! The calling thread carries out requests, which a second thread reads; a third one writes replies and
//! telemetry. If the host does not read, only the writer blocks: requests are still carried out, their
//! replies wait, and the next telemetry line covers the whole time since the previous one. The dirtying
//! threads are not affected.
//!
//! Each line is one `write(2)`. A line that is not a valid request is skipped, or answered with a failure if
//! its number can be read; in both cases reading continues with the next line.

use crate::{
    clock::monotonic_ns,
    disk_engine::{DiskEngine, DiskMeter},
    engine::Engine,
    error::Error,
    machine::MemInfo,
    meter::Reader,
    protocol::{Answer, Command, Hello, Message, Request, TELEMETRY_INTERVAL_MS, Telemetry},
};
use frontend::{Text, unless_closed};
use serde::Deserialize;
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

/// The maximum length of a request in bytes. Longer lines are not valid requests.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// The allowed intervals between telemetry lines, in milliseconds.
const TELEMETRY_INTERVALS_MS: RangeInclusive<u64> = 1..=1000;

/// The time for which the end of the input waits for an output that takes nothing more.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the calling thread learns from the two others.
enum Event {
    Request(u64, Result<Command, String>),
    InputEnded(io::Result<()>),
    OutputEnded(io::Result<()>),
}

/// Serves requests until the input ends or one of the two streams fails, then stops the engines. Each stream
/// is preceded by its name in messages.
///
/// # Errors
///
/// Fails if one of the streams fails, if the output does not take all replies once the input has ended, or if
/// a thread cannot be started. A reader that has closed the output wants no more, which is not an error.
pub fn serve(
    engine: &mut Engine,
    disk: &mut DiskEngine,
    (source, input): (&str, impl Read + Send + 'static),
    (sink, output): (&str, impl Write + Send + 'static),
) -> Result<(), Error> {
    let telemetry = TelemetrySource { reader: Reader::new(engine.meter()), disk: disk.meter(), sequence: 0 };
    let interval_ms = Arc::new(AtomicU64::new(TELEMETRY_INTERVAL_MS));
    let (replies, outbox) = mpsc::channel();
    // Cannot fail: the receiver is in this function.
    let _ = replies.send(Message::Hello(hello()));
    // Requests wait in the input and not in memory.
    let (reader_events, events) = mpsc::sync_channel(0);
    let (writer_events, every) = (reader_events.clone(), Arc::clone(&interval_ms));
    let write = move || {
        let ended = write_messages(&outbox, telemetry, &every, output);
        // Once this function has returned, nobody learns how the threads ended.
        let _ = writer_events.send(Event::OutputEnded(ended));
    };
    let read = move || {
        let ended = read_requests(input, &reader_events);
        let _ = reader_events.send(Event::InputEnded(ended));
    };
    thread::Builder::new().name("writer".into()).spawn(write).map_err(Error::thread)?;
    thread::Builder::new().name("reader".into()).spawn(read).map_err(Error::thread)?;
    let (read, written) = loop {
        match events.recv().expect("a thread says how it ended before it ends") {
            Event::Request(id, command) => {
                let answer = command
                    .map_or_else(Answer::Failed, |command| execute(engine, disk, &interval_ms, command));
                // If the writer has ended, it says so next.
                let _ = replies.send(Message::Reply { id, answer });
            }
            Event::InputEnded(read) => break (read, None),
            Event::OutputEnded(written) => break (Ok(()), Some(written)),
        }
    };
    // The writer ends when the channel is closed.
    drop(replies);
    stop(engine, disk);
    read.map_err(|cause| Error::system(format!("read requests from {source}"), cause))?;
    let written = written.unwrap_or_else(|| match events.recv_timeout(PATIENCE) {
        Ok(Event::OutputEnded(written)) => written,
        _ => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")),
    });
    unless_closed(written).map_err(|cause| Error::system(format!("write to {sink}"), cause))
}

/// Reads requests until the input ends or nobody carries them out any more.
fn read_requests(input: impl Read, events: &SyncSender<Event>) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    while read_line(&mut input, &mut line)? {
        let Some((id, command)) = parse_request(&line) else {
            continue;
        };
        if events.send(Event::Request(id, command)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads one line into `line`, or an empty line instead of one that is longer than [`MAX_LINE_BYTES`].
/// Returns false at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
        line.clear();
    }
    Ok(true)
}

/// Parses a request. Returns its number and either its command or the error message for the reply. Returns
/// `None` if not even the number can be read.
fn parse_request(line: &[u8]) -> Option<(u64, Result<Command, String>)> {
    #[derive(Deserialize)]
    struct Number {
        id: u64,
    }

    match serde_json::from_slice::<Request>(line) {
        Ok(Request { id, command }) => Some((id, Ok(command))),
        Err(error) => {
            let Number { id } = serde_json::from_slice(line).ok()?;
            Some((id, Err(format!("invalid request: {error}"))))
        }
    }
}

/// Carries out a command. Returns when it is complete.
fn execute(
    engine: &mut Engine,
    disk: &mut DiskEngine,
    telemetry_interval_ms: &AtomicU64,
    command: Command,
) -> Answer {
    let outcome = match command {
        Command::Set(workload) => engine.set(workload),
        Command::SetDisk(load) => disk.set(load),
        Command::Start => engine.start().and_then(|()| disk.start()).inspect_err(|_| stop(engine, disk)),
        Command::Stop => {
            stop(engine, disk);
            Ok(())
        }
        Command::TelemetryEvery(ms) if !TELEMETRY_INTERVALS_MS.contains(&ms) => {
            return Answer::Failed(format!(
                "a telemetry interval of {ms} ms is out of range: use 1 to 1000 ms"
            ));
        }
        Command::TelemetryEvery(ms) => {
            telemetry_interval_ms.store(ms, Relaxed);
            Ok(())
        }
        Command::Verify => return Answer::Verified(engine.verify()),
        Command::VerifyDisk => match disk.verify() {
            Ok(verification) => return Answer::DiskVerified(verification),
            Err(error) => Err(error),
        },
    };
    outcome.map_or_else(|error| Answer::Failed(error.to_string()), |()| Answer::Done)
}

/// Stops both loads. The request to stop goes to the disk load first, because it may take longer.
fn stop(engine: &mut Engine, disk: &mut DiskEngine) {
    disk.request_stop();
    engine.stop();
    disk.stop();
}

/// Returns the greeting, which describes the stressor and the system that it runs on.
fn hello() -> Hello {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Hello {
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: kernel.trim().into(),
        cpus: thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: MemInfo::probe().map_or(0, |memory| memory.total.get()),
        clock_ns: monotonic_ns(),
    }
}

/// Writes replies as they arrive, and telemetry at its interval, until the channel is closed.
///
/// # Errors
///
/// Fails if the output fails.
fn write_messages(
    replies: &Receiver<Message>,
    mut telemetry: TelemetrySource,
    interval_ms: &AtomicU64,
    mut output: impl Write,
) -> io::Result<()> {
    let mut next = Instant::now() + Duration::from_millis(TELEMETRY_INTERVAL_MS);
    loop {
        let message = match replies.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => {
                let interval = Duration::from_millis(interval_ms.load(Relaxed));
                next = next_tick(next, Instant::now(), interval);
                Message::Telemetry(telemetry.next())
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let json = serde_json::to_string(&message).expect("messages have only string keys");
        let mut line = Text::json(&json);
        line += "\n";
        output.write_all(line.as_str().as_bytes()).and_then(|()| output.flush())?;
    }
}

/// Returns the time of the next telemetry line. Lines missed while the host did not read are not sent later.
fn next_tick(tick: Instant, now: Instant, interval: Duration) -> Instant {
    let next = tick + interval;
    if next > now { next } else { now + interval }
}

/// Creates telemetry lines with consecutive sequence numbers.
struct TelemetrySource {
    reader: Reader,
    disk: Arc<DiskMeter>,
    sequence: u64,
}

impl TelemetrySource {
    fn next(&mut self) -> Telemetry {
        let interval = self.reader.interval();
        let telemetry = Telemetry {
            sequence: self.sequence,
            clock_ns: monotonic_ns(),
            running: self.reader.is_running(),
            pages_dirtied: self.reader.pages_dirtied(),
            pages_forgone: self.reader.pages_forgone(),
            longest_stall_ns: interval.longest_stall_ns,
            write_latency: interval.latency(),
            write_latencies: self.write_latencies(),
            disk: self.disk.read(),
        };
        self.sequence += 1;
        telemetry
    }

    fn write_latencies(&self) -> Vec<u64> {
        let counts = self.reader.distribution();
        let used = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        counts[..used].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::HugePages, workload::Workload};
    use proptest::prelude::*;
    use std::sync::{Mutex, mpsc::Sender};
    use units::Bytes;

    /// An input whose data comes from a channel. Each message is available to a reader separately.
    struct ChannelReader(Receiver<Vec<u8>>, Vec<u8>);

    impl Read for ChannelReader {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            while self.1.is_empty() {
                let Ok(data) = self.0.recv() else { return Ok(0) };
                self.1 = data;
            }
            let count = self.1.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.1[..count]);
            self.1.drain(..count);
            Ok(count)
        }
    }

    /// An output that sends each write to a channel. Writes block while the mutex is locked.
    struct GatedWriter(Arc<Mutex<()>>, Sender<Vec<u8>>);

    impl Write for GatedWriter {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _open = self.0.lock().unwrap();
            self.1.send(line.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The host's side of the protocol. Dropping it closes the input and checks that the server stops.
    struct TestClient {
        input: Option<Sender<Vec<u8>>>,
        gate: Arc<Mutex<()>>,
        output: Receiver<Vec<u8>>,
        meter: Arc<crate::meter::Meter>,
        server: Option<thread::JoinHandle<()>>,
        telemetry_lines: u64,
    }

    impl TestClient {
        fn connect() -> Self {
            let (input, data) = mpsc::channel();
            let (lines, output) = mpsc::channel();
            let gate = Arc::new(Mutex::new(()));
            let out = GatedWriter(Arc::clone(&gate), lines);
            let mut engine = Engine::new(HugePages::Reserved);
            let meter = engine.meter();
            let reader = ChannelReader(data, Vec::new());
            let mut disk = DiskEngine::new(None);
            let server = thread::spawn(move || {
                serve(&mut engine, &mut disk, ("the input", reader), ("the output", out)).unwrap();
            });
            let (input, server) = (Some(input), Some(server));
            let client = Self { input, gate, output, meter, server, telemetry_lines: 0 };
            let hello = client.output.recv().unwrap();
            assert!(matches!(serde_json::from_slice(&hello), Ok(Message::Hello(_))));
            client
        }

        fn send_raw(&self, text: impl Into<Vec<u8>>) {
            self.input.as_ref().unwrap().send(text.into()).unwrap();
        }

        fn request(&self, id: u64, command: Command) {
            let mut line = serde_json::to_vec(&Request { id, command }).unwrap();
            line.push(b'\n');
            self.send_raw(line);
        }

        /// Returns the next telemetry line. Panics if a reply comes first.
        fn telemetry(&mut self) -> Telemetry {
            let line = self.output.recv().unwrap();
            let Message::Telemetry(telemetry) = serde_json::from_slice(&line).unwrap() else {
                panic!("not telemetry: {}", String::from_utf8_lossy(&line))
            };
            self.telemetry_lines += 1;
            telemetry
        }

        /// Returns the next reply. Checks that the telemetry preceding it has no gaps.
        fn reply(&mut self) -> (u64, Answer) {
            loop {
                let line = self.output.recv().unwrap();
                assert!(line.ends_with(b"\n"), "each write is one line");
                match serde_json::from_slice(&line).unwrap() {
                    Message::Reply { id, answer } => return (id, answer),
                    Message::Telemetry(telemetry) => {
                        assert_eq!(telemetry.sequence, self.telemetry_lines);
                        self.telemetry_lines += 1;
                    }
                    Message::Hello(_) => panic!("hello is sent only once"),
                }
            }
        }
    }

    impl Drop for TestClient {
        fn drop(&mut self) {
            self.input = None;
            if let Some(server) = self.server.take() {
                server.join().expect("the server ends with its input");
            }
            assert!(!self.meter.is_running(), "dirtying ends with the input");
        }
    }

    fn workload() -> Workload {
        Workload { rate: "4MB/s".parse().unwrap(), working_set: Bytes::new(1 << 20), ..Workload::default() }
    }

    #[test]
    fn requests_are_answered_by_number() {
        let mut client = TestClient::connect();
        client.request(7, Command::Set(workload()));
        assert_eq!(client.reply(), (7, Answer::Done));
        client.request(8, Command::Start);
        assert_eq!(client.reply(), (8, Answer::Done));
        assert!(client.meter.is_running());
        client.request(3, Command::Verify);
        let (3, Answer::Verified(verification)) = client.reply() else { panic!("not verified") };
        assert_eq!((verification.pages_checked, verification.pages_bad), (256, 0));
        assert!(!client.meter.is_running());
    }

    #[test]
    fn telemetry_follows_the_requested_interval() {
        let mut client = TestClient::connect();
        for (id, ms) in [(1, 0), (2, 1001)] {
            client.request(id, Command::TelemetryEvery(ms));
            assert!(matches!(client.reply(), (_, Answer::Failed(_))), "{ms} ms");
        }
        client.request(3, Command::TelemetryEvery(2));
        assert_eq!(client.reply(), (3, Answer::Done));
        let clocks: Vec<u64> = (0..200).map(|_| client.telemetry().clock_ns).collect();
        let mut gaps: Vec<u64> = clocks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_unstable();
        // Even on a slow host, some gaps are shorter than the default interval.
        assert!(gaps[0] < TELEMETRY_INTERVAL_MS * 1_000_000, "{} ns apart", gaps[0]);
    }

    #[test]
    fn a_bad_workload_is_refused_and_the_old_one_stays() {
        let mut client = TestClient::connect();
        client.request(1, Command::Set(workload()));
        client.request(2, Command::Set(Workload { threads: 0, ..workload() }));
        client.request(3, Command::Verify);
        assert_eq!(client.reply(), (1, Answer::Done));
        let (2, Answer::Failed(why)) = client.reply() else { panic!("not refused") };
        assert!(why.contains("`threads` is 0"), "{why}");
        let (3, Answer::Verified(verification)) = client.reply() else { panic!("not verified") };
        assert_eq!(verification.pages_checked, 256);
    }

    #[test]
    fn invalid_lines_are_skipped() {
        let mut client = TestClient::connect();
        client.send_raw(r#"{"id":1,"comm"#);
        client.send_raw("\n\n\u{0}\u{7f}garbage\n[1,2]\n");
        client.send_raw(vec![0xff, 0xfe, b'\n']);
        client.send_raw(vec![b'x'; 3 << 20]);
        // The end of a line that is too long is not a request either.
        client.send_raw("{\"id\":1,\"command\":\"stop\"}\n{\"id\":2,\"command\":\"sto");
        client.send_raw("p\"}\n{\"id\":3,\"command\":\"dance\"}\n");
        assert_eq!(client.reply(), (2, Answer::Done));
        let (3, Answer::Failed(why)) = client.reply() else { panic!("not refused") };
        assert!(why.contains("dance"), "{why}");
    }

    #[test]
    fn a_host_that_does_not_read_blocks_only_the_writer() {
        let mut client = TestClient::connect();
        let gate = Arc::clone(&client.gate);
        let closed = gate.lock().unwrap();
        client.request(1, Command::Set(workload()));
        client.request(2, Command::Start);
        while !client.meter.is_running() {
            thread::yield_now();
        }
        client.request(3, Command::Stop);
        while client.meter.is_running() {
            thread::yield_now();
        }
        drop(closed);
        assert_eq!([client.reply(), client.reply(), client.reply()], [1, 2, 3].map(|id| (id, Answer::Done)));
    }

    /// Generates requests with up to three random edits.
    fn damaged() -> impl Strategy<Value = Vec<u8>> {
        let settings = r#"{"rate":"96MB/s","working_set":"1GiB","order":"hot-cold:90%/10%","threads":2}"#;
        let disk = r#"{"size":"1GiB","written":"4MiB","working_set":"64MiB","write":"5MB/s","read":"0"}"#;
        let memory = format!(r#"{{"id":42,"command":{{"set":{settings}}}}}"#).into_bytes();
        let disk = format!(r#"{{"id":42,"command":{{"set-disk":{disk}}}}}"#).into_bytes();
        let edit = (
            any::<prop::sample::Index>(),
            0..4u8,
            prop_oneof![any::<u8>(), Just(b'"'), Just(b'}'), Just(b'0')],
        );
        let whole = prop_oneof![Just(memory), Just(disk)];
        (whole, prop::collection::vec(edit, 0..4)).prop_map(move |(mut line, edits)| {
            for (at, how, byte) in edits {
                let at = at.index(line.len());
                match how {
                    0 => line.truncate(at.max(1)),
                    1 => line[at] = byte,
                    2 => line.insert(at, byte),
                    _ if line.len() > 1 => drop(line.remove(at)),
                    _ => {}
                }
            }
            line
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn parsing_never_panics_and_every_readable_number_is_answered(
            line in prop_oneof![damaged(), prop::collection::vec(any::<u8>(), 0..200)],
        ) {
            let number = serde_json::from_slice::<serde_json::Value>(&line).ok();
            let number = number.and_then(|value| value.get("id")?.as_u64());
            match parse_request(&line) {
                Some((id, Ok(Command::Set(workload)))) => {
                    prop_assert_eq!(Some(id), number);
                    // Must not panic either, valid or not.
                    let _ = workload.check();
                }
                Some((id, Ok(Command::SetDisk(load)))) => {
                    prop_assert_eq!(Some(id), number);
                    let _ = (load.check(), load.blocks(), load.working_set_blocks());
                }
                Some((id, Ok(_))) => prop_assert_eq!(Some(id), number),
                Some((_, Err(why))) => prop_assert!(why.starts_with("invalid request: ")),
                None => prop_assert_eq!(number, None),
            }
        }
    }

    #[test]
    fn missed_telemetry_lines_are_not_made_up_for() {
        let (tick, interval) = (Instant::now(), Duration::from_millis(50));
        let after = |ms| tick + Duration::from_millis(ms);
        assert_eq!(next_tick(tick, after(1), interval), after(50));
        assert_eq!(next_tick(tick, after(49), interval), after(50));
        assert_eq!(next_tick(tick, after(50), interval), after(100));
        assert_eq!(next_tick(tick, after(1000), interval), after(1050));
    }
}
