//! `dit check`: checks files before they are put into use.
//!
//! Owns how a file's kind is found from its keys, and the comparison of declarations with a router's agreements. It
//! changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use consumer_agent::sink::postgres::{MOST_FIELDS, PostgresTarget};
use platform::client::{Client, send_json};
use platform::config;
use platform::identity::{Identity, IdentityFiles, Peer};
use router::declarations::Declared;
use router::declarations::check::{self, Checked};
use schemas::agreement::{Agreement, Status};
use schemas::avro::schema::AvroSchema;
use schemas::channel::Channel;
use schemas::publish::AgreementStatus;
use scope::secret::NetworkSecret;
use serde::de::IgnoredAny;

/// `dit check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// What to check: router.toml (with its declared folder), producer.toml, consumer.toml, a channel's or an
    /// agreement's JSON, a schema, or a folder of declarations, whose files are checked against each other.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A router's admin listener, as `https://host:port`: folders of declarations are compared with what is in force there.
    #[arg(long, requires = "identity")]
    router: Option<String>,
    /// An operator's certificate for it; the key is expected beside it as `<stem>-key.pem`, the authority as `ca.pem`.
    #[arg(long, requires = "router")]
    identity: Option<PathBuf>,
}

/// Checks each file; whether all are good.
pub async fn run(args: &CheckArgs) -> anyhow::Result<bool> {
    let mut good = true;
    for file in &args.files {
        match check_file(file) {
            Ok(kind) => platform::say!("{}: a good {kind}", file.display()),
            Err(problems) => {
                good = false;
                problems.iter().for_each(|problem| platform::complain!("{problem:#}"));
            }
        }
    }
    let Some((router, identity)) = args.router.as_deref().zip(args.identity.as_deref()) else {
        return Ok(good);
    };
    let client = Client::new(router, &Identity::load(&IdentityFiles::beside(identity))?)?;
    let in_force: Vec<AgreementStatus> = send_json(client.get("/v1/agreements")).await?;
    let folders: Vec<&PathBuf> = args.files.iter().filter(|file| file.is_dir()).collect();
    if folders.is_empty() {
        bail!("--router needs a folder of declarations to compare; name the folder");
    }
    for folder in folders {
        let drift = drift(&Declared::read(folder)?, &in_force);
        good &= drift.is_empty();
        match drift.is_empty() {
            true => platform::say!(
                "{}: no difference from the {} agreement(s) at {router}, ended ones included",
                folder.display(),
                in_force.len()
            ),
            false => drift.iter().for_each(|line| platform::say!("{}: {line}", folder.display())),
        }
    }
    Ok(good)
}

/// The differences between a folder and the agreements in force, in words.
fn drift(declared: &Declared, in_force: &[AgreementStatus]) -> Vec<String> {
    let mut lines = Vec::new();
    for status in in_force {
        let number = &status.agreement.number;
        match declared.agreements.iter().find(|agreement| agreement.number == *number) {
            None if status.status == Status::Active => {
                lines.push(format!("{number} is in force and not declared: revoke it, or declare it"));
            }
            // It has ended for good, whatever version is declared.
            Some(_) if matches!(status.status, Status::Revoked | Status::Expired) => lines.push(format!(
                "{number} is declared, but it is {} at the router: the file has no effect",
                status.status
            )),
            Some(agreement) if agreement.version > status.agreement.version => lines.push(format!(
                "{number} is declared in version {}, in force is {}: the router takes it at its next start",
                agreement.version, status.agreement.version
            )),
            Some(agreement) if agreement.version < status.agreement.version => lines.push(format!(
                "{number} is declared in version {}, in force is {}: the file is old",
                agreement.version, status.agreement.version
            )),
            Some(_) if status.status == Status::Suspended => lines.push(format!(
                "{number} is declared, but it is suspended at the router: the file has no effect"
            )),
            Some(agreement) if *agreement != status.agreement => {
                lines.push(format!(
                    "{number} is declared with other terms than those in force, but in the same version: raise the version in the file"
                ));
            }
            _ => {}
        }
    }
    for agreement in &declared.agreements {
        if !in_force.iter().any(|status| status.agreement.number == agreement.number) {
            let number = &agreement.number;
            lines.push(format!(
                "{number} is declared, but the router does not know it: start the router again; if it was started since, its log says why"
            ));
        }
    }
    lines
}

