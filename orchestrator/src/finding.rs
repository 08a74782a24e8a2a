//! Whether a run would work on this machine, and what mends it where not.
//!
//! A list of checks, each of which looks at one thing and changes nothing but the user's cache. Checks are
//! values: other modules add theirs to the list of [`crate::setup::standard_checks`].

use std::fmt;

/// How it stands with one requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is met.
    Ok,
    /// A run works, but not every run, or not as well.
    Warning,
    /// No run works.
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

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The requirement, in a few words.
    pub name: String,
    /// How it stands with it.
    pub state: State,
    /// What was found, in a line.
    pub detail: String,
    /// What mends it: a command, where one does.
    pub remedy: Option<String>,
}

impl Finding {
    /// A requirement that is met.
    pub fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state: State::Ok, detail: detail.into(), remedy: None }
    }

    /// A requirement that is not quite met.
    pub fn warning(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (detail, remedy) = (detail.into(), Some(remedy.into()));
        Self { name: name.to_owned(), state: State::Warning, detail, remedy }
    }

    /// A requirement that is not met.
    pub fn missing(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Missing, ..Self::warning(name, detail, remedy) }
    }
}

/// Looks at one requirement.
pub trait Check {
    /// Looks.
    fn examine(&self) -> Finding;
}

impl<F: Fn() -> Finding> Check for F {
    fn examine(&self) -> Finding {
        self()
    }
}

/// What all checks found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Whether a run would work.
    pub ready: bool,
    /// One finding a check, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// Makes every check, whatever the ones before found.
pub fn examine(checks: &[Box<dyn Check + '_>]) -> Report {
    let findings: Vec<Finding> = checks.iter().map(|check| check.examine()).collect();
    Report { ready: findings.iter().all(|finding| finding.state != State::Missing), findings }
}

impl Report {
    /// The exit code of `testbed doctor`: 0 only when a run would work.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.ready)
    }

    /// With what else was found.
    #[must_use]
    pub fn and(mut self, findings: Vec<Finding>) -> Self {
        self.ready &= findings.iter().all(|finding| finding.state != State::Missing);
        self.findings.extend(findings);
        self
    }

    /// Only what is not met, for `--quiet`.
    #[must_use]
    pub fn problems(mut self) -> Self {
        self.findings.retain(|finding| finding.state != State::Ok);
        self
    }
}

impl fmt::Display for Report {
    /// A line a finding, and its remedy below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        for Finding { name, state, detail, remedy } in &self.findings {
            writeln!(f, "{state:<8} {name:<width$}  {detail}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:8} {:width$}  mend it: {remedy}", "", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(states: &[State]) -> Report {
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
    fn only_what_is_missing_keeps_from_running() {
        assert_eq!(report(&[State::Ok, State::Warning]).exit_code(), 0);
        assert_eq!(report(&[State::Ok, State::Missing, State::Ok]).exit_code(), 1);
        assert_eq!(report(&[State::Missing]).findings.len(), 1);
    }

    #[test]
    fn it_reads_as_a_list_with_remedies() {
        let text = report(&[State::Ok, State::Warning, State::Missing]).to_string();
        assert_eq!(
            text,
            "ok       qemu          QEMU 10\n\
             warning  memory        little\n\
             \x20                      mend it: close programs\n\
             missing  guest kernel  none\n\
             \x20                      mend it: testbed setup\n"
        );
        assert_eq!(report(&[State::Ok, State::Warning]).problems().findings.len(), 1);
    }

    #[test]
    fn its_json_names_states_in_words() {
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
