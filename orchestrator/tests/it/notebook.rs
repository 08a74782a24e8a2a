//! The notebook in docs/notebook: Jupyter runs it as its readers do; without Jupyter, its cells run one after
//! another.

use crate::common::{documents::root, shown};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Output},
};

/// Returns a Python that has these modules.
fn python(modules: &str) -> Option<&'static str> {
    let can = |python: &&str| {
        let output = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    // The distribution's packages belong to its own Python, which may not be the first in PATH.
    ["python3", "/usr/bin/python3"].into_iter().find(can)
}

#[test]
fn the_notebook_redraws_the_threshold() {
    let text = fs::read_to_string(root().join("docs/notebook/threshold.ipynb")).unwrap();
    let notebook: Value = serde_json::from_str(&text).unwrap();
    let cells = notebook["cells"].as_array().unwrap();
    let source =
        |cell: &Value| serde_json::from_value::<Vec<String>>(cell["source"].clone()).unwrap().concat();
    let code: Vec<String> = cells.iter().filter(|cell| cell["cell_type"] == "code").map(source).collect();
    assert!(code.len() > 4 && cells.iter().all(|cell| cell["outputs"].as_array().is_none_or(Vec::is_empty)));
    let Some(python) = python("matplotlib, pandas") else {
        println!(
            "skipped: Python has no pandas or no matplotlib (Debian: python3-pandas, python3-matplotlib)"
        );
        return;
    };
    let mut command = Command::new(python);
    command.args(["-c", &code.join("\n")]).env("MPLBACKEND", "svg");
    redraws(command);
}

#[test]
fn the_notebook_runs_in_jupyter() {
    let Some(python) = python("ipykernel, matplotlib, nbconvert, pandas") else {
        println!(
            "skipped: Python has no nbconvert or no ipykernel (Debian: python3-nbconvert, python3-ipykernel)"
        );
        return;
    };
    let mut command = Command::new(python);
    command.args(["-m", "nbconvert", "--to", "notebook", "--execute", "--stdout"]);
    command.arg(root().join("docs/notebook/threshold.ipynb"));
    let executed: Value = serde_json::from_slice(&redraws(command).stdout).unwrap();
    let cells = executed["cells"].as_array().unwrap();
    let code: Vec<&Value> = cells.iter().filter(|cell| cell["cell_type"] == "code").collect();
    assert!(code.len() > 4 && code.iter().all(|cell| cell["execution_count"].is_u64()), "{executed:#}");
    let shows_picture = |cell: &&Value| cell["outputs"].to_string().contains("image/png");
    assert!(code.iter().any(shows_picture), "the figure is not shown in the notebook");
}

/// Runs the notebook on a reference run. Requires that it draws the figure, and returns the output.
fn redraws(mut command: Command) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let figure = folder.path().join("threshold.svg");
    command.env("MPLCONFIGDIR", folder.path()).env("HOME", folder.path()).env("FIGURE", &figure);
    command.env("RUN", root().join("results/reference/icclab-threshold-tcg"));
    let output = command.env("TESTBED", env!("CARGO_BIN_EXE_testbed")).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let drawn = fs::read_to_string(figure).unwrap();
    for text in ["Total time, s", "dirty rate, MB/s", "not every attempt converged"] {
        assert!(drawn.contains(text), "{text}");
    }
    output
}
