//! The house rules, read from the source: who may import whom, how long a file or function may be,
//! what is never called and what to call instead. Each message says where, what and what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, lowest first, and what each may use (docs/architecture.md has the same table).
const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("sys", &["base"]),
    ("crypto", &["base", "sys"]),
    ("device", &["base", "sys"]),
    ("keys", &["base", "sys", "crypto"]),
    ("policy", &["base"]),
    ("block", &["base", "sys", "crypto", "device"]),
    ("tree", &["base", "sys", "block"]),
    ("pool", &["base", "sys", "crypto", "device", "block", "tree"]),
    ("catalog", &["base", "sys", "crypto", "block", "tree", "pool"]),
    ("volume", &["base", "sys", "block", "tree", "pool", "catalog"]),
    ("verify", &["base", "sys", "crypto", "device", "block", "tree", "pool", "catalog", "volume"]),
    (
        "service",
        &[
            "base", "sys", "crypto", "device", "keys", "policy", "block", "tree", "pool",
            "catalog", "volume", "verify",
        ],
    ),
    ("fuse", &["base", "sys", "volume"]),
    ("control", &["base", "sys"]),
    ("daemon", &["base", "sys", "device", "keys", "volume", "service", "fuse", "control"]),
    ("cli", &["base", "sys", "control", "daemon", "device", "keys", "service", "verify"]),
    (
        "fuzzing",
        &[
            "base", "sys", "crypto", "device", "keys", "block", "tree", "pool", "catalog",
            "volume", "verify", "service", "fuse", "control", "daemon", "cli",
        ],
    ),
];

/// Lines in a file, at most.
const FILE_LINES_MAX: usize = 600;
/// Lines in a function, at most.
const FUNCTION_LINES_MAX: usize = 70;
/// Front doors that must stay front doors: lines in their `mod.rs`.
const FRONT_DOORS: &[(&str, usize)] = &[("service", 200), ("pool", 200), ("volume", 200)];

/// A call that is not made, where it may be made all the same, and what to do instead.
struct Ban {
    call: &'static str,
    allowed_in: &'static [&'static str],
    also_in_tests: bool,
    instead: &'static str,
}

const fn ban(
    call: &'static str,
    allowed_in: &'static [&'static str],
    instead: &'static str,
) -> Ban {
    Ban { call, allowed_in, also_in_tests: false, instead }
}

const fn never(call: &'static str, instead: &'static str) -> Ban {
    Ban { call, allowed_in: &[], also_in_tests: true, instead }
}

const BANS: &[Ban] = &[
    ban("SystemTime::now", &["src/sys/"], "sys::clock::now: the simulator owns time"),
    ban("Instant::now", &["src/sys/"], "sys::clock::monotonic: the simulator owns time"),
    ban("thread::spawn", &["src/sys/"], "sys::threads::spawn: threads have names"),
    ban("thread::sleep", &["src/sys/"], "sys::clock::sleep: the simulator owns time"),
    ban("getrandom::", &["src/sys/"], "sys::random: one door for randomness"),
    ban("std::sync::Mutex", &["src/sys/"], "sys::sync::Mutex: no poisoning in signatures"),
    ban("std::sync::RwLock", &["src/sys/"], "sys::sync::RwLock: no poisoning in signatures"),
    ban("std::sync::Condvar", &["src/sys/"], "sys::sync::Condvar: no poisoning in signatures"),
    ban("println!", &["src/cli/", "src/main.rs"], "return the text: only `cli` prints"),
    ban("eprintln!", &["src/cli/", "src/main.rs"], "log::warn! and so on: only `cli` prints"),
    ban("print!", &["src/cli/", "src/main.rs"], "return the text: only `cli` prints"),
    ban("process::exit", &["src/main.rs", "src/sys/"], "return an exit status up to main"),
    ban(".unwrap()", &[], "`?`, or `expect` with the reason why it cannot fail"),
    ban("unsafe ", &["src/sys/"], "a safe function in `sys` around the call"),
    ban("allow(unsafe_code)", &["src/sys/mod.rs"], "move the call to `sys`"),
    never("dbg!", "log::debug!, or nothing"),
    never("todo!", "a clear error: what is not there says so"),
    never("unimplemented!", "a clear error: what is not there says so"),
    never("anyhow::", "the room's own error enum"),
    never("Uuid::new_v4", "an id from base::ids, from sys::random"),
    never("Msg(String)", "a variant that says what happened"),
];

/// Words that say something was left behind. In comments too.
const LEFTOVERS: &[&str] = &["FIXME", "TODO", "HACK", "for now", "placeholder"];

