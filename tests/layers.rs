//! Imports between the folders of `src/` go one way only: see "Layers" in `docs/architecture.md`.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the lowest to the highest. A file imports from its own layer and from lower ones.
const LAYERS: [&str; 11] =
    ["error", "model", "config", "runtime", "wire", "client", "discovery", "registry", "balance", "metrics", "serve"];
/// The embedded server shares the wire formats with the client, and nothing above them.
const EMBEDDED_IMPORTS: [&str; 5] = ["error", "model", "config", "runtime", "wire"];

#[test]
fn no_layer_imports_a_higher_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    for file in rust_files(&root) {
        let path = file.strip_prefix(&root).unwrap().with_extension("");
        let layer = path.iter().next().unwrap().to_str().unwrap().to_owned();
        for imported in imported_layers(&fs::read_to_string(&file).unwrap()) {
            if !may_import(&layer, &imported) {
                faults.push(format!("{} imports {imported}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn may_import(layer: &str, imported: &str) -> bool {
    let rank = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match layer {
        // The root of the crate and the hooks for its own tests may import everything.
        "lib" | "prelude" | "testing" => true,
        "embedded" => imported == "embedded" || EMBEDDED_IMPORTS.contains(&imported),
        _ => rank(imported).is_some_and(|imported| Some(imported) <= rank(layer)),
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Returns the first name of each path after `crate::`. Comments are left out, because documentation may link to higher
/// layers.
fn imported_layers(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    code.split("crate::").skip(1).flat_map(first_names).collect()
}

/// The names are `a` and `c` for `{a::b, c::{d, e}}`, and `a` for `a::b`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut begin) = (0, Vec::new(), 0);
    for (index, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&list[begin..index]));
                begin = index + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn imports_are_read_from_nested_lists() {
    let names = first_names("{\n    error::{Error, Operation},\n    model::{a::{B}, c},\n    wire,\n};\nuse std::fmt;");
    assert_eq!(names, ["error", "model", "wire"]);
    assert_eq!(first_names("config::Config;"), ["config"]);
    assert!(may_import("client", "wire") && !may_import("wire", "client") && !may_import("embedded", "client"));
}
