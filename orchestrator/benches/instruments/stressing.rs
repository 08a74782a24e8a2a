//! The stressor: what was asked for against what it achieved, on the host and in a guest; `mm_dirty` beside
//! it.
//!
//! On the host both programs are watched from outside (see [`crate::memory`]). In a guest the stressor's own
//! telemetry is taken, every 10 ms by the guest's clock; that its count is true is shown on the host, where
//! it must equal what the memory holds, to the page, and by the witness.

use crate::{
    Result, Setting, cpu,
    guest::BenchGuest,
    memory::{Counter, Watched, keep_to_last_cpu},
    report::{Report, percent, progress, verdict},
    windows::{Rates, Sample, WINDOWS},
};
use std::{
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};
use stressor::{
    Workload,
    protocol::{Answer, Command as Ask, Message, Request},
    workload::{Content, Rate, Write},
};
use tokio::runtime::Runtime;
use units::{ByteRate, Bytes};

/// The rates, in MB/s; nothing is unlimited.
const RATES: [Option<u64>; 6] = [Some(1), Some(10), Some(96), Some(500), Some(2000), None];
/// Larger than the caches of most machines, small enough to be looked through at once.
const WORKING_SET: Bytes = Bytes::new(256 << 20);
const PAGES: u64 = WORKING_SET.get() / stressor::workload::PAGE_BYTES;
/// From starting to the first sample.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a program may take to fill its memory.
const FILL_LIMIT: Duration = Duration::from_secs(30);

const HEADINGS: [&str; 11] =
    ["who", "where", "asked MB/s", "window", "windows", "mean MB/s", "mean", "p1", "p99", "worst", "wanted"];

/// One rate's measurement.
struct Measured {
    who: String,
    place: &'static str,
    /// In bytes per second; `None` is unlimited.
    asked: Option<f64>,
    samples: Vec<Sample>,
    cpu: Duration,
}

pub(crate) fn measure(setting: &Setting, report: &Report, runtime: &Runtime) -> Result<()> {
    report.heading("Stressor: asked for against achieved");
    report.say(
        "Sequential order. On the host, what was achieved is read from the program's memory by another process \
         every 10 ms,\nfrom the middle of a step on; in the guest it is the stressor's telemetry every 10 ms by the \
         guest's clock, at whatever\npoint of a step. A step is 1 ms, so a window of 10 ms in the guest can hold one \
         more or less (10 %). `word` writes\n8 bytes of each page, `page` all 4096; mm_dirty writes 1 byte. A page is \
         4 KiB: at 1 MB/s 2.4 in 10 ms.",
    );
    let mut rows = Vec::new();
    let mut costs = Vec::new();
    let mut notes = Vec::new();
    let mut note = |measured: &Measured, rows: &mut Vec<Vec<String>>| {
        rows.extend(WINDOWS.iter().filter_map(|window| row(measured, *window)));
        costs.push(cost_row(measured));
    };
    let (mut own_fastest, mut their_fastest) = (None, None);
    for write in [Write::Page, Write::Word] {
        for rate in RATES {
            progress(&format!("{} on the host at {}", name(write), limited(rate)));
            let measured = apart(|| host_stressor(setting, rate, write));
            let Some((measured, counted)) = or_say(measured, report, &name(write), rate) else { continue };
            note(&measured, &mut rows);
            notes.push(counted);
            if rate.is_none() && write == Write::Word {
                own_fastest = Some(mean(&measured));
            }
        }
    }
    match &setting.mig_mon {
        Some(mig_mon) => {
            for rate in RATES {
                progress(&format!("mm_dirty at {}", limited(rate)));
                let measured = apart(|| mm_dirty(mig_mon, setting, rate));
                let Some(measured) = or_say(measured, report, "mm_dirty", rate) else { continue };
                note(&measured, &mut rows);
                if rate.is_none() {
                    their_fastest = Some(mean(&measured));
                }
            }
        }
        None => report.say(
            "\nmm_dirty is left out: without --mig-mon PATH. It is part of github.com/xzpeter/mig_mon; build it there \
             with meson.",
        ),
    }
    let in_guest = runtime.block_on(in_guest(setting, report));
    match in_guest {
        Ok(measured) => measured.iter().for_each(|measured| note(measured, &mut rows)),
        Err(error) => report.say(&format!("\nno figures from a guest: {error}")),
    }
    if rows.is_empty() {
        return Err("no figure could be taken".into());
    }
    report.say("");
    report.table(&HEADINGS, 2, &rows);
    report.say("\nCPU time: of the whole program on the host, of QEMU for the guest\n");
    report.table(&["who", "where", "asked MB/s", "got MB/s", "CPU", "us for a page"], 2, &costs);

    report.say("");
    let true_counts = notes.iter().filter(|(own, held)| own == held).count();
    report.say(&format!(
        "the stressor's own count of pages equals what its memory holds: wanted in {} of {} runs, got {true_counts}: {}",
        notes.len(),
        notes.len(),
        verdict(true_counts == notes.len())
    ));
    for (own, held) in notes.iter().filter(|(own, held)| own != held) {
        report.say(&format!("  it counted {own} pages where the memory holds {held}"));
    }
    if let (Some(own), Some(theirs)) = (own_fastest, their_fastest) {
        report.say(&format!(
            "unlimited, a word a page, against mm_dirty: wanted at least 1.00, got {:.2} ({:.0} and {:.0} MB/s): {}",
            own / theirs,
            own / 1e6,
            theirs / 1e6,
            verdict(own >= theirs)
        ));
    }
    report.say("mm_dirty was not run in the guest, which has no shell to run it from.");
    Ok(())
}

