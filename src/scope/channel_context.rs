//! The context of agreements: channels with their schemas, from declarations or from a router.
//!
//! Owns the reading. A channel's provider may ask a router with its own certificate: it is a party to every agreement.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use platform::client::{Client, send_json};
use platform::clock::now;
use platform::identity::{Identity, IdentityFiles};
use router::declarations::Declared;
use schemas::agreement::{Agreement, Status};
use schemas::avro::compatibility::{Level, judge};
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::{AgreementNumber, ChannelName};
use schemas::key::KeyDeriver;
use schemas::publish::ChannelAgreements;
use schemas::time::Millis;
use scope::compile::{Age, Terms};
use scope::secret::NetworkSecret;

/// Where to look.
#[derive(Debug, clap::Args)]
pub struct ChannelContextArgs {
    /// A folder of declarations, as a router's configuration names it.
    #[arg(long, value_name = "DIR", required_unless_present = "router")]
    declared: Option<PathBuf>,
    /// A router, as `https://host:port`, for the provider of the channel.
    #[arg(long, value_name = "URL", conflicts_with = "declared", requires = "identity")]
    router: Option<String>,
    /// The provider's certificate; the key is expected beside it as `<stem>-key.pem`, the authority as `ca.pem`.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

/// A channel, its schemas, and the agreements on it that have not ended.
#[derive(Debug)]
pub struct ChannelContext {
    pub channel: Channel,
    pub agreements: Vec<Agreement>,
    /// The subject's schemas, by version from 1.
    schemas: Vec<AvroSchema>,
    suspended: BTreeSet<AgreementNumber>,
}

/// Hashes are compiled here but never computed: any secret will do.
pub(super) fn any_secret() -> anyhow::Result<NetworkSecret> {
    Ok(NetworkSecret::new(vec![0; 32])?)
}

impl ChannelContextArgs {
    /// All declared channels; from a router only the named ones.
    pub async fn read(&self, channels: &[ChannelName]) -> anyhow::Result<Vec<ChannelContext>> {
        match (&self.declared, &self.router, &self.identity) {
            (Some(dir), _, _) => {
                let Declared { channels, agreements, .. } = Declared::read(dir)?;
                let is_astray =
                    |agreement: &&Agreement| !channels.iter().any(|it| it.name == agreement.channel);
                if let Some(agreement) = agreements.iter().find(is_astray) {
                    anyhow::bail!(
                        "agreement {}: there is no channel {}",
                        agreement.number,
                        agreement.channel
                    );
                }
                channels.into_iter().map(|channel| ChannelContext::declared(channel, &agreements)).collect()
            }
            (None, Some(router), Some(identity)) => {
                anyhow::ensure!(
                    !channels.is_empty(),
                    "name at least one draft: a router is only asked about the channels of the drafts"
                );
                let identity = Identity::load(&IdentityFiles::beside(identity))?;
                let client = Client::new(router, &identity)?;
                let mut contexts = Vec::new();
                for channel in channels {
                    let path = format!("/v1/channels/{channel}/agreements");
                    let answer = send_json::<ChannelAgreements>(client.get(&path)).await;
                    contexts.push(ChannelContext::answered(
                        answer.with_context(|| format!("channel {channel}"))?,
                    )?);
                }
                Ok(contexts)
            }
            (None, _, _) => anyhow::bail!("give --declared, or --router with --identity"),
        }
    }
}

impl ChannelContext {
    fn declared(channel: Channel, agreements: &[Agreement]) -> anyhow::Result<Self> {
        let schema = AvroSchema::from_json(channel.schema.clone())
            .with_context(|| format!("channel {}: its schema", channel.name))?;
        let agreements = agreements.iter().filter(|agreement| agreement.channel == channel.name);
        let agreements = agreements.cloned().collect();
        let suspended = BTreeSet::new();
        Ok(Self { agreements, schemas: vec![schema], channel, suspended })
    }

    fn answered(answer: ChannelAgreements) -> anyhow::Result<Self> {
        let schemas = answer.schemas.into_iter().map(AvroSchema::from_json).collect::<Result<_, _>>()?;
        let is_over = |status: Status| matches!(status, Status::Revoked | Status::Expired);
        let agreements: Vec<_> =
            answer.agreements.into_iter().filter(|status| !is_over(status.status)).collect();
        let suspended = agreements.iter().filter(|status| status.status == Status::Suspended);
        let suspended = suspended.map(|status| status.agreement.number.clone()).collect();
        let agreements = agreements.into_iter().map(|status| status.agreement).collect();
        Ok(Self { channel: answer.channel, agreements, schemas, suspended })
    }

    /// Why an agreement gives nothing now, whatever its terms; nothing where it is in force.
    pub fn idle(&self, agreement: &Agreement) -> Option<String> {
        let at = now();
        if self.suspended.contains(&agreement.number) {
            Some("it is suspended".to_owned())
        } else if agreement.is_valid_at(at) {
            None
        } else if at < Millis::from(agreement.valid_from) {
            Some(format!("it is not valid before {}", agreement.valid_from))
        } else {
            agreement.valid_to.map(|to| format!("it was valid until {to}"))
        }
    }

    /// The same reason in brackets, to follow a consumer's name.
    pub fn idle_in_brackets(&self, agreement: &Agreement) -> String {
        self.idle(agreement).map_or_else(String::new, |why| format!(" (gives nothing now: {why})"))
    }

    /// Why a router would refuse a schema at its default level; an error where it can be no schema of the channel at
    /// all.
    pub fn refuses(&self, proposed: &AvroSchema) -> anyhow::Result<Option<String>> {
        ChangeCodec::new(proposed)?;
        KeyDeriver::new(&self.channel.key, proposed)?;
        Ok(judge(Level::Backward, &self.schemas, proposed).err().map(|error| error.to_string()))
    }

    /// The schema that an agreement was written against. Declarations have only the newest.
    pub fn schema(&self, agreement: &Agreement) -> anyhow::Result<&AvroSchema> {
        let version = agreement.schema_version;
        let index = usize::try_from(version.get()).ok().and_then(|version| version.checked_sub(1));
        let found = match self.schemas.as_slice() {
            [only] => Some(only),
            all => index.and_then(|index| all.get(index)),
        };
        found.with_context(|| {
            format!(
                "agreement {}: channel {} has no schema version {version}",
                agreement.number, self.channel.name
            )
        })
    }

    pub fn newest(&self) -> anyhow::Result<&AvroSchema> {
        self.schemas.last().with_context(|| format!("channel {} has no schema", self.channel.name))
    }

    /// Judges an agreement on the schema that it was written against.
    pub fn with_terms<T>(
        &self,
        agreement: &Agreement,
        judge: impl FnOnce(&Terms<'_>) -> T,
    ) -> anyhow::Result<T> {
        let schema = self.schema(agreement)?;
        self.with_writer(agreement, schema, Age::Same, judge)
    }

    /// Judges an agreement on records in another schema.
    pub fn with_writer<T>(
        &self,
        agreement: &Agreement,
        writer: &AvroSchema,
        age: Age,
        judge: impl FnOnce(&Terms<'_>) -> T,
    ) -> anyhow::Result<T> {
        let agreed = self.schema(agreement)?;
        let secret = any_secret()?;
        Ok(judge(&Terms { agreed, writer, age, key: &self.channel.key, secret: &secret }))
    }
}
