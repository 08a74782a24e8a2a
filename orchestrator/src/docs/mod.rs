//! Manual pages, shell completions and the references of matrix files and figures, generated from the
//! definitions that also parse the command lines, read the files and fill the records.

pub mod figures;
mod manual;
pub mod reference;
mod text;

use clap::Command;
use clap_complete::Shell;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A page or a completion that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// Writes the manual pages and completions of these programs below `dir`, in the layout of an installation:
/// `share/man/man1` has a page for each program and each of its subcommands, `share/man/man5` has the page
/// about matrix files, and the completions are in the directories where bash, zsh and fish look for them.
///
/// Hidden subcommands and options are left out everywhere.
///
/// # Errors
/// When a file or directory cannot be written.
pub fn generate(programs: Vec<Command>, dir: &Path) -> Result<(), Error> {
    let pages = create(dir.join("share/man/man1"))?;
    let formats = create(dir.join("share/man/man5"))?;
    let completions = [
        (Shell::Bash, create(dir.join("share/bash-completion/completions"))?),
        (Shell::Zsh, create(dir.join("share/zsh/site-functions"))?),
        (Shell::Fish, create(dir.join("share/fish/vendor_completions.d"))?),
    ];
    for program in programs {
        let mut program = visible(&program);
        let name = program.get_name().to_owned();
        for (shell, directory) in &completions {
            // bash-completion loads a command's file by the command's plain name.
            let file = match shell {
                Shell::Bash => name.clone(),
                Shell::Zsh => format!("_{name}"),
                other => format!("{name}.{other}"),
            };
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut program.clone(), &name, &mut text);
            write(directory.join(file), &text)?;
        }
        program.build();
        write_pages(&program, &pages)?;
    }
    write(formats.join(reference::MANUAL_PAGE), reference::matrix().manual_page().as_bytes())
}

/// Writes the page of a command and the pages of its subcommands.
fn write_pages(command: &Command, directory: &Path) -> Result<(), Error> {
    for subcommand in command.get_subcommands() {
        write_pages(subcommand, directory)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    write(directory.join(format!("{name}.1")), manual::page(command).as_bytes())
}

/// Returns the part of a command that users type. clap's generators support `hide` only for arguments, and
/// not for every shell.
fn visible(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned()).disable_help_subcommand(true);
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        shown = shown.long_about(about.clone());
    }
    if let Some(help) = command.get_after_long_help().or(command.get_after_help()) {
        shown = shown.after_long_help(help.clone());
    }
    shown
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .groups(command.get_groups().cloned())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(visible))
}

fn create(path: PathBuf) -> Result<PathBuf, Error> {
    match fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error { path, source }),
    }
}

fn write(path: PathBuf, content: &[u8]) -> Result<(), Error> {
    fs::write(&path, content).map_err(|source| Error { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let testbed = Command::new("testbed")
            .version("0.1.0")
            .about("Runs migrations")
            .subcommand(
                Command::new("run")
                    .about("Runs a matrix")
                    .arg(clap::arg!(--repeat <N> "How often"))
                    .arg(clap::arg!(--secret).hide(true))
                    .after_help(
                        "Examples:\n  testbed run matrix.yaml\n\nFiles:\n  results  one folder per run",
                    ),
            )
            .subcommand(
                Command::new("lab").about("Shows labs").subcommand(Command::new("status").about("Lists")),
            )
            .subcommand(Command::new("serve").hide(true));
        generate(vec![testbed, Command::new("netem")], dir.path()).unwrap();
        dir
    }

    #[test]
    fn every_command_has_a_page_and_completions_in_each_shell() {
        let dir = generated();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert!(read("share/man/man1/testbed.1").contains("Runs migrations"));
        let run = read("share/man/man1/testbed-run.1");
        assert!(run.contains("Runs a matrix") && run.contains("repeat"), "{run}");
        assert!(read("share/man/man1/netem.1").contains("netem"));
        assert!(read("share/man/man1/testbed-lab-status.1").contains("Lists"));
        assert!(read("share/bash-completion/completions/testbed").contains("--repeat"));
        assert!(read("share/zsh/site-functions/_testbed").starts_with("#compdef testbed"));
        assert!(read("share/fish/vendor_completions.d/testbed.fish").contains("repeat"));
        assert!(read("share/man/man5/testbed-matrix.5").contains(".SH"));
    }

    #[test]
    fn sections_of_the_help_are_sections_of_the_page() {
        let dir = generated();
        let page = fs::read_to_string(dir.path().join("share/man/man1/testbed-run.1")).unwrap();
        for section in [".SH EXAMPLES\n", ".SH FILES\n", ".SH \"SEE ALSO\"\n"] {
            assert!(page.contains(section), "{section}: {page}");
        }
        assert!(!page.contains("EXTRA"), "{page}");
    }

    #[test]
    fn neither_hidden_nor_help_subcommands_are_shown() {
        let dir = generated();
        let mut pages: Vec<String> = fs::read_dir(dir.path().join("share/man/man1"))
            .unwrap()
            .map(|page| page.unwrap().file_name().into_string().unwrap())
            .collect();
        pages.sort();
        let expected = ["netem.1", "testbed-lab-status.1", "testbed-lab.1", "testbed-run.1", "testbed.1"];
        assert_eq!(pages, expected);
        let completions = ["bash-completion/completions/testbed", "zsh/site-functions/_testbed"];
        for path in completions.into_iter().chain(["fish/vendor_completions.d/testbed.fish"]) {
            let text = fs::read_to_string(dir.path().join("share").join(path)).unwrap();
            assert!(!text.contains("serve") && !text.contains("secret"), "{path}: {text}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("share"), "a file").unwrap();
        let error = generate(vec![Command::new("netem")], dir.path()).unwrap_err().to_string();
        assert!(error.contains("share/man/man1"), "{error}");
    }
}