/// On a thread of its own, since it binds its thread to a CPU.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> std::result::Result<T, String> {
    let work = || work().map_err(|e| e.to_string());
    thread::scope(|scope| scope.spawn(work).join().expect("measuring does not panic"))
}

/// What was measured; what could not be is said, and the others go on.
fn or_say<T>(
    measured: std::result::Result<T, String>,
    report: &Report,
    who: &str,
    rate: Option<u64>,
) -> Option<T> {
    let say = |error: &String| {
        report.say(&format!("{who} at {} on the host: not measured: {error}", limited(rate)));
    };
    measured.inspect_err(say).ok()
}

fn mean(measured: &Measured) -> f64 {
    let (Some(first), Some(last)) = (measured.samples.first(), measured.samples.last()) else { return 0.0 };
    (last.pages - first.pages) as f64 * 4096e9 / (last.at_ns - first.at_ns).max(1) as f64
}

/// A line of the table; nothing where no window was whole.
fn row(measured: &Measured, window: Duration) -> Option<Vec<String>> {
    let rates = Rates::new(&measured.samples, window);
    if rates.count() == 0 {
        return None;
    }
    // Unlimited is compared with itself: how even it is.
    let base = measured.asked.unwrap_or(rates.mean());
    let off = |rate: f64| rate / base - 1.0;
    let [p1, p99, worst] = [rates.quantile(0.01), rates.quantile(0.99), rates.worst(base)].map(off);
    let ours = measured.who.starts_with("stressor") && measured.asked.is_some();
    let wanted = match window.as_millis() {
        1000 if ours => format!("worst within 0.5%: {}", verdict(worst.abs() <= 0.005)),
        10 if ours && measured.asked == Some(96e6) => {
            format!("p1, p99 within 5%: {}", verdict(p1 >= -0.05 && p99 <= 0.05))
        }
        _ => String::new(),
    };
    Some(vec![
        measured.who.clone(),
        measured.place.into(),
        asked(measured),
        format!("{} ms", window.as_millis()),
        rates.count().to_string(),
        format!("{:.3}", rates.mean() / 1e6),
        if measured.asked.is_some() { percent(off(rates.mean())) } else { String::new() },
        percent(p1),
        percent(p99),
        percent(worst),
        wanted,
    ])
}

