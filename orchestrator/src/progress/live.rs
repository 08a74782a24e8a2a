//! Progress on a terminal: a bar for the run, and a line for the migration in progress.

use super::{about, outcome_line};
use crate::{
    event::{Event, Sink},
    measure::samples::Sample,
    outcome::Outcome,
    results::record::Record,
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Mutex;

/// The maximum number of redraws per second: enough to look alive, too few to cost anything.
const REDRAWS_PER_SECOND: u8 = 5;

/// A bar and a line at the bottom of the terminal, which are redrawn when something happens.
pub struct Live {
    all: MultiProgress,
    run: ProgressBar,
    attempt: ProgressBar,
    name: Mutex<String>,
    colour: bool,
}

impl Live {
    /// Starts drawing on standard error, in colour if `colour` is set.
    pub fn start(colour: bool) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND));
        let run = all.add(ProgressBar::new(0));
        let attempt = all.add(ProgressBar::new_spinner());
        // The templates are constants and valid, so this cannot fail.
        let bar = if colour { "{bar:30.cyan} {pos}/{len}  {msg}" } else { "{bar:30} {pos}/{len}  {msg}" };
        if let (Ok(bar), Ok(line)) =
            (ProgressStyle::with_template(bar), ProgressStyle::with_template("{wide_msg}"))
        {
            run.set_style(bar);
            attempt.set_style(line);
        }
        Self { all, run, attempt, name: Mutex::default(), colour }
    }

    fn print(&self, line: impl AsRef<str>) {
        // The run continues even if the terminal is gone.
        let _ = self.all.println(line);
    }

    /// Shows the state of the current attempt on its line.
    fn show(&self, text: &str) {
        self.attempt.set_message(format!("{}: {text}", self.name.lock().unwrap()));
    }

    fn ended(&self, record: &Record) {
        self.run.inc(1);
        let line = outcome_line(record);
        let colour = match record.outcome {
            Outcome::Converged => "32",
            Outcome::NotConverged | Outcome::Skipped | Outcome::Interrupted => "33",
            Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted => "31",
        };
        self.print(if self.colour { format!("\x1b[{colour}m{line}\x1b[0m") } else { line });
        for disagreement in &record.measured.disagreements {
            self.print(format!("  note: {disagreement}"));
        }
    }
}

impl Sink for Live {
    fn handle(&self, event: &Event<'_>) {
        match event {
            Event::Message(text) => self.print(text),
            Event::AttemptStarted { number, total, name, left } => {
                self.run.set_length(*total as u64);
                self.run.set_position(*number as u64 - 1);
                self.run.set_message(format!("about {} left", about(*left)));
                *self.name.lock().unwrap() = (*name).into();
            }
            Event::PhaseEntered(phase) => self.show(phase.describe()),
            Event::Sampled(sample) => self.show(&sample_text(sample)),
            Event::AttemptEnded(record) => self.ended(record),
            Event::RunEnded => {
                self.attempt.finish_and_clear();
                self.run.finish_and_clear();
            }
        }
    }
}

fn sample_text(sample: &Sample) -> String {
    let seconds = sample.at_ms / 1e3;
    let Some(memory) = &sample.memory else { return format!("{seconds:.1} s, {}", sample.status) };
    format!(
        "{seconds:.1} s, pass {}, {:.0} MB left, {:.0} MB/s sent, {:.0} MB/s dirtied",
        memory.pass,
        memory.remaining_bytes as f64 / 1e6,
        memory.mbit_per_s / 8.0,
        memory.dirty_rate_bytes_per_s as f64 / 1e6,
    )
}
