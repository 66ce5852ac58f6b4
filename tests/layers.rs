//! Imports between the folders of `src/` go one way only, and few modules import each other in a circle: see "Layers" in
//! `docs/architecture.md`.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the lowest to the highest. A file imports from its own layer and from lower ones.
const LAYERS: [&str; 11] =
    ["error", "model", "config", "runtime", "wire", "client", "discovery", "registry", "balance", "metrics", "serve"];
/// The embedded server shares the wire formats with the client, and nothing above them.
const EMBEDDED_IMPORTS: [&str; 5] = ["error", "model", "config", "runtime", "wire"];
/// How many modules may be in circles. Lower this number when there are fewer. Before the sources were sorted into
/// layers, 61 of 113 modules (54 %) were in circles.
const MODULES_IN_CIRCLES: usize = 5;

#[test]
fn no_layer_imports_a_higher_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    for file in rust_files(&root) {
        let path = file.strip_prefix(&root).unwrap().with_extension("");
        let layer = path.iter().next().unwrap().to_str().unwrap().to_owned();
        for imported in paths(&code(&file)).iter().filter(|path| path[0] == "crate") {
            if !may_import(&layer, &imported[1]) {
                faults.push(format!("{} imports {}", file.display(), imported[1]));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn may_import(layer: &str, imported: &str) -> bool {
    let rank = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match layer {
        // The crate's face, and the hooks of its own tests.
        "lib" | "prelude" | "testing" => true,
        "embedded" => imported == "embedded" || EMBEDDED_IMPORTS.contains(&imported),
        // The hook by which a simulation replaces the sockets.
        "runtime" if imported == "testing" => true,
        _ => rank(imported).is_some_and(|imported| Some(imported) <= rank(layer)),
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The text of a file without comments, because documentation may link upwards. In an inline module `super` is the
/// file's own module.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let (mut code, mut is_in_inline_module) = (String::new(), false);
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        is_in_inline_module |= line.contains("mod ") && line.ends_with('{');
        is_in_inline_module &= line != "}";
        let line = if is_in_inline_module { line.replacen("super::", "self::", 1) } else { line.to_owned() };
        code.extend([&line, "\n"]);
    }
    code
}

/// The paths in `use` statements and in the rest of the code, each as its segments.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let is_use = |line: &&str| line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ");
        let begin = statement.lines().map(str::trim_start).find(is_use);
        let (before, tree) = begin.and_then(|begin| statement.split_once(begin)).unwrap_or((statement, ""));
        let tree = [begin.unwrap_or_default(), tree].concat();
        if let Some((_, tree)) = tree.split_once("use ") {
            add_paths(&[], &tree.split_whitespace().collect::<String>(), &mut paths);
        }
        let words = before.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        paths.extend(words.filter(|word| word.contains("::")).map(|word| segments(word).collect()));
    }
    paths.retain(|path| path.len() > 1);
    paths
}

fn segments(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned)
}

/// Adds the paths of a tree such as `a::{b, c::{d, e}}`.
fn add_paths(parent: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let (prefix, list) = tree.split_once('{').unwrap_or((tree, ""));
    let path: Vec<_> = parent.iter().cloned().chain(segments(prefix)).collect();
    let Some(list) = list.strip_suffix('}') else { return paths.push(path) };
    let mut depth = 0;
    let is_separator = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    };
    list.split(is_separator).filter(|branch| !branch.is_empty()).for_each(|branch| add_paths(&path, branch, paths));
}

#[test]
fn imports_are_read_from_nested_lists() {
    let code = "pub use a::{\n    b::{self, C},\n    d,\n};\nfn f() { g::h(Vec::<i::J>::new()); }";
    let joined: Vec<_> = paths(code).iter().map(|path| path.join("::")).collect();
    assert_eq!(joined, ["a::b::self", "a::b::C", "a::d", "g::h", "i::J"]);
    assert!(may_import("client", "wire") && !may_import("wire", "client") && !may_import("embedded", "client"));
}

type Module = Vec<String>;

#[test]
fn no_more_modules_than_now_import_each_other_in_circles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: BTreeMap<Module, PathBuf> =
        rust_files(&root).into_iter().map(|file| (module(&root, &file), file)).collect();
    let imports: BTreeMap<&Module, BTreeSet<&Module>> =
        files.iter().map(|(module, file)| (module, imported_modules(&files, module, file))).collect();
    let is_in_circle = |module: &Module| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![module]);
        while let Some(one) = next.pop() {
            next.extend(imports[one].iter().filter(|imported| reached.insert(**imported)));
        }
        reached.contains(module)
    };
    let circles: Vec<_> = files.keys().filter(|module| is_in_circle(module)).map(|module| module.join("::")).collect();
    let all = files.len();
    assert!(circles.len() <= MODULES_IN_CIRCLES, "{} of {all} are in circles: {circles:#?}", circles.len());
}

fn module(root: &Path, file: &Path) -> Module {
    let path = file.strip_prefix(root).unwrap().with_extension("");
    path.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| part != "mod" && part != "lib").collect()
}

/// The other modules whose items a module uses, without its tests.
fn imported_modules<'a>(files: &'a BTreeMap<Module, PathBuf>, module: &Module, file: &Path) -> BTreeSet<&'a Module> {
    let code = code(file);
    let mut modules = BTreeSet::new();
    for path in paths(code.split("mod tests {").next().unwrap()) {
        let mut absolute = if path[0] == "crate" { Vec::new() } else { module.clone() };
        for segment in path {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                _ => absolute.push(segment),
            }
        }
        let prefixes = (0..=absolute.len()).rev().map(|length| &absolute[..length]);
        let imported = prefixes.filter_map(|prefix| files.get_key_value(prefix)).map(|(module, _)| module).next();
        modules.extend(imported.filter(|imported| *imported != module));
    }
    modules
}
