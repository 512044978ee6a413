//! The list of all settings, for `docs/settings.md` and `--help`.

use super::{
    Program, Settings,
    load::{environment_name, table},
};

/// `docs/settings.md`.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for row in rows() {
        let name = environment_name(&row.name);
        page.push_str(&format!("| `{}` | `{name}` | {} | {} | {} |\n", row.name, row.default, row.used_by, row.meaning));
    }
    page
}

/// What follows the flags in `--help`.
pub(super) fn help() -> String {
    let mut text = String::from(
        "All settings, for --set NAME=VALUE, the file of --config, or the environment (CARILLON_ and the name in capitals, dots \
         as two underscores; with _FILE behind it, the path of a file with the value):\n",
    );
    for row in rows() {
        text.push_str(&format!("\n  {} [{}]\n      {}\n", row.name, row.default.replace('`', ""), row.meaning.replace('`', "")));
    }
    text
}

const HEAD: &str = "\
# Settings

<!-- Generated from platform/src/settings.rs: CARILLON_BLESS=1 cargo test -p carillon-platform --lib settings -->

Every binary knows all of these and ignores those of others; `carillon` (all-in-one) contains the other three and uses
theirs. Sources, each over the one before:

1. the defaults below
2. `--config file.toml`: `limits.frame_bytes` is `frame_bytes` in the table `[limits]`
3. the environment; an empty variable is unset; with `_FILE` behind its name, a variable holds the path of a file with the value, as for
   secrets (`CARILLON_JWT__SECRET_FILE`)
4. flags: `--set limits.frame_bytes=1024` for any of them, and flags of their own for the common ones (`--help`)

In the environment and in flags a list is JSON or separated by commas; `retention`, `hooks` and `jwt.default_grants` are JSON. Paths
are relative to the folder that the process was started in. An unknown or malformed setting stops the start with exit
code 64, before anything is bound. `CARILLON_URL` and `CARILLON_TOKEN` belong to the client commands and are no settings.

```toml
origins = [\"https://app.example.com\"]

[limits]
frame_bytes = 131072

# The first pattern that matches a room counts.
[[retention]]
rooms = \"chat:*\"
messages = 100000
age = \"30d\"
```

| setting | environment | default | used by | meaning |
|---|---|---|---|---|
";

struct Row {
    name: String,
    default: String,
    used_by: &'static str,
    meaning: String,
}

fn rows() -> Vec<Row> {
    let programs = Program::ALL.map(|program| (program, table(&Settings::defaults(program))));
    let plain = |text: &str| text.trim().replace("\n ", " ").replace('\n', " ");
    (0..programs[0].1.len())
        .map(|index| {
            let known = &programs[0].1[index];
            let defaults: Vec<_> = programs.iter().map(|(program, table)| (*program, table[index].default.as_str())).collect();
            Row {
                name: known.name.clone(),
                default: default_text(&defaults, known.used_by),
                used_by: known.used_by,
                meaning: plain(known.meaning),
            }
        })
        .collect()
}

/// One value where all binaries agree, else each value with those that have it.
fn default_text(defaults: &[(Program, &str)], used_by: &str) -> String {
    let quoted = |text: &str| if text == "none" { text.to_owned() } else { format!("`{text}`") };
    let uses = |program: &Program| *program != Program::Fanout || used_by.contains("fanout") || used_by == "all";
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (program, default) in defaults.iter().filter(|(program, _)| uses(program)) {
        match groups.iter_mut().find(|(value, _)| value == default) {
            Some((_, names)) => names.push(program.name()),
            None => groups.push((default, vec![program.name()])),
        }
    }
    if let [(value, _)] = groups[..] {
        return quoted(value);
    }
    groups.iter().map(|(value, names)| format!("{} ({})", quoted(value), names.join(", "))).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_reference_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        if std::env::var_os("CARILLON_BLESS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == reference(), "docs/settings.md is stale; renew it with the command in its first lines");
    }
}
