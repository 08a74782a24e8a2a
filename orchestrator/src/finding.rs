//! Checks whether a run would work on this host, and advice on how to fix what is missing.
//!
//! Each check examines one requirement and changes nothing but the user's cache. Checks are values: other
//! modules can add theirs to the list of [`crate::setup::standard_checks`].

use crate::layout::wrap;
use frontend::Text;
use std::fmt;
pub use storage::StorageProblem;

mod storage;

/// The state of one requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The requirement is met.
    Ok,
    /// The requirement is partly met: some runs do not work, or work less well.
    Warning,
    /// Something that the runs need is missing.
    Missing,
    /// Something that the runs need is present but does not work, or there is too little of it.
    Failed,
}

impl State {
    /// Returns whether no run works in this state.
    pub fn prevents_runs(self) -> bool {
        matches!(self, Self::Missing | Self::Failed)
    }

    /// Returns the color of the word, as a parameter of the terminal's escape sequence.
    fn color(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Warning => "33",
            Self::Missing | Self::Failed => "1;31",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
            Self::Failed => "failed",
        })
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The requirement, in a few words.
    pub name: String,
    /// The state of the requirement.
    pub state: State,
    /// What was found, on one line.
    pub detail: String,
    /// How to fix it: a command if possible, else a sentence.
    pub remedy: Option<String>,
}

impl Finding {
    /// Returns the finding that a requirement is met.
    pub fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state: State::Ok, detail: detail.into(), remedy: None }
    }

    /// Returns the finding that a requirement is partly met.
    pub fn warning(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (detail, remedy) = (detail.into(), Some(remedy.into()));
        Self { name: name.to_owned(), state: State::Warning, detail, remedy }
    }

    /// Returns the finding that something required is missing.
    pub fn missing(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Missing, ..Self::warning(name, detail, remedy) }
    }

    /// Returns the finding that something required is present, but does not work or does not suffice.
    pub fn failed(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Failed, ..Self::warning(name, detail, remedy) }
    }
}

/// A check of one requirement.
pub trait Check {
    /// Examines the requirement and returns what it found.
    fn examine(&self) -> Finding;
}

impl<F: Fn() -> Finding> Check for F {
    fn examine(&self) -> Finding {
        self()
    }
}

/// The results of all checks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// Whether a run would work: nothing that it needs is missing or fails.
    pub ready: bool,
    /// One finding per check, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// Runs every check, even if earlier ones failed, and returns their findings.
pub fn examine(checks: &[Box<dyn Check + '_>]) -> CheckReport {
    let findings: Vec<Finding> = checks.iter().map(|check| check.examine()).collect();
    CheckReport { ready: findings.iter().all(|finding| !finding.state.prevents_runs()), findings }
}

impl CheckReport {
    /// Returns the exit code of `testbed doctor`: 0 if a run would work, else 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.ready)
    }

    /// Returns this report with further findings added.
    #[must_use]
    pub fn and(mut self, findings: Vec<Finding>) -> Self {
        self.ready &= findings.iter().all(|finding| !finding.state.prevents_runs());
        self.findings.extend(findings);
        self
    }

    /// Returns this report with only the requirements that are not fully met, for `--quiet`.
    #[must_use]
    pub fn problems(mut self) -> Self {
        self.findings.retain(|finding| finding.state != State::Ok);
        self
    }
}

/// The width of a report that does not go to a terminal, in columns.
const USUAL_WIDTH: usize = 80;

/// The smallest and the largest width for which a report is laid out.
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=100;