/// Names that collect what has no home.
const NO_HOME: &[&str] = &["utils.rs", "util.rs", "common.rs", "misc.rs", "helpers.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &Path, extension: &str, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, extension, out);
        } else if path.extension().is_some_and(|e| e == extension) {
            out.push(path);
        }
    }
    out.sort();
}

/// One source file: as it is, and with comments and text between quotes blanked out.
struct Source {
    path: String,
    text: String,
    code: String,
    /// Lines that belong to tests.
    test_lines: BTreeSet<usize>,
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files_below(&root().join("src"), "rs", &mut paths);
    assert!(paths.len() > 10, "the source is read at all");
    let mut all: Vec<Source> = paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let code = blank_comments_and_text(&text);
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            Source { path, test_lines: test_lines(&code), text, code }
        })
        .collect();
    mark_test_files(&mut all);
    all
}

/// Files that a parent declares as `#[cfg(test)] mod name;` are tests as a whole, and so are the
/// modules that they declare.
fn mark_test_files(all: &mut [Source]) {
    let mut test_files = BTreeSet::new();
    for source in &*all {
        let lines: Vec<&str> = source.code.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            if let ("#[cfg(test)]", Some(name)) = (pair[0], declared_module(pair[1])) {
                test_files.extend(module_files(&source.path, name));
            }
        }
    }
    loop {
        let known = test_files.len();
        let of_tests: Vec<_> = all.iter().filter(|s| test_files.contains(&s.path)).collect();
        for source in of_tests {
            for name in source.code.lines().filter_map(declared_module) {
                test_files.extend(module_files(&source.path, name));
            }
        }
        if test_files.len() == known {
            break;
        }
    }
    for source in all {
        if test_files.contains(&source.path) {
            source.test_lines = (1..=source.text.lines().count()).collect();
        }
    }
}

/// `name` of a line `mod name;`, whatever its visibility.
fn declared_module(line: &str) -> Option<&str> {
    let rest = match line.trim().split_once("mod ") {
        Some(("", rest)) => rest,
        Some((before, rest)) if before.starts_with("pub") => rest,
        _ => return None,
    };
    rest.strip_suffix(';')
}

/// Where the file of module `name`, declared in `parent`, may stand.
fn module_files(parent: &str, name: &str) -> [String; 2] {
    let dir = match parent.strip_suffix("/mod.rs").or_else(|| parent.strip_suffix("/lib.rs")) {
        Some(dir) => dir.to_owned(),
        None => parent.trim_end_matches(".rs").to_owned(),
    };
    [format!("{dir}/{name}.rs"), format!("{dir}/{name}/mod.rs")]
}

/// Replaces comments, strings and character literals by spaces; line breaks stay.
fn blank_comments_and_text(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'/' if bytes[i..].starts_with(b"//") => line_end(bytes, i),
            b'/' if bytes[i..].starts_with(b"/*") => block_comment_end(bytes, i),
            b'"' => string_end(bytes, i + 1),
            b'r' if !is_word_before(bytes, i) => raw_string_end(bytes, i).unwrap_or(i),
            b'\'' => char_end(bytes, i).unwrap_or(i),
            _ => i,
        };
        for byte in &mut out[i..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        i = end.max(i + 1);
    }
    String::from_utf8(out).unwrap()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_word_before(bytes: &[u8], at: usize) -> bool {
    // `br"..."` is a raw string as well.
    at > 0
        && is_word(bytes[at - 1])
        && !(bytes[at - 1] == b'b' && (at < 2 || !is_word(bytes[at - 2])))
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| from + n)
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut i) = (0, from);
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut i: usize) -> usize {
    while i < bytes.len() && bytes[i] != b'"' {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    (i + 1).min(bytes.len())
}

fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let hashes = bytes[from + 1..].iter().take_while(|b| **b == b'#').count();
    let open = from + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let length = bytes[open + 1..].windows(close.len()).position(|w| w == close)?;
    Some(open + 1 + length + close.len())
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(bytes: &[u8], from: usize) -> Option<usize> {
    match bytes.get(from + 1)? {
        b'\\' => {
            let close = bytes[from + 3..].iter().position(|b| *b == b'\'')?;
            Some(from + 3 + close + 1)
        }
        _ => (2..=5)
            .map(|n| from + n)
            .find(|end| bytes.get(*end) == Some(&b'\''))
            .filter(|end| {
                // 'a' is a literal, 'a and 'static are lifetimes: a literal is one character long.
                std::str::from_utf8(&bytes[from + 1..*end]).is_ok_and(|s| s.chars().count() == 1)
            })
            .map(|end| end + 1),
    }
}

/// The offset behind the brace that closes the one at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return i + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn line_of(code: &str, offset: usize) -> usize {
    code.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count() + 1
}

