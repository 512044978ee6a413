//! Which tokens hold and which don't, by hand-made ones and a clock moved by hand.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use carillon_auth::Authority;
use carillon_platform::{
    auth::{IssueError, IssueRequest, VerifyError},
    settings::{Program, Secret, Settings},
};
use carillon_proto::claims::{Claims, Grant, Operation};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

const SECRET: &str = "a secret of the tests, long enough for HS256";
const NOW_S: u64 = 1_700_000_000;

fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(key_file(name)).unwrap()
}

fn settings() -> Settings {
    Settings::defaults(Program::AllInOne)
}

fn with_secret() -> Settings {
    let mut settings = settings();
    settings.jwt.secret = Secret::parse(SECRET);
    settings
}

fn with_public_keys() -> Settings {
    let mut settings = with_secret();
    settings.jwt.public_keys = ["rsa.pub.pem", "p256.pub.pem", "ed25519.pub.pem"].map(key_file).to_vec();
    settings
}

fn authority(settings: &Settings) -> Authority {
    Authority::from_settings(settings).unwrap()
}

/// A signed token with exactly this header and these claims, whatever they are.
fn signed(header: &Value, claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> String {
    signed_text(&header.to_string(), &claims.to_string(), algorithm, key)
}

fn signed_text(header: &str, claims: &str, algorithm: Algorithm, key: &EncodingKey) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn by_secret(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), claims, Algorithm::HS256, &key)
}

fn good_claims() -> Value {
    json!({ "sub": "ada", "exp": NOW_S + 60 })
}

/// The good claims with some changed; `null` takes one out.
fn claims(changed: Value) -> Value {
    let mut claims = good_claims();
    let object = claims.as_object_mut().unwrap();
    object.extend(changed.as_object().unwrap().clone());
    object.retain(|_, value| !value.is_null());
    claims
}

fn verify(settings: &Settings, token: &str) -> Result<Claims, VerifyError> {
    authority(settings).verify_at(token, NOW_S * 1000)
}

