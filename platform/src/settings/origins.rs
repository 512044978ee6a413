//! Which web pages a browser may connect from (RFC 6454). Compared whole and exactly: no wildcards, no suffixes, since
//! those are how allow-lists get holes.

/// The allow-list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    exact: Vec<String>,
    any_localhost_port: bool,
}

impl Origins {
    /// Whether a browser that sends this `Origin` header is let in. `null` (sandboxed frames, files) never is.
    pub fn allows(&self, origin: &str) -> bool {
        self.exact.iter().any(|allowed| allowed == origin) || self.any_localhost_port && is_localhost(origin)
    }

    /// Whether no browser can get in.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && !self.any_localhost_port
    }

    /// Lets in pages of this machine on any port, as `carillon dev` does: whatever port a front end's tooling picks.
    pub fn allow_any_localhost_port(&mut self) {
        self.any_localhost_port = true;
    }

    /// Adds one, as a browser would send it. The error says what was expected.
    pub fn allow(&mut self, origin: &str) -> Result<(), String> {
        check(origin)?;
        if !self.exact.iter().any(|known| known == origin) {
            self.exact.push(origin.to_owned());
        }
        Ok(())
    }
}

fn is_localhost(origin: &str) -> bool {
    let Some(host) = origin.strip_prefix("http://") else { return false };
    ["localhost", "127.0.0.1"].iter().any(|local| match host.strip_prefix(local) {
        Some("") => true,
        Some(port) => port.strip_prefix(':').is_some_and(is_port),
        None => false,
    })
}

fn is_port(text: &str) -> bool {
    !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Anything that a browser would never send is refused: it could not match, and nobody would see why.
fn check(origin: &str) -> Result<(), String> {
    let expected = |hint: &str| Err(format!("scheme://host or scheme://host:port, such as https://app.example.com{hint}"));
    if origin.contains('*') {
        return expected("; wildcards are not supported, name each origin");
    }
    let Some((scheme, rest)) = origin.split_once("://") else { return expected("") };
    if rest.contains('/') {
        return expected("; an origin has no path and no slash at the end");
    }
    if origin.bytes().any(|b| b.is_ascii_uppercase()) {
        return expected("; browsers send it in lower case");
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let default_port = matches!((scheme, port), ("http", Some("80")) | ("https", Some("443")));
    if default_port {
        return expected("; browsers leave the scheme's own port out");
    }
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    let name = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && name(host),
    };
    if !(scheme_fits && host_fits && port.is_none_or(is_port)) {
        return expected("");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(list: &[&str]) -> Origins {
        let mut origins = Origins::default();
        list.iter().for_each(|origin| origins.allow(origin).unwrap());
        origins
    }

    #[test]
    fn only_exact_origins_match() {
        let origins = origins(&["https://app.example.com", "http://[::1]:3000", "capacitor://localhost"]);
        for allowed in ["https://app.example.com", "http://[::1]:3000", "capacitor://localhost"] {
            assert!(origins.allows(allowed), "{allowed}");
        }
        for refused in [
            "null",
            "",
            "https://example.com",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.net",
            "https://evil-app.example.com",
            "https://app.example.com/",
            "http://localhost",
        ] {
            assert!(!origins.allows(refused), "{refused}");
        }
    }

    #[test]
    fn dev_allows_any_localhost_port() {
        let mut origins = Origins::default();
        assert!(!origins.allows("http://localhost:5173"));
        origins.allow_any_localhost_port();
        for allowed in ["http://localhost", "http://localhost:5173", "http://127.0.0.1:1"] {
            assert!(origins.allows(allowed), "{allowed}");
        }
        for refused in [
            "null",
            "https://localhost:5173",
            "http://localhost.evil.net",
            "http://localhost:5173.evil.net",
            "http://localhost:",
            "http://localhost:99999",
            "http://127.0.0.12",
        ] {
            assert!(!origins.allows(refused), "{refused}");
        }
    }

    #[test]
    fn unsendable_origins_are_refused() {
        for bad in [
            "*",
            "null",
            "app.example.com",
            "https://*.example.com",
            "http://localhost:*",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://me@app.example.com",
            "https://app.example.com:0",
            "https://app.example.com?x",
            "https://",
            "://a",
            "https://bücher.example",
        ] {
            assert!(Origins::default().allow(bad).is_err(), "{bad}");
        }
    }
}