/// Lines within `#[cfg(test)] mod name { ... }`.
fn test_lines(code: &str) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let Some(open) = code[at..].find(['{', ';']).map(|n| at + n) else { continue };
        if code.as_bytes()[open] == b'{' {
            lines.extend(line_of(code, at)..=line_of(code, block_end(code, open)));
        }
    }
    lines
}

/// Rooms that the code names by `crate::room` or `crate::{room, ...}`, with their lines.
fn imported_rooms(code: &str) -> Vec<(usize, String)> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if at > 0 && (is_word(code.as_bytes()[at - 1]) || code[..at].ends_with('$')) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let line = line_of(code, at);
        if !rest.starts_with('{') {
            found.push((line, word(rest)));
            continue;
        }
        let inner = &rest[1..block_end(rest, 0) - 1];
        let (mut depth, mut start) = (0, 0);
        for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push((line, word(&inner[start..i])));
                    start = i + 1;
                }
                _ => {}
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn room_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    Some(rest.split_once('/')?.0)
}

fn assert_none(rule: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn imports_point_down_the_table() {
    let mut problems = Vec::new();
    for source in sources() {
        let Some(room) = room_of(&source.path) else { continue };
        let Some((_, may_use)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            problems.push(format!("{}: the room '{room}' is not in the table", source.path));
            continue;
        };
        let place = |name: &str| ROOMS.iter().position(|(room, _)| *room == name);
        for (line, used) in imported_rooms(&source.code) {
            let Some(used_at) = place(&used) else { continue };
            // A test may set up anything that lies below its room; nothing above it.
            let is_below_test =
                source.test_lines.contains(&line) && place(room).is_some_and(|at| used_at < at);
            if used != room && !may_use.contains(&used.as_str()) && !is_below_test {
                problems.push(format!(
                    "{}:{line}: '{room}' may not use '{used}': move the shared word down, or define a trait here that '{used}' implements",
                    source.path
                ));
            }
        }
    }
    assert_none("imports point down the table of rooms", &problems);
}

#[test]
fn the_table_itself_has_no_circle() {
    for (i, (room, may_use)) in ROOMS.iter().enumerate() {
        for used in *may_use {
            let at = ROOMS.iter().position(|(name, _)| name == used);
            assert!(at.is_some_and(|at| at < i), "'{room}' uses '{used}', which is not below it");
        }
    }
}

#[test]
fn files_and_functions_are_read_in_one_sitting() {
    let mut problems = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let front_door = FRONT_DOORS.iter().find(|(r, _)| source.path == format!("src/{r}/mod.rs"));
        let max = front_door.map_or(FILE_LINES_MAX, |(_, max)| *max);
        if lines > max {
            problems.push(format!("{}: {lines} lines, {max} at most: split by idea", source.path));
        }
        for (at, _) in source.code.match_indices("fn ") {
            let (line, length, name) = match function_at(&source.code, at) {
                Some(function) => function,
                None => continue,
            };
            if length > FUNCTION_LINES_MAX {
                problems.push(format!(
                    "{}:{line}: `{name}` has {length} lines, {FUNCTION_LINES_MAX} at most",
                    source.path
                ));
            }
        }
    }
    assert_none("a file and a function are read in one sitting", &problems);
}

/// Line, length in lines and name of the function whose `fn ` stands at `at`, if it has a body.
fn function_at(code: &str, at: usize) -> Option<(usize, usize, String)> {
    if at > 0 && is_word(code.as_bytes()[at - 1]) {
        return None;
    }
    let name: String = code[at + 3..].chars().take_while(|c| is_word(*c as u8)).collect();
    let mut depth = 0;
    for (i, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => {
                let (first, last) = (line_of(code, at), line_of(code, block_end(code, i)));
                return (!name.is_empty()).then_some((first, last - first + 1, name));
            }
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

#[test]
fn banned_calls_have_a_replacement() {
    let mut problems = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.code.lines()) {
            let in_test = source.test_lines.contains(&number);
            for ban in BANS {
                let allowed = ban.allowed_in.iter().any(|place| source.path.starts_with(place));
                if allowed || (in_test && !ban.also_in_tests) {
                    continue;
                }
                let starts_word = is_word(ban.call.as_bytes()[0]);
                let hit = line
                    .match_indices(ban.call)
                    .any(|(at, _)| !starts_word || at == 0 || !is_word(line.as_bytes()[at - 1]));
                if hit {
                    let (path, call, instead) = (&source.path, ban.call.trim(), ban.instead);
                    problems.push(format!("{path}:{number}: no `{call}` here; instead: {instead}"));
                }
            }
        }
    }
    assert_none("banned calls", &problems);
}