fn cost_row(measured: &Measured) -> Vec<String> {
    let (first, last) = (measured.samples[0], measured.samples[measured.samples.len() - 1]);
    let seconds = (last.at_ns - first.at_ns) as f64 / 1e9;
    let cpu = measured.cpu.as_secs_f64();
    vec![
        measured.who.clone(),
        measured.place.into(),
        asked(measured),
        format!("{:.1}", mean(measured) / 1e6),
        format!("{:.1}%", 100.0 * cpu / seconds),
        format!("{:.2}", cpu * 1e6 / (last.pages - first.pages).max(1) as f64),
    ]
}

fn asked(measured: &Measured) -> String {
    measured.asked.map_or_else(|| "unlimited".into(), |rate| format!("{:.1}", rate / 1e6))
}

pub(crate) fn limited(mb_per_s: Option<u64>) -> Rate {
    mb_per_s.map_or(Rate::Unlimited, |rate| Rate::Limited(ByteRate::new(rate * 1_000_000)))
}

fn name(write: Write) -> String {
    match write {
        Write::Page => "stressor page".into(),
        Write::Word => "stressor word".into(),
    }
}

/// The stressor as a program; besides, its own count and what the memory held at the end.
fn host_stressor(setting: &Setting, rate: Option<u64>, write: Write) -> Result<(Measured, (u64, u64))> {
    let mut program = Program::start(&setting.programs.join("stressor"))?;
    keep_to_last_cpu();
    let workload = Workload {
        rate: limited(rate),
        working_set: WORKING_SET,
        content: Content::Increment,
        write,
        ..Workload::default()
    };
    program.ask(Ask::Set(workload))?;
    let pid = program.child.id();
    let mut watched = Watched::find(pid, PAGES, Counter::Word, FILL_LIMIT)?;
    program.ask(Ask::Start)?;
    let silent = program.read_along();
    thread::sleep(SETTLE);
    let before = cpu::of_process(pid);
    let samples = watched.follow(setting.span)?;
    let cpu = cpu::of_process(pid).saturating_sub(before);
    let own = silent.stop(&mut program)?;
    let held = watched.count()?;
    let asked = rate.map(|rate| rate as f64 * 1e6);
    Ok((Measured { who: name(write), place: "host", asked, samples, cpu }, (own, held)))
}

/// A stressor that takes requests on its standard input.
struct Program {
    child: Child,
    input: ChildStdin,
    output: Option<BufReader<ChildStdout>>,
    next: u64,
}

impl Program {
    fn start(path: &Path) -> Result<Self> {
        let mut command = Command::new(path);
        command.arg("--control").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("cannot run {}: {e}", path.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the stressor has no standard streams".into());
        };
        Ok(Self { child, input, output: Some(BufReader::new(output)), next: 0 })
    }

    fn send(&mut self, command: Ask) -> Result<u64> {
        self.next += 1;
        let mut line = serde_json::to_string(&Request { id: self.next, command })?;
        line.push('\n');
        self.input.write_all(line.as_bytes())?;
        Ok(self.next)
    }

    fn ask(&mut self, command: Ask) -> Result<()> {
        let wanted = self.send(command)?;
        let output = self.output.as_mut().ok_or("its output is being read")?;
        loop {
            match read_message(output)? {
                Message::Reply { id, answer: Answer::Failed(why) } if id == wanted => return Err(why.into()),
                Message::Reply { id, .. } if id == wanted => return Ok(()),
                _ => {}
            }
        }
    }