fn assert_refused(settings: &Settings, what: &str, token: &str, why: &str) {
    match verify(settings, token) {
        Err(VerifyError::Refused(text)) => assert!(text.contains(why), "{what}: refused since {text:?}, not {why:?}"),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn good_token_holds() {
    let token = by_secret(&claims(json!({ "aud": "anyone", "iss": "anyone", "info": { "name": "Ada" }, "more": 1 })));
    let claims = verify(&with_secret(), &token).unwrap();
    assert_eq!((claims.sub.as_str(), claims.exp), ("ada", NOW_S + 60));
    assert_eq!(claims.info.unwrap().get(), r#"{"name":"Ada"}"#);
    assert_eq!(claims.grants, None);
}

#[test]
fn broken_tokens_are_refused() {
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let hs256 = json!({ "alg": "HS256" });
    let good = by_secret(&good_claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let unsigned =
        |header: Value| format!("{}.{}.", URL_SAFE_NO_PAD.encode(header.to_string()), message.split_once('.').unwrap().1);
    let with_header = |header: &str| signed_text(header, &good_claims().to_string(), Algorithm::HS256, &secret);
    let with_claims = |text: &str| signed_text(&hs256.to_string(), text, Algorithm::HS256, &secret);
    let long_sub = "x".repeat(124);
    let other_key = EncodingKey::from_secret(b"another secret, also long enough for HS256");

    for (what, token, why) in [
        ("none", String::new(), "no token"),
        ("garbage", "garbage".to_owned(), "header"),
        ("three dots", "..".to_owned(), "header"),
        ("four parts", format!("{good}.x"), ""),
        ("blank around", format!(" {good}"), "header"),
        ("oversize", by_secret(&claims(json!({ "x": "x".repeat(8192) }))), "longer than limits.token_bytes"),
        ("alg none", unsigned(json!({ "alg": "none" })), "header"),
        ("alg None", unsigned(json!({ "alg": "None" })), "header"),
        ("no alg", with_header("{}"), "header"),
        ("no signature", unsigned(hs256.clone()), "signature"),
        ("cut signature", format!("{message}.{}", &signature[..20]), ""),
        ("header not JSON", with_header("{\"alg\":"), "header"),
        ("header a list", with_header("[\"HS256\"]"), "header"),
        ("header not base64", format!("!{good}"), "header"),
        ("other algorithm of the family", signed(&json!({ "alg": "HS512" }), &good_claims(), Algorithm::HS512, &secret), "HS512"),
        ("critical header", with_header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#), "critical"),
        ("wrong key", signed(&hs256, &good_claims(), Algorithm::HS256, &other_key), "no key made this signature"),
        ("claims not JSON", with_claims("sub=ada"), ""),
        ("claims a list", with_claims("[]"), ""),
        ("sub twice", with_claims(r#"{"sub":"ada","sub":"eve","exp":1800000000}"#), "duplicate"),
        ("no sub", by_secret(&claims(json!({ "sub": null }))), "sub"),
        ("empty sub", by_secret(&claims(json!({ "sub": "" }))), "sub is empty"),
        ("long sub", by_secret(&claims(json!({ "sub": long_sub }))), "sub is longer"),
        ("sub with a line break", by_secret(&claims(json!({ "sub": "a\nb" }))), "sub has a control"),
        ("sub with a space", by_secret(&claims(json!({ "sub": " ada" }))), "sub has a leading"),
        ("sub a number", by_secret(&claims(json!({ "sub": 7 }))), ""),
        ("no exp", by_secret(&claims(json!({ "exp": null }))), "exp"),
        ("exp a text", by_secret(&claims(json!({ "exp": "tomorrow" }))), ""),
        ("expired", by_secret(&claims(json!({ "exp": NOW_S - 5 }))), "expired"),
        ("not valid yet", by_secret(&claims(json!({ "nbf": NOW_S + 6 }))), "not valid yet"),
        ("grants a text", by_secret(&claims(json!({ "grants": "all" }))), ""),
    ] {
        assert_refused(&with_secret(), what, &token, why);
    }
}

#[test]
fn info_that_is_no_object_is_ignored() {
    for info in [json!("Ada"), json!(["Ada"]), json!(7), Value::Null] {
        let token = by_secret(&{
            let mut claims = good_claims();
            claims["info"] = info.clone();
            claims
        });
        assert!(verify(&with_secret(), &token).unwrap().info.is_none(), "{info}");
    }
}

#[test]
fn algorithms_cannot_be_confused() {
    let settings = with_public_keys();
    for (name, alg) in [("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")] {
        // The public key is known to all; whoever takes it for an HMAC secret lets everybody in.
        let public = EncodingKey::from_secret(&pem(&format!("{name}.pub.pem")));
        let forged = signed(&json!({ "alg": "HS256" }), &good_claims(), Algorithm::HS256, &public);
        assert_refused(&settings, name, &forged, "no key made this signature");
        let relabelled = signed(&json!({ "alg": alg }), &good_claims(), Algorithm::HS256, &public);
        assert_refused(&settings, alg, &relabelled, "");
        let kid = format!("{name}.pub");
        let named = signed(&json!({ "alg": "HS256", "kid": kid }), &good_claims(), Algorithm::HS256, &public);
        assert_refused(&settings, &kid, &named, "no key made this signature");
    }
    let mut without_secret = settings;
    without_secret.jwt.secret = None;
    assert_refused(&without_secret, "HS256 without a secret", &by_secret(&good_claims()), "no key is for the algorithm HS256");
}

#[test]
fn each_public_key_checks_its_own() {
    let settings = with_public_keys();
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.pem")).unwrap();
    let p256 = EncodingKey::from_ec_pem(&pem("p256.pem")).unwrap();
    let ed25519 = EncodingKey::from_ed_pem(&pem("ed25519.pem")).unwrap();
    for (name, key, alg, algorithm) in [
        ("rsa.pub", rsa.clone(), "RS256", Algorithm::RS256),
        ("p256.pub", p256, "ES256", Algorithm::ES256),
        ("ed25519.pub", ed25519, "EdDSA", Algorithm::EdDSA),
    ] {
        let token = |header: Value| signed(&header, &good_claims(), algorithm, &key);
        assert!(verify(&settings, &token(json!({ "alg": alg }))).is_ok(), "{alg}");
        assert!(verify(&settings, &token(json!({ "alg": alg, "kid": name }))).is_ok(), "{alg} with its file's name");
        assert_refused(&settings, alg, &token(json!({ "alg": alg, "kid": "other" })), "kid");
        assert_refused(&with_secret(), alg, &token(json!({ "alg": alg })), "no key is for the algorithm");
    }
    let stronger = signed(&json!({ "alg": "RS512" }), &good_claims(), Algorithm::RS512, &rsa);
    assert_refused(&settings, "RS512", &stronger, "no key is for the algorithm RS512");
}

#[test]
fn kid_does_not_matter_for_the_secret() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = signed(&json!({ "alg": "HS256", "kid": "whatever" }), &good_claims(), Algorithm::HS256, &key);
    assert!(verify(&with_public_keys(), &token).is_ok());
}

#[test]
fn times_have_leeway() {
    let authority = authority(&with_secret());
    let token = by_secret(&claims(json!({ "nbf": NOW_S })));
    let holds = |now_ms: u64| authority.verify_at(&token, now_ms).is_ok();
    let (begin_ms, end_ms) = ((NOW_S - 5) * 1000, (NOW_S + 60 + 5) * 1000);
    assert!(!holds(begin_ms - 1) && holds(begin_ms));
    assert!(holds(end_ms - 1) && !holds(end_ms));
    assert!(authority.verify_at(&by_secret(&claims(json!({ "exp": 8.9e15 }))), NOW_S * 1000).is_ok());
}

#[test]
fn issuer_and_audience_are_checked() {
    let mut settings = with_secret();
    settings.jwt.issuer = Some("https://id.example".to_owned());
    settings.jwt.audience = Some("carillon".to_owned());
    let verified = |iss: Value, aud: Value| verify(&settings, &by_secret(&claims(json!({ "iss": iss, "aud": aud })))).is_ok();
    let iss = json!("https://id.example");
    assert!(verified(iss.clone(), json!("carillon")));
    assert!(verified(iss.clone(), json!(["other", "carillon"])));
    for (iss, aud) in [
        (json!("https://evil.example"), json!("carillon")),
        (Value::Null, json!("carillon")),
        (json!(7), json!("carillon")),
        (iss.clone(), json!("other")),
        (iss.clone(), json!([])),
        (iss.clone(), json!(7)),
        (iss, Value::Null),
    ] {
        assert!(!verified(iss.clone(), aud.clone()), "{iss} {aud}");
    }
}

#[test]
fn long_lives_are_refused() {
    let mut settings = with_secret();
    settings.jwt.max_ttl_s = Some(60);
    let verified = |changed: Value| verify(&settings, &by_secret(&claims(changed))).is_ok();
    assert!(verified(json!({})));
    assert!(verified(json!({ "iat": NOW_S, "exp": NOW_S + 60 })));
    assert!(!verified(json!({ "exp": NOW_S + 66 })));
    assert!(!verified(json!({ "iat": NOW_S - 10 })));
    let error = authority(&settings).issue_at(&request(61), NOW_S * 1000).unwrap_err();
    assert!(matches!(error, IssueError::Invalid(text) if text.contains("60")));
}

#[test]
fn default_grants_fill_in() {
    let grants = vec![Grant { rooms: vec!["chat:*".to_owned()], can: vec![Operation::Join] }];
    let mut settings = with_secret();
    settings.jwt.default_grants = Some(grants.clone());
    assert_eq!(verify(&settings, &by_secret(&good_claims())).unwrap().grants, Some(grants));
    assert_eq!(verify(&settings, &by_secret(&claims(json!({ "grants": [] })))).unwrap().grants, Some(vec![]));
}

fn request(ttl_s: u64) -> IssueRequest {
    IssueRequest { sub: "ada".to_owned(), ttl_s, grants: None, info: None }
}

#[test]
fn issued_tokens_say_what_was_asked() {
    let mut settings = with_secret();
    settings.jwt.issuer = Some("i".to_owned());
    settings.jwt.audience = Some("a".to_owned());
    let request = IssueRequest {
        grants: Some(json!([{ "rooms": ["*"], "can": ["join"] }])),
        info: Some(json!({ "name": "Ada" })),
        ..request(3600)
    };
    let authority = authority(&settings);
    let issued = authority.issue_at(&request, NOW_S * 1000 + 999).unwrap();
    assert_eq!(issued.expires_at_ms, (NOW_S + 3600) * 1000);
    let claims = authority.verify_at(&issued.token, NOW_S * 1000 + 999).unwrap();
    assert_eq!((claims.sub.as_str(), claims.iat, claims.exp), ("ada", Some(NOW_S), NOW_S + 3600));
    assert_eq!((claims.iss.as_deref(), claims.info.unwrap().get()), (Some("i"), r#"{"name":"Ada"}"#));
    assert_eq!(claims.grants.unwrap()[0].can, [Operation::Join]);
    let again = authority.issue_at(&request, NOW_S * 1000).unwrap();
    let again = authority.verify_at(&again.token, NOW_S * 1000).unwrap();
    assert!(claims.jti.is_some() && claims.jti != again.jti);
}

#[test]
fn private_keys_sign_and_check() {
    for (name, algorithm) in [("rsa", Algorithm::RS256), ("p256", Algorithm::ES256), ("ed25519", Algorithm::EdDSA)] {
        let mut settings = with_secret();
        settings.jwt.private_key = Some(key_file(&format!("{name}.pem")));
        let issued = authority(&settings).issue_at(&request(60), NOW_S * 1000).unwrap();
        let header = jsonwebtoken::decode_header(&issued.token).unwrap();
        assert_eq!(header.alg, algorithm);
        assert!(verify(&settings, &issued.token).is_ok(), "{name}");
        // Another process that has only the public half accepts it by the same kid.
        settings.jwt.private_key = None;
        settings.jwt.public_keys = vec![key_file(&format!("{name}.pub.pem"))];
        assert!(header.kid.is_some() && verify(&settings, &issued.token).is_ok(), "{name}");
    }
}

#[test]
fn senseless_requests_are_refused() {
    let authority = authority(&with_secret());
    let invalid = |request: IssueRequest| matches!(authority.issue_at(&request, NOW_S * 1000), Err(IssueError::Invalid(_)));
    assert!(!invalid(request(1)));
    assert!(invalid(request(0)));
    assert!(invalid(request(u64::MAX)));
    assert!(invalid(IssueRequest { sub: " ".to_owned(), ..request(1) }));
    assert!(invalid(IssueRequest { info: Some(json!("Ada")), ..request(1) }));
    assert!(invalid(IssueRequest { info: Some(json!({ "x": "x".repeat(8192) })), ..request(1) }));
    for grants in [json!({}), json!([{ "rooms": ["*"] }]), json!([{ "rooms": ["*"], "can": ["fly"] }])] {
        assert!(invalid(IssueRequest { grants: Some(grants), ..request(1) }));
    }
    let mut only_public = settings();
    only_public.jwt.public_keys = vec![key_file("rsa.pub.pem")];
    let error = self::authority(&only_public).issue_at(&request(1), NOW_S * 1000);
    assert!(matches!(error, Err(IssueError::Unavailable(_))));
}

#[test]
fn key_errors_name_the_setting() {
    let with = |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        Authority::from_settings(&settings).err().unwrap().to_string()
    };
    assert!(with(|_| {}).contains("set jwt.secret"));
    assert!(with(|settings| settings.jwt.public_keys = vec!["/nowhere.pem".into()]).contains("jwt.public_keys: /nowhere.pem"));
    for (file, part) in [
        ("README.md", "found no PEM"),
        ("rsa.pem", "found BEGIN PRIVATE KEY"),
        ("p384.pub.pem", "P-256"),
        ("rsa1024.pub.pem", "2048"),
    ] {
        let mut settings = settings();
        settings.jwt.public_keys = vec![key_file(file)];
        let error = Authority::from_settings(&settings).err().unwrap().to_string();
        assert!(error.contains(part) && error.contains("jwt.public_keys"), "{error}");
    }
    let error = with(|settings| settings.jwt.private_key = Some(key_file("rsa.pub.pem")));
    assert!(error.contains("jwt.private_key") && error.contains("found BEGIN PUBLIC KEY"), "{error}");
}
