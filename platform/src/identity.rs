//! Who a process is, and who its peer is: certificates and the names in them.
//!
//! Owns the SAN URI's form (`spiffe://<domain>/participant/<number>/agent/<name>`) and the TLS configurations made from
//! PEM files. TLS is always mutual: there is no configuration without a client certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use schemas::ids::AgentId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Three PEM files: who we are and whom we trust.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
    /// The authorities whose certificates are accepted.
    pub authorities: PathBuf,
}

impl IdentityFiles {
    /// The paths that `dit pki` uses: `<stem>-key.pem` and `ca.pem`, in the certificate's folder.
    pub fn beside(certificate: &Path) -> Self {
        let dir = certificate.parent().unwrap_or_else(|| Path::new("."));
        let stem = certificate.file_stem().unwrap_or_default().to_string_lossy();
        Self {
            certificate: certificate.to_owned(),
            key: dir.join(format!("{stem}-key.pem")),
            authorities: dir.join("ca.pem"),
        }
    }

    pub fn paths_mut(&mut self) -> [&mut PathBuf; 3] {
        [&mut self.certificate, &mut self.key, &mut self.authorities]
    }
}

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read as PEM.
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    /// Our own certificate has run out.
    #[error("{path}: the certificate was good until {until}; have a new one issued and put it there")]
    Expired {
        path: PathBuf,
        /// Its last moment.
        until: String,
    },
    /// Others can read the key.
    #[error(transparent)]
    Open(#[from] crate::closed::Open),
    /// The key is another certificate's.
    #[error(
        "{key} is not the key of the certificate in {certificate}: name the key that was made with it; the certificate must be the first in its file"
    )]
    OtherKey { certificate: PathBuf, key: PathBuf },
    /// The parts do not make a TLS configuration.
    #[error("the identity does not fit together: {0}")]
    Tls(String),
}

#[derive(Clone)]
pub struct Identity {
    chain_pem: Vec<u8>,
    key_pem: Vec<u8>,
    authorities_pem: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// An agent of a participant.
    Agent(AgentId),
    /// An operator of the network, who may use the admin API.
    Operator(String),
    Router(String),
}

/// A certificate whose names are not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No certificate, or one that cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It has no name of this network.
    #[error("the certificate names nobody of {domain}; its SAN URIs are [{found}]")]
    Foreign {
        /// Our trust domain.
        domain: String,
        /// What it names.
        found: String,
    },
    /// It has several names of this network, or further URIs that look like one.
    #[error("the certificate has {count} names of {domain}, it must have one: its SAN URIs are [{found}]")]
    Ambiguous {
        /// Our trust domain.
        domain: String,
        /// How many URIs begin like a name of ours.
        count: usize,
        /// What it names.
        found: String,
    },
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(id) => write!(f, "agent {id}"),
            Self::Operator(name) => write!(f, "operator {name}"),
            Self::Router(name) => write!(f, "router {name}"),
        }
    }
}

/// Uses ring for all of rustls. Every binary calls it first; a second call changes nothing.
pub fn install_crypto() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

