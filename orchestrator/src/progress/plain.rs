//! Progress as plain lines, for logs and pipes: one when an attempt starts, and one when it ends.

use super::{CurrentPhase, display::Display, outcome_line, painted};
use crate::{
    event::{Event, Sink},
    layout::about,
};
use frontend::{Text, one_line};
use std::{sync::Mutex, time::Instant};

/// A sink that writes lines to standard error.
#[derive(Debug)]
pub struct Plain {
    display: Display,
    color: bool,
    verbose: bool,
    phase: Mutex<CurrentPhase>,
}

impl Plain {
    /// Creates a sink that colors outcomes if `color` is set, and shows phases if `verbose` is. It waits at
    /// the end of the run until [everything is shown](Display::finish).
    pub fn new(display: Display, color: bool, verbose: bool) -> Self {
        Self { display, color, verbose, phase: Mutex::default() }
    }

    /// Returns the lines that show an event.
    fn lines(&self, event: &Event<'_>, now: Instant) -> Vec<Text> {
        let ended = self.phase.lock().unwrap().follow(event, now).filter(|_| self.verbose);
        let mut lines: Vec<Text> = ended.map(|line| format!("        {line}").into()).into_iter().collect();
        match event {
            Event::Message(text) => lines.push((*text).into()),
            Event::AttemptStarted { number, total, name, left } => {
                let name = one_line(name);
                lines.push(format!("[{number}/{total}] {name} … (about {} left)", about(*left)).into());
            }
            Event::AttemptEnded(record) => {
                let line = outcome_line(record);
                let line = if self.color { painted(record.outcome, &line) } else { line.into() };
                lines.push([Text::from("        "), line].into_iter().collect());
                for disagreement in &record.measured.disagreements {
                    lines.push(format!("        note: {}", one_line(disagreement)).into());
                }
            }
            Event::PhaseEntered(_) | Event::Sampled(_) | Event::RunEnded => {}
        }
        lines
    }
}

impl Sink for Plain {
    fn handle(&self, event: &Event<'_>) {
        let lines = self.lines(event, Instant::now());
        if !lines.is_empty() {
            self.display.show(|| lines.into_iter().for_each(frontend::tell));
        }
        if matches!(event, Event::RunEnded) {
            self.display.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::record::Phase;
    use std::time::Duration;

    #[test]
    fn phases_are_shown_on_request_only() {
        let events = [Event::PhaseEntered(Phase::Boot), Event::Message("m"), Event::RunEnded];
        let shown = |sink: &Plain| {
            let start = Instant::now();
            let at = |second: u32| start + Duration::from_secs(1) * second;
            (0..).zip(&events).flat_map(|(second, event)| sink.lines(event, at(second))).collect::<Vec<_>>()
        };
        let plain = |verbose| Plain::new(Display::start(|| false).unwrap(), false, verbose);
        assert_eq!(shown(&plain(false)), ["m"]);
        let phase = format!("        {}: 2.00 s", Phase::Boot.describe());
        assert_eq!(shown(&plain(true)), ["m", phase.as_str()]);
    }
}
