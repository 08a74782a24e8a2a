//! Progress on a terminal: a bar for the run, and a line for the migration in progress.

use super::{CurrentPhase, display::Display, outcome_line, painted};
use crate::{
    event::{Event, Sink},
    layout::about,
    measure::samples::Sample,
    results::record::Record,
};
use frontend::{Text, one_line};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    sync::{Arc, Mutex, Weak},
    thread,
    time::{Duration, Instant},
};
use units::{ByteRate, Bytes};

/// The maximum number of redraws per second: enough to look alive, too few to cost anything.
const REDRAWS_PER_SECOND: u8 = 5;

/// The interval at which the remaining time is updated.
const SECOND: Duration = Duration::from_secs(1);

/// A bar and a line at the bottom of the terminal, which are redrawn when something happens, and the
/// remaining time, which is updated every second.
#[derive(Debug)]
pub struct Live {
    display: Display,
    bars: Bars,
    /// The attempt in progress. The thread that counts the time down ends when it is dropped.
    current: Arc<Mutex<CurrentAttempt>>,
    phase: Mutex<CurrentPhase>,
    color: bool,
    verbose: bool,
}

/// What is at the bottom of the terminal. Copies share it.
#[derive(Debug, Clone)]
struct Bars {
    all: MultiProgress,
    run: ProgressBar,
    attempt: ProgressBar,
}

/// The attempt in progress: what the first line shows beside the bar.
#[derive(Debug, Clone, Default)]
struct CurrentAttempt {
    name: String,
    /// When the attempt started, and the time that was left at that moment.
    left: Option<(Instant, Duration)>,
}

impl CurrentAttempt {
    /// Returns the text beside the bar. The name comes last, since it is cut off at the edge of the terminal.
    fn text(&self, now: Instant) -> String {
        let Some((started, left)) = self.left else { return String::new() };
        let left = left.saturating_sub(now.saturating_duration_since(started));
        let left = if left < SECOND {
            "longer than predicted".to_owned()
        } else {
            format!("about {} left", about(left))
        };
        format!("{left}  {}", self.name)
    }
}

impl Bars {
    fn on(target: ProgressDrawTarget, color: bool) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let run = all.add(ProgressBar::new(0));
        let attempt = all.add(ProgressBar::new_spinner());
        // The templates are constants and valid, so this cannot fail.
        let bar =
            if color { "{bar:20.cyan} {pos}/{len}  {wide_msg}" } else { "{bar:20} {pos}/{len}  {wide_msg}" };
        if let (Ok(bar), Ok(line)) =
            (ProgressStyle::with_template(bar), ProgressStyle::with_template("{wide_msg}"))
        {
            run.set_style(bar);
            attempt.set_style(line);
        }
        Self { all, run, attempt }
    }

    fn print(&self, line: &Text) {
        // The run continues even if the terminal is gone.
        let _ = self.all.println(line.as_str());
    }
}

impl Live {
    /// Starts drawing on standard error, in color if `color` is set, with details if `verbose` is. Waits at
    /// the end of the run until [everything is shown](Display::finish).
    pub fn start(display: Display, color: bool, verbose: bool) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND);
        let live = Self::on(target, display, color, verbose);
        count_down(&live.current, live.bars.run.clone());
        live
    }

    fn on(target: ProgressDrawTarget, display: Display, color: bool, verbose: bool) -> Self {
        let bars = Bars::on(target, color);
        Self { display, bars, current: Arc::default(), phase: Mutex::default(), color, verbose }
    }

    /// Draws after everything else.
    fn draw(&self, drawing: impl FnOnce(&Bars) + Send + 'static) {
        let bars = self.bars.clone();
        self.display.show(move || drawing(&bars));
    }

    fn print(&self, line: impl Into<Text>) {
        let line = line.into();
        self.draw(move |bars| bars.print(&line));
    }

    fn ended(&self, record: &Record) {
        self.draw(|bars| bars.run.inc(1));
        let line = outcome_line(record);
        self.print(if self.color { painted(record.outcome, &line) } else { line.into() });
        for disagreement in &record.measured.disagreements {
            self.print(format!("  note: {}", one_line(disagreement)));
        }
    }
}

/// Shows the time left every second, until the [`Live`] that the attempt belongs to is dropped. Without a
/// thread for it, the time is shown with each event only.
fn count_down(current: &Arc<Mutex<CurrentAttempt>>, run: ProgressBar) {
    let current: Weak<Mutex<CurrentAttempt>> = Arc::downgrade(current);
    let _ = thread::Builder::new().spawn(move || {
        while let Some(attempt) = current.upgrade().map(|current| current.lock().unwrap().clone()) {
            if attempt.left.is_some() && !run.is_finished() {
                run.set_message(attempt.text(Instant::now()));
            }
            thread::sleep(SECOND);
        }
    });
}

