//! What stops a start: which setting, where it came from, what was expected.

use std::{fmt, path::PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The file of `--config`.
    File(PathBuf),
    /// This variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Flag(name) => write!(f, "the flag {name}"),
        }
    }
}

/// The settings can't be used; nothing was bound yet. Binaries print it and end with 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Nothing has this name.
    #[error("unknown setting {setting} (from {origin}){}", nearest_hint(.nearest))]
    Unknown {
        /// The name as it was written.
        setting: String,
        /// Where it was written.
        origin: Box<Source>,
        /// The known name that it resembles, written as in this source.
        nearest: Option<String>,
    },
    /// The value is not one of the setting's.
    #[error("setting {setting} (from {origin}): expected {expected}; found {found}")]
    Malformed {
        /// The setting.
        setting: String,
        /// Where the value was written.
        origin: Box<Source>,
        /// What a value looks like.
        expected: String,
        /// What was written; secrets are left out.
        found: String,
    },
    /// The file of `--config` can't be read as a whole.
    #[error("settings file {} (from the flag --config): {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

fn nearest_hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(": did you mean {name}?"),
        None => ": expected one of those that --help and docs/settings.md list".to_owned(),
    }
}

/// The one of `known` that `name` is probably a misspelling of.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // One slip, and one more for every five characters: a wilder guess would rather confuse.
    let slips = 1 + name.len() / 5;
    let ranked = known.map(|known| (strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase()), known));
    ranked.filter(|(distance, _)| *distance <= slips).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}
