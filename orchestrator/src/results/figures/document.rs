//! `docs/figures.md`: the figures, for those who read results.

use super::{FIGURES, Figure};
use crate::{matrix::Subject, results::record::Clock};
use std::fmt::Write as _;

/// What the page begins with.
const HEAD: &str = "\
# The figures of a record

Made from the list `FIGURES` in `orchestrator/src/results/figures.rs`; do not edit. After a change there,
`UPDATE_GOLDEN=1 cargo test -p testbed --lib figures` writes it anew.

A record is a line of `cells.jsonl` in a results folder; `testbed schema --records` prints its JSON Schema.
A figure that was not measured is absent. No duration is the difference of two hosts' clocks. Each record
says of each duration that it has whose clock it is by, from what event to what event, and which ways
between the orchestrator and the nodes are in it (`obtained`); `round_trips` has how long such ways there
and back took when the lab started.

Where two figures have the same name in expectations, the later one counts, if it was measured.
";

/// Where lines are broken.
const WIDTH: usize = 110;

/// Returns the page.
pub fn document() -> String {
    let mut page = HEAD.to_string();
    for figure in FIGURES {
        let _ = write!(page, "\n## `{}`\n\n{}\n\n", figure.key, wrapped(figure.what, ""));
        for (name, text) in facts(figure) {
            let _ = writeln!(page, "{}", wrapped(&format!("- {name}: {text}"), "  "));
        }
    }
    page
}

fn facts(figure: &Figure) -> Vec<(&'static str, String)> {
    let given = |text: &'static str| (!text.is_empty()).then(|| text.to_string());
    let subject = |subject: Subject| format!("`{}`", subject.name());
    [
        ("unit", Some(figure.unit.to_string())),
        ("clock", figure.clock.map(|clock| name(clock).to_string())),
        ("from", given(figure.from)),
        ("to", given(figure.to)),
        ("leaves out", given(figure.leaves_out)),
        ("ways between orchestrator and nodes in it", figure.ways.map(ToString::to_string)),
        ("in the table", figure.table.map(|column| column.header.replace('\n', ", "))),
        ("in CSV", figure.csv.map(|column| format!("`{}`", column.name))),
        ("in expectations", figure.expected_as.map(subject)),
        ("published figure beside it, in `reference`", figure.published_as.map(subject)),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name, text?)))
    .collect()
}

const fn name(clock: Clock) -> &'static str {
    match clock {
        Clock::Orchestrator => "the orchestrator's",
        Clock::Source => "the source's host's",
        Clock::Controller => "the controller's host's",
        Clock::Guest => "the guest's, which stands still while the guest is stopped",
        Clock::GuestAndOrchestrator => {
            "the guest's and the orchestrator's: what the one fell behind the other"
        }
    }
}

/// A paragraph whose lines are not too wide; all but the first are indented.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_ascii_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if line.trim_start().is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= WIDTH {
            let _ = write!(line, " {word}");
        } else {
            lines.push(format!("{indent}{word}"));
        }
    }
    lines.join("\n")
}