impl CheckReport {
    /// Returns the report as text: for each finding its state, its name and what was found, then its remedy.
    /// No line is wider than the terminal, or than 80 columns without a terminal. The states are colored if
    /// `colored` is set.
    pub fn text(&self, terminal: Option<usize>, colored: bool) -> Text {
        let width = terminal.unwrap_or(USUAL_WIDTH).clamp(*WIDTHS.start(), *WIDTHS.end());
        let name_width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        let prefix = STATE_WIDTH + 1 + name_width + 2;
        let mut text = Text::default();
        for Finding { name, state, detail, remedy } in &self.findings {
            let padding = " ".repeat(STATE_WIDTH - state.to_string().len());
            let word = Text::from(state.to_string());
            text += if colored { word.painted(state.color()) } else { word };
            // What was found goes below the name if the space beside the name is little more than half of the
            // width, or if a path would have to be cut there.
            let cut = |text: &str| {
                text.split_whitespace().any(|word| word.chars().count() > width.saturating_sub(prefix))
            };
            let below = prefix * 2 > width || cut(detail);
            let indent = if below { 4 } else { prefix };
            let mut lines: Vec<String> = Vec::new();
            for part in detail.lines() {
                lines.extend(wrap(part, width - indent));
            }
            if let Some(remedy) = remedy {
                for (number, line) in wrap(remedy, width - indent - FIX.len()).into_iter().enumerate() {
                    lines.push(if number == 0 { format!("{FIX}{line}") } else { format!("     {line}") });
                }
            }
            let mut lines = lines.into_iter();
            let head = format!("{padding} {name:<name_width$}");
            match lines.next() {
                Some(first) if !below => text += format!("{head}  {first}\n"),
                first => {
                    text += format!("{}\n", head.trim_end());
                    text.extend(first.map(|first| format!("{:indent$}{first}\n", "").into()));
                }
            }
            text.extend(lines.map(|line| format!("{:indent$}{line}\n", "").into()));
        }
        text
    }
}

/// The width of the longest state.
const STATE_WIDTH: usize = 8;

/// What precedes a remedy.
const FIX: &str = "fix: ";

impl fmt::Display for CheckReport {
    /// Writes the report as [`CheckReport::text`] returns it without a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text(None, false).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(states: &[State]) -> CheckReport {
        let checks: Vec<Box<dyn Check>> = states
            .iter()
            .map(|state| {
                let finding = match state {
                    State::Ok => Finding::ok("qemu", "QEMU 10"),
                    State::Warning => Finding::warning("memory", "little", "close programs"),
                    State::Missing => Finding::missing("guest kernel", "none", "testbed setup"),
                    State::Failed => Finding::failed("results", "not writable", "choose another"),
                };
                Box::new(move || finding.clone()) as Box<dyn Check>
            })
            .collect();
        examine(&checks)
    }

    #[test]
    fn only_missing_requirements_prevent_a_run() {
        assert_eq!(report(&[State::Ok, State::Warning]).exit_code(), 0);
        assert_eq!(report(&[State::Ok, State::Missing, State::Ok]).exit_code(), 1);
        assert_eq!(report(&[State::Failed]).exit_code(), 1);
        assert_eq!(report(&[State::Missing]).findings.len(), 1);
    }

    #[test]
    fn a_report_lists_findings_with_their_remedies() {
        let text = report(&[State::Ok, State::Warning, State::Missing]).to_string();
        assert_eq!(
            text,
            "ok       qemu          QEMU 10\n\
             warning  memory        little\n\
             \x20                      fix: close programs\n\
             missing  guest kernel  none\n\
             \x20                      fix: testbed setup\n"
        );
        assert_eq!(report(&[State::Ok, State::Warning]).problems().findings.len(), 1);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let path = "/a/path/that/is/longer/than/any/terminal/that/this/test/tries".repeat(3);
        let long = format!("`ssh lab9 true` has to work without asking for anything, and {path}");
        let findings = vec![
            Finding::failed("compute2 migration", long.as_str(), long.as_str()),
            Finding::ok("QEMU", "10.0.2 at /usr/bin/qemu-system-x86_64"),
        ];
        let report = CheckReport { ready: false, findings };
        for terminal in (40..140).map(Some).chain([None]) {
            let text = report.text(terminal, false).to_string();
            let limit = terminal.unwrap_or(80).min(100);
            let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > limit).collect();
            assert_eq!(wide, [""; 0], "{terminal:?}:\n{text}");
            assert_eq!(text.matches("fix: ").count(), 1);
            assert!(text.contains("`ssh lab9 true`"), "a command stays on one line:\n{text}");
        }
    }

    #[test]
    fn states_have_colors_on_request() {
        let text = report(&[State::Ok, State::Missing]).text(None, true).to_string();
        assert!(text.starts_with("\x1b[32mok\x1b[0m       qemu "), "{text:?}");
        assert!(text.contains("\x1b[1;31mmissing\x1b[0m  guest kernel  none"), "{text:?}");
    }

    #[test]
    fn states_are_words_in_json() {
        let json = serde_json::to_value(report(&[State::Missing])).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "ready": false,
                "findings": [{
                    "name": "guest kernel",
                    "state": "missing",
                    "detail": "none",
                    "remedy": "testbed setup",
                }]
            })
        );
    }
}
