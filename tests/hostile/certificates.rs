//! Certificates that no honest authority would issue, or that another one did.

use std::time::Duration;

use platform::client::{Client, ClientError, send};
use platform::identity::Identity;
use platform::pki::Subject;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use schemas::error_code::ErrorCode;
use support::network::{Network, Stream, refusal};
use support::site::Site;

use crate::daily_site;

const AGENT: &str = "spiffe://test.dit/participant/9000/agent/main";

struct Forger {
    authority_pem: String,
    key_pem: String,
    base: String,
}

impl Forger {
    fn of(site: &Site) -> Self {
        platform::identity::install_crypto();
        let read = |name: &str| std::fs::read_to_string(site.path("pki").join(name)).unwrap();
        Self { authority_pem: read("ca.pem"), key_pem: read("ca-key.pem"), base: site.agents() }
    }

    /// The router's answer to a certificate that its own authority has signed.
    async fn asked(&self, params: CertificateParams) -> Result<(), ClientError> {
        let key = KeyPair::generate().unwrap();
        let issuer =
            Issuer::from_ca_cert_pem(&self.authority_pem, KeyPair::from_pem(&self.key_pem).unwrap()).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let authority = self.authority_pem.clone().into_bytes();
        let identity =
            Identity::from_pem(certificate.into_bytes(), key.serialize_pem().into_bytes(), authority);
        send(Client::new(&self.base, &identity).unwrap().get("/v1/me")).await.map(drop)
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn named(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_one_of_ours_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let site = daily_site::site(dir.path());
    let _router = daily_site::start(&site, "router");
    let forger = Forger::of(&site);
    forger.asked(named(&[uri(AGENT)])).await.unwrap();
    let dns = SanType::DnsName(Ia5String::try_from("agent.example").unwrap());
    forger.asked(named(&[dns.clone(), uri(AGENT), uri("https://example.org/about")])).await.unwrap();
    let foreign: [(&str, Vec<SanType>); 9] = [
        ("no name", vec![]),
        ("a DNS name alone", vec![dns]),
        ("two agents", vec![uri(AGENT), uri("spiffe://test.dit/participant/4000/agent/main")]),
        ("an agent and an operator", vec![uri("spiffe://test.dit/operator/o"), uri(AGENT)]),
        (
            "one of ours, and one that cannot be read",
            vec![uri("spiffe://test.dit/participant/%39000"), uri(AGENT)],
        ),
        ("another domain's", vec![uri("spiffe://evil.dit/participant/9000/agent/main")]),
        ("a domain that begins like ours", vec![uri("spiffe://test.dit.evil/participant/9000/agent/main")]),
        ("somebody before our domain", vec![uri("spiffe://anna@test.dit/participant/9000/agent/main")]),
        ("more behind the name", vec![uri(&format!("{AGENT}/../other")), uri(&format!("{AGENT}?x#y"))]),
    ];
    for (what, names) in foreign {
        let code = refusal(forger.asked(named(&names)).await).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        assert_eq!(code, ErrorCode::CertificateForeign, "{what}");
    }
    // The handshake itself refuses these.
    let mut for_servers = named(&[uri(AGENT)]);
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut early = named(&[uri(AGENT)]);
    early.not_before = rcgen::date_time_ymd(2099, 1, 1);
    let mut authority = named(&[uri(AGENT)]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for (what, params) in
        [("for servers alone", for_servers), ("not valid yet", early), ("an authority of its own", authority)]
    {
        let outcome = forger.asked(params).await;
        assert!(matches!(outcome, Err(ClientError::Unreachable(_))), "{what}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_the_certificate_that_opened_it() {
    let network = Network::opened().await.unwrap();
    let subject = Subject::Agent("9000/main".parse().unwrap());
    let soon = std::time::SystemTime::now() + Duration::from_secs(4);
    let issued = network.authority.issue_until(&subject, soon).unwrap();
    let identity = network.authority.identity_of(issued).unwrap();
    let base = format!("https://{}", network.router.address());
    let client = Client::new(&base, &identity).unwrap();
    let mut stream = Stream::open(&client, "A-1", "latest").await.unwrap();
    // Without the certificate's end, it would stay open.
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.until(|_| false)).await.unwrap();
    assert!(std::time::SystemTime::now() >= soon - Duration::from_secs(1), "{ended:?}");
    assert!(matches!(send(client.get("/v1/me")).await, Err(ClientError::Unreachable(_))));
}
