//! Carillon as its operators run it: real processes, ended by signals, started again on the same ports and data. What the
//! processes are is the [`Shape`]'s business; a test only says which settings it needs.

mod part;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon_auth::Authority;
use carillon_platform::{
    auth::IssueRequest,
    settings::{Program, Secret, Settings},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::client::{Client, Dial};
pub(crate) use part::Part;
use part::{ANY, kill};

/// Nothing here takes so long; a busy machine may come near it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The key that all tests sign with.
pub(crate) const SECRET: &str = "a secret of the system tests, of 32 bytes and more";
/// The page that browsers may connect from.
pub(crate) const ORIGIN: &str = "https://app.example.com";

/// Which processes are the product. The suite is one; every test runs against whichever shape this run is for, but for those
/// that name one because they are about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `carillon serve`: everything embedded.
    Serve,
    /// `carillon dev`: the same, with a key and a page of its own.
    Dev,
    /// NATS, auth, fanout and a gateway, each a process, all of them a test's own.
    Cluster,
}

impl Shape {
    /// The shape that this run of the suite is for: `CARILLON_TEST_SHAPE`, `serve` without it.
    pub(crate) fn of_this_run() -> Self {
        match std::env::var("CARILLON_TEST_SHAPE").as_deref() {
            Err(_) | Ok("serve") => Self::Serve,
            Ok("dev") => Self::Dev,
            Ok("cluster") => Self::Cluster,
            Ok(other) => panic!("CARILLON_TEST_SHAPE is serve, dev or cluster, not {other}"),
        }
    }
}

/// A running product.
pub(crate) struct Server {
    /// What clients talk to: the one process, or a gateway.
    front: Part,
    /// Where the front is a gateway, what it relies on.
    behind: Option<Behind>,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// By environment variable.
    settings: BTreeMap<String, String>,
    authority: Authority,
    folder: TempDir,
}

/// The processes behind the gateways.
pub(crate) struct Behind {
    pub(crate) nats: Part,
    pub(crate) auth: Part,
    pub(crate) fanout: Part,
}

impl Behind {
    fn all(&mut self) -> [&mut Part; 3] {
        [&mut self.nats, &mut self.auth, &mut self.fanout]
    }
}

