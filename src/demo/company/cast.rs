//! The participants of the made-up network, and their agreements.
//!
//! Owns each agreement twice: as the router gets it, and as the verifier understands it. They are written down side by
//! side so that a reader can compare them; neither is derived from the other.

use serde_json::{Value, json};

use super::expect::{Leaves, View};

/// The register of companies' channel and provider.
pub(super) const COMPANIES: &str = "companies";
pub(super) const REGISTER: &str = "company-register";
/// The trading places' channel.
pub(super) const PLACES: &str = "trading-places";
/// The municipality that both receives and provides.
pub(super) const OGRE: &str = "ogre";
/// The municipality that is merged into another.
pub(super) const IKSKILE: &str = "ikskile";
/// The municipality that joins late.
pub(super) const RIGA: &str = "riga";
/// The consumer whose agreement is revoked.
pub(super) const BUREAU: &str = "credit-bureau";

/// A consumer and its agreement.
pub(super) struct Part {
    pub(super) participant: &'static str,
    /// Its name, for people.
    pub(super) name: &'static str,
    /// The municipality whose rows it has; `None` where it is not just one.
    pub(super) territory: Option<&'static str>,
    pub(super) provider: &'static str,
    pub(super) channel: &'static str,
    /// Purpose and legal basis.
    pub(super) purpose: (&'static str, &'static str),
    /// The row rule, as the router gets it.
    pub(super) rows: &'static str,
    /// The fields, as the router gets them.
    pub(super) fields: Value,
    /// The row rule, as the verifier understands it.
    view_rows: Option<(&'static str, &'static str)>,
    /// The fields, as the verifier understands them.
    view_fields: &'static [(&'static str, Leaves)],
}

const LOCAL: (&str, &str) = ("local planning", "Law on Local Governments, section 4");
const LOCAL_VIEW: [(&str, Leaves); 5] = [
    ("regcode", Leaves::Whole),
    ("name", Leaves::Whole),
    ("municipality", Leaves::Whole),
    ("address", Leaves::Whole),
    ("founded", Leaves::Year),
];

fn municipality(
    participant: &'static str,
    name: &'static str,
    rows: &'static str,
    territory: &'static str,
) -> Part {
    Part {
        participant,
        name,
        territory: Some(territory),
        provider: REGISTER,
        channel: COMPANIES,
        purpose: LOCAL,
        rows,
        fields: json!({"regcode": "keep", "name": "keep", "municipality": "keep", "address": "keep",
            "founded": "year"}),
        view_rows: Some(("municipality", territory)),
        view_fields: &LOCAL_VIEW,
    }
}

pub(super) fn cast() -> Vec<Part> {
    vec![
        municipality(OGRE, "Ogres novada pašvaldība", r#"municipality == "Ogres novads""#, "Ogres novads"),
        municipality(
            IKSKILE,
            "Ikšķiles novada pašvaldība",
            r#"municipality == "Ikšķiles novads""#,
            "Ikšķiles novads",
        ),
        municipality(RIGA, "Rīgas valstspilsētas pašvaldība", r#"municipality == "Rīga""#, "Rīga"),
        Part {
            participant: "tax-office",
            name: "Valsts ieņēmumu dienests",
            territory: None,
            provider: REGISTER,
            channel: COMPANIES,
            purpose: ("tax administration", "Law on Taxes and Duties, section 18"),
            rows: "true",
            fields: json!({"regcode": "keep", "name": "keep", "municipality": "keep", "founded": "keep",
                "owner": "hash"}),
            view_rows: None,
            view_fields: &[
                ("regcode", Leaves::Whole),
                ("name", Leaves::Whole),
                ("municipality", Leaves::Whole),
                ("founded", Leaves::Whole),
                ("owner", Leaves::Hashed),
            ],
        },
        Part {
            participant: BUREAU,
            name: "a credit bureau",
            territory: None,
            provider: REGISTER,
            channel: COMPANIES,
            purpose: ("credit assessment", "a contract"),
            rows: "true",
            fields: json!({"regcode": "keep", "name": "keep", "municipality": "keep", "phone": {"mask": {"keep": 3}}}),
            view_rows: None,
            view_fields: &[
                ("regcode", Leaves::Whole),
                ("name", Leaves::Whole),
                ("municipality", Leaves::Whole),
                ("phone", Leaves::Masked(3)),
            ],
        },
        Part {
            participant: "consumer-rights",
            name: "Patērētāju tiesību aizsardzības centrs",
            territory: None,
            provider: OGRE,
            channel: PLACES,
            purpose: ("market surveillance", "Consumer Rights Protection Law, section 25"),
            rows: r#"status == "open""#,
            fields: json!({"place": "keep", "address": "keep", "trade": "keep"}),
            view_rows: Some(("status", "open")),
            view_fields: &[("place", Leaves::Whole), ("address", Leaves::Whole), ("trade", Leaves::Whole)],
        },
    ]
}

impl Part {
    pub(super) fn number(&self) -> String {
        format!("A-{}", self.participant)
    }

    /// The agreement, as the router gets it; `rows` may be wider than the verifier's rule.
    pub(super) fn agreement(&self, rows: &str) -> Value {
        json!({
            "number": self.number(), "version": 1, "provider": self.provider, "consumer": self.participant,
            "channel": self.channel, "purpose": self.purpose.0, "legal_basis": self.purpose.1,
            "valid_from": "2020-01-01T00:00:00Z", "history": "full", "schema_version": 1, "rows": rows,
            "fields": self.fields,
        })
    }

    /// What the verifier expects.
    pub(super) fn view(&self, secret: &[u8]) -> View {
        View {
            rows: self.view_rows,
            fields: self.view_fields.to_vec(),
            secret: secret.to_vec(),
            number: self.number(),
        }
    }

    /// The columns of the register that never leave for this consumer.
    pub(super) fn trimmed(&self, columns: &[&str]) -> Vec<String> {
        let named = |column: &&&str| !self.view_fields.iter().any(|(field, _)| field == *column);
        columns.iter().filter(named).map(|column| (*column).to_owned()).collect()
    }
}

pub(super) fn channels() -> [Value; 2] {
    let text = |name: &str| json!({"name": name, "type": "string"});
    let personal = |name: &str| json!({"name": name, "type": "string", "classification": "personal"});
    let date = json!({"type": "int", "logicalType": "date"});
    let company = json!({"type": "record", "name": "demo.Company", "fields": [
        text("regcode"), text("name"), text("municipality"), text("address"), personal("phone"),
        {"name": "founded", "type": date}, personal("owner")]});
    let place = json!({"type": "record", "name": "demo.TradingPlace", "fields": [
        text("place"), text("company"), text("address"), text("trade"), text("status")]});
    [(COMPANIES, REGISTER, "regcode", company), (PLACES, OGRE, "place", place)].map(
        |(name, owner, key, schema)| {
            json!({"name": name, "kind": "distribution", "owner": owner, "partitions": 2,
                "key": {"fields": [key]}, "schema": schema})
        },
    )
}
