//! The floors of DESIGN section 3, enforced: a file imports only from its own folder or from a
//! lower floor. `docs/architecture.md` says what each floor is for.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which floor each top-level module of `src` stands on.
const FLOORS: [(&str, u8); 22] = [
    ("types", 0),
    ("runtime", 0),
    ("clock", 0),
    ("config", 0),
    ("error", 0),
    ("planted", 0),
    ("telemetry", 0),
    ("storage", 1),
    ("peer", 1),
    ("history", 1),
    ("consensus", 2),
    ("check", 2),
    ("replication", 3),
    ("node", 4),
    ("api", 5),
    ("client", 6),
    ("lab", 7),
    ("sim", 7),
    ("cli", 8),
    ("main", 9),
    ("lib", 9),
    ("web", 9),
];

/// The client may be used without the server: it imports floor 0 only.
const CLIENT_MAY_IMPORT_UP_TO: u8 = 0;

/// No file is longer than this: past it, it has two subjects.
const MAX_FILE_LINES: usize = 500;

#[test]
fn a_file_imports_only_from_its_own_folder_or_from_a_lower_floor() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        for (line, imported) in imports(&text) {
            if imported == module {
                continue;
            }
            let (own, other) = (floor(&module), floor(&imported));
            let limit = if module == "client" { CLIENT_MAY_IMPORT_UP_TO + 1 } else { own };
            let same_floor_words = own == 0 && other == 0;
            if other >= limit && !same_floor_words {
                let path = path.display();
                wrong.push(format!(
                    "{path}:{line}: {module} (floor {own}) imports {imported} (floor {other})"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the floors:\n{}", wrong.join("\n"));
}

#[test]
fn the_two_architectures_never_import_each_other() {
    for (path, text) in sources() {
        let own = path.to_string_lossy().into_owned();
        for (mine, other) in [("leader/", "leaderless::"), ("leaderless/", "leader::")] {
            if own.contains(&format!("replication/{mine}")) {
                assert!(!text.contains(&format!("replication::{other}")), "{own} imports {other}");
                assert!(!text.contains(&format!("super::super::{other}")), "{own} imports {other}");
            }
        }
    }
}

#[test]
fn only_consensus_knows_openraft() {
    for (path, text) in sources() {
        if module_of(&path) != "consensus" {
            let named = text.lines().any(|line| code(line).contains("openraft::"));
            assert!(!named, "{} names openraft", path.display());
        }
    }
}

#[test]
fn files_have_one_subject_and_say_which() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        let path = path.display();
        assert!(lines <= MAX_FILE_LINES, "{path} has {lines} lines: split it by subject");
        assert!(text.starts_with("//!"), "{path} does not open with what it is for");
    }
}

#[test]
fn the_floor_test_itself_sees_imports() {
    let text = "use crate::peer::Lane;\n// use crate::cli::x;\nlet x = crate::storage::log::Kind::A;\n\
                use quorate::api;\nuse crate::{clock, types::Key};\n";
    let seen: Vec<String> = imports(text).into_iter().map(|(_, module)| module).collect();
    assert_eq!(seen, ["peer", "storage", "api", "clock", "types"]);
}

/// Every file under `src`, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of src") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 20, "the sources were not found");
    files
}

/// The first part of a file's path under `src`: `src/peer/tcp.rs` belongs to `peer`.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("src");
    let first = below.iter().next().expect("a name").to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn floor(module: &str) -> u8 {
    let floors: BTreeMap<&str, u8> = FLOORS.into();
    *floors.get(module).unwrap_or_else(|| panic!("module {module} has no floor: give it one here"))
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// The top-level modules that a text names after `crate::` or `quorate::`, with line numbers.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = code(line);
        for root in ["crate::", "quorate::"] {
            for (at, _) in code.match_indices(root) {
                let rest = &code[at + root.len()..];
                for name in first_names(rest) {
                    found.push((index + 1, name));
                }
            }
        }
    }
    found
}

/// `a::b` names `a`; `{a::b, c}` names `a` and `c`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |part: &str| -> String {
        part.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)].into_iter().filter(|name| !name.is_empty()).collect();
    };
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            c if depth == 0 => parts.last_mut().expect("a part").push(c),
            _ => {}
        }
    }
    parts.iter().map(|part| name(part)).filter(|name| !name.is_empty()).collect()
}
