//! Keys at an address: which tokens hold while they change, while they are away, and while somebody makes `kid`s up.

#[path = "key_server/mod.rs"]
mod key_server;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_auth::Authority;
use carillon_platform::{
    auth::{TokenVerifier, VerifyError},
    settings::{Program, Secret, Settings, Url},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use key_server::KeyServer;
use serde_json::{Value, json};

/// A key of the tests under a name.
struct Signer {
    kid: &'static str,
    key: EncodingKey,
    algorithm: Algorithm,
}

impl Signer {
    fn new(file: &str, kid: &'static str) -> Self {
        let pem = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(file)).unwrap();
        let (key, algorithm) = match file {
            "rsa.pem" => (EncodingKey::from_rsa_pem(&pem).unwrap(), Algorithm::RS256),
            "p256.pem" => (EncodingKey::from_ec_pem(&pem).unwrap(), Algorithm::ES256),
            _ => (EncodingKey::from_ed_pem(&pem).unwrap(), Algorithm::EdDSA),
        };
        Self { kid, key, algorithm }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn token_with(&self, kid: Option<&str>) -> String {
        self.token_until(kid, 4_000_000_000)
    }

    fn token_until(&self, kid: Option<&str>, exp: u64) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, &json!({ "sub": "ada", "exp": exp }), &self.key).unwrap()
    }

    fn nameless_token(&self, exp: u64) -> String {
        self.token_until(None, exp)
    }

    fn token(&self) -> String {
        self.token_with(Some(self.kid))
    }
}

/// A key of this seed (RFC 8410, section 7).
fn ed25519(seed: u8) -> EncodingKey {
    let prefix = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    EncodingKey::from_ed_der(&[&prefix[..], &[seed; 32]].concat())
}

async fn authority_with(server: &KeyServer, refresh_s: u64, change: impl Fn(&mut Settings)) -> Arc<Authority> {
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.jwks_url = Url::parse(&server.url(), &["http"]);
    settings.jwt.jwks_refresh_s = refresh_s;
    change(&mut settings);
    let authority = Arc::new(Authority::from_settings(&settings).unwrap());
    tokio::spawn(authority.clone().keep_keys());
    authority.wait_for_keys(Duration::from_secs(5)).await;
    authority
}

/// Which only looks again when it has to.
async fn authority(server: &KeyServer) -> Arc<Authority> {
    authority_with(server, 86_400, |_| {}).await
}

async fn opens(authority: &Authority, token: &str) -> bool {
    match authority.verify(token).await {
        Ok(claims) => claims.sub == "ada",
        Err(VerifyError::Refused(_)) => false,
        Err(VerifyError::Unavailable(why)) => panic!("{why}"),
    }
}

fn is_unavailable<T>(verified: Result<T, VerifyError>) -> bool {
    matches!(verified, Err(VerifyError::Unavailable(_)))
}

#[tokio::test]
async fn published_keys_check_tokens() {
    let signers = [Signer::new("rsa.pem", "r"), Signer::new("p256.pem", "e"), Signer::new("ed25519.pem", "o")];
    let server = KeyServer::start(&signers.each_ref().map(Signer::jwk));
    let authority = authority(&server).await;
    for signer in &signers {
        assert!(opens(&authority, &signer.token()).await, "{}", signer.kid);
        assert!(opens(&authority, &signer.token_with(None)).await, "{} without a kid", signer.kid);
        assert!(!opens(&authority, &signer.token_with(Some("made-up"))).await, "{} with another kid", signer.kid);
    }
    let crossed = signers[0].token_with(Some("e"));
    assert!(!opens(&authority, &crossed).await, "a key of another kind under this kid");
}