impl Server {
    /// With the contract's defaults, except that clients may speak as fast as they like.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// As [`Self::start`], and with these settings, each by its dotted name.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::fast(Shape::of_this_run(), settings).await
    }

    /// As [`Self::start`], as the one process, whatever this run is for: what is tested is that process's own.
    pub(crate) async fn embedded() -> Self {
        Self::fast(Shape::Serve, &[]).await
    }

    /// As [`Self::start`], as services, whatever this run is for.
    pub(crate) async fn cluster() -> Self {
        Self::fast(Shape::Cluster, &[]).await
    }

    /// As [`Self::with`], in this shape, whatever this run is for.
    pub(crate) async fn shaped(shape: Shape, settings: &[(&str, &str)]) -> Self {
        Self::fast(shape, settings).await
    }

    async fn fast(shape: Shape, settings: &[(&str, &str)]) -> Self {
        let fast = [("limits.frames_per_second", "1000000"), ("limits.frames_burst", "1000000")];
        let needed = [("jwt.secret", SECRET), ("origins", ORIGIN), ("log.level", "info")];
        let all: Vec<_> = needed.iter().chain(&fast).chain(settings).copied().collect();
        Self::bare(shape, &all).await
    }

    /// With nothing but these settings.
    pub(crate) async fn bare(shape: Shape, settings: &[(&str, &str)]) -> Self {
        Self::in_environment(shape, &[], settings).await
    }

    /// With nothing but these settings, in processes with these variables.
    pub(crate) async fn in_environment(shape: Shape, variables: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings.iter().map(|(name, value)| (variable(name), (*value).to_owned()));
        let mut settings: BTreeMap<_, _> =
            settings.chain(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).collect();
        let log = |name: &str| folder.path().join(format!("{name}.log"));
        let (front, behind) = match shape {
            Shape::Serve | Shape::Dev => {
                settings.insert(variable("data_dir"), folder.path().to_str().unwrap().to_owned());
                let command = if shape == Shape::Dev { "dev" } else { "serve" };
                (Part::start("carillon", &[command], settings.clone(), log("carillon"), ANY).await, None)
            }
            Shape::Cluster => {
                let nats = Part::start_nats(folder.path(), ANY).await;
                settings.insert(variable("nats.url"), format!("nats://{}", nats.listen));
                let auth = Part::start("carillon-auth", &[], settings.clone(), log("auth"), ANY).await;
                settings.insert(variable("auth.url"), format!("http://{}", auth.listen));
                let fanout = Part::start("carillon-fanout", &[], settings.clone(), log("fanout"), ANY).await;
                let gateway = Part::start("carillon-gateway", &[], settings.clone(), log("gateway"), ANY).await;
                (gateway, Some(Behind { nats, auth, fanout }))
            }
        };
        let (listen, admin) = (front.listen, front.admin);
        Self { front, behind, listen, admin, settings, authority: authority(), folder }
    }

    /// As services that log in to NATS, each with its own permissions, as `deploy/nats/services.conf` has them.
    pub(crate) async fn guarded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nats/services.conf");
        let services = ["gateway", "auth", "fanout"];
        let passwords = services.map(|name| (format!("CARILLON_NATS_{}_PASSWORD", name.to_uppercase()), format!("pass-{name}")));
        let nats = Part::start_nats_with(folder.path(), ANY, &["--config", config], passwords.into()).await;
        let mut settings = BTreeMap::new();
        let start = async |name: &str, settings: &BTreeMap<String, String>| {
            let mut settings = settings.clone();
            settings.insert(variable("nats.url"), format!("nats://{name}:pass-{name}@{}", nats.listen));
            let log = folder.path().join(format!("{name}.log"));
            Part::start(&format!("carillon-{name}"), &[], settings, log, ANY).await
        };
        for (name, value) in [("jwt.secret", SECRET), ("origins", ORIGIN)] {
            settings.insert(variable(name), value.to_owned());
        }
        let auth = start("auth", &settings).await;
        settings.insert(variable("auth.url"), format!("http://{}", auth.listen));
        let (fanout, front) = (start("fanout", &settings).await, start("gateway", &settings).await);
        let (listen, admin) = (front.listen, front.admin);
        // For further gateways.
        settings.insert(variable("nats.url"), format!("nats://gateway:pass-gateway@{}", nats.listen));
        Self { front, behind: Some(Behind { nats, auth, fanout }), listen, admin, settings, authority: authority(), folder }
    }

    /// The services in this order, each told where all of them are going to be.
    pub(crate) async fn cluster_in_order(order: [Service; 4]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [nats_at, auth_at, listen] = free_addresses();
        let mut settings = BTreeMap::new();
        for (name, value) in [
            ("jwt.secret", SECRET),
            ("origins", ORIGIN),
            ("nats.url", &format!("nats://{nats_at}")),
            ("auth.url", &format!("http://{auth_at}")),
        ] {
            settings.insert(variable(name), value.to_owned());
        }
        let (mut nats, mut auth, mut fanout, mut gateway) = (None, None, None, None);
        for service in order {
            let start = async |name: &str, at| {
                Some(Part::start(name, &[], settings.clone(), folder.path().join(format!("{name}.log")), at).await)
            };
            match service {
                Service::Nats => nats = Some(Part::start_nats(folder.path(), nats_at).await),
                Service::Auth => auth = start("carillon-auth", auth_at).await,
                Service::Fanout => fanout = start("carillon-fanout", ANY).await,
                Service::Gateway => gateway = start("carillon-gateway", listen).await,
            }
        }
        let each = "an order names each service once";
        let behind = Behind { nats: nats.expect(each), auth: auth.expect(each), fanout: fanout.expect(each) };
        let front = gateway.expect(each);
        let admin = front.admin;
        Self { front, behind: Some(behind), listen, admin, settings, authority: authority(), folder }
    }

    /// One more gateway of the same cluster, as a process of its own.
    pub(crate) async fn another_gateway(&self, name: &str) -> Part {
        self.another_gateway_with(name, &[]).await
    }

    /// The same, told something else in places.
    pub(crate) async fn another_gateway_with(&self, name: &str, other: &[(&str, &str)]) -> Part {
        let log = self.folder.path().join(format!("{name}.log"));
        let mut settings = self.settings.clone();
        settings.extend(other.iter().map(|(name, value)| (variable(name), (*value).to_owned())));
        Part::start("carillon-gateway", &[], settings, log, ANY).await
    }

    /// One more replica of the owners in the same cluster.
    pub(crate) async fn another_fanout(&self, name: &str) -> Part {
        let log = self.folder.path().join(format!("{name}.log"));
        Part::start("carillon-fanout", &[], self.settings.clone(), log, ANY).await
    }

    /// Where the cluster's NATS is.
    pub(crate) fn nats_url(&self) -> String {
        format!("nats://{}", self.behind.as_ref().expect("a cluster").nats.listen)
    }

    /// A process of the cluster.
    pub(crate) fn service(&mut self, service: Service) -> &mut Part {
        let behind = self.behind.as_mut().expect("a cluster");
        match service {
            Service::Nats => &mut behind.nats,
            Service::Auth => &mut behind.auth,
            Service::Fanout => &mut behind.fanout,
            Service::Gateway => &mut self.front,
        }
    }

    /// Dead without a word: the processes get SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.signal("KILL");
        self.ended().await;
    }

    /// Again, on the same ports and the same data: whatever has ended.
    pub(crate) async fn start_again(&mut self) {
        for part in self.behind.iter_mut().flat_map(Behind::all) {
            part.start_again().await;
        }
        self.front.start_again().await;
        (self.listen, self.admin) = (self.front.listen, self.front.admin);
    }

    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.start_again().await;
    }

    /// For the process that clients talk to; death is for all of them, this one first.
    pub(crate) fn signal(&self, name: &str) {
        self.front.signal(name);
        if let Some(Behind { nats, auth, fanout }) = self.behind.as_ref().filter(|_| name == "KILL") {
            [fanout, auth, nats].into_iter().for_each(|part| part.signal(name));
        }
    }

    /// Waits for the end of the process that clients talk to; the exit code, unless a signal ended it.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.front.ended().await.code()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// What all its processes have logged so far.
    pub(crate) fn logged(&self) -> String {
        let behind = self.behind.iter().flat_map(|behind| [&behind.auth, &behind.fanout]);
        behind.chain([&self.front]).map(Part::said).collect()
    }

    /// Memory of the process that clients talk to, KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.front.resident_kib()
    }

    /// The next line that it says on stdout.
    pub(crate) async fn stdout_line(&mut self) -> String {
        self.front.line().await
    }

    /// A token of `user` with the default grants, for an hour.
    pub(crate) fn token(&self, user: &str) -> String {
        self.token_of(user, 3600, None)
    }

    /// A token that allows just this, as JSON.
    pub(crate) fn token_for(&self, user: &str, grants: &str) -> String {
        self.token_of(user, 3600, Some(grants))
    }

    /// A token whose life began just now.
    pub(crate) fn token_of(&self, user: &str, ttl_s: u64, grants: Option<&str>) -> String {
        self.token_since(unix_ms(), user, ttl_s, grants)
    }

    /// A token of another time.
    pub(crate) fn token_since(&self, now_ms: u64, user: &str, ttl_s: u64, grants: Option<&str>) -> String {
        let grants = grants.map(|grants| serde_json::from_str(grants).expect("grants are JSON"));
        let request = IssueRequest { sub: user.to_owned(), ttl_s, grants, info: None };
        self.authority.issue_at(&request, now_ms).unwrap().token
    }

    /// A token that does not say when it was issued.
    pub(crate) fn token_without_iat(&self, user: &str) -> String {
        signed(&serde_json::json!({ "sub": user, "exp": unix_ms() / 1000 + 3600 }))
    }

    /// A connection under way.
    pub(crate) fn dial(&self) -> Dial {
        Dial::to(self.listen)
    }

    /// A connection of `user` that has been welcomed.
    pub(crate) async fn connect(&self, user: &str) -> Client {
        self.dial().token(&self.token(user)).connected().await
    }

    /// A connection of `user` under this client id.
    pub(crate) async fn connect_as(&self, user: &str, client: &str) -> Client {
        self.dial().token(&self.token(user)).client(client).connected().await
    }

    /// A metric of the admin port, as it is now.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        value_of(name, &get(self.admin, "/metrics").await.body)
    }

    /// The admin port of whoever owns the rooms: the process itself, or the fanout service behind it.
    pub(crate) fn owners_admin(&self) -> SocketAddr {
        self.behind.as_ref().map_or(self.admin, |behind| behind.fanout.admin)
    }

    /// Waits until a metric has this value.
    pub(crate) async fn until_metric(&self, name: &str, value: u64) {
        until_metric(self.admin, name, value).await;
    }
}