impl Identity {
    /// Loads the three files.
    pub fn load(files: &IdentityFiles) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|e| IdentityError::File { path: path.to_owned(), problem: e.to_string() })
        };
        crate::closed::secret(&files.key)?;
        let identity = Self {
            chain_pem: read(&files.certificate)?,
            key_pem: read(&files.key)?,
            authorities_pem: read(&files.authorities)?,
        };
        let named = |path: &Path| {
            let path = path.to_owned();
            move |problem: String| IdentityError::File { path, problem }
        };
        let chain = identity.chain().map_err(named(&files.certificate))?;
        if let Some(until) = identity.expired() {
            return Err(IdentityError::Expired { path: files.certificate.clone(), until });
        }
        let key = identity.key().map_err(named(&files.key))?;
        match CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()) {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let IdentityFiles { certificate, key, .. } = files.clone();
                return Err(IdentityError::OtherKey { certificate, key });
            }
            Err(error @ rustls::Error::InvalidCertificate(_)) => {
                return Err(named(&files.certificate)(format!("cannot be used for TLS: {error}")));
            }
            Err(error) => return Err(named(&files.key)(format!("cannot be used for TLS: {error}"))),
        }
        identity.roots().map_err(named(&files.authorities))?;
        Ok(identity)
    }

    /// An identity from PEM texts in memory.
    pub const fn from_pem(chain_pem: Vec<u8>, key_pem: Vec<u8>, authorities_pem: Vec<u8>) -> Self {
        Self { chain_pem, key_pem, authorities_pem }
    }

    /// Certificate and key in one PEM, as HTTP clients take them.
    pub(crate) fn client_pem(&self) -> Vec<u8> {
        [self.chain_pem.as_slice(), b"\n", self.key_pem.as_slice()].concat()
    }

    pub(crate) fn authorities_pem(&self) -> &[u8] {
        &self.authorities_pem
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.chain_pem)
            .collect::<Result<_, _>>()
            .map_err(|e| format!("is no PEM certificate: {e}"))?;
        if chain.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(chain) }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(&self.key_pem).map_err(|e| format!("is no PEM private key: {e}"))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.authorities_pem) {
            let certificate = certificate.map_err(|e| format!("is no PEM certificate: {e}"))?;
            roots.add(certificate).map_err(|e| e.to_string())?;
        }
        if roots.is_empty() { Err("holds no authority".to_owned()) } else { Ok(roots) }
    }

    /// A server's configuration: a client certificate of our authorities is required.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let tls = IdentityError::Tls;
        let roots = Arc::new(self.roots().map_err(tls)?);
        let verifier = WebPkiClientVerifier::builder(roots).build().map_err(|e| tls(e.to_string()))?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain().map_err(tls)?, self.key().map_err(tls)?)
            .map_err(|e| tls(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// When our own certificate expired, if it has. A peer breaks the connection without this reason.
    pub fn expired(&self) -> Option<String> {
        self.chain().ok()?.first().and_then(expired)
    }

    /// The end of our certificate's validity, in seconds since 1970.
    pub fn good_until(&self) -> Option<i64> {
        good_until(self.chain().ok()?.first()?)
    }

    /// Whom our own certificate names.
    pub fn own_name(&self, domain: &str) -> Result<Peer, PeerError> {
        let chain = self.chain().map_err(|_| PeerError::Unreadable)?;
        peer(chain.first().ok_or(PeerError::Unreadable)?, domain)
    }

    /// The trust domain of the only SPIFFE name in our own certificate.
    pub fn own_domain(&self) -> Option<String> {
        let chain = self.chain().ok()?;
        let found = uris(chain.first()?).ok()?;
        let mut domains = found.iter().filter_map(|uri| uri.strip_prefix("spiffe://")?.split('/').next());
        match (domains.next(), domains.next()) {
            (Some(only), None) => Some(only.to_owned()),
            _ => None,
        }
    }
}

/// The URIs that a certificate names.
fn uris(certificate: &[u8]) -> Result<Vec<String>, PeerError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerError::Unreadable)?;
    let names = parsed.subject_alternative_name().map_err(|_| PeerError::Unreadable)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    Ok(uris.collect())
}

/// Whom a verified certificate names in our trust domain.
pub fn peer(certificate: &[u8], domain: &str) -> Result<Peer, PeerError> {
    let found = uris(certificate)?;
    // A URI that only begins like a name of ours counts as well: no rule chooses between names.
    let prefix = format!("spiffe://{domain}/");
    let own: Vec<&str> = found.iter().map(String::as_str).filter(|uri| uri.starts_with(&prefix)).collect();
    let words = || crate::shown::value(&found.join(", "));
    let foreign = || PeerError::Foreign { domain: domain.to_owned(), found: words() };
    match own.as_slice() {
        [only] => parse_uri(only, domain).ok_or_else(foreign),
        [] => Err(foreign()),
        several => {
            Err(PeerError::Ambiguous { domain: domain.to_owned(), count: several.len(), found: words() })
        }
    }
}

/// The end of a certificate's validity, in seconds since 1970.
pub fn good_until(certificate: &[u8]) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// When a certificate expired, if it has. A certificate that cannot be read is reported where it is used.
fn expired(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let until = parsed.validity().not_after;
    let now = crate::clock::now().get() / 1_000;
    (until.timestamp() < now).then(|| until.to_string())
}

fn parse_uri(uri: &str, domain: &str) -> Option<Peer> {
    let path = uri.strip_prefix("spiffe://")?.strip_prefix(domain)?.strip_prefix('/')?;
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["participant", number, "agent", name] => {
            Some(Peer::Agent(AgentId { participant: number.parse().ok()?, agent: name.parse().ok()? }))
        }
        ["operator", name] if is_segment(name) => Some(Peer::Operator((*name).to_owned())),
        ["router", name] if is_segment(name) => Some(Peer::Router((*name).to_owned())),
        _ => None,
    }
}