/// The kind of a file, or everything that is wrong with it.
fn check_file(file: &Path) -> Result<String, Vec<anyhow::Error>> {
    if file.is_dir() {
        // Hashes are compiled here but never computed: any secret will do.
        let secret = NetworkSecret::new(vec![0; 32]).map_err(|error| vec![error.into()])?;
        return check_folder(file, &secret);
    }
    let kind = check_one(file).map_err(|error| vec![error])?;
    if let Some((dir, secret)) = kind.declared {
        check_folder(&dir, &secret)?;
    }
    Ok(kind.words)
}

/// A folder of declarations, or each of its files that is wrong.
fn check_folder(dir: &Path, secret: &NetworkSecret) -> Result<String, Vec<anyhow::Error>> {
    let checked = check::check(dir, secret).map_err(|error| vec![error.into()])?;
    let Checked { participants, channels, agreements, unseen, problems, passed_over } = checked;
    if !problems.is_empty() {
        return Err(problems.into_iter().map(Into::into).collect());
    }
    let others: Vec<String> = passed_over.iter().map(|path| path.display().to_string()).collect();
    let others =
        if others.is_empty() { String::new() } else { format!("; not looked at: {}", others.join(", ")) };
    if participants + channels + agreements == 0 {
        return Err(vec![anyhow::anyhow!(
            "{}: it declares nothing; participants.toml, channels/*.json and agreements/*.json are looked for{others}",
            dir.display()
        )]);
    }
    let mut kind = format!(
        "folder of declarations: {participants} participant(s), {channels} channel(s), {agreements} agreement(s)"
    );
    if unseen > 0 {
        let _ = write!(
            kind,
            "; rows and fields of {unseen} were not checked, as only a router knows the schema version that they name"
        );
    }
    kind.push_str(&others);
    Ok(kind)
}

/// The kind of a single file.
struct Kind {
    words: String,
    /// The declarations that it names, and the secret to compile them with.
    declared: Option<(PathBuf, NetworkSecret)>,
}

impl From<&str> for Kind {
    fn from(words: &str) -> Self {
        Self { words: words.to_owned(), declared: None }
    }
}

fn check_one(file: &Path) -> anyhow::Result<Kind> {
    let named = || file.display().to_string();
    if file.extension().is_some_and(|extension| extension == "json" || extension == "avsc") {
        return check_json(file).map(Kind::from);
    }
    let keys: BTreeMap<String, IgnoredAny> = config::load(file)?;
    let has = |names: &[&str]| names.iter().any(|name| keys.contains_key(*name));
    let kind = if has(&["log_dir", "network_secret", "admin_listen", "kafka", "declared"]) {
        let declared = check_router(file)?;
        return Ok(Kind { declared, ..Kind::from("router configuration") });
    } else if has(&["drop_dir", "schema", "channel", "guard", "format", "drop"]) {
        let producer = producer_agent::config::ProducerConfig::read(file)?;
        producer.format.check().with_context(named)?;
        AvroSchema::parse(&config::read(&producer.schema)?)
            .with_context(|| producer.schema.display().to_string())?;
        let endpoint = producer.http.as_ref().map_or(Ok(()), producer_agent::endpoint::EndpointConfig::check);
        endpoint.with_context(named)?;
        let name = check_name(&producer.identity, &producer.domain)?;
        if !matches!(name, Peer::Agent(_)) {
            bail!("{}: the certificate names {name}, not an agent of a participant", file.display());
        }
        "producer configuration"
    } else if has(&["data_dir", "agreement", "reconcile_every"]) {
        let consumer = consumer_agent::config::ConsumerConfig::read(file)?;
        Identity::load(&consumer.identity)?;
        for agreement in &consumer.agreement {
            let target = agreement.postgres.as_ref().map_or(Ok(()), PostgresTarget::check);
            target.with_context(|| format!("{}: agreement {}", file.display(), agreement.number))?;
        }
        "consumer configuration"
    } else {
        let found: Vec<&str> = keys.keys().map(String::as_str).collect();
        bail!(
            "{}: its keys ({}) fit no router, producer or consumer configuration",
            file.display(),
            found.join(", ")
        );
    };
    Ok(kind.into())
}