/// Waits until a metric of this admin port has this value.
pub(crate) async fn until_metric(admin: SocketAddr, name: &str, value: u64) {
    let mut seen = 0;
    let reached = timeout(PATIENCE, async {
        loop {
            seen = value_of(name, &get(admin, "/metrics").await.body);
            if seen == value {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(reached.await.is_ok(), "{name} is {seen}, not {value}");
}

/// A metric in its text, over all its labels if `name` has none; 0 if nothing was counted under this name.
pub(crate) fn value_of(name: &str, metrics: &str) -> u64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix('{').and_then(|labelled| Some(labelled.split_once('}')?.1)).unwrap_or(rest);
        rest.strip_prefix(' ')?.parse::<u64>().ok()
    };
    metrics.lines().filter_map(value).sum()
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for part in self.behind.iter_mut().flat_map(Behind::all).chain([&mut self.front]) {
                eprintln!("--- what {} logged\n{}---", part.name(), part.said());
            }
        }
    }
}

/// The processes of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Nats,
    Auth,
    Fanout,
    Gateway,
}

/// Held at the same time, so that they differ; free again on return.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let held = [(); N].map(|()| std::net::TcpListener::bind(ANY).unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// A command that is expected to end by itself: its exit code, stdout and stderr.
pub(crate) async fn run(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = carillon(arguments, settings.iter().map(|(name, value)| (variable(name), (*value).to_owned())));
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = process.id();
    let ended = tokio::task::spawn_blocking(move || process.wait_with_output());
    let Ok(output) = timeout(PATIENCE, ended).await else {
        kill(pid, "KILL");
        panic!("carillon {arguments:?} did not end");
    };
    let output = output.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A plain GET, without any client that might mend what is wrong.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).await
}

/// Sends these bytes and reads to the end.
pub(crate) async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let answered = timeout(PATIENCE, async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_ref()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    });
    let text = answered.await.expect("an HTTP answer in time");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The binary, with these settings and none of whoever runs the tests.
pub(crate) fn carillon(arguments: &[&str], settings: impl IntoIterator<Item = (String, String)>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.env_clear().args(arguments).envs(settings).stdin(Stdio::null());
    command
}

fn variable(setting: &str) -> String {
    format!("CARILLON_{}", setting.replace('.', "__").to_uppercase())
}

/// A token by the tests' key with exactly these claims.
pub(crate) fn signed(claims: &serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

pub(crate) fn authority() -> Authority {
    let mut settings = Settings::defaults(Program::AllInOne);
    settings.jwt.secret = Secret::parse(SECRET);
    // Tokens over the limit of the server must be made by someone.
    settings.limits.token_bytes = 1 << 20;
    Authority::from_settings(&settings).unwrap()
}
