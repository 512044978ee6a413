//! Who is believed: the keys of the settings, and a token by them.

use carillon_auth::{Authority, dev_key};
use carillon_platform::{
    auth::{TokenVerifier as _, VerifyError},
    settings::Settings,
};

use super::Findings;

pub(super) async fn look(settings: &Settings, token: Option<&str>, found: &mut Findings) {
    let jwt = &settings.jwt;
    let mut settings = settings.clone();
    let is_set = jwt.secret.is_some() || jwt.private_key.is_some() || !jwt.public_keys.is_empty() || jwt.jwks_url.is_some();
    if !is_set {
        if settings.nats.url.is_some() {
            return found.well("keys", "none here: they are the auth service's");
        }
        if !settings.data_dir.join("dev-key").exists() {
            let mend = "no key to check tokens with: set jwt.secret (32 bytes or more, `openssl rand -hex 32` makes one), \
                        jwt.public_keys, jwt.private_key or jwt.jwks_url";
            return found.wrong("keys", mend);
        }
        match dev_key(&settings.data_dir) {
            Ok(key) => settings.jwt.secret = Some(key),
            Err(error) => return found.wrong("keys", error.to_string()),
        }
        let text = "only the one that `carillon dev` made: `carillon serve` does not start with it; set jwt.secret";
        found.doubtful("keys", text);
    }
    let authority = match Authority::from_settings(&settings) {
        Ok(authority) => authority,
        Err(error) => return found.wrong("keys", error.to_string()),
    };
    if is_set {
        match settings.jwt.secret.as_ref().filter(|secret| is_guessable(secret.expose())) {
            Some(_) => found.wrong("keys", "jwt.secret is easily guessed: make another one by chance, `openssl rand -hex 32`"),
            None => found.well("keys", "they can be read"),
        }
    }
    let Some(token) = token else { return };
    authority.wait_for_keys(Authority::KEYS_PATIENCE).await;
    match authority.verify(token.trim()).await {
        Ok(claims) => found.well("token", format!("it is accepted, as {:?}", claims.sub)),
        Err(VerifyError::Refused(why)) => {
            let mend =
                "sign it with one of the keys here (`carillon token` does), for jwt.issuer and jwt.audience where they are set";
            found.wrong("token", format!("it is refused, {why}: {mend}"));
        }
        Err(VerifyError::Unavailable(why)) => {
            found.wrong("token", format!("it can't be checked, {why}: see that jwt.jwks_url answers"));
        }
    }
}

/// Texts of few different characters, and those that examples use.
fn is_guessable(secret: &str) -> bool {
    let mut different: Vec<char> = secret.chars().collect();
    different.sort_unstable();
    different.dedup();
    let lower = secret.to_ascii_lowercase();
    different.len() < 8 || ["changeme", "change-me", "change_me", "password", "12345678"].iter().any(|it| lower.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_examples_are_guessed() {
        for secret in ["a".repeat(40), "please-change-me-please-change-me".into(), "0123456789012345678901234567890123".into()] {
            assert!(is_guessable(&secret), "{secret}");
        }
        assert!(!is_guessable("9c1185a5c5e9fc54612808977ee8f548b2258d31"));
    }
}
