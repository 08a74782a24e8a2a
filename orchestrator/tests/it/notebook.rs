//! The notebook in docs/notebook: its cells run one after the other, as Jupyter runs them.

use crate::common::{documents::root, shown};
use serde_json::Value;
use std::{fs, process::Command};

/// Returns a Python that has what the notebook needs.
fn python() -> Option<&'static str> {
    let can = |python: &&str| {
        let output = Command::new(python).args(["-c", "import matplotlib, pandas"]).output();
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
    let Some(python) = python() else {
        println!(
            "skipped: Python has no pandas or no matplotlib (Debian: python3-pandas, python3-matplotlib)"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let figure = folder.path().join("threshold.svg");
    let mut command = Command::new(python);
    command.args(["-c", &code.join("\n")]).env("MPLBACKEND", "svg").env("MPLCONFIGDIR", folder.path());
    command.env("RUN", root().join("results/reference/icclab-threshold-tcg")).env("FIGURE", &figure);
    let output = command.env("TESTBED", env!("CARGO_BIN_EXE_testbed")).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let drawn = fs::read_to_string(figure).unwrap();
    for text in ["Total time, s", "dirty rate, MB/s", "not every attempt converged"] {
        assert!(drawn.contains(text), "{text}");
    }
}
