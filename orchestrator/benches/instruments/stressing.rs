//! Measures the stressor: requested and achieved rates, on the host and in a guest, with `mm_dirty` for
//! comparison.
//!
//! On the host both programs are observed from outside (see [`crate::memory`]). In a guest the figures come
//! from the stressor's own telemetry, every 10 ms by the guest's clock. Two other measurements show that
//! its count is right: on the host, where it must equal the counters in memory to the page, and in
//! [`crate::witness`].

use crate::{
    BenchConfig, Result, cpu,
    guest::BenchGuest,
    memory::{Counter, WatchedMemory, pin_to_last_cpu},
    report::{ReportWriter, percent, progress, verdict},
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

/// The rates in MB/s; `None` is unlimited.
const RATES: [Option<u64>; 6] = [Some(1), Some(10), Some(96), Some(500), Some(2000), None];
/// Larger than the caches of most CPUs, and small enough to be searched quickly.
const WORKING_SET: Bytes = Bytes::new(256 << 20);
const PAGES: u64 = WORKING_SET.get() / stressor::workload::PAGE_BYTES;
/// The time from starting the workload to the first sample.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a program may take to fill its memory before measuring fails.
const FILL_LIMIT: Duration = Duration::from_secs(30);

const HEADINGS: [&str; 11] =
    ["who", "where", "asked MB/s", "window", "windows", "mean MB/s", "mean", "p1", "p99", "worst", "wanted"];

/// The measurement of one program at one rate.
struct RateMeasurement {
    who: String,
    place: &'static str,
    /// The requested rate in bytes per second; `None` is unlimited.
    asked: Option<f64>,
    samples: Vec<Sample>,
    cpu: Duration,
}

pub(crate) fn measure(config: &BenchConfig, report: &ReportWriter, runtime: &Runtime) -> Result<()> {
    report.heading("Stressor: requested and achieved rates");
    report.text(
        "Sequential order. On the host, another process reads the achieved rate from the program's memory \
         every 10 ms,\nbeginning in the middle of a step. In the guest it comes from the stressor's \
         telemetry, every 10 ms by the guest's clock,\nat any point of a step. A step is 1 ms, so a window \
         of 10 ms in the guest can contain one step more or less (10 %).\n`word` writes 8 bytes of each \
         page, `page` all 4096; mm_dirty writes 1 byte. A page is 4 KiB: at 1 MB/s 2.4 pages in 10 ms.",
    );
    let mut rows = Vec::new();
    let mut costs = Vec::new();
    let mut notes = Vec::new();
    let mut note = |measured: &RateMeasurement, rows: &mut Vec<Vec<String>>| {
        rows.extend(WINDOWS.iter().filter_map(|window| row(measured, *window)));
        costs.push(cost_row(measured));
    };
    let (mut own_fastest, mut their_fastest) = (None, None);
    for write in [Write::Page, Write::Word] {
        for rate in RATES {
            progress(&format!("{} on the host at {}", name(write), rate_limit(rate)));
            let measured = on_own_thread(|| stressor_on_host(config, rate, write));
            let Some((measured, counted)) = or_report(measured, report, &name(write), rate) else { continue };
            note(&measured, &mut rows);
            notes.push(counted);
            if rate.is_none() && write == Write::Word {
                own_fastest = Some(mean(&measured));
            }
        }
    }
    match &config.mig_mon {
        Some(mig_mon) => {
            for rate in RATES {
                progress(&format!("mm_dirty at {}", rate_limit(rate)));
                let measured = on_own_thread(|| mm_dirty(mig_mon, config, rate));
                let Some(measured) = or_report(measured, report, "mm_dirty", rate) else { continue };
                note(&measured, &mut rows);
                if rate.is_none() {
                    their_fastest = Some(mean(&measured));
                }
            }
        }
        None => report.text(
            "\nmm_dirty was not measured, because --mig-mon PATH was not given. It is part of \
             github.com/xzpeter/mig_mon; build that with meson.",
        ),
    }
    let in_guest = runtime.block_on(in_guest(config, report));
    match in_guest {
        Ok(measured) => measured.iter().for_each(|measured| note(measured, &mut rows)),
        Err(error) => report.text(&format!("\ncannot measure in a guest: {error}")),
    }
    if rows.is_empty() {
        return Err("no figure could be measured".into());
    }
    report.text("");
    report.table(&HEADINGS, 2, &rows);
    report.text("\nCPU time: of the whole program on the host, of QEMU for the guest\n");
    report.table(&["who", "where", "asked MB/s", "got MB/s", "CPU", "us per page"], 2, &costs);

    report.text("");
    let true_counts = notes.iter().filter(|(own, held)| own == held).count();
    report.text(&format!(
        "the stressor's own count of pages equals the counters in its memory: wanted in {} of {} runs, \
         got {true_counts}: {}",
        notes.len(),
        notes.len(),
        verdict(true_counts == notes.len())
    ));
    for (own, held) in notes.iter().filter(|(own, held)| own != held) {
        report.text(&format!("  it counted {own} pages, but the counters in memory add up to {held}"));
    }
    if let (Some(own), Some(theirs)) = (own_fastest, their_fastest) {
        report.text(&format!(
            "unlimited, one word per page, relative to mm_dirty: wanted at least 1.00, got {:.2} \
             ({:.0} and {:.0} MB/s): {}",
            own / theirs,
            own / 1e6,
            theirs / 1e6,
            verdict(own >= theirs)
        ));
    }
    report.text("mm_dirty was not run in the guest, which has no shell to run it from.");
    Ok(())
}

/// Runs `work` on a new thread, because it pins its thread to a CPU.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> std::result::Result<T, String> {
    let work = || work().map_err(|e| e.to_string());
    thread::scope(|scope| scope.spawn(work).join().expect("the measurement does not panic"))
}

