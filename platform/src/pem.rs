//! PEM files that settings name: read once, at the start, so that what is wrong with one is told before anything runs.

use std::path::Path;

/// A file can't be used; the text names its setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct BadPem {
    setting: &'static str,
    problem: String,
}

impl BadPem {
    /// What is wrong with what the setting says.
    pub fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}

/// The text of the file that `setting` names.
///
/// # Errors
/// If it can't be read, or holds no PEM.
pub fn read(setting: &'static str, path: &Path) -> Result<String, BadPem> {
    let bad = |problem: String| BadPem::new(setting, format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(format!("can't be read: {error}")))?;
    if text.contains("-----BEGIN ") { Ok(text) } else { Err(bad("expected a PEM file".to_owned())) }
}

/// The two files of an identity; both or none.
///
/// # Errors
/// If one is named and the other is not, or one can't be used.
pub fn read_identity(
    [cert_setting, key_setting]: [&'static str; 2],
    cert: Option<&Path>,
    key: Option<&Path>,
) -> Result<Option<(String, String)>, BadPem> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((read(cert_setting, cert)?, read(key_setting, key)?))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(BadPem::new(key_setting, format!("it is needed, because {cert_setting} is set"))),
        (None, Some(_)) => Err(BadPem::new(cert_setting, format!("it is needed, because {key_setting} is set"))),
    }
}