#[tokio::test]
async fn published_key_is_no_secret() {
    let signer = Signer::new("rsa.pem", "r");
    let server = KeyServer::start(&[signer.jwk(), json!({ "kty": "oct", "kid": "s", "k": "c2VjcmV0".repeat(8) })]);
    let authority = authority(&server).await;
    let modulus = signer.jwk()["n"].as_str().unwrap().to_owned();
    for (kid, secret) in [("r", modulus.as_bytes()), ("s", &b"secret".repeat(8)[..])] {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        let claims = json!({ "sub": "ada", "exp": 4_000_000_000_u64 });
        let forged = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
        assert!(!opens(&authority, &forged).await, "{kid}");
    }
}

#[tokio::test]
async fn new_key_is_looked_for() {
    let (old, new) = (Signer::new("ed25519.pem", "old"), Signer::new("p256.pem", "new"));
    let server = KeyServer::start(&[old.jwk()]);
    let authority = authority(&server).await;
    assert!(opens(&authority, &old.token()).await);
    server.publish(&[old.jwk(), new.jwk()]);
    // Whoever comes at once waits for one look, all together.
    let before = server.asked();
    let storm: Vec<_> = (0..50)
        .map(|_| {
            let (authority, token) = (authority.clone(), new.token());
            tokio::spawn(async move { opens(&authority, &token).await })
        })
        .collect();
    for one in storm {
        assert!(one.await.unwrap());
    }
    assert_eq!(server.asked(), before + 1);
    assert!(opens(&authority, &old.token()).await);
}

#[tokio::test]
async fn new_key_is_looked_for_without_a_kid_too() {
    let (old, new) = (Signer::new("ed25519.pem", "old"), Signer::new("p256.pem", "new"));
    let same_kind = Signer { kid: "third", key: ed25519(8), algorithm: Algorithm::EdDSA };
    let server = KeyServer::start(&[old.jwk()]);
    let authority = authority(&server).await;
    for signer in [&new, &same_kind] {
        // Made up, as far as anybody knows: this very token stays refused for a while, and no other one.
        assert!(!opens(&authority, &signer.nameless_token(4_000_000_000)).await, "{}", signer.kid);
        server.publish(&[old.jwk(), signer.jwk()]);
        assert!(opens(&authority, &signer.nameless_token(4_000_000_001)).await, "{}", signer.kid);
        assert!(opens(&authority, &old.nameless_token(4_000_000_000)).await);
    }
    // Each such token is looked for once.
    let forged = Signer { kid: "x", key: ed25519(9), algorithm: Algorithm::EdDSA };
    let token = forged.nameless_token(4_000_000_000);
    assert!(!opens(&authority, &token).await);
    let before = server.asked();
    assert!(!opens(&authority, &token).await);
    assert_eq!(server.asked(), before);
}

#[tokio::test]
async fn key_that_takes_anothers_kid_is_looked_for() {
    let (old, new) = (Signer::new("ed25519.pem", "k"), Signer { kid: "k", key: ed25519(8), algorithm: Algorithm::EdDSA });
    let server = KeyServer::start(&[old.jwk()]);
    let authority = authority(&server).await;
    // Made up, as far as anybody knows; what comes later is not held up by it.
    assert!(!opens(&authority, &new.token()).await);
    server.publish(&[new.jwk()]);
    assert!(opens(&authority, &new.token_until(Some("k"), 4_000_000_001)).await);
    assert!(!opens(&authority, &old.token()).await);
    assert!(opens(&authority, &new.token()).await, "its key is known by now");
    server.hang_up();
    assert!(is_unavailable(authority.verify(&old.token_until(Some("k"), 4_000_000_001)).await), "nobody can tell");
    assert!(opens(&authority, &new.token()).await);
}

#[tokio::test]
async fn set_without_keys_leaves_the_last_good_one() {
    let (old, unknown) = (Signer::new("ed25519.pem", "old"), Signer::new("p256.pem", "new"));
    let server = KeyServer::start(&[old.jwk()]);
    let authority = authority(&server).await;
    for nothing in [&[][..], &[json!({ "kty": "oct", "k": "c2VjcmV0" })]] {
        server.publish(nothing);
        // Has it looked at, and is no reason to say no.
        assert!(is_unavailable(authority.verify(&unknown.token()).await));
        assert!(opens(&authority, &old.token()).await);
    }
    server.publish(&[unknown.jwk()]);
    assert!(opens(&authority, &unknown.token()).await && !opens(&authority, &old.token()).await);
}