/// Returns the measurement, or prints why it failed, so that the remaining ones can continue.
fn or_report<T>(
    measured: std::result::Result<T, String>,
    report: &ReportWriter,
    who: &str,
    rate: Option<u64>,
) -> Option<T> {
    let say = |error: &String| {
        report.text(&format!("{who} at {} on the host: not measured: {error}", rate_limit(rate)));
    };
    measured.inspect_err(say).ok()
}

fn mean(measured: &RateMeasurement) -> f64 {
    let (Some(first), Some(last)) = (measured.samples.first(), measured.samples.last()) else { return 0.0 };
    (last.pages - first.pages) as f64 * 4096e9 / (last.at_ns - first.at_ns).max(1) as f64
}

/// Returns a row of the table, or `None` if the measurement is shorter than one window.
fn row(measured: &RateMeasurement, window: Duration) -> Option<Vec<String>> {
    let rates = Rates::new(&measured.samples, window);
    if rates.count() == 0 {
        return None;
    }
    // An unlimited rate is compared with its own mean, which shows how even it is.
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

fn cost_row(measured: &RateMeasurement) -> Vec<String> {
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

fn asked(measured: &RateMeasurement) -> String {
    measured.asked.map_or_else(|| "unlimited".into(), |rate| format!("{:.1}", rate / 1e6))
}

pub(crate) fn rate_limit(mb_per_s: Option<u64>) -> Rate {
    mb_per_s.map_or(Rate::Unlimited, |rate| Rate::Limited(ByteRate::new(rate * 1_000_000)))
}

fn name(write: Write) -> String {
    match write {
        Write::Page => "stressor page".into(),
        Write::Word => "stressor word".into(),
    }
}

/// Measures the stressor as a program. Also returns its own final count of pages and the sum of the
/// counters in its memory.
fn stressor_on_host(
    config: &BenchConfig,
    rate: Option<u64>,
    write: Write,
) -> Result<(RateMeasurement, (u64, u64))> {
    let mut program = StressorProcess::start(&config.programs.join("stressor"))?;
    pin_to_last_cpu();
    let workload = Workload {
        rate: rate_limit(rate),
        working_set: WORKING_SET,
        content: Content::Increment,
        write,
        ..Workload::default()
    };
    program.ask(Ask::Set(workload))?;
    let pid = program.child.id();
    let mut watched = WatchedMemory::find(pid, PAGES, Counter::Word, FILL_LIMIT)?;
    program.ask(Ask::Start)?;
    let reader = program.drain_output();
    thread::sleep(SETTLE);
    let before = cpu::of_process(pid);
    let samples = watched.follow(config.span)?;
    let cpu = cpu::of_process(pid).saturating_sub(before);
    let own = reader.stop(&mut program)?;
    let held = watched.count()?;
    let asked = rate.map(|rate| rate as f64 * 1e6);
    Ok((RateMeasurement { who: name(write), place: "host", asked, samples, cpu }, (own, held)))
}

/// A stressor process that takes requests on its standard input.
struct StressorProcess {
    child: Child,
    input: ChildStdin,
    output: Option<BufReader<ChildStdout>>,
    next: u64,
}

impl StressorProcess {
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
        let output = self.output.as_mut().ok_or("the stressor's output is already being read by a thread")?;
        loop {
            match read_message(output)? {
                Message::Reply { id, answer: Answer::Failed(why) } if id == wanted => return Err(why.into()),
                Message::Reply { id, .. } if id == wanted => return Ok(()),
                _ => {}
            }
        }
    }

    /// Starts a thread that reads the output, because a full pipe would block the stressor.
    fn drain_output(&mut self) -> OutputReader {
        let output = self.output.take();
        let thread = thread::spawn(move || {
            let mut output = output.ok_or("the stressor's output is already being read by a thread")?;
            let mut stopped = false;
            loop {
                match read_message(&mut output).map_err(|e| e.to_string())? {
                    Message::Reply { .. } => stopped = true,
                    // The first telemetry after the reply to `stop` has the final count.
                    Message::Telemetry(telemetry) if stopped => return Ok(telemetry.pages_dirtied),
                    _ => {}
                }
            }
        });
        OutputReader { thread }
    }
}

impl Drop for StressorProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A thread that reads the output of a stressor.
struct OutputReader {
    thread: thread::JoinHandle<std::result::Result<u64, String>>,
}

impl OutputReader {
    /// Stops the stressor. Returns the final number of pages it reports as dirtied.
    fn stop(self, program: &mut StressorProcess) -> Result<u64> {
        program.send(Ask::Stop)?;
        Ok(self.thread.join().expect("the reader thread does not panic")?)
    }
}

fn read_message(output: &mut impl BufRead) -> Result<Message> {
    let mut line = String::new();
    if output.read_line(&mut line)? == 0 {
        return Err("the stressor ended".into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// Measures `mm_dirty`. It takes its rate in MiB/s, so the nearest one is requested and used as the target.
fn mm_dirty(mig_mon: &Path, config: &BenchConfig, rate: Option<u64>) -> Result<RateMeasurement> {
    let mut command = Command::new(mig_mon);
    command.args(["mm_dirty", "-p", "sequential", "-m", &format!("{}M", WORKING_SET.get() >> 20)]);
    let mebibytes = rate.map(|rate| (rate * 1_000_000 + (1 << 19)) >> 20);
    if let Some(rate) = mebibytes {
        command.args(["-r", &format!("{rate}M")]);
    }
    let child = command.stdout(Stdio::null()).spawn().map_err(|e| format!("cannot run mig_mon: {e}"))?;
    let child = KilledOnDrop(child);
    pin_to_last_cpu();
    let pid = child.0.id();
    let mut watched = WatchedMemory::find(pid, PAGES, Counter::Byte, FILL_LIMIT)?;
    thread::sleep(SETTLE);
    let before = cpu::of_process(pid);
    let samples = watched.follow(config.span)?;
    let cpu = cpu::of_process(pid).saturating_sub(before);
    let asked = mebibytes.map(|rate| (rate << 20) as f64);
    Ok(RateMeasurement { who: "mm_dirty".into(), place: "host", asked, samples, cpu })
}

/// A child process that is killed when this value is dropped.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures the stressor in a guest, for all rates and both ways of writing.
async fn in_guest(config: &BenchConfig, report: &ReportWriter) -> Result<Vec<RateMeasurement>> {
    let bench = BenchGuest::boot(config).await?;
    report.text(&format!("\nAccelerator of the guest: {}", bench.accelerator));
    let mut measured = Vec::new();
    for write in [Write::Page, Write::Word] {
        for rate in RATES {
            progress(&format!("{} in a guest at {}", name(write), rate_limit(rate)));
            let workload = Workload {
                rate: rate_limit(rate),
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
            let telemetry = bench.follow(config.span).await;
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
            measured.push(RateMeasurement { who: name(write), place: "guest", asked, samples, cpu });
        }
    }
    bench.shut_down().await?;
    Ok(measured)
}
