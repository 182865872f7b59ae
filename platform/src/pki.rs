//! A development PKI: an authority and the certificates of a network's parts.
//!
//! For demos, tests and first steps; a production network has its own authority. Keys are never logged.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use schemas::ids::AgentId;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, PeerError};

/// A year: long enough for trials, short enough that no network relies on it.
pub const DEFAULT_VALIDITY: Duration = Duration::from_hours(24 * 365);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// The folder has the authority of another network.
    #[error("{path} is the authority of {found}, not of {asked}: give --domain {found}, or another --dir")]
    OtherDomain {
        /// The authority's certificate.
        path: String,
        /// Whose it is.
        found: String,
        /// Whose was asked for.
        asked: String,
    },
    /// The name would not be accepted as a name of the network.
    #[error("{name:?} is no name of this network ({error}): use letters, digits, '.', '_' and '-'")]
    Name {
        /// The refused name.
        name: String,
        /// The error that a reader of the certificate would get.
        error: PeerError,
    },
    /// A file could not be written or read.
    #[error("{path}: {error}")]
    File {
        path: String,
        /// The system's error.
        error: std::io::Error,
    },
}

/// Whose certificate to make.
#[derive(Debug, Clone)]
pub enum Subject {
    /// An agent of a participant.
    Agent(AgentId),
    Operator(String),
    /// A router, with the DNS names and addresses that it is reached by.
    Router {
        name: String,
        /// DNS names and IP addresses.
        hosts: Vec<String>,
    },
}

/// The authority's common name is this text and its domain.
const NAME: &str = "dit development authority of ";

impl Subject {
    fn path(&self) -> String {
        match self {
            Self::Agent(id) => format!("participant/{}/agent/{}", id.participant, id.agent),
            Self::Operator(name) => format!("operator/{name}"),
            Self::Router { name, .. } => format!("router/{name}"),
        }
    }
}

/// A certificate authority of a trust domain.
pub struct Authority {
    domain: String,
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new(domain: &str) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("{NAME}{domain}"));
        let key = KeyPair::generate()?;
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self { domain: domain.to_owned(), certificate_pem, key_pem, issuer: Issuer::new(params, key) })
    }

    /// Reads the authority in `dir`, or makes a new one and writes it there.
    pub fn open_or_create(dir: &Path, domain: &str) -> Result<Self, PkiError> {
        let file = |path: &Path| {
            let path = path.display().to_string();
            move |error| PkiError::File { path, error }
        };
        let certificate = dir.join("ca.pem");
        let key = dir.join("ca-key.pem");
        if certificate.exists() {
            let certificate_pem = std::fs::read_to_string(&certificate).map_err(file(&certificate))?;
            if let Some(found) = domain_of(&certificate_pem).filter(|found| found != domain) {
                let path = certificate.display().to_string();
                return Err(PkiError::OtherDomain { path, found, asked: domain.to_owned() });
            }
            let key_pem = std::fs::read_to_string(&key).map_err(file(&key))?;
            let issuer = Issuer::from_ca_cert_pem(&certificate_pem, KeyPair::from_pem(&key_pem)?)?;
            return Ok(Self { domain: domain.to_owned(), certificate_pem, key_pem, issuer });
        }
        let authority = Self::new(domain)?;
        std::fs::create_dir_all(dir).map_err(file(dir))?;
        std::fs::write(&certificate, &authority.certificate_pem).map_err(file(&certificate))?;
        write_secret(&key, &authority.key_pem)?;
        Ok(authority)
    }

    /// The domain of the authority in `dir`; `None` if there is none, or it is not a development authority.
    pub fn domain_in(dir: &Path) -> Option<String> {
        domain_of(&std::fs::read_to_string(dir.join("ca.pem")).ok()?)
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a certificate that is valid for [`DEFAULT_VALIDITY`].
    pub fn issue(&self, subject: &Subject) -> Result<Issued, PkiError> {
        self.issue_until(subject, SystemTime::now() + DEFAULT_VALIDITY)
    }

    /// Makes a certificate that is valid until a time.
    pub fn issue_until(&self, subject: &Subject, until: SystemTime) -> Result<Issued, PkiError> {
        let mut params = match subject {
            Subject::Router { hosts, .. } => CertificateParams::new(hosts.clone())?,
            _ => CertificateParams::default(),
        };
        let uri = format!("spiffe://{}/{}", self.domain, subject.path());
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        params.distinguished_name.push(DnType::CommonName, subject.path());
        params.extended_key_usages = match subject {
            Subject::Router { .. } => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            _ => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.not_after = until.into();
        let key = KeyPair::generate()?;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// Makes a certificate, as an identity that trusts this authority.
    pub fn identity(&self, subject: &Subject) -> Result<Identity, PkiError> {
        self.identity_of(self.issue(subject)?)
    }

    /// An issued certificate as an identity that trusts this authority.
    pub fn identity_of(&self, issued: Issued) -> Result<Identity, PkiError> {
        Ok(Identity::from_pem(
            issued.certificate_pem.into_bytes(),
            issued.key_pem.into_bytes(),
            self.certificate_pem.clone().into_bytes(),
        ))
    }

    /// Makes a certificate and writes it to `dir`, as `<stem>.pem` and `<stem>-key.pem`.
    pub fn issue_to(&self, dir: &Path, stem: &str, subject: &Subject) -> Result<(), PkiError> {
        let issued = self.issue(subject)?;
        self.identity_of(issued.clone())?
            .own_name(&self.domain)
            .map_err(|error| PkiError::Name { name: subject.path(), error })?;
        let certificate = dir.join(format!("{stem}.pem"));
        std::fs::write(&certificate, issued.certificate_pem)
            .map_err(|error| PkiError::File { path: certificate.display().to_string(), error })?;
        write_secret(&dir.join(format!("{stem}-key.pem")), &issued.key_pem)
    }
}

fn domain_of(certificate_pem: &str) -> Option<String> {
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    name.strip_prefix(NAME).map(str::to_owned)
}

fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    let wrong = |error| PkiError::File { path: path.display().to_string(), error };
    crate::closed::write(path, text).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Peer;

    #[test]
    fn what_is_issued_names_its_subject_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path(), "dit.lv").unwrap();
        let again = Authority::open_or_create(dir.path(), "dit.lv").unwrap();
        assert_eq!(authority.certificate_pem(), again.certificate_pem());
        let id: AgentId = "4000/main".parse().unwrap();
        let identity = again.identity(&Subject::Agent(id.clone())).unwrap();
        assert_eq!(identity.own_name("dit.lv"), Ok(Peer::Agent(id)));
        assert!(identity.own_name("elsewhere.lv").is_err());
        assert_eq!(Authority::domain_in(dir.path()).as_deref(), Some("dit.lv"));
        let other =
            Authority::open_or_create(dir.path(), "elsewhere.lv").err().map(|error| error.to_string());
        let other = other.unwrap_or_default();
        assert!(other.ends_with("not of elsewhere.lv: give --domain dit.lv, or another --dir"), "{other}");
        let wrong = authority.issue_to(dir.path(), "operator-a", &Subject::Operator("a/b".to_owned()));
        assert!(matches!(wrong, Err(PkiError::Name { .. })), "{wrong:?}");
        let spaced = authority.issue_to(dir.path(), "operator-a b", &Subject::Operator("a b".to_owned()));
        assert!(matches!(spaced, Err(PkiError::Name { .. })), "{spaced:?}");
        assert!(!dir.path().join("operator-a.pem").exists());
    }
}
