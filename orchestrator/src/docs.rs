//! Manual pages and shell completions, made from the definitions that also parse the command lines.

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

/// Writes the manual pages and completions of these programs below `dir` as an installation lays them out:
/// `share/man/man1`, one page for each program and each of its subcommands; and the directories that bash,
/// zsh and fish look in. Hidden subcommands get no page.
///
/// # Errors
/// When a file or directory cannot be written.
pub fn generate(commands: Vec<Command>, dir: &Path) -> Result<(), Error> {
    let manual = made(dir.join("share/man/man1"))?;
    let completions = [
        (Shell::Bash, made(dir.join("share/bash-completion/completions"))?),
        (Shell::Zsh, made(dir.join("share/zsh/site-functions"))?),
        (Shell::Fish, made(dir.join("share/fish/vendor_completions.d"))?),
    ];
    for mut command in commands {
        let name = command.get_name().to_owned();
        for (shell, directory) in &completions {
            // bash-completion loads a command's file by the command's plain name.
            let file = match shell {
                Shell::Bash => name.clone(),
                Shell::Zsh => format!("_{name}"),
                other => format!("{name}.{other}"),
            };
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command, &name, &mut text);
            write(directory.join(file), &text)?;
        }
        clap_mangen::generate_to(command, &manual)
            .map_err(|source| Error { path: manual.clone(), source })?;
    }
    Ok(())
}

fn made(path: PathBuf) -> Result<PathBuf, Error> {
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

    #[test]
    fn every_command_has_a_page_and_completions_in_each_shell() {
        let dir = tempfile::tempdir().unwrap();
        let testbed = Command::new("testbed")
            .version("0.1.0")
            .about("Runs migrations")
            .subcommand(Command::new("run").about("Runs a matrix").arg(clap::arg!(--repeat <N> "How often")))
            .subcommand(Command::new("generate").hide(true));
        generate(vec![testbed, Command::new("netem")], dir.path()).unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert!(read("share/man/man1/testbed.1").contains("Runs migrations"));
        let run = read("share/man/man1/testbed-run.1");
        assert!(run.contains("Runs a matrix") && run.contains("repeat"), "{run}");
        assert!(read("share/man/man1/netem.1").contains("netem"));
        assert!(!dir.path().join("share/man/man1/testbed-generate.1").exists());
        assert!(read("share/bash-completion/completions/testbed").contains("--repeat"));
        assert!(read("share/zsh/site-functions/_testbed").starts_with("#compdef testbed"));
        assert!(read("share/fish/vendor_completions.d/testbed.fish").contains("repeat"));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("share"), "a file").unwrap();
        let error = generate(vec![Command::new("netem")], dir.path()).unwrap_err().to_string();
        assert!(error.contains("share/man/man1"), "{error}");
    }
}