#[test]
fn nothing_is_left_over_and_source_is_ascii() {
    let mut problems = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            let at = format!("{}:{number}", source.path);
            problems.extend(
                LEFTOVERS
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|w| format!("{at}: '{w}'")),
            );
            if !line.is_ascii() {
                problems.push(format!("{at}: not ASCII; in text between quotes write \\u{{...}}"));
            }
            let glob = line.trim_start() == "use super::*;";
            if glob && !source.test_lines.contains(&number) {
                problems.push(format!("{at}: `use super::*` outside of tests; name what is used"));
            }
        }
    }
    assert_none("leftovers", &problems);
}

#[test]
fn every_file_has_a_home() {
    let all = sources();
    let mut problems = Vec::new();
    let mut declared = BTreeSet::new();
    for source in &all {
        for name in source.code.lines().filter_map(declared_module) {
            declared.extend(module_files(&source.path, name));
        }
    }
    for Source { path, text, .. } in &all {
        if !["src/lib.rs", "src/main.rs"].contains(&path.as_str()) && !declared.contains(path) {
            problems.push(format!("{path}: no `mod` line declares it; it is never compiled"));
        }
        if NO_HOME.iter().any(|name| path.ends_with(&format!("/{name}"))) {
            problems.push(format!("{path}: name it for the idea it holds"));
        }
        if path.ends_with("/mod.rs") && !text.starts_with("//!") {
            problems.push(format!("{path}: a front door begins with what it does and promises"));
        }
    }
    let lib = all.iter().find(|s| s.path == "src/lib.rs").unwrap();
    let order: Vec<&str> = lib
        .code
        .lines()
        .filter_map(|l| l.split_once(';').and_then(|(before, _)| before.strip_prefix("pub mod ")))
        .collect();
    let table: Vec<&str> =
        ROOMS.iter().map(|(name, _)| *name).filter(|n| order.contains(n)).collect();
    if order != table {
        problems.push(format!("src/lib.rs: the rooms stand as {order:?}, the table has {table:?}"));
    }
    assert_none("every file has a home", &problems);
}

#[test]
fn links_in_the_documentation_point_somewhere() {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root()).unwrap().flatten().map(|e| e.path()).collect();
    pages.retain(|path| path.extension().is_some_and(|e| e == "md"));
    files_below(&root().join("docs"), "md", &mut pages);
    let mut problems = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target: &str = text[at + 2..].split([')', ' ', '\n']).next().unwrap_or_default();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path =
                if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let name = page.strip_prefix(root()).unwrap().display().to_string();
            let line = line_of(&text, at);
            if !path.exists() {
                problems.push(format!("{name}:{line}: {target} is not there"));
            } else if !anchor.is_empty() && path.is_file() && !anchors(&path).contains(anchor) {
                problems.push(format!("{name}:{line}: no heading #{anchor} in {}", path.display()));
            }
        }
    }
    for source in sources() {
        for (at, _) in source.text.match_indices("docs/") {
            let name = source.text[at..]
                .split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
            let name = name.into_iter().next().unwrap_or_default().trim_end_matches('.');
            if name.ends_with(".md") && !root().join(name).exists() {
                let line = line_of(&source.text, at);
                problems.push(format!("{}:{line}: {name} is not there", source.path));
            }
        }
    }
    assert_none("links point somewhere", &problems);
}

/// The anchors that a page's headings make, as GitHub writes them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept =
                title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn the_reader_of_source_sees_through_comments_and_text() {
    let code = blank_comments_and_text(
        "use crate::a; // crate::b\n/* crate::c /* nested */ crate::d */ \"crate::e \\\" crate::f\"\n'\"' crate::g r#\"crate::h\"# &'x crate::{i::j, k, l::{m, n}}",
    );
    let names: Vec<String> = imported_rooms(&code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "g", "i", "k", "l"]);
    let code = "fn f(a: [u8; 2]) -> u8 {\n 1\n}\ntrait T { fn g(&self); }\n";
    assert_eq!(function_at(code, 0), Some((1, 3, "f".to_owned())));
    assert_eq!(function_at(code, code.find("fn g").unwrap()), None);
    assert!(test_lines("a\n#[cfg(test)]\nmod t {\n}\nb").iter().eq([2, 3, 4].iter()));
}
