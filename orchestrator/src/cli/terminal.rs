//! The terminals to which output goes: how wide they are, and whether they get colors.

use crate::layout::Screen;
use clap::{ColorChoice, ValueEnum};
use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::fd::AsFd,
    sync::OnceLock,
};

/// The assumed width of a terminal that does not report its own, in columns.
const USUAL_WIDTH: usize = 80;

/// When output is colored: the value of `--color`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// The choice for this process, once the command line has been read.
static CHOSEN: OnceLock<Color> = OnceLock::new();

impl Color {
    /// Finds `--color` in a command line that has not been parsed, since help and errors have colors too.
    pub(super) fn among(arguments: impl Iterator<Item = OsString>) -> Self {
        let mut arguments = arguments.skip(1).take_while(|word| word != "--");
        while let Some(word) = arguments.next() {
            let Some(word) = word.to_str() else { continue };
            let value = match word.strip_prefix("--color") {
                Some("") => arguments.next().and_then(|word| word.into_string().ok()),
                Some(rest) => rest.strip_prefix('=').map(str::to_owned),
                None => None,
            };
            if let Some(color) = value.and_then(|value| Self::from_str(&value, false).ok()) {
                return color;
            }
        }
        Self::Auto
    }

    /// Makes this the choice of the process.
    pub(super) fn choose(self) {
        // The first choice counts; there is only one.
        let _ = CHOSEN.set(self);
    }

    /// Returns the choice for clap's own messages.
    pub(super) fn for_clap(self) -> ColorChoice {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
    }

    /// Returns whether output is colored, given whether it goes to a terminal, and two environment variables.
    fn applies(self, terminal: bool, no_color: Option<OsString>, term: Option<OsString>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && no_color.is_none_or(|value| value.is_empty()) && !is_dumb(term),
        }
    }
}

/// Returns whether a terminal of this type does not understand control sequences.
fn is_dumb(term: Option<OsString>) -> bool {
    term.is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Returns whether this stream goes to a terminal that can redraw a line.
pub(super) fn redraws(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && !is_dumb(std::env::var_os("TERM"))
}

/// Returns whether output to this stream is colored.
pub(super) fn colored(stream: &impl IsTerminal) -> bool {
    let chosen = CHOSEN.get().copied().unwrap_or_default();
    chosen.applies(stream.is_terminal(), std::env::var_os("NO_COLOR"), std::env::var_os("TERM"))
}

/// Returns the screen to which standard output goes.
pub(super) fn screen() -> Screen {
    let variable = |name: &str| std::env::var(name).ok();
    Screen { width: width(), is_ascii: is_ascii(variable), is_colored: colored(&io::stdout()) }
}

/// Returns whether output is limited to ASCII, given the environment: on a terminal without any capabilities,
/// or in a locale without UTF-8.
fn is_ascii(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    variable("TERM").is_some_and(|term| term == "dumb")
        || !(locale.contains("utf-8") || locale.contains("utf8"))
}

/// Returns the width of the terminal to which standard output goes, or `None` if it goes elsewhere.
pub(super) fn width() -> Option<usize> {
    width_of(&io::stdout())
}

/// Does the same as [`width`] for another stream.
pub(super) fn width_of(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let told = rustix::termios::tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col));
    let told = told.filter(|columns| *columns > 0);
    let variable = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0);
    Some(told.or_else(variable).unwrap_or(USUAL_WIDTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_found_before_the_command_line_is_parsed() {
        let among = |line: &str| Color::among(line.split(' ').map(OsString::from));
        assert_eq!(among("testbed run x.yaml"), Color::Auto);
        assert_eq!(among("testbed run --color always x.yaml"), Color::Always);
        assert_eq!(among("testbed --color=never run"), Color::Never);
        assert_eq!(among("testbed --color=purple run"), Color::Auto);
        assert_eq!(among("testbed lab shell compute1 -- ls --color always"), Color::Auto);
        assert_eq!(among("testbed --color"), Color::Auto);
    }

    #[test]
    fn automatic_colors_need_a_terminal_that_wants_them() {
        let auto = |terminal, no_color: Option<&str>, term: &str| {
            Color::Auto.applies(terminal, no_color.map(Into::into), Some(term.into()))
        };
        assert!(auto(true, None, "xterm"));
        assert!(auto(true, Some(""), "xterm"));
        assert!(!auto(true, Some("1"), "xterm"));
        assert!(!auto(true, None, "dumb"));
        assert!(!auto(true, None, ""));
        assert!(!Color::Auto.applies(true, None, None));
        assert!(!auto(false, None, "xterm"));
        assert!(Color::Always.applies(false, Some("1".into()), None));
        assert!(!Color::Never.applies(true, None, None));
    }

    #[test]
    fn the_locale_and_the_terminal_decide_about_characters() {
        let ascii = |variables: &[(&str, &str)]| {
            is_ascii(|name| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned()))
        };
        assert!(ascii(&[]));
        assert!(ascii(&[("LANG", "C")]));
        assert!(!ascii(&[("LANG", "de_CH.UTF-8"), ("TERM", "xterm")]));
        assert!(!ascii(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(ascii(&[("LC_ALL", "POSIX"), ("LANG", "C.UTF-8")]));
        assert!(ascii(&[("LANG", "C.UTF-8"), ("TERM", "dumb")]));
    }
}
