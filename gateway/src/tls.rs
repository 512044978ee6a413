//! TLS of the public port, where no proxy in front of it ends TLS: a certificate and its key from two files, looked at now and
//! then, so that whoever renews them restarts nothing. Connections that are there keep what they began with.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use carillon_platform::{
    pem::{self, BadPem},
    settings,
};
use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::wire::Wire;

/// What browsers and other clients are offered (ALPN, RFC 7301), the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Takes clients that speak TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    files: Arc<Files>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    every: Duration,
}

/// What the files hold.
type Texts = (String, String);

impl Tls {
    /// As `tls.*` say; `None` without them.
    ///
    /// # Errors
    /// If a file can't be used, or the two don't belong together; the text names the setting.
    pub fn from_settings(settings: &settings::Tls) -> Result<Option<Self>, BadPem> {
        let texts = pem::read_identity(["tls.cert", "tls.key"], settings.cert.as_deref(), settings.key.as_deref())?;
        let (Some(texts), Some(cert), Some(key)) = (texts, settings.cert.clone(), settings.key.clone()) else { return Ok(None) };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let identity = identity(&texts, &provider)?;
        let shown = Arc::new(Shown { identity: RwLock::new(Arc::new(identity)), texts: RwLock::new(texts), provider });
        let mut config = ServerConfig::builder_with_provider(shown.provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has what these versions need")
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let files = Arc::new(Files { cert, key, every: Duration::from_millis(settings.reload_ms) });
        Ok(Some(Self { acceptor: Arc::new(config).into(), shown, files }))
    }

    /// The handshake.
    pub(crate) async fn accept(&self, socket: TcpStream) -> io::Result<Wire> {
        let (socket, tls) = self.acceptor.accept(socket).await?.into_inner();
        Wire::tls(socket, tls)
    }

    /// Looks at the files for as long as it is polled. What can't be used changes nothing and is told once: one of the files may
    /// be newer than the other for a moment.
    pub async fn keep(self) {
        let mut told = None;
        loop {
            tokio::time::sleep(self.files.every).await;
            let tls = self.clone();
            let looked = tokio::task::spawn_blocking(move || tls.look()).await;
            let problem = looked.unwrap_or(Ok(())).err().map(|problem| problem.to_string());
            if let Some(problem) = problem.as_ref().filter(|problem| told.as_ref() != Some(*problem)) {
                tracing::error!(%problem, "the certificate that clients are shown stays the old one");
            }
            told = problem;
        }
    }

    fn look(&self) -> Result<(), BadPem> {
        let texts = (pem::read("tls.cert", &self.files.cert)?, pem::read("tls.key", &self.files.key)?);
        if texts == *self.shown.texts.read() {
            return Ok(());
        }
        let identity = identity(&texts, &self.shown.provider)?;
        *self.shown.identity.write() = Arc::new(identity);
        *self.shown.texts.write() = texts;
        tracing::info!(cert = %self.files.cert.display(), "new clients are shown a new certificate");
        Ok(())
    }
}

/// What clients are shown now.
struct Shown {
    identity: RwLock<Arc<CertifiedKey>>,
    texts: RwLock<Texts>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.identity.read().clone())
    }
}

fn identity((cert, key): &Texts, provider: &CryptoProvider) -> Result<CertifiedKey, BadPem> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| BadPem::new("tls.cert", error.to_string()))?;
    if chain.is_empty() {
        return Err(BadPem::new("tls.cert", "expected a certificate, and there is none in the file"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| BadPem::new("tls.key", "expected one private key (PKCS #8, PKCS #1 or SEC 1)"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => BadPem::new("tls.key", "it is not the key of the certificate in tls.cert"),
        other => BadPem::new("tls.key", other.to_string()),
    })
}
