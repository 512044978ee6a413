//! Requests that we make of others: HTTP/1.1, over TLS with the system's roots where the address says so. No redirects: where something
//! is, is the operator's to say, not a server's. No pool: what is asked for now and then needs no connection in between.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Uri,
    client::conn::http1,
    header::{HOST, USER_AGENT},
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

use crate::settings::Url;

/// Where something is.
pub struct Place {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Place {
    /// Goes to no network yet.
    ///
    /// # Errors
    /// For whoever wrote the address.
    pub fn at(url: &Url) -> Result<Self, String> {
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

    /// Host and port.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether what is asked is hidden on the way.
    pub fn is_secret(&self) -> bool {
        self.tls.is_some()
    }

    /// `GET`, and the status and body of the answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn get(&self, headers: &[(&str, &str)], limit: usize, patience: Duration) -> Result<(u16, Bytes), String> {
        self.ask(Method::GET, headers, Bytes::new(), limit, patience).await
    }

    /// `POST`, and the status of the answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn post(&self, headers: &[(&str, &str)], body: Bytes, limit: usize, patience: Duration) -> Result<u16, String> {
        Ok(self.ask(Method::POST, headers, body, limit, patience).await?.0)
    }

    /// Asks once, and reads the answer up to `limit` bytes; `patience` is for all of it: the look-up of the name, the connection,
    /// the answer.
    async fn ask(
        &self,
        method: Method,
        headers: &[(&str, &str)],
        body: Bytes,
        limit: usize,
        patience: Duration,
    ) -> Result<(u16, Bytes), String> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, self.uri.authority().expect("`at` has seen one").as_str())
            .header(USER_AGENT, concat!("carillon/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| format!("HTTP: {error}"))?;
        let asked = tokio::time::timeout(patience, self.connect_and_ask(request, limit)).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
    }

    async fn connect_and_ask(&self, request: Request<Full<Bytes>>, limit: usize) -> Result<(u16, Bytes), String> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await;
        let socket = socket.map_err(|error| format!("can't connect: {error}"))?;
        match &self.tls {
            Some((connector, name)) => {
                let socket = connector.connect(name.clone(), socket).await.map_err(|error| format!("TLS: {error}"))?;
                exchange(socket, request, limit).await
            }
            None => exchange(socket, request, limit).await,
        }
    }
}

async fn exchange(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<(u16, Bytes), String> {
    let failed = |error: hyper::Error| format!("HTTP: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), limit).collect().await;
        Ok((status, body.map_err(|error| format!("HTTP: {error}"))?.to_bytes()))
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
