//! Progress as plain lines, for logs and pipes: one when an attempt starts, one when it has ended.

use super::{about, outcome_line};
use crate::event::{Event, Sink};

/// Writes a line to standard error for each attempt.
pub struct Plain;

impl Sink for Plain {
    fn take(&self, event: &Event<'_>) {
        match event {
            Event::Remark(text) => eprintln!("{text}"),
            Event::AttemptStarted { number, total, name, left } => {
                eprintln!("[{number}/{total}] {name} … (about {} left)", about(*left));
            }
            Event::AttemptEnded(record) => {
                eprintln!("        {}", outcome_line(record));
                for disagreement in &record.measured.disagreements {
                    eprintln!("        note: {disagreement}");
                }
            }
            Event::PhaseEntered(_) | Event::Sampled(_) | Event::RunEnded => {}
        }
    }
}
