//! What an operator writes, and what becomes of it or what is said about it.

use std::io::Write;

use clap::Parser;

use super::*;
use crate::settings::LogFormat;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The sources of one start.
#[derive(Default)]
struct Start {
    file: &'static str,
    environment: Vec<(&'static str, &'static str)>,
    flags: Vec<&'static str>,
}

impl Start {
    fn load(&self) -> Result<Settings, String> {
        let mut args = CommandLine::parse_from(std::iter::once(&"carillon").chain(&self.flags)).settings;
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        file.write_all(self.file.as_bytes()).unwrap();
        if !self.file.is_empty() {
            args.config = Some(file.path().to_owned());
        }
        let environment = self.environment.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::load_from(Program::AllInOne, &args, environment)
            .map_err(|error| error.to_string().replace(file.path().to_str().unwrap(), "file.toml"))
    }
}

fn file(file: &'static str) -> Result<Settings, String> {
    Start { file, ..Start::default() }.load()
}

fn environment(name: &'static str, value: &'static str) -> Result<Settings, String> {
    Start { environment: vec![(name, value)], ..Start::default() }.load()
}

fn flags(flags: &[&'static str]) -> Result<Settings, String> {
    Start { flags: flags.to_vec(), ..Start::default() }.load()
}

/// The message has all the parts.
fn assert_says(result: Result<Settings, String>, parts: &[&str]) {
    let message = result.expect_err("the start went on");
    parts.iter().for_each(|part| assert!(message.contains(part), "no {part:?} in: {message}"));
}

#[test]
fn defaults_are_the_contract() {
    let settings = Start::default().load().unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
    assert_eq!((settings.limits.frame_bytes, settings.limits.outbox_total_bytes), (65_536, 1_073_741_824));
    assert_eq!(settings.retention, [Retention::default()]);
    assert!(settings.origins.is_empty() && settings.jwt.secret.is_none() && settings.nats.url.is_none());
}

#[test]
fn programs_differ_in_ports() {
    let ports = Program::ALL.map(|program| {
        let settings = Settings::load_from(program, &SettingsArgs::default(), []).unwrap();
        (settings.admin_listen.port(), settings.nats.url.is_some())
    });
    assert_eq!(ports, [(8081, false), (8081, true), (8091, true), (8092, true)]);
    assert_eq!(Settings::defaults(Program::Auth).listen.port(), 8090);
}

#[test]
fn later_sources_win() {
    let mut start = Start { file: "[limits]\nframe_bytes = 1001\n", ..Start::default() };
    assert_eq!(start.load().unwrap().limits.frame_bytes, 1001);
    start.environment = vec![("CARILLON_LIMITS__FRAME_BYTES", "1002")];
    assert_eq!(start.load().unwrap().limits.frame_bytes, 1002);
    start.flags = vec!["--set", "limits.frame_bytes=1003"];
    assert_eq!(start.load().unwrap().limits.frame_bytes, 1003);
}

#[test]
fn every_setting_has_three_doors() {
    // Whatever can be said in the environment can be said by --set; the file is tried with the types that differ.
    let text = [
        ("listen", "0.0.0.0:0"),
        ("data_dir", "/var/lib/carillon"),
        ("origins", "https://a.example, https://b.example:8443"),
        ("nats.url", "nats://a:4222,nats://b:4222"),
        ("jwt.secret", "01234567890123456789012345678901"),
        ("jwt.public_keys", "a.pem,b.pem"),
        ("jwt.default_grants", r#"[{"rooms":["*"],"can":["join"]}]"#),
        ("jwt.max_ttl_s", "3600"),
        ("retention", r#"[{"rooms":"chat:*","messages":5,"age":"1h"}]"#),
        ("otel.sample", "0.5"),
        ("log.format", "json"),
        ("log.level", "warn,carillon_gateway=debug"),
        ("socketio.path", "/io/"),
        ("gateway.shards", "2"),
    ];
    let by_environment = text.map(|(name, value)| (OsString::from(environment_name(name)), OsString::from(value)));
    let by_environment = Settings::load_from(Program::AllInOne, &SettingsArgs::default(), by_environment).unwrap();
    let set = text.map(|(name, value)| format!("{name}={value}")).to_vec();
    let by_flag = Settings::load_from(Program::AllInOne, &SettingsArgs { set, ..SettingsArgs::default() }, []).unwrap();
    let by_file = file(
        r#"
        listen = "0.0.0.0:0"
        data_dir = "/var/lib/carillon"
        origins = ["https://a.example", "https://b.example:8443"]
        nats.url = "nats://a:4222,nats://b:4222"
        otel.sample = 0.5
        socketio.path = "/io/"
        gateway.shards = 2
        [jwt]
        secret = "01234567890123456789012345678901"
        public_keys = ["a.pem", "b.pem"]
        default_grants = [{ rooms = ["*"], can = ["join"] }]
        max_ttl_s = 3600
        [log]
        format = "json"
        level = "warn,carillon_gateway=debug"
        [[retention]]
        rooms = "chat:*"
        messages = 5
        age = "1h"
        "#,
    )
    .unwrap();
    assert_eq!(by_environment, by_flag);
    assert_eq!(by_environment, by_file);
    assert_eq!(by_file.retention.len(), 2, "the default follows for all other rooms");
    assert_eq!(by_file.jwt.secret.unwrap().expose().len(), 32);
}

#[test]
fn common_settings_have_flags() {
    let settings = flags(&[
        "--listen=127.0.0.1:1",
        "--admin-listen=127.0.0.1:2",
        "--data-dir=d",
        "--nats-url=nats://n",
        "--auth-url=http://a",
        "--jwt-secret=01234567890123456789012345678901",
        "--origins=https://a.example",
        "--log-level=debug",
        "--log-format=text",
    ])
    .unwrap();
    assert_eq!((settings.listen.port(), settings.admin_listen.port()), (1, 2));
    assert_eq!((settings.nats.url.unwrap().as_str(), settings.auth.url.as_str()), ("nats://n", "http://a"));
    assert!(settings.origins.allows("https://a.example") && settings.jwt.secret.is_some());
    assert_eq!((settings.log.format, settings.log.level.as_str()), (Some(LogFormat::Text), "debug"));
}

#[test]
fn digits_may_be_a_secret() {
    assert!(environment("CARILLON_JWT__SECRET", "12345678901234567890123456789012").unwrap().jwt.secret.is_some());
    assert!(environment("CARILLON_JWT__SECRET", "[2345678901234567890123456789012").unwrap().jwt.secret.is_some());
}

#[test]
fn unknown_settings_stop_the_start() {
    assert_says(file("[limits]\nframe_byte = 1\n"), &["limits.frame_byte ", "file.toml", "did you mean limits.frame_bytes?"]);
    assert_says(file("[limit]\nframe_bytes = 1\n"), &["unknown setting limit ", "did you mean limits?"]);
    assert_says(file("colour = 1\n"), &["unknown setting colour", "docs/settings.md"]);
    assert_says(file("[listen]\nport = 1\n"), &["listen", "expected an IP address and a port"]);
    assert_says(file("limits = 1\n"), &["setting limits ", "expected settings below it", "found 1"]);
    assert_says(
        environment("CARILLON_LIMITS_FRAME_BYTES", "1"),
        &["the environment variable CARILLON_LIMITS_FRAME_BYTES", "did you mean CARILLON_LIMITS__FRAME_BYTES?"],
    );
    assert_says(environment("CARILLON_BOGUS", "1"), &["CARILLON_BOGUS", "docs/settings.md"]);
    assert_says(environment("CARILLON_RETENTION__0__ROOMS", "*"), &["unknown setting CARILLON_RETENTION__0__ROOMS"]);
    assert_says(environment("CARILLON_limits__frame_bytes", "1024"), &["did you mean CARILLON_LIMITS__FRAME_BYTES?"]);
    assert_says(flags(&["--set", "limits.frames_bytes=1024"]), &["the flag --set", "did you mean limits.frame_bytes?"]);
}

#[test]
fn malformed_settings_stop_the_start() {
    assert_says(
        environment("CARILLON_LIMITS__FRAME_BYTES", "many"),
        &["limits.frame_bytes", "CARILLON_LIMITS__FRAME_BYTES", "expected a whole number from 64 to 983040", r#"found "many""#],
    );
    assert_says(file("[limits]\nframe_bytes = \"1024\"\n"), &["limits.frame_bytes", "file.toml", "expected a whole number"]);
    assert_says(file("[limits]\nframe_bytes = -1\n"), &["limits.frame_bytes", "found -1"]);
    assert_says(file("[limits]\nframe_bytes = 0\n"), &["limits.frame_bytes", "found 0"]);
    assert_says(file("[limits]\nframe_bytes = 1e6\n"), &["limits.frame_bytes"]);
    assert_says(file("[limits\n"), &["file.toml", "is no TOML at line 1"]);
    assert_says(flags(&["--listen", "8080"]), &["listen", "the flag --listen", "such as 127.0.0.1:8080"]);
    assert_says(flags(&["--listen", ""]), &["listen", "the flag --listen"]);
    assert_says(flags(&["--set", "limits.frame_bytes"]), &["--set", "expected NAME=VALUE"]);
    assert_says(flags(&["--config", "/nowhere.toml"]), &["/nowhere.toml", "--config", "can't be read"]);
    assert_says(environment("CARILLON_ORIGINS", "*"), &["origins", "scheme://host", "wildcards"]);
    assert_says(environment("CARILLON_ORIGINS", "https://a.example/"), &["origins", "no slash at the end"]);
    assert_says(environment("CARILLON_ORIGINS", "[\"https://a.example\""), &["origins", "a list"]);
    assert_says(environment("CARILLON_OTEL__SAMPLE", "NaN"), &["otel.sample", "from 0 to 1"]);
    assert_says(environment("CARILLON_LOG__LEVEL", "inof"), &["log.level", "error, warn, info"]);
    assert_says(environment("CARILLON_SOCKETIO__PATH", "socket.io"), &["socketio.path", "slash"]);
    assert_says(environment("CARILLON_NATS__REPLICAS", "0"), &["nats.replicas", "from 1 to 5"]);
    assert_says(
        environment("CARILLON_RETENTION", r#"[{"rooms":"*","age":"soon"}]"#),
        &["retention", "CARILLON_RETENTION", r#"age is "soon""#],
    );
    assert_says(file("[[retention]]\nrooms = \"*\"\nmesages = 1\n"), &["retention", "mesages is none of"]);
    assert_says(file("[[retention]]\nmessages = 1\n"), &["retention", "rooms is missing"]);
    assert_says(
        environment("CARILLON_JWT__DEFAULT_GRANTS", r#"[{"rooms":["*"],"can":["fly"]}]"#),
        &["jwt.default_grants", r#""can": ["join""#],
    );
}

#[test]
fn lower_layers_are_checked_too() {
    let start = Start { file: "listen = 1\n", flags: vec!["--listen", "127.0.0.1:0"], ..Start::default() };
    assert_says(start.load(), &["listen", "file.toml"]);
}

#[cfg(unix)]
#[test]
fn other_bytes_are_malformed() {
    use std::os::unix::ffi::OsStringExt;
    let environment = [("CARILLON_DATA_DIR".into(), OsString::from_vec(vec![0xff]))];
    let error = Settings::load_from(Program::AllInOne, &SettingsArgs::default(), environment).unwrap_err();
    assert!(error.to_string().contains("data_dir"), "{error}");
}

#[test]
fn empty_variables_are_unset() {
    assert_eq!(environment("CARILLON_LISTEN", "").unwrap(), Start::default().load().unwrap());
    assert!(environment("CARILLON_JWT__SECRET", "").unwrap().jwt.secret.is_none());
}

#[test]
fn foreign_variables_are_ignored() {
    for (name, value) in [
        ("CARILLON_URL", "http://a"),
        ("CARILLON_TOKEN", "t"),
        ("PATH", "/bin"),
        // What Kubernetes sets for services called carillon and carillon-gateway.
        ("CARILLON_SERVICE_HOST", "10.0.0.1"),
        ("CARILLON_SERVICE_PORT", "8080"),
        ("CARILLON_SERVICE_PORT_HTTP", "8080"),
        ("CARILLON_PORT", "tcp://10.0.0.1:8080"),
        ("CARILLON_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("CARILLON_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ] {
        assert!(environment(name, value).is_ok(), "{name}");
    }
    assert_says(environment("CARILLON_PORT", "8080"), &["unknown setting CARILLON_PORT"]);
}

#[test]
fn variables_may_name_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"01234567890123456789012345678901\r\n").unwrap();
    let path: &'static str = Box::leak(file.path().to_str().unwrap().to_owned().into_boxed_str());
    let settings = environment("CARILLON_JWT__SECRET_FILE", path).unwrap();
    assert_eq!(settings.jwt.secret.unwrap().expose().len(), 32, "the line break at the end is not meant");

    let both = vec![("CARILLON_JWT__SECRET_FILE", path), ("CARILLON_JWT__SECRET", "01234567890123456789012345678901")];
    assert_says(Start { environment: both, ..Start::default() }.load(), &["CARILLON_JWT__SECRET_FILE", "both"]);
    assert_says(environment("CARILLON_JWT__SECRET_FILE", "/nowhere/secret"), &["jwt.secret", "/nowhere/secret"]);
    assert_says(environment("CARILLON_NONSENSE_FILE", path), &["unknown setting CARILLON_NONSENSE_FILE"]);
    // What is in the file stays there.
    let message = environment("CARILLON_LISTEN_FILE", path).unwrap_err();
    assert!(message.contains(path) && !message.contains("0123456789"), "{message}");
}

#[test]
fn secrets_are_never_printed() {
    const SHORT: &str = "hunter2";
    for result in [
        environment("CARILLON_JWT__SECRET", SHORT),
        flags(&["--jwt-secret", SHORT]),
        flags(&["--set", "jwt.secret=hunter2"]),
        flags(&["--set", "jwt.secret hunter2"]),
        file("[jwt]\nsecret = \"hunter2\"\n"),
        file("[jwt]\nsecret = hunter2\n"),
        file("[jwt]\nsecret = \"hunter2\nlisten = 1"),
        environment("CARILLON_NATS__URL", "natz://me:hunter2@host"),
    ] {
        let message = result.unwrap_err();
        assert!(!message.contains(SHORT), "{message}");
    }
    assert_says(environment("CARILLON_JWT__SECRET", SHORT), &["jwt.secret", "32 bytes or more, it has 7"]);
    let settings = environment("CARILLON_JWT__SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2").unwrap();
    assert!(!format!("{settings:?}").contains(SHORT));
    let args = CommandLine::parse_from(["carillon", "--jwt-secret", SHORT]).settings;
    assert!(!format!("{args:?}").contains(SHORT));
}

#[test]
fn help_lists_every_setting() {
    let help = <CommandLine as clap::CommandFactory>::command().render_long_help().to_string();
    for known in table(&Settings::default()) {
        assert!(help.contains(&known.name), "{} is missing", known.name);
    }
}
