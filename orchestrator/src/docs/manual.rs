//! Manual pages of commands: clap's own sections, then those at the end of the help.
//!
//! The text after the options of a command's help (`after_help`) is divided by lines such as `Examples:` that
//! begin at the margin. Each of these becomes a section of the page, so help and page cannot differ.

use super::text;
use clap::Command;
use clap_mangen::Man;
use roff::{Roff, roman};
use std::io;

/// Returns the page of a command. The command must have been built.
pub(super) fn page(command: &Command) -> String {
    let man = Man::new(command.clone()).manual("Live-migration testbed");
    let mut page = Vec::new();
    render(&man, command, &mut page).expect("a vector takes all that is written");
    String::from_utf8(page).expect("a page is made of strings")
}

fn render(man: &Man, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    let mut roff = Roff::new();
    if let Some(help) = command.get_after_long_help() {
        for section in sections(&help.to_string()) {
            roff.control("SH", [section.heading.to_uppercase().as_str()]);
            text::verbatim(&mut roff, &section.lines);
        }
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    roff.control("SH", ["SEE ALSO"]).text([roman(related(name))]);
    roff.to_writer(page)
}

/// Returns what to read besides this command's page.
fn related(name: &str) -> String {
    let program = name.split('-').next().unwrap_or(name);
    ["testbed(1)", "testbed-matrix(5)", "netem(1)", "stressor(1)"]
        .into_iter()
        .chain((program != name).then_some("testbed-run(1)"))
        .filter(|page| page.strip_suffix("(1)") != Some(name))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A part of the text at the end of a command's help.
#[derive(Debug, PartialEq)]
struct Section {
    heading: String,
    lines: Vec<String>,
}

/// Divides the text at the end of a command's help. Text before the first heading becomes a section `Notes`.
fn sections(help: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in help.lines() {
        let heading = line.strip_suffix(':').filter(|text| !text.starts_with(' ') && text.len() < 30);
        if let Some(heading) = heading {
            sections.push(Section { heading: heading.into(), lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push(line.strip_prefix("  ").unwrap_or(line).into());
        } else {
            sections.push(Section { heading: "Notes".into(), lines: vec![line.into()] });
        }
    }
    for section in &mut sections {
        while section.lines.last().is_some_and(String::is_empty) {
            section.lines.pop();
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_divided_at_its_headings() {
        let help = "Units are mandatory.\n\nExamples:\n  one\n  two\n\nExit codes:\n  0  fine";
        let of = |heading: &str, lines: &[&str]| Section {
            heading: heading.into(),
            lines: lines.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(
            sections(help),
            [
                of("Notes", &["Units are mandatory."]),
                of("Examples", &["one", "two"]),
                of("Exit codes", &["0  fine"]),
            ]
        );
    }

    #[test]
    fn a_page_refers_to_others_but_not_to_itself() {
        assert_eq!(related("netem"), "testbed(1), testbed-matrix(5), stressor(1)");
        assert_eq!(
            related("testbed-plan"),
            "testbed(1), testbed-matrix(5), netem(1), stressor(1), testbed-run(1)"
        );
    }
}
