//! Runs each stored input of the fuzz targets (`tests/corpus/`) once, on stable Rust.

use std::{fs, path::Path};

use actix_nacos::testing::fuzz::TARGETS;

#[test]
fn no_input_of_the_corpus_breaks_its_target() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
        let inputs = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut run = 0;
        for input in inputs {
            target(&fs::read(input.unwrap().path()).unwrap());
            run += 1;
        }
        assert!(run > 0, "{} is empty", folder.display());
    }
}