/// The name in a certificate that fits its key and the authorities.
fn check_name(files: &IdentityFiles, domain: &str) -> anyhow::Result<Peer> {
    let name = Identity::load(files)?.own_name(domain);
    name.with_context(|| files.certificate.display().to_string())
}

fn check_router(file: &Path) -> anyhow::Result<Option<(PathBuf, NetworkSecret)>> {
    let router = router::config::RouterConfig::read(file)?;
    let secret = router.secret(file)?;
    router.log(file)?;
    let name = check_name(&router.identity, &router.domain)?;
    if !matches!(name, Peer::Router(_)) {
        bail!("{}: the certificate names {name}, not a router", file.display());
    }
    Ok(router.declared.map(|dir| (dir, secret)))
}

fn check_json(file: &Path) -> anyhow::Result<&'static str> {
    let named = || file.display().to_string();
    let keys: BTreeMap<String, IgnoredAny> = config::load_json(file)?;
    if keys.contains_key("number") {
        let agreement = config::load_json::<Agreement>(file)?;
        agreement.validate().with_context(named)?;
        Ok(match agreement.fields.len() > MOST_FIELDS {
            true => {
                "agreement, checked on its own; it has more fields than a table of PostgreSQL takes: it can only be received into files"
            }
            false => {
                "agreement, checked on its own; its rows and fields were not checked: check the folder of declarations, or run dit scope lint"
            }
        })
    } else if keys.contains_key("type") {
        AvroSchema::parse(&config::read(file)?)
            .map_err(anyhow::Error::from)
            .and_then(|schema| Ok(schema.record().map(drop)?))
            .with_context(named)?;
        Ok("schema of a subject")
    } else {
        config::load_json::<Channel>(file)?.validate().with_context(named)?;
        Ok("channel")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement(number: &str, version: u32, rows: &str) -> Agreement {
        serde_json::from_value(serde_json::json!({"number": number, "version": version, "provider": "1", "consumer": "2",
            "channel": "c", "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full",
            "schema_version": 1, "rows": rows, "fields": {"k": "keep"}}))
        .unwrap()
    }

    #[test]
    fn what_differs_is_told() {
        let force = |agreement: Agreement, status: Status| AgreementStatus {
            agreement,
            status,
            reason: String::new(),
        };
        let in_force = [
            force(agreement("same", 1, "true"), Status::Active),
            force(agreement("removed", 1, "true"), Status::Active),
            force(agreement("revoked", 1, "true"), Status::Revoked),
            force(agreement("newer", 1, "true"), Status::Active),
            force(agreement("older", 2, "true"), Status::Active),
            force(agreement("other", 1, "false"), Status::Active),
            force(agreement("ended", 1, "true"), Status::Revoked),
            force(agreement("raised", 1, "true"), Status::Revoked),
        ];
        let declared =
            ["same", "older", "other", "fresh", "ended"].map(|number| agreement(number, 1, "true"));
        let agreements = declared
            .into_iter()
            .chain(["newer", "raised"].map(|number| agreement(number, 2, "true")))
            .collect();
        let lines = drift(&Declared { agreements, ..Declared::default() }, &in_force);
        for (number, words) in [
            ("removed", "not declared"),
            ("newer", "takes it at its next start"),
            ("older", "the file is old"),
            ("other", "raise the version in the file"),
            ("fresh", "the router does not know it"),
            ("ended", "revoked at the router: the file has no effect"),
            ("raised", "revoked at the router: the file has no effect"),
        ] {
            assert!(
                lines.iter().any(|line| line.starts_with(number) && line.contains(words)),
                "{number}: {lines:?}"
            );
        }
        assert_eq!(lines.len(), 7);
    }
}
