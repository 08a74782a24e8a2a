//! The scenarios that come with the project: they parse and expand, and their expectations agree with the
//! model's predictions.

use std::{
    fs,
    path::{Path, PathBuf},
};
use stressor::workload::Rate;
use testbed::{
    matrix::{File, Limits, Plan, Traces},
    predict::precopy::predict,
};
use units::{ByteRate, Bytes, Span};

fn plan(path: &Path) -> Plan {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let name = path.display().to_string();
    let mut traces = Traces::beside(path);
    File::parse(&text, &name).and_then(|file| file.expand_with(&mut traces)).unwrap_or_else(|e| panic!("{e}"))
}

fn scenarios(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scenarios(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

#[test]
fn every_scenario_expands_and_expects_what_the_model_predicts() {
    let mut files = Vec::new();
    scenarios(&root(), &mut files);
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let plan = plan(&file);
        for cell in &plan.cells {
            // The model does not cover the others.
            let Some(predicted) = predict(&cell.settings) else { continue };
            let about = plan.expect.iter().filter(|expected| expected.applies_to(&cell.settings));
            for expected in about.filter_map(|expected| expected.outcome) {
                assert_eq!(predicted.outcome, expected, "{}: {}", file.display(), cell.id);
            }
        }
    }
}

#[test]
fn the_threshold_scenario_matches_the_published_experiment() {
    let plan = plan(&root().join("icclab/threshold.yaml"));
    let published: serde_yaml::Value =
        serde_yaml::from_str(include_str!("../matrix/icclab-2014-stressed.yaml")).unwrap();
    let thousandths = |key: &str| -> Vec<u64> {
        let figures = published[key].as_sequence().unwrap().iter();
        figures.map(|figure| (figure.as_f64().unwrap() * 1000.0).round() as u64).collect()
    };
    let megabytes =
        |key: &str| -> Vec<Bytes> { thousandths(key).iter().map(|kb| Bytes::new(kb * 1000)).collect() };
    let (levels, transferred) = (megabytes("stressed_mb"), megabytes("transferred_mb"));
    let total_time: Vec<Span> =
        thousandths("migration_time_s").iter().map(|ms| Span::from_millis(*ms)).collect();
    assert_eq!(plan.cells.len(), levels.len() + 4);
    let reference = plan.reference.as_ref().unwrap();
    for (i, level) in levels.iter().enumerate() {
        let settings = &plan.cells[i].settings;
        assert_eq!(settings.stress.rate, Rate::Limited(ByteRate::new(level.get())));
        assert_eq!(settings.stress.working_set_bytes(), Some(*level));
        let row = reference.row_for(settings).unwrap();
        assert_eq!(row.transferred, Some(transferred[i]));
        assert_eq!(row.total_time, Some(total_time[i]));
        // The published data are expected within 5 %, and within 25 % close to the threshold.
        let percent = if level.get() == 96_000_000 { 25 } else { 5 };
        let mut about = plan.expect.iter().filter(|expected| expected.applies_to(settings));
        let bounds = about.find_map(|expected| match &expected.transferred {
            Some(Limits::Absolute(bounds)) => Some(bounds),
            _ => None,
        });
        let bounds = bounds.unwrap_or_else(|| panic!("nothing is expected of the data at {level}"));
        let per_mille = |n: u64| Bytes::new(transferred[i].get() / 1000 * n);
        for (share, held) in [(1000, true), (1001 + 10 * percent, false), (999 - 10 * percent, false)] {
            assert_eq!(bounds.contain(per_mille(share)), held, "{level}: {share} per mille of the published");
        }
    }
}