    /// Has a thread read what it says, lest it be held up by a full pipe.
    fn read_along(&mut self) -> Reading {
        let output = self.output.take();
        let thread = thread::spawn(move || {
            let mut output = output.ok_or("its output is read already")?;
            let mut stopped = false;
            loop {
                match read_message(&mut output).map_err(|e| e.to_string())? {
                    Message::Reply { .. } => stopped = true,
                    // The first line after the answer that it has stopped has the final count.
                    Message::Telemetry(telemetry) if stopped => return Ok(telemetry.pages_dirtied),
                    _ => {}
                }
            }
        });
        Reading { thread }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stressor whose output is being read.
struct Reading {
    thread: thread::JoinHandle<std::result::Result<u64, String>>,
}

impl Reading {
    /// Stops the stressor; how many pages it says it has dirtied.
    fn stop(self, program: &mut Program) -> Result<u64> {
        program.send(Ask::Stop)?;
        Ok(self.thread.join().expect("reading does not panic")?)
    }
}

fn read_message(output: &mut impl BufRead) -> Result<Message> {
    let mut line = String::new();
    if output.read_line(&mut line)? == 0 {
        return Err("the stressor ended".into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// `mm_dirty`, which takes its rate in MiB/s: the nearest is asked for, and it is measured against that.
fn mm_dirty(mig_mon: &Path, setting: &Setting, rate: Option<u64>) -> Result<Measured> {
    let mut command = Command::new(mig_mon);
    command.args(["mm_dirty", "-p", "sequential", "-m", &format!("{}M", WORKING_SET.get() >> 20)]);
    let mebibytes = rate.map(|rate| (rate * 1_000_000 + (1 << 19)) >> 20);
    if let Some(rate) = mebibytes {
        command.args(["-r", &format!("{rate}M")]);
    }
    let child = command.stdout(Stdio::null()).spawn().map_err(|e| format!("cannot run mig_mon: {e}"))?;
    let child = Killed(child);
    keep_to_last_cpu();
    let pid = child.0.id();
    let mut watched = Watched::find(pid, PAGES, Counter::Byte, FILL_LIMIT)?;
    thread::sleep(SETTLE);
    let before = cpu::of_process(pid);
    let samples = watched.follow(setting.span)?;
    let cpu = cpu::of_process(pid).saturating_sub(before);
    let asked = mebibytes.map(|rate| (rate << 20) as f64);
    Ok(Measured { who: "mm_dirty".into(), place: "host", asked, samples, cpu })
}

/// A process that ends with its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stressor in a guest.
async fn in_guest(setting: &Setting, report: &Report) -> Result<Vec<Measured>> {
    let bench = BenchGuest::boot(setting).await?;
    report.say(&format!("\naccelerator of the guest: {}", bench.accelerator));
    let mut measured = Vec::new();
    for write in [Write::Page, Write::Word] {
        for rate in RATES {
            progress(&format!("{} in a guest at {}", name(write), limited(rate)));
            let workload = Workload {
                rate: limited(rate),
                working_set: WORKING_SET,
                content: Content::Increment,
                write,
                ..Workload::default()
            };
            bench.ask("take a workload", Ask::Set(workload)).await?;
            bench.ask("send telemetry more often", Ask::TelemetryEvery(10)).await?;
            bench.ask("start dirtying", Ask::Start).await?;
            tokio::time::sleep(SETTLE * 2).await;
            let qemu = cpu::descendant("qemu-system").ok_or("QEMU is not among the processes")?;
            let before = cpu::of_process(qemu);
            let telemetry = bench.follow(setting.span).await;
            let cpu = cpu::of_process(qemu).saturating_sub(before);
            bench.ask("stop dirtying", Ask::Stop).await?;
            let sample = |line: &testbed::driver::control_port::TelemetrySample| Sample {
                at_ns: line.telemetry.clock_ns,
                pages: line.telemetry.pages_dirtied,
            };
            let samples: Vec<Sample> = telemetry.iter().map(sample).collect();
            if samples.len() < 2 {
                return Err("the guest sent no telemetry".into());
            }
            let asked = rate.map(|rate| rate as f64 * 1e6);
            measured.push(Measured { who: name(write), place: "guest", asked, samples, cpu });
        }
    }
    bench.shut_down().await?;
    Ok(measured)
}
