//! One small document over HTTP, or over HTTPS with the system's roots. No redirects: where keys come from is the
//! operator's to say, not a server's. No pool: what is asked for every half a minute needs no connection in between.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_platform::settings::Url;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{ACCEPT, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};

/// For all of it: the look-up of the name, the connection, the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest document. A set of four RSA keys with certificate chains is some 20 KiB.
const DOCUMENT_BYTES: usize = 256 * 1024;

/// Where a document is, and how it is got.
pub(crate) struct Document {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Document {
    /// Goes to no network yet. The error is for whoever wrote the address.
    pub(crate) fn at(url: &Url) -> Result<Self, String> {
        let uri: Uri = url.as_str().parse().map_err(|error| format!("expected a URL: {error}"))?;
        let authority = uri.authority().ok_or("expected a host")?;
        if authority.as_str().contains('@') {
            return Err("expected an address without user and password".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_https = uri.scheme_str() == Some("https");
        let tls = if is_https {
            let name = ServerName::try_from(host.clone()).map_err(|error| format!("expected a host name: {error}"))?;
            Some((TlsConnector::from(Arc::new(tls_config()?)), name))
        } else {
            None
        };
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { host, port, tls, uri })
    }

    /// Its bytes now.
    pub(crate) async fn fetch(&self) -> Result<Bytes, String> {
        let fetched = tokio::time::timeout(TIMEOUT, self.connect_and_ask()).await;
        fetched.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")))
    }

    async fn connect_and_ask(&self) -> Result<Bytes, String> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await;
        let socket = socket.map_err(|error| format!("can't connect: {error}"))?;
        match &self.tls {
            Some((connector, name)) => {
                let socket = connector.connect(name.clone(), socket).await.map_err(|error| format!("TLS: {error}"))?;
                self.ask(socket).await
            }
            None => self.ask(socket).await,
        }
    }

    async fn ask(&self, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Bytes, String> {
        let failed = |error: hyper::Error| format!("HTTP: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
        let request = Request::get(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, self.uri.authority().expect("`at` has seen one").as_str())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("carillon/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("HTTP: {error}"))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            if response.status() != StatusCode::OK {
                return Err(format!("expected the answer 200, found {}", response.status()));
            }
            let body = Limited::new(response.into_body(), DOCUMENT_BYTES).collect().await;
            Ok(body.map_err(|error| format!("HTTP: {error}"))?.to_bytes())
        };
        // The connection ends with the answer; it does nothing by itself unless it is polled.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(failed(error)),
            },
        }
    }
}

fn tls_config() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(format!("the system has no root certificates for https (SSL_CERT_FILE names others): {:?}", found.errors));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