impl Sink for Live {
    fn handle(&self, event: &Event<'_>) {
        let ended = self.phase.lock().unwrap().follow(event, Instant::now());
        if let Some(line) = ended.filter(|_| self.verbose) {
            self.print(format!("  {line}"));
        }
        match event {
            Event::Message(text) => self.print(*text),
            Event::AttemptStarted { number, total, name, left } => {
                let (position, length) = (*number as u64 - 1, *total as u64);
                let started = CurrentAttempt { name: one_line(name), left: Some((Instant::now(), *left)) };
                let text = started.text(Instant::now());
                self.draw(move |bars| {
                    bars.run.set_length(length);
                    bars.run.set_position(position);
                    bars.run.set_message(text);
                });
                *self.current.lock().unwrap() = started;
            }
            Event::PhaseEntered(phase) => {
                let text = phase.describe();
                self.draw(move |bars| bars.attempt.set_message(text));
            }
            Event::Sampled(sample) => {
                let (text, attempt) = (one_line(&sample_text(sample)), self.bars.attempt.clone());
                self.display.show_now(move || attempt.set_message(text));
            }
            Event::AttemptEnded(record) => self.ended(record),
            Event::RunEnded => {
                self.current.lock().unwrap().left = None;
                self.draw(|bars| {
                    bars.attempt.finish_and_clear();
                    bars.run.finish_and_clear();
                });
                self.display.finish();
            }
        }
    }
}

/// Returns the state of a migration, with the rates first: a narrow terminal cuts off the end.
fn sample_text(sample: &Sample) -> String {
    let seconds = sample.at_ms / 1e3;
    let Some(memory) = &sample.memory else { return format!("{seconds:.1} s, {}", sample.status) };
    let dirtied = memory
        .known_dirty_rate()
        .map(|rate| format!(", {:.0} MB/s dirtied", ByteRate::new(rate).as_mb_per_s()))
        .unwrap_or_default();
    format!(
        "{:.0} MB/s sent{dirtied}, {} left, pass {}, {seconds:.1} s",
        memory.mbit_per_s / 8.0,
        Bytes::new(memory.remaining_bytes).rounded(),
        memory.pass,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::samples::MemoryProgress;
    use indicatif::TermLike;
    use std::io;

    /// A terminal of this width that keeps everything written to it.
    #[derive(Debug, Clone)]
    struct Paper(u16, Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            self.0
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(&format!("{line}\n"))
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.1.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.write_str("\n")
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sample() -> Sample {
        let memory = MemoryProgress {
            pass: 4,
            remaining_bytes: 240_000_000,
            mbit_per_s: 888.0,
            dirty_rate_bytes_per_s: 96_000_000,
            ..MemoryProgress::default()
        };
        Sample { at_ms: 12_345.0, memory: Some(memory), ..Sample::default() }
    }

    #[test]
    fn a_dirty_rate_that_qemu_does_not_have_yet_is_left_out() {
        let mut sample = sample();
        sample.memory.as_mut().unwrap().dirty_rate_bytes_per_s = 0;
        assert_eq!(sample_text(&sample), "111 MB/s sent, 240 MB left, pass 4, 12.3 s");
    }

    #[test]
    fn the_rates_are_shown_in_a_narrow_terminal_whatever_the_cell_is_called() {
        let name = "stress.rate=96MBps,link.rate=1gbit,link.delay=20ms,migrate.downtime_limit=300ms #12";
        for (columns, shown) in [
            (80, "111 MB/s sent, 96 MB/s dirtied, 240 MB left, pass 4, 12.3 s"),
            (40, "111 MB/s sent, 96 MB/s dirtied"),
        ] {
            let terminal = Paper(columns, Arc::default());
            let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 200);
            let live = Live::on(target, Display::start(|| false).unwrap(), false, false);
            let left = Duration::from_secs(125);
            live.handle(&Event::AttemptStarted { number: 3, total: 7, name, left });
            live.display.finish();
            live.handle(&Event::Sampled(&sample()));
            live.display.finish();
            live.bars.run.tick();
            live.bars.attempt.tick();
            let text = terminal.1.lock().unwrap().clone();
            assert!(text.contains(shown), "{columns}:\n{text}");
            assert!(text.contains("2/7"), "{columns}:\n{text}");
            assert!(!text.contains(name), "the name is cut off:\n{text}");
            if columns == 80 {
                assert!(text.contains("about 2 min 05 s left  stress.rate=96MBps"), "{columns}:\n{text}");
            }
        }
    }

    #[test]
    fn the_time_left_is_counted_down() {
        let start = Instant::now();
        let attempt = CurrentAttempt { name: "base".into(), left: Some((start, Duration::from_secs(90))) };
        let text = |second| attempt.text(start + Duration::from_secs(second));
        assert_eq!(text(0), "about 1 min 30 s left  base");
        assert_eq!(text(31), "about 59 s left  base");
        assert_eq!(text(90), "longer than predicted  base");
        assert_eq!(text(500), "longer than predicted  base");
    }

    #[test]
    fn big_amounts_of_data_are_readable() {
        let mut sample = sample();
        sample.memory.as_mut().unwrap().remaining_bytes = 1_234_567_890_123;
        assert!(sample_text(&sample).contains(", 1.2 TB left,"), "{}", sample_text(&sample));
    }
}
