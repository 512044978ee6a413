//! Addresses of other services. They may hold a password, so that printing one hides it.

use std::fmt;

/// One URL, or several with commas between them where the setting says so.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// Takes a URL with one of the schemes, a host, and a legal port if any.
    pub fn parse(text: &str, schemes: &[&str]) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match host_and_port.rsplit_once(':') {
            // The colons of an IPv6 address stand inside brackets.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (host_and_port, None),
        };
        let plain = text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != ',');
        let legal = schemes.contains(&scheme) && !host.is_empty() && plain && port.is_none_or(|port| port.parse::<u16>().is_ok());
        legal.then(|| Self(text.to_owned()))
    }

    /// Takes one or more, separated by commas.
    pub fn parse_several(text: &str, schemes: &[&str]) -> Option<Self> {
        let urls: Option<Vec<_>> = text.split(',').map(|url| Self::parse(url.trim(), schemes).map(|url| url.0)).collect();
        urls.map(|urls| Self(urls.join(",")))
    }

    /// One from this source code.
    pub(super) fn known(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// The text, passwords included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands before the `@` of each address, user or token, is left out: also in a text that is no URL yet.
pub(super) fn without_password(text: &str) -> String {
    let hide = |url: &str| match url.rsplit_once('@') {
        Some((secret, host)) => {
            let scheme = secret.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            format!("{scheme}…@{host}")
        }
        None => url.to_owned(),
    };
    text.split(',').map(hide).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_parse_or_are_refused() {
        for good in ["nats://a", "nats://a:4222", "tls://u:p@a:1", "nats://[::1]:4222", "nats://[::1]"] {
            assert!(Url::parse(good, &["nats", "tls"]).is_some(), "{good}");
        }
        for bad in ["a:4222", "http://a", "nats://", "nats://:4222", "nats://a:port", "nats://a b", "nats://a:70000", ""] {
            assert!(Url::parse(bad, &["nats", "tls"]).is_none(), "{bad}");
        }
        assert_eq!(Url::parse_several("nats://a, nats://b", &["nats"]).unwrap().as_str(), "nats://a,nats://b");
        assert!(Url::parse_several("nats://a,", &["nats"]).is_none());
    }

    #[test]
    fn printing_hides_passwords() {
        let url = Url::parse_several("nats://me:pass@a:1,nats://t0ken@b", &["nats"]).unwrap();
        assert_eq!(format!("{url:?}"), "nats://…@a:1,nats://…@b");
    }
}
