//! Progress as plain lines, for logs and pipes: one when an attempt starts, and one when it ends.

use super::{about, outcome_line};
use crate::event::{Event, Sink};

/// A sink that writes lines to standard error.
pub struct Plain;

impl Sink for Plain {
    fn handle(&self, event: &Event<'_>) {
        match event {
            Event::Message(text) => eprintln!("{text}"),
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
