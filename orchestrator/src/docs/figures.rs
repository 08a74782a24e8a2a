//! The page `docs/figures.md`: the definitions of all figures, for readers of results.

use super::text::wrapped;
use crate::{
    matrix::Subject,
    results::{
        figures::{FIGURES, Figure},
        record::Clock,
    },
};
use std::fmt::Write as _;

/// The title and introduction of the page.
const HEAD: &str = "\
# The figures of a record

Generated from the list `FIGURES` in `orchestrator/src/results/figures.rs`; do not edit. After a change
there, regenerate this page with `UPDATE_GOLDEN=1 cargo test -p testbed`.

A record is one line of `cells.jsonl` in a results folder; `testbed schema --records` prints its JSON
Schema. A figure that was not measured is absent from the record.

No duration is the difference between the clocks of two hosts. A duration that starts or ends with a message
between the orchestrator and a node includes the delay of that message. For each duration in a record,
`obtained` states the clock, the event at which it starts, the event at which it ends, and the message delays
that it includes; `round_trips` has the round-trip times of such messages, measured when the lab started.

A migration starts with the command `migrate`. If the disk is copied (`storage: block`), it starts with that:
just before the source is connected to the destination's disk. If the guest is stopped to be saved (`mode:
file` without `save_live`), it starts just before the guest is stopped.

If several figures have the same name in expectations, the last one on this page that was measured counts.
";

/// Returns the whole page as Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_string();
    for figure in FIGURES {
        let _ = write!(page, "\n## `{}`\n\n{}\n\n", figure.key, wrapped(figure.description, "", ""));
        for (name, text) in facts(figure) {
            let _ = writeln!(page, "{}", wrapped(&format!("{name}: {text}"), "- ", "  "));
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
        ("message delays included", figure.ways.map(ToString::to_string)),
        ("to, with post-copy", figure.after_postcopy.map(|(to, _)| to.to_string())),
        ("message delays included, with post-copy", figure.after_postcopy.map(|(_, ways)| ways.to_string())),
        ("column in tables", figure.table.map(|column| column.header.replace('\n', ", "))),
        ("column in CSV", figure.csv.map(|column| format!("`{}`", column.name))),
        (
            "name in expectations",
            (!figure.expected_as.is_empty())
                .then(|| figure.expected_as.iter().map(|s| subject(*s)).collect::<Vec<_>>().join(", ")),
        ),
        ("published figure shown beside it, in `reference`", figure.published_as.map(subject)),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name, text?)))
    .collect()
}

const fn name(clock: Clock) -> &'static str {
    match clock {
        Clock::Orchestrator => "the orchestrator's",
        Clock::Source => "the source host's",
        Clock::Destination => "the destination host's",
        Clock::Controller => "the controller host's",
        Clock::Guest => "the guest's, which stands still while the guest is stopped",
        Clock::GuestAndOrchestrator => {
            "the guest's and the orchestrator's: how far the guest's fell behind the orchestrator's"
        }
    }
}
