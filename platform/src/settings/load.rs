//! Where settings come from, each over the one before: defaults, the file, the environment, flags. Whatever a source
//! holds that is no setting, or no value of one, stops the start; a layer above does not excuse the layer below.
//!
//! This is not figment: it can neither name the environment variable that a value came from nor the nearest known
//! setting, and reads `CARILLON_JWT__SECRET=123…` as a number. The table of settings is needed for the reference
//! anyway, and with it the rest is this page.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Program, Retention, Settings, SettingsError, Source,
    declare::{Known, Section, SetError},
    error::nearest,
    read::Raw,
    url::without_password,
};

/// Settings whose values hold what is to stay out of logs.
const SECRETS: [&str; 2] = ["jwt.secret", "hooks"];

/// The flags of every binary: one each for what is often set, and `--set` for all the rest.
// Not derived: Debug would print the secret.
#[derive(Clone, Default, clap::Args)]
#[command(next_help_heading = "Settings", after_long_help = super::reference::help())]
pub struct SettingsArgs {
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Any setting by its name, such as limits.frame_bytes=1024; can be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Address and port for clients
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address and port of health checks and metrics
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Folder of the embedded log
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<String>,
    /// NATS servers, separated by commas
    #[arg(long, value_name = "URL")]
    pub nats_url: Option<String>,
    /// The auth service
    #[arg(long, value_name = "URL")]
    pub auth_url: Option<String>,
    /// Secret for tokens (HS256); other users of the machine can see flags, so rather use CARILLON_JWT__SECRET
    #[arg(long, value_name = "TEXT")]
    pub jwt_secret: Option<String>,
    /// Origins of web pages that may connect, separated by commas
    #[arg(long, value_name = "ORIGINS")]
    pub origins: Option<String>,
    /// error, warn, info, debug, trace or off; also by module
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// json or text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl fmt::Debug for SettingsArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsArgs").field("config", &self.config).finish_non_exhaustive()
    }
}

impl SettingsArgs {
    fn dedicated(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        let flags = [
            ("--listen", "listen", &self.listen),
            ("--admin-listen", "admin_listen", &self.admin_listen),
            ("--data-dir", "data_dir", &self.data_dir),
            ("--nats-url", "nats.url", &self.nats_url),
            ("--auth-url", "auth.url", &self.auth_url),
            ("--jwt-secret", "jwt.secret", &self.jwt_secret),
            ("--origins", "origins", &self.origins),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ];
        flags.into_iter().filter_map(|(flag, setting, value)| value.as_deref().map(|value| (flag, setting, value)))
    }
}

impl Settings {
    /// All sources, with the environment of this process.
    pub fn load(program: Program, args: &SettingsArgs) -> Result<Self, SettingsError> {
        Self::load_from(program, args, std::env::vars_os())
    }

    /// All sources, with this environment.
    pub fn load_from(
        program: Program,
        args: &SettingsArgs,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let mut loader = Loader { settings: Self::defaults(program), table: table(&Self::default()) };
        if let Some(path) = &args.config {
            loader.file(path)?;
        }
        loader.environment(environment)?;
        loader.flags(args)?;
        let mut settings = loader.settings;
        // Every room has a rule, so that nobody downstream has to think of the case where none matches.
        if settings.retention.last().is_none_or(|last| last.rooms != "*") {
            settings.retention.push(Retention::default());
        }
        Ok(settings)
    }
}

/// All settings there are, with the values of `settings` as defaults.
pub(super) fn table(settings: &Settings) -> Vec<Known> {
    let mut table = Vec::new();
    settings.list("", &mut table);
    table
}

/// `limits.frame_bytes` is `CARILLON_LIMITS__FRAME_BYTES`.
pub(super) fn environment_name(setting: &str) -> String {
    format!("{PREFIX}{}", setting.replace('.', "__").to_uppercase())
}

const PREFIX: &str = "CARILLON_";

/// A variable with this behind its name holds the path of a file, and the file the value.
const FILE_SUFFIX: &str = "_FILE";

/// These belong to the client commands.
const NOT_SETTINGS: [&str; 2] = ["CARILLON_URL", "CARILLON_TOKEN"];

struct Loader {
    settings: Settings,
    table: Vec<Known>,
}