#[tokio::test]
async fn removed_key_is_refused() {
    let (old, new) = (Signer::new("ed25519.pem", "old"), Signer::new("p256.pem", "new"));
    let server = KeyServer::start(&[old.jwk(), new.jwk()]);
    let authority = authority_with(&server, 1, |_| {}).await;
    assert!(opens(&authority, &old.token()).await && opens(&authority, &new.token()).await);
    server.publish(&[new.jwk()]);
    let started = Instant::now();
    while opens(&authority, &old.token()).await {
        assert!(started.elapsed() < Duration::from_secs(20), "still accepted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(opens(&authority, &new.token()).await);
}

#[tokio::test]
async fn last_good_set_outlasts_an_outage() {
    let (old, new) = (Signer::new("ed25519.pem", "old"), Signer::new("p256.pem", "new"));
    let server = KeyServer::start(&[old.jwk()]);
    let authority = authority_with(&server, 1, |_| {}).await;
    assert!(opens(&authority, &old.token()).await);
    for trouble in [Some((500, "{\"keys\":[]}")), Some((302, "")), Some((200, "<html>")), None] {
        match trouble {
            Some((status, body)) => server.answers(status, body),
            None => server.hang_up(),
        }
        // Nobody can tell whether there is such a key now; and this looks at the address for certain.
        assert!(is_unavailable(authority.verify(&new.token()).await), "{trouble:?}");
        assert!(opens(&authority, &old.token()).await, "{trouble:?}");
    }
    server.publish(&[new.jwk()]);
    assert!(opens(&authority, &new.token()).await);
    assert!(!opens(&authority, &old.token()).await);
}

/// Whether such a key exists, nobody can tell during an outage; what no key would mend is refused all the same.
#[tokio::test]
async fn tokens_that_no_key_would_mend_are_refused_during_an_outage() {
    let (old, unknown) = (Signer::new("ed25519.pem", "old"), Signer::new("p256.pem", "new"));
    let server = KeyServer::start(&[old.jwk()]);
    let authority = authority_with(&server, 86_400, |settings| settings.jwt.issuer = Some("us".to_owned())).await;
    server.hang_up();
    let exp = 4_000_000_000_u64;
    for kid in [None, Some("new".to_owned())] {
        let token = |claims: Value| {
            let header = Header { kid: kid.clone(), ..Header::new(unknown.algorithm) };
            jsonwebtoken::encode(&header, &claims, &unknown.key).unwrap()
        };
        assert!(is_unavailable(authority.verify(&token(json!({ "sub": "ada", "exp": exp, "iss": "us" }))).await));
        for bad in [
            json!({ "sub": "ada", "exp": 1_000_000_000, "iss": "us" }),
            json!({ "sub": "ada", "exp": exp, "nbf": exp, "iss": "us" }),
            json!({ "sub": "ada", "exp": exp, "iss": "them" }),
            json!({ "sub": "ada", "exp": exp }),
            json!({ "sub": " ", "exp": exp, "iss": "us" }),
            json!({ "exp": exp, "iss": "us" }),
            json!("nonsense"),
        ] {
            let verified = authority.verify(&token(bad.clone())).await;
            assert!(matches!(verified, Err(VerifyError::Refused(_))), "{kid:?} {bad}: {verified:?}");
        }
    }
}

#[tokio::test]
async fn address_away_at_the_start_is_no_refusal() {
    let signer = Signer::new("ed25519.pem", "a");
    let server = KeyServer::start(&[]);
    server.hang_up();
    let secret = "a secret of the tests, long enough for HS256";
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.secret = Secret::parse(secret);
    settings.jwt.jwks_url = Url::parse(&server.url(), &["http"]);
    let authority = Arc::new(Authority::from_settings(&settings).unwrap());
    tokio::spawn(authority.clone().keep_keys());
    assert!(is_unavailable(authority.verify(&signer.token()).await));
    // Keys from elsewhere don't depend on it.
    let claims = json!({ "sub": "ada", "exp": 4_000_000_000_u64 });
    let own = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
    assert!(opens(&authority, &own).await);
    server.publish(&[signer.jwk()]);
    assert!(opens(&authority, &signer.token()).await);
}

#[tokio::test]
async fn made_up_kids_cost_few_looks() {
    let signer = Signer::new("ed25519.pem", "a");
    let server = KeyServer::start(&[signer.jwk()]);
    let authority = authority(&server).await;
    let (before, started) = (server.asked(), Instant::now());
    let forger = Signer { kid: "a", key: ed25519(9), algorithm: Algorithm::EdDSA };
    let storm: Vec<_> = (0..500)
        .map(|number| {
            let token = match number % 2 {
                0 => signer.token_with(Some(&format!("made-up-{number}"))),
                _ => forger.token_until(Some("a"), 4_000_000_000 + number),
            };
            let authority = authority.clone();
            tokio::spawn(async move { authority.verify(&token).await.is_err() })
        })
        .collect();
    // Those whose key is known don't wait for the others.
    assert!(opens(&authority, &signer.token()).await);
    for one in storm {
        assert!(one.await.unwrap());
    }
    for known in [signer.token_with(Some("made-up-0")), forger.token_until(Some("a"), 4_000_000_001)] {
        for _ in 0..20 {
            assert!(!opens(&authority, &known).await);
        }
    }
    let looks = server.asked() - before;
    assert!((1..=2 + started.elapsed().as_secs()).contains(&looks), "{looks} looks in {:?}", started.elapsed());
}

#[tokio::test]
async fn published_set_has_no_secret() {
    let remote = Signer::new("p256.pem", "theirs");
    let server = KeyServer::start(&[remote.jwk()]);
    let authority = authority_with(&server, 86_400, |settings| {
        settings.jwt.secret = Secret::parse("a secret of the tests, long enough for HS256");
        let key_file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name);
        settings.jwt.private_key = Some(key_file("ed25519.pem"));
        settings.jwt.public_keys = vec![key_file("ed25519.pub.pem"), key_file("rsa.pub.pem")];
    })
    .await;
    let text = authority.public_keys();
    let set: Value = serde_json::from_str(&text).unwrap();
    let keys = set["keys"].as_array().unwrap();
    let said = |name: &str| keys.iter().map(|key| key[name].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(said("kty"), ["OKP", "RSA", "EC"]);
    assert_eq!(said("alg"), ["EdDSA", "RS256", "ES256"]);
    assert_eq!(said("kid")[2], "theirs");
    assert_eq!(said("use"), ["sig"; 3]);
    assert!(keys.iter().all(|key| ["d", "k", "p"].iter().all(|private| key.get(private).is_none())), "{text}");
    // Who has the set alone accepts what is issued here.
    let issued = authority.issue_at(
        &carillon_platform::auth::IssueRequest { sub: "ada".to_owned(), ttl_s: 60, grants: None, info: None },
        1_700_000_000_000,
    );
    let kid = jsonwebtoken::decode_header(&issued.unwrap().token).unwrap().kid.unwrap();
    assert!(said("kid").contains(&kid.as_str()));
}

#[test]
fn senseless_addresses_stop_the_start() {
    for (url, part) in [("http://user:pass@a/keys", "without user and password"), ("https://a b", "")] {
        let Some(url) = Url::parse(url, &["http", "https"]) else { continue };
        let mut settings = Settings::defaults(Program::Auth);
        settings.jwt.jwks_url = Some(url);
        let error = Authority::from_settings(&settings).err().unwrap().to_string();
        assert!(error.contains("jwt.jwks_url") && error.contains(part) && !error.contains("pass@"), "{error}");
    }
}