/// Whether a name can be a segment of a SPIFFE ID's path (the SPIFFE ID standard, 2.2).
fn is_segment(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name != "." && name != ".." && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_domains_uris_name_a_peer() {
        let agent = parse_uri("spiffe://dit.lv/participant/4000/agent/main", "dit.lv");
        assert_eq!(agent, Some(Peer::Agent("4000/main".parse().unwrap())));
        for foreign in [
            "spiffe://dit.lv.evil/participant/4000/agent/main",
            "spiffe://other/participant/4000/agent/main",
            "spiffe://dit.lv/participant/4000/agent/main/more",
            "spiffe://dit.lv/participant/40 00/agent/main",
            "https://dit.lv/participant/4000/agent/main",
        ] {
            assert_eq!(parse_uri(foreign, "dit.lv"), None, "{foreign}");
        }
    }

    #[test]
    fn a_certificate_has_one_name_of_ours() {
        let named = |uris: &[&str]| {
            let names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
            let mut parameters = rcgen::CertificateParams::default();
            parameters.subject_alt_names = names;
            let key = rcgen::KeyPair::generate().unwrap();
            peer(parameters.self_signed(&key).unwrap().der(), "dit.lv")
        };
        let own = "spiffe://dit.lv/participant/4000/agent/main";
        let other = "spiffe://dit.lv/operator/anna";
        assert!(named(&[own, "spiffe://elsewhere/workload", "https://example.lv"]).is_ok());
        assert!(matches!(named(&[own, other]), Err(PeerError::Ambiguous { count: 2, .. })));
        // A second name that cannot be read is not ignored.
        let unreadable = named(&["spiffe://dit.lv/participant/4000", own]).unwrap_err();
        assert!(unreadable.to_string().contains("has 2 names of dit.lv"), "{unreadable}");
        assert!(matches!(named(&["spiffe://elsewhere/x"]), Err(PeerError::Foreign { .. })));
    }

    #[test]
    fn the_key_of_another_certificate_is_named_with_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let authority = crate::pki::Authority::open_or_create(dir.path(), "dit.lv").unwrap();
        for name in ["one", "two"] {
            let subject = crate::pki::Subject::Agent(format!("4000/{name}").parse().unwrap());
            authority.issue_to(dir.path(), name, &subject).unwrap();
        }
        let own = IdentityFiles::beside(&dir.path().join("one.pem"));
        assert!(Identity::load(&own).is_ok());
        let mixed = IdentityFiles { key: dir.path().join("two-key.pem"), ..own.clone() };
        let error = Identity::load(&mixed).map(drop).unwrap_err();
        let IdentityError::OtherKey { certificate, key } = &error else { panic!("{error}") };
        assert_eq!((certificate, key), (&own.certificate, &mixed.key));
        // The authority's certificate comes first in the file, so the key does not fit.
        let chain = [own.authorities.as_path(), own.certificate.as_path()]
            .map(|path| std::fs::read_to_string(path).unwrap());
        std::fs::write(&own.certificate, chain.concat()).unwrap();
        assert!(matches!(Identity::load(&own), Err(IdentityError::OtherKey { .. })));
    }

    #[test]
    fn a_file_that_is_no_pem_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["cert.pem", "key.pem", "ca.pem"] {
            crate::closed::write(&path(name), "hello").unwrap();
        }
        let files = IdentityFiles {
            certificate: path("cert.pem"),
            key: path("key.pem"),
            authorities: path("ca.pem"),
        };
        let error = Identity::load(&files).map(drop).unwrap_err().to_string();
        assert!(error.contains("cert.pem: holds no certificate"), "{error}");
    }

    #[test]
    fn a_certificate_that_has_run_out_is_named_with_its_last_day() {
        use crate::pki::{Authority, Subject};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let authority = Authority::new("dit.test").unwrap();
        let yesterday = std::time::SystemTime::now() - std::time::Duration::from_hours(24);
        let issued = authority.issue_until(&Subject::Operator("o".to_owned()), yesterday).unwrap();
        std::fs::write(path("cert.pem"), issued.certificate_pem).unwrap();
        crate::closed::write(&path("key.pem"), issued.key_pem).unwrap();
        std::fs::write(path("ca.pem"), authority.certificate_pem()).unwrap();
        let files = IdentityFiles {
            certificate: path("cert.pem"),
            key: path("key.pem"),
            authorities: path("ca.pem"),
        };
        let error = Identity::load(&files).map(drop).unwrap_err().to_string();
        assert!(error.contains("cert.pem: the certificate was good until"), "{error}");
    }
}
