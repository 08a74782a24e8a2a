//! The inputs in `fuzz/corpus`, through the functions that `cargo fuzz` calls: no input causes a panic.

#[path = "../../../fuzz/targets.rs"]
mod targets;

use std::{fs, path::Path};

#[test]
fn no_input_of_the_corpora_causes_a_panic() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in targets::ALL {
        let entries = fs::read_dir(corpora.join(name)).unwrap();
        let inputs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() >= 10, "the corpus of {name} has {} inputs", inputs.len());
        for input in inputs {
            let content = fs::read(&input).unwrap();
            // The harness prints this if the target panics.
            println!("{}", input.display());
            target(&content);
        }
    }
}
