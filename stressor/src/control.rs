//! The stressor's side of the conversation with the host, over any pair of byte streams.
//!
//! Two threads: this one reads requests and carries them out; another writes replies and telemetry. So a
//! host that does not read blocks the writer and nothing else: requests are still carried out, their replies
//! wait, and the next telemetry covers the time since the last. The dirtying threads know nothing of it.
//!
//! Each line is one `write(2)`. A line that is not a request is skipped, or answered with a failure if its
//! number can be made out; either way the conversation goes on with the next line.

use crate::{
    clock::monotonic_ns,
    engine::Engine,
    machine::Machine,
    meter::Reader,
    protocol::{Answer, Command, Hello, Message, Request, TELEMETRY_INTERVAL_MS, Telemetry},
};
use serde::Deserialize;
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// The longest request there is any need for, in bytes; what is longer is not one.
const LONGEST_LINE: u64 = 1 << 20;

/// Converses until the input ends or one of the two streams breaks. Then the engine is stopped.
///
/// # Errors
///
/// What broke the input. (A broken output ends the conversation with the next request.)
pub fn serve(engine: &mut Engine, input: impl Read, output: impl Write + Send) -> io::Result<()> {
    let telemetry = TelemetrySource { reader: Reader::new(engine.meter()), sequence: 0 };
    let (replies, outbox) = mpsc::channel();
    // The channel is open: its other end is in this function.
    let _ = replies.send(Message::Hello(hello()));
    thread::scope(|scope| {
        scope.spawn(move || write_messages(&outbox, telemetry, output));
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        let outcome = loop {
            match read_line(&mut input, &mut line) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
            let Some((id, command)) = parse(&line) else {
                continue;
            };
            let answer = command.map_or_else(Answer::Failed, |command| carry_out(engine, command));
            if replies.send(Message::Reply { id, answer }).is_err() {
                break Ok(());
            }
        };
        // The writer ends when nobody can send it anything any more.
        drop(replies);
        engine.stop();
        outcome
    })
}

/// Reads one line, without keeping more of it than a request can be long. False at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let read = input.by_ref().take(LONGEST_LINE).read_until(b'\n', line)?;
        if read == 0 || line.ends_with(b"\n") {
            return Ok(read > 0);
        }
        if line.len() as u64 >= LONGEST_LINE {
            line.clear();
        }
    }
}

/// A request's number, and its command or why there is none; nothing, if not even the number is legible.
fn parse(line: &[u8]) -> Option<(u64, Result<Command, String>)> {
    #[derive(Deserialize)]
    struct Number {
        id: u64,
    }

    match serde_json::from_slice::<Request>(line) {
        Ok(Request { id, command }) => Some((id, Ok(command))),
        Err(error) => {
            let Number { id } = serde_json::from_slice(line).ok()?;
            Some((id, Err(format!("cannot understand the request: {error}"))))
        }
    }
}

fn carry_out(engine: &mut Engine, command: Command) -> Answer {
    let outcome = match command {
        Command::Set(workload) => engine.set(workload),
        Command::Start => engine.start(),
        Command::Stop => {
            engine.stop();
            Ok(())
        }
        Command::Verify => return Answer::Verified(engine.verify()),
    };
    outcome.map_or_else(|error| Answer::Failed(error.to_string()), |()| Answer::Done)
}

/// Who we are.
fn hello() -> Hello {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Hello {
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: kernel.trim().into(),
        cpus: thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: Machine::probe().map_or(0, |machine| machine.total.get()),
        clock_ns: monotonic_ns(),
    }
}

/// Writes replies as they come and telemetry at its interval, until the replies end or the output breaks.
fn write_messages(replies: &Receiver<Message>, mut telemetry: TelemetrySource, mut output: impl Write) {
    let interval = Duration::from_millis(TELEMETRY_INTERVAL_MS);
    let mut next = Instant::now() + interval;
    loop {
        let message = match replies.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => {
                next = next_tick(next, Instant::now(), interval);
                Message::Telemetry(telemetry.next())
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut line = serde_json::to_vec(&message).expect("messages have only string keys");
        line.push(b'\n');
        if output.write_all(&line).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

/// The first tick after `now`; ticks that were missed while the host did not read are not made up for.
fn next_tick(tick: Instant, now: Instant, interval: Duration) -> Instant {
    let next = tick + interval;
    if next > now { next } else { now + interval }
}

struct TelemetrySource {
    reader: Reader,
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
        };
        self.sequence += 1;
        telemetry
    }
}