impl Loader {
    fn file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let broken = |problem: String| SettingsError::File { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| broken(format!("can't be read: {error}")))?;
        let root: Value = toml::from_str(&text).map_err(|error| broken(not_toml(&text, &error)))?;
        self.file_value("", &root, &Source::File(path.to_owned()))
    }

    /// Descends through sections down to settings.
    fn file_value(&mut self, name: &str, value: &Value, source: &Source) -> Result<(), SettingsError> {
        match value {
            Value::Object(section) if self.is_section(name) => section.iter().try_for_each(|(key, value)| {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                self.file_value(&name, value, source)
            }),
            _ => self.set(name, &Raw::Value(value), source),
        }
    }

    fn is_section(&self, name: &str) -> bool {
        name.is_empty() || self.table.iter().any(|known| known.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Of settings and of sections.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.table.iter().flat_map(|known| {
            let section = known.name.split_once('.').map(|(section, _)| section);
            section.into_iter().chain([known.name.as_str()])
        })
    }

    fn environment(&mut self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), SettingsError> {
        let mut ours: Vec<_> = environment
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok().filter(|name| name.starts_with(PREFIX))?, value)))
            .filter(|(name, value)| !value.is_empty() && !NOT_SETTINGS.contains(&name.as_str()) && !is_service_link(name, value))
            .collect();
        // The order of an environment is chance; which of two mistakes is reported first should not be.
        ours.sort();
        let twice = ours.iter().find(|(name, _)| ours.iter().any(|(other, _)| other.strip_suffix(FILE_SUFFIX) == Some(name)));
        if let Some((name, _)) = twice {
            return Err(SettingsError::Malformed {
                setting: name.clone(),
                origin: Box::new(Source::Environment(format!("{name}{FILE_SUFFIX}"))),
                expected: "one of the two variables".to_owned(),
                found: "both".to_owned(),
            });
        }
        ours.iter().try_for_each(|(name, value)| self.variable(name, value))
    }

    fn variable(&mut self, name: &str, value: &OsString) -> Result<(), SettingsError> {
        let origin = Source::Environment(name.to_owned());
        let names: Vec<_> = self.table.iter().map(|known| (environment_name(&known.name), known.name.clone())).collect();
        let find = |name: &str| names.iter().find(|(variable, _)| variable == name);
        let Some((_, setting)) = find(name) else {
            if let Some((_, setting)) = name.strip_suffix(FILE_SUFFIX).and_then(find) {
                return self.variable_file(setting, Path::new(value), &origin);
            }
            let tails = names.iter().map(|(variable, _)| &variable[PREFIX.len()..]);
            let nearest = nearest(&name[PREFIX.len()..], tails).map(|tail| format!("{PREFIX}{tail}"));
            return Err(SettingsError::Unknown { setting: name.to_owned(), origin: Box::new(origin), nearest });
        };
        match value.to_str() {
            Some(text) => self.set(setting, &Raw::Text(text), &origin),
            None => Err(SettingsError::Malformed {
                setting: setting.clone(),
                origin: Box::new(origin),
                expected: "UTF-8".to_owned(),
                found: "other bytes".to_owned(),
            }),
        }
    }

    /// A variable that names the file with the value, as secrets come into containers.
    fn variable_file(&mut self, setting: &str, path: &Path, origin: &Source) -> Result<(), SettingsError> {
        let malformed = |expected: &str, found: String| SettingsError::Malformed {
            setting: setting.to_owned(),
            origin: Box::new(origin.clone()),
            expected: expected.to_owned(),
            found,
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| malformed("a file with the value", format!("{}: {error}", path.display())))?;
        // Editors and `echo` end a file with a line break that nobody means.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        self.set(setting, &Raw::Text(text), origin).map_err(|error| match error {
            SettingsError::Malformed { expected, .. } => malformed(&expected, format!("(not shown: in {})", path.display())),
            other => other,
        })
    }

    fn flags(&mut self, args: &SettingsArgs) -> Result<(), SettingsError> {
        for (flag, setting, value) in args.dedicated() {
            self.set(setting, &Raw::Text(value), &Source::Flag(flag.to_owned()))?;
        }
        let origin = Source::Flag("--set".to_owned());
        args.set.iter().try_for_each(|pair| match pair.split_once('=') {
            Some((setting, value)) => self.set(setting.trim(), &Raw::Text(value), &origin),
            None => Err(SettingsError::Malformed {
                // Only what can be a name: the rest may be a secret.
                setting: pair
                    .split(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '_'))
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                origin: Box::new(origin.clone()),
                expected: "NAME=VALUE".to_owned(),
                found: "no =".to_owned(),
            }),
        })
    }

    fn set(&mut self, setting: &str, raw: &Raw<'_>, origin: &Source) -> Result<(), SettingsError> {
        self.settings.set(setting, raw).map_err(|error| match error {
            SetError::Unknown if self.is_section(setting) => SettingsError::Malformed {
                setting: setting.to_owned(),
                origin: Box::new(origin.clone()),
                expected: format!("settings below it, {setting}.… = …"),
                found: raw.found(),
            },
            SetError::Unknown => SettingsError::Unknown {
                setting: setting.to_owned(),
                origin: Box::new(origin.clone()),
                nearest: nearest(setting, self.names()).map(str::to_owned),
            },
            SetError::Malformed(expected) => SettingsError::Malformed {
                setting: setting.to_owned(),
                origin: Box::new(origin.clone()),
                expected,
                found: if SECRETS.contains(&setting) { "(not shown)".to_owned() } else { without_password(&raw.found()) },
            },
        })
    }
}

/// Without the line itself, which the library would print: it may hold a secret that only lacks its quotes.
fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    format!("is no TOML at line {line}: {}", error.message().trim().replace('\n', ", "))
}

/// Kubernetes and Docker's links put the addresses of services into the environment of every container, named after
/// them. A service called `carillon` makes `CARILLON_PORT`, `CARILLON_SERVICE_HOST` and more, which nobody wrote and no
/// setting can be called (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_service_link(name: &str, value: &OsString) -> bool {
    let names_a_port = |rest: &str| {
        let (number, protocol) = rest.split_once('_').unwrap_or((rest, ""));
        number.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].iter().any(|known| protocol.starts_with(known))
    };
    !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.ends_with("_SERVICE_PORT")
            || name.contains("_SERVICE_PORT_")
            || name.ends_with("_PORT") && value.to_str().is_some_and(|value| value.contains("://"))
            || name.match_indices("_PORT_").any(|(at, found)| names_a_port(&name[at + found.len()..])))
}

#[cfg(test)]
mod tests;
