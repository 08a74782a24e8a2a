//! Checks of whether a run would work on this host, and how to fix what is missing.
//!
//! Each check examines one requirement and changes nothing but the user's cache. Checks are values: other
//! modules can add theirs to the list of [`crate::setup::standard_checks`].

use std::fmt;

/// The state of one requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The requirement is met.
    Ok,
    /// The requirement is partly met: some runs do not work, or do not work as well.
    Warning,
    /// The requirement is not met: no run works.
    Missing,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
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

    /// Returns the finding that a requirement is not met.
    pub fn missing(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Missing, ..Self::warning(name, detail, remedy) }
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
    /// Whether a run would work: no requirement is missing.
    pub ready: bool,
    /// One finding per check, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// Runs every check, even if earlier ones failed, and returns their findings.
pub fn examine(checks: &[Box<dyn Check + '_>]) -> CheckReport {
    let findings: Vec<Finding> = checks.iter().map(|check| check.examine()).collect();
    CheckReport { ready: findings.iter().all(|finding| finding.state != State::Missing), findings }
}

impl CheckReport {
    /// Returns the exit code of `testbed doctor`: 0 if a run would work, else 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.ready)
    }

    /// Returns this report with further findings added.
    #[must_use]
    pub fn and(mut self, findings: Vec<Finding>) -> Self {
        self.ready &= findings.iter().all(|finding| finding.state != State::Missing);
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

impl fmt::Display for CheckReport {
    /// Writes a line per finding, with its remedy on the next line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        for Finding { name, state, detail, remedy } in &self.findings {
            writeln!(f, "{state:<8} {name:<width$}  {detail}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:8} {:width$}  fix: {remedy}", "", "")?;
            }
        }
        Ok(())
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
